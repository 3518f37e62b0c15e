"""The pace of a model against limits that it must find out, in simulated time."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable

import pytest

from common.client.pace import Pace
from tests.bench_pace import Bucket, Connections, RateAndConnections

TRIP_S = 0.003


def simulate(
    takes: Callable, calls: int, took_s: float, *, width: int = 32, lag_s: float = 0.0
) -> tuple[float, int, int]:
    """Return (seconds, refusals, most calls in flight at the server) of a whole run.

    The server's slot is free up to `lag_s` after its reply has gone out.
    """
    chance = random.Random(0)
    pace = Pace(width)
    events: list[tuple] = [(0.0, 0, "try", None)]
    now = 0.0
    number = 0
    waiting = calls
    flying = 0  # as the client counts
    running = 0  # as the server counts
    most = 0
    done = 0
    refusals = 0

    def later(delay_s: float, what: str, ticket=None) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (now + delay_s, number, what, ticket))

    while done < calls:
        now, _, what, ticket = heapq.heappop(events)
        if what == "arrive" and takes(now, running):
            running += 1
            most = max(most, running)
            later(took_s, "finish", ticket)
        elif what == "arrive":
            later(TRIP_S / 2, "refused", ticket)
        elif what == "finish":
            later(chance.random() * lag_s, "free")
            later(TRIP_S / 2, "whole", ticket)
        elif what == "free":
            running -= 1
        elif what == "whole":
            flying -= 1
            done += 1
            pace.succeeded(now, ticket)
        elif what == "refused":
            flying -= 1
            waiting += 1
            refusals += 1
            pace.refused(now, ticket)
        while waiting and flying < width:
            delay_s = pace.delay_s(now, flying)
            if delay_s > 0:
                if delay_s < math.inf:
                    later(delay_s + chance.random() / 1000, "try")  # a timer is never exact
                break
            waiting -= 1
            flying += 1
            later(TRIP_S / 2, "arrive", pace.sent(now, flying))
    return now, refusals, most


@pytest.mark.parametrize(
    "limit, calls, took_s",
    [
        (Bucket([(0, 10)], 5), 300, 0.005),
        (Bucket([(0, 10)], 5), 300, 0.3),
        (Bucket([(0, 1)], 10), 100, 0.005),
        (Connections([(0, 4)]), 240, 0.5),
        (Bucket([(0, 10), (15, 20)], 5), 300, 0.005),
        (Bucket([(0, 10), (15, 5)], 5), 300, 0.005),
        (Bucket([(0, 1), (50, 2)], 10), 120, 0.005),
        (Connections([(0, 4), (15, 8)]), 300, 0.5),
        (Connections([(0, 8), (15, 4)]), 300, 0.5),
        (RateAndConnections(10, 5, 4), 300, 0.3),
    ],
)
def test_an_unknown_limit_is_met_closely_and_with_few_refusals(limit, calls, took_s):
    seconds, refusals, _ = simulate(limit.takes, calls, took_s)
    most = 1.2 if isinstance(limit, Connections) else 1.15
    assert seconds < most * limit.ideal_s(calls, took_s)
    assert refusals < 0.12 * calls


def test_slots_that_are_free_a_moment_after_their_reply_are_no_limit_on_the_rate():
    limit = Connections([(0, 4)])
    seconds, refusals, _ = simulate(limit.takes, 300, 0.5, lag_s=0.01)
    assert seconds < 1.15 * limit.ideal_s(300, 0.5)
    assert refusals < 0.1 * 300


def test_without_a_limit_as_many_calls_fly_as_the_user_allows():
    seconds, refusals, most = simulate(lambda now, in_flight: True, 4000, 1.0, width=400)
    assert most == 400 and refusals == 0
    assert seconds < 1.7 * 4000 / 400


def test_refusals_that_have_another_cause_do_not_slow_a_model_for_good():
    chance = random.Random(1)
    seconds, _, _ = simulate(lambda now, in_flight: chance.random() > 0.2, 20_000, 0.2)
    assert seconds < 5 * 20_000 * 0.2 / 32


def test_a_dead_server_is_asked_ever_more_rarely():
    pace = Pace(32)
    now = 0.0
    sent = 0
    while now < 600:
        now += pace.delay_s(now, 0)
        ticket = pace.sent(now, 1)
        sent += 1
        now += TRIP_S
        pace.refused(now, ticket)
    assert sent < 40
