"""Time-outs in time that this process was awake.

A process that was stopped (Ctrl-Z, a laptop's sleep) finds all its time-outs passed when it goes
on, though the replies lie in its sockets. Time here only passes while the loop runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from common.client.faults import Fault

_TICK_S = 0.2
_LONGEST_TICK_S = 1.0  # more is not the loop's own work


class Watch:
    """The clock of a run, and the time limits of its calls; `woke(seconds)` is told of a stop."""

    def __init__(self, woke: Callable[[float], None]):
        self.now_s = 0.0
        self.limits: set[TimeLimit] = set()
        self._woke = woke

    async def run(self) -> None:
        """Let time pass, and end the calls whose time is over."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            passed_s = time.monotonic() - last
            last += passed_s
            self.now_s += min(passed_s, _LONGEST_TICK_S)
            if passed_s > _LONGEST_TICK_S:
                self._woke(passed_s - _LONGEST_TICK_S)
                continue  # what has arrived meanwhile is read first
            for limit in list(self.limits):
                limit.check()


class TimeLimit:
    """How long one call may be silent, and how long it may take in all."""

    def __init__(self, watch: Watch, silence_s: float, total_s: float):
        self._watch = watch
        self._silence_s = silence_s
        self._total_s = total_s
        self._started_s = watch.now_s
        self._heard_s = watch.now_s
        self._task: asyncio.Future | None = None
        self._fault: Fault | None = None

    async def run(self, work: Awaitable):
        """Return what `work` returns. Raises Fault when a limit is passed."""
        self._task = asyncio.ensure_future(work)
        self._watch.limits.add(self)
        try:
            return await self._task
        except asyncio.CancelledError:
            if self._fault is None:
                raise
            raise self._fault from None
        finally:
            self._watch.limits.discard(self)

    def heard(self) -> None:
        """Note that something arrived."""
        self._heard_s = self._watch.now_s

    def check(self) -> None:
        """End the call when a limit is passed."""
        now_s = self._watch.now_s
        if now_s - self._started_s > self._total_s:
            detail = f"not finished after {self._total_s:g} s"
            self._fault = Fault("transient", "no whole reply in time", detail)
        elif now_s - self._heard_s > self._silence_s:
            self._fault = Fault("transient", "stalled", f"silent for {self._silence_s:g} s")
        else:
            return
        self._task.cancel()
