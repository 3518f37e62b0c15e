"""Batches: the same files as live, nothing asked twice, nothing lost, whatever comes back."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from common.client.batch_files import WRITTEN, Requests, custom_ids, path_of
from common.demo.__main__ import answer
from common.demo.batches import BATCH_FAULTS
from common.demo.build import write_parquet
from common.demo.server import Server
from judges import JUDGES, by_merit, duel, score, validate, write_panel, write_turns
from makers import REPLY, answers, get, make_prompt, make_sample, write_prompts, write_settings
from runner import KEY, assert_no_key, stage, start

COUNT = 6


def batch(script: str, cwd: Path, server, *flags: str, code: int = 0, **environment: str):
    """Run a stage with --batch and check how it ends."""
    result = stage(script, "--batch", *flags, cwd=cwd, server=server, **environment)
    assert "Traceback" not in result.stderr, result.stderr
    assert result.returncode == code, (result.stdout, result.stderr)
    return result


def until_done(script: str, cwd: Path, server, *flags: str) -> int:
    """Run the same line until nothing waits; return how often it took."""
    for runs in range(1, 10):
        if "waiting for a batch" not in batch(script, cwd, server, *flags).stdout:
            return runs
    raise AssertionError("it never ends")


def asked(server) -> list[str]:
    """Return the custom_ids of all batches; none may have been asked twice."""
    assert max(Counter(server.desk.asked).values(), default=0) <= 1, "asked twice"
    return server.desk.asked


# ------------------------------------------------------------------------------- the whole chain


@pytest.mark.background
def test_all_stages_by_batches_give_what_live_calls_give(tmp_path):
    """King, challenger, verdicts and second look of the demo's data, live and by batches alone."""
    folders = {}
    with Server(answer, key=KEY) as server:
        write_parquet(tmp_path / "data")
        flags = ["--dataset", "data/trajectories", "--prs", "data/pull_requests", "--count", "12"]
        assert stage("prompt.py", *flags, cwd=tmp_path, server=server).returncode == 0
        write_settings(tmp_path, confirm={"models": ["x/one", "y/two"], "band": [50, 100]})
        for way in ("live", "batch"):
            cwd = folders[way] = tmp_path / way
            cwd.mkdir()
            for name in ("prompt", "commit"):
                shutil.copytree(tmp_path / name, cwd / name)
            shutil.copy(tmp_path / "chain.toml", cwd)
            for line in (["king.py"], ["ch.py"], ["validate.py"], ["validate.py", "--confirm"]):
                if way == "live":
                    assert stage(*line, cwd=cwd, server=server).returncode == 0
                else:
                    calls = len(server.chats)
                    until_done(line[0], cwd, server, *line[1:])
                    assert len(server.chats) == calls, "nothing was asked live"
            assert stage("report.py", cwd=cwd, server=server).returncode == 0
    assert len(asked(server)) == len(server.chats) > 100
    live, by_batch = folders.values()
    for name in ("answer_0", "score", "final", "refined", "defeat"):
        names = sorted(path.name for path in (live / name).glob("prompts_*.json"))
        assert names and names == sorted(p.name for p in (by_batch / name).glob("prompts_*.json"))
        for file in names:
            assert plain(get(live / name / file)) == plain(get(by_batch / name / file)), file
    assert duel(live)["margin"] == duel(by_batch)["margin"]
    assert duel(live)["cost_usd"] == pytest.approx(2 * duel(by_batch)["cost_usd"], rel=0.01)
    assert_no_key(by_batch)


def plain(value):
    """Return a file's content without what tells when and how a reply came, in no order."""
    if isinstance(value, dict):
        own = "asked_at time_s invocation_id batch cost_usd counted usage usage_all_tries".split()
        return {key: plain(one) for key, one in value.items() if key not in own}
    if isinstance(value, list):
        return sorted((plain(one) for one in value), key=str)
    return value


# --------------------------------------------------------------------------------- what comes back


CASES = [
    # fault, of the first batch's lines or of the batch; runs until done, requests in all
    *[(fault, 3, COUNT + 1) for fault in ("missing", "torn", "503", "200-error", "no-choices")],
    *[(fault, 3, COUNT + 1) for fault in ("tool-tokens", "length-cut", "empty", "no-finish")],
    *[(fault, 2, COUNT) for fault in ("double", "unknown", "other-model", "think")],
    *[(fault, 3, COUNT + COUNT // 2) for fault in ("expired", "cancelled")],
    ("failed", 3, 2 * COUNT),
    ("400-context", 2, COUNT),
]


@pytest.mark.parametrize("fault, runs, requests", CASES, ids=[case[0] for case in CASES])
def test_what_comes_back_is_used_and_the_rest_asked_again(tmp_path, server, fault, runs, requests):
    make_sample(tmp_path, COUNT)

    def faults(number, custom_id):
        if fault in BATCH_FAULTS:
            return fault if number == 1 and custom_id is None else None
        return fault if custom_id == server.desk.asked[2] else None

    server.batch_faults = faults
    code = 0
    for run in range(runs):
        code = int(fault == "400-context" and run == 1)
        result = batch("king.py", tmp_path, server, code=code)
        assert ("waiting for a batch" in result.stdout) == (run < runs - 1), result.stdout
    assert len(asked(server)) == requests
    assert len(answers(tmp_path)) == COUNT - code and not server.chats
    told = {"failed": "not for batches", "400-context": "request refused (400)"}
    told |= {"double": "1 double", "unknown": "1 unknown", "other-model": "by 'somebody/else'"}
    if fault in told:
        assert told[fault] in result.stdout + result.stderr or fault == "failed"
    king = [found["meta"]["king"] for found in answers(tmp_path).values()]
    assert all(meta["batch"].startswith("king-env-moonshotai-Kimi-K2.6-TEE-") for meta in king)
    assert sum(meta["tries"] for meta in king) == requests - code
    batch("king.py", tmp_path, server, code=code)
    assert len(asked(server)) == requests, "a rerun asks nothing"


@pytest.mark.parametrize("fault", ["tool-tokens", "503", "failed", "401"])
def test_tries_have_an_end_and_live_calls_go_on(tmp_path, server, fault):
    make_sample(tmp_path, 2)
    write_settings(tmp_path, generate={"bad_reply_tries": 3})
    server.batch_faults = lambda number, custom_id: (
        fault if (custom_id is None) == (fault in BATCH_FAULTS) else None
    )
    for number in range(3):
        if fault == "401" and number:  # what refuses all of a batch is told before it is sent anew
            assert "Check CHUTES_API_KEY" in batch("king.py", tmp_path, server, code=2).stderr
        batch("king.py", tmp_path, server)
        assert len(asked(server)) == 2 * (number + 1)
    if fault == "401":
        batch("king.py", tmp_path, server, code=2)
    result = batch("king.py", tmp_path, server, code=1)
    assert "2 failed" in result.stdout and len(asked(server)) == 6
    live = stage("king.py", cwd=tmp_path, server=server)
    if fault != "tool-tokens":  # refused replies are replies
        assert live.returncode == 0 and len(answers(tmp_path)) == len(server.chats) == 2


def test_what_is_under_way_is_waited_for_and_the_rest_asked_live(tmp_path, server):
    make_sample(tmp_path, 5)
    server.batch_faults = lambda number, custom_id: "held" if custom_id is None else None
    first = batch("king.py", tmp_path, server, "--limit", "2")
    assert "2 requests, at most $0.0" in first.stdout and "the same line again" in first.stdout
    assert "in_progress for 0:00:0" in batch("king.py", tmp_path, server, "--limit", "2").stdout
    live = stage("king.py", cwd=tmp_path, server=server)
    assert live.returncode == 0 and "3 done" in live.stdout, live.stdout
    assert "2 waiting for a batch" in live.stdout and "2 requests" in live.stdout
    server.batch_faults = None
    live = stage("king.py", cwd=tmp_path, server=server)
    assert "2 done" in live.stdout and "2 of the replies came from batches" in live.stdout
    assert len(asked(server)) == 2 and len(server.chats) == 3 and len(answers(tmp_path)) == 5


def test_a_provider_without_batches_is_told_and_its_turns_are_free_for_live_calls(tmp_path):
    write_turns(tmp_path, 3)
    with Server(by_merit, key=KEY) as near, Server(by_merit, key=KEY) as far:
        near.takes_batches = False
        write_panel(tmp_path, **{JUDGES[2]: {"provider": "far"}})
        with open(tmp_path / "chain.toml", "a") as file:
            file.write(f'[provider.far]\nbase_url = "{far.url}"\nkey_env = "CHUTES_API_KEY"\n')
            file.write("batch_price = 0.25\n")
        result = batch("validate.py", tmp_path, near, code=2)
        assert "take no batches" in result.stderr and "--batch-files" in result.stderr
        assert len(asked(far)) == 6 and not near.chats + far.chats
        validate(tmp_path, near)  # one judge is batched while the others are live
        assert len(near.chats) == 12 and len(asked(far)) == 6 and not far.chats
    verdicts = score(tmp_path, "prompts_40_1_1")["verdicts"]
    assert {verdict["judge"] for verdict in verdicts if "batch" in verdict} == {JUDGES[2]}
    assert score(tmp_path, "prompts_40_1_1")["parsed"]


def test_files_alone_are_collected_wherever_they_were_answered(tmp_path, server):
    make_sample(tmp_path, 4)
    result = stage("king.py", "--batch-files", cwd=tmp_path, server=server)
    assert result.returncode == 0 and "or remove the requests to ask anew" in result.stdout
    (path,) = tmp_path.glob("batch/king-*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [list(row) for row in rows] == [["custom_id", "method", "url", "body"]] * 4
    assert "stream" not in rows[0]["body"] and rows[0]["url"] == "/v1/chat/completions"
    again = stage("king.py", "--batch", cwd=tmp_path, server=server)
    assert "4 waiting" in again.stdout and not server.desk.asked, "it may be under way elsewhere"
    reply = {"message": {"content": REPLY}, "finish_reason": "stop", "index": 0}
    lines = []
    for row in rows:  # as vLLM writes it, without usage
        response = {"status_code": 200, "request_id": "vllm", "body": {"choices": [reply]}}
        lines.append(
            {"id": "v", "custom_id": row["custom_id"], "response": response, "error": None}
        )
    lines[0]["response"] = {"status_code": 400, "request_id": "vllm", "body": None}
    lines[0]["error"] = {"error": {"message": "maximum context length is 8192", "code": 400}}
    lines[3]["response"]["status_code"] = 10**6
    path.with_suffix(".out.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    result = stage("king.py", "--batch-files", cwd=tmp_path, server=server)
    assert result.returncode == 1 and "2 done" in result.stdout, result.stdout
    assert "request refused (400)" in result.stdout and "1 waiting" in result.stdout
    assert [found["meta"]["king"]["cost_usd"] for found in answers(tmp_path).values()] == [None] * 2
    live = stage("king.py", cwd=tmp_path, server=server)  # whose context may be larger
    assert "1 done" in live.stdout and len(server.chats) == 1 and "1 waiting" in live.stdout
    for path in tmp_path.glob("batch/king-*.jsonl"):
        path.unlink()
    assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    assert len(server.chats) == 2, "with the files gone all is asked live"
    assert len(answers(tmp_path)) == 4


# --------------------------------------------------------------------------------- never twice


def test_a_batch_whose_start_was_never_heard_of_is_found_by_its_metadata(tmp_path, server):
    make_sample(tmp_path, 3)
    server.batch_faults = lambda number, custom_id: "unsaid" if custom_id is None else None
    result = batch("king.py", tmp_path, server, code=1)
    assert "Run the same line again" in result.stderr
    server.desk.lists = False
    assert "could not be asked after" in batch("king.py", tmp_path, server).stderr
    server.desk.lists = True
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


@pytest.mark.background
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
        requests = Requests(stage="ch", shard="", provider="../a", base_url="", model="b/c")
        added = [requests.add(f"{number:064}", body, None) for number in range(most + 1)]
        assert sum(added) == most and not added[-1]
        entry = requests.close(WRITTEN)
        assert entry["requests"] == len(custom_ids(entry)) == most
        assert path_of(entry["file"]).stat().st_size <= 90 * 10**6
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


def test_what_could_not_be_sent_is_sent_within_the_next_runs_max_cost(tmp_path, server):
    make_sample(tmp_path, 6)
    server.desk.says = (500, {"error": "down"})
    batch("king.py", tmp_path, server, code=1)
    server.desk.says = None
    batch("king.py", tmp_path, server, "--max-cost", "0.05", code=1)
    assert len(asked(server)) == 2


def test_a_batch_that_cannot_be_asked_after_is_named_until_it_is_removed(tmp_path, server):
    make_sample(tmp_path, 2)
    batch("king.py", tmp_path, server)
    with Server(by_merit, key=KEY) as elsewhere:
        told = batch("king.py", tmp_path, elsewhere).stderr
    assert f"it is at {server.url}" in told and "remove that file" in told
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
