"""HTTP as the local server speaks it: reads a request's head, sends whole and chunked bodies."""

from __future__ import annotations

import asyncio
import json
import time


def read_head(data: bytes) -> tuple[str, str, dict[str, str]]:
    """Return method, path and headers of a request; header names in lower case."""
    request_line, *lines = data.decode("latin-1").split("\r\n")
    method, path, _ = request_line.split(" ", 2)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return method, path, headers


def to_json(value: object) -> bytes:
    """Return `value` as JSON; lone surrogates are escaped."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def head(status: int, headers: dict) -> bytes:
    """Return the head of an HTTP response."""
    lines = [f"HTTP/1.1 {status} Said"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk of a chunked body; of no data, the end of the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def send(writer, request: dict, status: int, body: dict | str | bytes, headers: dict | None = None):
    """Send a whole response; a text is a page of HTML, bytes are a file."""
    if isinstance(body, str):
        content_type = "text/html"
        data = body.encode()
    elif isinstance(body, bytes):
        content_type = "application/octet-stream"
        data = body
    else:
        content_type = "application/json"
        data = to_json(body)
    length = {"Content-Type": content_type, "Content-Length": len(data)}
    writer.write(head(status, {**length, **(headers or {})}) + data)
    request["status"] = status
    request["finished_at"] = time.time()


async def send_split(writer, data: bytes) -> None:
    """Write chunks that end inside the first few characters beyond ASCII."""
    cuts = [at + 1 for at, byte in enumerate(data) if byte >= 0xC0][:8] or [len(data) // 2]
    for start, stop in zip([0, *cuts], [*cuts, len(data)]):
        writer.write(chunk(data[start:stop]))
        await writer.drain()
        await asyncio.sleep(0.005)
    writer.write(chunk(b""))
