"""A night with a bad provider: what a run survives, what it says, and what it never pays twice."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from common.demo.server import Reply, Server
from makers import REPLY, answers, make_sample, write_settings
from runner import KEY, QUICK, stage, start

pytestmark = pytest.mark.background

NOTHING_TO_PAY = {"prompt_tokens": 0, "completion_tokens": 0}


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
                self.rfile.read(size)
                outer.posts += 1
                self.close_connection = True
                try:
                    answer(self)
                except OSError:
                    pass  # the client has heard enough

            def do_GET(self):
                self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"data":[]}')

            def log_message(self, *_):
                pass

        outer = self
        self.posts = 0
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
    bad = {1, 2, 5, 7}

    def fault(_, body):
        return "524" if number_of(body) in bad else None

    with Server(reply=lambda body: REPLY, key=KEY, faults=fault) as server:
        result = stage("king.py", cwd=tmp_path, server=server)
        assert result.returncode == 1, result.stderr
        assert len(answers(tmp_path)) == 12
        rows = failed_rows(tmp_path)
        assert {row["item"] for row in rows} == {f"prompts_16_1_{n + 1}" for n in bad}
        assert all("while others pass" in row["reason"] for row in rows)
        probes = [chat for chat in server.chats if number_of(chat["body"]) == -1]
        assert probes and f"{len(probes)} one-word probe" in result.stdout
        # A rerun starts with others.
        before = len(server.chats)
        (tmp_path / "answer_0/prompts_16_1_16.json").unlink()
        assert stage("king.py", "--limit", "1", cwd=tmp_path, server=server).returncode == 0
        assert [number_of(chat["body"]) for chat in server.chats[before:]] == [15]


def test_an_outage_is_still_an_outage(tmp_path):
    make_sample(tmp_path, 12)
    write_settings(tmp_path, generate={**QUICK, "outage_s": 1.0, "concurrency": 4})
    fault = lambda n, body: "503" if n > 3 else None  # noqa: E731
    with Server(reply=lambda body: REPLY, key=KEY, faults=fault) as server:
        result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 1 and "does not answer" in result.stderr
    assert len(answers(tmp_path)) == 3
    assert "1 one-word probe: server trouble (503)" in result.stdout


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


def test_a_stop_longer_than_the_time_outs_loses_nothing(tmp_path):
    make_sample(tmp_path, 8)
    limits = {"stall_s": 1.0, "timeout_s": 2.0, "outage_s": 1.0, "concurrency": 8}
    write_settings(tmp_path, generate={**QUICK, **limits})
    with Server(reply=lambda body: REPLY, key=KEY, latency_s=0.6) as server:
        process = start("king.py", cwd=tmp_path, server=server)
        while len(server.chats) < 8:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(4)
        os.kill(process.pid, signal.SIGCONT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, out + err
    assert len(server.chats) == 8, "every reply lay in the buffers, none is asked for again"
    assert len(answers(tmp_path)) == 8


def test_a_hangup_saves_what_is_in_flight(tmp_path):
    make_sample(tmp_path, 40)
    write_settings(tmp_path, generate={**QUICK, "concurrency": 4})
    with Server(reply=lambda body: REPLY, key=KEY, latency_s=0.3) as server:
        process = start("king.py", cwd=tmp_path, server=server)
        while len(server.chats) < 6:
            time.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 130 and "Traceback" not in err
        assert len(answers(tmp_path)) == len(server.chats)


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
    make_sample(tmp_path, 2 * len(ODD) + 2)
    write_settings(tmp_path, generate=QUICK)
    bodies = [(200, body) for body in ODD.values()] + [(500, body) for body in ODD.values()]
    odd_headers = ["Retry-After: ²", "Retry-After: " + "9" * 2000, "Retry-After: nan"]
    waiting = list(bodies)

    def answer(handler):
        if waiting:
            status, body = waiting.pop()
            return say(status, body, odd_headers[len(waiting) % 3])(handler)
        return say(200, GOOD)(handler)

    with Raw(answer) as server:
        result = stage(
            "king.py", cwd=tmp_path, CHUTES_BASE_URL=server.url, CHUTES_API_KEY=KEY, timeout_s=120
        )
    assert result.returncode == 0, result.stdout + result.stderr
    assert server.posts == len(bodies) + len(answers(tmp_path)) == 2 * len(bodies) + 2


def test_counts_of_thousands_of_digits_do_not_cost_the_reply(tmp_path):
    make_sample(tmp_path, 1)
    body = GOOD[:-1] + b', "usage": {"prompt_tokens": ' + DIGITS + b', "completion_tokens": 5}}'
    with Raw(say(200, body)) as server:
        result = stage("king.py", cwd=tmp_path, CHUTES_BASE_URL=server.url)
    assert result.returncode == 0 and server.posts == 1
    assert "tokens  not told by the server" in result.stdout


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
