"""What a sample costs: prompt.py against `datasets`, DuckDB and pyarrow, on one emulated Hub.

    python -m tests.bench_prompt    makes its own data (0.5 GB, two minutes), serves it itself

The floor is the compressed size of the needed columns of the row groups that prompt.py drew, plus
the needed columns of the PR records. Times hold only against each other: the Hub is on loopback,
30 ms a request, with redirects.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from common.sampling.chats import ROW_COLUMNS
from common.sampling.records import PR_COLUMNS
from tests.hub import FakeHub, column_bytes, write_datasets

REPO = Path(__file__).resolve().parent.parent
WINDOWS = 40
LINE = "{:<48}{:>8}{:>8}{:>9}{:>9}{:>10}{:>11}"
FAULTS = {"503": 0.03, "429": 0.03, "cut": 0.05, "short": 0.05, "whole": 0.01}

COMMON = """
import collections, json, random, sys
name, turns, windows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance, taken = random.Random(0), collections.Counter()
"""
WAYS = {
    "datasets .skip(offset).take(k), 3 windows": COMMON
    + """
from datasets import load_dataset
rows = load_dataset(name, split="train", streaming=True)
for offset in [chance.randrange(int(sys.argv[4])) for _ in range(3)]:
    taken.update(row["instance_id"] for row in rows.skip(offset).take(turns // 3))
""",
    "datasets .shuffle(buffer of 1,000)": COMMON
    + """
from datasets import load_dataset
rows = load_dataset(name, split="train", streaming=True).shuffle(seed=0, buffer_size=1000)
taken.update(row["instance_id"] for row in rows.take(turns))
""",
    "DuckDB file_row_number BETWEEN": COMMON
    + """
import datetime, duckdb
from huggingface_hub import HfFileSystem
class Files(HfFileSystem):
    def modified(self, path):  # DuckDB asks for it; HfFileSystem has none for a dataset
        return datetime.datetime(2026, 1, 1)
files = Files()
duckdb.register_filesystem(files)
paths = sorted(files.glob(f"datasets/{name}/data/*.parquet"))
for _ in range(windows):
    path, share = chance.choice(paths), int(sys.argv[4]) // len(paths)
    first, step = chance.randrange(share - 1000), 1000 * windows // turns
    taken.update(row[0] for row in duckdb.execute(
        f"SELECT instance_id, messages FROM read_parquet('hf://{path}', file_row_number=true) "
        f"WHERE file_row_number BETWEEN {first} AND {first + 999} "
        f"AND (file_row_number - {first}) % {step} = 0"
    ).fetchall())
""",
    "pyarrow + HfFileSystem, a row group a window": COMMON
    + """
import pyarrow.parquet as pq
from huggingface_hub import HfFileSystem
files = HfFileSystem()
paths = sorted(files.glob(f"datasets/{name}/data/*.parquet"))
for _ in range(windows):
    with files.open(chance.choice(paths), cache_type="none") as opened:
        parquet = pq.ParquetFile(opened, pre_buffer=True)
        group = chance.randrange(parquet.num_row_groups)
        table = parquet.read_row_group(group, columns=["instance_id", "repo", "messages"])
        ids, step = table["instance_id"].to_pylist(), max(1, len(table) * windows // turns)
        taken.update(ids[::step])
""",
}
ENDING = """
print(json.dumps([sum(taken.values()), len(taken)]))
sys.stdout.flush()
import os; os._exit(0)
"""


def measured(command: list[str], hub: FakeHub, folder: Path) -> tuple[float, float, float, str]:
    """Return wall s, MB sent, peak MB of the process, and its output."""
    hub.forget()
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf_home"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    started = time.monotonic()
    with open(folder / "errors", "w+b") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors
        )
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            told = errors.read().decode()[-2000:]
            raise SystemExit(f"{command[:3]}: exit code {process.returncode}\n{told}")
    return time.monotonic() - started, hub.sent() / 1e6, usage.ru_maxrss / 1024, output.decode()


def report(data: Path, group_rows: int, turns: int, latency_s: float) -> None:
    chats = data / "acme" / "trajectories"
    paths = list(chats.rglob("*.parquet"))
    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    size = sum(path.stat().st_size for path in paths)
    records = column_bytes(data / "acme" / "prs", PR_COLUMNS)  # few: all row groups are needed
    print(
        f"\nrow groups of {group_rows}: {rows:,} rows, {size / 1e6:,.0f} MB; {turns} turns, "
        f"{latency_s * 1000:.0f} ms a request"
    )
    print(LINE.format("way", "wall s", "MB", "/ floor", "peak MB", "requests", "instances"))
    both = ["--dataset", "acme/trajectories", "--prs", "acme/prs", "--benchmarks", "none"]
    with FakeHub(data, latency_s=latency_s) as hub, tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, str(REPO / "prompt.py"), *both, "--count", str(turns)]
        for faults in ({}, FAULTS):
            hub.faults = faults
            cwd = Path(scratch, str(len(faults)))
            cwd.mkdir()
            wall, sent, peak, _ = measured(command, hub, cwd)
            windows = json.loads(Path(cwd, "prompt", "_plan.json").read_text())["offsets"]
            drawn = {(window["file"], window["row_group"]) for window in windows}
            floor = (column_bytes(chats, ROW_COLUMNS, drawn) + records) / 1e6
            taken = [turn["instance_id"] for window in windows for turn in window["turns"]]
            way = f"prompt.py, {len(windows)} windows, records{', faults' if faults else ''}"
            counts = f"{len({*taken})}/{len(taken)}"
            show(way, wall, sent, f"{sent / floor:.3f}", peak, len(hub.requests), counts)
        hub.faults = {}
        for way, program in WAYS.items():
            arguments = ["acme/trajectories", str(turns), str(WINDOWS), str(rows)]
            command = [sys.executable, "-c", program + ENDING, *arguments]
            wall, sent, peak, output = measured(command, hub, Path(scratch))
            taken, instances = json.loads(output.splitlines()[-1])
            show(way, wall, sent, "", peak, len(hub.requests), f"{instances}/{taken}")


def show(way: str, wall: float, sent: float, share: str, peak: float, requests: int, counts: str):
    print(LINE.format(way, f"{wall:.1f}", f"{sent:.0f}", share, f"{peak:.0f}", requests, counts))
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--data", type=Path, help="where to make the data, or find it again")
    flags.add_argument("--instances", type=int, default=600, help="of 100 rollouts (%(default)s)")
    flags.add_argument("--turns", type=int, default=400)
    flags.add_argument("--latency-ms", type=float, default=30)
    args = flags.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        for group_rows in (1000, 500):
            data = (args.data or Path(scratch)) / str(group_rows)
            if not data.exists():
                write_datasets(
                    data,
                    instances=args.instances,
                    rollouts=100,
                    files=12,
                    group_rows=group_rows,
                    characters=1200,
                )
            report(data, group_rows, args.turns, args.latency_ms / 1000)


if __name__ == "__main__":
    main()
