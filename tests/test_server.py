"""The local server does what its orders say, over plain sockets and through the openai client."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import openai
import pytest

from common.demo.faults import FAULTS, Reply
from common.demo.server import Server
from runner import REPO

TEXT = "THOUGHT: naïve → look\n\n```bash\nls -la\n```"


def ask(server, stream=True, timeout_s=5.0, key="test-key", **more):
    """Send one chat request; return status, headers, the dechunked body, and how it ended."""
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}], **more}
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    connection = HTTPConnection("127.0.0.1", server.port, timeout=timeout_s)
    deadline = time.monotonic() + timeout_s
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
    except RemoteDisconnected:
        return None, {}, b"", "closed"
    except ConnectionResetError:
        return None, {}, b"", "reset"
    received = b""
    ended = "closed"
    try:
        while ended == "closed" and (data := response.read1(1 << 16)):
            received += data
            if time.monotonic() > deadline:
                ended = "timeout"
    except IncompleteRead:
        ended = "cut"
    connection.close()
    return response.status, dict(response.getheaders()), received, ended


def read_stream(body):
    """Return text, reasoning and finish_reason of a streamed body, and whether [DONE] came."""
    text = reasoning = ""
    finish = None
    for line in body.decode().splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:]).get("choices", []):
                delta = choice["delta"]
                text += delta.get("content") or ""
                reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
                finish = choice["finish_reason"] or finish
    return text, reasoning, finish, "data: [DONE]" in body.decode()


@pytest.fixture(scope="module")
def server():
    with Server(lambda body: TEXT, stall_s=0.3) as server:
        yield server


def order(server, fault, **more):
    server.faults = lambda n, body: fault
    return ask(server, **more)


@pytest.mark.parametrize(
    "fault, status, words",
    [
        ("400-context", 400, "context length"),
        ("400-param", 400, "temperature"),
        ("401", 401, "api key"),
        ("402", 402, "Quota exceeded"),
        ("403", 403, "not allowed"),
        ("404", 404, "model not found: m"),
        ("408", 408, "timed out"),
        ("409", 409, "Conflict"),
        ("429", 429, "maximum capacity"),
        ("429-retry-after", 429, "Too many"),
        ("429-spam", 429, "spamming"),
        ("500", 500, "exhausted"),
        ("502-html", 502, "<html>"),
        ("503", 503, "No instances"),
        ("524", 524, "<html>"),
        ("200-html", 200, "<html>"),
        ("200-error", 200, '"choices": null'),
        ("empty-choices", 200, '"choices": []'),
        ("no-choices", 200, "chat.completion"),
    ],
)
def test_refusals(server, fault, status, words):
    for stream in (True, False):
        got, headers, body, _ = order(server, fault, stream=stream)
        assert got == status and words in body.decode()
        assert ("Retry-After" in headers) == (fault == "429-retry-after")
        assert ("html" in headers["Content-Type"]) == body.startswith(b"<html>")
        if not body.startswith(b"<html>"):
            answer = json.loads(body)
            assert not answer.get("choices")
            assert isinstance(answer.get("detail"), dict) == (fault == "402")


@pytest.mark.parametrize(
    "fault, text, finish",
    [
        (None, TEXT, "stop"),
        ("crlf", TEXT, "stop"),
        ("no-finish", TEXT, None),
        ("empty", "", "stop"),
        ("length-cut", TEXT[: len(TEXT) // 2], "length"),
        ("length-empty", "", "length"),
        ("content-filter", TEXT[: len(TEXT) // 2], "content_filter"),
        ("reasoning", TEXT, "stop"),
        ("verdict-in-reasoning", "My answer is given above.", "stop"),
    ],
)
def test_spoiled_replies(server, fault, text, finish):
    _, _, body, _ = order(server, fault)
    got, reasoning, got_finish, done = read_stream(body)
    assert (got, got_finish, done) == (text, finish, True)
    if fault in ("reasoning", "length-empty"):
        assert reasoning and (b'"reasoning":' in body) == (fault == "reasoning")
    if fault == "verdict-in-reasoning":
        assert reasoning == TEXT
    whole = json.loads(order(server, fault, stream=False)[2])["choices"][0]
    assert (whole["message"]["content"] or "", whole["finish_reason"]) == (text, finish)


def test_raw_tokens_and_thinking_surround_the_text(server):
    texts = {}
    for fault in ("tool-tokens", "tool-tokens-late", "think", "think-unopened"):
        texts[fault] = read_stream(order(server, fault)[2])[0]
    assert texts["tool-tokens"].startswith("<|tool_calls_section_begin|>")
    assert texts["tool-tokens"].endswith(TEXT)
    assert texts["tool-tokens-late"].startswith(TEXT) and "<|tool_call" in texts["tool-tokens-late"]
    for fault in ("think", "think-unopened"):
        assert texts[fault].endswith("</think>\n\n" + TEXT)
        assert texts[fault].startswith("<think>") == (fault == "think")


def test_broken_streams(server):
    for fault, line in (("error-line", b'\n{"error"'), ("error-event", b'\ndata: {"error"')):
        _, _, body, ended = order(server, fault)
        text, _, finish, done = read_stream(body)
        assert line in body and ended == "closed" and finish is None and not done
        assert TEXT.startswith(text) and 0 < len(text) < len(TEXT)
    for stream in (True, False):
        assert order(server, "reset", stream=stream)[3] == "reset"
        started = time.monotonic()
        assert order(server, "silent", stream=stream)[0] is None
        assert time.monotonic() - started >= 0.3
        status, headers, body, ended = order(server, "cut-stream", stream=stream)
        assert status == 200
        assert ended == "cut" if stream else len(body) < int(headers["Content-Length"])
        started = time.monotonic()
        assert order(server, "stall", stream=stream)[2] and time.monotonic() - started >= 0.3
    assert b"[DONE]" not in order(server, "cut-stream")[2]
    assert json.loads(order(server, "not-stream")[2])["choices"][0]["message"]["content"] == TEXT
    _, _, body, ended = order(server, "comments", timeout_s=0.4)
    assert ended == "timeout" and body.count(b": keep-alive\n\n") > 2 and b"data:" not in body


def test_crlf_cuts_characters_in_two():
    with Server(lambda body: TEXT, faults=lambda n, body: "crlf") as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        with connection:
            body = b'{"stream": true, "messages": []}'
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
                + body
            )
            received = b""
            while not received.endswith(b"0\r\n\r\n"):
                received += connection.recv(1 << 16)
    assert b"\r\n\r\ndata" in received
    assert "ï".encode()[:1] + b"\r\n" in received  # a chunk ends inside the character


def test_every_fault_is_tried_here():
    source = Path(__file__).read_text()
    assert [name for name in FAULTS if f'"{name}"' not in source] == []


def test_length_empty_ends_at_a_large_budget(server):
    assert read_stream(order(server, "length-empty", max_tokens=4096)[2])[0] == ""
    assert read_stream(order(server, "length-empty", max_tokens=16_000)[2])[0] == TEXT


def test_the_openai_client_reads_it():
    reply = Reply(TEXT, reasoning="hm", chunks=7, model="m-2", headers={"X-More": "yes"})
    with Server(lambda body: reply, key="k") as server:
        client = openai.OpenAI(base_url=server.url, api_key="k", max_retries=0)
        create = client.chat.completions.create
        chat = {"model": "m", "messages": [{"role": "user", "content": "é"}]}
        raw = client.chat.completions.with_raw_response.create(**chat)
        assert raw.headers["x-more"] == "yes" and raw.headers["x-chutes-invocationid"]
        whole = raw.parse()
        assert whole.choices[0].message.content == TEXT and whole.model == "m-2"
        assert whole.choices[0].message.reasoning_content == "hm" and whole.usage.prompt_tokens > 0

        chunks = list(create(**chat, stream=True, stream_options={"include_usage": True}))
        parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(parts) == TEXT and 7 <= len(chunks) <= 12
        assert chunks[-1].usage and not chunks[-1].choices
        assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].id != whole.id
        assert all(not chunk.usage for chunk in create(**chat, stream=True))

        model = client.models.list().data[0]
        assert model.context_length and model.max_output_length and model.pricing["prompt"] > 0
        assert model.price["input"]["usd"] == model.pricing["prompt"]
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").chat.completions.create(**chat)
        assert [request["n"] for request in server.chats] == [1, 2, 3, 4]
        assert server.chats[-1]["fault"] == "401"
        assert server.chats[0]["body"]["messages"] == chat["messages"]


def test_limit_on_concurrency_and_list_of_models():
    with Server(lambda body: TEXT, latency_s=0.2, max_in_flight=2, models=["m"]) as server:
        with ThreadPoolExecutor(5) as pool:
            statuses = [answer[0] for answer in pool.map(ask, [server] * 5)]
        assert sorted(statuses) == [200, 200, 429, 429, 429] and server.peak_in_flight == 2
        assert ask(server, model="other")[0] == 404


def test_a_connection_is_kept_and_a_gone_client_is_noticed():
    with Server(lambda body: TEXT, faults=lambda n, body: "silent" if n == 3 else None) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        request = (
            b'POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 16\r\n\r\n{"messages": []}'
        )
        for _ in range(2):
            connection.sendall(request)
            received = b""
            while not received.endswith(b"}}}"):
                received += connection.recv(1 << 16)
        connection.sendall(request)
        deadline = time.monotonic() + 5
        while server.in_flight != 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        connection.close()
        while server.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.in_flight == 0
        assert [bool(request["finished_at"]) for request in server.chats] == [True, True, False]


def test_as_a_process():
    flags = "--events 5 --reply-chars 300 --faults 429,503 --fault-rate 0.5".split()
    command = [sys.executable, "-m", "common.demo.server", *flags]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True)
    try:
        said = json.loads(process.stdout.readline())
        assert said["pid"] == process.pid
        where = SimpleNamespace(port=urlsplit(said["url"]).port)
        answers = [ask(where) for _ in range(20)]
        assert {answer[0] for answer in answers} == {200, 429, 503}
        assert {len(read_stream(answer[2])[0]) for answer in answers if answer[0] == 200} == {300}
    finally:
        process.terminate()
        process.wait(5)


def test_an_empty_stream_says_why_only_without_one(server):
    status, _, body, _ = order(server, "empty-stream")
    assert status == 200 and body == b""
    status, _, body, _ = order(server, "empty-stream", stream=False)
    assert status == 400 and b"context length" in body


def test_one_at_a_time_ends_a_stream_for_the_next_request():
    with Server(lambda body: TEXT, stream_s=0.5, faults=lambda n, body: "one-at-a-time") as server:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(ask, server)
            time.sleep(0.2)
            second = ask(server)
        assert first.result()[3] == "cut" and b"stop" not in first.result()[2]
        assert read_stream(second[2])[:3] == (TEXT, "", "stop")
