"""Stage 2 by its contract: what it asks, what it leaves out, shards, bad input."""
from __future__ import annotations

import json
import time

import pytest

from helpers import KEY, REPLY, answers, make_prompt, make_record, make_sample, stage, start, write_settings
from common.demo.server import Server


@pytest.fixture
def server():
    with Server(reply=lambda body: REPLY, key=KEY) as server:
        yield server


def test_the_king_sees_the_chat_and_nothing_else(tmp_path, server):
    make_sample(tmp_path, 5)
    result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 0 and "next    python ch.py" in result.stdout
    asked = sorted((request["body"]["messages"] for request in server.chats), key=str)
    assert asked == sorted((make_prompt(number)["messages"] for number in range(5)), key=str)
    assert "zebra_offset" not in json.dumps([request["body"] for request in server.chats]), "no word of the patch"
    answer = answers(tmp_path)["prompts_5_1_2"]
    assert list(answer) == ["instance_id", "king", "challenger", "assistant", "messages", "meta"]
    assert answer["challenger"] is None and answer["instance_id"] == "acme__widgets-1" and answer["king"] == REPLY
    assert answer["assistant"] == make_prompt(1)["assistant"] and answer["meta"]["source"]["row"] == 1


def test_no_cap_per_instance_and_oversized_records_left_out(tmp_path, server):
    make_sample(tmp_path, 1)
    prompts = [make_prompt(0)] * 3 + [make_prompt(1)]
    (tmp_path / "prompt/prompts_1_1.json").write_text(json.dumps(prompts))
    write_settings(tmp_path, generate={"max_record_chars": 5000})
    (tmp_path / "commit/acme__widgets-1.json").write_text(json.dumps(make_record(1, patch="x" * 6000)))
    result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 0 and sorted(answers(tmp_path)) == [f"prompts_1_1_{order}" for order in (1, 2, 3)]
    assert "PR record too large" in result.stdout


def test_excluded_ids_are_never_asked(tmp_path, server, monkeypatch):
    from common import turns
    monkeypatch.setattr(turns, "_EXCLUDE_IDS", frozenset({"acme__widgets-1"}))
    assert turns.exclusion_reason(make_record(1), 10**6) and turns.exclusion_reason(make_record(0), 10**6) is None


def test_shards_part_the_prompts_and_the_rest_is_found_answered(tmp_path, server):
    make_sample(tmp_path, 11, per_file=4)
    for number in range(3):
        assert stage("king.py", "--shard", f"{number}/3", cwd=tmp_path, server=server).returncode == 0
    folders = {path.parent.name for path in tmp_path.glob("answer_*/prompts*.json")}
    assert folders == {"answer_0", "answer_1", "answer_2"}
    assert len(answers(tmp_path)) == len(list(tmp_path.glob("answer_*/prompts*.json"))) == len(server.chats) == 11
    result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 0 and len(server.chats) == 11


def test_another_sample_under_the_same_names_is_not_taken_for_answered(tmp_path, server):
    make_sample(tmp_path, 2)
    plan = {"dataset": "a", "revision": "r", "seed": 1, "count": 2}
    (tmp_path / "prompt/_plan.json").write_text(json.dumps(plan))
    assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    (tmp_path / "prompt/_plan.json").write_text(json.dumps({**plan, "seed": 2}))
    result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 2 and "seed" in result.stderr and len(server.chats) == 2


def test_a_dry_run_binds_no_sample_and_a_whole_run_excludes_a_shard(tmp_path, server):
    make_sample(tmp_path, 4)
    (tmp_path / "prompt/_plan.json").write_text(json.dumps({"seed": 1}))
    assert stage("king.py", "--dry-run", cwd=tmp_path, server=server).returncode == 0
    (tmp_path / "prompt/_plan.json").write_text(json.dumps({"seed": 2}))
    server.latency_s = 1.5
    whole = start("king.py", cwd=tmp_path, server=server)
    while not server.chats:
        time.sleep(0.01)
    shard = stage("king.py", "--shard", "1/2", cwd=tmp_path, server=server)
    assert shard.returncode == 2 and "in use" in shard.stderr
    whole.communicate(timeout=30)
    assert whole.returncode == 0 and len(server.chats) == 4


def test_more_than_200_prompts_in_a_file_are_not_dropped_in_silence(tmp_path, server):
    make_sample(tmp_path, 205, per_file=300)
    result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 2 and "205 prompts, expected at most 200" in result.stderr and server.chats == []


def spoil_prompts(tmp_path, change):
    path = tmp_path / "prompt/prompts_3_1.json"
    prompts = json.loads(path.read_text())
    change(prompts)
    path.write_text(json.dumps(prompts))


@pytest.mark.parametrize("change, words", [
    (lambda prompts: prompts[1].pop("messages"), ["record 2", "'messages' is missing"]),
    (lambda prompts: prompts[2]["messages"].append({"role": "assistant", "content": "x"}), ["record 3", "ends with a user"]),
    (lambda prompts: prompts[0]["messages"].append("text"), ["record 1", "{role, content}"]),
])
def test_a_malformed_prompt_is_named(tmp_path, server, change, words):
    make_sample(tmp_path, 3)
    spoil_prompts(tmp_path, change)
    result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 2 and server.chats == []
    for word in ["prompts_3_1.json", "prompt.py", *words]:
        assert word in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unsafe_id_or_a_missing_record_fails_that_turn_alone(tmp_path, server):
    make_sample(tmp_path, 3)
    spoil_prompts(tmp_path, lambda prompts: prompts[0].update(instance_id="../../etc/passwd"))
    (tmp_path / "commit/acme__widgets-1.json").unlink()
    result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 1 and sorted(answers(tmp_path)) == ["prompts_3_1_3"]
    failed = {row["item"]: row["reason"] for row in map(json.loads, open(tmp_path / "answer_0/_failed.jsonl"))}
    assert "../../etc/passwd" in failed["prompts_3_1_1"] and "prompt.py" in failed["prompts_3_1_2"]


@pytest.mark.parametrize("prepare, words", [
    (lambda cwd: None, ["prompt/", "prompt.py"]),
    (lambda cwd: (make_sample(cwd, 2), (cwd / "prompt/prompts_2_1.json").write_text("[{")), ["prompts_2_1.json", "prompt.py"]),
    (lambda cwd: (make_sample(cwd, 2), (cwd / "prompt/prompts_2_1.json").write_text("{}")), ["expected a list"]),
    (lambda cwd: (make_sample(cwd, 2), (cwd / "chain.toml").write_text("[generate]\ntemperature = 9")), ["chain.toml", "0 to 2"]),
])
def test_bad_input_gets_one_or_two_plain_lines(tmp_path, server, prepare, words):
    prepare(tmp_path)
    result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("flags", [["--limit", "0"], ["--shard", "3/3"], ["--concurrency", "x"], ["--max-cost", "-1"]])
def test_a_wrong_flag_is_refused(tmp_path, flags):
    result = stage("king.py", *flags, cwd=tmp_path)
    assert result.returncode == 2 and flags[0] in result.stderr and "Traceback" not in result.stderr
