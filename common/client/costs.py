"""What calls cost: the provider's price list, the tally of tokens and dollars, the budget of --max-cost, the dry run."""
from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Iterable

from common.client import wire
from common.config import CallSettings, Environment
from common.files import UserError

CHARS_PER_TOKEN = 3.5  # English and code lie between 3 and 4.5; used for estimates only, real usage is what is counted
_EXPECTED_COMPLETION_TOKENS = 3000  # a thinking model's usual reply to one turn; only the dry run guesses with it
_LIST_S = 4  # the first finished reply waits for the prices: less than the grace that an interrupt gives
_PER_MILLION = 1_000_000


@dataclass(frozen=True)
class Model:
    """A model of the provider's list: dollars per token and token limits, None where the list says nothing."""

    prompt_price: float | None = None
    completion_price: float | None = None
    cached_price: float | None = None
    context_tokens: int | None = None

    def cost_usd(self, usage: dict) -> float | None:
        """What a reply with this usage costs; None without a price or without a usage report."""
        if self.prompt_price is None or self.completion_price is None or not usage:
            return None
        cached = usage["cached_tokens"] if self.cached_price is not None else 0
        return ((usage["prompt_tokens"] - cached) * self.prompt_price + cached * (self.cached_price or 0)
                + usage["completion_tokens"] * self.completion_price)


async def list_models(client) -> dict[str, Model]:
    """The provider's models by id; {} when the list cannot be had (prices are then unknown, nothing else is lost)."""
    try:
        response = await asyncio.wait_for(client.get("/models", cast_to=wire.httpx2.Response), _LIST_S)
        return {item["id"]: _model(item) for item in response.json()["data"]}
    except Exception:  # any fault here only means that the price is not known
        return {}


def _model(item: dict) -> Model:
    pricing = item.get("pricing") if isinstance(item.get("pricing"), dict) else {}
    context = next((item[key] for key in ("context_length", "max_model_len", "context_window") if item.get(key)), None)
    return Model(_dollars(pricing.get("prompt")), _dollars(pricing.get("completion")),
                 _dollars(pricing.get("input_cache_read")), int(context) if context else None)


def _dollars(price: object) -> float | None:
    """Dollars per token. Chutes lists numbers per million tokens, OpenRouter strings per token."""
    try:
        return float(price) if isinstance(price, str) else float(price) / _PER_MILLION
    except (TypeError, ValueError):
        return None


# ----------------------------------------------------------------------------------------------------------- tally

class Spending:
    """Tokens, dollars and calls of one run."""

    def __init__(self):
        self.tokens, self.calls = Counter(), Counter()
        self.cost_usd, self.unpriced_calls = 0.0, 0

    def add(self, usage: dict, cost_usd: float | None) -> None:
        self.tokens.update(usage)
        if cost_usd is None:
            self.unpriced_calls += 1
        else:
            self.cost_usd += cost_usd

    def lines(self) -> list[str]:
        """For the tally: nothing when nothing was asked."""
        if not self.calls:
            return []
        tokens = self.tokens
        reasoning = f" ({tokens['reasoning_tokens']:,} reasoning)" if tokens["reasoning_tokens"] else ""
        lines = [f"calls   {sum(self.calls.values()):,}: "
                 + ", ".join(f"{count:,} {outcome}" for outcome, count in self.calls.most_common()),
                 f"tokens  {tokens['prompt_tokens']:,} in ({tokens['cached_tokens']:,} cached), "
                 f"{tokens['completion_tokens']:,} out{reasoning}"]
        unpriced = f" plus {self.unpriced_calls:,} replies of unknown price" if self.unpriced_calls else ""
        if self.cost_usd or not self.unpriced_calls:
            lines.append(f"cost    ${self.cost_usd:.4f}{unpriced}")
        else:
            lines.append("cost    unknown: the model list names no price, or the replies came without usage")
        return lines


class Budget:
    """`--max-cost`: a call starts only when even its worst case (all of max_tokens) stays within the sum."""

    def __init__(self, limit_usd: float | None):
        self.limit_usd, self.spent_usd = limit_usd, 0.0
        self._reserved: list[float] = []  # of the calls in flight; no running sum, which would keep a rounding error
        self._changed = asyncio.Condition()

    async def reserve(self, worst_case_usd: float) -> bool:
        """Wait until the calls in flight leave room; False when even after them there is none."""
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
    """The size of a chat in characters."""
    return sum(len(message["content"]) for message in messages)


def worst_case_usd(model: Model, messages: list[dict], max_tokens: int) -> float:
    """The most that a call can cost. Raises UserError when the price is not known. Two bytes a token is the densest that
    real chats are: a Chinese character takes three bytes and about one token."""
    if model.prompt_price is None or model.completion_price is None:
        raise UserError("--max-cost cannot hold: the provider's model list names no price. Run without --max-cost.")
    size = sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
    return size / 2 * model.prompt_price + max_tokens * model.completion_price


# --------------------------------------------------------------------------------------------------------- dry run

def dry_run(environment: Environment, planned: Iterable[tuple[CallSettings, int, int]]) -> None:
    """Print what is ahead: `planned` is (settings, prompt characters, calls with such a prompt) for each item.

    Asks the provider only for its free model list. A reply's length is a guess and said to be one.
    """
    calls, chars, longest, settings = Counter(), Counter(), Counter(), {}
    for call, prompt_chars, count in planned:
        if count:
            settings[call.model] = call
            calls[call.model] += count
            chars[call.model] += prompt_chars * count
            longest[call.model] = max(longest[call.model], prompt_chars)
    if not calls:
        print("dry run: nothing to ask; a run would send no call.")
        return
    models = asyncio.run(_fetch_models(environment))
    print("dry run: no call was sent. Ahead, if every first reply is good:")
    total = 0.0
    for name, count in calls.items():
        model, tokens_in = models.get(name, Model()), int(chars[name] / CHARS_PER_TOKEN)
        tokens_out = count * min(settings[name].max_tokens, _EXPECTED_COMPLETION_TOKENS)
        cost = model.cost_usd({"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "cached_tokens": 0})
        total = total + cost if cost is not None and total is not None else None
        print(f"  {name}: {count:,} calls, about {tokens_in:,} tokens in, {tokens_out:,} out (a guess of "
              f"{tokens_out // count:,} a reply), " + (f"about ${cost:.2f}" if cost is not None else "price unknown"))
        _print_limits(name, model, models, settings[name], longest[name])
    if total is not None and len(calls) > 1:
        print(f"  all: {sum(calls.values()):,} calls, about ${total:.2f}")


def _print_limits(name: str, model: Model, models: dict, call: CallSettings, longest_chars: int) -> None:
    if models and name not in models:
        print("    not on the provider's model list: is the id right?")
    longest = int(longest_chars / CHARS_PER_TOKEN)
    if model.context_tokens:
        fits = "fits" if longest + call.max_tokens <= model.context_tokens else "TOO LONG: such calls will be refused"
        print(f"    longest prompt about {longest:,} tokens + max_tokens {call.max_tokens:,} "
              f"of {model.context_tokens:,} context tokens: {fits}")


async def _fetch_models(environment: Environment) -> dict[str, Model]:
    client = wire.make_client(environment.base_url, environment.api_key)
    try:
        return await list_models(client)
    finally:
        await client.close()
