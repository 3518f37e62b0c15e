"""What a fault stands for: this item alone, this model, or the whole run."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass, field

from common.cli import EXIT_SOME_FAILED, EXIT_STOPPED
from common.client.advice import advice, passes_by_itself
from common.client.costs import worst_case_usd
from common.client.faults import Fault, ItemFailed
from common.client.limiter import RateLimiter
from common.client.provider import Provider
from common.config import CallSettings

# An address that never answered at all is a typo or a server that is down: no long wait.
_NEVER_REACHED_S = 15.0
# In a row, without a success between.
_FAULTS_OF_AN_OUTAGE = 5
_EXHAUSTED_OF_AN_OUTAGE = 10
_SAME_REFUSALS = 2
_PAGES_OF_HTML = 3
# Faults of one item, each after others had passed since the one before: the item is at fault.
_FAULTS_OF_AN_ITEM = 6
_HELLO = [{"role": "user", "content": "Hello"}]
_PROBE_TOKENS = 16
_WAIT_WORTH_A_WORD_S = 5.0
_SILENCE_BETWEEN_WORDS_S = 30.0


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
class OwnFaults:
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


class Outages:
    """Decides on each fault of a run; `llm` is who asks."""

    def __init__(self, llm):
        self._llm = llm
        self._told_until = 0.0

    async def note_fault(self, fault: Fault, call: CallSettings, route: Route) -> None:
        """Halt the run, or give up this model, where the fault says that no call would pass."""
        limiter = route.limiter
        if fault.meaning == "address" and not route.proven:
            route.pages_of_html += 1
            if route.pages_of_html >= _PAGES_OF_HTML:
                fault.category = "configuration"
        if fault.category == "configuration":
            code = EXIT_SOME_FAILED if passes_by_itself(fault) else EXIT_STOPPED
            self._llm.halt(
                code, f"{route.where}: {fault}\n{advice(fault, route.provider.endpoint)}"
            )
        elif fault.category == "item":
            if not route.proven and await self._refuses_all(fault, call, route):
                self._llm.halt(
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
                await self.judge_outage(fault, call, route, what)
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

    async def judge_outage(self, fault: Fault, call: CallSettings, route: Route, what: str) -> None:
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
        model = await self._llm.model(call)
        if self._llm.budget.limit_usd:
            reserved = worst_case_usd(model, call, _HELLO, max_tokens)
            if not await self._llm.budget.reserve(reserved, wait=False):
                return Fault("transient", "no probe", "--max-cost leaves no room for it")
        try:
            completion = await self._llm.complete(route, call, _HELLO, max_tokens)
            cost = model.cost_usd(completion.usage)
            settled = reserved if cost is None else cost
            self._llm.spending.add(completion.usage, cost)
            self._llm.spending.calls["one-word probe"] += 1
            fault = None
        except Fault as again:
            self._llm.spending.calls[f"one-word probe: {again.kind}"] += 1
            fault = again
        finally:
            if reserved:
                await self._llm.budget.settle(reserved, settled)
        if fault is None or fault.category == "item":
            route.proven = route.proven or fault is None
            route.passed_at = time.monotonic()
            route.probed_at = route.passed_at
            route.exhausted_in_a_row = 0
            route.limiter.probe_passed()
        return fault

    async def note_exhausted(self, fault: Fault, call: CallSettings, route: Route) -> None:
        route.exhausted_in_a_row += 1
        count = route.exhausted_in_a_row
        if count >= _EXHAUSTED_OF_AN_OUTAGE:
            what = f"{count} calls in a row used up retry_budget_s"
            await self.judge_outage(fault, call, route, what)

    def _give_up(self, fault: Fault, route: Route, what: str) -> None:
        """Ask nothing more of this model; the run ends when no other is left."""
        limiter = route.limiter
        first = not limiter.gone
        limiter.gone = f"{route.where} does not answer: {what}; last: {fault}"
        if all(other.limiter.gone for other in self._llm.routes.values()):
            words = f"{limiter.gone}\nWhat was finished is saved."
            hint = ""
            if not limiter.ever_reached or fault.meaning == "address":
                hint = f" Check {route.provider.endpoint.url_place}."
            again = "Run the same line again when it is back."
            self._llm.halt(EXIT_SOME_FAILED, f"{words} {again}{hint}")
            return
        if first:
            self._llm.say(f"{limiter.gone}. The other models go on.")
        limiter.turn_away(gone(limiter))

    def _tell_of_wait(self, fault: Fault, call: CallSettings, limiter: RateLimiter) -> None:
        """Say now and then that a whole model waits, so that a silent run explains itself."""
        left_s = limiter.pause_left_s()
        if left_s > _WAIT_WORTH_A_WORD_S and time.monotonic() > self._told_until:
            self._told_until = time.monotonic() + max(left_s, _SILENCE_BETWEEN_WORDS_S)
            self._llm.say(f"{call.model}: {fault}; trying again in {left_s:.0f} s")


def gone(limiter: RateLimiter) -> ItemFailed:
    return ItemFailed("provider: a model does not answer", limiter.gone)
