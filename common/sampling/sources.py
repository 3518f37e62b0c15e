"""The two source datasets as prompt.py reads them: rows of trajectories, and PR records."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import NamedTuple

import duckdb
import pyarrow as pa

from common.audit.patch import changed_files
from common.files import clean_text
from common.sampling.exclusions import text_mark
from common.sampling.parquet import ParquetFiles, as_text, plain_value
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
    for row, name, repo in files.rows(file, group, ("instance_id", "repo")):
        instances.setdefault(as_text(name), (as_text(repo), []))[1].append(row)
    return instances


def read_chats(files: ParquetFiles, file: str, group: int, wanted: set[int]) -> dict:
    """Return {row number in the file: its messages} of the wanted rows of a row group."""
    if not wanted:
        return {}
    rows = files.rows(file, group, ("messages",), wanted)
    return {row: read_messages(value) for row, value in rows}


def read_messages(value: object) -> list[dict] | None:
    """Return a row's messages, content None where the dataset has none; None when malformed."""
    messages = []
    try:
        if isinstance(value, (str, bytes)):
            value = json.loads(value)
        for item in value:
            content = item.get("content")
            content = None if content is None else clean_text(content)
            messages.append({"role": clean_text(item["role"]), "content": content})
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError):
        return None
    return messages


# ------------------------------------------------------------------------------------- PR records


class Place(NamedTuple):
    """Where a PR record lies, and what is known of it without reading it."""

    file: str
    group: int
    row: int  # in the file
    repo: str
    base_commit: str
    license: str = ""


class Records:
    """The PR records: `places` by instance id, of each id the first."""

    def __init__(self, prs: ParquetFiles, pool: Executor):
        self.prs = prs
        self.pool = pool
        self.places: dict[str, Place] = {}
        self._text_marks: dict[tuple, dict] = {}  # of a row group, by row
        for places in pool.map(self._read_places, prs.groups()):
            for instance_id, place in places:
                self.places.setdefault(instance_id, place)

    def _read_places(self, group: tuple[str, int]) -> list[tuple[str, Place]]:
        names = self.prs.footer(group[0]).schema.to_arrow_schema().names
        licenses = [column for column in LICENSE_COLUMNS if names.count(column) == 1][:1]
        columns = ("instance_id", "repo", "base_commit", *licenses)
        places = []
        for row, *values in self.prs.rows(*group, columns):
            instance_id, *known = map(as_text, values)
            places.append((instance_id, Place(*group, row, *known)))
        return places

    def text_mark(self, instance_id: str) -> tuple | None:
        """Return the issue's text as a benchmark's mark; reads that column of the row group."""
        place = self.places[instance_id]
        group = place.file, place.group
        if group not in self._text_marks:
            rows = self.prs.rows(*group, ("problem_statement",))
            self._text_marks[group] = {row: text_mark(as_text(text)) for row, text in rows}
        return self._text_marks[group][place.row]

    def read(self, wanted: set[str]) -> Iterator[dict]:
        """Yield the records of the wanted ids; reads the row groups that hold them, once."""
        groups = defaultdict(list)
        for instance_id in sorted(wanted):
            place = self.places[instance_id]
            groups[place.file, place.group].append(instance_id)
        for records in self.pool.map(self._read_group, groups, groups.values()):
            yield from records

    def _read_group(self, group: tuple[str, int], wanted: list[str]) -> list[dict]:
        """Return the records of these instances, as commit/ holds them; of each id the first."""
        select = ", ".join(f"{column} AS {key}" for key, column in RECORD_COLUMNS.items())
        query = f"SELECT {select} FROM rows WHERE instance_id IN (SELECT unnest(?))"
        records = {}
        with duckdb.connect() as database:
            for batch in self.prs.batches(*group, PR_COLUMNS):
                columns = {}
                for name in PR_COLUMNS:  # all as clean text, but for dates that are numbers
                    kind = batch[name].type
                    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
                    columns[name] = batch[name]
                    if name != "created_at" or not is_number:
                        columns[name] = [as_text(plain_value(value)) for value in batch[name]]
                database.register("rows", pa.table(columns))
                for values in database.execute(query, [wanted]).fetchall():
                    record = dict(zip(RECORD_COLUMNS, values))
                    records.setdefault(record["instance_id"], record)
        return [self._as_kept(record) for record in records.values()]

    def _as_kept(self, record: dict) -> dict:
        """Return a record as commit/ holds it: nothing null, the files that its patch changes."""
        created_at = record["created_at"]
        if not (isinstance(created_at, (int, float)) and math.isfinite(created_at)):
            created_at = as_text(created_at)
        record |= {"created_at": created_at, "files": changed_files(record["patch"])}
        place = self.places[record["instance_id"]]
        kept = {key: record[key] for key in RECORD_KEYS}
        return {**kept, "license": place.license} if place.license else kept
