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
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from common.cli import EXIT_SOME_FAILED, EXIT_STOPPED
from common.client.advice import advice, passes_by_itself
from common.client.all_turns import LAST_REPLY
from common.client.all_turns import run_turns as run_turns  # the scripts take it from here
from common.client.completion import Completion
from common.client.costs import Budget, Model, Spending, worst_case_usd
from common.client.faults import Fault, Halted, ItemFailed
from common.client.limiter import RateLimiter, wait_s
from common.client.provider import Provider, mask_keys, mask_reply
from common.client.saving import Saver
from common.client.watch import Watch
from common.config import CallSettings, Environment
from common.files import clean_text
from common.replies.protocol import visible_text

# An address that never answered at all is a typo or a server that is down: no long wait.
_NEVER_REACHED_S = 15.0
# In a row, without a success between.
_FAULTS_OF_AN_OUTAGE = 5
_EXHAUSTED_OF_AN_OUTAGE = 10
_SAME_REFUSALS = 2
_PAGES_OF_HTML = 3
# Faults of one item, each after others had passed since the one before: the item is at fault.
_FAULTS_OF_AN_ITEM = 6
_TRIES_BEFORE_PROBE = 4
_HELLO = [{"role": "user", "content": "Hello"}]
_PROBE_TOKENS = 16
_WORDS_SHOWN = 400  # of what a provider says, cut after the key is taken out
_WAIT_WORTH_A_WORD_S = 5.0
_SILENCE_BETWEEN_WORDS_S = 30.0


class NoAcceptableReply(ItemFailed):
    """Every reply was refused; `last` is the last one that came, empty or cut off as it may be."""

    def __init__(self, kind: str, detail: str, last: Reply):
        super().__init__(kind, detail)
        self.last = last


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


@dataclass(eq=False)
class Route:
    """One model at one provider, and what is known of it in this run."""

    provider: Provider
    limiter: RateLimiter
    where: str
    proven: bool = False  # a call has passed
    passed_at: float = 0.0  # the last one that did
    probed_at: float = 0.0  # the last one-word chat that passed
    probe: asyncio.Future | None = None  # under way
    exhausted_in_a_row: int = 0
    pages_of_html: int = 0
    refusals: Counter = field(default_factory=Counter)  # before any call has passed, by their words

    def passed(self) -> None:
        """Note that a call passed."""
        self.proven = True
        self.passed_at = time.monotonic()
        self.exhausted_in_a_row = 0


@dataclass
class _OwnFaults:
    """The faults of one item, other than being told to slow down."""

    first_at: float = 0.0
    last_at: float = 0.0
    others_passed: int = 0  # since the fault before, each time

    def is_at_fault(self, route: Route, fault: Fault, outage_s: float) -> bool:
        """Note a fault; tell whether it is the item that fails, and not the provider."""
        if fault.rate_limited:
            return False
        now = time.monotonic()
        if self.last_at and route.passed_at > self.last_at:
            self.others_passed += 1
        probed = self.first_at and route.probed_at > self.first_at
        self.first_at = self.first_at or now
        self.last_at = now
        # Quick refusals may be a limit on the rate: they are given time.
        outdone = self.others_passed >= _FAULTS_OF_AN_ITEM - 1
        return bool(probed) or (outdone and now - self.first_at > outage_s / 4)


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
        self._told_until = 0.0
        self._watch = Watch(self._woke)
        self._watching: asyncio.Future | None = None
        self._providers: dict[str, Provider] = {}
        self._routes: dict[tuple[str, str], Route] = {}
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
            why = _no_reply(completion, text)
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
        own_faults = _OwnFaults()
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
                    await self._judge_outage(fault, call, route, what)
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
                    await self._note_exhausted(fault, call, route)
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
            completion = await self._complete(route, call, messages, max_tokens)
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
            await self._note_fault(fault, call, route)
            self._raise_if_over(limiter)
            if fault.category == "item":
                raise ItemFailed(fault.kind, str(fault), lasting=True) from None
            raise
        finally:
            price.cancel()
            limiter.leave()
            if reserved:
                await self.budget.settle(reserved, settled)

    async def _complete(
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

    # ---------------------------------------------------------------------- what a fault stands for

    async def _note_fault(self, fault: Fault, call: CallSettings, route: Route) -> None:
        """Halt the run, or give up this model, where the fault says that no call would pass."""
        limiter = route.limiter
        if fault.meaning == "address" and not route.proven:
            route.pages_of_html += 1
            if route.pages_of_html >= _PAGES_OF_HTML:
                fault.category = "configuration"
        if fault.category == "configuration":
            code = EXIT_SOME_FAILED if passes_by_itself(fault) else EXIT_STOPPED
            self.halt(code, f"{route.where}: {fault}\n{advice(fault, route.provider.endpoint)}")
        elif fault.category == "item":
            if not route.proven and await self._refuses_all(fault, call, route):
                self.halt(
                    EXIT_STOPPED,
                    f"{call.model} refuses every call alike: {fault}\n"
                    "Change what it names in chain.toml (sampling, extra_body, stream), "
                    "then run again.",
                )
        else:
            silent_s = time.monotonic() - limiter.last_life
            patience_s = call.outage_s
            if not limiter.ever_reached:
                patience_s = min(patience_s, _NEVER_REACHED_S)
            if limiter.faults_in_a_row >= _FAULTS_OF_AN_OUTAGE and silent_s > patience_s:
                what = f"nothing good for {silent_s:.0f} s"
                await self._judge_outage(fault, call, route, what)
            elif (fault.retry_after_s or 0) > call.retry_budget_s:
                wait = f"it asks to come back in {fault.retry_after_s:.0f} s"
                self._give_up(fault, route, wait)
            self._tell_of_wait(fault, call, limiter)

    async def _refuses_all(self, fault: Fault, call: CallSettings, route: Route) -> bool:
        """Tell whether no call would be taken.

        That is: the same refusal twice before any success, and of a one-word chat as well.
        """
        words = re.sub(r"[0-9]+", "#", fault.detail)
        route.refusals[words] += 1
        if route.refusals[words] < _SAME_REFUSALS:
            return False
        again = await self._probe(call, route, call.max_tokens)
        return again is not None and again.category == "item" and again.status == fault.status

    async def _judge_outage(
        self, fault: Fault, call: CallSettings, route: Route, what: str
    ) -> None:
        """Give up the model, unless a one-word chat passes: then it is the items that fail."""
        probe = route.probe
        if probe is None or probe.done():  # else another item waits for it already
            tokens = min(call.max_tokens, _PROBE_TOKENS)
            probe = asyncio.ensure_future(self._probe(call, route, tokens))
            route.probe = probe
        again = await asyncio.shield(probe)
        if again is not None and again.category != "item":
            self._give_up(fault, route, what)

    async def _probe(self, call: CallSettings, route: Route, max_tokens: int) -> Fault | None:
        """Send a one-word chat, counted and within the budget; return its fault, None if none."""
        reserved = 0.0
        settled = 0.0
        model = await self.model(call)
        if self.budget.limit_usd:
            reserved = worst_case_usd(model, call, _HELLO, max_tokens)
            if not await self.budget.reserve(reserved, wait=False):
                return Fault("transient", "no probe", "--max-cost leaves no room for it")
        try:
            completion = await self._complete(route, call, _HELLO, max_tokens)
            cost = model.cost_usd(completion.usage)
            settled = reserved if cost is None else cost
            self.spending.add(completion.usage, cost)
            self.spending.calls["one-word probe"] += 1
            fault = None
        except Fault as again:
            self.spending.calls[f"one-word probe: {again.kind}"] += 1
            fault = again
        finally:
            if reserved:
                await self.budget.settle(reserved, settled)
        if fault is None or fault.category == "item":
            route.proven = route.proven or fault is None
            route.passed_at = time.monotonic()
            route.probed_at = route.passed_at
            route.exhausted_in_a_row = 0
            route.limiter.probe_passed()
        return fault

    async def _note_exhausted(self, fault: Fault, call: CallSettings, route: Route) -> None:
        route.exhausted_in_a_row += 1
        count = route.exhausted_in_a_row
        if count >= _EXHAUSTED_OF_AN_OUTAGE:
            what = f"{count} calls in a row used up retry_budget_s"
            await self._judge_outage(fault, call, route, what)

    def _give_up(self, fault: Fault, route: Route, what: str) -> None:
        """Ask nothing more of this model; the run ends when no other is left."""
        limiter = route.limiter
        first = not limiter.gone
        limiter.gone = f"{route.where} does not answer: {what}; last: {fault}"
        if all(other.limiter.gone for other in self._routes.values()):
            words = f"{limiter.gone}\nWhat was finished is saved."
            hint = ""
            if not limiter.ever_reached or fault.meaning == "address":
                hint = f" Check {route.provider.endpoint.url_place}."
            again = "Run the same line again when it is back."
            self.halt(EXIT_SOME_FAILED, f"{words} {again}{hint}")
            return
        if first:
            self.say(f"{limiter.gone}. The other models go on.")
        limiter.turn_away(_gone(limiter))

    def _raise_if_over(self, limiter: RateLimiter) -> None:
        if self.halted:
            raise Halted() from None
        if limiter.gone:
            raise _gone(limiter) from None

    def _tell_of_wait(self, fault: Fault, call: CallSettings, limiter: RateLimiter) -> None:
        """Say now and then that a whole model waits, so that a silent run explains itself."""
        left_s = limiter.pause_left_s()
        if left_s > _WAIT_WORTH_A_WORD_S and time.monotonic() > self._told_until:
            self._told_until = time.monotonic() + max(left_s, _SILENCE_BETWEEN_WORDS_S)
            self.say(f"{call.model}: {fault}; trying again in {left_s:.0f} s")

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
        for route in self._routes.values():
            route.limiter.turn_away(Halted())

    def at_once(self) -> str:
        """Return the current pace of each model, for the progress bar."""
        return "+".join(str(route.limiter.pace) for route in self._routes.values())

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
        if key not in self._routes:
            provider = self._provider(call)
            limiter = RateLimiter(self.concurrency or call.concurrency)
            where = f"{call.model} at {provider.endpoint.base_url}"
            self._routes[key] = Route(provider, limiter, where)
            self._saver.patience_s = min(self._saver.patience_s, call.outage_s / 2)
        return self._routes[key]

    def _woke(self, seconds: float) -> None:
        """After a stop of this process: the silence was our own."""
        for route in self._routes.values():
            route.limiter.last_life += seconds


def _gone(limiter: RateLimiter) -> ItemFailed:
    return ItemFailed("provider: a model does not answer", limiter.gone)


def _no_reply(completion: Completion, text: str) -> str | None:
    """Say why a completion holds no reply at all; None when it does."""
    if completion.finish_reason == "length":
        return "cut off at max_tokens" if text else "empty: all of max_tokens went into reasoning"
    if completion.finish_reason in ("tool_calls", "function_call"):
        return "a tool call instead of text"
    return None if text else "empty"
