"""One HTTP attempt: send a request through the openai SDK, read what came back, or name the fault.

The SDK's client, auth, transport and errors are kept. Two of its layers are passed by, because they cost more than the
call itself: the typed transform of the messages (the request goes out as the bytes that we serialise once) and the
typed chunk models of a stream (140-170 microseconds an event; the stream's bytes are read and parsed here instead).
"""
from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Callable

import aiohttp
import httpx2
import openai

from common.config import CallSettings

_RAW_STREAM = {"Content-Type": "application/json", "X-Stainless-Raw-Response": "stream"}  # the SDK hands over bytes
_CONNECT_S = 15
_WITHOUT_USAGE: set[str] = set()  # models whose server refuses stream_options: their streams tell no usage
_MAX_BODY_BYTES = 64 * 2**20  # no reply is that large; a server that never ends must not fill the memory
_INVOCATION_HEADERS = ("x-chutes-invocationid", "x-request-id")
_NEVER_REACHED = {"ClientConnectorError", "ClientConnectorDNSError", "ConnectError", "gaierror", "ConnectionRefusedError"}
_TOO_LONG = ("context length", "context_length", "context size", "context_size", "context window", "maximum context", "too long", "too large",
             "max_model_len", "exceeds the maximum", "maximum allowed length")
_REFUSED = ("content_filter", "content filter", "content policy", "content management policy", "moderation", "flagged",
            "safety")
_NO_MONEY = ("insufficient_quota", "quota exceeded and account balance", "exceeded your current quota", "stop spamming")


class Fault(Exception):
    """What went wrong with one attempt.

    `category` decides what happens next: "configuration" stops the run, "item" fails this item, "transient" is tried again.
    `kind` is a few words for the tally, `detail` the provider's own words. A `rate_limited` fault asks for fewer calls at
    once; `retry_after_s` is the wait that the provider named. `reached` says whether anything answered at all.
    """

    def __init__(self, category: str, kind: str, detail: str = "", *, status: int | None = None, rate_limited: bool = False,
                 retry_after_s: float | None = None, reached: bool = True):
        super().__init__()
        self.category, self.kind, self.detail, self.status = category, kind, detail, status
        self.rate_limited, self.retry_after_s, self.reached, self.took_s = rate_limited, retry_after_s, reached, 0.0

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


@dataclass
class Completion:
    """A whole reply as it came: finish_reason is always there; content may be empty (reasoning ate the budget)."""

    content: str = ""
    finish_reason: str = ""
    usage: dict = field(default_factory=dict)
    model: str = ""
    invocation_id: str = ""


def make_client(base_url: str, api_key: str) -> openai.AsyncOpenAI:
    """The process's one client. Retrying is ours alone: the SDK's would hide 429s from the pace of a model."""
    return openai.AsyncOpenAI(base_url=base_url, api_key=api_key or "none", max_retries=0,
                              http_client=openai.DefaultAioHttpClient(
                                  limits=httpx2.Limits(max_connections=None, keepalive_expiry=20)))


async def complete(client: openai.AsyncOpenAI, call: CallSettings, messages: list[dict], max_tokens: int,
                   alive: Callable[[], None]) -> Completion:
    """One attempt at a completion; `alive()` is called whenever words of a reply arrive. Raises Fault."""
    body = {"model": call.model, "messages": messages, **call.sampling(), "max_tokens": max_tokens}
    if call.stream:
        body |= {"stream": True}
    if call.stream and call.model not in _WITHOUT_USAGE:
        body |= {"stream_options": {"include_usage": True}}
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    try:
        return await asyncio.wait_for(_send(client, content, call, alive), call.timeout_s)
    except asyncio.TimeoutError:
        raise Fault("transient", "no whole reply in time", f"not finished after {call.timeout_s:g} s") from None
    except openai.APIStatusError as error:
        if "stream_options" in body and error.status_code in (400, 422) and b"stream_options" in error.response.content:
            _WITHOUT_USAGE.add(call.model)
            return await complete(client, call, messages, max_tokens, alive)
        raise sort_status(error.status_code, _words(error.response.content), error.response.headers) from None
    except (openai.APIError, httpx2.HTTPError, aiohttp.ClientError, OSError) as error:
        raise _sort_break(error) from None


async def _send(client: openai.AsyncOpenAI, content: bytes, call: CallSettings, alive: Callable[[], None]) -> Completion:
    silence_s = call.stall_s if call.stream else call.timeout_s  # without a stream, silence is how a reply is made
    timeout = httpx2.Timeout(connect=_CONNECT_S, read=silence_s, write=call.stall_s, pool=None)
    response = await client.post("/chat/completions", cast_to=httpx2.Response, content=content,
                                 options={"headers": _RAW_STREAM, "timeout": timeout})
    try:
        parts, size = [], 0
        async for part in response.aiter_bytes():
            if b'"delta"' in part:  # words of a reply, not a comment that keeps the connection open
                alive()
            parts.append(part)
            size += len(part)
            if size > _MAX_BODY_BYTES:
                raise Fault("transient", "endless reply", f"more than {_MAX_BODY_BYTES} bytes")
    finally:
        await response.aclose()
    body = b"".join(parts)
    try:
        completion = read_body(body) if body.lstrip()[:1] in (b"{", b"<", b"[") else read_stream(body)
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        raise Fault("transient", "malformed reply", f"{error!r} in {_words(body)}") from None
    header = next(filter(None, map(response.headers.get, _INVOCATION_HEADERS)), None)
    completion.invocation_id = header or completion.invocation_id
    return completion


# ----------------------------------------------------------------------------------------------- what came back

def read_body(body: bytes) -> Completion:
    """A reply that came as one JSON document (not as a stream). Raises Fault for an error body, HTML, or a torn one."""
    try:
        answer = json.loads(body)
    except ValueError:
        raise Fault("transient", "not an API reply (HTML or torn)", _words(body)) from None
    if not isinstance(answer, dict) or not answer.get("choices"):
        _raise_error_in(answer, body)
        raise Fault("transient", "no choices in the reply", _words(body))
    choice = answer["choices"][0]
    return _whole(Completion(content=_text((choice.get("message") or {}).get("content")),
                             finish_reason=choice.get("finish_reason") or "", usage=_usage(answer.get("usage")),
                             model=answer.get("model") or "", invocation_id=answer.get("id") or ""))


def read_stream(body: bytes) -> Completion:
    """A reply that came as server-sent events. Raises Fault when it is not whole or holds an error.

    Only `content` is the answer: what comes as `reasoning_content` or `reasoning` is left where it is.

    A fault in mid-stream may come as a `data:` event or, on Chutes, as a bare JSON line without `data:`, after which
    the stream just ends: a reply without a finish_reason is therefore never a reply.
    """
    completion, pieces, any_choice = Completion(), [], False
    for line in body.removeprefix(b"\xef\xbb\xbf").splitlines():
        if line.startswith(b"data:"):
            line = line[5:].strip()
            if line in (b"", b"[DONE]"):
                continue
        elif not line.startswith(b"{"):
            continue  # a comment that keeps the connection open, an event name, or an empty line
        try:
            event = json.loads(line)
        except ValueError:
            raise Fault("transient", "torn stream", _words(line)) from None
        choices = event.get("choices")
        if choices:
            any_choice = True
            if choices[0].get("index") in (0, None):  # another index is another reply
                pieces.append(_text((choices[0].get("delta") or choices[0].get("message") or {}).get("content")))
                completion.finish_reason = choices[0].get("finish_reason") or completion.finish_reason
        else:
            _raise_error_in(event, line)
        completion.model = event.get("model") or completion.model
        completion.invocation_id = event.get("id") or completion.invocation_id
        completion.usage = _usage(event.get("usage")) or completion.usage
    if not any_choice:
        raise Fault("transient", "no choices in the reply", _words(body))
    completion.content = "".join(pieces)
    return _whole(completion)


def _text(content: object) -> str:
    """Content as text: a string, or a list of typed parts of which those of type text count."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict) and part.get("type") == "text")
    return content if isinstance(content, str) else ""


def _whole(completion: Completion) -> Completion:
    if not completion.finish_reason or completion.finish_reason in ("error", "abort"):
        raise Fault("transient", "reply without an end", "no finish_reason: the stream was cut")
    if completion.finish_reason == "content_filter":
        raise Fault("item", "refused by the provider's content filter")
    return completion


def _usage(given: object) -> dict:
    """Token counts of one reply, whatever the provider names them; {} when it says nothing."""
    def count(table: object, name: str) -> int:
        value = table.get(name) if isinstance(table, dict) else None
        return value if type(value) is int and value > 0 else 0  # an odd figure must never cost the reply

    if not isinstance(given, dict):
        return {}
    reasoning = count(given.get("completion_tokens_details"), "reasoning_tokens") or count(given, "reasoning_tokens")
    return {"prompt_tokens": count(given, "prompt_tokens"), "completion_tokens": count(given, "completion_tokens"),
            "reasoning_tokens": reasoning,
            "cached_tokens": count(given.get("prompt_tokens_details"), "cached_tokens")}


# ------------------------------------------------------------------------------------------------ sorting faults

def sort_status(status: int, words: str, headers=None) -> Fault:
    """The fault behind an HTTP status of 400 or more; `words` is what the provider said."""
    said = words.lower()
    if any(mark in said for mark in _NO_MONEY):
        return Fault("configuration", "the provider wants no more calls from this account", words, status=status)
    if status == 429:
        return Fault("transient", "rate limit (429)", words, status=status, rate_limited=True,
                     retry_after_s=_retry_after_s(headers))
    if status in (408, 409, 425) or status >= 500:
        return Fault("transient", f"server trouble ({status})", words, status=status,
                     retry_after_s=_retry_after_s(headers))
    if status in (400, 403, 413, 422) and any(mark in said for mark in _REFUSED):
        return Fault("item", "refused by the provider's content filter", words, status=status)
    if status in (400, 413, 422) and (status == 413 or any(mark in said for mark in _TOO_LONG)):
        return Fault("item", "prompt too long for the model", words, status=status)
    if status in (401, 402, 403, 404):
        return Fault("configuration", f"HTTP {status}", words, status=status)
    return Fault("item", f"request refused ({status})", words, status=status)


def _sort_break(error: BaseException) -> Fault:
    """A connection that failed or broke."""
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    names = {cls.__name__ for cause in causes for cls in type(cause).__mro__}
    words = next((str(cause) for cause in reversed(causes) if str(cause)), type(causes[-1]).__name__)
    if names & _NEVER_REACHED:
        return Fault("transient", "no connection", words, reached=False)
    if names & {"ServerDisconnectedError", "ConnectionResetError", "BrokenPipeError"}:  # the SDK calls these timeouts
        return Fault("transient", "connection broken", words)
    if names & {"ReadTimeout", "SocketTimeoutError", "TimeoutException", "TimeoutError"}:
        return Fault("transient", "stalled", words)
    return Fault("transient", "connection broken", words)


def _raise_error_in(event: object, raw: bytes) -> None:
    """Raise the fault that an error body with status 200 speaks of; return when it holds none."""
    error = event.get("error") or event.get("detail") if isinstance(event, dict) else None
    if error:
        code = error.get("code") if isinstance(error, dict) else None
        known = any(mark in _words(raw).lower() for mark in _TOO_LONG + _REFUSED)
        status = int(code) if str(code).isdigit() and 400 <= int(code) < 600 else 400 if known else 500
        raise sort_status(status, _words(raw))


def _retry_after_s(headers) -> float | None:
    """The wait that a Retry-After header names: seconds, or an HTTP date."""
    given = (headers or {}).get("retry-after") or ""
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _words(body: bytes) -> str:
    """The provider's own words from an error body in any of the known forms, on one line and of readable length."""
    text = body.decode("utf-8", "replace")
    try:
        answer = json.loads(text)
        for name in ("error", "detail"):
            if isinstance(answer, dict) and answer.get(name):
                answer = answer[name]
        if isinstance(answer, dict) and answer.get("message"):
            answer = "; ".join(str(value) for value in answer.values() if value and isinstance(value, (str, int, float)))
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    except ValueError:
        pass
    return " ".join(text.split())[:4000]
