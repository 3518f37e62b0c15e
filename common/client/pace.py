"""How fast one model is asked: a window of calls at once, and a rate of calls a second.

Nothing is known of a provider's limits but what it takes and what it refuses.

Window: sixteen after the first success, then twice as wide as long as what is tried is taken. A
refusal above the widest window known to be good ends the try; after 8 to 20 calls that filled the
window, one call more is tried again.

Rate: a refusal within the known window says that calls come too fast. From then on they are
spaced. Between two refusals a limit has let through just what it allows, whatever its shape: that
is the rate. After twenty calls without a refusal it rises by 6 % a call, to find out whether there
is more; this costs about one refusal in twenty-five calls. Refusals in a row do not change the
rate: they double the pause until the next call, up to half a minute.

When refusals keep coming early, however slow the calls are, they have another cause. The spacing
is dropped, and more of them in a row are needed to believe in a limit again.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

_FIRST_WINDOW = 16
_CALLS_BEFORE_TRY = 8  # that filled the window; doubled after each failed try, up to
_MOST_BEFORE_TRY = 20
_TAKEN_AFTER_S = 1.0  # a call that is not refused in this time counts as taken

_FIRST_DISTANCE_S = 0.004  # the first calls are not one burst: a refusal can stop the rest
_FIRST_RATE = 2.0  # calls a second, when no more is known of a limit than that it is there
_LEAST_RATE = 0.05
_ENOUGH = 10  # calls taken since a refusal, to measure a rate by
_CALM = 20  # calls without a refusal, until the rate may rise
_CREEP = 0.003  # rise a call before that
_RISE = 0.06  # and after
_FASTEST_RISE = 1.4  # a second: refusals take time to arrive
_EARLY = 8  # calls since the last refusal: a rate that is right is not refused so soon
_FUTILE = 8  # early refusals until they are believed to have another cause
_RETRY = 0.7  # the pause after a refusal, in distances between two calls
_LONGEST_PAUSE_S = 30.0


@dataclass
class Ticket:
    """A call that was sent: when, and as how many-th of those in flight."""

    at: float
    level: int


class Window:
    """How many calls at once: `size`; the size up to `good` is known to be taken."""

    def __init__(self, top: int):
        self.top = top
        self.size = 1
        self.good = 1
        self.step = min(top, _FIRST_WINDOW) - 1
        self.trying = True  # whether more than `good` are taken
        self._tried_at: float | None = None
        self._full = 0
        self._full_before_try = _CALLS_BEFORE_TRY

    def open(self) -> None:
        """Let the first calls out: one has succeeded."""
        self.size = 1 + self.step

    def sent(self, ticket: Ticket) -> None:
        """Note a call; begin or end a try when it is time."""
        if ticket.level >= self.size:
            self._full += 1
        if not self.trying:
            if self._full >= self._full_before_try and self.size < self.top:
                self._begin_try()
        elif self._tried_at is None:
            if ticket.level > self.good:
                self._tried_at = ticket.at
        elif ticket.at - self._tried_at > _TAKEN_AFTER_S:
            self._widen()

    def succeeded(self, ticket: Ticket) -> None:
        """Note that a call was taken."""
        if self.trying and ticket.level > self.good:
            self._widen()

    def try_failed(self, ticket: Ticket) -> None:
        """Go back: a call above `good` was refused."""
        again = min(_MOST_BEFORE_TRY, 2 * self._full_before_try)
        self._full_before_try = again if self.step == 1 else _CALLS_BEFORE_TRY
        self._settle(max(self.good, ticket.level - 1))

    def narrow(self, size: int) -> None:
        """Let fewer calls out than what was good so far."""
        self._full_before_try = _CALLS_BEFORE_TRY
        self._settle(size)

    def _settle(self, size: int) -> None:
        self.size = max(1, min(self.size, size))
        self.good = self.size
        self.trying = False
        self._full = 0

    def _begin_try(self) -> None:
        self.trying = True
        self.step = 1
        self._tried_at = None
        self.size += 1

    def _widen(self) -> None:
        self.good = self.size
        self.step *= 2
        self.size = min(self.top, self.size + self.step)
        self._tried_at = None


class Rate:
    """How many calls a second: `per_s`, infinite while no limit is known."""

    def __init__(self):
        self.per_s = math.inf
        self.next_at = 0.0
        self._searching = False  # nothing is measured yet
        self._calm = 0  # calls since the last refusal
        self._calm_before_rise = _CALM
        self._taken = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=64)  # at refusals: when, taken so far
        self._recent: deque[float] = deque(maxlen=256)  # when calls were sent
        self._in_a_row = 0  # rounds of refusals
        self._last_refusal = 0.0
        self._first_after = 0.0  # when the first call after it was sent
        self._idle_s = 0.0  # of pauses, the half: the limit may have let calls through by then
        self._futile = 0
        self._before_futile = 0.0

    def sent(self, now: float) -> None:
        """Set when the next call may go out; let the rate rise."""
        self._taken += 1
        self._recent.append(now)
        if self.per_s == math.inf:
            self._calm += 1
            self.next_at = max(self.next_at, now + _FIRST_DISTANCE_S * 0.5 ** (self._calm // 64))
            return
        if self._first_after < self._last_refusal:
            self._first_after = now
        if now - self.next_at < 0.02:  # the rate is what this call has waited for
            self._calm += 1
            self.per_s *= 1 + self._rise(now)
        distance_s = 1 / self.per_s
        self.next_at = max(self.next_at, now - distance_s) + distance_s

    def _rise(self, now: float) -> float:
        most = _FASTEST_RISE / self.per_s
        if self._searching:
            return 0.0 if self._in_a_row else min(1.0, 2 * most)
        if self._calm > self._calm_before_rise:
            return min(_RISE, most)
        if self._calm > 1 and self.per_s < 0.9 * (self._measured(now) or 0.0):
            return min(2.5 * _RISE, most)  # an early refusal has slowed it below what was taken
        return min(_CREEP, most)

    def succeeded(self) -> None:
        """Note that a call sent after the last refusal was taken."""
        if self._in_a_row > 1:
            self._idle_s += (self._first_after - self._last_refusal) / 2
        self._in_a_row = 0

    def not_taken(self) -> None:
        """Take a refused call out of what was taken."""
        self._taken -= 1

    def refused(self, now: float, in_a_row: int, retry_after_s: float) -> bool:
        """Slow down; return False when refusals turn out to have another cause."""
        self._in_a_row += 1
        self._last_refusal = now
        if self.per_s == math.inf:
            self._start(now, in_a_row)
        elif self._in_a_row == 1 and not self._measure(now):
            self.per_s = math.inf
            self._in_a_row = 0
            self._calm = 64
            self.next_at = now
            return False
        else:
            self._calm = 0
        # A refusal that costs a long wait must be rare.
        self._calm_before_rise = _CALM * (1 + min(20.0, self.per_s * retry_after_s))
        doubled_s = _RETRY * 2 ** min(self._in_a_row - 1, 10) / max(self.per_s, _FIRST_RATE)
        pause_s = max(_RETRY / self.per_s, min(_LONGEST_PAUSE_S, doubled_s), retry_after_s)
        self.next_at = now + pause_s
        return True

    def _start(self, now: float, in_a_row: int) -> None:
        """Begin to space the calls: as in the last second, if that is a long time of this run."""
        lately = sum(sent_at > now - 1 for sent_at in self._recent) - in_a_row
        self.per_s = _FIRST_RATE
        if self._recent[0] < now - 2:
            self.per_s = max(_FIRST_RATE, lately)
        self._searching = True
        self._futile = 0
        self._marks.clear()
        self._marks.append((now, self._idle_s, self._taken))
        self._calm = 0

    def _measure(self, now: float) -> bool:
        """Set the rate to what was taken since an earlier refusal; return False when futile."""
        early = self._calm < _EARLY
        if early and not self._searching:
            self._futile += 1
        elif self._calm >= 2 * _EARLY:
            self._futile = 0
        if self._futile <= 1:
            self._before_futile = self.per_s
        fell = self.per_s < self._before_futile / 8
        if self._futile >= _FUTILE or (self._futile >= _FUTILE / 2 and fell):
            return False
        rate = self._measured(now) or self.per_s
        if early:
            at, _, taken = self._marks[-1]
            lately = (self._taken - taken + 0.5) / max(now - at, 0.001)
            rate = max(min(rate, lately), 0.3 * self.per_s)
        soon = not early and self.per_s > 1.5 * rate
        if soon:  # refused only far above what was measured: the limit lies between, or was raised
            rate = min(2 * rate, math.sqrt(rate * self.per_s))
        self._calm = _CALM // 2 if soon else 0
        self.per_s = max(_LEAST_RATE, min(self.per_s, rate))
        self._searching = False
        self._marks.append((now, self._idle_s, self._taken))
        return True

    def _measured(self, now: float) -> float | None:
        """Return calls a second since the nearest refusal with enough calls after it."""
        for at, idle_s, taken in reversed(self._marks):
            if self._taken - taken >= _ENOUGH:
                return (self._taken - taken) / max(now - at - (self._idle_s - idle_s), 0.001)
        return None


class Pace:
    """Window and rate together. Times are seconds of one clock, given by the caller."""

    def __init__(self, top: int):
        self.window = Window(top)
        self.rate = Rate()
        self.proven = False  # a call has succeeded
        self._took_s = 0.0  # about; from sending to the whole reply
        self._last_sent = 0.0
        self._last_refusal = -math.inf
        self._refused_in_a_row = 0
        self._believed_from = 0  # refusals in a row that speak of a rate

    def __str__(self) -> str:
        spaced = f" ({self.rate.per_s:.1f}/s)" if self.rate.per_s < math.inf else ""
        return f"{self.window.size}{spaced}"

    def delay_s(self, now: float, in_flight: int) -> float:
        """Return how long the next call waits; infinity when one in flight has to end first."""
        if in_flight >= self.window.size:
            return math.inf
        at = self.rate.next_at
        if self.window.trying and self.window.step == 1 and in_flight >= self.window.good:
            # Apart from the others, so that a refusal speaks of the window alone.
            at = max(at, self._last_sent + self._took_s / (2 * self.window.size))
        return max(0.0, at - now)

    def sent(self, now: float, in_flight: int) -> Ticket:
        """Note a call that goes out; `in_flight` counts it."""
        ticket = Ticket(now, in_flight)
        self._last_sent = now
        self.window.sent(ticket)
        self.rate.sent(now)
        return ticket

    def succeeded(self, now: float, ticket: Ticket) -> None:
        """Note a whole reply."""
        took_s = now - ticket.at
        if ticket.at > self._last_refusal:
            self._refused_in_a_row = 0
            self.rate.succeeded()
        if not self.proven:
            self.prove()
            self._took_s = took_s
        else:
            self._took_s += 0.2 * (took_s - self._took_s)
            self.window.succeeded(ticket)

    def prove(self) -> None:
        """Note that calls can succeed at all."""
        self.proven = True
        self.window.open()

    def forget_refusals(self) -> None:
        """Drop what they have taught: a one-word chat has passed, so they had another cause."""
        self.rate = Rate()
        self._refused_in_a_row = 0
        if not self.proven:
            self.prove()

    def refused(
        self, now: float, ticket: Ticket, *, clearly: bool = True, retry_after_s: float = 0.0
    ) -> None:
        """Note a refusal; `clearly`: its status speaks of a limit, as 429 does."""
        self.rate.not_taken()
        self._refused_in_a_row += 1
        self.rate.next_at = max(self.rate.next_at, now + retry_after_s)
        if ticket.at <= self._last_refusal:
            return  # calls that were out together meet the same limit
        self._believed_from = self._believed_from or (1 if clearly else 2)
        if ticket.level > self.window.good:
            self._last_refusal = now
            self.window.try_failed(ticket)
            return
        if self.rate.per_s == math.inf and self._refused_in_a_row < self._believed_from:
            return
        self._last_refusal = now
        if ticket.level > 1:
            self.window.narrow(ticket.level - 1)
        if not self.rate.refused(now, self._refused_in_a_row, retry_after_s):
            self._believed_from += 2

    def broke(self, now: float, ticket: Ticket) -> None:
        """Note a call that broke or stalled: without any success between, half the window."""
        self._refused_in_a_row += 1
        if ticket.at <= self._last_refusal or self._refused_in_a_row < 3:
            return
        self._last_refusal = now
        self.window.narrow(ticket.level // 2)
        doubled_s = _RETRY * 2 ** min(self._refused_in_a_row - 3, 10)
        self.rate.next_at = max(self.rate.next_at, now + min(_LONGEST_PAUSE_S, doubled_s))
