"""What prompt.py reads of its two datasets: instances and chats of trajectories, PR records."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import NamedTuple

from common.audit.patch import changed_files
from common.files import printable
from common.sampling.chats import read_chat
from common.sampling.dataset import Dataset, as_text, plain_value
from common.turns import RECORD_KEYS

ROW_COLUMNS = ("instance_id", "repo", "messages")  # of the trajectories
RECORD_COLUMNS = {  # key of a record -> column of the PR dataset
    "instance_id": "instance_id", "repo": "repo", "base_commit": "base_commit",
    "issue": "problem_statement", "description": "pr_description", "patch": "patch",
    "test_patch": "test_patch", "interface": "interface", "language": "language",
    "created_at": "created_at",
}  # fmt: skip
PR_COLUMNS = tuple(RECORD_COLUMNS.values())
LICENSE_COLUMNS = ("license", "license_name", "repo_license")  # the first that a row fills


# ----------------------------------------------------------------------------------- trajectories


def read_instances(dataset: Dataset, file: str, group: int) -> dict:
    """Return {instance id: (repo, its row numbers in the file)} of a row group."""
    instances = {}
    for row, name, repo in dataset.rows(file, group, ("instance_id", "repo")):
        instances.setdefault(as_text(name), (as_text(repo), []))[1].append(row)
    return instances


def read_chats(dataset: Dataset, file: str, group: int, wanted: set[int]) -> dict:
    """Return {row number in the file: its chat, None if malformed} of wanted rows of a group."""
    if not wanted:
        return {}
    rows = dataset.rows(file, group, ("messages",), wanted)
    return {row: read_chat(value) for row, value in rows}


# ------------------------------------------------------------------------------------- PR records


class Location(NamedTuple):
    """Where a PR record lies, and what is known of it without reading it."""

    file: str
    group: int
    repo: str
    base_commit: str
    license: str = ""


class Records:
    """The PR records: `locations` by instance id, of each id the first."""

    def __init__(self, prs: Dataset, pool: Executor):
        self.prs = prs
        self.pool = pool
        self.locations: dict[str, Location] = {}
        self._read: dict[str, dict] = {}
        for locations in pool.map(self._read_locations, prs.groups()):
            for instance_id, location in locations:
                self.locations.setdefault(instance_id, location)
        for (file, _), rows in prs.broken.items():
            warning = f"WARNING: {prs.label}: {file}: {len(rows)} lines are no JSON object"
            print(printable(f"{warning}, such as line {min(rows) + 1}"), file=sys.stderr)

    def repo_of(self, instance_id: str, repo: str) -> str:
        """Return a row's repo; where it names none its record's, or what its id says."""
        location = self.locations.get(instance_id)
        by_id = instance_id.rpartition("-")[0].replace("__", "/", 1)
        return repo or (location.repo if location else "") or by_id

    def _read_locations(self, group: tuple[str, int]) -> list[tuple[str, Location]]:
        columns = ("instance_id", "repo", "base_commit", *LICENSE_COLUMNS)
        locations = []
        for _, *values in self.prs.rows(*group, columns):
            instance_id, repo, commit, *licenses = map(as_text, values)
            location = Location(*group, repo, commit, next(filter(None, licenses), ""))
            locations.append((instance_id, location))
        return locations

    def read(self, wanted: set[str]) -> Iterator[dict]:
        """Yield the records of the wanted ids; reads the row groups that hold them, once."""
        groups = defaultdict(list)
        for instance_id in sorted(wanted):
            location = self.locations[instance_id]
            groups[location.file, location.group].append(instance_id)
        for records in self.pool.map(self._read_group, groups, groups.values()):
            yield from records

    def read_one(self, instance_id: str) -> dict:
        """Return the record of one instance; its row group is read for it, once."""
        if instance_id not in self._read:
            [self._read[instance_id]] = self.read({instance_id})
        return self._read[instance_id]

    def _read_group(self, group: tuple[str, int], wanted: list[str]) -> list[dict]:
        """Return the records of these instances, as commit/ holds them; of each id the first."""
        import duckdb
        import pyarrow as pa

        query = "SELECT * FROM batch WHERE CAST(instance_id AS VARCHAR) IN (SELECT unnest($wanted))"
        records = {}
        with duckdb.connect() as database:
            for batch in self.prs.batches(*group, PR_COLUMNS):
                database.register("batch", pa.Table.from_batches([batch]))
                found = database.sql(query, params={"wanted": wanted}).to_arrow_table()
                for index in range(found.num_rows):
                    row = {name: plain_value(found[name][index]) for name in PR_COLUMNS}
                    record = self._as_kept(row)
                    records.setdefault(record["instance_id"], record)
        return list(records.values())

    def _as_kept(self, row: dict) -> dict:
        """Return a row as commit/ holds it: nothing null, the files that its patch changes."""
        record = dict.fromkeys(RECORD_KEYS)
        for key, column in RECORD_COLUMNS.items():
            record[key] = as_text(row[column])
        record["repo"] = self.repo_of(record["instance_id"], record["repo"])
        record["files"] = changed_files(record["patch"])
        created_at = row["created_at"]
        if isinstance(created_at, (int, float)) and math.isfinite(created_at):
            record["created_at"] = created_at
        license_name = self.locations[record["instance_id"]].license
        if license_name:
            record["license"] = license_name
        return record
