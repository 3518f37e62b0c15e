"""What calls cost: the provider's prices, tokens and dollars of a run, --max-cost, the dry run."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass

from common.config import CallSettings
from common.files import UserError

# English and code lie between 3 and 4.5. For estimates only: real usage is what is counted.
CHARS_PER_TOKEN = 3.5
_PER_MILLION = 1_000_000
_CONTEXT_KEYS = ("context_length", "max_model_len", "context_window")


# ------------------------------------------------------------------------------------------ prices


@dataclass(frozen=True)
class Model:
    """A model of the provider's list: dollars a token and its context; None where not told."""

    prompt_price: float | None = None
    completion_price: float | None = None
    cached_price: float | None = None
    context_tokens: int | None = None

    def cost_usd(self, usage: dict) -> float | None:
        """Return what a reply with this usage costs; None without a price or a usage report."""
        if self.prompt_price is None or self.completion_price is None or not usage:
            return None
        cached = 0
        cached_price = 0.0
        if self.cached_price is not None:
            cached = usage["cached_tokens"]
            cached_price = self.cached_price
        fresh = usage["prompt_tokens"] - cached
        prompt = fresh * self.prompt_price + cached * cached_price
        return prompt + usage["completion_tokens"] * self.completion_price


def read_models(document: object) -> dict[str, Model]:
    """Return the models of a provider's list by id; an odd entry is passed over."""
    items = document.get("data") if isinstance(document, dict) else document
    models = {}
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            models[item["id"]] = _read_model(item)
    return models


def _read_model(item: dict) -> Model:
    pricing = item.get("pricing")
    if not isinstance(pricing, dict):
        pricing = {}
    counts = [item.get(key) for key in _CONTEXT_KEYS]
    contexts = [count for count in counts if type(count) is int and count > 0]
    return Model(
        prompt_price=_dollars(pricing.get("prompt")),
        completion_price=_dollars(pricing.get("completion")),
        cached_price=_dollars(pricing.get("input_cache_read")),
        context_tokens=contexts[0] if contexts else None,
    )


def _dollars(price: object) -> float | None:
    """Return dollars a token; None for what is no price, such as -1.

    Chutes lists numbers a million tokens, OpenRouter texts a token.
    """
    if isinstance(price, bool) or not isinstance(price, (int, float, str)):
        return None
    try:
        dollars = float(price) if isinstance(price, str) else float(price) / _PER_MILLION
    except (ValueError, OverflowError):
        return None
    return dollars if math.isfinite(dollars) and dollars >= 0 else None


# ------------------------------------------------------------------------------------------- tally


class Spending:
    """Tokens, dollars and calls of one run."""

    def __init__(self):
        self.tokens: Counter = Counter()
        self.calls: Counter = Counter()
        self.answered: Counter = Counter()  # (model asked, model that answered): replies
        self.cost_usd = 0.0
        self.unpriced_calls = 0
        self.untold_calls = 0  # whole replies without a usage report

    def add(self, usage: dict, cost_usd: float | None) -> None:
        """Count one whole reply."""
        self.tokens.update(usage)
        self.untold_calls += not usage
        if cost_usd is None:
            self.unpriced_calls += 1
        else:
            self.cost_usd += cost_usd

    def lines(self) -> list[str]:
        """Return the lines of the tally: none when nothing was asked."""
        if not self.calls:
            return []
        outcomes = [f"{count:,} {outcome}" for outcome, count in self.calls.most_common()]
        lines = [
            f"calls   {sum(self.calls.values()):,}: {', '.join(outcomes)}",
            f"tokens  {self._tokens()}",
            f"cost    {self._cost()}",
        ]
        for (asked, answered), count in self.answered.most_common():
            lines.append(f"answer  {asked} was asked, {answered} answered {count:,} times")
        return lines

    def _tokens(self) -> str:
        tokens = self.tokens
        if self.untold_calls and not tokens:
            return "not told by the server"
        reasoning = ""
        if tokens["reasoning_tokens"]:
            reasoning = f" ({tokens['reasoning_tokens']:,} reasoning)"
        untold = ""
        if self.untold_calls:
            untold = f", and {self.untold_calls:,} replies of which the server told none"
        return (
            f"{tokens['prompt_tokens']:,} in ({tokens['cached_tokens']:,} cached), "
            f"{tokens['completion_tokens']:,} out{reasoning}{untold}"
        )

    def _cost(self) -> str:
        if self.unpriced_calls and not self.cost_usd:
            return "unknown: the model list names no price, or the replies came without usage"
        if self.unpriced_calls:
            unknown = f"{self.unpriced_calls:,} replies of unknown price"
            return f"${self.cost_usd:.4f} plus {unknown}"
        return f"${self.cost_usd:.4f}"


class Budget:
    """--max-cost: a call starts only when even its worst case stays within the sum."""

    def __init__(self, limit_usd: float | None):
        self.limit_usd = limit_usd
        self.spent_usd = 0.0
        # Of the calls in flight. No running sum, which would keep a rounding error.
        self._reserved: list[float] = []
        self._changed = asyncio.Condition()

    async def reserve(self, worst_case_usd: float, wait: bool = True) -> bool:
        """Wait until the calls in flight leave room; return False when even then there is none."""
        async with self._changed:
            while self.spent_usd + sum(self._reserved) + worst_case_usd > self.limit_usd:
                if not self._reserved or not wait:
                    return False
                await self._changed.wait()
            self._reserved.append(worst_case_usd)
            return True

    async def settle(self, worst_case_usd: float, cost_usd: float) -> None:
        """Put the reservation back and count what the call really cost."""
        async with self._changed:
            self._reserved.remove(worst_case_usd)
            self.spent_usd += cost_usd
            self._changed.notify_all()


def prompt_chars(messages: list[dict]) -> int:
    """Return the size of a chat in characters."""
    return sum(len(message["content"]) for message in messages)


def worst_case_usd(
    model: Model, call: CallSettings, messages: list[dict], max_tokens: int
) -> float:
    """Return the most that a call can cost. Raises UserError when the price is not known.

    Two bytes a token is the densest that real chats are: a Chinese character takes three bytes
    and about one token.
    """
    if model.prompt_price is None or model.completion_price is None:
        raise UserError(
            f"--max-cost cannot hold: the provider's model list names no price for {call.model}. "
            "Run without --max-cost."
        )
    size = sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
    return size / 2 * model.prompt_price + max_tokens * model.completion_price
