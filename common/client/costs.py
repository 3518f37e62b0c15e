"""What calls take: prices, the tokens and dollars of a run, --max-cost, room in a context."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter, defaultdict
from contextlib import suppress
from typing import NamedTuple

from common.config import CallSettings
from common.files import ItemFailed, UserError

# English and code lie between 3 and 4.5. For estimates only: real usage is what is counted.
CHARS_PER_TOKEN = 3.5
# The densest that real chats are: a Chinese character is three bytes and about one token.
LEAST_BYTES_PER_TOKEN = 2
_MOST_REPLIES = 3  # that begin alike: fewer tell nothing of a server
_LOOK_AGAIN_S = 0.05  # for room in the budget
_PRICE_KEYS = ("prompt", "completion", "input_cache_read")
# A prompt was cut that counts fewer tokens than one for so many characters, and fewer than these
# for each word (of 12 letters at most, in scripts without blanks too). English prose has 1.2 to 1.4
# tokens a word, code and other languages two and more; blanks and rules of marks may have none.
_CHARS_OF_A_TOKEN = 4.5
_TOKENS_OF_A_WORD = 0.9
_WORD = re.compile(r"[^\s!-/:-@\[-^`{-~]{1,12}")
_OTHER_LENGTH = 2  # times as long as another chat of the same count, the largest that was told
_SHORT = 1000  # tokens: no context is so small that it cuts fewer
_FULL_SHARE = 0.95  # of max_tokens: servers count the end of a reply or not, some a few tokens less


def prompt_chars(messages: list[dict]) -> int:
    """Return the size of a chat in characters."""
    return sum(len(message["content"]) for message in messages)


class Prices(NamedTuple):
    """A model's prices in dollars a token, None throughout where they are not known."""

    prompt: float | None = None
    completion: float | None = None
    cached: float | None = None

    def cost_usd(self, usage: dict) -> float | None:
        """Return what a reply with this usage costs; None without a price or a usage report."""
        if self.prompt is None or not usage:
            return None
        cached = usage["cached_tokens"]
        read_usd = (usage["prompt_tokens"] - cached) * self.prompt
        read_usd += cached * (self.prompt if self.cached is None else self.cached)
        return read_usd + usage["completion_tokens"] * self.completion

    def worst_case_usd(self, call: CallSettings, messages: list[dict], max_tokens: float) -> float:
        """Return the most that a call can cost. Raises UserError when the price is not known."""
        if self.prompt is None:
            raise UserError(
                f"--max-cost cannot hold: the provider's model list names no price for "
                f"{call.model}. Write prices = {{ prompt = ..., completion = ... }} for it into "
                "chain.toml (dollars a million tokens), or run without --max-cost."
            )
        size = sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
        return size / LEAST_BYTES_PER_TOKEN * self.prompt + max_tokens * self.completion


def prices_of(call: CallSettings, listed: dict[str, Prices]) -> Prices:
    """Return the prices of chain.toml (dollars a million tokens), else those of a list."""
    if call.prices:
        return Prices(call.prices["prompt"] / 1_000_000, call.prices["completion"] / 1_000_000)
    return listed.get(call.model, Prices())


def read_prices(document: object) -> dict[str, Prices]:
    """Return the prices of a provider's list by model; an odd entry is passed over."""
    models = document.get("data") if isinstance(document, dict) else document
    listed = {}
    for model in models if isinstance(models, list) else []:
        with suppress(AttributeError, KeyError, TypeError):
            pricing = model.get("pricing") or {}
            prices = [_dollars(pricing.get(key)) for key in _PRICE_KEYS]
            listed[model["id"]] = Prices() if None in prices[:2] else Prices(*prices)
    return listed


def _dollars(price: object) -> float | None:
    """Return dollars a token; None for what is no price, such as -1."""
    try:  # Chutes lists numbers a million tokens, OpenRouter texts a token
        dollars = float(price) if isinstance(price, str) else price / 1_000_000
    except (TypeError, ValueError, OverflowError):
        return None
    return dollars if math.isfinite(dollars) and dollars >= 0 else None


class Spending:
    """Tokens, calls and dollars of one run, held to --max-cost."""

    def __init__(self, limit_usd: float | None = None):
        self.tokens: Counter = Counter()
        self.calls: Counter = Counter()  # by outcome
        self.answered: Counter = Counter()  # (model asked, model that answered): replies
        # By model: how its replies begin, "" or a mark of reasoning.
        self.marks: defaultdict[str, Counter] = defaultdict(Counter)
        self.cost_usd = 0.0  # of whole replies
        self.unpriced_calls = 0
        self.limit_usd = math.inf if limit_usd is None else limit_usd
        self.at_most_usd = 0.0  # as the limit counts: failed tries at the most they may cost
        # Of the calls in flight. No running sum, which would keep a rounding error.
        self._reserved: list[float] = []

    async def reserve(self, worst_case_usd: float) -> str:
        """Wait until the calls in flight leave room for a call; return why there is none, or ""."""
        while self.at_most_usd + sum(self._reserved) + worst_case_usd > self.limit_usd:
            if not self._reserved:
                spent = f"${self.at_most_usd:.4f} of ${self.limit_usd:.4f} for this run is spent"
                return f"--max-cost: {spent} (failed tries at the most they may cost)"
            await asyncio.sleep(_LOOK_AGAIN_S)
        self._reserved.append(worst_case_usd)
        return ""

    def settle(self, worst_case_usd: float, cost_usd: float) -> None:
        """Put the reservation back and count what the call really cost."""
        self._reserved.remove(worst_case_usd)
        self.at_most_usd += cost_usd

    def lines(self) -> list[str]:
        """Return the lines of the tally: none when nothing was asked."""
        if not self.calls:
            return []
        outcomes = [f"{count:,} {outcome}" for outcome, count in self.calls.most_common()]
        count = self.tokens
        tokens = (
            f"{count['prompt_tokens']:,} in ({count['cached_tokens']:,} cached), "
            f"{count['completion_tokens']:,} out ({count['reasoning_tokens']:,} reasoning)"
        )
        unpriced = f" plus {self.unpriced_calls:,} replies of unknown price"
        lines = [
            f"calls   {sum(self.calls.values()):,}: {', '.join(outcomes)}",
            f"tokens  {tokens if count else 'not told by the server'}",
            f"cost    ${self.cost_usd:.4f}{unpriced if self.unpriced_calls else ''}",
        ]
        for (asked, answered), replies in self.answered.most_common():
            lines.append(f"answer  asked for {asked}, answered by {answered!r}: {replies:,} times")
        for model, marks in self.marks.items():
            mark, alike = marks.most_common(1)[0]
            replies = sum(marks.values())
            if mark and alike > replies / 2 and alike >= _MOST_REPLIES:
                words = f"{alike:,} of {replies:,} replies of {model} begin with {mark}"
                lines.append(f"note    {words}: its server's reasoning parser is off")
        return lines


def context_lack(
    largest: dict, model: str, messages: list[dict], completion, was_cut: int
) -> ItemFailed | None:
    """Return the failure where a context did not hold a chat; another ask would meet it, too.

    `largest` keeps by model the most prompt tokens told, and less the fewest characters of such a
    chat. `was_cut`: the max_tokens of a reply that was cut off, 0 of one that came to its own end.
    """
    kind = ""
    told = completion.usage.get("prompt_tokens")
    if told:
        came = completion.usage["completion_tokens"] + completion.usage["reasoning_tokens"]
        chars = prompt_chars(messages)
        largest[model] = max((told, -chars), largest.get(model, (0, 0)))
        most, fewer = largest[model]
        is_same = told == most and chars > _OTHER_LENGTH * -fewer
        least = 0
        if told < chars / _CHARS_OF_A_TOKEN:
            words = sum(len(_WORD.findall(message["content"])) for message in messages)
            least = int(_TOKENS_OF_A_WORD * words)
        if max(told, least) >= _SHORT and (told < least or is_same):
            kind = "the server cut the prompt (its context; Ollama: num_ctx)"
            detail = f"it counts {told:,} prompt tokens of {chars:,} characters"
    else:  # llama.cpp's server tells none in streams: no token is shorter than a byte
        came = len(completion.content.encode("utf-8", "replace")) + completion.reasoning_bytes
    if not kind and came < _FULL_SHARE * was_cut and (told or completion.content):
        kind = "cut off: the context is full"
        detail = f"{came:,} of max_tokens {was_cut:,} came, or replies have a limit of their own"
    advice = "Give the server a larger context (Ollama: num_ctx; llama.cpp: n_ctx)."
    return ItemFailed(kind, f"{kind}: {detail}. {advice}", lasting=True) if kind else None
