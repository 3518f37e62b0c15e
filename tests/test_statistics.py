"""The statistics of the duel against worked examples, exact sums and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

import panel
from common.duel.statistics import bootstrap_bounds, kept_again, krippendorff_alpha
from validate import bootstrap_lcb

GATE = {"alpha": 0.05, "resamples": 2000, "seed": 0}


def simulated(random: np.random.Generator, instances: int, size: int, lead: float = 0.0):
    """Return (deltas, groups) of one duel by a typical panel; at lead 0 the two are equals."""
    turns = panel.make_turns(random, [size] * instances, lead)
    return panel.deltas(panel.judged(random, turns, panel.TYPICAL)), turns.instances


# ------------------------------------------------------------------------------------------ bound


def test_the_bound_resamples_instances_not_turns():
    deltas, groups = simulated(np.random.default_rng(0), 20, 1, 0.25)
    mean, lcb, error = bootstrap_lcb(deltas, groups, **GATE)
    copies = np.repeat(deltas, 30)
    copied = bootstrap_lcb(copies, np.repeat(groups, 30), **GATE)
    assert copied == pytest.approx((mean, lcb, error)) and lcb < mean
    apart = bootstrap_lcb(copies, np.arange(len(copies)), **GATE)
    assert apart[1] > lcb and apart[2] < error / 4


def test_the_bound_is_deterministic_and_blind_to_the_order_of_turns():
    random = np.random.default_rng(1)
    deltas, groups = simulated(random, 15, 4)
    named = [f"repo__{group}" for group in groups]
    shuffle = random.permutation(len(deltas))
    shuffled = [named[place] for place in shuffle]
    first = bootstrap_lcb(deltas, named, **GATE)
    assert first == bootstrap_lcb(list(deltas[shuffle]), shuffled, **GATE)
    assert first != bootstrap_lcb(deltas, named, **{**GATE, "seed": 1})


def test_degenerate_inputs_of_the_bound():
    apart = list(range(40))
    assert bootstrap_lcb([0.0] * 40, apart, **GATE) == (0.0, 0.0, 0.0)
    assert bootstrap_lcb([0.25] * 40, apart, **GATE) == (0.25, 0.25, 0.0)
    one = bootstrap_lcb([0.1, 0.3], ["a", "a"], **GATE)
    assert one == (pytest.approx(0.2), -math.inf, math.inf)
    # 2**-4 is more than 0.05: four instances have no bound.
    assert bootstrap_lcb([0.4] * 4, list("abcd"), **GATE)[1] == -math.inf
    assert bootstrap_lcb([0.4] * 5, list("abcde"), **GATE)[1] == pytest.approx(0.4)
    for deltas, groups in (([], []), ([0.1, math.nan], [1, 2]), ([math.inf], [1]), ([0.1], [1, 2])):
        with pytest.raises(ValueError):
            bootstrap_lcb(deltas, groups, **GATE)


def test_a_bound_of_whole_numbers_that_is_zero_is_zero():
    """Where the bound is exactly 0 it is not above 0; sums of floats often are."""
    random = np.random.default_rng(5)
    groups = np.repeat(np.arange(6), 2)
    zeros = 0
    above_in_floats = 0
    for seed in range(400):
        points = random.choice([23, 30, 37], 12)  # in sixtieths
        settings = {"alpha": 0.1, "resamples": 100, "seed": seed}
        bound = bootstrap_lcb(points - 30, groups, **settings)[1]
        if exact_bound_sign(points - 30, groups, **settings) == 0:
            zeros += 1
            assert bound == 0
            above_in_floats += bootstrap_lcb(points / 60 - 0.5, groups, **settings)[1] > 0
    assert zeros > 30 and above_in_floats > 5


def exact_bound_sign(units: np.ndarray, groups, alpha: float, resamples: int, seed: int) -> int:
    """Return the sign of the bound by whole numbers alone: of the ranked sum of a resample."""
    sums = np.bincount(groups, units).astype(int)
    taken = np.random.default_rng(seed).integers(0, 2, (resamples, len(sums)), np.int8)
    signs = np.sign(taken.astype(int) @ sums)
    signs[~taken.any(axis=1)] = -1
    return int(np.sort(signs)[int(alpha * (resamples + 1)) - 1])


@pytest.mark.parametrize("instances, size", [(60, 1), (10, 10), (20, 20)])
def test_equals_are_rarely_accepted(instances, size):
    """5 % of 400 duels is 20, sd 4.4; the bounds are four of these away. See bench_gate.py."""
    random = np.random.default_rng(7)
    accepted = 0
    for _ in range(400):
        duel = simulated(random, instances, size)
        accepted += bootstrap_lcb(*duel, alpha=0.05, resamples=400, seed=0)[1] > 0
    assert 3 <= accepted <= 38


def test_both_tails_of_all_columns_come_from_one_draw():
    random = np.random.default_rng(2)
    values = random.integers(-30, 31, (300, 3)).astype(float)
    values[::7, 1] = np.nan
    groups = np.repeat(np.arange(60), 5)
    for column, bounds in enumerate(bootstrap_bounds(values, groups, **GATE)):
        here = ~np.isnan(values[:, column])
        alone = bootstrap_lcb(values[here, column], groups[here], **GATE)
        assert (bounds.mean, bounds.lower) == alone[:2]
        assert bounds.error == pytest.approx(alone[2])
        mirrored = bootstrap_lcb(-values[here, column], groups[here], **GATE)
        assert bounds.lower < bounds.upper == -mirrored[1]


# -------------------------------------------------------------------------------------- agreement


def alpha(ratings) -> float | None:
    """Return Krippendorff's alpha of units by raters, below 0 where none was given."""
    ratings = np.array(ratings)
    return krippendorff_alpha(np.where(ratings >= 0, ratings, np.nan))


def test_krippendorff_alpha_against_worked_examples():
    # Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section B: two observers,
    # ten binary units.
    meg = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    owen = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert alpha(list(zip(meg, owen))) == pytest.approx(0.095, abs=5e-4)
    # Section C: four observers, twelve units, with gaps.
    assert alpha(four_observers()) == pytest.approx(0.743, abs=5e-4)


def test_krippendorff_alpha_where_nothing_can_disagree():
    assert alpha(np.zeros((5, 2), int)) is None
    assert alpha([[0, 0], [1, 1], [2, 2]]) == 1
    assert alpha(np.full((4, 2), -1)) is None


def four_observers() -> np.ndarray:
    """Return units by observers, -1 where one gave none."""
    observers = ("123321412---", "1233224125-3", "-3332342251-", "12332441251-")
    rows = [[int(mark) if mark != "-" else -1 for mark in row] for row in observers]
    return np.array(rows).T


# -------------------------------------------------------------------------------------- selection


@pytest.mark.parametrize("kind", ["typical", "noisy"])
def test_kept_again_foretells_what_the_same_panel_says_the_second_time(kind):
    """Two askings of one panel: the turns that the first keeps score lower the second time."""
    judges = panel.KINDS[kind]
    random = np.random.default_rng(11)
    turns = panel.make_turns(random, [10] * 200, panel.lead_for(58, judges))
    seen = panel.views(random, turns, judges)
    first = panel.ask(random, seen, judges)
    again = panel.ask(random, seen, judges)
    kept = panel.scores(first) >= 80
    told = kept_again(first)
    really = float(panel.scores(again)[kept].mean())
    assert told["kept"] == kept.sum() > 200
    assert told["kept_mean"] == pytest.approx(panel.scores(first)[kept].mean())
    assert told["kept_mean"] - really > 2, "there is a fall to foretell"
    assert told["kept_again"] == pytest.approx(really, abs=0.8)
    assert kept_again(first[~kept]) is None
    assert kept_again(first[kept][:2]) is None
    assert kept_again(np.full_like(first, 2)) is None
