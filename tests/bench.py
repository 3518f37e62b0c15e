"""All benchmarks in one go, one table after the other. Not part of the test run.

    python -m tests.bench                 everything, about ten minutes on two cores
    python -m tests.bench calls resume    only those named

Each table has a floor, measured in the same run: read the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform

TABLES = {
    "calls": "the calling stages against a plain floor",
    "pace": "king.py against limits that it must find out",
    "batches": "12,000 verdicts by batches",
    "resume": "20,000 finished turns",
    "prefix": "what a prefix cache could serve",
    "prompt": "stage 1 against other ways to read a large dataset",
    "gate": "the gate's error rates",
    "leaks": "the leak audit",
    "report": "the report on 10,000 turns",
    "page": "the page to read turns, in Chromium",
}


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    names = flags.parse_args().tables or list(TABLES)
    unknown = sorted(set(names) - set(TABLES))
    if unknown:
        flags.error(f"no such table: {', '.join(unknown)}; known: {', '.join(TABLES)}")
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    print(f"Python {platform.python_version()} on {machine}")
    for name in names:
        print(f"\n== {name}: {TABLES[name]}\n", flush=True)
        try:
            benchmark = importlib.import_module(f"tests.bench_{name}")
        except ModuleNotFoundError as missing:
            print(f"left out: {missing}; pip install {missing.name}")
            continue
        benchmark.main([])


if __name__ == "__main__":
    main()
