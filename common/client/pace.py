"""How fast one model is asked, and the queue in which its calls wait for their turn.

Nothing is known of a provider's limits but what it takes and what it refuses. From this follow

- the window, how many calls at once: ever more as long as what is tried is taken. A refusal above
  the widest window known to be good ends the try.
- the rate, how many calls a second: a refusal within the good window says that calls come too
  fast, and from then on they are spaced. Between two refusals a limit has let through just what
  it allows, whatever its shape: that is the rate. After some calls without a refusal it rises, to
  find out whether there is more. Refusals in a row double the pause until the next call.

Where refusals keep coming early, however slow the calls are, they have another cause: the spacing
is dropped, and more of them in a row are needed to believe in a limit again.

The numbers are tuned on tests/bench_pace.py and its limits in simulated time (test_pace.py); a
comment says what is worse without a rule. "x" is the time beside the ideal.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass

_FIRST_STEP = 15  # from one call to 16 at once after the first success, then 30, 60 ... more
_CALM = 20  # calls without a refusal until more is tried: it costs one refusal in twenty
_TAKEN_AFTER_S = 1.0  # a call not refused by then is taken: replies of minutes hold nobody up
# The first calls are not one burst, so that a refusal can stop the rest (7 % refused, not 5.7).
_FIRST_DISTANCE_S = 0.004
_CALM_HALVES = 64  # with so many calls taken the distance halves: 400 at once x 1.8, not 2.3
_FIRST_RATE = 2.0  # calls a second, when no more is known of a limit than that it is there
# So early nothing can be measured: a limit may allow a burst (60 a minute: 8 % refused, not 34).
_YOUNG_S = 2.0
_ENOUGH = 10  # calls taken, to measure a rate by
_RISE = 0.06  # of the rate, a call
# Calls a second, each second: refusals take time to arrive (50 a second: 4 % refused, not 15).
_FASTEST_RISE = 1.4
# What is left of a rate after one refusal, at least (50 in each 5 s: x 1.09, not 1.25).
_DEEPEST_FALL = 0.3
_LEAST_RATE = 0.05  # a call in 20 s is a sign of life
_EARLY = 8  # calls since the last refusal: a rate that is right is not refused so soon
_FUTILE = 4  # early refusals in a row, until they are believed to have another cause
_RETRY = 0.7  # the pause after a refusal, in distances between two calls
# A server that ends one reply for the next call cuts one in two and more, a bad line one in twenty.
_CUT_TOO_OFTEN = 0.35
_CUT_WEIGHT = 0.2  # of one reply: two cuts in a row are too often
_LONGEST_PAUSE_S = 30.0
# A server may free a slot a moment after its reply is here: at most a twentieth of the reply's
# time is waited for it (4 slots, 10 ms late: x 1.04, not 1.30).
_FIRST_SETTLE_S = 0.002
_SETTLE_SHARE = 1 / 20


@dataclass
class Ticket:
    """A call that was sent: when, and as how many-th of those in flight."""

    at: float
    level: int


class Window:
    """How many calls may be in flight."""

    def __init__(self, top: int):
        self.size = 1
        self.good = 0  # the widest known to be taken; 0 until anything is
        self._top = top
        self._step = _FIRST_STEP
        self.patience = 1  # times so many calm calls until more is tried
        self._tried_at: float | None = None  # when the first call above the good size was sent

    def sent(self, now: float, in_flight: int, calm: int) -> None:
        """Note a call; widen when what is tried is taken, or after a calm time."""
        if self.size == self.good:
            if in_flight >= self.size and calm >= _CALM * self.patience:
                self._step = 1
                self.widen()
        elif in_flight > self.good > 0:
            self._tried_at = self._tried_at or now
            if now - self._tried_at > _TAKEN_AFTER_S:
                self.widen()

    def widen(self) -> None:
        """Take the size for good, and try a wider one."""
        self.good = self.size
        self.size = min(self._top, self.size + self._step)
        self._step *= 2
        self._tried_at = None

    def narrow(self, size: int) -> None:
        """Allow no more than `size` until more is tried again."""
        self.size = max(1, min(self.size, size))
        if self.good:
            self.good = self.size


class Pace:
    """Window and rate. Times are seconds of one clock, given by the caller."""

    def __init__(self, top: int):
        self.window = Window(top)
        self.most = math.inf  # calls at once, whatever the provider would take
        self.rate = math.inf
        self.next_at = 0.0  # when the next call may be sent
        self._marks: deque[list] = deque(maxlen=64)  # [when, calls taken]: the start, refusals
        self._taken = 0
        self._sent_at = 0.0  # the last call
        self._home_at = 0.0  # the last whole reply
        self._took_s = 0.0  # how long it took
        self._settle_s = 0.0  # until its slot is used again
        self._refused_at = -math.inf
        self._calm = 0  # calls since then
        self._refused_in_a_row = 0
        self._rounds = 0  # of refusals in a row; calls that were out together are one round
        self._believed_from = 2  # refusals in a row that speak of a rate
        self.cuts = 0  # replies that broke off while others were in flight
        self._cut_share = 0.0  # of the last replies
        self._cut_at = -math.inf  # when that last was too much
        self._searching = False  # no rate is measured yet
        self._early = 0  # early refusals in a row

    def __str__(self) -> str:
        size = self.window.size
        return f"{size} ({self.rate:.1f}/s)" if self.rate < math.inf else str(size)

    def delay_s(self, now: float, in_flight: int) -> float:
        """Return how long the next call waits; infinity when one in flight has to end first."""
        size = self.window.size
        if in_flight >= min(size, self.most):
            return math.inf
        at = self.next_at
        if size - 1 == self.window.good == in_flight:
            # Apart from the others, so that a refusal speaks of the window alone.
            at = max(at, self._sent_at + self._took_s / (2 * size))
        if in_flight == size - 1:
            at = max(at, self._home_at + self._settle_s)
        return max(0.0, at - now)

    def sent(self, now: float, in_flight: int) -> Ticket:
        """Note a call that goes out; `in_flight` counts it."""
        if not self._marks:
            self._marks.append([now, 0])
        self._taken += 1
        self._sent_at = now
        self._calm += 1
        self.window.sent(now, in_flight, self._calm)
        if self._searching and not self._rounds:
            self.rate *= 1 + min(1.0, 2 * _FASTEST_RISE / self.rate)
        elif self._calm >= _CALM:
            self.rate *= 1 + min(_RISE, _FASTEST_RISE / self.rate)
        free_distance_s = _FIRST_DISTANCE_S / (1 + self._calm // _CALM_HALVES)
        distance_s = max(1 / self.rate, free_distance_s)
        self.next_at = max(self.next_at, now - distance_s) + distance_s
        return Ticket(now, in_flight)

    def succeeded(self, now: float, ticket: Ticket) -> None:
        """Note a whole reply."""
        self._home_at = now
        self._cut_share -= _CUT_WEIGHT * self._cut_share
        self._took_s = now - ticket.at
        if ticket.at > self._refused_at:
            self._refused_in_a_row = 0
            self._rounds = 0
        if ticket.level > self.window.good and ticket.at > self._cut_at:
            self.window.widen()

    def refused(self, now: float, ticket: Ticket, retry_after_s: float = 0.0) -> None:
        """Note that the provider wants fewer calls."""
        self._taken -= 1
        if ticket.at <= self._marks[-1][0]:
            self._marks[-1][1] -= 1
        self._refused_in_a_row += 1
        self.next_at = max(self.next_at, now + retry_after_s)
        if ticket.at <= self._refused_at:
            return  # calls that were out together meet the same limit
        is_spaced = self.rate < math.inf
        good = self.window.good
        if ticket.level > good > 0:
            self._note_refusal(now)
            self.window.narrow(max(good, ticket.level - 1))
            return
        if ticket.level == good and not is_spaced and self._settle_s < _SETTLE_SHARE * self._took_s:
            self._settle_s = max(_FIRST_SETTLE_S, 2 * self._settle_s)
            self.next_at = max(self.next_at, now + self._settle_s)
            return
        if not is_spaced and self._refused_in_a_row < self._believed_from:
            return
        self.window.narrow(ticket.level - 1)
        self._rounds += 1
        if self._rounds == 1 or not is_spaced:
            self._measure(now)
        self._note_refusal(now)
        if self.rate < math.inf:
            pause_s = _RETRY * 2 ** min(self._rounds - 1, 10) / self.rate
            self.next_at = now + max(retry_after_s, min(_LONGEST_PAUSE_S, pause_s))

    def broke(self, now: float, ticket: Ticket) -> None:
        """Note a call that broke or stalled: three without a success halve the window."""
        self._refused_in_a_row += 1
        if ticket.at > self._refused_at and self._refused_in_a_row >= 3:
            self._refused_at = now
            self.window.narrow(ticket.level // 2)
            pause_s = _RETRY * 2 ** min(self._refused_in_a_row - 3, 10)
            self.next_at = max(self.next_at, now + min(_LONGEST_PAUSE_S, pause_s))

    def cut(self, now: float, ticket: Ticket, in_flight: int) -> None:
        """Note a reply that broke off while others were in flight: they may be what ended it.

        Where that is no exception, fewer are in flight from now on, for twice as long each time.
        """
        self.cuts += 1
        self._cut_share += _CUT_WEIGHT * (1 - self._cut_share)
        if self._cut_share < _CUT_TOO_OFTEN:
            self.broke(now, ticket)
        elif ticket.at > self._cut_at:
            self._cut_at = now
            self._note_refusal(now)
            self.window.narrow(in_flight // 4)
            self.window.patience *= 2

    def forget_refusals(self) -> None:
        """Drop what they have taught: they had another cause."""
        self.rate = math.inf
        self.next_at = 0.0
        self._rounds = 0
        self._refused_in_a_row = 0
        if not self.window.good:
            self.window.widen()

    def _note_refusal(self, now: float) -> None:
        self._refused_at = now
        self._calm = 0

    def _measure(self, now: float) -> None:
        """Set the rate to what was taken since the nearest refusal with enough calls after it.

        Give the spacing up when that helps nothing.
        """
        for mark in reversed(self._marks):
            if self._taken - mark[1] >= _ENOUGH:
                break
        measured = max(0.5, self._taken - mark[1]) / max(now - mark[0], 0.001)
        if self.rate == math.inf:
            self._searching = now - self._marks[0][0] < _YOUNG_S
            self.rate = _FIRST_RATE if self._searching else max(measured, _FIRST_RATE)
            self._early = 0
            self._marks.clear()
        else:
            self._searching = False
            self.rate = max(_LEAST_RATE, _DEEPEST_FALL * self.rate, min(self.rate, measured))
            self._early = self._early + 1 if self._calm < _EARLY else 0
            if self._early >= _FUTILE:
                self.forget_refusals()
                self._believed_from *= 2
        self._marks.append([now, self._taken])


class RateLimiter:
    """Lets calls out at the pace of a model."""

    def __init__(self, top: int):
        self.pace = Pace(top)
        self.in_flight = 0
        self._waiting: deque[asyncio.Future] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, first: bool = False) -> Ticket:
        """Wait for a call's turn, in front of the others when `first`; leave() ends it.

        Only the end of the run may cancel it: the place of a call that was let out stays taken.
        """
        place = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(place)
        else:
            self._waiting.append(place)
        self.let_out()
        return await place

    def leave(self) -> None:
        """End a call."""
        self.in_flight -= 1
        self.let_out()

    def turn_away(self, error: Exception) -> None:
        """Wake everyone who waits with this error."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(error)

    def pause_left_s(self) -> float:
        """Return how long the whole model still waits."""
        return max(0.0, self.pace.next_at - asyncio.get_running_loop().time())

    def let_out(self) -> None:
        """Let out whoever may go now; come back when the next one may."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            if self._waiting[0].done():  # cancelled meanwhile
                self._waiting.popleft()
                continue
            now = loop.time()
            delay_s = self.pace.delay_s(now, self.in_flight)
            if delay_s > 0:
                if self._timer is not None:
                    self._timer.cancel()
                if delay_s < math.inf:
                    self._timer = loop.call_later(delay_s, self.let_out)
                return
            self.in_flight += 1
            self._waiting.popleft().set_result(self.pace.sent(now, self.in_flight))
