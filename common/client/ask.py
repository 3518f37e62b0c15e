"""Asking a model so that no paid reply is lost: the retry policy, in one place.

- configuration (401, 402, 403, 404, no money, a refusal of the first calls and of a one-word chat
  alike): the run stops, exit 2;
- item (prompt too long, content refused, no acceptable reply after all tries): this item fails,
  the rest goes on;
- transient (429, 408, 409, 5xx, broken or stalled connections, replies without an end): tried
  again after growing, jittered waits, within `retry_budget_s` a call; nothing good from a model
  for `outage_s`: no more is asked of it, and when no other model is left the run stops, exit 1.

The pace of each model is in limiter.py, the run over all turns in all_turns.py.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from common.cli import EXIT_SOME_FAILED, EXIT_STOPPED
from common.client.all_turns import run_turns as run_turns  # the scripts take it from here
from common.client.completion import Completion
from common.client.costs import Budget, Model, Spending, list_models, worst_case_usd
from common.client.faults import Fault, Halted, ItemFailed
from common.client.limiter import RateLimiter, wait_s
from common.config import CallSettings, Environment
from common.files import clean_text
from common.replies.protocol import visible_text

# An address that never answered at all is a typo or a server that is down: no long wait.
_NEVER_REACHED_S = 15.0
# In a row, without a success between.
_FAULTS_OF_AN_OUTAGE = 5
_EXHAUSTED_OF_AN_OUTAGE = 10
_SAME_REFUSALS = 2
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

    `usage` is of this reply; `cost_usd` and `tries` are of all that it took.
    """

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
        """Return all but the text, for a file's `meta`."""
        return {name: value for name, value in vars(self).items() if name != "text"}


class LLM:
    """The provider, for one process: one connection, one limiter per model, one budget."""

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
        self._limiters: dict[str, RateLimiter] = {}
        self._connection = None
        self._models: asyncio.Future | None = None
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
        for _ in range(call.bad_reply_tries):
            completion, attempts, cost = await self._completion(call, messages, max_tokens)
            tries += attempts
            cost_usd = None if cost is None or cost_usd is None else cost_usd + cost
            text = clean_text(visible_text(completion.content))
            last = Reply(
                text=text,
                finish_reason=completion.finish_reason,
                usage=completion.usage,
                cost_usd=cost_usd,
                model=call.model,
                model_answered=completion.model,
                invocation_id=completion.invocation_id,
                asked_at=asked_at,
                time_s=round(time.monotonic() - started, 3),
                tries=tries,
                sampling={**call.sampling(), "max_tokens": max_tokens},
            )
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
        raise NoAcceptableReply(f"no acceptable reply: {why}", detail, last)

    async def _completion(
        self, call: CallSettings, messages: list[dict], max_tokens: int
    ) -> tuple[Completion, int, float | None]:
        """Return (completion, attempts, cost in dollars or None), through all transient faults."""
        limiter = self._limiter(call)
        attempts = 0
        budget_s = call.retry_budget_s
        while True:
            attempts += 1
            try:
                completion, cost = await self._attempt(
                    limiter, call, messages, max_tokens, again=attempts > 1
                )
                return completion, attempts, cost
            except Fault as fault:
                # A refused call waits for its turn at the limiter, in front of the others.
                pause_s = 0.0 if fault.refusal else wait_s(attempts - 1)
                budget_s -= fault.took_s + max(pause_s, limiter.pause_left_s())
                if budget_s < 0:
                    self._note_exhausted(fault, call, limiter)
                    self._raise_if_over(limiter)
                    detail = f"gave up after {attempts} tries: {fault}"
                    raise ItemFailed(f"provider: {fault.kind}", detail) from None
                if pause_s:
                    await self._sleep(pause_s)

    async def _attempt(
        self,
        limiter: RateLimiter,
        call: CallSettings,
        messages: list[dict],
        max_tokens: int,
        again: bool,
    ) -> tuple[Completion, float | None]:
        """Return a completion and its cost. Raises Fault only where another try makes sense."""
        reserved = 0.0
        if self.budget.limit_usd:
            reserved = await self._reserve(call, messages, max_tokens)
        settled = 0.0
        ticket = await limiter.enter(first=again)
        started = time.monotonic()
        price = asyncio.ensure_future(self.model(call))
        try:
            self._raise_if_over(limiter)
            completion = await self._connection.complete(call, messages, max_tokens, limiter.alive)
            cost = (await price).cost_usd(completion.usage)
            # A reply whose price nobody tells counts as the worst case: the sum must hold.
            settled = reserved if cost is None else cost
            self.spending.add(completion.usage, cost)
            limiter.succeeded(ticket)
            return completion, cost
        except Fault as fault:
            fault.took_s = time.monotonic() - started
            fault.detail = self._redacted(fault.detail)
            self.spending.calls[fault.kind] += 1
            limiter.failed(fault, ticket)
            # Before the place is given on, so that a bad key costs one call.
            await self._note_fault(fault, call, limiter)
            self._raise_if_over(limiter)
            if fault.category == "item":
                raise ItemFailed(fault.kind, str(fault)) from None
            raise
        finally:
            price.cancel()
            limiter.leave()
            if reserved:
                await self.budget.settle(reserved, settled)

    # ---------------------------------------------------------------------- what a fault stands for

    async def _note_fault(self, fault: Fault, call: CallSettings, limiter: RateLimiter) -> None:
        """Halt the run, or give up this model, where the fault says that no call would pass."""
        where = f"{call.model} at {self.environment.base_url}"
        if fault.category == "configuration":
            self.halt(EXIT_STOPPED, f"{where}: {fault}\n{_what_to_change(fault)}")
        elif fault.category == "item":
            if not limiter.pace.proven and await self._refuses_all(fault, call, limiter):
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
                self._give_up(fault, call, limiter, f"nothing good for {silent_s:.0f} s")
            elif (fault.retry_after_s or 0) > call.retry_budget_s:
                wait = f"it asks to come back in {fault.retry_after_s:.0f} s"
                self._give_up(fault, call, limiter, wait)
            self._tell_of_wait(fault, call, limiter)

    async def _refuses_all(self, fault: Fault, call: CallSettings, limiter: RateLimiter) -> bool:
        """Tell whether no call would be taken.

        That is: the same refusal twice before any success, and of a one-word chat as well.
        """
        words = re.sub(r"\d+", "#", fault.detail)
        limiter.refusals[words] += 1
        if limiter.refusals[words] < _SAME_REFUSALS:
            return False
        hello = [{"role": "user", "content": "Hello"}]
        try:
            await self._connection.complete(call, hello, call.max_tokens, limiter.alive)
        except Fault as again:
            return again.category == "item" and again.status == fault.status
        limiter.pace.prove()
        return False

    def _note_exhausted(self, fault: Fault, call: CallSettings, limiter: RateLimiter) -> None:
        limiter.exhausted_in_a_row += 1
        count = limiter.exhausted_in_a_row
        if count >= _EXHAUSTED_OF_AN_OUTAGE:
            what = f"{count} calls in a row used up retry_budget_s"
            self._give_up(fault, call, limiter, what)

    def _give_up(self, fault: Fault, call: CallSettings, limiter: RateLimiter, what: str) -> None:
        """Ask nothing more of this model; the run ends when no other is left."""
        first = not limiter.gone
        where = f"{call.model} at {self.environment.base_url}"
        limiter.gone = f"{where} does not answer: {what}; last: {fault}"
        if all(other.gone for other in self._limiters.values()):
            words = f"{limiter.gone}\nWhat was finished is saved."
            self.halt(EXIT_SOME_FAILED, f"{words} Run the same line again when it is back.")
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
        """Start the client inside the running loop; the event is set when the run must end."""
        from common.client.wire import Connection  # takes a second

        self._connection = Connection(self.environment.base_url, self.environment.api_key)
        self._halt_signal = asyncio.Event()
        if self.halted:
            self._halt_signal.set()
        return self._halt_signal

    async def close(self) -> None:
        """Close all sockets."""
        if self._models is not None:
            self._models.cancel()
        await self._connection.close()

    def halt(self, code: int, words: str) -> None:
        """Start no new call from now on; the first reason stands."""
        if self.halted is not None:
            return
        self.halted = (code, words)
        if self._halt_signal is not None:
            self._halt_signal.set()
        for limiter in self._limiters.values():
            limiter.turn_away(Halted())

    def at_once(self) -> str:
        """Return the current pace of each model, for the progress bar."""
        return "+".join(str(limiter.pace) for limiter in self._limiters.values())

    def usage_lines(self) -> list[str]:
        """Return calls by outcome, tokens and cost, for the tally."""
        return self.spending.lines()

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
        amount = worst_case_usd(await self.model(call), messages, max_tokens)
        if await self.budget.reserve(amount):
            return amount
        spent = f"${self.budget.spent_usd:.4f} of ${self.budget.limit_usd:.4f} is spent"
        words = f"--max-cost: {spent}, and the next call could cost ${amount:.4f}."
        self.halt(EXIT_SOME_FAILED, f"{words}\nRun the same line again to go on.")
        raise Halted()

    async def model(self, call: CallSettings) -> Model:
        """Return the model's prices, from the provider's free list, fetched once."""
        if self._models is None:
            self._models = asyncio.ensure_future(list_models(self._connection))
        models = await asyncio.shield(self._models)
        return models.get(call.model, Model())

    def _limiter(self, call: CallSettings) -> RateLimiter:
        if call.model not in self._limiters:
            self._limiters[call.model] = RateLimiter(self.concurrency or call.concurrency)
        return self._limiters[call.model]

    def _redacted(self, words: str) -> str:
        key = self.environment.api_key
        if key:
            words = words.replace(key, "[key]")
        return words[:_WORDS_SHOWN]


def _gone(limiter: RateLimiter) -> ItemFailed:
    return ItemFailed("provider: a model does not answer", limiter.gone)


def _no_reply(completion: Completion, text: str) -> str | None:
    """Say why a completion holds no reply at all; None when it does."""
    if completion.finish_reason == "length":
        return "cut off at max_tokens" if text else "empty: all of max_tokens went into reasoning"
    if completion.finish_reason in ("tool_calls", "function_call"):
        return "a tool call instead of text"
    return None if text else "empty"


def _what_to_change(fault: Fault) -> str:
    """Say what the user can do about a configuration fault."""
    if fault.status == 401:
        return "Check CHUTES_API_KEY in .env (and that CHUTES_BASE_URL is the one that issued it)."
    if fault.status == 402:
        return "The account has no balance left. Top it up, then run the same line again."
    if fault.status == 404:
        models = "[generate] model, [judge] models"
        return f"Check the model id in chain.toml ({models}) and CHUTES_BASE_URL in .env."
    if fault.status == 403:
        return "This key may not use this model. Check the key in .env and the id in chain.toml."
    return "Nothing more is asked. Look at the account, then run the same line again."
