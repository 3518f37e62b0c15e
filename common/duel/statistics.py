"""The statistics of the duel: bounds over instances, what judges are like, the fall of kept turns.

Half-points come as int8 arrays with the axes (turns, judges, orders, metrics): win 2, draw 1,
loss 0, UNREAD where a verdict came and cannot be read, MISSING where its call has not returned.
Both are below 0; the one is a result, the other none.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from common.config import METRICS
from common.turns import FINAL_MIN, UNREAD

MISSING = UNREAD - 1

_CHUNK_CELLS = 1_000_000  # of a resample matrix at a time: memory stays flat
_BLOCKS = 10  # of a chunk: a block as floats fits the processor's cache, measured 4 times faster


# ------------------------------------------------------------------------------------------ bounds


class Bounds(NamedTuple):
    """A mean, its bounds at level 1 - alpha on either side, and its cluster-robust error."""

    mean: float
    lower: float
    upper: float
    error: float


def bootstrap_lcb(
    deltas, groups, *, alpha: float, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Return the mean of `deltas`, its lower confidence bound at level 1 - alpha, and its error.

    deltas: score/100 - 0.5 of each turn, or whole units of it; shape (turns,). groups: each turn's
    instance. Deterministic for a seed, whatever the order of the turns. Raises ValueError for no
    deltas, unequal lengths, or values not finite.

    Each resample takes every instance with chance 1/2, all of its turns or none; the bound is the
    alpha quantile of their means: the wild cluster bootstrap test with Rademacher weights and the
    null imposed (Cameron, Gelbach & Miller 2008), inverted. What holds: when challenger and king
    are equals whose names could be swapped, the false-accept rate is alpha for any number and sizes
    of instances, up to the grain of 2**-instances; below log2(1/alpha) of them there is no bound:
    -inf. What does not: rare large losses among small gains (8-12 % at 5 %, simulated), and turns
    alike across repos.
    """
    deltas = np.asarray(deltas, float)
    if deltas.ndim != 1 or not len(deltas) or len(deltas) != len(groups):
        raise ValueError("bootstrap_lcb: expected a delta and a group for each of 1 or more turns")
    if not np.isfinite(deltas).all():
        raise ValueError("bootstrap_lcb: expected finite deltas")
    settings = {"alpha": alpha, "resamples": resamples, "seed": seed}
    (bounds,) = bootstrap_bounds(deltas[:, None], groups, **settings)
    return bounds.mean, bounds.lower, bounds.error


def bootstrap_bounds(
    values: np.ndarray, groups, *, alpha: float, resamples: int, seed: int
) -> list[Bounds]:
    """Return the bounds of the mean of each column, all from one draw of resamples.

    values: (turns, columns), NaN where a turn does not count in a column. See `bootstrap_lcb` for
    the method. Whole values stay exact (their sums below 2**53), so that a bound of 0 is 0.
    """
    sums, sizes = cluster_sums(values, groups)
    both = np.concatenate([sums, sizes], axis=1).astype(float)
    random = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // max(1, len(both)))
    drawn = []
    for start in range(0, resamples, chunk):
        taken = random.integers(0, 2, (min(chunk, resamples - start), len(both)), np.int8)
        for block in np.array_split(taken, _BLOCKS):
            drawn.append(block.astype(float) @ both)
    totals, turns = np.split(np.concatenate(drawn), 2, axis=1)
    means = totals / np.maximum(turns, 1)
    # A resample without a turn has no mean: it counts as the worst on either side.
    lowest_first = np.sort(np.where(turns > 0, means, -np.inf), axis=0)
    highest_first = np.sort(np.where(turns > 0, means, np.inf), axis=0)[::-1]
    rank = int(alpha * (resamples + 1))
    # With too few resamples for this alpha there is no rank, and so no bound.
    lower = lowest_first[rank - 1] if rank else np.full(values.shape[1], -np.inf)
    upper = highest_first[rank - 1] if rank else -lower
    with np.errstate(invalid="ignore"):  # a column without a turn has no mean
        mean = sums.sum(axis=0) / sizes.sum(axis=0)
    columns = zip(mean, lower, upper, cluster_error(sums, sizes))
    return [Bounds(*map(float, found)) for found in columns]


def cluster_sums(values: np.ndarray, groups) -> tuple[np.ndarray, np.ndarray]:
    """Return of each group of turns the sum of each column, and how many of its turns count."""
    names, group = np.unique(groups, return_inverse=True)
    order = np.lexsort((*values.T, group))  # so that no last bit depends on the order of turns
    starts = np.searchsorted(group[order], np.arange(len(names)))
    sums = np.add.reduceat(np.nan_to_num(values[order]), starts)
    sizes = np.add.reduceat(~np.isnan(values[order]), starts, dtype=int)
    return sums, sizes


def cluster_error(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the cluster-robust standard error of each column's mean; inf for one group."""
    count = (sizes > 0).sum(axis=0)
    turns = sizes.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = ((sums - sizes * (sums.sum(axis=0) / turns)) ** 2).sum(axis=0)
        return np.where(count > 1, np.sqrt(count / (count - 1) * squares) / turns, np.inf)


def whole_deltas(points: np.ndarray) -> tuple[np.ndarray, int]:
    """Return how far each turn is from even, in whole units, and how many units are 50 points.

    points: half-points (turns, judges, orders, metrics). A turn has the mean over its readable
    verdicts, one without any counts as lost: so unread verdicts select nothing. NaN where a call
    has not returned. Whole, so that a bound of 0 is 0: a unit is a half-point over the least common
    multiple of the counts of readable verdicts.
    """
    readable = (points >= 0).all(axis=3).sum(axis=(1, 2))  # verdicts of each turn
    won = np.where(points >= 0, points, 0).sum(axis=(1, 2, 3))
    above_even = won - len(METRICS) * readable  # an even verdict holds a half-point a metric
    multiple = math.lcm(*np.unique(readable[readable > 0]).tolist())
    even = len(METRICS) * multiple
    deltas = above_even * (multiple // np.maximum(readable, 1))
    deltas = np.where(readable > 0, deltas, -even)
    return np.where(all_returned(points), deltas, np.nan), even


def all_returned(points: np.ndarray) -> np.ndarray:
    """Tell of which turns all calls of the panel have returned, readable or not."""
    return (points != MISSING).all(axis=(1, 2, 3))


def rate_ratio(counts: np.ndarray, groups, alpha: float) -> dict | None:
    """Return the ratio of two rates and its interval at level 1 - 2 alpha, over groups of turns.

    counts: (turns, 4): events and places of the one rate, then of the other. By the delta method:
    the error is that of the ratio's logarithm. None where there is no ratio, no interval without
    an event or with one group.
    """
    totals = counts.sum(axis=0)
    if not len(counts) or not totals[1:].all():
        return None
    ratio = float(totals[0] / totals[1] / (totals[2] / totals[3]))
    if not ratio:
        return {"ratio": ratio, "interval": None}
    pulls = len(counts) * (counts / totals) @ [1, -1, -1, 1]  # of each turn on the logarithm
    sums, sizes = cluster_sums(pulls[:, None], groups)
    reach = math.exp(NormalDist().inv_cdf(1 - alpha) * cluster_error(sums[:, 0], sizes[:, 0]))
    interval = [ratio / reach, ratio * reach] if math.isfinite(reach) else None
    return {"ratio": ratio, "interval": interval}


# ------------------------------------------------------------------------------------------ judges


def mean_score(points: np.ndarray) -> float | None:
    """Return the challenger's share of these half-points, 0-100; None where none was read."""
    read = points[points >= 0]
    return 50 * float(read.mean()) if read.size else None


def habits(points: np.ndarray) -> dict:
    """Return what one judge is like; points: (turns, orders, metrics); None: nothing was read.

    equal_share: of draws. position_consistency: share of calls that are the same in both orders.
    pull: toward the reply shown second (+1) or first (-1), which over both orders a true preference
    cannot cause.
    """
    first, second = np.moveaxis(points.astype(int), 1, 0)
    leanings = (second - first)[(first >= 0) & (second >= 0)]
    read = points[points >= 0]
    return {
        "equal_share": float((read == 1).mean()) if read.size else None,
        "position_consistency": float((leanings == 0).mean()) if leanings.size else None,
        "pull": float(leanings.mean() / 2) if leanings.size else None,
    }


def contrasts(points: np.ndarray, instances: np.ndarray, settings: dict) -> list[dict | None]:
    """Return how far each judge's turn scores lie above the others': mean and interval.

    It shows a judge that favours its own kind. Over the turns that the whole panel read; None
    without any, or without others. The interval is that of the gate's bootstrap by `settings`.
    """
    whole = (points >= 0).all(axis=(1, 2, 3))
    judges = points.shape[1]
    if not whole.any() or judges < 2:
        return [None] * judges
    scores = 50 * points[whole].mean(axis=(2, 3))  # (turns, judges)
    others = (scores.sum(axis=1, keepdims=True) - scores) / (judges - 1)
    found = []
    for bounds in bootstrap_bounds(scores - others, instances[whole], **settings):
        interval = [bounds.lower, bounds.upper] if math.isfinite(bounds.lower) else None
        found.append({"mean": bounds.mean, "interval": interval})
    return found


def agreement(points: np.ndarray, judges: list[int]) -> float | None:
    """Return Krippendorff's alpha of these judges over win, draw and loss.

    Of both orders together, so that a common position bias is no agreement; metric by metric and
    averaged, for pooled over metrics a metric that is mostly draws would pass for agreement.
    """
    chosen = points[:, judges]
    both_orders = np.sign(chosen.sum(axis=2, dtype=np.int8) - 2)  # (turns, judges, metrics)
    is_read = (chosen >= 0).all(axis=2)
    by_metric = zip(np.moveaxis(both_orders, 2, 0), np.moveaxis(is_read, 2, 0))
    return mean_of_known([krippendorff_alpha(calls, read) for calls, read in by_metric])


def mean_of_known(values: list[float | None]) -> float | None:
    """Return the mean of the values that are not None; None where all are."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def krippendorff_alpha(ratings: np.ndarray, given: np.ndarray) -> float | None:
    """Return Krippendorff's alpha for nominal data: 1 full agreement, 0 what chance gives.

    ratings: (units, raters); given: where a rater gave one. None when nothing can disagree.
    Source: K. Krippendorff, Content Analysis, 2004, chapter 11: 1 - observed / expected.
    """
    paired = given.sum(axis=1) >= 2  # one rating of a unit has none to disagree with
    ratings = ratings[paired]
    given = given[paired]
    if not given.any():
        return None
    values = np.unique(ratings[given])
    counts = np.stack([(given & (ratings == value)).sum(axis=1) for value in values], axis=1)
    of_unit = counts.sum(axis=1)
    total = counts.sum()
    observed = ((of_unit**2 - (counts**2).sum(axis=1)) / (of_unit - 1)).sum() / total
    expected = (total**2 - (counts.sum(axis=0) ** 2).sum()) / (total * (total - 1))
    return float(1 - observed / expected) if expected else None


# --------------------------------------------------------------------------------- selection, bias


def final_mask(points: np.ndarray) -> np.ndarray:
    """Tell which fully read turns reach final/ by their score."""
    won = points.sum(axis=(1, 2, 3), dtype=int)
    return 100 * won >= FINAL_MIN * 2 * math.prod(points.shape[1:])


def kept_again(points: np.ndarray, kept: np.ndarray) -> dict | None:
    """Return what the kept turns would score if the same panel judged them again.

    points: parsed turns alone; kept: bool (turns,). By shrinkage: mean + r * (kept mean - mean),
    r = 1 - s2 / (2 J var(turn scores)) for J judges, where s2 is half the mean squared difference
    between a judge's two verdicts of a turn after the means of each (judge, order) are taken off.
    Against simulated rejudging its error is 0.2-0.5 points at 1,000-2,000 turns.
    """
    scores = 50 * points.mean(axis=3)  # (turns, judges, orders)
    turns = scores.mean(axis=(1, 2))
    if len(turns) < 3 or not kept.any() or not turns.var():
        return None
    centred = scores - scores.mean(axis=0)
    noise = ((centred[:, :, 0] - centred[:, :, 1]) ** 2).mean() / 2
    reliability = 1 - noise / (2 * points.shape[1] * turns.var(ddof=1))
    kept_mean = turns[kept].mean()
    gap = kept_mean - turns.mean()
    return {
        "kept": int(kept.sum()),
        "kept_mean": float(kept_mean),
        "kept_again": float(turns.mean() + np.clip(reliability, 0, 1) * gap),
    }


def at_equal_length(scores: np.ndarray, ratios: np.ndarray, groups) -> dict | None:
    """Return the mean score at equal length, with its slope: least squares on the log ratio.

    scores: 0-100 of each turn; ratios: challenger's length over the opponent's, above 0. Errors
    are clustered by group. Where length is merit this takes merit away: it never gates.
    """
    logs = np.log2(ratios)
    count = len(set(groups))
    if len(scores) < 3 or count < 2 or not logs.std():
        return None
    design = np.column_stack([np.ones(len(logs)), logs])
    inverse = np.linalg.inv(design.T @ design)
    fitted = inverse @ (design.T @ scores)
    residuals = design * (scores - design @ fitted)[:, None]
    parts, _ = cluster_sums(residuals, groups)
    covariance = inverse @ (parts.T @ parts) @ inverse * count / (count - 1)
    # Of a perfect fit they may end up below 0.
    error, slope_error = map(float, np.sqrt(np.maximum(covariance.diagonal(), 0)))
    mean, slope = map(float, fitted)
    return {"mean_score": mean, "se": error, "per_doubling": slope, "per_doubling_se": slope_error}
