"""The one reader of prompts, records, answers and scores, and the arithmetic of a score."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import METRICS
from common.files import BadFile, UserError
from common.turns import (
    ORDERS,
    SIDES,
    UNREAD,
    answer_files,
    answer_folders,
    bucket,
    exclusion_reason,
    half_points,
    hidden_record,
    read_answer,
    read_duel,
    read_prompts,
    read_record,
    read_score,
    text_digests,
    turn_score,
    why_excluded,
)
from makers import (
    JUDGES,
    MOST,
    make_answer,
    make_chat,
    make_prompt,
    make_record,
    make_score,
    make_verdict,
    put,
)

STEM = "prompts_1_1_1"
EVEN = MOST // 2  # half-points of a turn that neither side wins


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------ prompts and records


@pytest.mark.parametrize(
    "messages, problem",
    [
        ([], "key 'messages': List should have at least 1 item"),
        ("text", "key 'messages': Input should be a valid list"),
        ([{"role": "user"}], "record 1: key 'content': missing"),
        ([{"role": "user", "content": None}], "record 1: key 'content': Input should be a valid"),
        ([*make_chat(1), "text"], "key 'messages': record 3: Input should be a valid dict"),
        ([*make_chat(1), {"role": "assistant", "content": "x"}], "ends with a user message"),
    ],
)
def test_a_chat_is_of_texts_and_ends_with_the_user(here, messages, problem):
    put(here / "prompts_2_1.json", [make_prompt(0), make_prompt(1, messages=messages)])
    with pytest.raises(UserError, match=rf"prompts_2_1.json: record 2: .*{problem}.*\n.*prompt.py"):
        read_prompts(here / "prompts_2_1.json")
    put(here / f"{STEM}.json", make_answer(1, messages=messages))
    with pytest.raises(BadFile, match=problem):
        read_answer(here / f"{STEM}.json")


def test_a_prompts_file_is_read_or_named_with_its_record(here):
    path = here / "prompts_2_1.json"
    prompts = [make_prompt(0), make_prompt(1, steps=3)]
    put(path, prompts)
    assert read_prompts(path) == prompts
    put(path, [make_prompt(0), "text"])
    with pytest.raises(UserError, match="record 2: Input should be a valid dictionary"):
        read_prompts(path)
    del prompts[1]["assistant"]
    put(path, prompts)
    with pytest.raises(UserError, match="record 2: key 'assistant': missing"):
        read_prompts(path)
    path.write_text("[{")
    with pytest.raises(UserError, match="run prompt.py again"):
        read_prompts(path)


def test_a_record_is_of_the_instance_it_is_named_for(here):
    put(here / "commit/acme__widgets-1.json", make_record(1))
    assert read_record("acme__widgets-1") == make_record(1)
    with pytest.raises(UserError, match="run prompt.py again"):
        read_record("acme__widgets-2")
    put(here / "commit/acme__widgets-2.json", make_record(1))
    with pytest.raises(BadFile, match="holds the record of 'acme__widgets-1'"):
        read_record("acme__widgets-2")


def test_what_is_excluded_is_told_by_what_the_challenger_would_read():
    record = make_record(1, patch="x" * 100, test_patch="y" * 9000, interface="z" * 10)
    size = len(record["issue"]) + len(record["description"]) + 100 + 10
    assert exclusion_reason(record, size) is None
    assert "too large" in exclusion_reason(record, size - 1)
    assert exclusion_reason({**record, "interface": None}, size - 10) is None
    assert "excluded instances" in exclusion_reason(record, size, frozenset({"acme__widgets-1"}))


def test_what_has_answers_is_excluded_by_the_same_list_without_its_record_too(here, monkeypatch):
    put(here / "commit/acme__widgets-1.json", make_record(1))
    monkeypatch.setattr("common.turns.EXCLUDED_IDS", frozenset({"acme__widgets-2"}))
    assert why_excluded("acme__widgets-1", 10_000) is None
    assert "too large" in why_excluded("acme__widgets-1", 10)
    assert why_excluded("acme__widgets-2", 10) == "on the list of excluded instances"
    assert why_excluded("acme__widgets-3", 10) is None


def test_the_hidden_record_leaves_out_what_is_empty_and_says_where_it_is_cut():
    record = make_record(1, patch="p" * 1500, interface=None, description="  ")
    shown = hidden_record(record, 1000)
    assert "Interface" not in shown and "Description" not in shown
    assert shown.endswith("[the patch is cut here: 1,000 of 1,500 characters are shown]")
    assert "p" * 1000 in shown and "p" * 1001 not in shown


# ----------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    "change, why",
    [
        ({"instance_id": 7}, "key 'instance_id': Input should be a valid string"),
        ({"king": ["x"]}, "key 'king': Input should be a valid string"),
    ],
)
def test_an_answer_that_is_not_ours_is_named(here, change, why):
    path = here / f"answer_0/{STEM}.json"
    put(path, make_answer(0, **change))
    with pytest.raises(BadFile, match=why):
        read_answer(path)


@pytest.mark.parametrize("odd", ["x", ["x"], 5, True, None])
def test_what_is_no_object_in_meta_counts_as_empty(here, odd):
    path = here / f"{STEM}.json"
    put(path, make_answer(0, meta=odd))
    assert read_answer(path)["meta"] == {"king": {}, "challenger": {}}
    put(path, make_answer(0, meta={"repo": "r", "king": odd, "challenger": odd}))
    assert read_answer(path)["meta"] == {"repo": "r", "king": {}, "challenger": {}}


def test_an_answer_keeps_the_order_of_its_keys(here):
    put(here / f"{STEM}.json", make_answer(0))
    keys = ["instance_id", "king", "challenger", "assistant", "messages", "meta"]
    assert list(read_answer(here / f"{STEM}.json")) == list(make_answer(0)) == keys


def test_an_answer_of_an_older_version_is_whole(here):
    path = here / f"answer_0/{STEM}.json"
    put(path, make_answer(0, challenger=None, assistant=None, meta=None))
    answer = read_answer(path)
    assert answer["challenger"] == answer["assistant"] == ""
    assert answer["meta"] == {"king": {}, "challenger": {}}
    bad_name = here / "answer_0/a b.json"
    put(bad_name, make_answer(0))
    with pytest.raises(BadFile, match="a name that no stage"):
        read_answer(bad_name)


def test_of_a_turn_in_two_folders_the_filled_one_counts(here):
    for number in (0, 2, 10):
        put(here / f"answer_{number}/{STEM}.json", make_answer(0, challenger=""))
    put(here / "answer_x/p_1.json", make_answer(0))
    assert [path.name for path in answer_folders()] == ["answer_0", "answer_2", "answer_10"]
    assert answer_files() == {STEM: Path("answer_0", f"{STEM}.json")}
    put(here / f"answer_10/{STEM}.json", make_answer(0))
    assert answer_files() == {STEM: Path("answer_10", f"{STEM}.json")}
    (here / f"answer_10/{STEM}.json").write_text("{")
    assert answer_files() == {STEM: Path("answer_0", f"{STEM}.json")}


def test_shards_part_the_stems_evenly(here):
    stems = [f"prompts_2000_{file}_{order}" for file in range(1, 11) for order in range(1, 201)]
    (here / "answer_0").mkdir()
    for stem in stems:
        (here / f"answer_0/{stem}.json").touch()
    parts = [answer_files((number, 4)).keys() for number in range(4)]
    assert sum(map(len, parts)) == 2000 and min(map(len, parts)) > 420
    assert set().union(*parts) == answer_files().keys() == set(stems)


def test_digests_tell_every_text_of_a_turn_apart():
    answer = make_answer(0, king="a", challenger="b", assistant="")
    sha = text_digests(answer)
    assert set(sha) == {"chat", *SIDES} and len(set(sha.values())) == 4
    moved = [{"role": "user", "content": "ab"}, {"role": "user", "content": "c"}]
    other = [{"role": "user", "content": "a"}, {"role": "user", "content": "bc"}]
    first = text_digests({**answer, "messages": moved})
    assert first["chat"] != text_digests({**answer, "messages": other})["chat"]
    assert first["king"] == sha["king"]


# ------------------------------------------------------------------------------------------ scores


def test_half_points_are_the_challengers_in_either_order():
    for call, worth in ((0, (1, 1)), (1, (2, 0)), (2, (0, 2))):
        for order, halves in zip(ORDERS, worth):
            verdict = make_verdict("a", order, None)
            verdict["calls"] = dict.fromkeys(METRICS, 0) | {METRICS[1]: call}
            assert half_points(verdict) == [1, halves, *[1] * (len(METRICS) - 2)]
    assert half_points(make_verdict("a", ORDERS[0], None)) == [UNREAD] * len(METRICS)


def test_a_score_is_the_share_of_what_could_be_read():
    verdicts = [
        make_verdict("a", ORDERS[0], [2] * len(METRICS)),
        make_verdict("a", ORDERS[1], [1] * len(METRICS)),
        make_verdict("b", ORDERS[0], [1, *[0] * (len(METRICS) - 1)]),
        make_verdict("b", ORDERS[1], None),
    ]
    score = turn_score(verdicts, ["a", "b"])
    points = 3 * len(METRICS) + 1
    most = 6 * len(METRICS)
    assert (score["points"], score["max_points"]) == (points, most)
    assert score["score"] == 100 * points / most
    assert score["by_judge"] == {"a": 75.0, "b": None}
    assert score["metrics"][METRICS[0]] == pytest.approx(100 * 4 / 6)
    assert score["metrics"][METRICS[1]] == 50
    assert turn_score(verdicts[3:], ["a", "b"])["score"] is None
    assert turn_score([], ["a", "b"], identical=True)["by_judge"] == {"a": 50, "b": 50}


@pytest.mark.parametrize(
    "points, most, where",
    [
        (48, 60, "final"),
        (47, 60, "refined"),
        (40, 60, "refined"),
        (39, 60, "defeat"),
        (80, 100, "final"),
        (66, 100, "refined"),
        (65, 100, "defeat"),
        (96, 120, "final"),
        (95, 120, "refined"),
    ],
)
def test_eighty_is_eighty_in_whole_numbers(points, most, where):
    score = {"status": "parsed", "points": points, "max_points": most}
    assert bucket(score)[0] == where
    held = bucket(score, held_back="no block")[0]
    assert held == ("refined" if where == "final" else where)
    assert bucket({**score, "held_back": "named"})[0] == held
    for status in ("parse-fail", "unfinished"):
        assert bucket({**score, "status": status}) == (None, f"no score: {status}")
    confirmed = {**score, "points": 0, "points_confirmed": points, "max_points_confirmed": most}
    assert bucket(confirmed)[0] == where


def verdicts_with(**change) -> dict:
    """Return a score's verdicts with the third one changed."""
    verdicts = make_score(STEM, make_answer(0), EVEN)["verdicts"]
    verdicts[2] |= change
    return {"verdicts": verdicts}


@pytest.mark.parametrize(
    "change, why",
    [
        ({"stem": "other"}, "holds the score of 'other'"),
        ({"mode": 3}, "key 'mode'"),
        ({"status": "fine"}, "key 'status'"),
        ({"status": "unfinished"}, "'parsed' and 'status' contradict"),
        ({"points": None}, "score 50.0 is not 100"),
        ({"score": None}, "score None is not 100"),
        ({"score": 90.0}, "score 90.0 is not 100"),
        ({"points": -1}, "score 50.0 is not 100"),
        ({"points_confirmed": 9}, "score_confirmed None is not 100"),
        ({"reader": ["x"]}, "key 'reader'"),
        ({"sha": {}}, "key 'sha'"),
        ({"sha": dict.fromkeys("abcd", "")}, "key 'sha': key 'a': .*should be 'chat', 'king'"),
        ({"points": True}, "key 'points'"),
        ({"score": float("nan")}, "key 'score'"),
        ({"metrics": {"correctness": "high"}}, "key 'metrics'"),
        ({"by_judge": None}, "key 'by_judge'"),
        ({"verdicts": [{}]}, "key 'verdicts': record 1: key 'key': missing"),
        ({"repo": None}, "key 'repo'"),
        (verdicts_with(calls=dict.fromkeys(METRICS, 3)), "key 'verdicts': record 3"),
        (verdicts_with(calls=dict.fromkeys(METRICS, "1")), "key 'calls': expected 0, 1 or 2"),
        (verdicts_with(calls=dict.fromkeys(METRICS, True)), "key 'verdicts': record 3"),
        (verdicts_with(usage={"prompt_tokens": "many"}), "key 'verdicts': record 3"),
        (verdicts_with(cost_usd="cheap"), "key 'verdicts': record 3"),
        (verdicts_with(order=None), "key 'verdicts': record 3"),
        (verdicts_with(order="sideways"), "key 'verdicts': record 3"),
    ],
)
def test_a_score_file_of_others_is_named(here, change, why):
    path = here / f"score/{STEM}.json"
    score = make_score(STEM, make_answer(0), EVEN)
    put(path, score)
    assert read_score(path)["points"] == EVEN
    put(path, {**score, **change})
    with pytest.raises(BadFile, match=why):
        read_score(path)


def test_scores_of_older_versions_are_read_as_of_today(here):
    """Verdicts without a look are of the first; a turn that was stopped early is unfinished."""
    score = make_score(STEM, make_answer(0), EVEN, parsed=False, status="stopped")
    for verdict in score["verdicts"]:
        del verdict["look"]
    del score["score"]
    put(here / f"score/{STEM}.json", {**score, "bounds": [50, 80], "flags": []})
    read = read_score(Path("score", f"{STEM}.json"))
    assert [verdict["look"] for verdict in read["verdicts"]] == [1] * 2 * len(JUDGES)
    assert read["status"] == "unfinished" and bucket(read)[0] is read["score"] is None


@pytest.mark.parametrize(
    "change, why",
    [
        ({"turns": [1]}, "key 'turns'"),
        ({"mean_score": "high"}, "key 'mean_score'"),
        ({"judges": {"a": None}}, "key 'judges': key 'a'"),
        ({"judges": {"a": {"pull": "x"}}}, "key 'judges': key 'a': key 'pull'"),
        ({"leave_one_out": {"a": 5}}, "key 'leave_one_out': key 'a'"),
        ({"leave_one_out": {"a": {"accepted": "x"}}}, "key 'accepted'"),
        ({"second_look": [1]}, "key 'second_look'"),
        ({"second_look": {"named": ["x"]}}, "key 'second_look': key 'named'"),
        ({"agreement": 0.4}, "key 'agreement'"),
    ],
)
def test_the_duel_is_read_or_named(here, change, why):
    assert read_duel() is None
    duel = {"mode": 2, "accepted": True, "why": "", "turns": {}, "judges": {"a": {}}}
    put(here / "score/_duel.json", duel)
    assert read_duel() == duel
    put(here / "score/_duel.json", {**duel, **change})
    with pytest.raises(BadFile, match=why):
        read_duel()
    put(here / "score/_duel.json", {"mode": 2})
    with pytest.raises(BadFile, match="'accepted': missing"):
        read_duel()
