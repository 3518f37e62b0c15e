"""The gate: its demands, whole numbers, which turns count, panels without a judge."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from common.config import METRICS, check_config
from common.duel.statistics import MISSING
from panel import table_of
from validate import gate


def half_points(scores: list[int], judges: int = 1) -> np.ndarray:
    """Return turns that every judge gives these scores: 0, 25, 50, 75 or 100."""
    points = np.zeros((len(scores), judges, 2, len(METRICS)), np.int8)
    for turn, score in enumerate(scores):
        points[turn, :, 0] = min(score, 50) // 25
        points[turn, :, 1] = max(score - 50, 0) // 25
    return points


def decided(points: np.ndarray, instances=None, change=None, **duel) -> dict[str, dict]:
    """Return the gate's verdicts; every turn is an instance unless they are named.

    change: what to do to the table first.
    """
    table = table_of(points, instances)
    if change:
        change(table)
    names = list("abc")[: points.shape[1]]
    return gate(table, names, check_config({"duel": {"resamples": 500, **duel}}))


# ---------------------------------------------------------------------------------------- demands


def test_the_gate_asks_for_margin_bound_and_parsed_share():
    won = decided(half_points([75] * 20))[""]
    assert won["accepted"] is True
    assert (won["mean_score"], won["margin"], won["lcb"]) == (75, 50, 25)
    assert won["interval"] == [75, 75] and won["se"] == 0
    assert decided(half_points([50] * 20))[""]["accepted"] is False

    unread = half_points([75] * 20)
    unread[:11, 0, 0] = -1
    found = decided(unread)[""]
    assert found["accepted"] is False and "parsed share 45.0%" in found["why"]
    assert "margin" not in found["why"], "only what failed is named"

    of_four = decided(half_points([100] * 20), instances=["a", "b", "c", "d"] * 5)[""]
    assert of_four["accepted"] is None and of_four["lcb"] is None
    assert "too few to tell: 4 instances are judged, 5 are needed" in of_four["why"]
    assert of_four["mean_score"] == 100, "the mean is told all the same"
    none = decided(half_points([]))[""]
    assert none["accepted"] is None and none.keys() == won.keys()
    strict = decided(half_points([100] * 8), alpha=0.001, resamples=2000)[""]
    assert strict["accepted"] is None and "10 are needed" in strict["why"]


@pytest.mark.parametrize("win_margin, accepted", [(14, True), (14.01, False)])
def test_a_margin_of_exactly_fourteen_is_fourteen(win_margin, accepted):
    # A mean of 57, where 100 * 0.57 is less than 57.
    found = decided(half_points([50] * 72 + [75] * 28), win_margin=win_margin)[""]
    assert found["margin"] == 14.0 and found["accepted"] is accepted


def test_a_bound_of_exactly_even_is_not_above_it():
    """Small duels whose bound is 0 in whole half-points; in sums of floats some come out above."""
    random = np.random.default_rng(8)
    at_zero = 0
    for seed in range(300):
        scores = random.choice([25, 50, 75], 12).tolist()
        found = decided(half_points(scores), win_margin=0, resamples=100, alpha=0.2, seed=seed)[""]
        if 50 + found["lcb"] == 50:
            at_zero += 1
            assert found["lcb"] == 0
            assert found["accepted"] is False and "lower bound" in found["why"]
    assert at_zero > 20


# ------------------------------------------------------------------------------- which turns count


def test_unread_verdicts_select_nothing():
    """A turn counts with the verdicts that could be read, one without any as lost."""
    points = half_points([100] * 6, judges=2)
    points[0, 0] = 0  # one judge against
    points[0, 1, 0] = -1  # and one order of the other not read: a third
    points[1] = -1
    found = decided(points)[""]
    assert found["turns_counted"] == 6
    assert found["mean_score"] == pytest.approx((100 / 3 + 0 + 4 * 100) / 6)
    assert found["parsed_frac"] == pytest.approx(4 / 6)


def test_a_panel_of_which_nothing_can_be_read_decides_nothing():
    points = half_points([50] * 8, judges=2)
    points[:7, 0] = -1  # of the first judge there is a draw without a call at most

    def draws(table):
        table["identical"][7] = True

    found = decided(points, change=draws)
    assert found[""]["accepted"] is False and found["a"]["mean_score"] == 50
    unread = found["b"]
    assert (unread["accepted"], unread["why"]) == (None, "not decided: no verdict could be read")
    assert [unread[key] for key in ("margin", "mean_score", "lcb", "interval")] == [None] * 4
    assert unread["turns_counted"] == 8 and unread["parsed_frac"] == 0
    points[:7] = MISSING
    assert "too few to tell" in decided(points, change=draws)[""]["why"]


def test_unfinished_turns_stay_out():
    points = half_points([100] * 5 + [0] * 5, judges=2)
    points[5:, 1] = MISSING  # the second judge's calls never came back
    found = decided(points)
    assert found[""]["turns_counted"] == 5 and found[""]["mean_score"] == 100
    assert found[""]["parsed_frac"] == 0.5, "they were asked all the same"
    assert found["b"]["turns_counted"] == 10 and found["b"]["mean_score"] == 50
    assert found["a"]["turns_counted"] == 5


def test_the_parsed_share_leaves_identical_replies_out():
    points = half_points([50] * 8 + [75] * 4)
    points[8:11] = -1

    def draws(table):
        table["identical"][:8] = True

    found = decided(points, change=draws)[""]
    assert found["parsed_frac"] == 0.25 and "parsed share 25.0%" in found["why"]
    assert decided(half_points([50] * 8), change=draws)[""]["parsed_frac"] == 1


def test_a_mean_is_that_of_what_could_be_read():
    random = np.random.default_rng(1)
    points = random.integers(0, 3, (200, 3, 2, len(METRICS))).astype(np.int8)
    points[random.random((200, 3, 2)) < 0.3] = -1
    scores = []
    for turn in points:
        scores.append(50 * turn[turn >= 0].mean() if (turn >= 0).any() else 0)
    found = decided(points)[""]
    assert found["turns_counted"] == 200
    assert found["mean_score"] == pytest.approx(np.mean(scores), abs=1e-12)
    assert found["se"] == pytest.approx(np.std(scores, ddof=1) / math.sqrt(200))


def test_equals_who_lose_their_worst_verdicts_gain_nothing():
    """10 % of the turns lose the verdict that was worst for the challenger."""
    random = np.random.default_rng(3)
    worth = random.standard_normal((4000, 1, 1, 1))
    noise = random.standard_normal((4000, 3, 2, len(METRICS)))
    points = np.where(worth + noise > 0.4, 2, np.where(worth + noise < -0.4, 0, 1)).astype(np.int8)
    before = decided(points)[""]["mean_score"]
    each = points.sum(axis=3).reshape(4000, 6)
    losing = np.flatnonzero(each.mean(axis=1) < np.quantile(each.mean(axis=1), 0.1))
    for turn in losing:
        points.reshape(4000, 6, -1)[turn, each[turn].argmin()] = -1
    whole = decided(points)[""]
    assert abs(whole["mean_score"] - before) < 0.5
    dropped = np.delete(points, losing, axis=0)
    assert dropped.mean() * 50 - before > 3, "leaving these turns out would have lifted the mean"


# ------------------------------------------------------------------------------------------ panels


def test_panels_without_a_judge_come_from_the_same_draw():
    random = np.random.default_rng(6)
    points = random.integers(0, 3, (60, 3, 2, len(METRICS))).astype(np.int8)
    points[:, 2] = 2
    instances = [f"i{turn % 12}" for turn in range(60)]
    found = decided(points, instances)
    panels = {"": [0, 1, 2], "a": [1, 2], "b": [0, 2], "c": [0, 1]}
    assert list(found) == list(panels)
    for name, places in panels.items():
        alone = decided(points[:, places], instances)[""]
        assert found[name]["why"] == alone["why"]
        for key in ("mean_score", "lcb", "se", "interval"):
            assert found[name][key] == pytest.approx(alone[key])
    assert list(decided(points[:, :1], instances)) == [""]
    assert found["c"]["mean_score"] < found[""]["mean_score"]


def test_twenty_thousand_instances_by_four_panels_take_seconds():
    random = np.random.default_rng(9)
    points = random.integers(0, 3, (20_000, 3, 2, len(METRICS))).astype(np.int8)
    table = table_of(points)
    config = check_config({"duel": {"resamples": 1000}})
    started = time.thread_time()
    found = gate(table, list("abc"), config)
    # A tenth of the resamples; all of them must take 5 s.
    assert time.thread_time() - started < 2
    assert len(found) == 4 and math.isfinite(found[""]["lcb"])
