"""All judged turns as arrays, read from score/, and what they say of each judge."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from common.duel.statistics import (
    bootstrap_bounds,
    cluster_sums,
    interval_alpha,
    judge_scores,
    krippendorff_alpha,
)
from common.duel.verdicts import FIRST_LOOK, READING, SCORE, SECOND_LOOK, is_full
from common.turns import FINAL_MIN, METRICS, OPPONENT, ORDERS, Status, points_of, read_score

USAGE = ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
LOOKS = {FIRST_LOOK: "first look", SECOND_LOOK: "second look", READING: "reader's test"}


@dataclass
class Rows:
    """What the duel needs of all turns that have both replies, in the order of their stems."""

    instances: np.ndarray  # text (turns,)
    repos: np.ndarray  # text (turns,)
    statuses: np.ndarray  # Status (turns,)
    identical: np.ndarray  # bool (turns,)
    full: np.ndarray  # bool (turns,): never stopped early
    reopened: np.ndarray  # bool (turns,): was stopped, must be judged further, and is not yet
    points: np.ndarray  # half-points, int8 (turns, judges, orders, metrics); -1 where unread
    returned: np.ndarray  # bool (turns, judges): both orders' calls returned, readable or not
    length_ratios: np.ndarray  # challenger's characters over the opponent's (turns,); NaN unknown
    bills: dict[str, Counter]  # by judge, of the first look's verdicts that count
    looks: dict[str, Counter]  # by name of a look, of all verdicts that count
    confirmed: list[tuple[float, float]]  # (score, score_confirmed) of each turn looked at twice
    readings: list[dict]  # of each reader's test: the sides that were named
    flags: Counter

    def taken(self, chosen: np.ndarray) -> Rows:
        """Return the chosen turns (bool array) alone, with the bills of all."""
        arrays = {}
        for name, value in vars(self).items():
            arrays[name] = value[chosen] if isinstance(value, np.ndarray) else value
        return Rows(**arrays)


def read_rows(judged: dict[str, float], names: list[str], mode: int, full_share: float) -> Rows:
    """Read the score files of the judged turns (stem: length ratio).

    One without a file is unfinished.
    """
    stems = sorted(judged)
    count = len(stems)
    rows = Rows(
        instances=np.array([""] * count, object),
        repos=np.array([""] * count, object),
        statuses=np.array([Status.UNFINISHED] * count, object),
        identical=np.zeros(count, bool),
        full=np.array([is_full(stem, full_share) for stem in stems], bool),
        reopened=np.zeros(count, bool),
        points=np.full((count, len(names), len(ORDERS), len(METRICS)), -1, np.int8),
        returned=np.zeros((count, len(names)), bool),
        length_ratios=np.array([judged[stem] for stem in stems], float),
        bills={name: Counter() for name in names},
        looks={name: Counter() for name in LOOKS.values()},
        confirmed=[],
        readings=[],
        flags=Counter(),
    )
    for place, stem in enumerate(stems):
        try:
            score = read_score(SCORE / f"{stem}.json")
        except FileNotFoundError:
            continue
        add_score(rows, place, score, names, mode)
    return rows


def add_score(rows: Rows, place: int, score: dict, names: list[str], mode: int) -> None:
    """Take one score file into the arrays, as row `place`."""
    keys = {*score["counted"], *score.get("counted_confirmed", [])}
    counted = {}
    for verdict in score["verdicts"]:
        if verdict["look"] == READING or verdict["key"] in keys:
            rows.looks[LOOKS[verdict["look"]]].update(bill_of(verdict))
        if verdict["look"] == FIRST_LOOK and verdict["key"] in keys:
            counted[verdict["judge"], verdict["order"]] = verdict
    same = score["sha"]["challenger"] == score["sha"][OPPONENT[mode]]
    for (judge, _), verdict in counted.items():
        rows.bills[judge].update(bill_of(verdict))
    rows.instances[place] = score["instance_id"]
    rows.repos[place] = score["repo"] or score["instance_id"]
    rows.statuses[place] = Status(score["status"])
    rows.identical[place] = same
    rows.reopened[place] = "reopened" in score
    rows.points[place] = points_of(same, counted, names)
    for number, name in enumerate(names):
        rows.returned[place, number] = same or all((name, order) in counted for order in ORDERS)
    if score.get("score_confirmed") is not None:
        rows.confirmed.append((score["score"], score["score_confirmed"]))
    if "reader" in score:
        rows.readings.append(score["reader"])
    rows.flags.update(score["flags"])


# ------------------------------------------------------------------------------------------- money


def bill_of(verdict: dict) -> dict[str, int]:
    """Return what one verdict cost, in whole numbers: nano-dollars, so that sums are exact."""
    cost_usd = verdict["cost_usd"]
    usage = verdict.get("usage_all_tries") or verdict["usage"] or {}
    return {
        "calls": 1,
        "readable": int(verdict["calls"] is not None),
        "unpriced": int(cost_usd is None),
        "nano_usd": round((cost_usd or 0) * 1e9),
        **{name: usage.get(name) or 0 for name in USAGE},
    }


def spending(bill: Counter) -> dict:
    """Return calls, parse rate, usage and dollars; dollars are null when no price is known."""
    calls = bill["calls"]
    return {
        "calls": calls,
        "parse_rate": bill["readable"] / calls if calls else None,
        "usage": {name: bill[name] for name in USAGE},
        "cost_usd": bill["nano_usd"] / 1e9 if calls > bill["unpriced"] else None,
    }


# ------------------------------------------------------------------------------------------ judges


def percent_of(points: np.ndarray) -> float | None:
    """Return the challenger's share of these half-points, 0-100; None where none was read."""
    read = points[points >= 0]
    return 100 * int(read.sum(dtype=np.int64)) / (2 * read.size) if read.size else None


def judge_figures(points: np.ndarray, names: list[str]) -> tuple[dict[str, dict], dict]:
    """Return (each judge's habits, the panel's agreement); points of turns that were asked.

    position_consistency: share of calls that are the same in both orders. pull: position bias,
    toward the reply shown second (+1) or first (-1), which over both orders a true preference
    cannot cause. agreement: Krippendorff's alpha over win, draw and loss of both orders together,
    so that a common position bias is no agreement; taken metric by metric and averaged, for pooled
    over metrics a metric that is mostly draws would pass for agreement.
    """
    both = (points >= 0).all(axis=2)  # turns, judges, metrics
    sides = np.where(both, np.sign(points.sum(axis=2, dtype=int) - len(ORDERS)) + 1, -1)
    habits = {}
    for place, name in enumerate(names):
        first = points[:, place, 0][both[:, place]].astype(int)
        second = points[:, place, 1][both[:, place]].astype(int)
        pairs = []
        for other in range(len(names)):
            if other != place:
                pairs.append(mean_alpha(sides[:, [place, other]]))
        pairs = [alpha for alpha in pairs if alpha is not None]
        habits[name] = {
            "position_consistency": float((first == second).mean()) if len(first) else None,
            "pull": float((second - first).mean() / 2) if len(first) else None,
            "agreement": sum(pairs) / len(pairs) if pairs else None,
        }
    agreement = {
        "name": "Krippendorff's alpha (nominal, mean of the metrics' own)",
        "value": mean_alpha(sides),
        "interval_alpha": interval_alpha(judge_scores(points)) if len(points) else None,
    }
    return habits, agreement


def mean_alpha(sides: np.ndarray) -> float | None:
    """Return the mean over metrics of Krippendorff's alpha; sides (turns, judges, metrics)."""
    alphas = [krippendorff_alpha(sides[:, :, place]) for place in range(sides.shape[2])]
    alphas = [alpha for alpha in alphas if alpha is not None]
    return sum(alphas) / len(alphas) if alphas else None


def contrasts(rows: Rows, names: list[str], settings: dict) -> dict[str, dict]:
    """Return how far each judge's turn scores lie above the others', with an interval.

    A judge that favours its own kind shows here; `settings` are those of the gate's bootstrap.
    """
    scores = judge_scores(rows.points)
    whole = ~np.isnan(scores).any(axis=1) & ~rows.identical
    if len(names) < 2 or not whole.any():
        return {}
    scores = scores[whole]
    gaps = np.empty_like(scores)
    for place in range(len(names)):
        gaps[:, place] = scores[:, place] - np.delete(scores, place, axis=1).mean(axis=1)
    sums, sizes = cluster_sums(gaps, np.ones_like(gaps), rows.instances[whole])
    lower, upper = bootstrap_bounds(sums, sizes, **settings)
    found = {}
    for place, name in enumerate(names):
        bounds = [float(lower[place]), float(upper[place])]
        known = all(np.isfinite(bounds))
        found[name] = {"mean": float(gaps[:, place].mean()), "interval": bounds if known else None}
    return found


def stopping_saves(
    points: np.ndarray, bills: dict[str, Counter], edge: float, full_share: float
) -> float | None:
    """Return the share of calls that stop_early saves on turns like these, by replay.

    points: of turns judged in full; bills: by judge, in the order of the panel; edge: see `Panel`.
    """
    if not len(points):
        return None
    order = cheapest_first(bills)
    won = points[:, order].sum(axis=3, dtype=int).reshape(len(points), -1)
    verdicts = won.shape[1]
    each = 2 * len(METRICS)
    reached = won.cumsum(axis=1)
    left = each * (verdicts - np.arange(1, verdicts + 1))
    open_still = 100 * (reached + left) >= edge * each * verdicts
    # A turn goes on while it can still reach the edge; the verdict that rules it out is paid.
    asked = np.where(open_still.all(axis=1), verdicts, open_still.argmin(axis=1) + 1)
    return float((1 - full_share) * (1 - asked.mean() / verdicts))


def cheapest_first(bills: dict[str, Counter]) -> list[int]:
    """Return the judges' places by what a verdict of theirs has cost, else in their own order."""
    costs = []
    for bill in bills.values():
        if bill["calls"] == bill["unpriced"]:
            return list(range(len(bills)))
        costs.append(bill["nano_usd"] / (bill["calls"] - bill["unpriced"]))
    return sorted(range(len(costs)), key=costs.__getitem__)


def final_mask(points: np.ndarray) -> np.ndarray:
    """Tell which fully read turns reach final/ by their score."""
    won = points.sum(axis=(1, 2, 3), dtype=int)
    most = 2 * points[0].size if len(points) else 1
    return 100 * won >= FINAL_MIN * most
