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


def read_instances(dataset: Dataset, file: str, group: int) -> tuple[dict, list[int]]:
    """Return {instance id: (repo, its row numbers in the file)} of a row group, and broken rows."""
    instances = {}
    broken = []
    for row, values in dataset.open(file).rows(group, ("instance_id", "repo")):
        if values:
            name, repo = map(as_text, values)
            instances.setdefault(name, (repo, []))[1].append(row)
        else:
            broken.append(row)
    return instances, broken


def read_chats(dataset: Dataset, file: str, group: int, wanted: set[int]) -> dict:
    """Return {row number in the file: its chat, None if malformed} of wanted rows of a group."""
    rows = dataset.open(file).rows(group, ("messages",), wanted) if wanted else ()
    return {row: read_chat(values[0]) for row, values in rows}


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

    def _read_locations(self, group: tuple[str, int]) -> list[tuple[str, Location]]:
        file, number = group
        locations = []
        broken = []
        columns = ("instance_id", "repo", "base_commit", *LICENSE_COLUMNS)
        for row, values in self.prs.open(file).rows(number, columns):
            if values is None:
                broken.append(row)
                continue
            instance_id, repo, commit, *licenses = map(as_text, values)
            location = Location(file, number, repo, commit, next(filter(None, licenses), ""))
            locations.append((instance_id, location))
        if broken:
            warning = f"WARNING: {self.prs.label}: {file}: {len(broken)} lines are no JSON object"
            print(printable(f"{warning}, such as line {broken[0] + 1}"), file=sys.stderr)
        return locations

    def repo_of(self, instance_id: str, repo: str) -> str:
        """Return a row's repo; where it names none its record's, or what its id says."""
        location = self.locations.get(instance_id)
        by_id = instance_id.rpartition("-")[0].replace("__", "/", 1)
        return repo or (location.repo if location else "") or by_id

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
        """Return the records of these instances as commit/ holds them, nothing null."""
        import duckdb
        import pyarrow as pa

        file, number = group
        query = "SELECT * FROM batch WHERE CAST(instance_id AS VARCHAR) IN (SELECT unnest($wanted))"
        records = {}
        with duckdb.connect() as database:
            for batch in self.prs.open(file).batches(number, PR_COLUMNS):
                database.register("batch", pa.Table.from_batches([batch]))
                found = database.sql(query, params={"wanted": wanted}).to_arrow_table()
                for index in range(found.num_rows):
                    row = {name: plain_value(found[name][index]) for name in PR_COLUMNS}
                    record = dict.fromkeys(RECORD_KEYS)
                    for key, column in RECORD_COLUMNS.items():
                        record[key] = as_text(row[column])
                    instance_id = record["instance_id"]
                    record["repo"] = self.repo_of(instance_id, record["repo"])
                    record["files"] = changed_files(record["patch"])
                    created_at = row["created_at"]
                    if isinstance(created_at, (int, float)) and math.isfinite(created_at):
                        record["created_at"] = created_at
                    license_name = self.locations[instance_id].license
                    if license_name:
                        record["license"] = license_name
                    records.setdefault(instance_id, record)
        return list(records.values())
