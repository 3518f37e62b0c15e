"""The statistics of the duel: bounds over instances, what judges are like, the fall of kept turns.

Half-points come as int8 arrays with the axes (turns, judges, orders, metrics): win 2, draw 1,
loss 0; below 0 UNREAD where a verdict cannot be read, MISSING where its call has not returned.
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
    if not (deltas.ndim == 1 and 0 < len(deltas) == len(groups) and np.isfinite(deltas).all()):
        raise ValueError("bootstrap_lcb: expected 1 or more finite deltas and a group for each")
    settings = {"alpha": alpha, "resamples": resamples, "seed": seed}
    (bounds,) = bootstrap_bounds(deltas[:, None], groups, **settings)
    return bounds.mean, bounds.lower, bounds.error


def bootstrap_bounds(
    values: np.ndarray, groups, *, alpha: float, resamples: int, seed: int
) -> list[Bounds]:
    """Return the bounds of the mean of each column by `bootstrap_lcb`'s method and one draw.

    values: (turns, columns), NaN where a turn does not count. Whole values stay exact.
    """
    sums, sizes, error = cluster_sums(values, groups)
    both = np.concatenate([sums, sizes], axis=1).astype(float)
    random = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // max(1, len(both)))
    drawn = []
    for start in range(0, resamples, chunk):
        taken = random.integers(0, 2, (min(chunk, resamples - start), len(both)), np.int8)
        drawn += [block.astype(float) @ both for block in np.array_split(taken, _BLOCKS)]
    totals, turns = np.split(np.concatenate(drawn), 2, axis=1)
    means = totals / np.maximum(turns, 1)
    rank = int(alpha * (resamples + 1))
    # A resample without a turn has no mean: it counts as the worst on either side.
    lower = np.sort(np.where(turns > 0, means, -np.inf), axis=0)[rank - 1]
    upper = np.sort(np.where(turns > 0, means, np.inf), axis=0)[-rank]
    if not rank:  # too few resamples for this alpha
        lower = np.full_like(lower, -np.inf)
        upper = -lower
    with np.errstate(invalid="ignore"):  # a column without a turn has no mean
        mean = sums.sum(axis=0) / sizes.sum(axis=0)
    return [Bounds(*map(float, column)) for column in zip(mean, lower, upper, error)]


def cluster_sums(values: np.ndarray, groups) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return by group and column sum and count but for NaN, and the error of each column's mean."""
    names, group = np.unique(groups, return_inverse=True)
    order = np.lexsort((*values.T, group))  # so that no last bit depends on the order of turns
    starts = np.searchsorted(group[order], np.arange(len(names)))
    sums = np.add.reduceat(np.nan_to_num(values[order]), starts)
    sizes = np.add.reduceat(~np.isnan(values[order]), starts, dtype=int)
    count = (sizes > 0).sum(axis=0)
    turns = sizes.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = ((sums - sizes * (sums.sum(axis=0) / turns)) ** 2).sum(axis=0)
        error = np.sqrt(count / (count - 1) * squares) / turns
    return sums, sizes, np.where(count > 1, error, np.inf)  # of one group it is not known


def whole_deltas(points: np.ndarray) -> tuple[np.ndarray, int]:
    """Return how far each turn is from even, in whole units, and how many units are 50 points.

    A turn has the mean over its readable verdicts, one without any is lost: so unread verdicts
    select nothing. NaN where a call has not returned.
    """
    readable = (points >= 0).all(axis=3).sum(axis=(1, 2))  # verdicts of each turn
    won = np.where(points >= 0, points, 0).sum(axis=(1, 2, 3))
    above_even = won - len(METRICS) * readable  # an even verdict holds a half-point a metric
    # A unit is a half-point over this: so all are whole, and a bound of 0 is 0.
    multiple = math.lcm(*np.unique(readable[readable > 0]).tolist())
    even = len(METRICS) * multiple
    deltas = np.where(readable, above_even * (multiple // np.maximum(readable, 1)), -even)
    has_returned = (points != MISSING).all(axis=(1, 2, 3))
    return np.where(has_returned, deltas, np.nan), even


def rate_ratio(counts: np.ndarray, groups, alpha: float) -> dict | None:
    """Return the ratio of two rates and, by the delta method, its interval at level 1 - 2 alpha.

    counts: (turns, 4): events and places of the one rate, then of the other. None without a ratio.
    """
    totals = counts.sum(axis=0)
    if not len(counts) or not totals[1:].all():
        return None
    ratio = float(totals[0] / totals[1] / (totals[2] / totals[3]))
    interval = None
    if ratio:
        pulls = len(counts) * (counts / totals) @ [1, -1, -1, 1]  # of each turn on the logarithm
        (error,) = cluster_sums(pulls[:, None], groups)[2]
        reach = math.exp(NormalDist().inv_cdf(1 - alpha) * error)
        interval = [ratio / reach, ratio * reach] if math.isfinite(reach) else None
    return {"ratio": ratio, "interval": interval}


def mean_score(points: np.ndarray) -> float | None:
    """Return the challenger's share of these half-points, 0-100; None where none was read."""
    read = points[points >= 0]
    return 50 * float(read.mean()) if read.size else None


def habits(points: np.ndarray) -> dict:
    """Return what one judge is like; points: (turns, orders, metrics); None: nothing was read.

    position_consistency: share of calls that are the same in both orders. pull: toward the reply
    shown second (+1) or first (-1), which over both orders a true preference cannot cause.
    """
    first, second = np.moveaxis(points, 1, 0)
    leanings = (second - first)[(first >= 0) & (second >= 0)]
    read = points[points >= 0]
    return {
        "equal_share": float((read == 1).mean()) if read.size else None,
        "position_consistency": float((leanings == 0).mean()) if leanings.size else None,
        "pull": float(leanings.mean() / 2) if leanings.size else None,
    }


def agreement(points: np.ndarray) -> float | None:
    """Return Krippendorff's alpha of the judges over win, draw and loss of both orders together.

    The mean of the metrics' own: pooled, one that is mostly draws would pass for agreement.
    """
    both_orders = np.where(points >= 0, points, np.nan).mean(axis=2)
    outcomes = np.moveaxis(np.sign(both_orders - 1), 2, 0)  # (metrics, turns, judges)
    alphas = [alpha for alpha in map(krippendorff_alpha, outcomes) if alpha is not None]
    return sum(alphas) / len(alphas) if alphas else None


def krippendorff_alpha(ratings: np.ndarray) -> float | None:
    """Return Krippendorff's alpha for nominal data: 1 full agreement, 0 what chance gives.

    ratings: (units, raters), NaN where a rater gave none. None when nothing can disagree.
    Source: K. Krippendorff, Content Analysis, 2004, chapter 11: 1 - observed / expected.
    """
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = (ratings[:, :, None] == values).sum(axis=1)  # (units, values)
    counts = counts[counts.sum(axis=1) > 1]  # one rating of a unit has none to disagree with
    of_unit = counts.sum(axis=1)
    total = counts.sum()
    if not total:
        return None
    observed = ((of_unit**2 - (counts**2).sum(axis=1)) / (of_unit - 1)).sum() / total
    expected = (total**2 - (counts.sum(axis=0) ** 2).sum()) / (total * (total - 1))
    return float(1 - observed / expected) if expected else None


def kept_again(points: np.ndarray) -> dict | None:
    """Return what the turns that reach final/ would score if the same panel judged them again.

    points: parsed turns alone. By shrinkage towards the mean, by what a judge's two verdicts of a
    turn differ. Against simulated rejudging its error is 0.2-0.5 points at 1,000-2,000 turns.
    """
    scores = 50 * points.mean(axis=3)  # (turns, judges, orders)
    turns = scores.mean(axis=(1, 2))
    won = points.sum(axis=(1, 2, 3), dtype=int)
    kept = 100 * won >= FINAL_MIN * 2 * math.prod(points.shape[1:])
    if len(turns) < 3 or not kept.any() or not turns.var():
        return None
    centred = scores - scores.mean(axis=0)
    noise = ((centred[:, :, 0] - centred[:, :, 1]) ** 2).mean() / 2
    reliability = np.clip(1 - noise / (2 * points.shape[1] * turns.var(ddof=1)), 0, 1)
    kept_mean = turns[kept].mean()
    again = turns.mean() + reliability * (kept_mean - turns.mean())
    return {"kept": int(kept.sum()), "kept_mean": float(kept_mean), "kept_again": float(again)}
