"""One model at one provider: its calls, and what a fault ends, by its kind in faults.py.

- configuration (401, 403, 404, redirects ...) and item (prompt too long, content, a setting): words
  decide nothing, they may be the prompt's own. A one-word chat tells: refused alike, and the run
  ends, exit 2; else this item fails. No money (402) ends the run unasked, a cap with exit 1.
- transient (429, 408, 409, 5xx, broken or stalled connections, replies without an end): tried
  again after growing, jittered waits, at most `retry_budget_s` an item. An item that goes on
  failing while others and a one-word chat pass fails alone; nothing good for `outage_s`, and the
  model is left; no other model left, and the run ends, exit 1.

A model whose first replies are all refused by the stage is left, too.
"""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import suppress
from dataclasses import dataclass

from common.cli import EXIT_SOME_FAILED, EXIT_STOPPED, NOTHING_USABLE
from common.client.faults import CHECK_ADDRESS, STREAM_CUT, Fault
from common.client.pace import RateLimiter, Ticket
from common.client.run import DISK_PAUSE_S, LEAST_BYTES_PER_TOKEN, Halted, Run
from common.config import CallSettings
from common.files import ItemFailed

# None good of ten items with 2.5 replies on the average: a writer of which the audit takes one
# reply in four is left by mistake once in a thousand runs.
_ITEMS_OF_A_TRIAL = 10
_USELESS = "gives nothing usable"
_ITEMS_OF_A_SECOND_TRIAL = 3  # after a run that left it so: chosen
_REPLIES_EACH = 2.5
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
# Over a quarter of `outage_s`: a provider that fails one call in five strikes one item in 600 so
# often, and quick refusals may be a limit on the rate.
_FAULTS_OF_AN_ITEM = 4
_NEVER_REACHED_S = 15.0  # an address that never answered: a typo, or a server that is down
_QUICK_S = 1.0  # a server's trouble that comes sooner is a refusal, as nginx's 503 is
_NO_MONEY = (402, 429)  # where not transient: no chat would pass
_HELLO = [{"role": "user", "content": "Hello"}]
_HELLO_TOKENS = 16  # enough for a sign of life
_HELLO_HOLDS_S = 60.0  # one that passed speaks for the next refused items, too: each is paid
_REFUSED_IN_A_ROW = 4  # items: with these it may have begun to refuse every call
_WAIT_WORTH_A_WORD_S = 5.0
_CHARS_SHOWN = 200  # of a refused reply


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
        self.gone: ItemFailed | None = None  # why nothing more is asked of it
        self.is_useless = False  # that is since nothing that it said was of use
        self._run = run
        self.connection = connection
        self._where = f"{call.model} at {connection.endpoint.base_url}"
        is_second = f"{self._where} {_USELESS}" in run.failed_before
        self._trial_items = _ITEMS_OF_A_SECOND_TRIAL if is_second else _ITEMS_OF_A_TRIAL
        self.limiter.pace.most = self._trial_items // 2  # until one reply was good
        self._now_s = asyncio.get_running_loop().time
        self._heard_s = self._now_s()  # when words of a reply last arrived
        self._is_reached = False  # anything has answered
        self._is_proven = False  # a call has passed
        self._is_useful = False  # a reply was accepted
        self._tried_items = 0  # until then
        self._refused_replies = 0  # of these
        self._hello: asyncio.Future | None = None  # the last one-word chat
        self._hello_passed_s = -math.inf
        self._refused_items = 0  # since a call has passed
        self._cleared_s = -math.inf  # when that showed that the items are at fault
        self._quiet_until_s = 0.0

    async def complete(self, call: CallSettings, messages: list, max_tokens: int, who: str, tried):
        """Return (completion, attempts, dollars or None). Raises ItemFailed, Waiting, Halted."""
        self._raise_if_over()
        answer = self._run.batches.answer
        failed, reply = await answer(self.connection, call, messages, max_tokens, who, tried)
        if reply:
            return reply
        tries = _Tries(call.retry_budget_s, failed)
        while True:
            tries.attempts += 1
            while self._run.refused_writes:
                await asyncio.sleep(DISK_PAUSE_S)
            self._raise_if_over()
            # Once in front; not for ever, for an item that never passes would hold the others up.
            ticket = await self.limiter.enter(first=tries.attempts == 2)
            try:
                completion, cost = await self._call(call, messages, max_tokens)
                self.limiter.pace.succeeded(self._now_s(), ticket)
                return completion, tries.attempts, cost
            except Fault as fault:
                # Before the place is given on, so that a bad key costs two calls.
                pause_s = await self._bear(fault, call, tries, ticket)
            finally:
                self.limiter.leave()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._run.over.wait(), pause_s)

    def _raise_if_over(self) -> None:
        if self._run.end and not self.is_useless:
            raise Halted()
        if self.gone:
            raise ItemFailed(self.gone.kind, self.gone.detail)

    async def _call(self, call: CallSettings, messages: list[dict], max_tokens: int):
        """Return (completion, dollars or None) of one request. Raises Fault, Halted."""
        run = self._run
        reserved = 0.0
        settled = 0.0
        heard = 0  # bytes of a reply

        def hear(count: int) -> None:
            nonlocal heard
            heard += count
            self._heard_s = self._now_s()
            self._is_reached = True

        if run.spending.limit_usd < math.inf:
            prices = await self.connection.prices(call, needed=True)
            reserved = prices.worst_case_usd(call, messages, max_tokens)
        if why := await run.spending.reserve(reserved):
            words = f"{why}, and the next call could cost ${reserved:.4f}."
            run.halt(EXIT_SOME_FAILED, f"{words}\nRun the same line again to go on.")
            raise Halted()
        try:
            self._raise_if_over()  # perhaps meanwhile
            fresh = messages is _HELLO
            completion = await self.connection.complete(call, messages, max_tokens, hear, fresh)
            prices = await self.connection.prices(call)
            cost = prices.cost_usd(completion.usage)
            settled = reserved if cost is None else cost  # untold, it counts as the worst case
            run.count_reply(call, completion, cost)
            hear(0)
            self._is_proven = True
            self._refused_items = 0
            return completion, cost
        except Fault as fault:
            # What came before a reply broke is paid for; an error from the start is not.
            if reserved and fault.reached and (heard or fault.status < 300):
                said = heard if call.stream else math.inf
                tokens = min(max_tokens, said / LEAST_BYTES_PER_TOKEN)
                settled = prices.worst_case_usd(call, messages, tokens)
            raise run.masked_fault(fault) from None
        finally:
            run.spending.settle(reserved, settled)

    async def _bear(self, fault: Fault, call: CallSettings, tries: _Tries, ticket: Ticket) -> float:
        """Return the seconds until the next try after a fault. Raises ItemFailed, Halted."""
        now_s = self._now_s()
        took_s = now_s - ticket.at
        pace = self.limiter.pace
        is_transient = fault.category == "transient"
        is_slow_down = fault.status == 429 or (fault.status >= 500 and took_s < _QUICK_S)
        self._run.spending.calls[fault.kind] += 1
        self._is_reached = self._is_reached or fault.reached
        if fault.status != 429:
            tries.faults += 1
            tries.first_fault_s = min(tries.first_fault_s, now_s)
        if is_slow_down:
            pace.refused(now_s, ticket, fault.retry_after_s)
        elif is_transient:
            pace.broke(now_s, ticket, self.limiter.in_flight if fault.kind in STREAM_CUT else 1)
        if pace.next_at - now_s > _WAIT_WORTH_A_WORD_S and now_s > self._quiet_until_s:
            self._quiet_until_s = pace.next_at
            words = f"trying again in {pace.next_at - now_s:.0f} s"
            self._run.say(f"{self._where}: {fault}; {words}")

        is_no_api = fault.advice == CHECK_ADDRESS and not self._is_proven  # a page of HTML
        self._refused_items += fault.category == "item"
        is_fresh = now_s - self._hello_passed_s < _HELLO_HOLDS_S
        is_known = fault.category == "item" and is_fresh and self._refused_items < _REFUSED_IN_A_ROW
        shared = None
        if fault.category == "cap" or (not is_transient and fault.status in _NO_MONEY):
            shared = fault
        elif is_no_api or not (is_transient or is_known):
            refused = await self._say_hello(call, call.max_tokens)  # which may be what is refused
            if refused and (refused.status, refused.kind) == (fault.status, fault.kind):
                shared = refused  # its words hold no prompt
        if shared:
            code = EXIT_SOME_FAILED if shared.category == "cap" else EXIT_STOPPED
            advice = shared.advice_at(self.connection.endpoint)
            self._run.halt(code, f"{self._where}: {shared}\n{advice}")
        self._raise_if_over()
        if not is_transient:
            raise ItemFailed(fault.kind, str(fault), lasting=True)
        await self._judge(fault, call, tries)

        pause_s = 0.0  # who is told to slow down waits for his turn at the limiter
        if not is_slow_down:
            longest_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(tries.attempts - 1, 10))
            pause_s = longest_s * random.uniform(0.5, 1.0)
        tries.left_s -= took_s + max(pause_s, pace.next_at - self._now_s())
        if tries.left_s < 0:
            words = f"gave up after {tries.attempts} tries: {fault}"
            raise ItemFailed(f"provider: {fault.kind}", words)
        return pause_s

    async def _judge(self, fault: Fault, call: CallSettings, tries: _Tries) -> None:
        """Give up the model or the item at a fault too many. Raises ItemFailed, Halted then."""
        now_s = self._now_s()
        silent_s = now_s - self._heard_s
        patience_s = call.outage_s if self._is_reached else min(call.outage_s, _NEVER_REACHED_S)
        is_out = silent_s > patience_s and tries.attempts > 1
        is_lasting = now_s - tries.first_fault_s > call.outage_s / 4
        is_stuck = is_lasting and tries.faults >= _FAULTS_OF_AN_ITEM
        why = ""  # it is given up
        if fault.retry_after_s > call.retry_budget_s:
            why = f"it asks to come back in {fault.retry_after_s:.0f} s"
        elif is_out or (is_stuck and self._heard_s > tries.first_fault_s):
            refused = await self._say_hello(call, min(call.max_tokens, _HELLO_TOKENS))
            if refused is None or refused.category == "item":  # of its own
                self._cleared_s = self._now_s()
                self.limiter.pace.forget_refusals()
                self.limiter.let_out()
            elif is_out:
                why = f"nothing good for {silent_s:.0f} s"
        if why:
            words = f"{self._where} does not answer: {why}; last: {fault}"
            advice = "What was finished is saved. Run the same line again when it is back."
            if not self._is_reached or fault.advice == CHECK_ADDRESS:
                advice += f" Check {self.connection.endpoint.url_place}."
            self._leave("provider: a model does not answer", words, advice)
        self._raise_if_over()
        if self._cleared_s > tries.first_fault_s and tries.faults > 1:
            words = f"failed {tries.attempts} times while others pass: {fault}"
            raise ItemFailed(f"provider: {fault.kind}", words)

    def _leave(self, kind: str, words: str, advice: str) -> None:
        """Ask nothing more of this model; end the run when no other is left."""
        is_first = not self.gone
        self.gone = ItemFailed(kind, words)
        if all(model.gone for model in self._run.models.values()):
            self._run.halt(EXIT_SOME_FAILED, f"{words}\n{advice}")
        elif is_first:
            self._run.say(f"{words}. The other models go on.")
        self.limiter.turn_away(self.gone)

    def note_reply(self, call: CallSettings, text: str, why: str, nth: int, is_cut: bool) -> None:
        """Note a reply: accepted, or for `why` the nth refused one of an item.

        One accepted reply sets the pace free; where none of the first is, the model is left.
        """
        if self._is_useful or self.gone:
            return
        if not why:
            self._is_useful = True
            self.limiter.pace.most = math.inf
            self.limiter.let_out()
            return
        self._tried_items += nth == 1
        if not is_cut or nth == call.bad_reply_tries:  # else more tokens are yet to come
            self._refused_replies += nth if is_cut else 1
        is_enough = self._refused_replies >= _REPLIES_EACH * self._trial_items
        if is_enough and self._tried_items >= self._trial_items:
            self.is_useless = True
            example = " ".join(f"{why}: {text}".split())[:_CHARS_SHOWN]
            began = f"of its first {self._refused_replies} replies none was accepted"
            words = f"{self._where} {_USELESS}: {began}; last: {example}"
            advice = "Ask for another model in chain.toml, or change its settings there."
            self._leave(NOTHING_USABLE, words, advice)

    async def _say_hello(self, call: CallSettings, max_tokens: int) -> Fault | None:
        """Return the fault of a one-word chat, None if it passes; one chat for all who ask."""

        async def say_it() -> Fault | None:
            try:
                await self._call(call, _HELLO, max_tokens)
            except Fault as fault:
                self._run.spending.calls[f"one-word probe: {fault.kind}"] += 1
                return fault
            self._hello_passed_s = self._now_s()
            self._run.spending.calls["one-word probe"] += 1
            return None

        if self._hello is None or self._hello.done():
            self._hello = asyncio.ensure_future(say_it())
        return await asyncio.shield(self._hello)
