"""Batches: the same files as live, nothing asked twice, nothing lost, whatever comes back."""

from __future__ import annotations

import json
import shutil

import pytest

from common.demo.__main__ import answer
from common.demo.batches import BATCH_FAULTS
from common.demo.build import write_parquet
from common.demo.server import Server
from judges import JUDGES, by_merit, duel, score, validate, write_panel, write_turns
from makers import REPLY, answers, get, make_sample, write_settings
from runner import KEY, asked, assert_no_key, batch, stage, until_done

pytestmark = pytest.mark.background

COUNT = 6

# ------------------------------------------------------------------------------- the whole chain


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


@pytest.mark.parametrize("fault, advice", [("401", "Check CHUTES_API_KEY"), ("402", "Top it up")])
def test_a_batch_refused_line_by_line_ends_the_run_that_collects_it(
    tmp_path, server, fault, advice
):
    make_sample(tmp_path, 2)
    server.batch_faults = lambda number, custom_id: custom_id and fault
    batch("king.py", tmp_path, server)
    assert advice in batch("king.py", tmp_path, server, code=2).stderr
    assert len(asked(server)) == 2
    server.batch_faults = lambda number, custom_id: fault if custom_id == asked(server)[2] else None
    assert until_done("king.py", tmp_path, server) == 3, "of a batch with a good line"
    assert len(asked(server)) == 5 and len(answers(tmp_path)) == 2


@pytest.mark.parametrize("fault", ["tool-tokens", "503", "failed"])
def test_tries_have_an_end_and_live_calls_go_on(tmp_path, server, fault):
    make_sample(tmp_path, 2)
    write_settings(tmp_path, generate={"bad_reply_tries": 3})
    server.batch_faults = lambda number, custom_id: (
        fault if (custom_id is None) == (fault in BATCH_FAULTS) else None
    )
    for number in range(3):
        batch("king.py", tmp_path, server)
        assert len(asked(server)) == 2 * (number + 1)
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
    lines[1]["response"]["body"] = json.dumps({"choices": [reply]})
    lines[2]["response"] = {"choices": [reply]}  # as Fireworks writes it
    lines.insert(0, {"custom_id": rows[1]["custom_id"], "response": {"status_code": 500}})
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
