"""Rows of JSON: one a line (*.jsonl), or a run of mini-swe-agent, one a file (*.traj.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

RUN = ".traj.json"
JSON_KINDS = (".jsonl", RUN)
KINDS = (".parquet", *JSON_KINDS)
GROUP_LINES = 250  # of 30 to 300 KB each: a group is read in a second


def kind_of(path: str) -> str:
    """Return the one of KINDS that a file's name ends with, or ""."""
    return next((kind for kind in KINDS if path.lower().endswith(kind)), "")


def parse_json(data: bytes) -> object:
    """Return a JSON document, U+FFFD where it is no UTF-8; None for what is no JSON."""
    try:
        return json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None


class JsonFile:
    """One file: its rows in groups, each row by its number, which is that of its line from 0."""

    def __init__(self, path: Path):
        self.path = path
        self.run = path.name[: -len(RUN)] if kind_of(path.name) == RUN else ""
        self.group_sizes = [1] if self.run else []
        self._starts = []  # the offset of each group
        offset = 0
        with open(path, "rb") as file:
            for number, line in enumerate(() if self.run else file):
                if number % GROUP_LINES == 0:
                    self._starts.append(offset)
                    self.group_sizes.append(0)
                self.group_sizes[-1] += 1
                offset += len(line)
        first = self.rows(0) if self._starts else ()
        self.keys = {key for _, row in first for key in row or () if row[key] is not None}

    def rows(self, group: int, wanted: set[int] | None = None) -> Iterator[tuple[int, dict | None]]:
        """Yield (row number, object) of a group, or of wanted rows; None for what is no object."""
        if self.run:
            yield 0, as_row(parse_json(self.path.read_bytes()), self.run)
            return
        first = group * GROUP_LINES
        with open(self.path, "rb") as file:
            file.seek(self._starts[group])
            for row in range(first, first + self.group_sizes[group]):
                line = file.readline()
                if line.strip() and (wanted is None or row in wanted):
                    yield row, as_row(parse_json(line))


def as_row(document: object, name: str = "") -> dict | None:
    """Return a document as a row. A run may be bare messages, its id stand in `info` or a name."""
    if isinstance(document, list) and name:
        document = {"messages": document}
    if not isinstance(document, dict):
        return None
    info = document.get("info")
    known = info.get("instance_id") if isinstance(info, dict) else None
    return {**document, "instance_id": document.get("instance_id") or known or name or None}
