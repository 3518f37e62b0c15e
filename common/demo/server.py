"""A local OpenAI-compatible server that answers by rule, and misbehaves on order.

In a test's own process (it runs on a thread of its own):

    with Server(reply=lambda body: "hello", faults=lambda n, body: "429" if n == 1 else None) as server:
        ... CHUTES_BASE_URL=server.url ...
        server.chats            # what was asked, in order

As a process, which prints one JSON line with its url and pid:

    python -m common.demo.server --port 0 --latency-ms 200 --events 150 --reply-chars 800

Serves POST /v1/chat/completions, GET /v1/models and GET /stats, on loopback only, keeping connections alive.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import struct
import sys
import threading
import time
import traceback
from collections import Counter
from functools import lru_cache

from common.demo.faults import ERRORS, FAULTS, Reply, spoil
from common.demo.rules import rule_reply

# id: context length, maximum output length, $ per million tokens in, out. As Chutes listed them, 2026-09.
MODELS = {
    "moonshotai/Kimi-K2.6-TEE": (262_144, 65_535, 0.50, 2.85),
    "Qwen/Qwen3-235B-A22B-Thinking-2507-TEE": (262_144, 262_144, 0.30, 1.20),
    "deepseek-ai/DeepSeek-V3.2-TEE": (131_072, 65_536, 1.00, 1.00),
}
_UNKNOWN_MODEL = (131_072, 32_768, 1.00, 1.00)

_STREAM_ERROR = {"error": "upstream instance went away"}
_ID = b"chatcmpl-000000000000"  # stands in cached bytes; a request's own id has the same length


def _json(value) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(value).encode()


@lru_cache(maxsize=32)
def _events(
    content, reasoning, reasoning_field, finish_reason, count, model
) -> "tuple[bytes, ...]":
    """The reply's SSE events without usage and [DONE], about `count` of them."""
    head = {"id": _ID.decode(), "object": "chat.completion.chunk", "created": 0, "model": model}

    def event(delta, finish=None):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + _json({**head, "choices": [choice]}) + b"\n\n"

    parts = [
        (name, text) for name, text in ((reasoning_field, reasoning), ("content", content)) if text
    ]
    size = max(1, -(-sum(len(text) for _, text in parts) // max(1, count)))
    events = [event({"role": "assistant", "content": None if content is None else ""})]
    events += [
        event({name: text[at : at + size]})
        for name, text in parts
        for at in range(0, len(text), size)
    ]
    return tuple(events + ([event({}, finish_reason)] if finish_reason else []))


def _usage(prompt_bytes: int, reply: Reply) -> dict:
    """Tokens at four bytes each, the usual rough rule."""
    prompt, reasoning = prompt_bytes // 4, len(reply.reasoning or "") // 4
    completion = reasoning + len(reply.content or "") // 4
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def _frame(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@lru_cache(maxsize=32)
def _frames(*key) -> "tuple[bytes, ...]":
    return tuple(map(_frame, _events(*key)))


def _head(status: int, headers: dict) -> bytes:
    lines = [f"HTTP/1.1 {status} Said"] + [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


class Server:
    """The server, on a thread of its own from `__enter__` to `__exit__`.

    reply: body -> str or Reply. faults: (n, body) -> a name of FAULTS or None; n counts chat requests from 1,
    tries included. key: asked for when set. models: ids, or ids with figures as in MODELS; others get 404
    (None: every id is served). latency_s: before the first byte; stream_s: over which a stream is spread.
    events: of a stream. max_in_flight: above it 429. stall_s: how long silent faults keep the socket open.
    length_enough: the max_tokens from which "length-empty" no longer strikes. keep: record the requests.

    requests: each as {"path", "body", "headers", "n", "fault", "status", "started_at", "finished_at"} (Unix
    seconds; finished_at None until answered in full); chats: those to the chat route.
    """

    def __init__(
        self,
        reply=rule_reply,
        *,
        latency_s=0.0,
        stream_s=0.0,
        events=24,
        key=None,
        models=None,
        faults=None,
        max_in_flight=None,
        stall_s=3600.0,
        length_enough=16_000,
        port=0,
        keep=True,
    ):
        self.reply, self.key, self.events = reply, key, events
        self.latency_s, self.stream_s = latency_s, stream_s
        named = isinstance(models, (list, tuple, set))
        self.models = dict.fromkeys(models, _UNKNOWN_MODEL) if named else models
        self.faults, self.max_in_flight, self.stall_s = faults, max_in_flight, stall_s
        self.length_enough, self.port, self.keep = length_enough, port, keep
        self.requests: "list[dict]" = []
        self.in_flight = self.peak_in_flight = self.chat_count = 0
        self.outcomes: Counter = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def chats(self) -> "list[dict]":
        return [request for request in list(self.requests) if request["n"]]

    def __enter__(self) -> "Server":
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self._thread.start()
        if not self._started.wait(10) or not hasattr(self, "_stop"):
            raise OSError(f"the local server could not listen on port {self.port}")
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def serve(self) -> None:
        """Listen until stopped; asyncio.run then cancels the open connections."""
        started = getattr(self, "_started", None)
        try:
            # limit: what a reader buffers before it pauses its socket; prompts are tens of kilobytes.
            listener = await asyncio.start_server(
                self._connection, "127.0.0.1", self.port, limit=1 << 22, backlog=1024
            )
            self.port = listener.sockets[0].getsockname()[1]
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        finally:
            if started:
                started.set()
        await self._announce()
        await self._stop.wait()
        listener.close()

    async def _announce(self) -> None:
        """Overridden where the server is a process."""

    async def _connection(self, reader, writer) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                request_line, *lines = head.split("\r\n")
                method, path, _ = request_line.split(" ", 2)
                pairs = (line.partition(":") for line in lines if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                data = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self._answer(method, path, headers, data, reader, writer):
                    break
                await writer.drain()
                if headers.get("connection", "").lower() == "close":
                    break
        except (
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            OSError,
            asyncio.CancelledError,
        ):
            pass  # the client went, or the server is stopping
        except Exception:  # a mistake in the rule under test: the client sees only a closed socket
            traceback.print_exc()
        finally:
            writer.close()

    def _send(self, writer, record, status, body, headers=None) -> None:
        html = isinstance(body, str)
        data = body.encode() if html else body if isinstance(body, bytes) else _json(body)
        writer.write(
            _head(
                status,
                {
                    "Content-Type": "text/html" if html else "application/json",
                    "Content-Length": len(data),
                    **(headers or {}),
                },
            )
            + data
        )
        record.update(status=status, finished_at=time.time())

    async def _answer(self, method, path, headers, data, reader, writer) -> bool:
        """Answer one request; False when the connection is to be closed."""
        is_chat = method == "POST" and path == "/v1/chat/completions"
        record = {
            "path": path,
            "body": json.loads(data) if data else None,
            "headers": headers,
            "n": 0,
            "fault": None,
            "status": None,
            "started_at": time.time(),
            "finished_at": None,
        }
        if self.keep:
            self.requests.append(record)
        if not is_chat:
            status, body = self._plain(path)
            self._send(writer, record, status, body)
            return True
        self.chat_count += 1
        record["n"] = self.chat_count
        busy = self.max_in_flight is not None and self.in_flight >= self.max_in_flight
        self.in_flight += not busy
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            fault = record["fault"] = self._refusal(record, busy) or (
                self.faults(record["n"], record["body"]) if self.faults else None
            )
            if fault is not None and fault not in FAULTS:
                raise ValueError(f"no such fault: {fault!r}")
            if fault in ERRORS:
                status, body, more = ERRORS[fault]
                if fault == "404":
                    body = {"detail": f"model not found: {record['body'].get('model')}"}
                if fault == "401" and "authorization" not in headers:
                    body = {"detail": "Authentication required."}
                self._send(writer, record, status, body, more)
                return True
            return await self._complete(record, len(data), reader, writer)
        finally:
            self.in_flight -= not busy
            self.outcomes[record["fault"] or ("ok" if record["finished_at"] else "left")] += 1

    def _plain(self, path) -> tuple:
        if path == "/v1/models":
            return 200, {
                "object": "list",
                "data": [
                    {
                        "id": name,
                        "object": "model",
                        "owned_by": "demo",
                        "max_model_len": context,
                        "context_length": context,
                        "max_output_length": output,
                        "pricing": {"prompt": dollars_in, "completion": dollars_out},
                        "price": {"input": {"usd": dollars_in}, "output": {"usd": dollars_out}},
                    }
                    for name, (context, output, dollars_in, dollars_out) in (
                        self.models or MODELS
                    ).items()
                ],
            }
        if path == "/stats":
            return 200, {
                "chats": self.chat_count,
                "in_flight": self.in_flight,
                "peak_in_flight": self.peak_in_flight,
                "outcomes": self.outcomes,
            }
        return 404, {"detail": "Not Found"}

    def _refusal(self, record, busy) -> "str | None":
        if self.key is not None and record["headers"].get("authorization") != f"Bearer {self.key}":
            return "401"
        if self.models is not None and record["body"].get("model") not in self.models:
            return "404"
        return "429" if busy else None

    async def _complete(self, record, prompt_bytes, reader, writer) -> bool:
        body, fault = record["body"], record["fault"]
        reply = self.reply(body)
        reply = Reply(reply) if isinstance(reply, str) or reply is None else reply
        max_tokens = body.get("max_tokens") or body.get("max_completion_tokens") or 0
        reply = spoil(reply, fault, max_tokens, self.length_enough)
        if self.latency_s + reply.delay_s > 0:
            await asyncio.sleep(self.latency_s + reply.delay_s)
        if fault == "reset":
            linger_0s = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger_0s
            )
            writer.transport.abort()
            return False
        if fault == "silent":
            return await self._hold(reader)
        ident = b"chatcmpl-%012d" % record["n"]
        usage = reply.usage or _usage(prompt_bytes, reply)
        headers = {"X-Chutes-InvocationID": f"demo-{record['n']:012d}", **reply.headers}
        model = reply.model or body.get("model")
        if body.get("stream") and fault != "not-stream":
            return await self._stream(record, reply, model, usage, ident, headers, reader, writer)
        message = {"role": "assistant", "content": reply.content, "tool_calls": None}
        if reply.reasoning is not None:
            message[reply.reasoning_field] = reply.reasoning
        choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
        whole = {
            "id": ident.decode(),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            "usage": usage,
        }
        if fault in ("error-line", "error-event"):
            whole = _STREAM_ERROR
        if fault in ("cut-stream", "stall", "comments"):
            data = _json(whole)
            writer.write(
                _head(200, {"Content-Type": "application/json", "Content-Length": len(data)})
            )
            writer.write(data[: len(data) // 2])
            return fault != "cut-stream" and await self._hold(reader)
        self._send(writer, record, 200, whole, headers)
        return True

    async def _stream(self, record, reply, model, usage, ident, headers, reader, writer) -> bool:
        fault = record["fault"]
        key = (
            reply.content,
            reply.reasoning,
            reply.reasoning_field,
            reply.finish_reason,
            reply.chunks or self.events,
            model,
        )
        end = b"data: [DONE]\n\n"
        if (record["body"].get("stream_options") or {}).get("include_usage"):
            end = (
                b"data: "
                + _json(
                    {
                        "id": ident.decode(),
                        "object": "chat.completion.chunk",
                        "created": 0,
                        "model": model,
                        "choices": [],
                        "usage": usage,
                    }
                )
                + b"\n\n"
                + end
            )
        writer.write(
            _head(
                200,
                {
                    "Content-Type": "text/event-stream; charset=utf-8",
                    "Transfer-Encoding": "chunked",
                    **headers,
                },
            )
        )
        record["status"] = 200
        if fault == "comments":
            while not writer.is_closing() and not reader.at_eof():
                writer.write(_frame(b": keep-alive\n\n"))
                await writer.drain()
                await asyncio.sleep(0.05)
            return False
        if fault == "crlf":
            await self._write_split(writer, (b"".join(_events(*key)) + end).replace(b"\n", b"\r\n"))
            record["finished_at"] = time.time()
            return True
        frames = _frames(*key)
        if fault in ("cut-stream", "stall", "error-line", "error-event"):
            writer.write(b"".join(frames[: max(1, len(frames) // 2)]))
            if fault == "stall":
                return await self._hold(reader)
            if fault != "cut-stream":
                prefix = b"data: " if fault == "error-event" else b""
                writer.write(_frame(prefix + _json(_STREAM_ERROR) + b"\n\n") + b"0\r\n\r\n")
            return fault != "cut-stream"
        step = len(frames) if not self.stream_s else -(-len(frames) // 10)
        for at in range(0, len(frames), step):
            if at:
                await asyncio.sleep(self.stream_s / 10)
            writer.write(b"".join(frames[at : at + step]).replace(_ID, ident))
        writer.write(_frame(end) + b"0\r\n\r\n")
        record["finished_at"] = time.time()
        return True

    async def _write_split(self, writer, data: bytes) -> None:
        """Write in chunks that end after the first byte of each of the first few characters beyond ASCII."""
        cuts = [at + 1 for at, byte in enumerate(data) if byte >= 0xC0][:8] or [len(data) // 2]
        for start, stop in zip([0] + cuts, cuts + [len(data)]):
            writer.write(_frame(data[start:stop]))
            await writer.drain()
            await asyncio.sleep(0.005)
        writer.write(b"0\r\n\r\n")

    async def _hold(self, reader) -> bool:
        """Say nothing until the client goes or stall_s have passed."""
        try:
            await asyncio.wait_for(reader.read(1), self.stall_s)
        except asyncio.TimeoutError:
            pass
        return False


class _Process(Server):
    async def _announce(self) -> None:
        print(json.dumps({"url": self.url, "pid": os.getpid()}), flush=True)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        "common.demo.server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0, help="before the first byte")
    parser.add_argument("--stream-ms", type=float, default=0, help="over which a stream is spread")
    parser.add_argument("--events", type=int, default=24, help="of a stream")
    parser.add_argument("--reply-chars", type=int, help="a constant agent reply of this length")
    parser.add_argument("--key", help="demand this key")
    parser.add_argument("--max-in-flight", type=int, help="above it: 429")
    parser.add_argument("--faults", default="", help="comma-separated names: " + ", ".join(FAULTS))
    parser.add_argument(
        "--fault-rate", type=float, default=0.4, help="share of requests struck by --faults"
    )
    args = parser.parse_args(argv)
    names = [name for name in args.faults.split(",") if name]
    if unknown := set(names) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; known: {', '.join(FAULTS)}")
    draw = random.Random(0)
    block = "\n\n```bash\nls -la\n```"
    chars = args.reply_chars or 0
    thought = "THOUGHT: " + "I look around first. " * (chars // 21 + 1)
    constant = thought[: max(10, chars - len(block))] + block
    server = _Process(
        (lambda body: constant) if chars else rule_reply,
        latency_s=args.latency_ms / 1000,
        stream_s=args.stream_ms / 1000,
        events=args.events,
        key=args.key,
        max_in_flight=args.max_in_flight,
        port=args.port,
        keep=False,
        faults=lambda n, body: (
            draw.choice(names) if names and draw.random() < args.fault_rate else None
        ),
    )
    try:
        asyncio.run(server.serve())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
