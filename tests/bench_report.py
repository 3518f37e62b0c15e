"""Time and memory of report.py, beside a floor: parsing every answer and score once.

Run: python -m tests.bench_report [--turns 10000] [--chat-chars 2500]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from multiprocessing import Process
from pathlib import Path

from pydantic_core import from_json

from common.files import turn_files
from common.turns import BUCKETS
from tests.makers import MOST, get, make_duel, make_run, make_score, put
from tests.runner import REPO

VERDICT_CHARS = 1500  # of a judge's answer


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--turns", type=int, default=10_000)
    flags.add_argument(
        "--chat-chars", type=int, default=2_500, help="of each message, of ten on average"
    )
    given = flags.parse_args(argv)
    chance = random.Random(0)
    points = [min(MOST, max(0, round(chance.gauss(40, 12)))) for _ in range(given.turns)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # By a process of its own: a child's peak memory is at least its parent's.
        maker = Process(target=make, args=(folder, points, given.chat_chars))
        maker.start()
        maker.join()
        measure_all(folder, points)


def make(folder: Path, points: list[int], chat_chars: int) -> None:
    """Write the run: five turns an instance."""
    make_run(folder, points, instances=max(1, len(points) // 5), chars=chat_chars)
    judge(folder, points)


def judge(folder: Path, points: list[int]) -> None:
    """Write the scores with verdicts of a usual length, and the duel over them."""
    scores = []
    for path, won in zip(turn_files(folder / "answer_0"), points):
        score = make_score(path.stem, get(path), won)
        for verdict in score["verdicts"]:
            verdict["text"] = "x" * VERDICT_CHARS
        put(folder / f"score/{path.name}", score)
        scores.append({key: score[key] for key in ("instance_id", "parsed", "status", "score")})
    put(folder / "score/_duel.json", make_duel(scores))


def measure_all(folder: Path, points: list[int]) -> None:
    """Print a table of the runs, each beside the floor."""
    size = sum(path.stat().st_size for path in folder.glob("answer_0/*.json"))
    print(f"{len(points):,} turns, {size / len(points) / 1000:.0f} KB an answer\n")
    paths = [*folder.glob("answer_0/*.json"), *folder.glob("score/*.json")]
    for path in paths:
        path.read_bytes()  # so that neither floor waits for the disk
    print(f"{'what':<34} {'s':>6} {'CPU s':>6} {'x floor':>8} {'of CPU':>8} {'peak MB':>8}  exit")
    for name, parse in (("json.loads", json.loads), ("pydantic_core.from_json", from_json)):
        started_s = time.monotonic()
        started_cpu_s = time.process_time()
        for path in paths:
            parse(path.read_bytes())
        floor = (time.monotonic() - started_s, time.process_time() - started_cpu_s)
        print(f"{f'floor: {name} of each file':<34} {floor[0]:>6.1f} {floor[1]:>6.1f}")
    measure(folder, "report.py, first run", floor)
    measure(folder, "report.py, nothing new", floor)
    measure(folder, "report.py --with-refined", floor, "--with-refined")
    judge(folder, [MOST - won for won in points])
    measure(folder, "report.py, all verdicts flipped", floor)
    placed = [path.stem for bucket in BUCKETS for path in turn_files(folder / bucket)]
    once = len(set(placed)) == len(placed) == len(points)
    print("\nafter the flip each turn lies in one bucket" if once else "\nTURNS ARE MISPLACED")


def measure(folder: Path, what: str, floor: tuple[float, float], *flags: str) -> None:
    """Run report.py and print its time, also in times of the floor, and its peak memory."""
    started_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, REPO / "report.py", *flags],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    took_s = time.monotonic() - started_s
    cpu_s = usage.ru_utime + usage.ru_stime
    ratios = f"{took_s / floor[0]:>8.1f} {cpu_s / floor[1]:>8.1f}"
    code = os.waitstatus_to_exitcode(status)
    print(
        f"{what:<34} {took_s:>6.1f} {cpu_s:>6.1f} {ratios} {usage.ru_maxrss / 1000:>8.0f}  {code}"
    )


if __name__ == "__main__":
    main()
