"""The demo's data as parquet, in the schemas of the two source datasets."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
OVERSIZED = "atlas-maps__placenames-77"  # its patch is made here, too large for any prompt

_TEXT = pa.string()
_TEXTS = pa.list_(_TEXT)
_MESSAGES = pa.list_(pa.struct({"role": _TEXT, "content": _TEXT}))
TRAJECTORIES = pa.schema(
    {
        "instance_id": _TEXT,
        "repo": _TEXT,
        "messages": _MESSAGES,
        "trajectory_format": _TEXT,
        "exit_status": _TEXT,
        "duration_sec": pa.float64(),
    }
)
PULL_REQUESTS = pa.schema(
    {
        "instance_id": _TEXT,
        "repo": _TEXT,
        "base_commit": _TEXT,
        "created_at": pa.int64(),
        "language": _TEXT,
        "license": _TEXT,
        "interface": _TEXT,
        "problem_statement": _TEXT,
        "pr_description": _TEXT,
        "patch": _TEXT,
        "test_patch": _TEXT,
        "image_name": _TEXT,
        "FAIL_TO_PASS": _TEXTS,
        "PASS_TO_PASS": _TEXTS,
    }
)


def version() -> str:
    """Return a digest of the demo's own code and data: other versions' folders are made anew."""
    hasher = hashlib.sha256()
    for path in sorted(HERE.rglob("*")):
        if path.suffix in (".py", ".jsonl", ".txt"):
            hasher.update(path.read_bytes())
    return hasher.hexdigest()[:16]


def write_parquet(folder: Path) -> None:
    """Write trajectories/ and pull_requests/: a few files each, of small row groups."""
    _write(folder / "trajectories", _trajectories(), TRAJECTORIES, files=3, group_rows=3)
    _write(folder / "pull_requests", _pull_requests(), PULL_REQUESTS, files=2, group_rows=4)


def _trajectories() -> list[dict]:
    """Return the rows with the system prompt, and the task's words around each issue."""
    system = (DATA / "system.txt").read_text(encoding="utf-8").rstrip()
    task = (DATA / "task.txt").read_text(encoding="utf-8").rstrip()
    rows = _read_rows("trajectories.jsonl")
    for row in rows:
        messages = row["messages"]
        if messages:
            issue = messages[0]["content"]
            messages[0]["content"] = task.format(repo=row["repo"], issue=issue)
        row["messages"] = [{"role": "system", "content": system}, *messages]
        row["trajectory_format"] = "mini-swe-agent-1"
    return rows


def _pull_requests() -> list[dict]:
    rows = _read_rows("pull_requests.jsonl")
    for row in rows:
        if row["instance_id"] == OVERSIZED:
            row["patch"] = _oversized_patch()
    return rows


def _read_rows(name: str) -> list[dict]:
    text = (DATA / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _oversized_patch() -> str:
    """Return a patch of more than 200,000 characters: a gazetteer of made-up villages."""
    starts = "Alder Birch Cinder Dun Elm Fern Gorse Hazel Iron Juniper Kings Lark".split()
    middles = "ash beck croft dale field ford garth ham holm ley mere moor wick".split()
    sides = "Nether Over Far Near Little Great".split()
    kinds = "Mill Bridge Green End Cross Row".split()
    lines = []
    for parts in itertools.product(starts, middles, sides, kinds):
        start, middle, side, kind = parts
        at = len(lines)
        latitude = 53 + at % 400 / 100
        longitude = -3 + at % 700 / 200
        lines.append(f'+    "{start}{middle} {side} {kind}": ({latitude:.2f}, {longitude:.3f}),')
    path = "placenames/table.py"
    head = [
        f"diff --git a/{path} b/{path}",
        "index 5f1c3a90..c07d21be 100644",
        f"--- a/{path}",
        f"+++ b/{path}",
        f"@@ -2,3 +2,{3 + len(lines)} @@ PLACES = {{",
        '     "Aldermoor": (54.1, -2.3),',
        '     "Brackwater": (55.0, -1.9),',
    ]
    return "\n".join([*head, *lines, " }"]) + "\n"


def _write(folder: Path, rows: list[dict], schema: pa.Schema, files: int, group_rows: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // files)
    for number in range(files):
        part = rows[number * size : (number + 1) * size]
        table = pa.Table.from_pylist(part, schema=schema)
        path = folder / f"train-{number:05d}-of-{files:05d}.parquet"
        pq.write_table(table, path, row_group_size=group_rows)
