"""How fast one model is asked, and the queue in which its calls wait for their turn.

Nothing is known of a provider's limits but what it takes and what it refuses. From this follow

- the window, how many calls at once: sixteen after the first success, then ever more as long as
  what is tried is taken. A refusal above the widest window known to be good ends the try; after
  twenty calls without a refusal, one call more is tried.
- the rate, how many calls a second: a refusal within the good window says that calls come too
  fast, and from then on they are spaced. Between two refusals a limit has let through just what
  it allows, whatever its shape: that is the rate. After as many calls without a refusal it rises
  by 6 % a call, to find out whether there is more. Refusals in a row double the pause until the
  next call.

Where refusals keep coming early, however slow the calls are, they have another cause: the spacing
is dropped, and more of them in a row are needed to believe in a limit again.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass

_FIRST_WINDOW = 16
_CALM = 20  # calls without a refusal, until more is tried
_TAKEN_AFTER_S = 1.0  # a call that is not refused in this time counts as taken
_FIRST_DISTANCE_S = 0.004  # the first calls are not one burst: a refusal can stop the rest
_FIRST_RATE = 2.0  # calls a second, when no more is known of a limit than that it is there
_YOUNG_S = 2.0  # a run in which nothing can be measured: a limit may allow a first burst
_ENOUGH = 10  # calls taken, to measure a rate by
_RISE = 0.06  # of the rate, a call
_FASTEST_RISE = 1.4  # calls a second, each second: refusals take time to arrive
_DEEPEST_FALL = 0.3  # what is left of a rate after one refusal, at least
_LEAST_RATE = 0.05
_EARLY = 8  # calls since the last refusal: a rate that is right is not refused so soon
_FUTILE = 4  # early refusals, until they are believed to have another cause
_RETRY = 0.7  # the pause after a refusal, in distances between two calls
_LONGEST_PAUSE_S = 30.0


@dataclass
class Ticket:
    """A call that was sent: when, and as how many-th of those in flight."""

    at: float
    level: int


class Pace:
    """Window and rate. Times are seconds of one clock, given by the caller."""

    def __init__(self, top: int):
        self.window = 1
        self.rate = math.inf
        self.next_at = 0.0  # when the next call may be sent
        self._top = top
        self._good = 0  # the widest window known to be taken; 0 until anything is
        self._step = min(top, _FIRST_WINDOW) - 1
        self._tried_at: float | None = None  # when the first call above the good window was sent
        self._taken = 0
        self._marks: deque[list] = deque(maxlen=64)  # [when, calls taken]: the start, refusals
        self._last_sent = 0.0
        self._took_s = 0.0  # the last whole reply
        self._refused_at = -math.inf
        self._calm = 0  # calls since then
        self._refused_in_a_row = 0
        self._rounds = 0  # of refusals in a row; calls that were out together are one round
        self._believed_from = 2  # refusals in a row that speak of a rate
        self._searching = False  # no rate is measured yet
        self._early = 0  # refusals lately

    def __str__(self) -> str:
        return f"{self.window} ({self.rate:.1f}/s)" if self.rate < math.inf else str(self.window)

    def delay_s(self, now: float, in_flight: int) -> float:
        """Return how long the next call waits; infinity when one in flight has to end first."""
        if in_flight >= self.window:
            return math.inf
        at = self.next_at
        if self.window - 1 == self._good == in_flight:
            # Apart from the others, so that a refusal speaks of the window alone.
            at = max(at, self._last_sent + self._took_s / (2 * self.window))
        return max(0.0, at - now)

    def sent(self, now: float, in_flight: int) -> Ticket:
        """Note a call that goes out; `in_flight` counts it."""
        if not self._marks:
            self._marks.append([now, 0])
        self._taken += 1
        self._last_sent = now
        self._calm += 1
        if self.window == self._good:
            if in_flight >= self.window and self._calm >= _CALM:
                self._step = 1
                self._widen()
        elif in_flight > self._good > 0:
            self._tried_at = self._tried_at or now
            if now - self._tried_at > _TAKEN_AFTER_S:
                self._widen()

        if self._searching and not self._rounds:
            self.rate *= 1 + min(1.0, 2 * _FASTEST_RISE / self.rate)
        elif self._calm >= _CALM:
            self.rate *= 1 + min(_RISE, _FASTEST_RISE / self.rate)
        distance_s = max(1 / self.rate, _FIRST_DISTANCE_S / (1 + self._calm // 64))
        self.next_at = max(self.next_at, now - distance_s) + distance_s
        return Ticket(now, in_flight)

    def succeeded(self, now: float, ticket: Ticket) -> None:
        """Note a whole reply."""
        self._took_s = now - ticket.at
        if ticket.at > self._refused_at:
            self._refused_in_a_row = 0
            self._rounds = 0
        if ticket.level > self._good:
            self._widen()

    def refused(self, now: float, ticket: Ticket, retry_after_s: float = 0.0) -> None:
        """Note that the provider wants fewer calls."""
        self._taken -= 1
        if ticket.at <= self._marks[-1][0]:
            self._marks[-1][1] -= 1
        self._refused_in_a_row += 1
        self.next_at = max(self.next_at, now + retry_after_s)
        if ticket.at <= self._refused_at:
            return  # calls that were out together meet the same limit
        above = ticket.level > self._good > 0
        if not above and self.rate == math.inf and self._refused_in_a_row < self._believed_from:
            return
        self._narrow(max(self._good, ticket.level - 1) if above else ticket.level - 1)
        if not above:
            self._rounds += 1
            if self._rounds == 1 or self.rate == math.inf:
                self._measure(now)
        self._refused_at = now
        self._calm = 0
        if not above and self.rate < math.inf:
            doubled_s = _RETRY * 2 ** min(self._rounds - 1, 10) / max(self.rate, _FIRST_RATE)
            pause_s = max(_RETRY / self.rate, min(_LONGEST_PAUSE_S, doubled_s), retry_after_s)
            self.next_at = now + pause_s

    def broke(self, now: float, ticket: Ticket) -> None:
        """Note a call that broke or stalled: three without a success halve the window."""
        self._refused_in_a_row += 1
        if ticket.at > self._refused_at and self._refused_in_a_row >= 3:
            self._refused_at = now
            self._narrow(ticket.level // 2)
            doubled_s = _RETRY * 2 ** min(self._refused_in_a_row - 3, 10)
            self.next_at = max(self.next_at, now + min(_LONGEST_PAUSE_S, doubled_s))

    def forget_refusals(self) -> None:
        """Drop what they have taught: they had another cause."""
        self.rate = math.inf
        self.next_at = 0.0
        self._rounds = 0
        self._refused_in_a_row = 0
        if not self._good:
            self._widen()

    def _widen(self) -> None:
        """Take the window for good, and try a wider one."""
        self._good = self.window
        self.window = min(self._top, self.window + self._step)
        self._step *= 2
        self._tried_at = None

    def _narrow(self, size: int) -> None:
        self.window = max(1, min(self.window, size))
        if self._good:
            self._good = self.window

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
            if self._calm < _EARLY:
                self._early += 1
            elif self._calm >= _CALM:
                self._early = 0
            if self._early >= _FUTILE:
                self.forget_refusals()
                self._believed_from += 2
        self._marks.append([now, self._taken])


class RateLimiter:
    """Lets calls out at the pace of a model."""

    def __init__(self, top: int):
        self.pace = Pace(top)
        self._in_flight = 0
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
        self._in_flight -= 1
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
        while self._waiting:
            if self._waiting[0].done():  # cancelled meanwhile
                self._waiting.popleft()
                continue
            loop = asyncio.get_running_loop()
            now = loop.time()
            delay_s = self.pace.delay_s(now, self._in_flight)
            if delay_s > 0:
                if self._timer is not None:
                    self._timer.cancel()
                if delay_s < math.inf:
                    self._timer = loop.call_later(delay_s, self.let_out)
                return
            self._in_flight += 1
            self._waiting.popleft().set_result(self.pace.sent(now, self._in_flight))
