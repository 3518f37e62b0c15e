"""How fast one model is asked, and the queue in which its calls wait for their turn.

Of a provider's limits nothing is known but what it takes and refuses. As long as what is tried is
taken, more calls go out at once; a refusal above what is known to be good ends the try. Two in a
row below it speak of a limit on the rate: from then on calls are spaced, as many a second as were
taken since the last refusals, a little more often while none comes, and twice as late after each
in a row. Where spacing helps nothing the cause is another, and a rate is believed less easily.

Tuned on tests/bench_pace.py and its limits in simulated time; "x" is the time beside the ideal.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from copy import copy
from typing import NamedTuple

_FIRST_STEP = 15  # from one call to 16 at once after the first success, then 30, 60 ... more
_CALM = 20  # calls without a refusal before more is tried: it costs one refusal in twenty
# No burst, so that a refusal can stop the rest (60 a minute: 33 % refused without it, not 10);
# closer as more are taken (400 at once: x 2.3 without, not 1.8).
_FIRST_DISTANCE_S = 0.004
_FIRST_RATE = 2.0  # calls a second, when no more is known of a limit than that it is there
_RISE = 0.06  # of the rate, a call
_FASTEST_RISE = 1.4  # calls a second, each second: refusals take time to arrive
_DEEPEST_FALL = 0.3  # what is left of a rate after a refusal (50 in each 5 s: x 1.5 without)
_FUTILE = 4  # refusals in a row that no spacing could delay: they have another cause
# A server may free a slot a moment after its reply: so much of the reply's time is waited for the
# last slot (4 slots, 10 ms late: x 1.45 without, not 1.04).
_SETTLE_SHARE = 1 / 40
# A server that ends one reply for the next call cuts one in two and more, a bad line one in twenty.
_CUT_TOO_OFTEN = 0.35
_CUT_WEIGHT = 0.2  # of one reply: two cuts in a row are too often
_LONGEST_PAUSE_S = 30.0


class Ticket(NamedTuple):
    """A call that was sent: when, and as how many-th of those in flight."""

    at: float
    level: int


class Pace:
    """How many calls at once and a second. Times are seconds of one clock, given by the caller."""

    def __init__(self, top: int):
        self.size = 1  # calls that may be in flight
        self.most = math.inf  # the same, whatever the provider would take
        self.rate = math.inf
        self.next_at = 0.0  # when the next call may be sent
        self.cuts = 0  # replies that broke off while others were in flight
        self._good = 0  # the largest size known to be taken; 0 until anything is
        self._top = top
        self._step = _FIRST_STEP
        self._patience = _CALM  # calls without a refusal until a larger size is tried
        self._marks: deque[tuple] = deque()  # (when, calls taken) at refusals
        self._taken = 0
        self._home_at = 0.0  # the last whole reply
        self._took_s = 0.0  # how long it took
        self._refused_at = -math.inf
        self._calm = 0  # calls since then
        self._faults_in_a_row = 0  # refusals of calls that were out together count as one
        self._early_in_a_row = 0  # refusals so soon that a rate which is right has none
        self._believed_from = 2  # faults in a row that speak of a rate
        self._cut_share = 0.0  # of the last replies

    def __str__(self) -> str:
        return f"{self.size} ({self.rate:.1f}/s)" if self.rate < math.inf else str(self.size)

    def delay_s(self, now: float, in_flight: int) -> float:
        """Return how long the next call waits; infinity when one in flight has to end first."""
        if in_flight >= min(self.size, self.most):
            return math.inf
        at = self.next_at
        if in_flight == self.size - 1:
            at = max(at, self._home_at + _SETTLE_SHARE * self._took_s)
        return max(0.0, at - now)

    def sent(self, now: float, in_flight: int) -> Ticket:
        """Note a call that goes out; `in_flight` counts it."""
        self._taken += 1
        self._calm += 1
        if in_flight == self.size == self._good and self._calm >= self._patience:
            self._step = 1
            self._widen()
        if len(self._marks) == 1 and not self._faults_in_a_row:  # no rate is measured yet
            self.rate *= 1 + min(1.0, 2 * _FASTEST_RISE / self.rate)
        elif self._calm >= _CALM:
            self.rate *= 1 + min(_RISE, _FASTEST_RISE / self.rate)
        distance_s = max(1 / self.rate, _FIRST_DISTANCE_S * min(1.0, _CALM / self._calm))
        self.next_at = max(self.next_at, now - distance_s) + distance_s
        return Ticket(now, in_flight)

    def succeeded(self, now: float, ticket: Ticket) -> None:
        """Note a whole reply."""
        self._home_at = now
        self._took_s = now - ticket.at
        self._cut_share -= _CUT_WEIGHT * self._cut_share
        if ticket.at > self._refused_at:
            self._faults_in_a_row = 0
            if ticket.level > self._good:
                self._widen()

    def refused(self, now: float, ticket: Ticket, retry_after_s: float = 0.0) -> None:
        """Note that the provider wants fewer calls."""
        self._taken -= 1
        self.next_at = max(self.next_at, now + retry_after_s)
        if ticket.at <= self._refused_at:
            return  # calls that were out together meet the same limit
        if ticket.level > self._good > 0:
            self._narrow(now, max(self._good, ticket.level - 1))
            return
        self._faults_in_a_row += 1
        if self.rate == math.inf and self._faults_in_a_row < self._believed_from:
            self.next_at = max(self.next_at, now + _SETTLE_SHARE * self._took_s)
            return
        if self.rate == math.inf:
            self.rate = _FIRST_RATE
            self._faults_in_a_row = 1
            self._early_in_a_row = 0
            self._marks = deque([(now, self._taken)], maxlen=8)
        elif self._faults_in_a_row == 1:
            # By what was taken since the nearest refusal with enough calls after it.
            enough = [mark for mark in self._marks if self._taken - mark[1] >= _CALM]
            when, taken = enough[-1] if enough else self._marks[0]
            measured = max(0.5, self._taken - taken) / max(now - when, 0.001)
            self.rate = max(_DEEPEST_FALL * self.rate, min(self.rate, measured))
            self._marks.append((now, self._taken))
            self._early_in_a_row = self._early_in_a_row + 1 if self._calm < _CALM else 0
            if self._early_in_a_row >= _FUTILE:
                self._believed_from *= 2
                self.forget_refusals()
        self._narrow(now, ticket.level - 1)
        pause_s = min(_LONGEST_PAUSE_S, 2 ** min(self._faults_in_a_row - 1, 10) / self.rate)
        self.next_at = max(self.next_at, now + pause_s)

    def broke(self, now: float, ticket: Ticket, in_flight: int = 1) -> None:
        """Note a call that broke or stalled: three without a success halve the size."""
        if in_flight > 1:  # others may have ended this reply; often, and fewer are let out
            self.cuts += 1
            self._cut_share += _CUT_WEIGHT * (1 - self._cut_share)
        if ticket.at <= self._refused_at:
            return
        self._faults_in_a_row += 1
        if in_flight > 1 and self._cut_share >= _CUT_TOO_OFTEN:
            self._narrow(now, in_flight // 4)
            self._patience *= 2
        elif self._faults_in_a_row >= 3:
            self._narrow(now, ticket.level // 2)
            pause_s = min(_LONGEST_PAUSE_S, 2 ** min(self._faults_in_a_row - 3, 10))
            self.next_at = max(self.next_at, now + pause_s)

    def forget_refusals(self) -> None:
        """Drop what they have taught: they had another cause."""
        self.rate = math.inf
        self.next_at = 0.0
        self._faults_in_a_row = 0
        if not self._good:
            self._widen()

    def _widen(self) -> None:
        self._good = self.size
        self.size = min(self._top, self.size + self._step)
        self._step *= 2

    def _narrow(self, now: float, size: int) -> None:
        self.size = max(1, min(self.size, size))
        self._good = self.size if self._good else 0
        self._refused_at = now
        self._calm = 0


class RateLimiter:
    """Lets calls out at the pace of a model."""

    def __init__(self, top: int):
        self.pace = Pace(top)
        self.in_flight = 0
        self._waiting: deque[asyncio.Future] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, first: bool) -> Ticket:
        """Wait for a call's turn, in front of the others when `first`; leave() ends it."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.insert(0 if first else len(self._waiting), place)
        self.let_out()
        return await place

    def leave(self) -> None:
        """End a call."""
        self.in_flight -= 1
        self.let_out()

    def turn_away(self, error: Exception) -> None:
        """Wake everyone who waits with this error, each with one of his own."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(copy(error))

    def let_out(self) -> None:
        """Let out whoever may go now; come back when the next one may."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            now = loop.time()
            delay_s = self.pace.delay_s(now, self.in_flight)
            if self._waiting[0].done():  # cancelled meanwhile
                self._waiting.popleft()
            elif delay_s == 0:
                self.in_flight += 1
                self._waiting.popleft().set_result(self.pace.sent(now, self.in_flight))
            else:
                if self._timer is not None:
                    self._timer.cancel()
                if delay_s < math.inf:
                    self._timer = loop.call_later(delay_s, self.let_out)
                return
