"""The two source datasets as prompt.py reads them: rows of trajectories, and PR records."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import duckdb

from common.benchmarks import text_mark
from common.files import clean_text, write_json
from common.parquet import ParquetFiles, plain_values
from common.replies.patch import changed_files
from common.turns import RECORD_KEYS

ROW_COLUMNS = ("instance_id", "repo", "messages")  # of the trajectories
RECORD_COLUMNS = {  # key of a record -> column of the PR dataset
    "instance_id": "instance_id", "repo": "repo", "base_commit": "base_commit",
    "issue": "problem_statement", "description": "pr_description", "patch": "patch",
    "test_patch": "test_patch", "interface": "interface", "language": "language",
    "created_at": "created_at",
}  # fmt: skip
PR_COLUMNS = tuple(RECORD_COLUMNS.values())
LICENSE_COLUMNS = ("license", "license_name", "repo_license")  # the first that a dataset has


# ----------------------------------------------------------------------------------- trajectories


def read_instances(files: ParquetFiles, file: str, group: int) -> dict:
    """Return {instance id: (repo, its row numbers in the file)} of a row group."""
    instances = {}
    row = files.first_row(file, group)
    for batch in files.batches(file, group, ("instance_id", "repo"), 4096):
        ids = plain_values(batch["instance_id"])
        repos = plain_values(batch["repo"])
        for instance_id, repo in zip(ids, repos):
            rows = instances.setdefault(instance_id, (as_text(repo), []))[1]
            rows.append(row)
            row += 1
    return instances


def read_chats(files: ParquetFiles, file: str, group: int, wanted: set[int]) -> dict:
    """Return {row number in the file: its messages}; the other rows pass by in small batches."""
    chats = {}
    row = files.first_row(file, group)
    batches = files.batches(file, group, ("messages",), 64)
    while len(chats) < len(wanted):
        batch = next(batches)
        for place in range(batch.num_rows):
            if row + place in wanted:
                value = plain_values(batch["messages"][place : place + 1])[0]
                chats[row + place] = read_messages(value)
        row += batch.num_rows
    return chats


def read_messages(value: object) -> list[dict] | None:
    """Return a row's messages, content None where the dataset has none; None when malformed."""
    if isinstance(value, (str, bytes)):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list):
        return None
    messages = []
    for item in value:
        if not isinstance(item, dict) or not isinstance(item.get("role"), str):
            return None
        content = item.get("content")
        if isinstance(content, str):
            content = clean_text(content)
        elif content is not None:
            return None
        messages.append({"role": clean_text(item["role"]), "content": content})
    return messages


# ------------------------------------------------------------------------------------- PR records


class Place(NamedTuple):
    """Where a PR record lies, and what is known of it without reading it."""

    file: str
    group: int
    row: int  # in the row group
    repo: str
    base_commit: str
    license: str


class Records:
    """The PR records: `places` by instance id, of each id the first."""

    def __init__(self, prs: ParquetFiles, pool: Executor):
        self.prs = prs
        self.pool = pool
        self.places: dict[str, Place] = {}
        groups = []
        for file in prs.files:
            groups += [(file, group) for group in range(prs.footer(file).num_row_groups)]
        for places in pool.map(self._read_places, groups):
            for instance_id, place in places:
                self.places.setdefault(instance_id, place)
        self._text_marks = lru_cache(maxsize=None)(self._read_text_marks)

    def _read_places(self, group: tuple[str, int]) -> list[tuple[str, Place]]:
        columns = ("instance_id", "repo", "base_commit", *self._license_columns(group[0]))
        places = []
        for batch in self.prs.kept_batches(*group, columns):
            for ids, *known in zip(*(plain_values(batch[column]) for column in columns)):
                known = [as_text(value) for value in known]
                places.append((ids, Place(*group, len(places), *known, *[""] * (3 - len(known)))))
        return places

    def _license_columns(self, file: str) -> list[str]:
        names = self.prs.footer(file).schema.to_arrow_schema().names
        return [column for column in LICENSE_COLUMNS if names.count(column) == 1][:1]

    def text_mark(self, instance_id: str) -> tuple | None:
        """Return the issue's text as a benchmark's mark; reads that column of the row group."""
        place = self.places[instance_id]
        return self._text_marks(place.file, place.group)[place.row]

    def _read_text_marks(self, file: str, group: int) -> list[tuple | None]:
        marks = []
        for batch in self.prs.kept_batches(file, group, ("problem_statement",)):
            marks += [text_mark(as_text(text)) for text in plain_values(batch["problem_statement"])]
        return marks

    def read(self, instance_id: str) -> dict:
        """Return one record, as its file holds it."""
        place = self.places[instance_id]
        row = place.row
        for batch in self.prs.kept_batches(place.file, place.group, PR_COLUMNS):
            if row < batch.num_rows:
                break
            row -= batch.num_rows
        values = {}
        for key, column in RECORD_COLUMNS.items():
            values[key] = plain_values(batch[column][row : row + 1])[0]
        return self._record_of(values)

    def write(self, wanted: set[str]) -> Iterator[str]:
        """Write commit/<instance_id>.json for the wanted ids; yield each when it is written.

        Of a Hub dataset only the row groups and columns that hold them are read, and kept.
        """
        missing = set(wanted)
        try:
            for values in self._query(sorted(wanted)):
                write_record(self._record_of(values))
                missing.remove(values["instance_id"])
                yield values["instance_id"]
        except duckdb.Error:  # text that is no UTF-8, a date out of range: read what it refuses
            pass
        for instance_id in sorted(missing):
            write_record(self.read(instance_id))
            yield instance_id

    def _query(self, wanted: list[str]) -> Iterator[dict]:
        if not wanted:
            return
        groups = sorted({self.places[instance_id][:2] for instance_id in wanted})
        paths = dict(zip(groups, self.pool.map(self._local_path, groups)))
        rows = {}  # DuckDB's threads give rows in any order: of an id the one that is wanted
        for instance_id in wanted:
            place = self.places[instance_id]
            before = 0 if self.prs.hub else self.prs.first_row(place.file, place.group)
            rows[instance_id] = (paths[place[:2]], before + place.row)
        select = ", ".join(f'"{column}" AS "{key}"' for key, column in RECORD_COLUMNS.items())
        query = (
            f"SELECT {select}, filename, file_row_number FROM read_parquet(?, "
            "union_by_name = true, filename = true, file_row_number = true) "
            "WHERE instance_id IN (SELECT unnest(?))"
        )
        with duckdb.connect() as database:
            found = database.execute(query, [sorted(set(paths.values())), wanted])
            while values := found.fetchone():
                *values, path, row = values
                if rows[values[0]] == (path, row):
                    yield dict(zip(RECORD_COLUMNS, values))

    def _local_path(self, group: tuple[str, int]) -> str:
        return str(self.prs.local_path(*group, PR_COLUMNS))

    def _record_of(self, values: dict) -> dict:
        """Return a record of the dataset's values: clean texts, nothing null."""
        record = {key: record_value(value) for key, value in values.items()}
        for key in RECORD_KEYS:
            if key not in ("created_at", "files"):
                record[key] = as_text(record[key])
        record["files"] = changed_files(record["patch"])
        record = {key: record[key] for key in RECORD_KEYS}
        license_name = self.places[record["instance_id"]].license
        return {**record, "license": license_name} if license_name else record


def write_record(record: dict) -> None:
    write_json(Path("commit", f"{record['instance_id']}.json"), record)


def record_value(value: object) -> str | int | float | bool:
    """Return a value as JSON may hold it."""
    if isinstance(value, int) or isinstance(value, float) and math.isfinite(value):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else as_text(value)


def as_text(value: object) -> str:
    """Return a value as clean text, null as ""."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return "" if value is None else clean_text(str(value))
