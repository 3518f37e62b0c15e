"""What all models of a run share: the money, the disk, the keys that nobody may see, its end."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from common import cli
from common.client.faults import Fault
from common.config import CallSettings, Environment
from common.files import UserError, json_bytes, write_bytes

# English and code lie between 3 and 4.5. For estimates only: real usage is what is counted.
CHARS_PER_TOKEN = 3.5
# The densest that real chats are: a Chinese character is three bytes and about one token.
LEAST_BYTES_PER_TOKEN = 2
_MOST_REPLIES = 3  # that begin alike: fewer tell nothing of a server
_LOOK_AGAIN_S = 0.05  # for room in the budget
_DISK_PATIENCE_S = 60.0  # somebody who is told of a full disk makes room in a minute, or is away
DISK_PAUSE_S = 0.5
GRACE_S = 5.0  # after Ctrl-C: time for calls in flight, which are paid, to come home
# A shorter key, such as "ollama", is a word that a reply may well hold; no real key is that short.
_SECRET_CHARS = 12
_WORDS_SHOWN = 400  # of what a provider says, cut after the key is taken out


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
            keys = ("prompt", "completion", "input_cache_read")
            prices = [_dollars(pricing.get(key)) for key in keys]
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


class Halted(Exception):
    """The run has been told to stop: this call was not sent, or not tried again."""


class Run:
    """The state that the models of a run share."""

    def __init__(self, environment: Environment, max_cost: float | None = None):
        self.environment = environment
        self.spending = Spending(max_cost)
        self.batches = None  # batches.Batches
        self.say: Callable[[str], None] = print
        self.models: dict = {}  # model.Model by provider and name
        self.given_up = 0  # calls in flight that the end did not wait for
        self.lost_replies = 0  # which the disk did not take
        self.end: tuple[int, str] | None = None  # exit code and reason, once it is over
        self.over = asyncio.Event()
        self.disk_patience_s = _DISK_PATIENCE_S
        self.refused_writes: set[Path] = set()  # no new calls while there are any
        keys = {endpoint.api_key for endpoint in environment.providers.values()}
        self._keys = sorted(keys - {""}, key=len, reverse=True)

    def halt(self, code: int, words: str) -> None:
        """Start no new call from now on; the first reason stands."""
        if self.end is None:
            self.end = (code, words)
            self.over.set()
            for model in self.models.values():
                model.limiter.turn_away(Halted())

    def interrupt(self) -> None:
        """End the run by Ctrl-C or its like."""
        self.disk_patience_s = min(self.disk_patience_s, GRACE_S)
        self.halt(cli.EXIT_INTERRUPTED, cli.INTERRUPTED)

    def masked(self, text: str, shortest: int = _SECRET_CHARS) -> str:
        """Return what a provider or a model said without any key of so many characters."""
        for key in self._keys:
            if len(key) >= shortest:
                text = text.replace(key, "[key]")
        return text

    def masked_fault(self, fault: Fault) -> Fault:
        """Return a fault that may be shown: without any key, and cut."""
        detail = self.masked(fault.detail, 1)[:_WORDS_SHOWN]
        return replace(fault, kind=self.masked(fault.kind, 1), detail=detail)

    def count_reply(self, call: CallSettings, completion, cost_usd: float | None) -> None:
        """Count a whole reply, and take any key out of what is kept of it."""
        self.spending.tokens.update(completion.usage)
        self.spending.unpriced_calls += cost_usd is None
        self.spending.cost_usd += cost_usd or 0.0
        for name in ("finish_reason", "model", "invocation_id"):
            setattr(completion, name, self.masked(getattr(completion, name)))
        if completion.model not in ("", call.model):
            self.spending.answered[call.model, completion.model] += 1

    async def save(self, path: Path | str, value: object) -> None:
        """Write a file that holds paid replies, as JSON; no new call starts while that is refused.

        Once begun it ends, also when who asked for it is cancelled: asyncio.run waits for threads.
        Raises OSError when the disk refuses for too long.
        """
        loop = asyncio.get_running_loop()
        write = loop.run_in_executor(None, self._write, Path(path), json_bytes(value))
        await asyncio.shield(write)

    def _write(self, path: Path, data: bytes) -> None:
        began_s = time.monotonic()
        try:
            while True:
                try:
                    return write_bytes(path, data)
                except OSError as error:
                    error.filename = error.filename or str(path)
                    waited_s = time.monotonic() - began_s
                    if waited_s > self.disk_patience_s:
                        self.lost_replies += 1
                        self.disk_patience_s = 0.0  # what one waited for in vain, no other does
                        raise
                    if not self.refused_writes:
                        words = f"no new calls, trying again for {self.disk_patience_s:.0f} s"
                        self.say(f"{cli.stop_words(error).splitlines()[0]}: {words}")
                    self.refused_writes.add(path)
                time.sleep(DISK_PAUSE_S)
        finally:
            self.refused_writes.discard(path)
