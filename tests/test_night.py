"""A night with a bad provider: what a run survives, what it says, and what it never pays twice."""

from __future__ import annotations

import json
import os
import resource
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from common.client.faults import provider_words, sort_status
from common.demo.server import Reply, Server
from makers import REPLY, answers, make_sample, write_settings
from runner import KEY, QUICK, REPO, stage, start

pytestmark = pytest.mark.background


def number_of(body: dict) -> int:
    """Return N of the chat of `Issue N`, -1 for another chat."""
    words = body["messages"][-1]["content"].split()
    if len(body["messages"]) < 2:
        return -1
    return int(body["messages"][1]["content"].split()[1].rstrip(":")) if words else -1


def failed_rows(cwd) -> list[dict]:
    path = cwd / "answer_0/_failed.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Raw:
    """A server that answers every POST with the bytes given, and GET with an empty list."""

    def __init__(self, answer):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                size = int(self.headers.get("Content-Length", 0))
                self.body = self.rfile.read(size)
                outer.posts += 1
                self.close_connection = True
                try:
                    answer(self)
                except OSError:
                    pass  # the client has heard enough

            def do_GET(self):
                if outer.refuse_list:
                    return say(401, b'{"detail": "who are you?"}')(self)
                self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"data":[]}')

            def log_message(self, *_):
                pass

        outer = self
        self.posts = 0
        self.refuse_list = False  # GET is refused with 401
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self):
        Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def say(status: int, body: bytes, *headers: str):
    """Return an answer for Raw."""
    lines = [f"HTTP/1.1 {status} Said", *headers, f"Content-Length: {len(body)}"]
    return lambda handler: handler.wfile.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


# ------------------------------------------------------------------------- runs that must not end


def test_items_that_always_fail_fail_alone(tmp_path):
    make_sample(tmp_path, 16)
    write_settings(tmp_path, generate={**QUICK, "outage_s": 1.0, "concurrency": 4})
    bad = {1: "524", 4: "no-choices", 6: "empty-choices"}

    def fault(_, body):
        return bad.get(number_of(body))

    with Server(reply=lambda body: REPLY, key=KEY, faults=fault) as server:
        result = stage("king.py", cwd=tmp_path, server=server)
        assert result.returncode == 1, result.stderr
        assert len(answers(tmp_path)) == 13
        rows = failed_rows(tmp_path)
        assert {row["item"] for row in rows} == {f"prompts_16_1_{n + 1}" for n in bad}
        assert all("while others pass" in row["reason"] for row in rows)
        probes = [chat for chat in server.chats if number_of(chat["body"]) == -1]
        assert probes and f"{len(probes)} one-word probe" in result.stdout


@pytest.mark.parametrize(
    "status, words",
    [(403, b"<html>blocked by the firewall</html>"), (400, b'{"detail": "echo: invalid token"}')],
)
def test_a_refusal_after_others_passed_is_of_its_item_alone(tmp_path, status, words):
    make_sample(tmp_path, 8)
    write_settings(tmp_path, generate={**QUICK, "concurrency": 1})
    refused = {4}

    def answer(handler):
        given = (status, words) if server.posts in refused else (200, GOOD)
        return say(*given, "Connection: close")(handler)

    with Raw(answer) as server:
        result = stage("king.py", cwd=tmp_path, CHUTES_BASE_URL=server.url)
    assert result.returncode == 1, result.stderr
    assert len(answers(tmp_path)) == 7
    assert server.posts == 9, "eight calls and a one-word chat"
    assert len(failed_rows(tmp_path)) == 1
    for order in (7, 8):
        (tmp_path / f"answer_0/prompts_8_1_{order}.json").unlink()
    refused.update(range(11, 100))  # the second call of the next run, and all after it
    with Raw(answer) as server:
        server.posts = 9
        result = stage("king.py", cwd=tmp_path, CHUTES_BASE_URL=server.url)
    assert result.returncode == 2 and server.posts == 12, "refused alike: the run stops"


def test_the_probe_stays_within_the_budget(tmp_path):
    make_sample(tmp_path, 4)
    write_settings(tmp_path, generate={**QUICK, "outage_s": 1.0, "concurrency": 2})
    usage = {"prompt_tokens": 10, "completion_tokens": 20}
    reply = Reply(REPLY, usage=usage)
    fault = lambda n, body: "524" if number_of(body) >= 0 else None  # noqa: E731
    with Server(reply=lambda body: reply, key=KEY, faults=fault) as server:
        result = stage("king.py", "--max-cost", "1", cwd=tmp_path, server=server)
    probes = [chat for chat in server.chats if number_of(chat["body"]) == -1]
    assert probes and all(chat["body"]["max_tokens"] <= 16 for chat in probes)
    assert f"{10 * len(probes)} in" in result.stdout, "the probe's tokens are counted"


# -------------------------------------------------------------------------------------- odd bodies

DEEP = b'{"choices":' + b"[" * 50_000
DIGITS = b"9" * 6000
GOOD = json.dumps(
    {"choices": [{"message": {"content": REPLY}, "finish_reason": "stop"}], "model": "m"}
).encode()
ODD = {
    "deep": DEEP,
    "deep event": b"data: " + DEEP + b"\n\n",
    "deep error": b'{"error":' + b'{"a":' * 50_000,
    "code of digits": b'{"error": {"code": ' + DIGITS + b', "message": "x"}}',
    "code of words": '{"error": {"code": "²²²", "message": "x"}}'.encode(),
    "choices of text": b'{"choices": "text"}',
    "choices of numbers": b'{"choices": [7]}',
    "message of a list": b'{"choices": [{"message": [1], "finish_reason": "stop"}]}',
    "nothing": b"",
    "zeros": b"\0" * 100,
}


def test_any_odd_body_is_a_fault_of_that_call(tmp_path):
    make_sample(tmp_path, 40)
    write_settings(tmp_path, generate=QUICK)
    odd_headers = ["Retry-After: \u00b2", "Retry-After: " + "9" * 2000, "Retry-After: nan"]
    waiting = [one for body in ODD.values() for one in (GOOD, GOOD, body)]

    def answer(handler):
        body = waiting.pop(0) if waiting else GOOD
        return say(200, body, odd_headers[len(waiting) % 3])(handler)

    with Raw(answer) as server:
        result = stage("king.py", cwd=tmp_path, CHUTES_BASE_URL=server.url)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(answers(tmp_path)) == 40 and server.posts == 40 + len(ODD)


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_an_odd_error_is_sorted_all_the_same(body):
    for status in (400, 402, 404, 413, 429, 500):
        assert sort_status(status, provider_words(body), {"retry-after": "9" * 5000}).kind


def test_an_endless_error_fills_no_memory(tmp_path):
    make_sample(tmp_path, 1)
    write_settings(tmp_path, generate={**QUICK, "outage_s": 1.0, "retry_budget_s": 1.0})
    sent = Counter()

    def endless(handler):
        handler.wfile.write(b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n")
        block = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        while sent["bytes"] < 2**28:
            handler.wfile.write(block)
            sent["bytes"] += len(block)

    with Raw(endless) as server:
        result = stage("king.py", cwd=tmp_path, CHUTES_BASE_URL=server.url)
    assert result.returncode == 1 and "500" in result.stdout + result.stderr
    assert sent["bytes"] < 2**27, "the connection was closed soon"


# ------------------------------------------------------------------------- a disk that refuses


def limit_of(process, kind: int, value: int) -> None:
    hard = resource.prlimit(process.pid, kind)[1]
    resource.prlimit(process.pid, kind, (value, hard))


@pytest.mark.parametrize("kind", [resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE])
def test_a_disk_that_is_freed_in_time_loses_no_reply(tmp_path, kind):
    make_sample(tmp_path, 12)
    write_settings(tmp_path, generate={**QUICK, "concurrency": 2})
    with Server(reply=lambda body: REPLY, key=KEY, latency_s=0.4) as server:
        process = start("king.py", cwd=tmp_path, server=server)
        while len(server.chats) < 4:
            time.sleep(0.01)
        before = resource.prlimit(process.pid, kind)[0]
        limit_of(process, kind, 1)
        time.sleep(1.6)
        asked = len(server.chats)
        time.sleep(0.8)
        assert len(server.chats) == asked, "no new calls meanwhile"
        limit_of(process, kind, before)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, out + err
    assert "no new calls, trying again for 60 s" in err
    assert len(answers(tmp_path)) == 12 and len(server.chats) == 12, "nothing is paid twice"


# -------------------------------------------------------------------------------- words that fit


CAP = {
    "detail": "Subscription usage cap exceeded: $8.33 per 4 hours, resets at 2026-11-25T04:00:00Z"
}
TIER = {"detail": "TEE models require a Plus subscription tier"}
WORDS = {
    "unknown model": (400, {"error": "Invalid model name passed in model=x"}, 2, "model id"),
    "wrong key": (400, {"error": {"message": "No connected db."}}, 2, "Check CHUTES_API_KEY"),
    "cap": (402, CAP, 1, "passes by itself, at 2026-11-25T04:00:00Z"),
    "tier": (402, TIER, 2, "which subscription this model needs"),
    "not an api": (405, {"detail": "Method Not Allowed"}, 2, "Check CHUTES_BASE_URL"),
    "html": (200, "<html><body>Welcome</body></html>", 2, "Check CHUTES_BASE_URL"),
    "colours": (401, {"detail": "no \u001b[31m such\u202e key"}, 2, "no \\x1b[31m such\\u202e key"),
}


@pytest.mark.parametrize("name", WORDS)
def test_advice_that_fits(tmp_path, name):
    status, body, code, words = WORDS[name]
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    make_sample(tmp_path, 4)
    with Raw(say(status, data)) as server:
        result = stage("king.py", cwd=tmp_path, CHUTES_BASE_URL=server.url, CHUTES_API_KEY=KEY)
    assert result.returncode == code and words in result.stderr, result.stderr
    assert "\x1b" not in result.stderr
    assert ("the same line again: it asks" in result.stdout) == (code == 1)


def test_a_request_too_large_says_what_would_help(tmp_path):
    make_sample(tmp_path, 3)
    fail = say(413, b"<html><h1>413 Request Entity Too Large</h1></html>")
    turns = iter([say(200, GOOD), fail, say(200, GOOD), fail])
    write_settings(tmp_path, generate={**QUICK, "concurrency": 1})
    with Raw(lambda handler: next(turns, say(200, GOOD))(handler)) as server:
        result = stage("king.py", cwd=tmp_path, CHUTES_BASE_URL=server.url)
    assert result.returncode == 1 and "client_max_body_size" in result.stdout
    assert "would fail alike again" in result.stdout and "the same line again" not in result.stdout


@pytest.mark.parametrize(
    "status, target", [(301, "/v1/chat/completions/"), (307, "http://localhost:1/v1")]
)
def test_a_redirect_is_named_and_not_followed(tmp_path, status, target):
    make_sample(tmp_path, 2)
    with Raw(say(status, b"", f"Location: {target}")) as server:
        result = stage("king.py", cwd=tmp_path, CHUTES_BASE_URL=server.url)
    assert result.returncode == 2 and target in result.stderr
    assert "Write the address that it should be into CHUTES_BASE_URL" in result.stderr
    assert f"({status})" in result.stderr and server.posts == 2


def test_a_reply_cut_off_says_at_what(tmp_path):
    make_sample(tmp_path, 1)
    write_settings(tmp_path, generate={**QUICK, "max_tokens_cap": 3000, "bad_reply_tries": 2})
    with Server(lambda body: REPLY, key=KEY, faults=lambda n, body: "length-cut") as server:
        result = stage("king.py", cwd=tmp_path, server=server)
    assert "max_tokens 3,000 of max_tokens_cap 3,000" in result.stdout


def test_who_answered_is_named_and_every_try_is_counted(tmp_path):
    make_sample(tmp_path, 1)
    usage = {"prompt_tokens": 100, "completion_tokens": 7}
    reply = Reply(REPLY, model="other/model", usage=usage)
    fault = lambda n, body: "tool-tokens" if n == 1 else None  # noqa: E731
    with Server(lambda body: reply, key=KEY, faults=fault) as server:
        result = stage("king.py", cwd=tmp_path, server=server)
    assert "asked for moonshotai/Kimi-K2.6-TEE, answered by 'other/model': 2 times" in result.stdout
    (answer,) = answers(tmp_path).values()
    meta = answer["meta"]["king"]
    assert meta["usage"]["prompt_tokens"] == 100
    assert meta["usage_all_tries"]["prompt_tokens"] == 200
    assert meta["usage_all_tries"]["completion_tokens"] == 14


# ------------------------------------------------------------------------------------ the dry run


def test_a_dry_run_goes_by_the_replies_so_far(tmp_path):
    make_sample(tmp_path, 6)
    usage = {"prompt_tokens": 100, "completion_tokens": 777}
    with Server(lambda body: Reply(REPLY, usage=usage), key=KEY) as server:
        dry = stage("king.py", "--dry-run", cwd=tmp_path, server=server)
        assert "a guess of 3,000 a reply" in dry.stdout
        assert "6 calls" in dry.stdout and "$" in dry.stdout
        assert server.chats == [] and answers(tmp_path) == {}
        assert stage("king.py", "--limit", "2", cwd=tmp_path, server=server).returncode == 0
        dry = stage("king.py", "--dry-run", cwd=tmp_path, server=server)
    assert "777 a reply, as the 2 so far" in dry.stdout and "4 calls" in dry.stdout
    assert "already answered" in dry.stdout


def test_a_dry_run_tells_a_dead_server_and_a_refused_key(tmp_path):
    make_sample(tmp_path, 2)
    dead = stage("king.py", "--dry-run", cwd=tmp_path, CHUTES_BASE_URL="http://127.0.0.1:9/v1")
    assert dead.returncode == 1 and "does not answer" in dead.stdout
    with Raw(say(200, GOOD)) as server:
        server.refuse_list = True
        dry = stage("king.py", "--dry-run", cwd=tmp_path, CHUTES_BASE_URL=server.url)
    assert dry.returncode == 2 and "Check CHUTES_API_KEY" in dry.stdout


# ------------------------------------------------------------------------------- a fault of ours


def test_three_errors_of_the_program_alike_stop_it(tmp_path):
    make_sample(tmp_path, 8)
    (tmp_path / "sitecustomize.py").write_text(
        "import common.audit.protocol as protocol\n"
        "def broken(text):\n    raise LookupError('our own mistake')\n"
        "protocol.format_problem = broken\n"
    )
    write_settings(tmp_path, generate={**QUICK, "concurrency": 1})
    paths = f"{tmp_path}{os.pathsep}{REPO}"
    with Server(lambda body: REPLY, key=KEY) as server:
        result = stage("king.py", cwd=tmp_path, server=server, PYTHONPATH=paths)
    assert result.returncode == 2 and "failed alike" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    rows = failed_rows(tmp_path)
    assert len(rows) == 3 and all("Traceback" in row["traceback"] for row in rows)


def test_pipes_folders_and_odd_names_are_passed_over(tmp_path):
    make_sample(tmp_path, 3)
    for folder in ("prompt", "answer_0", "commit"):
        (tmp_path / folder).mkdir(exist_ok=True)
        os.mkfifo(tmp_path / folder / "x.json")
        (tmp_path / folder / "y.json").mkdir()
    (tmp_path / "answer_0/²1.json").write_text("{}")
    (tmp_path / "answer_0/\x1b[31m.json").write_text("{}")
    with Server(lambda body: REPLY, key=KEY) as server:
        king = stage("king.py", cwd=tmp_path, server=server, timeout_s=20)
        assert king.returncode == 0, king.stderr
        challenger = stage("ch.py", "--dry-run", cwd=tmp_path, server=server, timeout_s=20)
    assert challenger.returncode == 0, challenger.stderr
    for result in (king, challenger):
        assert "Traceback" not in result.stderr and "\x1b" not in result.stdout + result.stderr
