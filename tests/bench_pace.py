"""How closely king.py keeps the pace of a provider whose limits nobody has told it.

    python -m tests.bench_pace [NAME ...]      all cells take about ten minutes

A cell is one run on loopback, from the first request to the last whole reply, beside the ideal of
its limit: who knew it would need so long and meet no refusal. "after 10 s" compares what was left
at the tenth second with the time that the ideal needs for as much.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.demo.server import Server
from tests.makers import REPLY, make_sample
from tests.runner import KEY, stage

Steps = list[tuple[float, float]]  # from when on (seconds), how much


def at(steps: Steps, now: float) -> float:
    """Return what holds at a time."""
    return [value for start, value in steps if now >= start][-1]


class Bucket:
    """So many calls a second, and a burst."""

    def __init__(self, rates: Steps, burst: float):
        self.rates = rates
        self.burst = burst
        self.tokens = burst
        self.filled_at = 0.0

    def takes(self, now: float, in_flight: int) -> bool:
        gained = (now - self.filled_at) * at(self.rates, now)
        self.tokens = min(self.burst, self.tokens + gained)
        self.filled_at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def ideal_s(self, calls: float, latency_s: float, start: float = 0.0) -> float:
        """Return the least time for so many calls; from the start, the burst goes at once."""
        left = calls if start else calls - self.burst
        return spend(self.rates, left, start) + (0.0 if start else latency_s)


class Connections:
    """So many calls at once."""

    def __init__(self, counts: Steps):
        self.counts = counts

    def takes(self, now: float, in_flight: int) -> bool:
        return in_flight < at(self.counts, now)

    def ideal_s(self, calls: float, latency_s: float, start: float = 0.0) -> float:
        return spend([(when, count / latency_s) for when, count in self.counts], calls, start)


class SlidingWindow:
    """So many calls in any period of so many seconds."""

    def __init__(self, calls: int, period_s: float):
        self.calls = calls
        self.period_s = period_s
        self.taken: deque[float] = deque()

    def takes(self, now: float, in_flight: int) -> bool:
        while self.taken and self.taken[0] <= now - self.period_s:
            self.taken.popleft()
        if len(self.taken) >= self.calls:
            return False
        self.taken.append(now)
        return True

    def ideal_s(self, calls: float, latency_s: float, start: float = 0.0) -> float:
        if start:
            return calls / self.calls * self.period_s
        return (math.ceil(calls / self.calls) - 1) * self.period_s + latency_s


class FixedWindow:
    """So many calls in each period by the clock, such as each five seconds."""

    def __init__(self, calls: int, period_s: float):
        self.calls = calls
        self.period_s = period_s
        self.period = -1
        self.taken = 0

    def takes(self, now: float, in_flight: int) -> bool:
        period = int(now // self.period_s)
        if period != self.period:
            self.period = period
            self.taken = 0
        self.taken += 1
        return self.taken <= self.calls

    ideal_s = SlidingWindow.ideal_s


class RateAndConnections(Bucket):
    """A rate and a number of calls at once."""

    def __init__(self, rate: float, burst: float, count: int):
        super().__init__([(0, rate)], burst)
        self.count = count

    def takes(self, now: float, in_flight: int) -> bool:
        return in_flight < self.count and super().takes(now, in_flight)


def spend(rates: Steps, calls: float, start: float) -> float:
    """Return the seconds from `start` until so many calls have passed."""
    now = start
    while calls > 0:
        calls -= at(rates, now) * 0.01
        now += 0.01
    return now - start


@dataclass
class Cell:
    """One limit to be found out."""

    make: Callable
    calls: int
    latency_s: float = 0.0
    refuses: str = "429"
    concurrency: int = 32


CELLS = {
    "rate-429": Cell(lambda: Bucket([(0, 10)], 5), 300),
    "rate-503": Cell(lambda: Bucket([(0, 10)], 5), 300, refuses="503"),
    "minute": Cell(lambda: Bucket([(0, 1)], 10), 100),
    "connections": Cell(lambda: Connections([(0, 4)]), 240, 0.5),
    "rate-doubled": Cell(lambda: Bucket([(0, 10), (15, 20)], 5), 300),
    "rate-halved": Cell(lambda: Bucket([(0, 10), (15, 5)], 5), 300),
    "connections-doubled": Cell(lambda: Connections([(0, 4), (15, 8)]), 300, 0.5),
    "connections-halved": Cell(lambda: Connections([(0, 8), (15, 4)]), 300, 0.5),
    "fixed-window": Cell(lambda: FixedWindow(50, 5.0), 300),
    "sliding-window": Cell(lambda: SlidingWindow(30, 3.0), 300),
    "rate-and-connections": Cell(lambda: RateAndConnections(10, 5, 4), 300, 0.3),
    "free-400": Cell(lambda: Connections([(0, 400)]), 2400, 1.0, concurrency=400),
}


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("cells", nargs="*", metavar="NAME", help=", ".join(CELLS))
    names = flags.parse_args(argv).cells or list(CELLS)
    print(
        f"{'limit':22}{'calls':>7}{'ideal s':>9}{'run s':>8}{'x ideal':>9}{'after 10 s':>12}"
        f"{'refused':>9}{'lost':>6}{'at once':>9}"
    )
    for name in names:
        print(measure(name, CELLS[name]), flush=True)


def measure(name: str, cell: Cell) -> str:
    """Run king.py once against the limit; return a row of the table."""
    limit = cell.make()
    lock = threading.Lock()
    first_at: float | None = None

    def fault(number: int, body: dict) -> str | None:
        nonlocal first_at
        with lock:
            first_at = first_at or time.time()
            others = server.in_flight - 1
            return None if limit.takes(time.time() - first_at, others) else cell.refuses

    folder = Path(tempfile.mkdtemp(prefix="bench_pace_"))
    make_sample(folder, cell.calls)
    # keep=False would keep no times; the prompts here are small.
    with Server(
        reply=lambda body: REPLY, key=KEY, latency_s=cell.latency_s, faults=fault
    ) as server:
        flags = ["--concurrency", str(cell.concurrency)]
        result = stage("king.py", *flags, cwd=folder, server=server, timeout_s=400, fresh=True)
    assert "Traceback" not in result.stderr, result.stderr
    lost = cell.calls - len(list(folder.glob("answer_0/prompts*.json")))
    shutil.rmtree(folder)
    ends = [request["finished_at"] for request in server.chats if not request["fault"]]
    run_s = max(ends) - first_at
    refused = len(server.chats) - len(ends)
    ideal_s = limit.ideal_s(cell.calls, cell.latency_s)
    left = sum(end > first_at + 10 for end in ends)
    tail = (run_s - 10) / limit.ideal_s(left, cell.latency_s, start=10.0) if left else math.nan
    return (
        f"{name:22}{cell.calls:7}{ideal_s:9.2f}{run_s:8.2f}{run_s / ideal_s:9.2f}{tail:12.2f}"
        f"{refused / cell.calls:9.1%}{lost:6}{server.peak_in_flight:9}"
    )


if __name__ == "__main__":
    main()
