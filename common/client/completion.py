"""Read what came back: one JSON body or a stream of events becomes a Completion, or a Fault."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.client.faults import Fault, parse_json, provider_words, sort_error_body
from common.files import printable

_NAME_CHARS = 200  # of what a server calls its model or a call
_MOST_TOKENS = 10**9


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
    except Fault:
        raise
    except Exception as error:  # whatever a server sends is a fault of this call alone
        detail = f"{error!r} in {provider_words(body)}"
        raise Fault("transient", "malformed reply", detail) from None


def read_body(body: bytes) -> Completion:
    """Read a reply that came as one JSON document.

    Raises Fault for an error body, HTML, or a torn document.
    """
    try:
        answer = parse_json(body)
    except ValueError:
        words = provider_words(body)
        if body.lstrip()[:1] == b"<":
            kind = "a page of HTML instead of a reply"
            raise Fault("transient", kind, words, meaning="address") from None
        raise Fault("transient", "not an API reply (torn)", words) from None
    if not isinstance(answer, dict) or not answer.get("choices"):
        nothing = Fault("transient", "no choices in the reply", provider_words(body))
        raise sort_error_body(answer, body) or nothing
    choice = answer["choices"][0]
    completion = Completion(
        content=_text((choice.get("message") or {}).get("content")),
        finish_reason=_name(choice.get("finish_reason")),
        usage=_usage(answer.get("usage")),
        model=_name(answer.get("model")),
        invocation_id=_name(answer.get("id")),
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
                finish_reason = _name(choice.get("finish_reason"))
                completion.finish_reason = finish_reason or completion.finish_reason
        else:
            fault = sort_error_body(event, line)
            if fault:
                raise fault
        completion.model = _name(event.get("model")) or completion.model
        completion.invocation_id = _name(event.get("id")) or completion.invocation_id
        completion.usage = _usage(event.get("usage")) or completion.usage
    if not any_choice:
        raise Fault("transient", "no choices in the reply", provider_words(body))
    completion.content = "".join(pieces)
    return _check_whole(completion)


def _read_event(line: bytes) -> dict:
    try:
        return parse_json(line)
    except ValueError:
        raise Fault("transient", "torn stream", provider_words(line)) from None


def _name(given: object) -> str:
    """Return a short text of the server's, such as a model's name."""
    return printable(given[:_NAME_CHARS]) if isinstance(given, str) else ""


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
