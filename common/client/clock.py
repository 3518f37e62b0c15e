"""Time in which this process was awake, and limits in it.

A process that was stopped (Ctrl-Z, a laptop's sleep) finds all its time-outs passed when it goes
on, though the replies lie in its sockets. Time here only passes while the loop runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

from common.client.faults import Fault

_TICK_S = 0.2
_STOPPED_S = 2.0  # more is not the loop's own work: what has arrived is read first


class AwakeClock:
    """Seconds in which the run was awake."""

    def __init__(self):
        self.now_s = 0.0

    async def run(self) -> None:
        """Let time pass."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(_TICK_S)
            passed_s = time.monotonic() - before
            self.now_s += passed_s if passed_s < _STOPPED_S else _TICK_S


class TimeLimit:
    """How long one call may be silent, and how long it may take in all."""

    def __init__(self, clock: AwakeClock, silence_s: float, total_s: float):
        self._clock = clock
        self._silence_s = silence_s
        self._total_s = total_s
        self._heard_s = clock.now_s

    def heard(self) -> None:
        """Note that something arrived."""
        self._heard_s = self._clock.now_s

    async def run(self, work: Awaitable):
        """Return what `work` returns. Raises Fault when a limit is passed."""
        started_s = self._clock.now_s
        task = asyncio.ensure_future(work)
        try:
            while True:
                await asyncio.wait({task}, timeout=_TICK_S)
                if task.done():
                    return task.result()
                if self._clock.now_s - started_s > self._total_s:
                    detail = f"not finished after {self._total_s:g} s"
                    raise Fault("transient", "no whole reply in time", detail)
                if self._clock.now_s - self._heard_s > self._silence_s:
                    raise Fault("transient", "stalled", f"silent for {self._silence_s:g} s")
        finally:
            task.cancel()
