"""Which verdicts count: their keys, the state of a turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.cli import Tally
from common.config import METRICS, check_config
from common.duel.verdicts import FIRST_LOOK, READING, SECOND_LOOK, Panel, Question, load_turn
from common.turns import ORDERS
from makers import make_answer, make_verdict, put
from validate import fixed_prompt

STEM = "prompts_1_1_1"
JUDGES = ["a/one", "b/two"]
WON = [2] * len(METRICS)  # half-points of a verdict
DRAWN = [1] * len(METRICS)


def make_panel(rubric: str | None = None, **sections) -> Panel:
    sections = {"judge": {"models": JUDGES}, **sections}
    return Panel(check_config(sections), rubric or fixed_prompt())


@pytest.fixture
def turn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_turn()


def make_turn(mode: int = 2, **fields):
    """Write an answer and return its turn as validate.py loads it."""
    path = Path("answer_0", f"{STEM}.json")
    put(path, make_answer(1, **fields))
    return load_turn(STEM, path, mode, Tally("test"), write=False)


def keys(panel: Panel, turn, look: int = FIRST_LOOK) -> list[str]:
    return [question.key(turn) for question in panel.questions[look]]


def pending(panel: Panel, turn, retry_failed: bool = False) -> list[Question]:
    return panel.pending(turn, panel.score_record(turn), FIRST_LOOK, retry_failed)


def give(panel: Panel, turn, *halves: list[int] | None, look: int = FIRST_LOOK) -> None:
    """Add verdicts with these half-points in the order of asking; None for one not read."""
    for question, half in zip(panel.questions[look], halves):
        key = question.key(turn)
        model = question.call.model
        turn.verdicts.append(make_verdict(model, question.order, half, key=key, look=look))


# -------------------------------------------------------------------------------------------- keys


def test_a_key_is_made_of_all_that_shapes_a_verdict(turn):
    base = keys(make_panel(), turn)
    assert len(set(base)) == 4
    assert keys(make_panel(), make_turn()) == base
    other_texts = [
        make_turn(king="THOUGHT: other.\n\n```bash\nls\n```"),
        make_turn(challenger="THOUGHT: other.\n\n```bash\nls\n```"),
        make_turn(messages=[{"role": "user", "content": "other"}]),
        make_turn(mode=1),
    ]
    for other in other_texts:
        assert not set(keys(make_panel(), other)) & set(base)
    assert not set(keys(make_panel(rubric="another rubric"), turn)) & set(base)
    warmer = make_panel(judge={"models": JUDGES, "temperature": 0.7})
    assert not set(keys(warmer, turn)) & set(base)
    one_warmer = {"models": JUDGES, "override": {"a/one": {"temperature": 0.7}}}
    assert keys(make_panel(judge=one_warmer), turn)[2:] == base[2:]
    patient = {"models": JUDGES, "retry_budget_s": 5.0, "concurrency": 1, "stream": False}
    assert keys(make_panel(judge=patient), turn) == base, "what shapes no verdict is in no key"
    assert keys(make_panel(), make_turn(assistant="other")) == base, "nor the reply not compared"


def test_a_judge_of_both_looks_is_asked_in_each(turn):
    panel = make_panel(confirm={"models": ["a/one", "x/other"]})
    first = keys(panel, turn)
    second = keys(panel, turn, SECOND_LOOK)
    reading = keys(panel, turn, READING)
    assert len({*first, *second, *reading}) == 4 + 4 + 2


# ------------------------------------------------------------------------------------------ states


def test_a_turn_through_its_states(turn):
    panel = make_panel()
    assert panel.score_record(turn)["status"] == "unfinished"
    assert len(pending(panel, turn)) == 4
    give(panel, turn, WON, WON, WON)
    record = panel.score_record(turn)
    assert record["status"] == "unfinished" and record["score"] is None
    (question,) = pending(panel, turn)
    assert (question.call.model, question.order) == ("b/two", ORDERS[1])
    give(panel, turn, WON, WON, WON, None)
    record = panel.score_record(turn)
    assert record["status"] == "parse-fail" and record["score"] is None
    assert pending(panel, turn) == []
    assert pending(panel, turn, retry_failed=True) == [question]
    give(panel, turn, WON, WON, WON, DRAWN)
    record = panel.score_record(turn)
    assert record["status"] == "parsed" and record["score"] == 87.5
    assert len(record["counted"]) == 4 and len(record["verdicts"]) == 11, "nothing paid is lost"
    smaller = make_panel(judge={"models": ["b/two"]})
    assert smaller.score_record(turn)["score"] == 75


def test_identical_replies_are_a_draw_without_a_call(turn):
    same = make_turn(challenger="x", king="x")
    panel = make_panel()
    assert pending(panel, same) == []
    record = panel.score_record(same)
    assert (record["status"], record["score"], record["points"]) == ("parsed", 50, sum(4 * DRAWN))
    assert make_turn(challenger="", king="x") is None


def test_the_reader_is_one_who_wrote_neither_reply():
    models = ["moonshotai/Kimi-K2.6-TEE", "x/other"]
    assert make_panel(confirm={"models": models}).reader.model == "x/other"
    assert make_panel(confirm={"models": models[:1]}).reader is None
    assert make_panel(confirm={"models": models, "peek": False}).reader is None
    assert make_panel().reader is None and make_panel().confirm == []


def test_a_question_names_judge_order_and_look():
    panel = make_panel(confirm={"models": ["x/other"]})
    told = [question[:3] for question in panel.questions[SECOND_LOOK]]
    assert told == [(panel.confirm[0], order, SECOND_LOOK) for order in ORDERS]
    orders = [question.order for question in panel.questions[FIRST_LOOK]]
    assert orders == [*ORDERS, *ORDERS], "a judge's two orders lie side by side"
