"""What a sample costs: prompt.py against `datasets` streaming, DuckDB and plain pyarrow, on one emulated Hub.

    python -m tests.bench_prompt      makes its own data (0.5 GB, two minutes), serves it from tests/hub.py

The floor is the compressed size of the needed columns of the row groups that prompt.py drew, plus the needed columns
of the PR records. Times hold only against each other: the Hub is on loopback, 30 ms a request, with redirects.
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

from tests.hub import FakeHub, write_datasets

REPO = Path(__file__).resolve().parent.parent
WINDOWS = 40

COMMON = """
import collections, json, random, sys
name, turns, windows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance, taken = random.Random(0), collections.Counter()
"""
WAYS = {
    "datasets .skip(offset).take(k), 3 windows": COMMON + """
from datasets import load_dataset
rows = load_dataset(name, split="train", streaming=True)
for offset in [chance.randrange(int(sys.argv[4])) for _ in range(3)]:
    taken.update(row["instance_id"] for row in rows.skip(offset).take(turns // 3))
""",
    "datasets .shuffle(buffer of 1,000)": COMMON + """
from datasets import load_dataset
rows = load_dataset(name, split="train", streaming=True).shuffle(seed=0, buffer_size=1000)
taken.update(row["instance_id"] for row in rows.take(turns))
""",
    "DuckDB file_row_number BETWEEN": COMMON + """
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
        f"WHERE file_row_number BETWEEN {first} AND {first + 999} AND (file_row_number - {first}) % {step} = 0"
    ).fetchall())
""",
    "pyarrow + HfFileSystem, a row group a window": COMMON + """
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
ENDING = "\nprint(json.dumps([sum(taken.values()), len(taken)]))\nsys.stdout.flush()\nimport os; os._exit(0)\n"


def measured(command: list[str], hub: FakeHub, folder: Path) -> tuple[float, float, float, str]:
    """(wall s, MB sent, peak MB of the process, its output)."""
    hub.requests.clear()
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf_home"),
                   "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[:3]}: exit code {process.returncode}\n{errors.decode()[-2000:]}")
    return time.monotonic() - started, hub.sent() / 1e6, usage.ru_maxrss / 1024, output.decode()


def report(data: Path, group_rows: int, turns: int, latency_s: float) -> None:
    rows = sum(pq.read_metadata(path).num_rows for path in Path(data, "acme", "trajectories").rglob("*.parquet"))
    size = sum(path.stat().st_size for path in Path(data, "acme", "trajectories").rglob("*.parquet"))
    print(f"\nrow groups of {group_rows}: {rows:,} rows, {size / 1e6:,.0f} MB; {turns} turns, "
          f"{latency_s * 1000:.0f} ms a request")
    print(f"{'way':<48}{'wall s':>8}{'MB':>8}{'/ floor':>9}{'peak MB':>9}{'requests':>10}{'instances':>11}")
    with FakeHub(data, latency_s=latency_s) as hub, tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        wall, sent, peak, _ = measured([sys.executable, str(REPO / "prompt.py"), "--dataset", "acme/trajectories",
                                        "--prs", "acme/prs", "--count", str(turns)], hub, scratch)
        plan = json.loads(Path(scratch, "prompt", "_plan.json").read_text())["summary"]
        floor = (plan["trajectory_bytes"] + plan["record_bytes"]) / 1e6
        line = "{:<48}{:>8.1f}{:>8.0f}{:>9}{:>9.0f}{:>10}{:>11}"
        print(line.format(f"prompt.py, {plan['windows']} windows, with PR records", wall, sent, f"{sent / floor:.3f}",
                          peak, len(hub.requests), f"{plan['instances']}/{plan['prompts']}"), flush=True)
        for way, program in WAYS.items():
            command = [sys.executable, "-c", program + ENDING, "acme/trajectories", str(turns), str(WINDOWS), str(rows)]
            wall, sent, peak, output = measured(command, hub, scratch)
            taken, instances = json.loads(output.splitlines()[-1])
            print(line.format(way, wall, sent, "", peak, len(hub.requests), f"{instances}/{taken}"), flush=True)


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--data", type=Path, help="where to make the data, or find it again (a temporary folder)")
    flags.add_argument("--instances", type=int, default=600, help="of 100 rollouts each (%(default)s)")
    flags.add_argument("--turns", type=int, default=400)
    flags.add_argument("--latency-ms", type=float, default=30)
    args = flags.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        for group_rows in (1000, 500):
            data = (args.data or Path(scratch)) / str(group_rows)
            if not data.exists():
                write_datasets(data, instances=args.instances, rollouts=100, files=12, group_rows=group_rows,
                               characters=1200)
            report(data, group_rows, args.turns, args.latency_ms / 1000)


if __name__ == "__main__":
    main()
