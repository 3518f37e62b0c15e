"""Read what came back: one JSON body or a stream of events becomes a Completion, or a Fault."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.client.faults import CHECK_ADDRESS, Fault, parse_json, provider_words, sort_error_body
from common.files import printable

_NAME_CHARS = 200  # of what a server calls its model or a call
_MOST_TOKENS = 10**9


@dataclass
class Completion:
    """A whole reply as it came: `content` may be empty, `finish_reason` is always there."""

    content: str = ""
    finish_reason: str = ""
    usage: dict = field(default_factory=dict)
    model: str = ""
    invocation_id: str = ""


def read_completion(body: bytes) -> Completion:
    """Read a reply in either form, whatever was asked for. Raises Fault."""
    try:
        return _read(body)
    except Fault:
        raise
    except Exception as error:  # whatever a server sends is a fault of this call alone
        detail = f"{type(error).__name__} in {provider_words(body)}"
        raise Fault("transient", "malformed reply", detail) from None


def _read(body: bytes) -> Completion:
    """Read server-sent events, or one JSON document, which is the only event then.

    Only `content` is the answer: what comes as `reasoning_content` or `reasoning` is passed over.
    A fault in mid-stream may come as a `data:` event or, on Chutes, as a bare JSON line without
    `data:`, after which the stream just ends: a reply without a finish_reason is never a reply.
    """
    body = body.removeprefix(b"\xef\xbb\xbf").strip()
    if body.startswith(b"<"):
        kind = "a page of HTML instead of a reply"
        raise Fault("transient", kind, provider_words(body), advice=CHECK_ADDRESS)
    completion = Completion()
    pieces = []
    for line in [body] if body.startswith(b"{") else body.splitlines():
        if not line.startswith((b"data:", b"{")):
            continue  # a comment that keeps the connection open, an event name, or an empty line
        line = line.removeprefix(b"data:").strip()
        if line in (b"", b"[DONE]"):
            continue
        event = parse_json(line)
        completion.model = _name(event.get("model")) or completion.model
        completion.invocation_id = _name(event.get("id")) or completion.invocation_id
        completion.usage = _usage(event.get("usage")) or completion.usage
        if not event.get("choices"):
            fault = sort_error_body(event, line)
            if fault:
                raise fault
            continue
        choice = event["choices"][0]
        pieces.append("")
        if choice.get("index") in (0, None):  # another index is another reply
            said = choice.get("delta") or choice.get("message") or {}
            pieces.append(_text(said.get("content")))
            reason = _name(choice.get("finish_reason"))
            completion.finish_reason = reason or completion.finish_reason
    if not pieces:
        raise Fault("transient", "no choices in the reply", provider_words(body))
    completion.content = "".join(pieces)
    if completion.finish_reason in ("", "error", "abort"):
        raise Fault("transient", "reply without an end", "no finish_reason: the stream was cut")
    if completion.finish_reason == "content_filter":
        raise Fault("item", "refused by the provider's content filter")
    return completion


def _name(given: object) -> str:
    """Return a short text of the server's, such as a model's name."""
    return printable(given[:_NAME_CHARS]) if isinstance(given, str) else ""


def _text(content: object) -> str:
    """Return content as text: a string, or the text parts of a list of typed parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if part.get("type") == "text"]
        return "".join(_text(part) for part in parts)
    return content if isinstance(content, str) else ""


def _usage(given: object) -> dict:
    """Return the token counts of a reply, whatever their names; {} when they are not told."""
    prompt = _count(given, "prompt_tokens")
    completion = _count(given, "completion_tokens")
    if prompt is None or completion is None:
        return {}
    reasoning = _count(given.get("completion_tokens_details"), "reasoning_tokens")
    cached = _count(given.get("prompt_tokens_details"), "cached_tokens") or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "reasoning_tokens": reasoning or _count(given, "reasoning_tokens") or 0,
        "cached_tokens": min(cached, prompt),
    }


def _count(table: object, name: str) -> int | None:
    """Return a count of tokens; None for an odd figure, which must never cost the reply."""
    value = table.get(name) if isinstance(table, dict) else None
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else None
