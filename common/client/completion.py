"""Read what came back: one JSON body or a stream of events becomes a Completion, or a Fault."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from common.client.faults import Fault, provider_words, sort_error_body


@dataclass
class Completion:
    """A whole reply as it came. `finish_reason` is always there.

    `content` may be empty, when reasoning used up all of max_tokens.
    """

    content: str = ""
    finish_reason: str = ""
    usage: dict = field(default_factory=dict)
    model: str = ""
    invocation_id: str = ""


def read_completion(body: bytes) -> Completion:
    """Read a reply in either form, whatever was asked for. Raises Fault."""
    try:
        if body.lstrip()[:1] in (b"{", b"<", b"["):
            return read_body(body)
        return read_stream(body)
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        detail = f"{error!r} in {provider_words(body)}"
        raise Fault("transient", "malformed reply", detail) from None


def read_body(body: bytes) -> Completion:
    """Read a reply that came as one JSON document.

    Raises Fault for an error body, HTML, or a torn document.
    """
    try:
        answer = json.loads(body)
    except ValueError:
        words = provider_words(body)
        raise Fault("transient", "not an API reply (HTML or torn)", words) from None
    if not isinstance(answer, dict) or not answer.get("choices"):
        nothing = Fault("transient", "no choices in the reply", provider_words(body))
        raise sort_error_body(answer, body) or nothing
    choice = answer["choices"][0]
    completion = Completion(
        content=_text((choice.get("message") or {}).get("content")),
        finish_reason=choice.get("finish_reason") or "",
        usage=_usage(answer.get("usage")),
        model=answer.get("model") or "",
        invocation_id=answer.get("id") or "",
    )
    return _check_whole(completion)


def read_stream(body: bytes) -> Completion:
    """Read a reply that came as server-sent events.

    Only `content` is the answer: what comes as `reasoning_content` or `reasoning` is passed over.
    A fault in mid-stream may come as a `data:` event or, on Chutes, as a bare JSON line without
    `data:`, after which the stream just ends: a reply without a finish_reason is never a reply.
    """
    completion = Completion()
    pieces = []
    any_choice = False
    for line in body.removeprefix(b"\xef\xbb\xbf").splitlines():
        if line.startswith(b"data:"):
            line = line[5:].strip()
            if line in (b"", b"[DONE]"):
                continue
        elif not line.startswith(b"{"):
            continue  # a comment that keeps the connection open, an event name, or an empty line
        event = _read_event(line)
        choices = event.get("choices")
        if choices:
            any_choice = True
            choice = choices[0]
            if choice.get("index") in (0, None):  # another index is another reply
                delta = choice.get("delta") or choice.get("message") or {}
                pieces.append(_text(delta.get("content")))
                completion.finish_reason = choice.get("finish_reason") or completion.finish_reason
        else:
            fault = sort_error_body(event, line)
            if fault:
                raise fault
        completion.model = event.get("model") or completion.model
        completion.invocation_id = event.get("id") or completion.invocation_id
        completion.usage = _usage(event.get("usage")) or completion.usage
    if not any_choice:
        raise Fault("transient", "no choices in the reply", provider_words(body))
    completion.content = "".join(pieces)
    return _check_whole(completion)


def _read_event(line: bytes) -> dict:
    try:
        return json.loads(line)
    except ValueError:
        raise Fault("transient", "torn stream", provider_words(line)) from None


def _text(content: object) -> str:
    """Return content as text: a string, or the text parts of a list of typed parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return "".join(_text(part.get("text")) for part in parts)


def _check_whole(completion: Completion) -> Completion:
    """Return the completion. Raises Fault when it has no end or was filtered."""
    if not completion.finish_reason or completion.finish_reason in ("error", "abort"):
        detail = "no finish_reason: the stream was cut"
        raise Fault("transient", "reply without an end", detail)
    if completion.finish_reason == "content_filter":
        raise Fault("item", "refused by the provider's content filter")
    return completion


def _usage(given: object) -> dict:
    """Return the token counts of a reply, whatever their names; {} when nothing is told."""
    if not isinstance(given, dict):
        return {}
    reasoning = _count(given.get("completion_tokens_details"), "reasoning_tokens")
    return {
        "prompt_tokens": _count(given, "prompt_tokens"),
        "completion_tokens": _count(given, "completion_tokens"),
        "reasoning_tokens": reasoning or _count(given, "reasoning_tokens"),
        "cached_tokens": _count(given.get("prompt_tokens_details"), "cached_tokens"),
    }


def _count(table: object, name: str) -> int:
    """Return a count of tokens; 0 for an odd figure, which must never cost the reply."""
    value = table.get(name) if isinstance(table, dict) else None
    return value if type(value) is int and value > 0 else 0
