"""What can go wrong with one call, sorted by what to do about it; the exceptions that follow."""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime

# What servers say, in lower case. Statuses alone do not tell these apart.
_TOO_LONG = (
    "context length", "context_length", "context size", "context_size", "context window",
    "maximum context", "too long", "too large", "max_model_len", "exceeds the maximum",
    "maximum allowed length",
)  # fmt: skip
_REFUSED = (
    "content_filter", "content filter", "content policy", "content management policy",
    "moderation", "flagged", "safety",
)  # fmt: skip
_NO_MONEY = (
    "insufficient_quota", "quota exceeded and account balance", "exceeded your current quota",
    "stop spamming",
)  # fmt: skip

# Exceptions of the transports, by name: they need not be imported to be told apart.
_NEVER_REACHED = {
    "ClientConnectorError", "ClientConnectorDNSError", "ConnectError", "gaierror",
    "ConnectionRefusedError",
}  # fmt: skip
_BROKEN = {"ServerDisconnectedError", "ConnectionResetError", "BrokenPipeError"}
_TIMED_OUT = {"ReadTimeout", "SocketTimeoutError", "TimeoutException", "TimeoutError"}

_WORDS_READ = 4000  # characters of an error body that are looked at


class Fault(Exception):
    """What went wrong with one attempt.

    category: "configuration" stops the run, "item" fails this item, "transient" is tried again.
    kind: a few words for the tally; detail: the provider's own words.
    rate_limited: the provider asks for fewer calls; retry_after_s: the wait that it names.
    reached: tells whether anything answered at all; took_s: how long the attempt took.
    """

    def __init__(
        self,
        category: str,
        kind: str,
        detail: str = "",
        *,
        status: int | None = None,
        rate_limited: bool = False,
        retry_after_s: float | None = None,
        reached: bool = True,
    ):
        super().__init__()
        self.category = category
        self.kind = kind
        self.detail = detail
        self.status = status
        self.rate_limited = rate_limited
        self.retry_after_s = retry_after_s
        self.reached = reached
        self.took_s = 0.0
        self.refusal = False  # the limiter says so: the provider wants fewer calls

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


class ItemFailed(Exception):
    """One item fails, the rest goes on. `kind`: a few words for the tally; `detail`: the reason."""

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(detail or kind)
        self.kind = kind
        self.detail = detail or kind


class Halted(Exception):
    """The run has been told to stop: this call was not sent, or not tried again."""


# ----------------------------------------------------------------------------------------- sorting


def sort_status(status: int, words: str, headers=None) -> Fault:
    """Return the fault behind an HTTP status of 400 or more; `words` is what the provider said."""
    said = words.lower()
    wait = _retry_after_s(headers)
    if any(mark in said for mark in _NO_MONEY):
        kind = "the provider wants no more calls from this account"
        return Fault("configuration", kind, words, status=status)
    if status == 429:
        kind = "rate limit (429)"
        return Fault("transient", kind, words, status=status, rate_limited=True, retry_after_s=wait)
    if status in (408, 409, 425) or status >= 500:
        kind = f"server trouble ({status})"
        return Fault("transient", kind, words, status=status, retry_after_s=wait)
    if status in (400, 403, 413, 422) and any(mark in said for mark in _REFUSED):
        kind = "refused by the provider's content filter"
        return Fault("item", kind, words, status=status)
    if status == 413 or (status in (400, 422) and any(mark in said for mark in _TOO_LONG)):
        return Fault("item", "prompt too long for the model", words, status=status)
    if status in (401, 402, 403, 404):
        return Fault("configuration", f"HTTP {status}", words, status=status)
    return Fault("item", f"request refused ({status})", words, status=status)


def sort_break(error: BaseException) -> Fault:
    """Return the fault behind a connection that failed or broke."""
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    said = [str(cause) for cause in causes if str(cause)]
    detail = said[-1] if said else type(causes[-1]).__name__
    if names & _NEVER_REACHED:
        return Fault("transient", "no connection", detail, reached=False)
    if names & _BROKEN:  # first, for the SDK calls these timeouts
        return Fault("transient", "connection broken", detail)
    if names & _TIMED_OUT:
        return Fault("transient", "stalled", detail)
    return Fault("transient", "connection broken", detail)


def sort_error_body(answer: object, body: bytes) -> Fault | None:
    """Return the fault that a body with status 200 speaks of; None when it holds no error."""
    error = None
    if isinstance(answer, dict):
        error = answer.get("error") or answer.get("detail")
    if not error:
        return None
    words = provider_words(body)
    code = str(error.get("code")) if isinstance(error, dict) else ""
    if len(code) == 3 and code.isascii() and code.isdigit() and 400 <= int(code) < 600:
        return sort_status(int(code), words)
    if any(mark in words.lower() for mark in _TOO_LONG + _REFUSED):
        return sort_status(400, words)
    return sort_status(500, words)


def provider_words(body: bytes) -> str:
    """Return the provider's own words from an error body in any known form, on one line."""
    text = body.decode("utf-8", "replace")
    try:
        answer = json.loads(text)
        for name in ("error", "detail"):
            if isinstance(answer, dict) and answer.get(name):
                answer = answer[name]
        if isinstance(answer, dict) and answer.get("message"):
            plain = [value for value in answer.values() if isinstance(value, (str, int, float))]
            answer = "; ".join(str(value) for value in plain if value)
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    except (ValueError, RecursionError):
        pass
    return " ".join(text[:_WORDS_READ].split())


def _retry_after_s(headers) -> float | None:
    """Return the wait that a Retry-After header names, as seconds or as an HTTP date."""
    given = (headers or {}).get("retry-after") or ""
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
