"""What is kept out of a sample: what a user lists, other licences, tasks of public benchmarks.

A benchmark's task is known again by its id, or by its repo and base commit. The plan pins what
became of each list, so that a rerun compares with the same lists or with none.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from common.files import UserError, is_safe_name, printable
from common.sampling.dataset import Dataset, as_text
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
    unread = {"commit": None, "state": "checked", "why": "", "instances": 0}
    names = [name for name in dict.fromkeys(names) if name.lower() not in ("", "none")]
    return [{"name": name, **unread, "overlaps": []} for name in names]


def read_benchmarks(entries: list[dict]) -> dict[str, set]:
    """Return what tells the tasks of each list; fills in the commit that it was read at.

    A list that cannot be read for a new plan stops nothing: it is said, and its entry keeps why.
    Raises UserError and ItemFailed where a pinned one cannot be read again.
    """
    marks = {}
    for entry in entries:
        if entry["state"] == "not checked":
            continue
        label = f"--benchmarks {entry['name']}"
        tasks = []
        try:
            dataset = Dataset("--benchmarks", entry["name"], (), entry["commit"], train=False)
            if entry["commit"] not in (None, dataset.revision):
                raise UserError(
                    f"{label}: it is no longer what the plan was made with.\n"
                    "Put it back, or start in another folder."
                )
            for file, group in dataset.groups():
                for _, values in dataset.open(file).rows(group, LIST_COLUMNS):
                    tasks += [list(map(as_text, values))] if values else []
            if not any(name or commit for name, _, commit in tasks):
                raise UserError(f"no row has an instance_id or a base_commit (of {len(tasks)})")
        except Exception as error:  # whatever a list from outside holds
            if entry["commit"]:
                raise
            why = str(error).strip().partition("\n")[0] or type(error).__name__
            why = why.removeprefix(label).lstrip(": ")[:200]
            entry |= {"state": "not checked", "why": why}
            warning = f"WARNING: overlap with {entry['name']} not checked: {why}"
            print(printable(warning), file=sys.stderr)
            continue
        entry |= {"commit": dataset.revision, "instances": len({task[0] for task in tasks})}
        marks[entry["name"]] = {mark for task in tasks for mark in marks_of(*task)}
    return marks
