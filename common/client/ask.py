"""Asking a model so that no paid reply is lost: the retry policy, the pace of each model, and the run over all turns.

The policy, in one place:
- configuration (401, 402, 403, 404, no money, a refusal of the first calls and of a one-word chat alike): the run stops, exit 2;
- item (prompt too long, content refused, no acceptable reply after all tries): this item fails, the rest goes on;
- passing (429, 408, 409, 5xx, broken or stalled connections, replies without an end): tried again after growing,
  jittered waits, within `retry_budget_s` a call; nothing good from a model for `outage_s`: no more is asked of it, and
  when no other model is left the run stops, exit 1.
The limiter: a model starts with one call, goes to sixteen after the first success, then doubles per round; a 429 halves it
and slows its later growth; Retry-After, or trouble after trouble without a success, pause the whole model.
"""
from __future__ import annotations

import asyncio
import re
import signal
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Awaitable, Callable, Iterable

from common.client import wire
from common.client.limiter import ItemFailed, RateLimiter, wait_s
from common.config import CallSettings, Environment
from common.files import BadFile, UserError, clean_text
from common.client.costs import Model, Budget, Spending, list_models, worst_case_usd
from common.replies.protocol import visible_text
from common.cli import (EXIT_INTERRUPTED, EXIT_SOME_FAILED, EXIT_STOPPED, Progress, Tally, disk_words)

_NEVER_REACHED_S = 15.0  # an address that never answered at all is a typo or a server that is down: no long wait
_FAULTS_OF_AN_OUTAGE, _EXHAUSTED_OF_AN_OUTAGE = 5, 10  # in a row, without a success between
_SAME_REFUSALS = 2
_WORDS_SHOWN = 400  # of what a provider says, cut after the key is taken out
_WAIT_WORTH_A_WORD_S, _SILENCE_BETWEEN_WORDS_S = 5.0, 30.0
_GRACE_S = 5.0  # after Ctrl-C: time for calls in flight, which are paid, to come home


class NoAcceptableReply(ItemFailed):
    """Every reply was refused; `last` is the last one that came, empty or cut off as it may be."""

    def __init__(self, kind: str, detail: str, last: Reply):
        super().__init__(kind, detail)
        self.last = last


class Halted(Exception):
    """The run has been told to stop: this call was not sent, or not tried again."""


@dataclass
class Reply:
    """A reply as it is kept: `text` without reasoning; usage of this reply; cost_usd and tries of all it took."""

    text: str
    finish_reason: str
    usage: dict
    cost_usd: float | None
    model: str
    model_answered: str
    invocation_id: str
    asked_at: str
    time_s: float
    tries: int
    sampling: dict

    def meta(self) -> dict:
        """All but the text, for a file's `meta`."""
        return {name: value for name, value in vars(self).items() if name != "text"}


# ------------------------------------------------------------------------------------------------------------ ask

class LLM:
    """The provider, for one process: one client, one limiter per model, one budget."""

    def __init__(self, environment: Environment, *, concurrency: int | None = None, max_cost: float | None = None):
        self.environment, self.concurrency = environment, concurrency
        self.spending, self.budget = Spending(), Budget(max_cost)
        self.halted: tuple[int, str] | None = None
        self.say: Callable[[str], None] = print
        self._told_until = 0.0
        self._limiters: dict[str, RateLimiter] = {}
        self._client = self._models = self._halt_signal = None

    async def ask(self, call: CallSettings, messages: list[dict], accept: Callable[[str], str | None],
                  again: Callable[[str, str], list[dict]] | None = None) -> Reply:
        """A reply that `accept` finds nothing wrong with (it returns None, or says why not in a few words).

        A refused, empty or cut-off reply is asked for again, at most `bad_reply_tries` times in all, a cut-off one with
        twice the tokens up to `max_tokens_cap`; `again(text, why)` may give other messages for the next try. Raises
        ItemFailed, NoAcceptableReply, or Halted when the run is over.
        """
        asked_at, started = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.monotonic()
        max_tokens, tries, cost_usd = call.max_tokens, 0, 0.0
        for _ in range(call.bad_reply_tries):
            completion, attempts, cost = await self._completion(call, messages, max_tokens)
            tries += attempts
            cost_usd = None if cost is None or cost_usd is None else cost_usd + cost
            text = clean_text(visible_text(completion.content))
            last = Reply(text, completion.finish_reason, completion.usage, cost_usd, call.model, completion.model,
                         completion.invocation_id, asked_at, round(time.monotonic() - started, 3), tries,
                         {**call.sampling(), "max_tokens": max_tokens})
            why = _not_a_reply(completion, text)
            if why is None:
                why = accept(text)
                if why is None:
                    self.spending.calls["good"] += 1
                    return last
                messages = again(text, why) if again else messages
            self.spending.calls["refused reply"] += 1
            if completion.finish_reason == "length":
                max_tokens = min(2 * max_tokens, call.max_tokens_cap)
        raise NoAcceptableReply(f"no acceptable reply: {why}", f"{why} (asked {call.bad_reply_tries} times)", last)

    async def _completion(self, call: CallSettings, messages: list[dict],
                          max_tokens: int) -> tuple[wire.Completion, int, float | None]:
        """A whole completion, through all passing faults: (completion, attempts, cost in dollars or None)."""
        limiter, attempts, budget_s = self._limiter(call), 0, call.retry_budget_s
        while True:
            attempts += 1
            try:
                completion, cost = await self._attempt(limiter, call, messages, max_tokens, again=attempts > 1)
                return completion, attempts, cost
            except wire.Fault as fault:
                pause = max(wait_s(attempts - 1), fault.retry_after_s or 0.0)
                budget_s -= fault.took_s + pause
                if budget_s < 0:
                    self._exhausted(fault, call, limiter)
                    raise ItemFailed(f"provider: {fault.kind}", f"gave up after {attempts} tries: {fault}") from None
                await self._sleep(pause)

    async def _attempt(self, limiter: RateLimiter, call: CallSettings, messages: list[dict], max_tokens: int,
                       again: bool) -> tuple[wire.Completion, float | None]:
        reserved = await self._reserve(call, messages, max_tokens) if self.budget.limit_usd else 0.0
        started, completion, cost = await limiter.enter(first=again), None, None
        price = asyncio.ensure_future(self._model(call.model))
        try:
            if self.halted:
                raise Halted()
            completion = await wire.complete(self._client, call, messages, max_tokens, limiter.alive)
            cost = (await price).cost_usd(completion.usage)
            self.spending.add(completion.usage, cost)
            limiter.succeeded()
            return completion, cost
        except wire.Fault as fault:
            fault.took_s = time.monotonic() - started
            fault.detail = self._redacted(fault.detail)
            self.spending.calls[fault.kind] += 1
            limiter.failed(fault, started)
            await self._stop_or_fail_on(fault, call, limiter)  # before the place is given on: a bad key costs one call
            self._tell_of_wait(fault, call, limiter)
            raise
        finally:
            price.cancel()
            limiter.leave()
            if reserved:
                # A reply whose price nobody tells counts as the worst case: the sum must hold.
                await self.budget.settle(reserved, 0.0 if completion is None else reserved if cost is None else cost)

    async def _stop_or_fail_on(self, fault: wire.Fault, call: CallSettings, limiter: RateLimiter) -> None:
        """Configuration and outage halt the run, an item's own fault fails the item; a passing one returns."""
        if fault.category == "item":
            if not limiter.proven and await self._refused_alike(fault, call, limiter):
                raise self.halt(EXIT_STOPPED, f"{call.model} refuses every call alike: {fault}\n"
                                "Change what it names in chain.toml (sampling, extra_body, stream), then run again.")
            raise ItemFailed(fault.kind, str(fault))
        if fault.category == "configuration":
            raise self.halt(EXIT_STOPPED, f"{call.model} at {self.environment.base_url}: {fault}\n{_what_to_change(fault)}")
        silent_s = time.monotonic() - limiter.last_life
        patience_s = call.outage_s if limiter.ever_reached else min(call.outage_s, _NEVER_REACHED_S)
        if limiter.faults_in_a_row >= _FAULTS_OF_AN_OUTAGE and silent_s > patience_s:
            raise self._outage(fault, call, limiter, f"nothing good for {silent_s:.0f} s")
        if (fault.retry_after_s or 0) > call.retry_budget_s:
            raise self._outage(fault, call, limiter, f"it asks to come back in {fault.retry_after_s:.0f} s")

    async def _refused_alike(self, fault: wire.Fault, call: CallSettings, limiter: RateLimiter) -> bool:
        """Whether no call would be taken: the same refusal twice before any success, and of a one-word chat as well."""
        words = re.sub(r"\d+", "#", fault.detail)
        limiter.refusals[words] += 1
        if limiter.refusals[words] < _SAME_REFUSALS:
            return False
        try:
            await wire.complete(self._client, call, [{"role": "user", "content": "Hello"}], call.max_tokens, limiter.alive)
        except wire.Fault as again:
            return again.category == "item" and again.status == fault.status
        limiter.proven = True
        return False

    def _exhausted(self, fault: wire.Fault, call: CallSettings, limiter: RateLimiter) -> None:
        limiter.exhausted_in_a_row += 1
        if limiter.exhausted_in_a_row >= _EXHAUSTED_OF_AN_OUTAGE:
            raise self._outage(fault, call, limiter, f"{limiter.exhausted_in_a_row} calls in a row used up retry_budget_s")

    def _outage(self, fault: wire.Fault, call: CallSettings, limiter: RateLimiter, what: str) -> Exception:
        """Ask nothing more of this model; the run ends when no other is left. Returns what the caller may raise."""
        first = not limiter.gone
        limiter.gone = f"{call.model} at {self.environment.base_url} does not answer: {what}; last: {fault}"
        if all(other.gone for other in self._limiters.values()):
            return self.halt(EXIT_SOME_FAILED, f"{limiter.gone}\nWhat was finished is saved. Run the same line again when it "
                             "is back.")
        if first:
            self.say(f"{limiter.gone}. The other models go on.")
        failure = ItemFailed("provider: a model does not answer", limiter.gone)
        limiter.turn_away(failure)
        return failure

    # ------------------------------------------------------------------------------------------------- the run's end

    def halt(self, code: int, words: str) -> Halted:
        """No new calls from now on; the first reason stands. Returns what the caller may raise."""
        if self.halted is None:
            self.halted = (code, words)
            if self._halt_signal is not None:
                self._halt_signal.set()
            for limiter in self._limiters.values():
                limiter.turn_away(Halted())
        return Halted()

    async def open(self) -> asyncio.Event:
        """Start the client inside the running loop; the event is set when the run must end."""
        self._client = wire.make_client(self.environment.base_url, self.environment.api_key)
        self._halt_signal = asyncio.Event()
        if self.halted:
            self._halt_signal.set()
        return self._halt_signal

    async def close(self) -> None:
        if self._models is not None:
            self._models.cancel()
        await self._client.close()

    def at_once(self) -> str:
        """The current pace of each model, for the progress bar."""
        return "+".join(str(int(limiter.limit)) for limiter in self._limiters.values())

    def usage_lines(self) -> list[str]:
        """Calls by outcome, tokens and cost, for the tally."""
        return self.spending.lines()

    # ------------------------------------------------------------------------------------------------------- helpers

    def _tell_of_wait(self, fault: wire.Fault, call: CallSettings, limiter: RateLimiter) -> None:
        """A word now and then while a whole model waits, so that a silent run explains itself."""
        left_s = limiter.pause_left_s()
        if left_s > _WAIT_WORTH_A_WORD_S and time.monotonic() > self._told_until:
            self._told_until = time.monotonic() + max(left_s, _SILENCE_BETWEEN_WORDS_S)
            self.say(f"{call.model}: {fault}; trying again in {left_s:.0f} s")

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._halt_signal.wait(), seconds)
        except asyncio.TimeoutError:
            return
        raise Halted()

    async def _reserve(self, call: CallSettings, messages: list[dict], max_tokens: int) -> float:
        amount = worst_case_usd(await self._model(call.model), messages, max_tokens)
        if not await self.budget.reserve(amount):
            raise self.halt(EXIT_SOME_FAILED, f"--max-cost: ${self.budget.spent_usd:.4f} of ${self.budget.limit_usd:.4f} is "
                            f"spent, and the next call could cost ${amount:.4f}.\nRun the same line again to go on.")
        return amount

    async def _model(self, name: str) -> Model:
        """The model's prices, from the provider's free list, fetched once."""
        if self._models is None:
            self._models = asyncio.ensure_future(list_models(self._client))
        return (await asyncio.shield(self._models)).get(name, Model())

    def _limiter(self, call: CallSettings) -> RateLimiter:
        if call.model not in self._limiters:
            self._limiters[call.model] = RateLimiter(self.concurrency or call.concurrency)
        return self._limiters[call.model]

    def _redacted(self, words: str) -> str:
        key = self.environment.api_key
        return (words.replace(key, "[key]") if key else words)[:_WORDS_SHOWN]


def _not_a_reply(completion: wire.Completion, text: str) -> str | None:
    if completion.finish_reason == "length":
        return "cut off at max_tokens" if text.strip() else "empty: all of max_tokens went into reasoning"
    if completion.finish_reason in ("tool_calls", "function_call"):
        return "a tool call instead of text"
    return None if text.strip() else "empty"


def _what_to_change(fault: wire.Fault) -> str:
    if fault.status == 401:
        return "Check CHUTES_API_KEY in .env (and that CHUTES_BASE_URL is the provider that issued it)."
    if fault.status == 402:
        return "The account has no balance left. Top it up, then run the same line again."
    if fault.status == 404:
        return "Check the model id in chain.toml ([generate] model, [judge] models) and CHUTES_BASE_URL in .env."
    if fault.status == 403:
        return "This key may not use this model. Check the key in .env and the model id in chain.toml."
    return "Nothing more is asked. Look at the account, then run the same line again."


# ------------------------------------------------------------------------------------------------------ all turns

def run_turns(llm: LLM, turns: Iterable, work: Callable[[object], Awaitable[None]], *, name: Callable[[object], str],
              width: int, progress: Progress, tally: Tally) -> int:
    """Do `work(turn)` for every turn, `width` at once, pulled from `turns` as they are needed.

    `work` saves its own results. ItemFailed fails that turn in `tally`; a halt (Ctrl-C, configuration, outage,
    --max-cost) ends the run: no new calls, those in flight get a few seconds, what they bring is saved. Returns 0, or
    the exit code to end with, the reason told on stderr.
    """
    before = signal.getsignal(signal.SIGTERM)
    llm.say = progress.say
    try:
        asyncio.run(_drive(llm, iter(turns), work, name, width, progress, tally))
    finally:
        signal.signal(signal.SIGTERM, before)
        progress.close()
    if llm.halted is None:
        return 0
    tally.left = max(0, progress.total - progress.done)
    code, words = llm.halted
    print(f"\n{tally.stage}: {words}", file=sys.stderr)
    return code


async def _drive(llm: LLM, turns, work, name, width: int, progress: Progress, tally: Tally) -> None:
    halt_signal = await llm.open()
    loop = asyncio.get_running_loop()
    workers = [asyncio.ensure_future(_worker(llm, turns, work, name, progress, tally)) for _ in range(width)]

    def interrupt() -> None:
        if llm.halted and llm.halted[0] == EXIT_INTERRUPTED:  # asked twice: do not wait for calls in flight
            for worker in workers:
                worker.cancel()
        llm.halt(EXIT_INTERRUPTED, "interrupted; what was finished is saved, the same line goes on from here")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    halted = asyncio.ensure_future(halt_signal.wait())
    all_done = asyncio.gather(*workers, return_exceptions=True)
    try:
        await asyncio.wait({all_done, halted}, return_when=asyncio.FIRST_COMPLETED)
        if not all_done.done():
            await asyncio.wait({all_done}, timeout=_GRACE_S)
    finally:
        for worker in workers:
            worker.cancel()
        results = await asyncio.gather(*workers, return_exceptions=True)
        halted.cancel()
        await llm.close()
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _worker(llm: LLM, turns, work, name, progress: Progress, tally: Tally) -> None:
    try:
        for turn in turns:
            if llm.halted:
                return
            try:
                await work(turn)
                tally.done += 1
            except ItemFailed as failure:
                tally.fail(name(turn), failure.kind, failure.detail)
            progress.update(failed=len(tally.failed), at_once=llm.at_once())
    except Halted:
        return
    except (UserError, BadFile) as stop:
        llm.halt(EXIT_STOPPED, str(stop))
    except OSError as error:
        llm.halt(EXIT_STOPPED, disk_words(error))
