"""The pace of one model: how many calls it gets at once, and when all of them wait."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque

from common.client.faults import Fault, ItemFailed

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_START_PACE = 16


class RateLimiter:
    """How many calls one model gets at once.

    Additive rise, halving on a rate limit (AIMD, as TCP does), pauses for all.
    """

    def __init__(self, top: int):
        self.top = top
        self.limit = 1.0
        self.in_flight = 0
        self.proven = False  # a call has succeeded
        self.ever_reached = False  # anything has answered
        self.last_life = time.monotonic()
        self.faults_in_a_row = 0
        self.exhausted_in_a_row = 0
        self.gone = ""  # why nothing more is asked of this model, once it is out
        self.refusals: Counter = Counter()
        self._ceiling = float(top)
        self._setbacks = 0
        self._last_setback = 0.0
        self._pause_until = 0.0
        self._waiting: deque[asyncio.Future] = deque()

    async def enter(self, first: bool) -> float:
        """Wait for a place, in front of the others when `first`; return the time of entry.

        Raises Halted when the run ends meanwhile, ItemFailed when the model is out.
        """
        if self.gone:
            raise ItemFailed("provider: a model does not answer", self.gone)
        while self.in_flight >= int(self.limit) or time.monotonic() < self._pause_until:
            place = asyncio.get_running_loop().create_future()
            if first:
                self._waiting.appendleft(place)
            else:
                self._waiting.append(place)
            await place
        self.in_flight += 1
        return time.monotonic()

    def leave(self) -> None:
        """Give the place back."""
        self.in_flight -= 1
        self._wake()

    def alive(self) -> None:
        """Note that words of a reply are arriving."""
        self.last_life = time.monotonic()
        self.ever_reached = True

    def succeeded(self) -> None:
        """Make room for more: quickly below the last known ceiling, slowly above it."""
        self.alive()
        self.faults_in_a_row = 0
        self.exhausted_in_a_row = 0
        self._setbacks = 0
        if not self.proven:
            self.proven = True
            self.limit = float(min(self.top, _START_PACE))
        elif self.limit < self._ceiling:
            self.limit = min(self._ceiling, self.limit + 1)
        elif self.limit < self.top:
            self.limit = min(self.top, self.limit + 0.1 / self.limit)  # one more in ten rounds
            self._ceiling = self.limit

    def failed(self, fault: Fault, entered: float) -> None:
        """Slow down: a rate limit halves the pace; trouble upon trouble also pauses the model."""
        self.ever_reached = self.ever_reached or fault.reached
        if fault.category != "transient":
            return
        self.faults_in_a_row += 1
        if fault.retry_after_s:
            self._pause(fault.retry_after_s)
        if entered < self._last_setback:
            return  # one setback a round: calls that were out together meet the same trouble
        self._last_setback = time.monotonic()
        self._setbacks += 1
        if fault.rate_limited:
            self._ceiling = max(1.0, 0.8 * self.limit)
        if fault.rate_limited or self._setbacks > 1:
            self.limit = max(1.0, self.limit / 2)
        if not self.proven:
            self._pause(wait_s(self._setbacks - 1))
        elif self._setbacks > 1:
            self._pause(wait_s(self._setbacks - 2))

    def turn_away(self, error: Exception) -> None:
        """Wake everyone who waits with this error."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(error)

    def pause_left_s(self) -> float:
        """Return how long the whole model still waits."""
        return max(0.0, self._pause_until - time.monotonic())

    def _pause(self, seconds: float) -> None:
        self._pause_until = max(self._pause_until, time.monotonic() + seconds)
        asyncio.get_running_loop().call_later(seconds + 0.01, self._wake)

    def _wake(self) -> None:
        if time.monotonic() < self._pause_until:
            return
        free = int(self.limit) - self.in_flight
        while self._waiting and free > 0:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1


def wait_s(tries_before: int) -> float:
    """Return the wait before the next try: from a second doubling to a minute, half jitter."""
    longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(tries_before, 10))
    return longest * random.uniform(0.5, 1.0)
