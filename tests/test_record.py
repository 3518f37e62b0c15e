"""All turns as a table, and what they say of each judge."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import panel
from common.config import METRICS, check_config
from common.duel.record import MISSING, bill_of, read_table, spending
from common.duel.statistics import final_mask, judge_figures, percent_of, stopping_saves
from common.duel.verdicts import FIRST_LOOK, SECOND_LOOK, Panel
from common.turns import ORDERS
from makers import make_answer, make_prompt, make_score, make_verdict, put

SETTINGS = {"alpha": 0.05, "resamples": 1000, "seed": 0}


# ------------------------------------------------------------------------------------------ judges


def figures(points: np.ndarray, instances=None) -> tuple[dict, dict]:
    """Return what the judges a, b, ... are like and agree on; every turn is an instance."""
    instances = np.arange(len(points)) if instances is None else instances
    return judge_figures(points, instances, list("abcd")[: points.shape[1]], SETTINGS)


def contrasts(points: np.ndarray, instances: np.ndarray) -> dict[str, dict]:
    judges, _ = figures(points, instances)
    return {name: judge["contrast"] for name, judge in judges.items()}


def test_known_habits_of_judges_are_found():
    random = np.random.default_rng(3)
    truth = random.integers(0, 3, (200, len(METRICS)))
    steady = np.stack([truth, truth], axis=1)
    seated = np.stack([np.zeros_like(truth), np.full_like(truth, 2)], axis=1)  # shown second
    contrary = 2 - steady
    noisy = random.integers(0, 3, steady.shape)
    points = np.stack([steady, seated, contrary, noisy], axis=1).astype(np.int8)
    habits, _ = figures(points)
    assert habits["a"]["position_consistency"] == 1 and habits["a"]["pull"] == 0
    assert habits["b"]["position_consistency"] == 0 and habits["b"]["pull"] == 1
    assert habits["c"]["position_consistency"] == 1 and habits["c"]["agreement"] < 0
    assert abs(habits["d"]["position_consistency"] - 1 / 3) < 0.1
    assert abs(habits["d"]["pull"]) < 0.1
    same = np.stack([steady, steady], axis=1).astype(np.int8)
    pair, agreement = figures(same)
    assert agreement["value"] == agreement["interval_alpha"] == 1 and pair["a"]["agreement"] == 1


def test_a_metric_that_is_mostly_draws_is_no_agreement():
    """Judges who agree on nothing within any metric agree on nothing."""
    random = np.random.default_rng(4)
    points = random.integers(0, 3, (2000, 3, 1, len(METRICS)))
    points[..., 3] = np.where(random.random((2000, 3, 1)) < 0.95, 1, points[..., 3])
    points = np.repeat(points, len(ORDERS), axis=2).astype(np.int8)
    _, agreement = figures(points)
    assert abs(agreement["value"]) < 0.03
    assert abs(agreement["interval_alpha"]) < 0.05


def test_a_judge_that_favours_its_own_stands_out():
    random = np.random.default_rng(5)
    turns = panel.make_turns(random, [10] * 60)
    seen = panel.views(random, turns, panel.TYPICAL)
    seen[:, 1] += 0.35  # some six points
    points = panel.ask(random, seen, panel.TYPICAL)
    found = contrasts(points, turns.instances)
    low, high = found["b"]["interval"]
    assert 2 < low < found["b"]["mean"] < high
    assert found["a"]["interval"][1] < 0 and found["c"]["interval"][1] < 0
    mean = found["a"]["mean"] + found["b"]["mean"] + found["c"]["mean"]
    assert mean == pytest.approx(0, abs=1e-9)
    assert contrasts(points[:, :1], turns.instances) == {"a": None}
    few = contrasts(points[::150], turns.instances[::150])
    assert few["a"]["interval"] is None


def test_shares_of_half_points_leave_the_unread_out():
    assert percent_of(np.array([[2, 2, -1], [1, 1, -1]])) == 75
    assert percent_of(np.full((3, 2), -1)) is None


# ------------------------------------------------------------------------------------------- money


def test_bills_add_up_exactly_whatever_the_order():
    verdicts = [
        make_verdict("a/j", ORDERS[0], None, cost_usd=0.1 + 0.2),
        make_verdict("a/j", ORDERS[1], [2] * 5, cost_usd=0.000001),
        make_verdict("a/j", ORDERS[1], [0] * 5, cost_usd=None, usage=None),
    ]
    there = Counter()
    back = Counter()
    for verdict in verdicts:
        there.update(bill_of(verdict))
    for verdict in reversed(verdicts):
        back.update(bill_of(verdict))
    assert spending(there) == spending(back)
    assert spending(there)["calls"] == 3 and spending(there)["parse_rate"] == 2 / 3
    assert spending(there)["cost_usd"] == 0.300001
    assert spending(Counter()) == {**spending(Counter()), "calls": 0, "cost_usd": None}
    assert spending(Counter())["parse_rate"] is None


# ---------------------------------------------------------------------------------- stopping early


def replay(points: np.ndarray, edge: float) -> tuple[int, int, int]:
    """Ask verdict by verdict, as validate.py does; return (how many, their points, the most)."""
    asked = 0
    won = 0
    verdicts = points.sum(axis=2).ravel()
    each = 2 * len(METRICS)
    most = each * len(verdicts)
    for half in verdicts:
        asked += 1
        won += int(half)
        if 100 * (won + each * (len(verdicts) - asked)) < edge * most:
            break
    return asked, won, each * asked


@pytest.mark.parametrize("kind", ["typical", "noisy"])
@pytest.mark.parametrize("edge", [80, 73])
def test_stopping_saves_what_a_replay_saves_and_changes_no_final(kind, edge):
    judges = panel.KINDS[kind]
    random = np.random.default_rng(6)
    turns = panel.make_turns(random, [10] * 80, panel.lead_for(58, judges))
    points = panel.judged(random, turns, judges)
    final = final_mask(points)
    assert 40 < final.sum() < 400
    asked = []
    for number in range(len(points)):
        calls, won, most = replay(points[number], edge)
        asked.append(calls)
        reaches = calls == 6 and 100 * won >= 80 * most
        assert reaches == final[number]
        if calls < 6:
            assert panel.scores(points)[number] < edge
            assert 100 * won < 80 * most, "nor do the verdicts at hand put it into final/"
    saves = stopping_saves(points, edge)
    assert saves == pytest.approx(1 - np.mean(asked) / 6)
    if edge == 80:
        assert 0.75 * saves >= 0.24
    assert stopping_saves(points[:0], edge) is None


# ------------------------------------------------------------------------------------- score files


def test_rows_hold_what_counts_and_no_second_look(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    judges = ["a/one", "b/two"]
    for number in range(3):
        answer = make_answer(number, make_prompt(number))
        stem = f"prompts_3_1_{number + 1}"
        score = make_score(stem, answer, 40 - number, judges)
        again = make_verdict("z/other", ORDERS[0], [0] * 5, key=f"again {number}", look=2)
        older = make_verdict("a/one", ORDERS[0], [0] * 5, key=f"older {number}")
        score["verdicts"] += [again, older]
        score["counted_confirmed"] = [again["key"]]
        score["score_confirmed"] = 33.0
        put(tmp_path / f"score/{stem}.json", score)
    stems = {f"prompts_3_1_{number}": 1.5 for number in (1, 2, 3, 4)}
    judging = Panel(check_config({"judge": {"models": judges}}), "")
    table, bills = read_table(stems, judging, 2)
    assert table["points"].shape == (4, 2, 2, 5)
    assert [int(points.sum()) for points in table["points"]] == [40, 39, 38, 20 * MISSING]
    assert [str(status) for status in table["status"]] == ["parsed"] * 3 + ["unfinished"]
    assert table["instance"][1] == "acme__widgets-1" and table["repo"][1] == "acme/widgets"
    assert bills[FIRST_LOOK, "a/one"]["calls"] == 6
    assert bills[SECOND_LOOK, "z/other"]["calls"] == 3
    assert table["score"][:3].tolist() == [100.0, 97.5, 95.0]
    assert table["score_confirmed"][:3].tolist() == [33.0] * 3
    other_mode, _ = read_table(stems, judging, 1)
    assert (other_mode["points"] == MISSING).all(), "verdicts of the other mode are none"
