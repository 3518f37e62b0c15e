"""Run report.py in a folder that holds what the earlier stages write, and look at what it wrote."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

from common.turns import BUCKETS, text_digests
from makers import JUDGES, MOST, get, make_duel, make_score, put
from runner import stage

FINAL = MOST * 90 // 100  # half-points: 90 score points
REFINED = MOST * 70 // 100
DEFEAT = MOST * 10 // 100


def report(folder: Path, *flags: str, code: int = 0) -> subprocess.CompletedProcess:
    """Run report.py and check how it ends."""
    done = stage("report.py", *flags, cwd=folder)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def edit(path: Path, **fields) -> dict:
    """Replace keys of a JSON file."""
    value = {**get(path), **fields}
    put(path, value)
    return value


def rejudge(folder: Path, stem: str, points: int, judges=JUDGES) -> None:
    """Judge a turn anew, the duel left as it is."""
    answer = get(folder / f"answer_0/{stem}.json")
    put(folder / f"score/{stem}.json", make_score(stem, answer, points, judges))


def redo_duel(folder: Path) -> None:
    scores = [get(path) for path in sorted((folder / "score").glob("[!_]*.json"))]
    put(folder / "score/_duel.json", make_duel(scores))


def rewrite(folder: Path, stem: str, **fields) -> None:
    """Change an answer and let its score be of the new text."""
    answer = edit(folder / f"answer_0/{stem}.json", **fields)
    edit(folder / f"score/{stem}.json", sha=text_digests(answer))


def where(folder: Path) -> dict[str, list[str]]:
    """Return the buckets in which each turn lies."""
    found: dict[str, list[str]] = {}
    for bucket in BUCKETS:
        for path in (folder / bucket).glob("[!_]*.json"):
            found.setdefault(path.stem, []).append(bucket)
    return found


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every file that report.py may write, with what changes when it is written again."""
    found = {}
    for name in (*BUCKETS, "export", "report"):
        for path in (folder / name).glob("[!_]*"):
            found[str(path)] = (path.stat().st_mtime_ns, path.stat().st_ino)
    return found


def json_lines(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def exported(folder: Path, kind: str = "sft") -> list[dict]:
    """Return the rows of both splits of a training file."""
    rows = []
    for split in ("train", "validation"):
        rows += json_lines(folder / f"export/{kind}-{split}.jsonl")
    return rows


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def read_csv(folder: Path) -> list[dict]:
    with open(folder / "report/turns.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
