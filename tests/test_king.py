"""Stage 2 by its contract: what it asks, what it leaves out, shards, bad input."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import king
from common.turns import exclusion_reason
from makers import (
    REPLY,
    answers,
    get,
    make_prompt,
    make_record,
    make_sample,
    put,
    write_prompts,
    write_settings,
)
from runner import paused, stage, start

pytestmark = pytest.mark.background


def failures(cwd: Path) -> dict[str, str]:
    """Return the reason of each failed item."""
    lines = (cwd / "answer_0/_failed.jsonl").read_text().splitlines()
    return {row["item"]: row["reason"] for row in map(json.loads, lines)}


def test_the_king_sees_the_chat_and_nothing_else(tmp_path, server):
    make_sample(tmp_path, 5)
    result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 0, result.stderr
    assert "next    python ch.py" in result.stdout
    asked = sorted((request["body"]["messages"] for request in server.chats), key=str)
    assert asked == sorted((make_prompt(number)["messages"] for number in range(5)), key=str)
    sent = json.dumps([request["body"] for request in server.chats])
    assert "zebra_offset" not in sent, "no word of the patch"
    answer = answers(tmp_path)["prompts_5_1_2"]
    assert list(answer) == [
        "instance_id", "king", "challenger", "assistant", "messages", "meta",
    ]  # fmt: skip
    assert answer["instance_id"] == "acme__widgets-1"
    assert answer["king"] == REPLY
    assert answer["challenger"] == ""
    assert answer["assistant"] == make_prompt(1)["assistant"]
    assert answer["meta"]["source"]["row"] == 1
    assert answer["meta"]["king"]["usage"]


def test_no_cap_per_instance_and_oversized_records_left_out(tmp_path, server):
    make_sample(tmp_path, 1)
    prompts = [make_prompt(0)] * 3 + [make_prompt(1)]
    put(tmp_path / "prompt/prompts_1_1.json", prompts)
    put(tmp_path / "commit/acme__widgets-1.json", make_record(1, patch="x" * 6000))
    write_settings(tmp_path, generate={"max_record_chars": 5000})
    result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 0, result.stderr
    assert sorted(answers(tmp_path)) == [f"prompts_1_1_{order}" for order in (1, 2, 3)]
    assert "PR record too large" in result.stdout


def test_excluded_ids_are_never_asked(monkeypatch, tmp_path):
    excluded = frozenset({"acme__widgets-1"})
    assert "excluded" in exclusion_reason(make_record(1), 10**6, excluded)
    assert exclusion_reason(make_record(0), 10**6, excluded) is None
    make_sample(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(king, "_EXCLUDE_IDS", excluded)
    tally = king.Tally("king.py")
    pending = king.find_pending((0, 1), 10**6, tally, write=False)
    assert pending == ["prompts_2_1_1"]
    assert tally.skipped == {"on the list of excluded instances": 1}


def test_shards_part_the_prompts_and_the_rest_is_found_answered(tmp_path, server):
    make_sample(tmp_path, 11, per_file=4)
    for number in range(3):
        shard = stage("king.py", "--shard", f"{number}/3", cwd=tmp_path, server=server)
        assert shard.returncode == 0, shard.stderr
    files = list(tmp_path.glob("answer_*/prompts*.json"))
    assert {path.parent.name for path in files} == {"answer_0", "answer_1", "answer_2"}
    assert len(answers(tmp_path)) == len(files) == len(server.chats) == 11
    result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 0, result.stderr
    assert len(server.chats) == 11


def test_a_shard_excludes_a_whole_run_and_shards_of_another_number(tmp_path, server):
    make_sample(tmp_path, 6)
    server.latency_s = 0.6
    first = start("king.py", "--shard", "0/2", cwd=tmp_path, server=server)
    while len(server.chats) < 3:
        time.sleep(0.01)
    with paused(first):
        whole = stage("king.py", cwd=tmp_path, server=server)
        other = stage("king.py", "--shard", "2/3", cwd=tmp_path, server=server)
    assert whole.returncode == other.returncode == 2
    assert "shard 0/2 is at work" in whole.stderr and "shard 0/2 is at work" in other.stderr
    assert "Traceback" not in whole.stderr + other.stderr
    assert len(server.chats) == 3, "nothing was asked twice"
    first.communicate(timeout=30)
    assert first.returncode == 0
    other = stage("king.py", "--shard", "2/3", cwd=tmp_path, server=server)
    assert other.returncode == 0, other.stderr
    assert len(server.chats) == len(answers(tmp_path)) == 4  # 0, 2, 4 of the first; 2 and 5


def test_a_shard_removes_what_its_killed_run_left(tmp_path, server):
    make_sample(tmp_path, 2)
    for name in (".a.json.king.1.tmp", ".a.json.ch.1.tmp"):
        put(tmp_path / "answer_1" / name, {})
    assert stage("king.py", "--shard", "1/2", cwd=tmp_path, server=server).returncode == 0
    assert [path.name for path in tmp_path.glob("answer_1/.*")] == [".a.json.ch.1.tmp"]


def test_another_sample_under_the_same_names_is_not_taken_for_answered(tmp_path, server):
    make_sample(tmp_path, 2)
    dry = stage("king.py", "--dry-run", cwd=tmp_path, server=server)
    assert dry.returncode == 0 and "2 calls" in dry.stdout and server.chats == []
    assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    other_turns = [make_prompt(number, source={"row": 9}) for number in range(2)]
    other_instances = [make_prompt(1), make_prompt(0)]
    other_count = [make_prompt(number) for number in range(3)]
    for prompts in (other_turns, other_instances, other_count):
        (tmp_path / "prompt/prompts_2_1.json").unlink(missing_ok=True)
        write_prompts(tmp_path, prompts)
        result = stage("king.py", cwd=tmp_path, server=server)
        assert result.returncode == 2
        assert "prompts_2_1_1.json answers a prompt of acme__widgets-0" in result.stderr
    assert len(server.chats) == 2


def test_a_torn_or_foreign_answer_is_set_aside_and_asked_for_again_alone(tmp_path, server):
    make_sample(tmp_path, 3)
    assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    torn = tmp_path / "answer_0/prompts_3_1_2.json"
    half = torn.read_bytes()[:200]
    torn.write_bytes(half)
    foreign = tmp_path / "answer_0/prompts_3_1_3.json"
    foreign.write_text('{"something": "else"}')
    result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 0, result.stderr
    assert "set aside as prompts_3_1_2.json.bad" in result.stdout
    assert torn.with_name(torn.name + ".bad").read_bytes() == half
    assert foreign.with_name(foreign.name + ".bad").exists()
    assert len(server.chats) == 5 and get(torn)["king"] == get(foreign)["king"] == REPLY


def test_an_unsafe_id_or_a_missing_record_fails_that_turn_alone(tmp_path, server):
    make_sample(tmp_path, 3)
    unsafe = make_prompt(0, instance_id="../../etc/passwd")
    write_prompts(tmp_path, [unsafe, make_prompt(1), make_prompt(2)])
    (tmp_path / "commit/acme__widgets-1.json").unlink()
    result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 1
    assert sorted(answers(tmp_path)) == ["prompts_3_1_3"]
    failed = failures(tmp_path)
    assert "../../etc/passwd" in failed["prompts_3_1_1"]
    assert "prompt.py" in failed["prompts_3_1_2"]


@pytest.mark.parametrize(
    "prompts, words",
    [
        (None, ["prompt/ holds no prompts", "prompt.py"]),
        ("[{", ["prompts_2_1.json", "prompt.py"]),
        ({}, ["a valid list"]),
        ([make_prompt(0)] * 205, ["at most 200 items", "not 205"]),
        (
            [make_prompt(0), {"instance_id": "acme__widgets-1", "assistant": ""}],
            ["prompts_2_1.json: record 2: key 'messages'", "prompt.py"],
        ),
    ],
    ids=["none", "cut", "another kind", "too many", "without a chat"],
)
def test_bad_prompts_get_one_or_two_plain_lines(tmp_path, server, prompts, words):
    make_sample(tmp_path, 2)
    path = tmp_path / "prompt/prompts_2_1.json"
    path.write_text(prompts if isinstance(prompts, str) else json.dumps(prompts))
    if prompts is None:
        path.unlink()
    refused(tmp_path, server, words)


def test_a_wrong_setting_gets_a_plain_line(tmp_path, server):
    make_sample(tmp_path, 2)
    write_settings(tmp_path, generate={"temperature": 9})
    refused(tmp_path, server, ["chain.toml: [generate] temperature = 9", "equal to 2"])


def refused(cwd: Path, server, words: list[str]) -> None:
    """Assert that king.py stops before any call and says why."""
    result = stage("king.py", cwd=cwd, server=server)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2 and server.chats == []
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    "flags", [["--limit", "0"], ["--shard", "3/3"], ["--concurrency", "x"], ["--max-cost", "-1"]]
)
def test_a_wrong_flag_is_refused(tmp_path, flags):
    result = stage("king.py", *flags, cwd=tmp_path)
    assert result.returncode == 2
    assert flags[0] in result.stderr and "Traceback" not in result.stderr
