"""One model at one provider: its calls, and the retry policy for them.

`_judge` decides what a fault ends, from what faults.py has sorted it as:

- configuration (401, 403, 404, 405, redirects): the run, exit 2, unless a one-word chat passes:
  then this item, as with a firewall that dislikes one prompt. No money (402), or all but a 403
  where no call has passed yet, nor an item failed before: the run, unasked; a cap of the
  subscription: exit 1.
- item (a request refused: prompt too long, content, a setting): this item, at once. Where such
  refusals come before or between calls that pass, the one-word chat tells whether the run would be
  refused alike: exit 2. Words decide nothing: they may be the prompt's own.
- transient (429, 408, 409, 5xx, broken or stalled connections, replies without an end): tried
  again after growing, jittered waits, at most `retry_budget_s` an item. An item that goes on
  failing while others pass fails alone; nothing good for `outage_s`, and the model is given up;
  no other model left, and the run ends, exit 1.

Where this leaves in doubt whether an item is at fault or the provider, a one-word chat tells:
counted and paid like any call, it passes or it does not.
"""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass, replace

from common.cli import EXIT_SOME_FAILED, EXIT_STOPPED, NOTHING_USABLE
from common.client.costs import LEAST_BYTES_PER_TOKEN
from common.client.faults import CHECK_ADDRESS, STREAM_CUT, Fault
from common.client.pace import RateLimiter, Ticket
from common.client.run import Halted, Run
from common.client.trial import Trial
from common.config import CallSettings
from common.files import ItemFailed

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_MOST_CREDIT = 4  # refusals in a row that may be the items' own, after as many passes: chosen
_NO_MONEY = (402, 429)  # as a configuration fault: no chat would pass
# Key and address are looked at before any prompt; a 403 may be a firewall's for what is in one.
_NO_PROMPTS_OWN = (401, 404, 405, *range(300, 400))
# An item is doubted after so many faults, over a quarter of `outage_s`: a provider that fails
# one call in five strikes one item in 600 so often, and quick refusals may be a limit on the rate.
_FAULTS_OF_AN_ITEM = 4
_FAULTS_OF_AN_OUTAGE = 2  # in a row
# An address that never answered at all is a typo or a server that is down: no long wait.
_NEVER_REACHED_S = 15.0
_QUICK_S = 1.0  # a server's trouble that comes sooner is a refusal, as nginx's 503 is
_HELLO = [{"role": "user", "content": "Hello"}]
_HELLO_TOKENS = 16  # enough for a sign of life
_WAIT_WORTH_A_WORD_S = 5.0
_WORDS_SHOWN = 400  # of what a provider says, cut after the key is taken out


@dataclass
class _Tries:
    """What has become of one item so far."""

    left_s: float  # of retry_budget_s
    attempts: int = 0
    faults: int = 0  # but for being told to slow down
    first_fault_s: float = math.inf


class Model:
    """A model at a provider, in a run."""

    def __init__(self, run: Run, call: CallSettings, connection, width: int):
        self.limiter = RateLimiter(width)
        self.limiter.pace.most = run.items_of_a_trial // 2  # until one reply was good
        self.gone = ""  # why nothing more is asked of it, once it is given up
        self.is_useless = False  # and that is since nothing that it said was of use
        self._gone_kind = ""
        self._trial = Trial(run.items_of_a_trial)
        self._run = run
        self._connection = connection
        self._where = f"{call.model} at {connection.endpoint.base_url}"
        self._now_s = asyncio.get_running_loop().time
        self._heard_s = self._now_s()  # when words of a reply last arrived
        self._reached = False  # anything has answered
        self._proven = False  # a call has passed
        self._credit = 0  # calls that passed less those refused, within _MOST_CREDIT
        self._faults_in_a_row = 0
        self._hello: asyncio.Future | None = None  # the last one-word chat
        self._hello_passed_s = -math.inf
        self._quiet_until_s = 0.0

    async def complete(
        self, call: CallSettings, messages: list[dict], max_tokens: int, who: str, tried: int
    ):
        """Return (completion, attempts, dollars or None). Raises ItemFailed, Waiting, Halted."""
        self._raise_if_over()
        answer = self._run.batches.answer
        failed, reply = await answer(self._connection, call, messages, max_tokens, who, tried)
        if reply is not None:
            return reply
        tries = _Tries(call.retry_budget_s, failed)
        in_front = False
        while True:
            tries.attempts += 1
            await self._run.saver.sound.wait()
            self._raise_if_over()
            ticket = await self.limiter.enter(first=in_front)
            try:
                completion, cost = await self._call(call, messages, max_tokens)
                self._pass()
                self.limiter.pace.succeeded(self._now_s(), ticket)
                return completion, tries.attempts, cost
            except Fault as fault:
                # Before the place is given on, so that a bad key costs one call.
                pause_s = await self._bear(fault, call, tries, ticket)
                # The first time it waits in front of the others, no more: an item that never
                # passes is not to hold them up.
                in_front = fault.status == 429 or tries.attempts == 1
            finally:
                self.limiter.leave()
            try:
                await asyncio.wait_for(self._run.over.wait(), pause_s)
            except asyncio.TimeoutError:
                pass

    def _raise_if_over(self) -> None:
        """Raise Halted when the run is over, ItemFailed when this model is given up."""
        if self._run.end and not self.is_useless:
            raise Halted()
        if self.gone:
            raise ItemFailed(self._gone_kind, self.gone)

    async def _call(self, call: CallSettings, messages: list[dict], max_tokens: int):
        """Send one request, counted and within --max-cost; return (completion, dollars or None).

        Raises Fault, Halted.
        """
        run = self._run
        reserved = 0.0
        settled = 0.0
        heard = 0  # bytes of a reply

        def hear(count: int) -> None:
            nonlocal heard
            heard += count
            self._hear()

        if run.budget.is_limited:
            listing = await self._connection.listing(call.model, needed=True)
            reserved = listing.worst_case_usd(call, messages, max_tokens)
        if not await run.budget.reserve(reserved):
            words = f"{run.budget}, and the next call could cost ${reserved:.4f}."
            run.halt(EXIT_SOME_FAILED, f"{words}\nRun the same line again to go on.")
            raise Halted()
        try:
            self._raise_if_over()  # perhaps meanwhile
            fresh = messages is _HELLO
            ask = self._connection.complete
            completion = await ask(call, messages, max_tokens, hear, fresh)
            cost = (await self._connection.listing(call.model)).cost_usd(completion.usage)
            # A reply whose price nobody tells counts as the worst case: the sum must hold.
            settled = reserved if cost is None else cost
            run.count_reply(call, completion, cost)
            return completion, cost
        except Fault as fault:
            # What came before a reply broke is paid for; an error from the start is not.
            if reserved and fault.reached and (heard or fault.status < 300):
                said = heard if call.stream else math.inf
                tokens = min(max_tokens, said / LEAST_BYTES_PER_TOKEN)
                settled = listing.worst_case_usd(call, messages, tokens)
            detail = run.masked(fault.detail)[:_WORDS_SHOWN]
            raise replace(fault, kind=run.masked(fault.kind), detail=detail) from None
        finally:
            run.budget.settle(reserved, settled)

    def _hear(self) -> None:
        """Note that words of a reply are arriving."""
        self._heard_s = self._now_s()
        self._reached = True

    def _pass(self) -> None:
        self._hear()
        self._proven = True
        self._credit = min(_MOST_CREDIT, self._credit + 1)
        self._faults_in_a_row = 0

    # ------------------------------------------------------------------- what a fault stands for

    async def _shared_fault(self, fault: Fault, call: CallSettings) -> Fault | None:
        """Return the fault that every call of the run would meet, None where there is none."""
        is_configuration = fault.category == "configuration"
        if fault.category == "cap" or (is_configuration and fault.status in _NO_MONEY):
            return fault
        is_first = not self._proven and not self._run.failed_before
        if fault.status in _NO_PROMPTS_OWN and is_first:
            return fault
        if fault.category == "transient" and (self._proven or fault.advice != CHECK_ADDRESS):
            return None
        self._credit = max(0, self._credit - 1)
        if not is_configuration and (self._credit or fault.status == 413):  # no chat is smaller
            return None
        # Elsewhere max_tokens may be what is refused.
        most = _HELLO_TOKENS if fault.status in (403, *_NO_PROMPTS_OWN) else call.max_tokens
        refused = await self._say_hello(call, min(call.max_tokens, most))
        if refused is None or (refused.status, refused.kind) != (fault.status, fault.kind):
            return None
        return refused  # whose words hold no prompt

    async def _judge(self, fault: Fault, call: CallSettings, tries: _Tries) -> str:
        """Return what a transient fault ends: "model", "item", or "" for another try."""
        if fault.retry_after_s > call.retry_budget_s:
            return "model"
        now_s = self._now_s()
        patience_s = call.outage_s if self._reached else min(call.outage_s, _NEVER_REACHED_S)
        is_silent = now_s - self._heard_s > patience_s
        is_out = is_silent and self._faults_in_a_row >= _FAULTS_OF_AN_OUTAGE
        if is_out and not await self._hello_passes(call):
            return "model"
        is_lasting = now_s - tries.first_fault_s > call.outage_s / 4
        others_passed = self._heard_s > tries.first_fault_s
        hello_passed = self._hello_passed_s > tries.first_fault_s
        if is_lasting and others_passed and tries.faults >= _FAULTS_OF_AN_ITEM:
            hello_passed = hello_passed or await self._hello_passes(call)
        return "item" if hello_passed and tries.faults > 1 else ""

    async def _bear(self, fault: Fault, call: CallSettings, tries: _Tries, ticket: Ticket) -> float:
        """Do what a fault asks for; return the seconds until the next try.

        Raises ItemFailed, or Halted when the run is over.
        """
        took_s = self._now_s() - ticket.at
        is_refusal = fault.status == 429 or (fault.status >= 500 and took_s < _QUICK_S)
        self._run.spending.calls[fault.kind] += 1
        self._reached = self._reached or fault.reached
        if fault.category == "transient":
            self._slow_down(fault, ticket, is_refusal)
        if fault.status != 429:
            tries.faults += 1
            tries.first_fault_s = min(tries.first_fault_s, self._now_s())

        shared = await self._shared_fault(fault, call)
        if shared:
            code = EXIT_SOME_FAILED if shared.category == "cap" else EXIT_STOPPED
            advice = shared.advice_at(self._connection.endpoint)
            self._run.halt(code, f"{self._where}: {shared}\n{advice}")
        self._raise_if_over()
        if fault.category != "transient":
            raise ItemFailed(fault.kind, str(fault), lasting=True)
        ends = await self._judge(fault, call, tries)
        if ends == "model":
            self._give_up(fault)
        self._raise_if_over()
        if ends == "item":
            detail = f"failed {tries.attempts} times while others pass: {fault}"
            raise ItemFailed(f"provider: {fault.kind}", detail)

        pause_s = 0.0  # a refused call waits for its turn at the limiter
        if not is_refusal:
            longest_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(tries.attempts - 1, 10))
            pause_s = longest_s * random.uniform(0.5, 1.0)
        tries.left_s -= took_s + max(pause_s, self.limiter.pause_left_s())
        if tries.left_s < 0:
            detail = f"gave up after {tries.attempts} tries: {fault}"
            raise ItemFailed(f"provider: {fault.kind}", detail)
        return pause_s

    def _slow_down(self, fault: Fault, ticket: Ticket, is_refusal: bool) -> None:
        """Tell the pace of a fault, and now and then the user why a silent run waits."""
        self._faults_in_a_row += 1
        now_s = self._now_s()
        if is_refusal:
            self.limiter.pace.refused(now_s, ticket, fault.retry_after_s)
        elif fault.kind in STREAM_CUT and self.limiter.in_flight > 1:
            self.limiter.pace.cut(now_s, ticket, self.limiter.in_flight)
        else:
            self.limiter.pace.broke(now_s, ticket)
        pause_s = self.limiter.pause_left_s()
        if pause_s > _WAIT_WORTH_A_WORD_S and now_s > self._quiet_until_s:
            self._quiet_until_s = now_s + pause_s
            self._run.say(f"{self._where}: {fault}; trying again in {pause_s:.0f} s")

    def _give_up(self, fault: Fault) -> None:
        """Leave a model that does not answer."""
        silent_s = self._now_s() - self._heard_s
        why = f"nothing good for {silent_s:.0f} s"
        if fault.retry_after_s:
            why = f"it asks to come back in {fault.retry_after_s:.0f} s"
        advice = "What was finished is saved. Run the same line again when it is back."
        if not self._reached or fault.advice == CHECK_ADDRESS:
            advice += f" Check {self._connection.endpoint.url_place}."
        words = f"{self._where} does not answer: {why}; last: {fault}"
        self._leave("provider: a model does not answer", words, advice)

    def _leave(self, kind: str, words: str, advice: str) -> None:
        """Ask nothing more of this model; end the run when no other is left."""
        is_first = not self.gone
        self.gone = words
        self._gone_kind = kind
        if all(model.gone for model in self._run.models.values()):
            self._run.halt(EXIT_SOME_FAILED, f"{words}\n{advice}")
        elif is_first:
            self._run.say(f"{words}. The other models go on.")
        self.limiter.turn_away(ItemFailed(kind, words))

    # ----------------------------------------------------------------------------- useless replies

    def note_good_reply(self) -> None:
        """Note a reply that was accepted: from now on as many at once as the provider takes."""
        if not self._trial.is_passed:
            self._trial.is_passed = True
            self.limiter.pace.most = math.inf
            self.limiter.let_out()

    def note_refused_reply(self, call: CallSettings, nth: int, is_cut: bool, words: str) -> None:
        """Note the nth refused reply of an item; leave a model that began with these alone."""
        if not self._trial.fails_with(nth, is_cut, call.bad_reply_tries) or self.gone:
            return
        self.is_useless = True
        example = " ".join(words.split())[: _WORDS_SHOWN // 2]
        began = f"of its first {self._trial.replies} replies none was accepted"
        words = f"{self._where} gives nothing usable: {began}; last: {example}"
        advice = "Ask for another model in chain.toml, or change its settings there."
        self._leave(NOTHING_USABLE, words, advice)

    # ------------------------------------------------------------------------- the one-word chat

    async def _hello_passes(self, call: CallSettings) -> bool:
        """Tell whether a one-word chat is answered, or refused for its own sake."""
        fault = await self._say_hello(call, min(call.max_tokens, _HELLO_TOKENS))
        if fault is None:
            self.limiter.pace.forget_refusals()  # what was refused were the items
            self.limiter.let_out()
        return fault is None or fault.category == "item"

    async def _say_hello(self, call: CallSettings, max_tokens: int) -> Fault | None:
        """Return the fault of a one-word chat, None if it passes; one chat for all who ask."""
        if self._hello is None or self._hello.done():
            self._hello = asyncio.ensure_future(self._try_hello(call, max_tokens))
        return await asyncio.shield(self._hello)

    async def _try_hello(self, call: CallSettings, max_tokens: int) -> Fault | None:
        try:
            await self._call(call, _HELLO, max_tokens)
        except Fault as fault:
            self._run.spending.calls[f"one-word probe: {fault.kind}"] += 1
            return fault
        self._run.spending.calls["one-word probe"] += 1
        self._pass()
        self._hello_passed_s = self._now_s()
        return None
