"""What an OpenAI-compatible provider says: its models, replies whole and as streamed events."""

from __future__ import annotations

import time
from functools import lru_cache

from common.demo.faults import Reply
from common.demo.transport import to_json

ANY_ID = b"chatcmpl-000000000000"  # stands in cached bytes; a call's own id has the same length
STREAM_ERROR = {"error": "upstream instance went away"}

# id: context length, maximum output length, $ per million tokens in, out. Chutes' list, 2026-09.
MODELS = {
    "moonshotai/Kimi-K2.6-TEE": (262_144, 65_535, 0.50, 2.85),
    "Qwen/Qwen3-235B-A22B-Thinking-2507-TEE": (262_144, 262_144, 0.30, 1.20),
    "deepseek-ai/DeepSeek-V3.2-TEE": (131_072, 65_536, 1.00, 1.00),
}
OTHER_MODEL = (131_072, 32_768, 1.00, 1.00)


def event(value: object) -> bytes:
    """Return one server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"


def count_tokens(prompt_bytes: int, reply: Reply, max_tokens: int) -> dict:
    """Return token counts at four bytes a token, the usual rough rule."""
    prompt = prompt_bytes // 4
    reasoning = len(reply.reasoning or "") // 4
    completion = reasoning + len(reply.content or "") // 4
    if reply.finish_reason == "length":
        completion = max_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def whole_reply(call_id: bytes, model: str, reply: Reply, tokens: dict) -> dict:
    """Return the body of a reply that is not streamed."""
    message = {"role": "assistant", "content": reply.content, "tool_calls": None}
    if reply.reasoning is not None:
        message[reply.reasoning_field] = reply.reasoning
    choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
    return {
        "id": call_id.decode(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": tokens,
    }


def reply_events(model: str, reply: Reply, count: int) -> tuple[bytes, ...]:
    """Return the events of a streamed reply, about `count`; their id is ANY_ID."""
    return _reply_events(
        model, reply.content, reply.reasoning, reply.reasoning_field, reply.finish_reason, count
    )


@lru_cache(maxsize=32)
def _reply_events(model, content, reasoning, reasoning_field, finish_reason, count):
    def delta_event(delta: dict, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event(_stream_part(ANY_ID, model, [choice]))

    texts = {reasoning_field: reasoning or "", "content": content or ""}
    chars = sum(len(text) for text in texts.values())
    size = max(1, -(-chars // max(1, count)))
    events = [delta_event({"role": "assistant", "content": None if content is None else ""})]
    for name, text in texts.items():
        for at in range(0, len(text), size):
            events.append(delta_event({name: text[at : at + size]}))
    if finish_reason:
        events.append(delta_event({}, finish_reason))
    return tuple(events)


def end_of_stream(call_id: bytes, model: str, tokens: dict | None) -> bytes:
    """Return the last events: the usage where it was asked for, then [DONE]."""
    done = b"data: [DONE]\n\n"
    if tokens is None:
        return done
    return event({**_stream_part(call_id, model, []), "usage": tokens}) + done


def _stream_part(call_id: bytes, model: str, choices: list[dict]) -> dict:
    return {
        "id": call_id.decode(),
        "object": "chat.completion.chunk",
        "created": 0,
        "model": model,
        "choices": choices,
    }


def model_row(name: str, figures: tuple[int, int, float, float]) -> dict:
    """Return one entry of GET /v1/models, with the fields that providers are known to have."""
    context, output, dollars_in, dollars_out = figures
    return {
        "id": name,
        "object": "model",
        "owned_by": "demo",
        "max_model_len": context,
        "context_length": context,
        "max_output_length": output,
        "pricing": {"prompt": dollars_in, "completion": dollars_out},
        "price": {"input": {"usd": dollars_in}, "output": {"usd": dollars_out}},
    }
