"""One chat request that is let in: the reply whole or streamed, or the fault that breaks it off.

Each function returns False when the connection is to be closed. `server` holds the settings.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time

from common.demo.completions import (
    ANY_ID,
    STREAM_ERROR,
    count_tokens,
    end_of_stream,
    event,
    reply_events,
    whole_reply,
)
from common.demo.faults import Reply, spoil
from common.demo.transport import chunk, head, send, send_split, to_json

_BROKEN_STREAMS = ("comments", "stall", "cut-stream", "error-line", "error-event")
_STREAM_STEPS = 10  # in how many writes a stream is spread over `stream_s`


async def answer_chat(server, request, prompt_bytes, reader, writer) -> bool:
    """Send a reply, whole or streamed; return False when the connection is to be closed."""
    body = request["body"]
    fault = request["fault"]
    reply = server.reply(body)
    if not isinstance(reply, Reply):
        reply = Reply(reply)
    max_tokens = body.get("max_tokens") or body.get("max_completion_tokens") or 0
    reply = spoil(reply, fault, max_tokens, server.length_enough)
    delay_s = server.latency_s + reply.delay_s
    if delay_s > 0:
        await asyncio.sleep(delay_s)
    if fault == "reset":
        linger_0s = struct.pack("ii", 1, 0)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_0s)
        writer.transport.abort()
        return False
    if fault == "silent":
        return await _hold(reader, server.stall_s)
    call_id = b"chatcmpl-%012d" % request["n"]
    model = reply.model or body.get("model")
    tokens = reply.usage or count_tokens(prompt_bytes, reply, max_tokens)
    headers = {"X-Chutes-InvocationID": f"demo-{request['n']:012d}", **reply.headers}
    if not body.get("stream") or fault == "not-stream":
        whole = whole_reply(call_id, model, reply, tokens)
        return await _send_whole(server, request, whole, headers, reader, writer)
    events = reply_events(model, reply, reply.chunks or server.events)
    with_usage = (body.get("stream_options") or {}).get("include_usage")
    end = end_of_stream(call_id, model, tokens if with_usage else None)
    headers["Content-Type"] = "text/event-stream; charset=utf-8"
    headers["Transfer-Encoding"] = "chunked"
    writer.write(head(200, headers))
    request["status"] = 200
    if fault == "empty-stream":
        return False
    if fault in _BROKEN_STREAMS:
        return await _break_stream(server, fault, events, reader, writer)
    if fault == "crlf":
        await send_split(writer, b"".join([*events, end]).replace(b"\n", b"\r\n"))
    else:
        this = server.arrived if fault == "one-at-a-time" else None
        whole = await _send_stream(writer, events, call_id, server.stream_s, this, server)
        if not whole:
            writer.write(chunk(b"data: [DONE]\n\n"))
            return False
        writer.write(chunk(end) + chunk(b""))
    request["finished_at"] = time.time()
    return True


async def _send_whole(server, request, whole, headers, reader, writer) -> bool:
    """Send a reply that is not streamed, or half of it."""
    fault = request["fault"]
    if fault in ("error-line", "error-event"):
        whole = STREAM_ERROR
    if fault not in ("cut-stream", "stall", "comments"):
        send(writer, request, 200, whole, headers)
        return True
    data = to_json(whole)
    length = {"Content-Type": "application/json", "Content-Length": len(data)}
    writer.write(head(200, length))
    writer.write(data[: len(data) // 2])
    return fault != "cut-stream" and await _hold(reader, server.stall_s)


async def _send_stream(writer, events, call_id, stream_s: float, this, server) -> bool:
    """Write all events under the call's own id, in steps where the stream takes its time.

    Return False, unfinished, when a request comes after `this`, the last one so far.
    """
    step = len(events)
    if stream_s:
        step = -(-len(events) // _STREAM_STEPS)
    for at in range(0, len(events), step):
        if at:
            await asyncio.sleep(stream_s / _STREAM_STEPS)
        if this is not None and server.arrived > this:
            return False
        part = b"".join(map(chunk, events[at : at + step]))
        writer.write(part.replace(ANY_ID, call_id))
    return True


async def _break_stream(server, fault, events, reader, writer) -> bool:
    """Write what comes before the fault, then the fault."""
    if fault == "comments":
        while not writer.is_closing() and not reader.at_eof():
            writer.write(chunk(b": keep-alive\n\n"))
            await writer.drain()
            await asyncio.sleep(0.05)
        return False
    first_half = events[: max(1, len(events) // 2)]
    writer.write(b"".join(map(chunk, first_half)))
    if fault == "stall":
        return await _hold(reader, server.stall_s)
    if fault == "cut-stream":
        return False
    error = event(STREAM_ERROR)
    if fault == "error-line":
        error = error.removeprefix(b"data: ")
    writer.write(chunk(error) + chunk(b""))
    return True


async def _hold(reader, stall_s: float) -> bool:
    """Say nothing until the client goes or stall_s have passed."""
    try:
        await asyncio.wait_for(reader.read(1), stall_s)
    except asyncio.TimeoutError:
        pass
    return False
