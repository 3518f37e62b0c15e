"""All turns as a table, and what they say of each judge."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from common.config import METRICS
from common.duel.record import enter_score, new_table, spending
from common.duel.statistics import MISSING, agreement, habits, mean_score
from common.duel.verdicts import SECOND_LOOK
from common.turns import ORDERS
from makers import make_answer, make_score, make_verdict

LOST = [0] * len(METRICS)  # half-points of a verdict
WON = [2] * len(METRICS)


# ------------------------------------------------------------------------------------------ judges


def test_known_habits_of_judges_are_found():
    random = np.random.default_rng(3)
    truth = random.integers(0, 3, (200, len(METRICS)))
    steady = np.stack([truth, truth], axis=1).astype(np.int8)
    seated = np.stack([np.zeros_like(truth), np.full_like(truth, 2)], axis=1)  # shown second
    noisy = random.integers(0, 3, steady.shape)
    equal = float((truth == 1).mean())
    assert habits(steady) == {"equal_share": equal, "position_consistency": 1, "pull": 0}
    assert habits(seated) == {"equal_share": 0, "position_consistency": 0, "pull": 1}
    by_chance = habits(noisy)
    assert abs(by_chance["position_consistency"] - 1 / 3) < 0.1 and abs(by_chance["pull"]) < 0.1
    unread = np.full_like(steady, -1)
    assert {*habits(unread).values()} == {None}
    decided = np.where(steady == 1, 2, steady)
    points = np.stack([decided, decided, 2 - decided], axis=1)
    assert agreement(points[:, :2]) == 1 and agreement(points[:, [0, 2]]) < 0
    assert agreement(points[:, :1]) is None


def test_a_metric_that_is_mostly_draws_is_no_agreement():
    """Judges who agree on nothing within any metric agree on nothing."""
    random = np.random.default_rng(4)
    points = random.integers(0, 3, (2000, 3, 1, len(METRICS)))
    points[..., 3] = np.where(random.random((2000, 3, 1)) < 0.95, 1, points[..., 3])
    points = np.repeat(points, len(ORDERS), axis=2).astype(np.int8)
    assert abs(agreement(points)) < 0.03


def test_shares_of_half_points_leave_the_unread_out():
    assert mean_score(np.array([[2, 2, -1], [1, 1, -1]])) == 75
    assert mean_score(np.full((3, 2), -1)) is None


# ------------------------------------------------------------------------------------------- money


def test_bills_add_up_whatever_the_order():
    verdicts = [
        make_verdict("a/j", ORDERS[0], None, key="1", cost_usd=0.1 + 0.2),
        make_verdict("a/j", ORDERS[1], WON, key="2", cost_usd=0.000001),
        make_verdict("a/j", ORDERS[1], LOST, key="3", cost_usd=None, usage=None),
    ]
    score = {"score": None, "counted": ["1", "2", "3"]}
    there = defaultdict(Counter)
    back = defaultdict(Counter)
    (row,) = new_table(1, 1)
    enter_score(row, {**score, "verdicts": verdicts}, ["a/j"], there)
    enter_score(row, {**score, "verdicts": verdicts[::-1]}, ["a/j"], back)
    spent = spending(there["a/j"])
    assert spent == spending(back["a/j"])
    assert spent["calls"] == 3 and spent["parse_rate"] == 2 / 3
    assert spent["cost_usd"] == 0.300001
    nothing = spending(Counter())
    assert (nothing["calls"], nothing["cost_usd"], nothing["parse_rate"]) == (0, None, None)


# ------------------------------------------------------------------------------------- score files


def test_rows_hold_what_counts_and_no_second_look():
    judges = ["a/one", "b/two"]
    table = new_table(2, len(judges))
    bills = defaultdict(Counter)
    most = 2 * len(METRICS) * len(ORDERS) * len(judges)
    stem = "prompts_1_1_1"
    score = make_score(stem, make_answer(1), most - 1, judges)
    again = make_verdict("z/other", ORDERS[0], LOST, key="again", look=SECOND_LOOK)
    older = make_verdict("a/one", ORDERS[0], LOST, key="older")
    score["verdicts"] += [again, older]
    score |= {"counted_confirmed": [again["key"]], "score_confirmed": 33.0}
    enter_score(table[0], score, judges, bills)
    assert [int(points.sum()) for points in table["points"]] == [most - 1, most // 2 * MISSING]
    assert table["score"][0] == score["score"] and table["score_confirmed"][0] == 33
    assert bills["a/one"]["calls"] == 2, "one of other settings is of no account"
    assert "z/other" not in bills, "nor one of the second look"
