"""What can go wrong with one call, sorted by what to do about it; the exceptions that follow."""

from __future__ import annotations

import json
import math
import re
import time
from email.utils import parsedate_to_datetime

from common.files import printable

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
)  # fmt: skip
_WRONG_KEY = (
    "api key", "api_key", "apikey", "no connected db", "authentication", "unauthorized",
    "invalid token", "token is invalid",
)  # fmt: skip
_UNKNOWN_MODEL = re.compile(
    r"model[ _]not[ _]found|(no such|unknown|invalid|not a valid) model\b"
    r"|\bmodels?\b.{0,150}\b(not found|does not exist|not exist|is not available|not supported)\b"
)
# A subscription's cap of some hours or days, which passes by itself.
_CAP = re.compile(r"\bcap\b|\bwindow\b|per (4|four) ?h|hourly|daily|monthly|usage limit|per day")
_TIER = re.compile(r"\btier\b|\bmodels? requires?\b|requires? a .{0,40}(subscription|plan)\b")
_TIME = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}[0-9:.]{0,12}Z?)?")

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
    meaning: what the user can change ("key", "model", "balance", "cap", "tier", "address", "").
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
        meaning: str = "",
    ):
        super().__init__()
        self.category = category
        self.kind = kind
        self.detail = detail
        self.status = status
        self.rate_limited = rate_limited
        self.retry_after_s = retry_after_s
        self.reached = reached
        self.meaning = meaning
        self.took_s = 0.0
        self.refusal = False  # the limiter says so: the provider wants fewer calls

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


class ItemFailed(Exception):
    """One item fails, the rest goes on. `kind`: a few words for the tally; `detail`: the reason.

    lasting: the same call would fail alike.
    """

    def __init__(self, kind: str, detail: str = "", *, lasting: bool = False):
        super().__init__(detail or kind)
        self.kind = kind
        self.detail = detail or kind
        self.lasting = lasting


class Halted(Exception):
    """The run has been told to stop: this call was not sent, or not tried again."""


# ----------------------------------------------------------------------------------------- sorting


def sort_status(status: int, words: str, headers=None) -> Fault:
    """Return the fault behind an HTTP status of 300 or more; `words` is what the provider said."""
    said = words.lower()
    wait = _retry_after_s(headers)
    asked = status in (400, 403, 413, 422)  # the request itself may be at fault
    if status == 402 or any(mark in said for mark in _NO_MONEY):
        return _sort_money(status, words)
    if "stop spamming" in said:
        kind = "the provider wants no more calls from this account"
        return Fault("configuration", kind, words, status=status)
    if status == 429:
        kind = "rate limit (429)"
        return Fault("transient", kind, words, status=status, rate_limited=True, retry_after_s=wait)
    if status in (408, 409, 425) or status >= 500:
        kind = f"server trouble ({status})"
        return Fault("transient", kind, words, status=status, retry_after_s=wait)
    if asked and any(mark in said for mark in _REFUSED):
        kind = "refused by the provider's content filter"
        return Fault("item", kind, words, status=status)
    if asked and any(mark in said for mark in _TOO_LONG) and "<html" not in said:
        return Fault("item", "prompt too long for the model", words, status=status)
    if status == 413:
        detail = f"{words} (a proxy's limit; nginx: client_max_body_size)"
        return Fault("item", "request too large for the server (413)", detail, status=status)
    if status == 401 or (status == 400 and any(mark in said for mark in _WRONG_KEY)):
        kind = f"HTTP {status}"
        return Fault("configuration", kind, words, status=status, meaning="key")
    if status == 404 or (asked and status != 413 and _UNKNOWN_MODEL.search(said)):
        kind = f"HTTP {status}"
        return Fault("configuration", kind, words, status=status, meaning="model")
    if status in (403, 405) or status < 400:
        meaning = "" if status == 403 else "address"
        kind = f"HTTP {status}"
        return Fault("configuration", kind, words, status=status, meaning=meaning)
    return Fault("item", f"request refused ({status})", words, status=status)


def _sort_money(status: int, words: str) -> Fault:
    """Return what a refusal for money means: a balance used up, a cap that passes, a tier."""
    said = words.lower()
    meaning = "balance"
    if "balance" in said and "insufficient" in said:
        pass
    elif _TIER.search(said):
        meaning = "tier"
    elif _CAP.search(said) and "balance" not in said:
        meaning = "cap"
    kind = f"HTTP {status}"
    return Fault("configuration", kind, words, status=status, meaning=meaning)


def time_in(words: str) -> str:
    """Return the first date or time that a provider names, "" when there is none."""
    found = _TIME.search(words)
    return found[0] if found else ""


def sort_break(error: BaseException) -> Fault:
    """Return the fault behind a connection that failed or broke."""
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    said = [str(cause) for cause in causes if str(cause)]
    detail = printable(said[-1] if said else type(causes[-1]).__name__)[:_WORDS_READ]
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
        answer = parse_json(text)
        for name in ("error", "detail"):
            if isinstance(answer, dict) and answer.get(name):
                answer = answer[name]
        if isinstance(answer, dict) and answer.get("message"):
            plain = [value for value in answer.values() if isinstance(value, (str, int, float))]
            answer = "; ".join(str(value) for value in plain if value)
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    except (ValueError, RecursionError):
        pass
    return printable(" ".join(text[:_WORDS_READ].split()))


def parse_json(text: str | bytes) -> object:
    """Return a JSON document. Raises ValueError for whatever cannot be read."""
    try:
        try:
            return json.loads(text)
        except ValueError:
            # Perhaps a number of thousands of digits, which must not cost a reply.
            return json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _whole_number(digits: str) -> int | str:
    return int(digits) if len(digits) < 19 else digits


def _retry_after_s(headers) -> float | None:
    """Return the wait that a Retry-After header names, as seconds or as an HTTP date."""
    given = (headers or {}).get("retry-after") or ""
    try:
        wait_s = float(given)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(given[:100]).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, wait_s) if math.isfinite(wait_s) else None
