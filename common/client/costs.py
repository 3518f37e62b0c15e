"""What calls cost: the provider's prices, the tokens and dollars of a run, --max-cost."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass

from common.config import CallSettings
from common.files import UserError

# English and code lie between 3 and 4.5. For estimates only: real usage is what is counted.
CHARS_PER_TOKEN = 3.5
# The densest that real chats are: a Chinese character is three bytes and about one token.
LEAST_BYTES_PER_TOKEN = 2
_MOST_REPLIES = 3  # that begin alike: fewer tell nothing of a server
_LOOK_AGAIN_S = 0.05  # for room in the budget


def prompt_chars(messages: list[dict]) -> int:
    """Return the size of a chat in characters."""
    return sum(len(message["content"]) for message in messages)


@dataclass(frozen=True)
class Listing:
    """What a provider's list says of a model: dollars a token, None where it names no price."""

    prompt_price: float | None = None
    completion_price: float | None = None
    cached_price: float | None = None

    @property
    def has_prices(self) -> bool:
        return self.prompt_price is not None and self.completion_price is not None

    def priced(self, prices: dict | None) -> Listing:
        """Return the listing with the prices of chain.toml (dollars a million tokens), if any."""
        if not prices:
            return self
        return Listing(prices["prompt"] / 1_000_000, prices["completion"] / 1_000_000)

    def cost_usd(self, usage: dict) -> float | None:
        """Return what a reply with this usage costs; None without a price or a usage report."""
        if not self.has_prices or not usage:
            return None
        cached_price = self.prompt_price if self.cached_price is None else self.cached_price
        cached = usage["cached_tokens"]
        prompt = (usage["prompt_tokens"] - cached) * self.prompt_price + cached * cached_price
        return prompt + usage["completion_tokens"] * self.completion_price

    def worst_case_usd(self, call: CallSettings, messages: list[dict], max_tokens: float) -> float:
        """Return the most that a call can cost. Raises UserError when the price is not known."""
        if not self.has_prices:
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
            keys = ("prompt", "completion", "input_cache_read")
            listings[model["id"]] = Listing(*(_dollars(pricing.get(key)) for key in keys))
    return listings


def _dollars(price: object) -> float | None:
    """Return dollars a token; None for what is no price, such as -1.

    Chutes lists numbers a million tokens, OpenRouter texts a token.
    """
    try:
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
