"""How much doubt the replies show, and the two kinds of challengers side by side."""

from __future__ import annotations

import math

import numpy as np

from common.config import Duel
from common.duel.statistics import bootstrap_bounds, rate_ratio
from common.report.rows import Row, per_hundred
from common.turns import SIDES

LITTLE_DOUBT = 0.5  # hedges of challengers to a king's: from below it is a point to look at
KINDS = {
    "informed": "informed: written with the record",
    "chosen": "chosen: the best of blind replies",
}


def doubt(rows: list[Row], alpha: float) -> dict | None:
    """Return hedges a hundred words of THOUGHT by side, and challengers' over kings'."""
    rows = [row for row in rows if row.doubt]
    if not rows:
        return None
    counts = {side: np.array([row.doubt[side] for row in rows], float) for side in SIDES.values()}
    rates = {side: per_hundred(*of_side.sum(axis=0)) for side, of_side in counts.items()}
    both = np.hstack([counts["challenger"], counts["king"]])
    return {"rates": rates, "to_king": rate_ratio(both, [row.instance_id for row in rows], alpha)}


def compare_kinds(rows: list[Row], duel: Duel) -> dict[str, dict]:
    """Return by kind of challenger what it came to; {} where there is only one kind.

    Each figure is (mean, interval), its interval over instances as the duel's is.
    """
    of_kind = {kind: [row for row in rows if row.bucket and row.made == kind] for kind in KINDS}
    if not all(of_kind.values()):
        return {}
    names = ("kept", "score", "leaks")
    compared = {}
    for kind, turns in of_kind.items():
        values = []
        for row in turns:
            hits = row.leaks.get("chosen" if kind == "chosen" else "challenger")
            hit = math.nan if hits is None else bool(hits)
            values.append((row.bucket == "final", row.score / 100, hit))
        groups = [row.instance_id for row in turns]
        settings = {"alpha": duel.alpha, "resamples": duel.resamples, "seed": duel.seed}
        bounds = bootstrap_bounds(np.array(values, float), groups, **settings)
        figures = {name: (of.mean, [of.lower, of.upper]) for name, of in zip(names, bounds)}
        compared[KINDS[kind]] = {**figures, "turns": len(turns), "doubt": doubt(turns, duel.alpha)}
    return compared
