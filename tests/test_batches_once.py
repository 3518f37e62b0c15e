"""Batches: nothing asked twice, nothing lost, nothing beyond what was allowed."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from common.client.batch_files import add_request, find_results, new_file, path_of
from common.demo.server import Server
from judges import JUDGES, by_merit, score, write_panel, write_turns
from makers import REPLY, answers, make_prompt, make_sample, write_prompts, write_settings
from runner import KEY, asked, batch, stage, start, until_done

pytestmark = pytest.mark.background

# --------------------------------------------------------------------------------- never twice


def test_a_batch_whose_start_was_never_heard_of_is_found_by_its_metadata(tmp_path, server):
    make_sample(tmp_path, 3)
    server.batch_faults = lambda number, custom_id: "unsaid" if custom_id is None else None
    result = batch("king.py", tmp_path, server, code=1)
    assert "Run the same line again" in result.stderr
    server.desk.lists = False
    assert "could not be asked after" in batch("king.py", tmp_path, server).stderr
    server.desk.lists = True
    for body in ({}, [], {"object": "list", "data": None}, {"data": {}}, "no"):
        server.desk.says = (200, body)
        assert "could not be asked after" in batch("king.py", tmp_path, server).stderr, body
    server.desk.says = None
    for _ in range(2):  # found, then asked after
        assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    assert len(answers(tmp_path)) == len(asked(server)) == 3
    assert not server.chats
    assert server.desk.batches["batch_1"]["metadata"]["mark"]


@pytest.mark.parametrize("body", ["<html>no</html>", {}, [], {"id": None, "data": 5}, b"\xff{"])
def test_odd_answers_lose_nothing(tmp_path, server, body):
    make_sample(tmp_path, 2)
    server.models = {"moonshotai/Kimi-K2.6-TEE": (2**18, 2**16, 0.5, -1)}  # half a price is none
    server.desk.says = (200, body)
    batch("king.py", tmp_path, server, code=1)
    server.desk.says = None
    batch("king.py", tmp_path, server)
    server.desk.says = (200, body)
    for _ in range(2):
        assert "could not be asked after" in batch("king.py", tmp_path, server).stderr
    server.desk.says = None
    batch("king.py", tmp_path, server)
    assert len(asked(server)) == len(answers(tmp_path)) == 2


def test_a_useless_model_is_left_and_what_came_is_not_lost(tmp_path, server):
    """The run that collects its refusals sends no more; the next reads on, and asks again."""
    make_sample(tmp_path, 60)
    replies = itertools.count()  # first to the last of the lines

    def reply(body):
        return "<|tool_calls_section_begin|>" if 15 <= next(replies) < 60 else REPLY

    server.reply = reply
    batch("king.py", tmp_path, server)
    left = batch("king.py", tmp_path, server, code=1)
    assert "gives nothing usable" in left.stderr and len(asked(server)) == 60
    batch("king.py", tmp_path, server)
    assert len(answers(tmp_path)) == 15 and len(asked(server)) == 60 + 45
    batch("king.py", tmp_path, server)
    assert len(answers(tmp_path)) == 60 and not server.chats


def test_a_useless_judge_is_sent_nothing_more(tmp_path):
    write_turns(tmp_path, 20)
    write_panel(tmp_path)
    rule = lambda body: "none" if body["model"] == JUDGES[0] else by_merit(body)  # noqa: E731
    with Server(rule, key=KEY) as server:
        batch("validate.py", tmp_path, server)
        batch("validate.py", tmp_path, server, code=1)
        assert len(asked(server)) == 20 * 6


def test_what_a_whole_batch_was_refused_a_live_run_asks(tmp_path, server):
    make_sample(tmp_path, 2)
    server.batch_faults = lambda number, custom_id: "400-context" if custom_id else None
    batch("king.py", tmp_path, server)
    assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    assert len(answers(tmp_path)) == len(server.chats) == 2


def test_chosen_challengers_by_batches(tmp_path, server):
    """Several blind replies in one batch, the choice among them in the next."""
    make_sample(tmp_path, 2)
    until_done("king.py", tmp_path, server)
    write_settings(tmp_path, generate={"challenger": "chosen", "candidates": 3})
    replies = iter(range(100))

    def reply(body):
        if "best" in body["messages"][0]["content"]:
            return '{"best": 1, "reason": "it looks"}'
        return REPLY.replace("ls -la", f"ls -la src/part_{next(replies)}")

    server.reply = reply
    assert until_done("ch.py", tmp_path, server) == 3
    assert len(asked(server)) == 2 + 2 * 3 + 2 and not server.chats
    for found in answers(tmp_path).values():
        assert len(found["meta"]["challenger"]["candidates"]) == 3 and found["challenger"]


def kill_and_finish(script: str, cwd: Path, server, chance: random.Random) -> None:
    """Kill two runs at any moment, then finish; each request is sent once."""
    cwd.mkdir()
    server.desk.asked.clear()
    if script == "king.py":
        make_sample(cwd, 8)
    else:
        write_turns(cwd, 2)
        write_panel(cwd)
    for _ in range(2):
        process = start(script, "--batch", cwd=cwd, server=server)
        time.sleep(chance.uniform(0.1, 0.7))
        process.kill()
        process.communicate()
        time.sleep(0.1)
    until_done(script, cwd, server)
    found = answers(cwd) if script == "king.py" else score(cwd, "prompts_40_1_1")["verdicts"]
    assert len(found) == (8 if script == "king.py" else 6)
    assert len(asked(server)) == (8 if script == "king.py" else 12) and not server.chats
    assert not list(cwd.glob("batch/.*"))


def test_kills_lose_and_double_nothing(tmp_path):
    chance = random.Random(5)
    rule = lambda body: by_merit(body) if body["model"] in JUDGES else REPLY  # noqa: E731
    with Server(rule, key=KEY, latency_s=0.05) as server:
        for number in range(int(os.environ.get("BATCH_KILLS", 8)) // 2):  # 60 for the full measure
            script = ("king.py", "validate.py")[number % 2]
            kill_and_finish(script, tmp_path / str(number), server, chance)


# ------------------------------------------------------------------------------------ the rest


def test_a_file_is_full_at_50_000_lines_or_90_mb(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for body, most in ((b"{}", 50_000), (b'"' + 10**6 * b"x" + b'"', 89)):
        entry = new_file(stage="ch", shard="", provider="../a", base_url="", model="b/c")
        added = [add_request(entry, f"{number:064}", body, 0.0) for number in range(most + 1)]
        assert sum(added) == most and not added[-1]
        assert entry["requests"] == len(find_results(entry, Counter())) == most
        assert path_of(entry).stat().st_size <= 90 * 10**6
    assert entry["file"] == "ch-..-a-b-c-2"


def test_the_most_that_a_batch_may_cost_is_told_and_held(tmp_path, server):
    make_sample(tmp_path, 6)
    dry = stage("king.py", "--dry-run", cwd=tmp_path, server=server).stdout
    halved = stage("king.py", "--dry-run", "--batch", cwd=tmp_path, server=server).stdout
    price = [float(text.split("about $")[1].split()[0].strip(",\n")) for text in (dry, halved)]
    assert price[0] == pytest.approx(2 * price[1], abs=0.02) and "as a batch at 50%" in halved
    assert not (tmp_path / "batch").exists()
    result = batch("king.py", tmp_path, server, "--max-cost", "0.05", code=1)
    assert "--max-cost" in result.stderr and len(asked(server)) == 2
    batch("king.py", tmp_path, server)
    until_done("king.py", tmp_path, server)
    assert len(asked(server)) == len(answers(tmp_path)) == 6


def test_a_bad_key_costs_one_upload(tmp_path, server):
    write_turns(tmp_path, 1)
    write_panel(tmp_path)
    server.reply = by_merit
    server.key = "another"
    result = batch("validate.py", tmp_path, server, code=2)
    assert [one["path"] for one in server.requests].count("/v1/files") == 1
    assert result.stdout.count("not sent") == 3
    server.key = KEY
    until_done("validate.py", tmp_path, server)
    assert len(asked(server)) == 6


def test_what_could_not_be_sent_is_sent_within_the_next_runs_max_cost(tmp_path, server):
    make_sample(tmp_path, 6)
    server.desk.says = (500, {"error": "down"})
    batch("king.py", tmp_path, server, code=1)
    server.desk.says = None
    batch("king.py", tmp_path, server, "--max-cost", "0.05", code=1)
    assert len(asked(server)) == 2


def test_a_full_disk_is_told_as_the_disks(tmp_path, server):
    make_sample(tmp_path, 2)
    lock = tmp_path / "batch/_lock_state"

    def take(headers, data):
        lock.unlink()
        lock.mkdir()  # no file can be opened there
        return {"id": "file-1"}

    server.desk._upload = take
    result = batch("king.py", tmp_path, server, code=2)
    assert "_lock_state: Is a directory" in result.stderr and "Make room" in result.stderr
    assert "2 waiting" in result.stdout and "change what is said above" in result.stdout


def test_a_batch_that_cannot_be_asked_after_is_named_until_it_is_removed(tmp_path, server):
    make_sample(tmp_path, 2)
    batch("king.py", tmp_path, server)
    with Server(by_merit, key=KEY) as elsewhere:
        told = batch("king.py", tmp_path, elsewhere).stderr
    assert f"it is at {server.url}" in told and "remove that file" in told
    server.desk.batches["batch_1"]["status"] = "completed"  # its files are not named yet
    told = batch("king.py", tmp_path, server)
    assert "no file of results" in told.stderr and "2 waiting" in told.stdout
    server.desk.batches.clear()
    told = batch("king.py", tmp_path, server)
    assert "HTTP 404" in told.stderr and "2 waiting" in told.stdout
    next(tmp_path.glob("batch/king-*.jsonl")).unlink()
    assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    assert len(answers(tmp_path)) == len(server.chats) == 2


def test_asked_again_by_order_is_asked_anew(tmp_path):
    write_turns(tmp_path, 2)
    write_panel(tmp_path)
    readable = JUDGES[1:]
    rule = lambda body: by_merit(body) if body["model"] in readable else "none"  # noqa: E731
    with Server(rule, key=KEY) as server:
        until_done("validate.py", tmp_path, server)
        assert not score(tmp_path, "prompts_40_1_1")["parsed"] and len(asked(server)) == 8 + 8
        readable = JUDGES
        until_done("validate.py", tmp_path, server, "--retry-failed")
        assert score(tmp_path, "prompts_40_1_1")["parsed"] and len(asked(server)) == 16 + 4


def test_twins_are_two_turns_and_shards_send_their_own(tmp_path, server):
    make_sample(tmp_path, 2)
    write_prompts(tmp_path, [make_prompt(0), make_prompt(1)] * 2)
    for _ in range(2):
        for number in range(2):
            batch("king.py", tmp_path, server, "--shard", f"{number}/2")
    assert len(asked(server)) == len(set(asked(server))) == len(answers(tmp_path)) == 6


def test_twins_are_judged_each_by_verdicts_of_its_own(tmp_path):
    write_turns(tmp_path, 1)
    write_panel(tmp_path)
    first = tmp_path / "answer_0/prompts_40_1_1.json"
    shutil.copy(first, first.with_stem("prompts_40_1_2"))
    with Server(by_merit, key=KEY) as server:
        until_done("validate.py", tmp_path, server)
        assert len(asked(server)) == 2 * 6


def test_one_flag_of_batches_alone(tmp_path, server):
    result = stage("king.py", "--batch", "--batch-files", cwd=tmp_path, server=server)
    assert result.returncode == 2 and "not allowed with" in result.stderr


def test_ctrl_c_ends_the_sending_and_nothing_is_sent_twice(tmp_path):
    make_sample(tmp_path, 2)
    with Server(lambda body: REPLY, key=KEY, latency_s=1.5) as server:
        process = start("king.py", "--batch", cwd=tmp_path, server=server)
        while not server.desk.files:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        asked_s = time.monotonic()
        assert process.wait() == 130 and time.monotonic() - asked_s < 1
        until_done("king.py", tmp_path, server)
        assert len(asked(server)) == len(answers(tmp_path)) == 2
