"""What calls take: prices, the tokens and dollars of a run, --max-cost, room in a context."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Listing:
    """What a provider's list says of a model: dollars a token, None throughout where it is odd."""

    prompt_price: float | None = None
    completion_price: float | None = None
    cached_price: float | None = None

    def priced(self, prices: dict | None) -> Listing:
        """Return the listing with the prices of chain.toml (dollars a million tokens), if any."""
        if not prices:
            return self
        return Listing(prices["prompt"] / 1_000_000, prices["completion"] / 1_000_000)

    def cost_usd(self, usage: dict) -> float | None:
        """Return what a reply with this usage costs; None without a price or a usage report."""
        if self.prompt_price is None or not usage:
            return None
        cached_price = self.prompt_price if self.cached_price is None else self.cached_price
        cached = usage["cached_tokens"]
        prompt = (usage["prompt_tokens"] - cached) * self.prompt_price + cached * cached_price
        return prompt + usage["completion_tokens"] * self.completion_price

    def worst_case_usd(self, call: CallSettings, messages: list[dict], max_tokens: float) -> float:
        """Return the most that a call can cost. Raises UserError when the price is not known."""
        if self.prompt_price is None:
            raise UserError(
                f"--max-cost cannot hold: the provider's model list names no price for "
                f"{call.model}. Write prices = {{ prompt = ..., completion = ... }} for it into "
                "chain.toml (dollars a million tokens), or run without --max-cost."
            )
        size = sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
        prompt = size / LEAST_BYTES_PER_TOKEN * self.prompt_price
        return prompt + max_tokens * self.completion_price


def read_listings(document: object) -> dict[str, Listing]:
    """Return the models of a provider's list by id; an odd entry is passed over."""
    models = document.get("data") if isinstance(document, dict) else document
    listings = {}
    for model in models if isinstance(models, list) else []:
        with suppress(AttributeError, KeyError, TypeError):
            pricing = model.get("pricing") or {}
            prices = [_dollars(pricing.get(key)) for key in _PRICE_KEYS]
            listings[model["id"]] = Listing() if None in prices[:2] else Listing(*prices)
    return listings


def _dollars(price: object) -> float | None:
    """Return dollars a token; None for what is no price, such as -1."""
    try:  # Chutes lists numbers a million tokens, OpenRouter texts a token
        dollars = float(price) if isinstance(price, str) else price / 1_000_000
    except (TypeError, ValueError, OverflowError):
        return None
    return dollars if math.isfinite(dollars) and dollars >= 0 else None


class Spending:
    """Tokens, dollars and calls of one run."""

    def __init__(self):
        self.tokens: Counter = Counter()
        self.calls: Counter = Counter()  # by outcome
        self.answered: Counter = Counter()  # (model asked, model that answered): replies
        # By model: how its replies begin, "" or a mark of reasoning.
        self.marks: defaultdict[str, Counter] = defaultdict(Counter)
        self.cost_usd = 0.0
        self.unpriced_calls = 0

    def add(self, usage: dict, cost_usd: float | None) -> None:
        """Count one whole reply."""
        self.tokens.update(usage)
        self.unpriced_calls += cost_usd is None
        self.cost_usd += cost_usd or 0.0

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


class Budget:
    """--max-cost: a call starts only when even its worst case stays within the sum."""

    def __init__(self, limit_usd: float | None):
        self.is_limited = limit_usd is not None
        self.spent_usd = 0.0
        self._limit_usd = math.inf if limit_usd is None else limit_usd
        # Of the calls in flight. No running sum, which would keep a rounding error.
        self._reserved: list[float] = []

    def __str__(self) -> str:
        spent = f"${self.spent_usd:.4f} of ${self._limit_usd:.4f} for this run is spent"
        return f"--max-cost: {spent} (failed tries at the most they may cost)"

    async def reserve(self, worst_case_usd: float) -> bool:
        """Wait until the calls in flight leave room; return False when even then there is none."""
        while self.spent_usd + sum(self._reserved) + worst_case_usd > self._limit_usd:
            if not self._reserved:
                return False
            await asyncio.sleep(_LOOK_AGAIN_S)
        self._reserved.append(worst_case_usd)
        return True

    def settle(self, worst_case_usd: float, cost_usd: float) -> None:
        """Put the reservation back and count what the call really cost."""
        self._reserved.remove(worst_case_usd)
        self.spent_usd += cost_usd


class Contexts:
    """What is known of the contexts of a run's models."""

    def __init__(self):
        # By model: the most prompt tokens told, and less the fewest characters of such a chat.
        self._largest: dict[str, tuple[int, int]] = {}

    def lack(self, model: str, messages: list, completion, was_cut: int) -> ItemFailed | None:
        """Return the failure where the context did not hold a chat; another ask would meet it, too.

        `was_cut`: the max_tokens of a reply that was cut off, 0 of one that came to its own end.
        """
        kind = ""
        told = completion.usage.get("prompt_tokens")
        if told:
            came = completion.usage["completion_tokens"] + completion.usage["reasoning_tokens"]
            chars = prompt_chars(messages)
            largest, fewer = max((told, -chars), self._largest.get(model, (0, 0)))
            self._largest[model] = (largest, fewer)
            is_same = told == largest and chars > _OTHER_LENGTH * -fewer
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
            detail = (
                f"{came:,} of max_tokens {was_cut:,} came, or replies have a limit of their own"
            )
        advice = "Give the server a larger context (Ollama: num_ctx; llama.cpp: n_ctx)."
        return ItemFailed(kind, f"{kind}: {detail}. {advice}", lasting=True) if kind else None
