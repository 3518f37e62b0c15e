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

    category: "configuration" is most likely of every call, "cap" of each until it passes, "item"
    of this item; "transient" is tried again. model.py says what follows.
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


CHECK_ADDRESS = "Check {url}: an API's address mostly ends in /v1."
_CHANGE_SETTINGS = (
    "It refuses every call alike. Check {key}, the model id, or change what it names in chain.toml "
    '(sampling, extra_body, stream; omit = ["top_p"] leaves a field out, max_tokens_field = '
    '"max_completion_tokens" sends max_tokens by its other name), then run again.'
)
_CHECK_KEY = "Check {key}, that it may use this model, and that {url} is the one it is for."
_CHECK_MODEL = "Check the model id in chain.toml ([generate], [judge], [confirm]) and {url}."
_TOP_UP = "The account has no balance left. Top it up, then run the same line again."
_ANOTHER_TIER = (
    "The words above say which subscription this model needs: take it, or another model."
)
_WAIT = "A cap of the subscription is reached; it passes by itself{when}. Run the same line then."
_LOOK = "Nothing more is asked. Look at the account, then run the same line again."
_NEW_ADDRESS = "Write the address that it should be into {url}."

# Of no balance nothing else is believed.
_TIER = r"^(?!.*balance).*(\btier\b|models? requires?\b|requires? a .{0,40}(subscription|plan)\b)"
# A subscription's limit of some hours or days.
_CAP = (
    r"^(?!.*balance).*(\bcap\b|\bwindow\b|per (4|four) ?h|hourly|daily|monthly|usage limit|per day)"
)
_TIME = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}[0-9:.]{0,12}Z?)?")

# Names in `code` and `type`, which hold no prompt.
_OF_THE_REQUEST = "invalid_request|context_length|content_filter|content_policy|BadRequest"
_MOVED = range(300, 400)
_TROUBLE = (408, 409, 425, *range(500, 1000))
_ANY = range(1000)

# The first that fits: statuses, what stands in the words (lower case); category, kind, advice.
# Words may be the prompt's own, echoed: they count only for 402 and 429, where nobody echoes.
_FAULTS = (
    ([402], _TIER, "configuration", "HTTP {status}", _ANOTHER_TIER),
    ([402], _CAP, "cap", "HTTP {status}", _WAIT),
    ([402], "", "configuration", "HTTP {status}", _TOP_UP),
    ([429], "stop spamming", "configuration", "the provider wants no more of these calls", _LOOK),
    ([429], "", "transient", "rate limit (429)", ""),
    (_TROUBLE, "", "transient", "server trouble ({status})", ""),
    ([401, 403], "", "configuration", "HTTP {status}", _CHECK_KEY),
    ([404], "", "configuration", "HTTP {status}", _CHECK_MODEL),
    ([405], "", "configuration", "HTTP {status}", CHECK_ADDRESS),
    (_MOVED, "", "configuration", "redirected ({status}), which is not followed", _NEW_ADDRESS),
    ([413], "", "item", "request too large for the server (a proxy? client_max_body_size)", ""),
    (_ANY, "", "item", "request refused ({status})", ""),
)


def sort_status(status: int, words: str, headers=None) -> Fault:
    """Return the fault behind an HTTP status of 300 or more; `words` is what the provider said."""
    said = words.lower()
    fitting = (row for row in _FAULTS if status in row[0] and re.search(row[1], said))
    _, _, category, kind, advice = next(fitting)
    # Nobody means more than some days; a date, which no provider here sends, is no number.
    given = (headers or {}).get("retry-after", "")
    wait_s = float(given) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", given) else 0.0
    return Fault(category, kind.format(status=status), words, advice, status, wait_s)


def sort_error_body(answer: dict, body: bytes) -> Fault | None:
    """Return the fault that a body with status 200 speaks of; None when it holds no error."""
    error = answer.get("error") or answer.get("detail")
    if not error:
        return None
    own_names = [str(error.get(key)) for key in ("code", "type")] if isinstance(error, dict) else []
    status = 400 if re.search(_OF_THE_REQUEST, " ".join(own_names)) else 500
    for name in own_names:
        if re.fullmatch("[45][0-9]{2}", name):
            status = int(name)
    return sort_status(status, provider_words(body))


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


def parse_json(body: bytes) -> object:
    """Return a JSON document. Raises ValueError for whatever cannot be read."""
    try:
        return from_json(body)
    except ValueError:  # perhaps for a lone surrogate or a BOM
        pass
    try:
        return json.loads(body.decode("utf-8-sig", "replace"))
    except RecursionError:
        raise ValueError("nested too deep") from None
