"""What calls cost: the provider's prices, tokens and dollars of a run, --max-cost, the dry run."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from common.config import CallSettings, Environment
from common.files import UserError

# English and code lie between 3 and 4.5. For estimates only: real usage is what is counted.
CHARS_PER_TOKEN = 3.5
_EXPECTED_COMPLETION_TOKENS = 3000  # a thinking model's usual reply to one turn; a guess
_LIST_S = 4  # the first finished reply waits for the prices: less than the grace of an interrupt
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


async def list_models(connection) -> dict[str, Model]:
    """Return the provider's models by id.

    {} when the list cannot be had: prices are then unknown, nothing else is lost.
    """
    try:
        items = await asyncio.wait_for(connection.models(), _LIST_S)
        return {item["id"]: _read_model(item) for item in items}
    except Exception:  # any fault here only means that the price is not known
        return {}


def _read_model(item: dict) -> Model:
    pricing = item.get("pricing")
    if not isinstance(pricing, dict):
        pricing = {}
    context = next((item[key] for key in _CONTEXT_KEYS if item.get(key)), None)
    return Model(
        prompt_price=_dollars(pricing.get("prompt")),
        completion_price=_dollars(pricing.get("completion")),
        cached_price=_dollars(pricing.get("input_cache_read")),
        context_tokens=int(context) if context else None,
    )


def _dollars(price: object) -> float | None:
    """Return dollars a token. Chutes lists numbers a million tokens, OpenRouter texts a token."""
    try:
        return float(price) if isinstance(price, str) else float(price) / _PER_MILLION
    except (TypeError, ValueError):
        return None


# ------------------------------------------------------------------------------------------- tally


class Spending:
    """Tokens, dollars and calls of one run."""

    def __init__(self):
        self.tokens: Counter = Counter()
        self.calls: Counter = Counter()
        self.cost_usd = 0.0
        self.unpriced_calls = 0

    def add(self, usage: dict, cost_usd: float | None) -> None:
        """Count one whole reply."""
        self.tokens.update(usage)
        if cost_usd is None:
            self.unpriced_calls += 1
        else:
            self.cost_usd += cost_usd

    def lines(self) -> list[str]:
        """Return the lines of the tally: none when nothing was asked."""
        if not self.calls:
            return []
        tokens = self.tokens
        outcomes = [f"{count:,} {outcome}" for outcome, count in self.calls.most_common()]
        reasoning = ""
        if tokens["reasoning_tokens"]:
            reasoning = f" ({tokens['reasoning_tokens']:,} reasoning)"
        cost = "unknown: the model list names no price, or the replies came without usage"
        if self.cost_usd or not self.unpriced_calls:
            cost = f"${self.cost_usd:.4f}"
            if self.unpriced_calls:
                cost += f" plus {self.unpriced_calls:,} replies of unknown price"
        return [
            f"calls   {sum(self.calls.values()):,}: {', '.join(outcomes)}",
            f"tokens  {tokens['prompt_tokens']:,} in ({tokens['cached_tokens']:,} cached), "
            f"{tokens['completion_tokens']:,} out{reasoning}",
            f"cost    {cost}",
        ]


class Budget:
    """--max-cost: a call starts only when even its worst case stays within the sum."""

    def __init__(self, limit_usd: float | None):
        self.limit_usd = limit_usd
        self.spent_usd = 0.0
        # Of the calls in flight. No running sum, which would keep a rounding error.
        self._reserved: list[float] = []
        self._changed = asyncio.Condition()

    async def reserve(self, worst_case_usd: float) -> bool:
        """Wait until the calls in flight leave room; return False when even then there is none."""
        async with self._changed:
            while self.spent_usd + sum(self._reserved) + worst_case_usd > self.limit_usd:
                if not self._reserved:
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


def worst_case_usd(model: Model, messages: list[dict], max_tokens: int) -> float:
    """Return the most that a call can cost. Raises UserError when the price is not known.

    Two bytes a token is the densest that real chats are: a Chinese character takes three bytes
    and about one token.
    """
    if model.prompt_price is None or model.completion_price is None:
        raise UserError(
            "--max-cost cannot hold: the provider's model list names no price. "
            "Run without --max-cost."
        )
    size = sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
    return size / 2 * model.prompt_price + max_tokens * model.completion_price


# ----------------------------------------------------------------------------------------- dry run


def dry_run(environment: Environment, planned: Iterable[tuple[CallSettings, int, int]]) -> None:
    """Print what is ahead; `planned` holds (settings, prompt characters, calls) for each item.

    Asks the provider only for its free model list. A reply's length is a guess and said to be one.
    """
    calls: Counter = Counter()
    chars: Counter = Counter()
    longest: Counter = Counter()
    settings: dict[str, CallSettings] = {}
    for call, size, count in planned:
        if count:
            settings[call.model] = call
            calls[call.model] += count
            chars[call.model] += size * count
            longest[call.model] = max(longest[call.model], size)
    if not calls:
        print("dry run: nothing to ask; a run would send no call.")
        return
    models = asyncio.run(_fetch_models(environment))
    print("dry run: no call was sent. Ahead, if every first reply is good:")
    total: float | None = 0.0
    for name, count in calls.items():
        model = models.get(name, Model())
        tokens_in = int(chars[name] / CHARS_PER_TOKEN)
        tokens_a_reply = min(settings[name].max_tokens, _EXPECTED_COMPLETION_TOKENS)
        tokens_out = count * tokens_a_reply
        usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "cached_tokens": 0}
        cost = model.cost_usd(usage)
        total = None if cost is None or total is None else total + cost
        price = "price unknown" if cost is None else f"about ${cost:.2f}"
        print(
            f"  {name}: {count:,} calls, about {tokens_in:,} tokens in, {tokens_out:,} out "
            f"(a guess of {tokens_a_reply:,} a reply), {price}"
        )
        _print_limits(name, models, settings[name], longest[name])
    if total is not None and len(calls) > 1:
        print(f"  all: {sum(calls.values()):,} calls, about ${total:.2f}")


def _print_limits(
    name: str, models: dict[str, Model], call: CallSettings, longest_chars: int
) -> None:
    if models and name not in models:
        print("    not on the provider's model list: is the id right?")
    context = models.get(name, Model()).context_tokens
    if not context:
        return
    longest = int(longest_chars / CHARS_PER_TOKEN)
    fits = "fits"
    if longest + call.max_tokens > context:
        fits = "TOO LONG: such calls will be refused"
    print(
        f"    longest prompt about {longest:,} tokens + max_tokens {call.max_tokens:,} "
        f"of {context:,} context tokens: {fits}"
    )


async def _fetch_models(environment: Environment) -> dict[str, Model]:
    from common.client.wire import Connection  # takes a second

    connection = Connection(environment.base_url, environment.api_key)
    try:
        return await list_models(connection)
    finally:
        await connection.close()
