"""One model at one provider: tries until a reply comes, and what the faults on the way stand for.

A fault is about one item, about this model, or about the whole run. A one-word chat, counted and
paid like any call, tells whether the items fail or the provider does.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random

from common.cli import EXIT_SOME_FAILED, EXIT_STOPPED
from common.client.faults import CHANGE_SETTINGS, CHECK_ADDRESS, Fault, Halted
from common.client.limiter import RateLimiter, Ticket
from common.config import CallSettings, Environment
from common.files import ItemFailed

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
# Faults of one item, each after others had passed since the one before: the item is at fault.
_FAULTS_OF_AN_ITEM = 6
# An address that never answered at all is a typo or a server that is down: no long wait.
_NEVER_REACHED_S = 15.0
# In a row, without a success between.
_FAULTS_OF_AN_OUTAGE = 2
_REFUSALS_OF_A_MODEL = 2
_QUICK_S = 1.0  # a server's trouble that comes sooner is a refusal, as nginx's 503 is
_HELLO = [{"role": "user", "content": "Hello"}]
_PROBE_TOKENS = 16
_WAIT_WORTH_A_WORD_S = 5.0
_WORDS_SHOWN = 400  # of what a provider says, cut after the key is taken out
# A shorter key, such as "ollama", is a word that a reply may well hold; no real key is that short.
SECRET_CHARS = 12


def mask_keys(text: str, environment: Environment, shortest: int = 1) -> str:
    """Return a text without the keys of any provider that have `shortest` characters or more."""
    keys = {endpoint.api_key for endpoint in environment.providers.values()}
    for key in sorted(keys, key=len, reverse=True):
        if len(key) >= shortest:
            text = text.replace(key, "[key]")
    return text


class Route:
    """A model at a provider, in the run of `llm`."""

    def __init__(self, llm, call: CallSettings, connection):
        self.connection = connection
        self.limiter = RateLimiter(llm.concurrency or call.concurrency)
        self.gone = ""  # why nothing more is asked of this model, once it is out
        self._llm = llm
        self._now_s = asyncio.get_running_loop().time
        self._where = f"{call.model} at {connection.endpoint.base_url}"
        self._heard_s = self._now_s()  # when words of a reply last arrived
        self._reached = False  # anything has answered
        self._proven = False  # a call has passed
        self._passes = 0  # of calls and one-word chats
        self._faults_in_a_row = 0
        self._refusals = 0  # before any call has passed
        self._probe: asyncio.Future | None = None  # under way
        self._probe_passed_s = -math.inf
        self._told_until_s = 0.0

    async def complete(self, call: CallSettings, messages: list[dict], max_tokens: int):
        """Return (completion, attempts, dollars or None), through all transient faults.

        They may take `retry_budget_s` in all. Raises ItemFailed, or Halted when the run is over.
        """
        left_s = call.retry_budget_s
        in_front = False
        first_fault_s = None  # of this item, but for being told to slow down
        passes_seen = set()  # at each of these
        for attempt in itertools.count(1):
            await self._llm.saver.sound.wait()
            try:
                completion, cost = await self._attempt(call, messages, max_tokens, in_front)
                return completion, attempt, cost
            except Fault as caught:
                fault = caught
            if fault.status != 429:
                now_s = self._now_s()
                first_fault_s = first_fault_s or now_s
                passes_seen.add(self._passes)
                # Quick refusals may be a limit on the rate: they are given time.
                waited = now_s - first_fault_s > call.outage_s / 4
                outdone = len(passes_seen) >= _FAULTS_OF_AN_ITEM and waited
                if outdone or self._probe_passed_s > first_fault_s:
                    detail = f"failed {attempt} times while others pass: {fault}"
                    raise ItemFailed(f"provider: {fault.kind}", detail)
            # A refused call waits for its turn at the limiter, the first time in front of the
            # others: an item that never passes is not to hold them up.
            in_front = fault.status == 429 or attempt == 1
            pause_s = 0.0
            if not fault.refusal:
                longest_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(attempt - 1, 10))
                pause_s = longest_s * random.uniform(0.5, 1.0)
            left_s -= fault.took_s + max(pause_s, self.limiter.pause_left_s())
            if left_s < 0:
                detail = f"gave up after {attempt} tries: {fault}"
                raise ItemFailed(f"provider: {fault.kind}", detail)
            try:
                await asyncio.wait_for(self._llm.halt_signal.wait(), pause_s)
            except asyncio.TimeoutError:
                pass

    async def _attempt(
        self, call: CallSettings, messages: list[dict], max_tokens: int, in_front: bool
    ):
        """Return (completion, dollars or None) from one attempt at its turn.

        Raises Fault where another try makes sense, else ItemFailed or Halted.
        """
        self._raise_if_over()
        ticket = await self.limiter.enter(first=in_front)
        began_s = self._now_s()
        try:
            completion, cost = await self._call(call, messages, max_tokens)
            self._pass()
            self.limiter.pace.succeeded(self._now_s(), ticket)
            return completion, cost
        except Fault as fault:
            self._llm.spending.calls[fault.kind] += 1
            fault.took_s = self._now_s() - began_s
            # Before the place is given on, so that a bad key costs one call.
            await self._judge(fault, call, ticket)
            self._raise_if_over()
            if fault.category == "item":
                raise ItemFailed(fault.kind, str(fault), lasting=True) from None
            raise
        finally:
            self.limiter.leave()

    def _raise_if_over(self) -> None:
        """Raise Halted when the run is over, ItemFailed when this model is out."""
        if self._llm.halted:
            raise Halted()
        if self.gone:
            raise ItemFailed("provider: a model does not answer", self.gone)

    async def _call(self, call: CallSettings, messages: list[dict], max_tokens: int):
        """Send one request, counted and within --max-cost. Raises Fault, Halted."""
        llm = self._llm
        limited = llm.budget.limit_usd < math.inf
        reserved = 0.0
        settled = 0.0
        if limited:
            model = await self.connection.model(call.model)
            reserved = model.worst_case_usd(call, messages, max_tokens)
            if not await llm.budget.reserve(reserved):
                spent = f"${llm.budget.spent_usd:.4f} of ${llm.budget.limit_usd:.4f} is spent"
                words = f"--max-cost: {spent}, and the next call could cost ${reserved:.4f}."
                llm.halt(EXIT_SOME_FAILED, f"{words}\nRun the same line again to go on.")
                raise Halted()
        try:
            self._raise_if_over()  # perhaps meanwhile
            completion = await self.connection.complete(call, messages, max_tokens, self._hear)
            for name in ("finish_reason", "model", "invocation_id"):
                value = mask_keys(getattr(completion, name), llm.environment, SECRET_CHARS)
                setattr(completion, name, value)
            cost = (await self.connection.model(call.model)).cost_usd(completion.usage)
            # A reply whose price nobody tells counts as the worst case: the sum must hold.
            settled = reserved if cost is None else cost
            llm.spending.add(completion.usage, cost)
            if completion.model not in ("", call.model):
                llm.spending.answered[call.model, completion.model] += 1
            return completion, cost
        except Fault as fault:
            fault.detail = llm.masked(fault.detail)[:_WORDS_SHOWN]
            fault.kind = llm.masked(fault.kind)
            raise
        finally:
            if limited:
                llm.budget.settle(reserved, settled)

    def _hear(self) -> None:
        """Note that words of a reply are arriving."""
        self._heard_s = self._now_s()
        self._reached = True

    def _pass(self) -> None:
        self._hear()
        self._proven = True
        self._passes += 1
        self._faults_in_a_row = 0

    # ------------------------------------------------------------------- what a fault stands for

    async def _judge(self, fault: Fault, call: CallSettings, ticket: Ticket) -> None:
        """Halt the run, give up this model or slow it down, as the fault says."""
        self._reached = self._reached or fault.reached
        of_the_item = fault.category == "item" or fault.advice == CHECK_ADDRESS
        if of_the_item and not self._proven:
            # Two refusals, and of a one-word chat alike: no call would be taken.
            self._refusals += 1
            if self._refusals >= _REFUSALS_OF_A_MODEL:
                again = await self._say_hello(call, call.max_tokens)
                if again is not None and again.kind == fault.kind:
                    fault.category = "configuration"
                    fault.advice = fault.advice or CHANGE_SETTINGS
        if fault.category == "transient":
            self._slow_down(fault, ticket)
            await self._judge_outage(fault, call)
        elif fault.category != "item":
            code = EXIT_SOME_FAILED if fault.category == "cap" else EXIT_STOPPED
            told = fault.told(self.connection.endpoint)
            self._llm.halt(code, f"{self._where}: {fault}\n{told}")

    def _slow_down(self, fault: Fault, ticket: Ticket) -> None:
        """Tell the pace of a fault, and now and then the user why a silent run waits."""
        self._faults_in_a_row += 1
        quick_trouble = fault.status >= 500 and fault.took_s < _QUICK_S
        fault.refusal = fault.status == 429 or quick_trouble
        now_s = self._now_s()
        if fault.refusal:
            self.limiter.pace.refused(now_s, ticket, fault.retry_after_s)
        else:
            self.limiter.pace.broke(now_s, ticket)
        pause_s = self.limiter.pause_left_s()
        if pause_s > _WAIT_WORTH_A_WORD_S and now_s > self._told_until_s:
            self._told_until_s = now_s + pause_s
            self._llm.say(f"{self._where}: {fault}; trying again in {pause_s:.0f} s")

    async def _judge_outage(self, fault: Fault, call: CallSettings) -> None:
        """Give up this model when it has been silent for too long, even to a one-word chat.

        The run ends when no other model is left.
        """
        silent_s = self._now_s() - self._heard_s
        patience_s = call.outage_s if self._reached else min(call.outage_s, _NEVER_REACHED_S)
        if fault.retry_after_s > call.retry_budget_s:
            why = f"it asks to come back in {fault.retry_after_s:.0f} s"
        elif self._faults_in_a_row >= _FAULTS_OF_AN_OUTAGE and silent_s > patience_s:
            again = await self._say_hello(call, min(call.max_tokens, _PROBE_TOKENS))
            if again is None or again.category == "item":
                return
            why = f"nothing good for {silent_s:.0f} s"
        else:
            return
        first = not self.gone
        self.gone = f"{self._where} does not answer: {why}; last: {fault}"
        if all(route.gone for route in self._llm.routes.values()):
            hint = ""
            if not self._reached or fault.advice == CHECK_ADDRESS:
                hint = f" Check {self.connection.endpoint.url_place}."
            again = "What was finished is saved. Run the same line again when it is back."
            self._llm.halt(EXIT_SOME_FAILED, f"{self.gone}\n{again}{hint}")
        elif first:
            self._llm.say(f"{self.gone}. The other models go on.")
        self.limiter.turn_away(ItemFailed("provider: a model does not answer", self.gone))

    async def _say_hello(self, call: CallSettings, max_tokens: int) -> Fault | None:
        """Return the fault of a one-word chat, None if it passes; one chat for all who ask."""

        async def probe() -> Fault | None:
            try:
                await self._call(call, _HELLO, max_tokens)
            except Fault as fault:
                self._llm.spending.calls[f"one-word probe: {fault.kind}"] += 1
                return fault
            self._llm.spending.calls["one-word probe"] += 1
            self._pass()
            self._probe_passed_s = self._now_s()
            self.limiter.pace.forget_refusals()  # what was refused were the items
            self.limiter.let_out()
            return None

        if self._probe is None or self._probe.done():
            self._probe = asyncio.ensure_future(probe())
        return await asyncio.shield(self._probe)
