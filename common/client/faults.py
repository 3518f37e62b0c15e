"""What can go wrong with one call: what kind of fault it is, and what the user can do about it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from pydantic_core import from_json

from common.config import Endpoint
from common.files import printable

STREAM_CUT = ("reply without an end", "connection broken")  # kinds of a reply that broke off
_WORDS_READ = 4000  # characters of an error body that are looked at


@dataclass(eq=False)
class Fault(Exception):
    """What went wrong with one attempt, as the table below sorts it; never changed afterwards.

    category: "configuration" stops the run with exit code 2, "cap" with 1, "item" fails this item,
    "transient" is tried again. model.py judges what it means for the run.
    """

    category: str
    kind: str  # a few words for the tally
    detail: str = ""  # the provider's own words
    advice: str = ""  # see advice_at()
    status: int = 0
    retry_after_s: float = 0.0  # the wait that the provider names
    reached: bool = True  # whether anything answered at all

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind

    def advice_at(self, endpoint: Endpoint) -> str:
        """Return what the user is to change, and where it stands."""
        when = _TIME.search(self.detail)
        advice = self.advice or _CHANGE_SETTINGS
        return advice.format(
            key=endpoint.key_place, url=endpoint.url_place, when=f", at {when[0]}" if when else ""
        )


# --------------------------------------------------------------------------------- what servers say

CHECK_ADDRESS = "Check {url}: an API's address mostly ends in /v1."
_CHANGE_SETTINGS = (
    "It refuses every call alike. Change what it names in chain.toml (sampling, extra_body, "
    'stream; omit = ["top_p"] leaves a field out, max_tokens_field = "max_completion_tokens" '
    "sends max_tokens by its other name), then run again."
)
_CHECK_KEY = "Check {key} (and that {url} is the one it is for)."
_CHECK_MODEL = "Check the model id in chain.toml ([generate], [judge], [confirm]) and {url}."
_TOP_UP = "The account has no balance left. Top it up, then run the same line again."
_ANOTHER_TIER = (
    "The words above say which subscription this model needs. Ask for another model in "
    "chain.toml, or change the subscription."
)
_WAIT_FOR_CAP = (
    "A cap of the subscription is reached; it passes by itself{when}. Run the same line again then."
)
_NOT_THIS_KEY = "This key may not use this model. Check {key} and the id in chain.toml."
_LOOK = "Nothing more is asked. Look at the account, then run the same line again."
_NEW_ADDRESS = "Write the address that it should be into {url}."

_NO_MONEY = re.compile(
    "insufficient_quota|quota exceeded and account balance|exceeded your current quota"
)
_REFUSED = r"content[_ ]filter|content (management )?policy|moderation|flagged|safety"
_TOO_LONG = (
    r"^(?!.*<html).*(context[ _](length|size)|context window|maximum context|too long|too large"
    r"|max_model_len|exceeds the maximum|maximum allowed length)"
)
_WRONG_KEY = (
    r"api[ _]?key|no connected db|authentication|unauthorized|invalid token|token is invalid"
)
_UNKNOWN_MODEL = (
    r"model[ _]not[ _]found|(no such|unknown|invalid|not a valid) model\b"
    r"|\bmodels?\b.{0,150}\b(not found|does not exist|not exist|is not available|not supported)\b"
)
_NO_BALANCE = r"insufficient.*balance|balance.*insufficient"
_TIER = r"\btier\b|\bmodels? requires?\b|requires? a .{0,40}(subscription|plan)\b"
# A subscription's limit of some hours or days.
_CAP = (
    r"^(?!.*balance).*(\bcap\b|\bwindow\b|per (4|four) ?h|hourly|daily|monthly|usage limit|per day)"
)
_TIME = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}[0-9:.]{0,12}Z?)?")

_REQUEST = (400, 403, 413, 422)  # the request itself may be at fault
_MOVED = range(300, 400)
_TROUBLE = (408, 409, 425, *range(500, 1000))
_ANY = range(1000)

# The first that fits: statuses, what stands in the words (lower case); category, kind, advice.
_FAULTS = (
    ([402], _NO_BALANCE, "configuration", "HTTP {status}", _TOP_UP),
    ([402], _TIER, "configuration", "HTTP {status}", _ANOTHER_TIER),
    ([402], _CAP, "cap", "HTTP {status}", _WAIT_FOR_CAP),
    ([402], "", "configuration", "HTTP {status}", _TOP_UP),
    (_ANY, "stop spamming", "configuration", "the provider wants no more of these calls", _LOOK),
    ([429], "", "transient", "rate limit (429)", ""),
    (_TROUBLE, "", "transient", "server trouble ({status})", ""),
    (_REQUEST, _REFUSED, "item", "refused by the provider's content filter", ""),
    (_REQUEST, _TOO_LONG, "item", "prompt too long for the model", ""),
    ([413], "", "item", "request too large for the server (a proxy? client_max_body_size)", ""),
    ([400], _WRONG_KEY, "configuration", "HTTP {status}", _CHECK_KEY),
    ([401], "", "configuration", "HTTP {status}", _CHECK_KEY),
    (_REQUEST, _UNKNOWN_MODEL, "configuration", "HTTP {status}", _CHECK_MODEL),
    ([404], "", "configuration", "HTTP {status}", _CHECK_MODEL),
    ([403], "", "configuration", "HTTP {status}", _NOT_THIS_KEY),
    ([405], "", "configuration", "HTTP {status}", CHECK_ADDRESS),
    (_MOVED, "", "configuration", "redirected ({status}), which is not followed", _NEW_ADDRESS),
    (_ANY, "", "item", "request refused ({status})", ""),
)


def sort_status(status: int, words: str, headers=None) -> Fault:
    """Return the fault behind an HTTP status of 300 or more; `words` is what the provider said."""
    said = words.lower()
    sorted_as = 402 if _NO_MONEY.search(said) else status
    category, kind, advice = next(
        what
        for statuses, pattern, *what in _FAULTS
        if sorted_as in statuses and re.search(pattern, said)
    )
    retry_after_s = _retry_after_s(headers or {})
    return Fault(category, kind.format(status=status), words, advice, status, retry_after_s)


def sort_error_body(answer: dict, body: bytes) -> Fault | None:
    """Return the fault that a body with status 200 speaks of; None when it holds no error."""
    error = answer.get("error") or answer.get("detail")
    if not error:
        return None
    words = provider_words(body)
    code = str(error.get("code")) if isinstance(error, dict) else ""
    if re.fullmatch("[45][0-9]{2}", code):
        return sort_status(int(code), words)
    about_the_item = re.search(f"{_REFUSED}|{_TOO_LONG}", words.lower())
    return sort_status(400 if about_the_item else 500, words)


def provider_words(body: bytes) -> str:
    """Return the provider's own words from an error body in any known form, on one line."""
    text = body.decode("utf-8", "replace")
    try:
        answer = parse_json(body)
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


# Python refuses numbers of thousands of digits, which must not cost a reply.
_LENIENT = json.JSONDecoder(parse_int=lambda digits: int(digits[:19]))


def parse_json(body: bytes) -> object:
    """Return a JSON document. Raises ValueError for whatever cannot be read."""
    try:
        return from_json(body)
    except ValueError:  # perhaps for a lone surrogate, a BOM or a number without end
        pass
    try:
        return _LENIENT.decode(body.decode("utf-8-sig", "replace"))
    except RecursionError:
        raise ValueError("nested too deep") from None


def _retry_after_s(headers) -> float:
    """Return the seconds that a Retry-After header names, 0 without any."""
    given = headers.get("retry-after", "")
    # Nobody means more than some days; a date, which no provider here sends, is no number.
    return float(given) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", given) else 0.0
