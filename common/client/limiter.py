"""The queue of one model: calls wait here for their turn, as the pace allows."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque

from common.client.faults import Fault, ItemFailed
from common.client.pace import Pace, Ticket

_QUICK_S = 1.0  # a server's trouble that comes sooner is a refusal, as nginx's 503 is
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0


class RateLimiter:
    """Lets calls out at the pace of a model, and knows what has become of the model."""

    def __init__(self, top: int):
        self.pace = Pace(top)
        self.in_flight = 0
        self.last_life = time.monotonic()  # when words of a reply last arrived
        self.ever_reached = False  # anything has answered
        self.faults_in_a_row = 0
        self.gone = ""  # why nothing more is asked of this model, once it is out
        self._waiting: deque[asyncio.Future] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, first: bool) -> Ticket:
        """Wait for a turn, in front of the others when `first`.

        Raises Halted when the run ends meanwhile, ItemFailed when the model is out.
        """
        if self.gone:
            raise ItemFailed("provider: a model does not answer", self.gone)
        place = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(place)
        else:
            self._waiting.append(place)
        self._let_out()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave()
            raise

    def leave(self) -> None:
        """End a call."""
        self.in_flight -= 1
        self._let_out()

    def alive(self) -> None:
        """Note that words of a reply are arriving."""
        self.last_life = time.monotonic()
        self.ever_reached = True

    def succeeded(self, ticket: Ticket) -> None:
        """Note a whole reply."""
        self.alive()
        self.faults_in_a_row = 0
        self.pace.succeeded(time.monotonic(), ticket)

    def probe_passed(self) -> None:
        """Note that a one-word chat passed: what was refused were the items."""
        self.alive()
        self.faults_in_a_row = 0
        self.pace.forget_refusals()
        self._let_out()

    def failed(self, fault: Fault, ticket: Ticket) -> None:
        """Note a fault: a refusal slows the model down."""
        self.ever_reached = self.ever_reached or fault.reached
        if fault.category != "transient":
            return
        self.faults_in_a_row += 1
        now = time.monotonic()
        quick_trouble = (fault.status or 0) >= 500 and fault.took_s < _QUICK_S
        fault.refusal = fault.rate_limited or quick_trouble
        if fault.refusal:
            wait_s = fault.retry_after_s or 0.0
            self.pace.refused(now, ticket, clearly=fault.rate_limited, retry_after_s=wait_s)
        else:
            self.pace.broke(now, ticket)

    def turn_away(self, error: Exception) -> None:
        """Wake everyone who waits with this error."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(error)

    def pause_left_s(self) -> float:
        """Return how long the whole model still waits."""
        return max(0.0, self.pace.rate.next_at - time.monotonic())

    def _let_out(self) -> None:
        """Let out whoever may go now; come back when the next one may."""
        while self._waiting:
            if self._waiting[0].done():  # cancelled meanwhile
                self._waiting.popleft()
                continue
            now = time.monotonic()
            delay_s = self.pace.delay_s(now, self.in_flight)
            if delay_s > 0:
                self._come_back(delay_s)
                return
            self.in_flight += 1
            self._waiting.popleft().set_result(self.pace.sent(now, self.in_flight))

    def _come_back(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay_s < math.inf:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._let_out)


def wait_s(tries_before: int) -> float:
    """Return the wait before the next try: doubling up to a minute, half of it jitter."""
    longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(tries_before, 10))
    return longest * random.uniform(0.5, 1.0)
