"""The demo's data as parquet, in the schemas of the two source datasets."""

import hashlib
import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
OVERSIZED = "atlas-maps__placenames-77"

_TEXT = pa.string()
TRAJECTORIES = pa.schema(
    {
        "instance_id": _TEXT,
        "repo": _TEXT,
        "messages": pa.list_(pa.struct({"role": _TEXT, "content": _TEXT})),
        "trajectory_format": _TEXT,
        "exit_status": _TEXT,
        "duration_sec": pa.float64(),
    }
)
PULL_REQUESTS = pa.schema(
    {
        **dict.fromkeys(("instance_id", "repo", "base_commit"), _TEXT),
        "created_at": pa.int64(),
        **dict.fromkeys(
            (
                "language",
                "license",
                "interface",
                "problem_statement",
                "pr_description",
                "patch",
                "test_patch",
                "image_name",
            ),
            _TEXT,
        ),
        "FAIL_TO_PASS": pa.list_(_TEXT),
        "PASS_TO_PASS": pa.list_(_TEXT),
    }
)


def version() -> str:
    """A digest of the demo's own code and data: folders made by another version are made anew."""
    files = sorted(path for path in HERE.rglob("*") if path.suffix in (".py", ".jsonl", ".txt"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def write_parquet(folder: Path) -> None:
    """Write trajectories/*.parquet and pull_requests/*.parquet: a few files each, of small row groups."""
    _write(folder / "trajectories", _trajectories(), TRAJECTORIES, files=3, rows_per_group=3)
    _write(folder / "pull_requests", _pull_requests(), PULL_REQUESTS, files=2, rows_per_group=4)


def _rows(name: str) -> "list[dict]":
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def _trajectories() -> "list[dict]":
    system = (DATA / "system.txt").read_text(encoding="utf-8").rstrip()
    task = (DATA / "task.txt").read_text(encoding="utf-8").rstrip()
    rows = []
    for row in _rows("trajectories.jsonl"):
        for message in row["messages"][:1]:
            message["content"] = task.format(repo=row["repo"], issue=message["content"])
        messages = [{"role": "system", "content": system}, *row["messages"]]
        rows.append({**row, "messages": messages, "trajectory_format": "mini-swe-agent-1"})
    return rows


def _pull_requests() -> "list[dict]":
    return [
        {**row, "patch": _oversized_patch()} if row["instance_id"] == OVERSIZED else row
        for row in _rows("pull_requests.jsonl")
    ]


def _oversized_patch() -> str:
    """A patch of more than 200,000 characters: a gazetteer of some five thousand made-up villages."""
    parts = (
        "Alder Birch Cinder Dun Elm Fern Gorse Hazel Iron Juniper Kings Lark",
        "ash beck croft dale field ford garth ham holm ley mere moor wick",
        "Nether Over Far Near Little Great",
        "Mill Bridge Green End Cross Row",
    )
    names = (
        f"{start}{middle} {side} {kind}"
        for start, middle, side, kind in itertools.product(*(part.split() for part in parts))
    )
    lines = [
        f'+    "{name}": ({53 + at % 400 / 100:.2f}, {-3 + at % 700 / 200:.3f}),'
        for at, name in enumerate(names)
    ]
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


def _write(
    folder: Path, rows: "list[dict]", schema: pa.Schema, files: int, rows_per_group: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // files)
    for number in range(files):
        table = pa.Table.from_pylist(rows[number * size : (number + 1) * size], schema=schema)
        path = folder / f"train-{number:05d}-of-{files:05d}.parquet"
        pq.write_table(table, path, row_group_size=rows_per_group)
