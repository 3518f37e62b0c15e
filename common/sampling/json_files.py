"""Rows of JSON: one a line (*.jsonl), or a run of mini-swe-agent, one a file (*.traj.json).

A row is a JSON object. Nothing of a large file is held but the row at hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from pydantic_core import from_json

from common.files import UserError

RUN = ".traj.json"
JSON_KINDS = (".jsonl", RUN)
KINDS = (".parquet", *JSON_KINDS)
GROUP_LINES = 250  # of 30 to 300 KB each: a group is read in a second
LFS_POINTER = b"version https://git-lfs"


def kind_of(path: str) -> str:
    """Return the one of KINDS that a file's name ends with, or ""."""
    return next((kind for kind in KINDS if path.lower().endswith(kind)), "")


def refuse_pointer(path: Path, start: bytes) -> None:
    """Raise UserError for a file of which only Git LFS's pointer is there."""
    if start.startswith(LFS_POINTER):
        raise UserError(
            f"{path} is a pointer of Git LFS, the file itself is not there.\n"
            "Run `git lfs pull` in its repository."
        )


def parse_json(data: bytes) -> object:
    """Return a JSON document, U+FFFD where it is no UTF-8; None for what is no JSON."""
    try:
        return from_json(data)
    except ValueError:
        pass
    try:
        return json.loads(data.decode("utf-8-sig", "replace"))  # it knows lone surrogates
    except (ValueError, RecursionError):
        return None


class JsonFile:
    """One file: its rows in groups, each row by its number, which is that of its line from 0."""

    def __init__(self, path: Path):
        self.path = path
        self.is_run = kind_of(path.name) == RUN

    @cached_property
    def _groups(self) -> list[tuple[int, int]]:
        """The offset and the number of lines of each group."""
        starts = []
        lines = offset = 0
        with open(self.path, "rb") as file:
            for line in file:
                if lines % GROUP_LINES == 0:
                    starts.append(offset)
                lines += 1
                offset += len(line)
        sizes = [GROUP_LINES] * (len(starts) - 1) + [(lines - 1) % GROUP_LINES + 1]
        return list(zip(starts, sizes))

    @cached_property
    def keys(self) -> set[str]:
        """The keys of the first rows."""
        first = [row for _, row in self.rows(0) if row]
        return {key for row in first for key, value in row.items() if value is not None}

    def group_sizes(self) -> list[int]:
        return [1] if self.is_run else [size for _, size in self._groups]

    def rows(self, group: int, wanted: set[int] | None = None) -> Iterator[tuple[int, dict | None]]:
        """Yield (row number, object) of a group, or of wanted rows; None for what is no object."""
        if self.is_run:
            data = self.path.read_bytes()
            refuse_pointer(self.path, data)
            name = self.path.name[: -len(RUN)]
            yield 0, as_row(parse_json(data), name)
            return
        offset, size = self._groups[group]
        with open(self.path, "rb") as file:
            file.seek(offset)
            for row in range(group * GROUP_LINES, group * GROUP_LINES + size):
                line = file.readline()
                if not row:
                    refuse_pointer(self.path, line)
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
