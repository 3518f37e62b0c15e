"""Asking a model so that no paid reply is lost: the retry policy, in one place.

- configuration (401, 402, 403, 404, no money, a refusal of the first calls and of a one-word chat
  alike): the run stops, exit 2;
- item (prompt too long, content refused, no acceptable reply after all tries): this item fails,
  the rest goes on;
- transient (429, 408, 409, 5xx, broken or stalled connections, replies without an end): tried
  again after growing, jittered waits, within `retry_budget_s` a call; nothing good from a model
  for `outage_s`, and no answer to a one-word chat either: no more is asked of it, and when no other
  model is left the run stops, exit 1. Where others pass, an item that never does fails alone.

The pace of each model is in limiter.py, the run over all turns in all_turns.py.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from common.cli import EXIT_SOME_FAILED
from common.client.all_turns import LAST_REPLY
from common.client.all_turns import run_turns as run_turns  # the scripts take it from here
from common.client.completion import Completion
from common.client.costs import Budget, Model, Spending, worst_case_usd
from common.client.faults import Fault, Halted, ItemFailed
from common.client.limiter import RateLimiter, wait_s
from common.client.outages import Outages, OwnFaults, Route, gone
from common.client.provider import Provider, mask_keys, mask_reply
from common.client.reply import NoAcceptableReply as NoAcceptableReply
from common.client.reply import Reply, no_reply
from common.client.saving import Saver
from common.client.watch import Watch
from common.config import CallSettings
from common.environment import Environment
from common.files import clean_text
from common.replies.protocol import visible_text

_TRIES_BEFORE_PROBE = 4  # of one item, while nothing else passes
_WORDS_SHOWN = 400  # of what a provider says, cut after the key is taken out


class LLM:
    """All models of a run: a connection per provider, a limiter per model, one budget."""

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
        self.say: Callable[[str], None] = print
        self._watch = Watch(self._woke)
        self._watching: asyncio.Future | None = None
        self._providers: dict[str, Provider] = {}
        self.routes: dict[tuple[str, str], Route] = {}
        self._outages = Outages(self)
        self._saver = Saver(self)
        self._halt_signal: asyncio.Event | None = None

    # -------------------------------------------------------------------------------------- asking

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
            completion, attempts, cost = await self._completion(call, messages, max_tokens)
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
            why = no_reply(completion, text)
            if why is None:
                why = accept(text)
                if why is None:
                    self.spending.calls["good"] += 1
                    return last
                if again:
                    messages = again(text, why)
            self.spending.calls["refused reply"] += 1
            if completion.finish_reason == "length":
                max_tokens = min(2 * max_tokens, call.max_tokens_cap)
        detail = f"{why} (asked {call.bad_reply_tries} times)"
        if last.finish_reason == "length":
            tokens = f"max_tokens {last.sampling['max_tokens']:,} of max_tokens_cap"
            detail = f"{detail}; {tokens} {call.max_tokens_cap:,} in chain.toml was not enough"
        raise NoAcceptableReply(f"no acceptable reply: {why}", detail, last)

    async def _completion(
        self, call: CallSettings, messages: list[dict], max_tokens: int
    ) -> tuple[Completion, int, float | None]:
        """Return (completion, attempts, cost in dollars or None), through all transient faults."""
        route = self._route(call)
        own_faults = OwnFaults()
        attempts = 0
        in_front = False
        budget_s = call.retry_budget_s
        while True:
            attempts += 1
            try:
                completion, cost = await self._attempt(
                    route, call, messages, max_tokens, again=in_front
                )
                return completion, attempts, cost
            except Fault as fault:
                silent_s = time.monotonic() - route.limiter.last_life
                if attempts >= _TRIES_BEFORE_PROBE and silent_s > call.outage_s:
                    what = f"nothing good for {silent_s:.0f} s"
                    await self._outages.judge_outage(fault, call, route, what)
                    self._raise_if_over(route.limiter)
                if own_faults.is_at_fault(route, fault, call.outage_s):
                    detail = f"failed {attempts} times while others pass: {fault}"
                    raise ItemFailed(f"provider: {fault.kind}", detail) from None
                # A refused call waits for its turn at the limiter, the first time in front of the
                # others: an item that never passes is not to hold them up.
                in_front = fault.rate_limited or attempts == 1
                pause_s = 0.0 if fault.refusal else wait_s(attempts - 1)
                budget_s -= fault.took_s + max(pause_s, route.limiter.pause_left_s())
                if budget_s < 0:
                    await self._outages.note_exhausted(fault, call, route)
                    self._raise_if_over(route.limiter)
                    detail = f"gave up after {attempts} tries: {fault}"
                    raise ItemFailed(f"provider: {fault.kind}", detail) from None
                if pause_s:
                    await self._sleep(pause_s)

    async def _attempt(
        self, route: Route, call: CallSettings, messages: list[dict], max_tokens: int, again: bool
    ) -> tuple[Completion, float | None]:
        """Return a completion and its cost. Raises Fault only where another try makes sense."""
        limiter = route.limiter
        await self._saver.wait()
        self._raise_if_over(limiter)
        reserved = 0.0
        if self.budget.limit_usd:
            reserved = await self._reserve(call, messages, max_tokens)
        settled = 0.0
        try:
            ticket = await limiter.enter(first=again)
        except BaseException:
            if reserved:
                await self.budget.settle(reserved, settled)
            raise
        began_s = self._watch.now_s
        price = asyncio.ensure_future(self.model(call))
        try:
            self._raise_if_over(limiter)
            completion = await self.complete(route, call, messages, max_tokens)
            cost = (await price).cost_usd(completion.usage)
            # A reply whose price nobody tells counts as the worst case: the sum must hold.
            settled = reserved if cost is None else cost
            self.spending.add(completion.usage, cost)
            if completion.model and completion.model != call.model:
                self.spending.answered[call.model, completion.model] += 1
            limiter.succeeded(ticket)
            route.passed()
            return completion, cost
        except Fault as fault:
            fault.took_s = self._watch.now_s - began_s
            self.spending.calls[fault.kind] += 1
            limiter.failed(fault, ticket)
            # Before the place is given on, so that a bad key costs one call.
            await self._outages.note_fault(fault, call, route)
            self._raise_if_over(limiter)
            if fault.category == "item":
                raise ItemFailed(fault.kind, str(fault), lasting=True) from None
            raise
        finally:
            price.cancel()
            limiter.leave()
            if reserved:
                await self.budget.settle(reserved, settled)

    async def complete(
        self, route: Route, call: CallSettings, messages: list[dict], max_tokens: int
    ) -> Completion:
        """Return a completion from one attempt, no key in it. Raises Fault."""
        try:
            completion = await route.provider.connection.complete(
                call, messages, max_tokens, route.limiter.alive
            )
        except Fault as fault:
            fault.detail = self.masked(fault.detail)[:_WORDS_SHOWN]
            fault.kind = self.masked(fault.kind)
            raise
        for name in ("finish_reason", "model", "invocation_id"):
            setattr(completion, name, mask_reply(getattr(completion, name), self.environment))
        return completion

    def _raise_if_over(self, limiter: RateLimiter) -> None:
        if self.halted:
            raise Halted() from None
        if limiter.gone:
            raise gone(limiter) from None

    # --------------------------------------------------------------------------- start and end

    async def open(self) -> asyncio.Event:
        """Start inside the running loop; the event is set when the run must end."""
        self._watching = asyncio.ensure_future(self._watch.run())
        self._halt_signal = asyncio.Event()
        if self.halted:
            self._halt_signal.set()
        return self._halt_signal

    async def close(self) -> None:
        """Finish what is being saved, close all sockets."""
        await self._saver.close()
        self._watching.cancel()
        for provider in self._providers.values():
            await provider.close()

    async def save(self, path: Path | str, value: object) -> None:
        """Write a file that holds paid replies; a disk that refuses is tried again for a while."""
        await self._saver.save(path, value)

    def hurry(self) -> None:
        """Wait for no disk any more."""
        self._saver.hurried = True

    def halt(self, code: int, words: str) -> None:
        """Start no new call from now on; the first reason stands."""
        if self.halted is not None:
            return
        self.halted = (code, words)
        if self._halt_signal is not None:
            self._halt_signal.set()
        for route in self.routes.values():
            route.limiter.turn_away(Halted())

    def at_once(self) -> str:
        """Return the current pace of each model, for the progress bar."""
        return "+".join(str(route.limiter.pace) for route in self.routes.values())

    def spent(self) -> str:
        """Return the dollars so far, for the progress bar; "" while no price is known."""
        return f"${self.spending.cost_usd:.2f}" if self.spending.cost_usd else ""

    def masked(self, text: str) -> str:
        """Return a text without any key."""
        return mask_keys(text, self.environment)

    def usage_lines(self) -> list[str]:
        """Return calls by outcome, tokens and cost, for the tally."""
        return [*self.spending.lines(), *self._saver.lines()]

    # ------------------------------------------------------------------------------------- helpers

    async def _sleep(self, seconds: float) -> None:
        """Wait. Raises Halted when the run ends meanwhile."""
        try:
            await asyncio.wait_for(self._halt_signal.wait(), seconds)
        except asyncio.TimeoutError:
            return
        raise Halted()

    async def _reserve(self, call: CallSettings, messages: list[dict], max_tokens: int) -> float:
        """Set the worst case of a call aside. Raises Halted when --max-cost leaves no room."""
        amount = worst_case_usd(await self.model(call), call, messages, max_tokens)
        if await self.budget.reserve(amount):
            return amount
        spent = f"${self.budget.spent_usd:.4f} of ${self.budget.limit_usd:.4f} is spent"
        words = f"--max-cost: {spent}, and the next call could cost ${amount:.4f}."
        self.halt(EXIT_SOME_FAILED, f"{words}\nRun the same line again to go on.")
        raise Halted()

    async def model(self, call: CallSettings) -> Model:
        """Return the model's prices, from its provider's free list, fetched once."""
        return await self._provider(call).model(call.model)

    def _provider(self, call: CallSettings) -> Provider:
        if call.provider not in self._providers:
            endpoint = self.environment.providers[call.provider]
            self._providers[call.provider] = Provider(endpoint, self._watch)
        return self._providers[call.provider]

    def _route(self, call: CallSettings) -> Route:
        key = call.provider, call.model
        if key not in self.routes:
            provider = self._provider(call)
            limiter = RateLimiter(self.concurrency or call.concurrency)
            where = f"{call.model} at {provider.endpoint.base_url}"
            self.routes[key] = Route(provider, limiter, where)
            self._saver.patience_s = min(self._saver.patience_s, call.outage_s / 2)
        return self.routes[key]

    def _woke(self, seconds: float) -> None:
        """After a stop of this process: the silence was our own."""
        for route in self.routes.values():
            route.limiter.last_life += seconds
