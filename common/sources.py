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

from common.exclusions import text_mark
from common.files import clean_text
from common.parquet import ParquetFiles, as_text, plain_values
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
        repos = plain_values(batch["repo"])
        for instance_id, repo in zip(plain_values(batch["instance_id"]), repos):
            instances.setdefault(instance_id, (as_text(repo), []))[1].append(row)
            row += 1
    return instances


def read_chats(files: ParquetFiles, file: str, group: int, wanted: set[int]) -> dict:
    """Return {row number in the file: its messages}; the other rows pass by in small batches."""
    chats = {}
    row = files.first_row(file, group)
    batches = files.batches(file, group, ("messages",))
    while len(chats) < len(wanted):
        batch = next(batches)
        for place in range(batch.num_rows):
            if row + place in wanted:
                [value] = plain_values(batch["messages"].slice(place, 1))
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
    license: str = ""


class Records:
    """The PR records: `places` by instance id, of each id the first."""

    def __init__(self, prs: ParquetFiles, pool: Executor):
        self.prs = prs
        self.pool = pool
        self.places: dict[str, Place] = {}
        for places in pool.map(self._read_places, prs.groups()):
            for instance_id, place in places:
                self.places.setdefault(instance_id, place)
        self._text_marks: dict[tuple, list] = {}  # by row group

    def _read_places(self, group: tuple[str, int]) -> list[tuple[str, Place]]:
        names = self.prs.footer(group[0]).schema.to_arrow_schema().names
        licenses = [column for column in LICENSE_COLUMNS if names.count(column) == 1][:1]
        columns = ("repo", "base_commit", *licenses)
        places = []
        for batch in self.prs.clean_batches(*group, ("instance_id", *columns)):
            for row in batch.to_pylist():
                known = [as_text(row[column]) for column in columns]
                places.append((as_text(row["instance_id"]), Place(*group, len(places), *known)))
        return places

    def text_mark(self, instance_id: str) -> tuple | None:
        """Return the issue's text as a benchmark's mark; reads that column of the row group."""
        place = self.places[instance_id]
        group = place.file, place.group
        if group not in self._text_marks:
            marks = []
            for batch in self.prs.clean_batches(*group, ("problem_statement",)):
                marks += [text_mark(as_text(text)) for text in batch[0].to_pylist()]
            self._text_marks[group] = marks
        return self._text_marks[group][place.row]

    def read(self, wanted: set[str]) -> Iterator[dict]:
        """Yield the records of the wanted ids; reads the row groups that hold them, once."""
        groups = defaultdict(list)
        for instance_id in sorted(wanted):
            place = self.places[instance_id]
            groups[place.file, place.group].append(place.row)
        for records in self.pool.map(self._read_group, groups, groups.values()):
            yield from records

    def _read_group(self, group: tuple[str, int], places: list[int]) -> list[dict]:
        """Return the records at these places of a row group, as commit/ holds them."""
        select = ", ".join(f"{column} AS {key}" for key, column in RECORD_COLUMNS.items())
        numbered = "SELECT *, row_number() OVER () - 1 AS place FROM rows"
        query = f"SELECT {select} FROM ({numbered}) WHERE place IN (SELECT unnest(?))"
        found = []
        start = 0
        with duckdb.connect() as database:
            for rows in self.prs.clean_batches(*group, PR_COLUMNS):
                here = [place - start for place in places if 0 <= place - start < len(rows)]
                if here:
                    database.register("rows", pa.Table.from_batches([rows]))
                    found += database.execute(query, [here]).fetchall()
                start += len(rows)
        records = []
        for values in found:
            record = dict(zip(RECORD_COLUMNS, values))
            created_at = record["created_at"]
            record = {key: as_text(value) for key, value in record.items()}
            if isinstance(created_at, (int, float)) and math.isfinite(created_at):
                record["created_at"] = created_at
            record["files"] = changed_files(record["patch"])
            record = {key: record[key] for key in RECORD_KEYS}
            license_name = self.places[record["instance_id"]].license
            records.append({**record, "license": license_name} if license_name else record)
        return records
