"""What the benchmarks share: a whole process timed, files made without counting as its memory."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import time
from pathlib import Path


def timed(
    command: list[str], folder: Path, environment: dict, code: int = 0
) -> tuple[float, float, float]:
    """Run a process to its end; return wall seconds, CPU seconds and peak MB, import included."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == code, f"{command} ended with {process.returncode}"
    return wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def in_a_child(make, *arguments) -> None:
    """Make files in a process of its own: a child starts with the peak memory of its parent."""
    child = multiprocessing.get_context("spawn").Process(target=make, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == 0
