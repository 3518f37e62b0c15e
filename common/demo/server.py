"""A local OpenAI-compatible server that answers by rule, and misbehaves on order.

In a test's own process (it runs on a thread of its own):

    with Server(reply=lambda body: "hello", faults=lambda n, body: "429") as server:
        ... CHUTES_BASE_URL=server.url ...
        server.chats            # what was asked, in order

As a process, which prints one JSON line with its url and pid:

    python -m common.demo.server --port 0 --latency-ms 200 --events 150 --reply-chars 800

Serves POST /v1/chat/completions, GET /v1/models, /v1/files, /v1/batches and GET /stats, on loopback
only; connections are kept alive. faults.py and batches.py list what can be ordered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass

from common.demo.batches import Desk
from common.demo.chat import answer_chat
from common.demo.completions import MODELS, OTHER_MODEL, model_row
from common.demo.faults import ERRORS, FAULTS, Reply, refusal
from common.demo.rules import rule_reply, sampled_replies
from common.demo.transport import read_head, send


@dataclass(eq=False)
class Server:
    """The server, on a thread of its own from `__enter__` to `__exit__`.

    `requests` holds each as {"path", "body", "headers", "n", "fault", "status", "started_at",
    "finished_at"} (Unix seconds; finished_at is None until answered in full); `chats` those to the
    chat route.
    """

    reply: Callable[[dict], str | Reply] = rule_reply  # of the request's body
    _: KW_ONLY
    faults: Callable | None = None  # (n, body) -> a name of FAULTS or None; n counts tries from 1
    key: str | None = None  # asked for when set
    models: Iterable[str] | None = None  # those served, perhaps with figures as MODELS; None: any
    latency_s: float = 0.0  # before the first byte
    stream_s: float = 0.0  # over which a stream is spread
    events: int = 24  # of a stream
    max_in_flight: int | None = None  # above it 429
    stall_s: float = 3600.0  # how long silent faults keep the socket open
    length_enough: int = 16_000  # the max_tokens from which "length-empty" no longer strikes
    port: int = 0
    keep: bool = True  # record the requests
    takes_batches: bool = True
    batch_faults: Callable | None = None  # see batches.Desk

    def __post_init__(self):
        if self.models is not None and not isinstance(self.models, dict):
            self.models = dict.fromkeys(self.models, OTHER_MODEL)
        self.requests: list[dict] = []
        self.desk = Desk(self)
        self.chat_count = 0
        self.arrived = 0  # requests of any kind
        self.in_flight = 0
        self.peak_in_flight = 0
        self.outcomes: Counter = Counter()
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None  # once it listens

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def chats(self) -> list[dict]:
        return [request for request in list(self.requests) if request["n"]]

    def __enter__(self) -> Server:
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self._thread.start()
        if not self._started.wait(10) or self._stop is None:
            raise OSError(f"the local server could not listen on port {self.port}")
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def serve(self, announce=lambda: None) -> None:
        """Listen, call `announce`, serve until stopped; asyncio.run then cancels what is open."""
        try:
            # limit: what a reader buffers before it pauses its socket; prompts are some 10 KB.
            listener = await asyncio.start_server(
                self._connection, "127.0.0.1", self.port, limit=1 << 22, backlog=1024
            )
            self.port = listener.sockets[0].getsockname()[1]
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
        finally:
            self._started.set()
        announce()
        await self._stop.wait()
        listener.close()

    async def _connection(self, reader, writer) -> None:
        """Answer the requests of one connection, until one of the two ends closes it."""
        try:
            while True:
                method, path, headers = read_head(await reader.readuntil(b"\r\n\r\n"))
                data = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self._answer(method, path, headers, data, reader, writer):
                    break
                await writer.drain()
                if headers.get("connection", "").lower() == "close":
                    break
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # the client went
        except asyncio.CancelledError:
            pass  # the server is stopping
        except Exception:  # a mistake in the rule under test: the client sees only a closed socket
            traceback.print_exc()
        finally:
            writer.close()

    async def _answer(self, method, path, headers, data, reader, writer) -> bool:
        """Answer one request; return False when the connection is to be closed."""
        is_for_desk = path.startswith(("/v1/files", "/v1/batches"))
        request = {
            "path": path,
            "body": json.loads(data) if data and not is_for_desk else None,
            "headers": headers,
            "n": 0,
            "fault": None,
            "status": None,
            "started_at": time.time(),
            "finished_at": None,
        }
        if self.keep:
            self.requests.append(request)
        self.arrived += 1
        if is_for_desk:
            status, said = self.desk.answer(method, path, headers, data)
            await asyncio.sleep(self.latency_s)  # what was done is done, whether it is heard or not
            send(writer, request, status, said)
            return True
        if method != "POST" or path != "/v1/chat/completions":
            send(writer, request, *self._information(path))
            return True
        self.chat_count += 1
        request["n"] = self.chat_count
        busy = self.max_in_flight is not None and self.in_flight >= self.max_in_flight
        if not busy:
            self.in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            request["fault"] = self._fault(request, busy)
            if request["fault"] == "empty-stream" and not request["body"].get("stream"):
                request["fault"] = "400-context"
            if request["fault"] in ERRORS:
                send(writer, request, *refusal(request))
                return True
            return await answer_chat(self, request, len(data), reader, writer)
        finally:
            if not busy:
                self.in_flight -= 1
            self.outcomes[request["fault"] or ("ok" if request["finished_at"] else "left")] += 1

    def _information(self, path: str) -> tuple[int, dict]:
        """Return status and body of what is no chat."""
        if path == "/v1/models":
            models = (self.models or MODELS).items()
            rows = [model_row(name, figures) for name, figures in models]
            return 200, {"object": "list", "data": rows}
        if path == "/stats":
            return 200, {
                "chats": self.chat_count,
                "in_flight": self.in_flight,
                "peak_in_flight": self.peak_in_flight,
                "outcomes": self.outcomes,
            }
        return 404, {"detail": "Not Found"}

    def _fault(self, request: dict, busy: bool) -> str | None:
        """Return the fault that this chat request meets, by the server's own rules or by order."""
        if self.key is not None and request["headers"].get("authorization") != f"Bearer {self.key}":
            return "401"
        if self.models is not None and request["body"].get("model") not in self.models:
            return "404"
        if busy:
            return "429"
        fault = self.faults(request["n"], request["body"]) if self.faults else None
        if fault is not None and fault not in FAULTS:
            raise ValueError(f"no such fault: {fault!r}")
        return fault


def main(argv: list[str] | None = None) -> None:
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
    parser.add_argument("--faults", default="", help="comma-separated: " + ", ".join(FAULTS))
    parser.add_argument("--fault-rate", type=float, default=0.4, help="share that --faults strike")
    args = parser.parse_args(argv)
    names = [name for name in args.faults.split(",") if name]
    unknown = sorted(set(names) - set(FAULTS))
    if unknown:
        parser.error(f"no such fault: {', '.join(unknown)}; known: {', '.join(FAULTS)}")
    draw = random.Random(0)

    def draw_fault(n: int, body: dict) -> str | None:
        return draw.choice(names) if names and draw.random() < args.fault_rate else None

    reply = sampled_replies()
    if args.reply_chars:
        constant = _constant_reply(args.reply_chars)
        reply = lambda body: constant  # noqa: E731
    server = Server(
        reply,
        faults=draw_fault,
        key=args.key,
        latency_s=args.latency_ms / 1000,
        stream_s=args.stream_ms / 1000,
        events=args.events,
        max_in_flight=args.max_in_flight,
        port=args.port,
        keep=False,
    )

    def announce() -> None:
        print(json.dumps({"url": server.url, "pid": os.getpid()}), flush=True)

    try:
        asyncio.run(server.serve(announce))
    except KeyboardInterrupt:
        sys.exit(130)


def _constant_reply(chars: int) -> str:
    """Return a reply in the agent's form, of about this length."""
    block = "\n\n```bash\nls -la\n```"
    thought = "THOUGHT: " + "I look around first. " * (chars // 21 + 1)
    return thought[: max(10, chars - len(block))] + block


if __name__ == "__main__":
    main()
