"""Asking a model so that no paid reply is lost: the retry policy, in one place.

- configuration (401, 402, 403, 404, no money, a refusal of the first calls and of a one-word chat
  alike): the run stops, exit 2;
- item (prompt too long, content refused, no acceptable reply after all tries): this item fails,
  the rest goes on;
- transient (429, 408, 409, 5xx, broken or stalled connections, replies without an end): tried
  again after growing, jittered waits, within `retry_budget_s` a call; nothing good from a model
  for `outage_s`, and no answer to a one-word chat either: no more is asked of it, and when no other
  model is left the run stops, exit 1. Where others pass, an item that never does fails alone.

What a fault stands for is decided in faults.py and route.py, the pace of each model in limiter.py.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from common.client.clock import AwakeClock
from common.client.completion import Completion
from common.client.costs import Budget, Model, Spending
from common.client.faults import Fault, Halted, ItemFailed
from common.client.route import Route, mask_keys, mask_reply
from common.client.run import LAST_REPLY, Saver
from common.client.run import run_turns as run_turns  # the scripts take it from here
from common.config import CallSettings
from common.environment import Environment
from common.files import clean_text
from common.replies.protocol import visible_text

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
# Faults of one item, each after others had passed since the one before: the item is at fault.
_FAULTS_OF_AN_ITEM = 6


@dataclass
class Reply:
    """A reply as it is kept: `text` without reasoning.

    `usage` is of this reply; `usage_all_tries`, `cost_usd` and `tries` are of all that it took.
    """

    text: str
    finish_reason: str
    usage: dict
    usage_all_tries: dict
    cost_usd: float | None
    model: str
    model_answered: str
    invocation_id: str
    asked_at: str
    time_s: float
    tries: int
    sampling: dict

    def meta(self) -> dict:
        """Return all but the text, for a file's `meta`."""
        return {name: value for name, value in vars(self).items() if name != "text"}


class NoAcceptableReply(ItemFailed):
    """Every reply was refused; `last` is the last one that came, empty or cut off as it may be."""

    def __init__(self, kind: str, detail: str, last: Reply):
        super().__init__(kind, detail)
        self.last = last


class LLM:
    """All models of a run: a connection per provider, a route per model, one budget."""

    def __init__(
        self,
        environment: Environment,
        *,
        concurrency: int | None = None,
        max_cost: float | None = None,
    ):
        self.environment = environment
        self.concurrency = concurrency
        self.spending = Spending()
        self.budget = Budget(max_cost)
        self.halted: tuple[int, str] | None = None  # exit code and reason
        self.halt_signal = asyncio.Event()
        self.say: Callable[[str], None] = print
        self.saver = Saver(lambda words: self.say(words))
        self.clock = AwakeClock()
        self.routes: dict[tuple[str, str], Route] = {}  # by provider and model
        self._connections = {}
        self._ticking: asyncio.Future | None = None

    async def ask(
        self,
        call: CallSettings,
        messages: list[dict],
        accept: Callable[[str], str | None],
        again: Callable[[str, str], list[dict]] | None = None,
    ) -> Reply:
        """Return a reply that `accept` finds nothing wrong with (it returns None, or says what).

        A refused, empty or cut-off reply is asked for again, at most `bad_reply_tries` times in
        all; a cut-off one with twice the tokens, up to `max_tokens_cap`. `again(text, why)` may
        give other messages for the next try. Raises ItemFailed, NoAcceptableReply, or Halted when
        the run is over.
        """
        asked_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        started = time.monotonic()
        max_tokens = call.max_tokens
        tries = 0
        cost_usd: float | None = 0.0
        usage_all_tries: Counter = Counter()
        for _ in range(call.bad_reply_tries):
            completion, attempts, cost = await self._persist(call, messages, max_tokens)
            tries += attempts
            cost_usd = None if cost is None or cost_usd is None else cost_usd + cost
            usage_all_tries.update(completion.usage)
            text = mask_reply(clean_text(visible_text(completion.content)), self.environment)
            last = Reply(
                text=text,
                finish_reason=completion.finish_reason,
                usage=completion.usage,
                usage_all_tries=dict(usage_all_tries),
                cost_usd=cost_usd,
                model=call.model,
                model_answered=completion.model,
                invocation_id=completion.invocation_id,
                asked_at=asked_at,
                time_s=round(time.monotonic() - started, 3),
                tries=tries,
                sampling={**call.sampling(), "max_tokens": max_tokens},
            )
            LAST_REPLY.get([])[:] = [last]
            if last.finish_reason == "length":
                why = "cut off at max_tokens"
                if not text:
                    why = "empty: all of max_tokens went into reasoning"
                max_tokens = min(2 * max_tokens, call.max_tokens_cap)
            elif last.finish_reason in ("tool_calls", "function_call"):
                why = "a tool call instead of text"
            elif not text:
                why = "empty"
            else:
                why = accept(text)
                if why is None:
                    self.spending.calls["good"] += 1
                    return last
                if again:
                    messages = again(text, why)
            self.spending.calls["refused reply"] += 1
        detail = f"{why} (asked {call.bad_reply_tries} times)"
        if last.finish_reason == "length":
            tokens = f"max_tokens {last.sampling['max_tokens']:,} of max_tokens_cap"
            detail = f"{detail}; {tokens} {call.max_tokens_cap:,} in chain.toml was not enough"
        raise NoAcceptableReply(f"no acceptable reply: {why}", detail, last)

    async def _persist(
        self, call: CallSettings, messages: list[dict], max_tokens: int
    ) -> tuple[Completion, int, float | None]:
        """Return (completion, attempts, cost in dollars or None), through all transient faults."""
        route = self._route(call)
        budget_s = call.retry_budget_s
        attempts = 0
        in_front = False
        own_faults = 0  # of this item, but for being told to slow down
        others_passed = 0  # how often others did between two of these
        passes = 0
        while True:
            attempts += 1
            await self.saver.sound.wait()
            try:
                completion, cost = await route.attempt(call, messages, max_tokens, in_front)
                return completion, attempts, cost
            except Fault as caught:
                fault = caught
            if fault.status != 429:
                own_faults += 1
                if own_faults == 1:
                    first_at_s = self.clock.now_s
                    probes_passed = route.probes_passed
                elif route.passes > passes:
                    others_passed += 1
                passes = route.passes
                # Quick refusals may be a limit on the rate: they are given time.
                waited = self.clock.now_s - first_at_s > call.outage_s / 4
                outdone = others_passed >= _FAULTS_OF_AN_ITEM - 1 and waited
                if outdone or route.probes_passed > probes_passed:
                    detail = f"failed {attempts} times while others pass: {fault}"
                    raise ItemFailed(f"provider: {fault.kind}", detail)
            # A refused call waits for its turn at the limiter, the first time in front of the
            # others: an item that never passes is not to hold them up.
            in_front = fault.status == 429 or attempts == 1
            pause_s = 0.0
            if not fault.refusal:
                longest_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(attempts - 1, 10))
                pause_s = longest_s * random.uniform(0.5, 1.0)
            budget_s -= fault.took_s + max(pause_s, route.limiter.pause_left_s())
            if budget_s < 0:
                detail = f"gave up after {attempts} tries: {fault}"
                raise ItemFailed(f"provider: {fault.kind}", detail)
            try:
                await asyncio.wait_for(self.halt_signal.wait(), pause_s)
            except asyncio.TimeoutError:
                continue
            raise Halted()

    def _route(self, call: CallSettings) -> Route:
        key = call.provider, call.model
        if key not in self.routes:
            self.routes[key] = Route(self, call, self._connection(call))
            self.saver.patience_s = min(self.saver.patience_s, call.outage_s / 2)
        return self.routes[key]

    def _connection(self, call: CallSettings):
        from common.client.wire import Connection  # takes a second

        if call.provider not in self._connections:
            endpoint = self.environment.providers[call.provider]
            self._connections[call.provider] = Connection(endpoint)
        return self._connections[call.provider]

    async def model(self, call: CallSettings) -> Model:
        """Return the model's prices, from its provider's free list, fetched once."""
        return await self._connection(call).model(call.model)

    async def save(self, path: Path | str, value: object) -> None:
        """Write a file that holds paid replies; a disk that refuses is tried again for a while."""
        await self.saver.save(path, value)

    # --------------------------------------------------------------------------- start and end

    async def open(self) -> None:
        """Start inside the running loop."""
        self._ticking = asyncio.ensure_future(self.clock.run())

    async def close(self) -> None:
        """Finish what is being saved, close all sockets."""
        await self.saver.close()
        self._ticking.cancel()
        for connection in self._connections.values():
            await connection.close()

    def halt(self, code: int, words: str) -> None:
        """Start no new call from now on; the first reason stands."""
        if self.halted is None:
            self.halted = (code, words)
            self.halt_signal.set()
            for route in self.routes.values():
                route.limiter.turn_away(Halted())

    def notes(self) -> dict:
        """Return the pace of each model and the dollars so far, for the progress bar."""
        notes = {"at_once": "+".join(str(one.limiter.pace) for one in self.routes.values())}
        if self.spending.cost_usd:
            notes["spent"] = f"${self.spending.cost_usd:.2f}"
        return notes

    def masked(self, text: str) -> str:
        """Return a text without any key."""
        return mask_keys(text, self.environment)

    def usage_lines(self) -> list[str]:
        """Return calls by outcome, tokens and cost, for the tally."""
        lines = self.spending.lines()
        if self.saver.lost:
            lost = f"{self.saver.lost:,} paid replies: the disk took no file for them"
            lines.append(f"lost    {lost}")
        return lines
