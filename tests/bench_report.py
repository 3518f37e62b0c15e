"""Time and memory of report.py on generated turns, beside a floor: reading every answer and score once as JSON.

Run: python -m tests.bench_report [--turns 10000] [--chat-chars 36000]
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
from pathlib import Path

from tests.test_report import MOST, SCRIPTS, get, make_duel, make_run, put, where


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--turns", type=int, default=10_000)
    flags.add_argument("--chat-chars", type=int, default=7_500, help="of each message, of five on average")
    given = flags.parse_args(argv)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        points = [min(MOST, max(0, round(rng.gauss(40, 12)))) for _ in range(given.turns)]
        make_run(root, points, instances=given.turns // 5, chat_chars=given.chat_chars, text_chars=1500)
        size = sum(path.stat().st_size for path in root.glob("answer_0/*.json"))
        print(f"{given.turns:,} turns, {size / given.turns / 1000:.0f} KB an answer\n")
        started = time.monotonic()
        for path in [*root.glob("answer_0/*.json"), *root.glob("score/*.json")]:
            json.loads(path.read_bytes())
        floor_s = time.monotonic() - started
        print(f"{'what':<34} {'s':>6} {'x floor':>8} {'peak MB':>8}  exit")
        print(f"{'floor: parse answers and scores':<34} {floor_s:>6.1f} {1:>8.1f}")
        measure(root, "report.py, first run", floor_s)
        measure(root, "report.py, nothing new", floor_s)
        measure(root, "report.py --check", floor_s, "--check")
        measure(root, "report.py --with-refined", floor_s, "--with-refined")
        flip(root)
        measure(root, "report.py, all verdicts flipped", floor_s)
        wrong = sum(len(buckets) != 1 for buckets in where(root).values())
        print(f"\nturns in none or several buckets after the flip: {given.turns - len(where(root)) + wrong}")


def flip(root: Path) -> None:
    """Every verdict the other way round."""
    scores = []
    for path in root.glob("score/[!_]*.json"):
        score = get(path)
        score["points"] = score["max_points"] - score["points"]
        score["score"] = 100 * score["points"] / score["max_points"]
        put(path, score)
        scores.append({key: score[key] for key in ("parsed", "status", "score")})
    put(root / "score/_duel.json", make_duel(scores))


def measure(root: Path, what: str, floor_s: float, *flags: str) -> None:
    """Run report.py and print its wall time and peak memory (of the process alone, from wait4)."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, SCRIPTS / "report.py", *flags], cwd=root, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took_s = time.monotonic() - started
    print(f"{what:<34} {took_s:>6.1f} {took_s / floor_s:>8.1f} {usage.ru_maxrss / 1000:>8.0f}  "
          f"{os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
