"""The PR records, and what is kept out by them: other licences, tasks of public benchmarks.

A benchmark's task is known again by its id, or by its repo and base commit. The plan pins what
became of each list, so that a rerun compares with the same lists or with none.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import NamedTuple

from common.audit.texts import changed_files
from common.files import UserError, is_safe_name, printable
from common.sampling.dataset import Dataset, as_text, plain_value
from common.turns import EXCLUDED_IDS, RECORD_KEYS

RENAMED = {"issue": "problem_statement", "description": "pr_description"}  # key -> column
PR_COLUMNS = tuple(RENAMED.get(key, key) for key in RECORD_KEYS if key != "files")
LICENSE_COLUMNS = ("license", "license_name", "repo_license")  # the first that a row fills
LIST_COLUMNS = ("instance_id", "repo", "base_commit")
DEFAULT_LISTS = (
    "princeton-nlp/SWE-bench", "princeton-nlp/SWE-bench_Verified",
    "SWE-bench/SWE-bench_Multilingual", "ScaleAI/SWE-bench_Pro", "SWE-bench-Live/SWE-bench-Live",
)  # fmt: skip


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
        for row, values in self.prs.open(file).rows(number, LIST_COLUMNS + LICENSE_COLUMNS):
            if values:
                name, repo, commit, *licenses = map(as_text, values)
                location = Location(file, number, repo, commit, next(filter(None, licenses), ""))
                locations.append((name, location))
            else:
                broken.append(row + 1)
        if broken:
            words = f"{len(broken)} lines are no JSON object, such as line {broken[0]}"
            print(printable(f"WARNING: {self.prs.label}: {file}: {words}"), file=sys.stderr)
        return locations

    def repo_of(self, instance_id: str, repo: str) -> str:
        """Return a row's repo; where it names none its record's, or what its id says."""
        if not repo and instance_id in self.locations:
            repo = self.locations[instance_id].repo
        return repo or instance_id.rpartition("-")[0].replace("__", "/", 1)

    def read(self, wanted: set[str]) -> Iterator[dict]:
        """Yield the records of the wanted ids; reads the row groups that hold them, once."""
        groups = defaultdict(list)
        for instance_id in sorted(wanted):
            groups[self.locations[instance_id][:2]].append(instance_id)
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
        query = "SELECT * FROM batch WHERE name IN (SELECT unnest($wanted))"
        records = {}
        with duckdb.connect() as database:
            for batch in self.prs.open(file).batches(number, PR_COLUMNS):
                names = pa.array(as_text(plain_value(name)) for name in batch["instance_id"])
                table = pa.Table.from_batches([batch]).append_column("name", names)
                database.register("batch", table)
                found = database.sql(query, params={"wanted": wanted}).to_arrow_table()
                for index in range(found.num_rows):
                    row = {name: plain_value(found[name][index]) for name in PR_COLUMNS}
                    record = {key: as_text(row.get(RENAMED.get(key, key))) for key in RECORD_KEYS}
                    instance_id = record["instance_id"]
                    record["repo"] = self.repo_of(instance_id, record["repo"])
                    record["files"] = changed_files(record["patch"])
                    created_at = row["created_at"]
                    if isinstance(created_at, (int, float)) and math.isfinite(created_at):
                        record["created_at"] = created_at
                    if self.locations[instance_id].license:
                        record["license"] = self.locations[instance_id].license
                    records.setdefault(instance_id, record)
        return list(records.values())


def why_left_out(instance_id: str, records: Records, licenses: list, marks: dict) -> tuple | None:
    """Return the plan's list for an instance, the reason and the benchmarks; None if it stays in.

    `licenses` are those of --license, `marks` of `read_benchmarks`.
    """
    if not is_safe_name(instance_id):
        return "refused", "its instance id cannot be a file name", []
    if instance_id in EXCLUDED_IDS:
        return "excluded", "on the list of excluded instances", []
    location = records.locations.get(instance_id)
    if location is None:
        return "without_record", f"no PR record in {records.prs.name}", []
    license_key = location.license.lower().replace(" ", "")  # as main() spells those of the flag
    if licenses and license_key not in licenses:
        found = location.license or "unknown"
        return "other_license", f"its licence is {found}, --license keeps others", []
    own = marks_of(instance_id, location.repo, location.base_commit)
    lists = [name for name, known in marks.items() if not known.isdisjoint(own)]
    same = [mark[0] for mark in own if any(mark in marks[name] for name in lists)]
    reason = f"in {', '.join(lists)}: the same {' and '.join(same)}"
    return ("in_benchmark", reason, lists) if lists else None


def marks_of(instance_id: str, repo: str, commit: str) -> list[tuple]:
    """Return the id, and repo with base commit where both are known, as a benchmark's marks."""
    marks = [("id", instance_id.lower())] if instance_id else []
    if repo and commit.strip("0"):
        marks.append(("base commit", repo.lower(), commit.lower()))
    return marks


def name_benchmarks(flag: str | None, on_the_hub: bool) -> list[dict]:
    """Return the lists that --benchmarks names, nothing read yet, as a new plan keeps them."""
    names = DEFAULT_LISTS if flag is None and on_the_hub else (flag or "").split(",")
    unread = {"commit": None, "state": "checked", "why": "", "instances": 0}
    entries = [
        {"name": name, **unread, "overlaps": []} for name in dict.fromkeys(map(str.strip, names))
    ]
    return [entry for entry in entries if entry["name"].lower() not in ("", "none")]


def read_benchmarks(entries: list[dict]) -> dict[str, set]:
    """Return what tells the tasks of each list; fills in the commit that it was read at.

    A list that cannot be read for a new plan stops nothing: it is said, and its entry keeps why.
    Raises UserError and ItemFailed where a pinned one cannot be read again.
    """
    marks = {}
    for entry in entries:
        if entry["state"] == "not checked":
            continue
        name = entry["name"]
        tasks = []
        try:
            dataset = Dataset("--benchmarks", name, (), entry["commit"], train=False)
            for file, group in dataset.groups():
                rows = dataset.open(file).rows(group, LIST_COLUMNS)
                tasks += [[as_text(value) for value in values] for _, values in rows if values]
            if not any(instance_id or commit for instance_id, _, commit in tasks):
                raise UserError(f"none of its {len(tasks)} rows has an instance_id or base_commit")
        except Exception as error:  # whatever a list from outside holds
            if entry["commit"]:
                raise
            why = str(error).strip().partition("\n")[0] or type(error).__name__
            why = why.removeprefix(f"--benchmarks {name}").lstrip(": ")[:200]
            entry |= {"state": "not checked", "why": why}
            print(printable(f"WARNING: overlap with {name} not checked: {why}"), file=sys.stderr)
        else:
            entry |= {"commit": dataset.revision, "instances": len({task[0] for task in tasks})}
            marks[name] = {mark for task in tasks for mark in marks_of(*task)}
    return marks
