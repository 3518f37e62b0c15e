"""What is kept out of a sample: what a user lists, other licences, tasks of public benchmarks.

A benchmark's task is known again by its id, or by its repo and base commit. The plan pins what
became of each list, so that a rerun compares with the same lists or with none.
"""

from __future__ import annotations

import csv
import io
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

from common.files import UserError, digest, is_safe_name, printable
from common.sampling.dataset import Dataset, as_text
from common.sampling.json_files import parse_json
from common.sampling.sources import Records
from common.turns import EXCLUDED_IDS

DEFAULT_LISTS = (
    "princeton-nlp/SWE-bench",
    "princeton-nlp/SWE-bench_Verified",
    "SWE-bench/SWE-bench_Multilingual",
    "ScaleAI/SWE-bench_Pro",
    "SWE-bench-Live/SWE-bench-Live",
)
LIST_COLUMNS = ("instance_id", "repo", "base_commit")


@dataclass
class Exclusions:
    """What is kept out of a sample."""

    flags: dict  # of the plan: --exclude is a list of instance ids and repos
    exclude_file: str | None
    records: Records
    benchmarks: dict[str, set]  # of each list that was read: what tells its tasks

    def why_left_out(self, instance_id: str, repo: str) -> tuple[str, str, list[str]] | None:
        """Return the plan's list for it, the reason and the benchmarks; None where it stays in."""
        if not is_safe_name(instance_id):
            return "refused", "its instance id cannot be a file name", []
        if instance_id in EXCLUDED_IDS:
            return "excluded", "on the list of excluded instances", []
        for name in (instance_id, repo):
            if name in self.flags["--exclude"]:
                return "excluded", f"{name} is listed in {self.exclude_file}", []
        location = self.records.locations.get(instance_id)
        if location is None:
            return "without_record", f"no PR record in {self.records.prs.name}", []
        licenses = self.flags["--license"]
        asked_as = location.license.lower().replace(" ", "")  # as prompt.py keeps the flag's
        if licenses and asked_as not in licenses:
            found = location.license or "unknown"
            return "other_license", f"its licence is {found}, --license keeps others", []
        lists = {}
        same = {}
        for mark in marks_of(instance_id, location.repo, location.base_commit):
            for name, known in self.benchmarks.items():
                if mark in known:
                    lists[name] = same[mark[0]] = True
        if not lists:
            return None
        reason = f"in {', '.join(lists)}: the same {' and '.join(same)}"
        return "in_benchmark", reason, list(lists)


def read_names(path: str | None) -> set[str]:
    """Return the instance ids and repos of --exclude: one a line, `#` begins a comment."""
    if path is None:
        return set()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"--exclude {path}: no text file that can be read ({error}).") from None
    return {line.split("#")[0].strip() for line in lines} - {""}


# ------------------------------------------------------------------------------- benchmarks


def marks_of(instance_id: str, repo: str, commit: str) -> list[tuple]:
    """Return the id, and repo with base commit where both are known, as a benchmark's marks."""
    marks = [("id", instance_id.lower())] if instance_id else []
    if repo and commit.strip("0"):
        marks.append(("base commit", repo.lower(), commit.lower()))
    return marks


def name_benchmarks(flag: str | None, on_the_hub: bool) -> list[dict]:
    """Return the lists that --benchmarks names, nothing read yet, as a new plan keeps them.

    Without the flag those known by default, for a dataset of the Hub.
    """
    names = [name.strip() for name in (flag or "").split(",")]
    if flag is None and on_the_hub:
        names = DEFAULT_LISTS
    return [new_entry(name) for name in dict.fromkeys(names) if name.lower() not in ("", "none")]


def new_entry(name: str, why: str = "") -> dict:
    """Return a list as the plan keeps it; with `why`, one that was not compared with."""
    state = {"state": "not checked" if why else "checked", "why": why}
    return {"name": name, "commit": None, **state, "instances": 0, "overlaps": []}


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
        try:
            commit, rows = read_list(name, entry["commit"])
        except Exception as error:  # whatever a list from outside holds
            if entry["commit"]:
                raise
            why = str(error).strip().partition("\n")[0] or type(error).__name__
            why = why.removeprefix(f"--benchmarks {name}").lstrip(": ")[:200]
            entry |= {"state": "not checked", "why": why}
            warning = f"WARNING: overlap with {name} not checked: {why}"
            print(printable(warning), file=sys.stderr)
            continue
        entry |= {"commit": commit, "instances": len({row[0] for row in rows})}
        marks[name] = {mark for row in rows for mark in marks_of(*row)}
    return marks


def read_list(name: str, pinned: str | None) -> tuple[str, list[tuple]]:
    """Return the commit (of a local list a digest) and LIST_COLUMNS of each row, absent ones as "".

    Raises UserError where the list is not the pinned one, or holds no tasks.
    """
    path = Path(name).expanduser()
    is_text = path.suffix.lower() in (".json", ".jsonl", ".csv")  # all else is parquet
    if is_text:
        body = path.read_bytes()
        commit = "local-" + digest(body.decode("utf-8", "replace"))[:16]
    else:
        dataset = Dataset("--benchmarks", name, (), pinned, train=False)
        commit = dataset.revision
    if pinned not in (None, commit):
        raise UserError(
            f"--benchmarks {name}: it is no longer what the plan was made with.\n"
            "Put it back, or start in another folder."
        )
    if is_text:
        rows = read_text_file(body, path.suffix.lower())
    else:
        batches = (dataset.batches(*group, LIST_COLUMNS) for group in dataset.groups())
        rows = [row for batch in itertools.chain(*batches) for row in batch.to_pylist()]
    tasks = [tuple(as_text(row.get(column)) for column in LIST_COLUMNS) for row in rows]
    if not any(instance_id or base_commit for instance_id, _, base_commit in tasks):
        raise UserError(f"no row has an instance_id or a base_commit (of {len(rows)} rows)")
    return commit, tasks


def read_text_file(body: bytes, suffix: str) -> list[dict]:
    """Return the rows of a csv or json file, or of one with a JSON document a line."""
    if suffix == ".csv":
        csv.field_size_limit(1 << 30)  # patches are longer than the 128 KB of its default
        return list(csv.DictReader(io.StringIO(body.decode("utf-8-sig", "replace"))))
    rows = parse_json(body)
    if not isinstance(rows, list):
        rows = [parse_json(line) for line in body.splitlines()]
    return [row for row in rows if isinstance(row, dict)]
