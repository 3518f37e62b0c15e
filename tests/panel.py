"""A simulated panel: what turns are worth, and how judges who are not sure see them.

A turn's lead is the duel's mean, an instance's share and its own; each metric sees it by a weight
and adds something of its own. A judge sees this through a view of the turn that it keeps however
often it is asked, and through what changes at every asking, beside a pull to one seat. A call is a
draw when the sum lies within the metric's gap. All are normal, in units of the latent scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from common.config import METRICS
from common.duel.record import new_table

# From correctness to efficiency; a further metric is like the first.
WEIGHTS = np.resize([1.0, 0.85, 1.05, 0.3, 0.65], len(METRICS))
GAPS = np.resize([0.35, 0.4, 0.28, 1.15, 0.4], len(METRICS))
METRIC = 0.45  # of a metric in a turn, whoever looks
INSTANCE = 0.45
TURN = 0.75
SEATS = np.array([-1.0, 1.0])  # challenger first, challenger second


@dataclass(frozen=True)
class Judges:
    """How sure a kind of judge is: standard deviations, and each judge's pull to the second seat.

    `view` and `detail` (of a turn, of a metric in it) stay; `mood` and `slip` are fresh each time.
    """

    view: float
    detail: float
    mood: float
    slip: float
    pulls: tuple[float, ...] = (0.2, 0.3, -0.1)


# Calls that are the same in both orders, sd of turn scores. bench_gate.py prints what they come to.
QUIET = Judges(view=0.35, detail=0.3, mood=0.2, slip=0.3)  # 0.69, 25
TYPICAL = Judges(view=0.45, detail=0.4, mood=0.45, slip=0.4)  # 0.63, 23.5
NOISY = Judges(0.65, 0.55, 0.75, 0.66, pulls=(0.3, 0.6, -0.3))  # 0.53, 20.6
KINDS = {"quiet": QUIET, "typical": TYPICAL, "noisy": NOISY}


@dataclass
class Turns:
    """Simulated turns: the instance of each, and what it is worth by metric (turns, metrics)."""

    instances: np.ndarray
    worth: np.ndarray


def make_turns(
    random: np.random.Generator, sizes: list[int], lead: float = 0.0, skewed: bool = False
) -> Turns:
    """Return turns of instances of these sizes; with `skewed` a few instances are lost badly."""
    instances = np.repeat(np.arange(len(sizes)), sizes)
    shares = random.standard_normal(len(sizes))
    if skewed:  # an exponential tail to the left, mean 0 and sd 1
        shares = 1 - random.standard_exponential(len(sizes))
    count = len(instances)
    leads = lead + INSTANCE * shares[instances] + TURN * random.standard_normal(count)
    own = METRIC * random.standard_normal((count, len(WEIGHTS)))
    return Turns(instances, leads[:, None] * WEIGHTS + own)


def views(random: np.random.Generator, turns: Turns, judges: Judges) -> np.ndarray:
    """Return what each judge of a panel makes of each turn: (turns, judges, metrics)."""
    count = len(turns.worth)
    panel = len(judges.pulls)
    view = judges.view * random.standard_normal((count, panel, 1))
    detail = judges.detail * random.standard_normal((count, panel, len(WEIGHTS)))
    return turns.worth[:, None, :] + view + detail


def ask(random: np.random.Generator, seen: np.ndarray, judges: Judges) -> np.ndarray:
    """Return half-points (turns, judges, orders, metrics) of one asking in both orders."""
    count, panel, metrics = seen.shape
    mood = judges.mood * random.standard_normal((count, panel, len(SEATS), 1))
    slip = judges.slip * random.standard_normal((count, panel, len(SEATS), metrics))
    pull = np.array(judges.pulls)[:, None, None] * SEATS[:, None]
    calls = seen[:, :, None, :] + mood + slip + pull
    return (1 + (calls > GAPS).astype(np.int8) - (calls < -GAPS)).astype(np.int8)


def judged(random: np.random.Generator, turns: Turns, judges: Judges) -> np.ndarray:
    """Return the half-points of a panel that has not seen these turns before."""
    return ask(random, views(random, turns, judges), judges)


def scores(points: np.ndarray) -> np.ndarray:
    """Return each turn's score, 0-100, of half-points that were all read."""
    return 50 * points.reshape(len(points), -1).mean(axis=1)


def quality(turns: Turns, judges: Judges) -> np.ndarray:
    """Return each turn's expected score, 0-100, by a judge of this kind not met yet, unpulled."""
    spread = math.sqrt(judges.view**2 + judges.detail**2 + judges.mood**2 + judges.slip**2)
    won = _cdf((turns.worth - GAPS) / spread)
    lost = _cdf((-turns.worth - GAPS) / spread)
    return (50 * (1 + won - lost)).mean(axis=1)


def deltas(points: np.ndarray) -> np.ndarray:
    """Return what the gate's bound is made of: each turn's score as a share, less an even half."""
    return scores(points) / 100 - 0.5


def lead_for(mean_score: float, judges: Judges) -> float:
    """Return the lead at which turns score `mean_score` on average: bisection over a fixed draw."""
    base = make_turns(np.random.default_rng(0), [1] * 4000)
    low = -3.0
    high = 3.0
    for _ in range(30):
        middle = (low + high) / 2
        moved = Turns(base.instances, base.worth + middle * WEIGHTS)
        if quality(moved, judges).mean() < mean_score:
            low = middle
        else:
            high = middle
    return low


def _cdf(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.vectorize(math.erf)(values / math.sqrt(2)))


def table_of(points: np.ndarray, instances=None) -> np.ndarray:
    """Return judged turns with these half-points (turns, judges, orders, metrics).

    Each turn is an instance of its own unless they are named.
    """
    count = len(points)
    table = new_table(count, points.shape[1])
    table["points"] = points
    for place in range(count):
        table["instance"][place] = f"i{place}"
    if instances is not None:
        table["instance"] = instances
    return table
