"""Public benchmarks whose tasks must not become training data.

A task is known again by its id, by its repo and base commit, or by its issue's text. The plan pins
what became of each list, so that a rerun compares with the same lists or with none.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common.files import UserError, digest, printable
from common.parquet import open_dataset

DEFAULT = (
    "princeton-nlp/SWE-bench",
    "princeton-nlp/SWE-bench_Verified",
    "SWE-bench/SWE-bench_Multilingual",
    "ScaleAI/SWE-bench_Pro",
    "SWE-bench-Live/SWE-bench-Live",
)
COLUMNS = ("instance_id", "repo", "base_commit", "problem_statement")
LOADERS = {".json": "json", ".jsonl": "json", ".csv": "csv"}  # all else is parquet
OLDER_VERSION = "sampled by an older version"


class Benchmarks:
    """What tells that a task is a benchmark's: `lists` as the plan keeps them, and the look-ups."""

    def __init__(self):
        self.lists: list[dict] = []
        self.has_texts = False
        self._names: dict[tuple, list[str]] = {}  # of the lists that hold a mark
        self._repos: dict[str, set[str]] = {}  # by list

    def add(self, name: str, commit: str, rows: list[dict]) -> None:
        """Add a list that was read."""
        marks = set()
        repos = set()
        for row in rows:
            found = marks_of(row["instance_id"], row["repo"], row["base_commit"])
            text = text_mark(row["problem_statement"])
            self.has_texts = self.has_texts or text is not None
            marks |= {*found, text} - {None}
            repos.add(row["repo"].lower())
        for mark in marks:
            self._names.setdefault(mark, []).append(name)
        self._repos[name] = repos - {""}
        self.lists.append(new_entry(name, commit, len({row["instance_id"] for row in rows})))

    def find(self, marks: list[tuple | None]) -> tuple[list[str], str]:
        """Return the lists that hold a task with one of these marks, and what is the same."""
        names = {}
        same = [mark[0] for mark in marks if mark in self._names]
        for mark in marks:
            names |= dict.fromkeys(self._names.get(mark, []))
        return list(names), " and ".join(same)

    def count(self, overlaps: list[dict], sampled_repos: set[str]) -> None:
        """Put into the lists which instances were passed over, and how many repos they share."""
        repos = {repo.lower() for repo in sampled_repos}
        for entry in self.lists:
            if entry["state"] == "checked":
                name = entry["name"]
                entry["overlaps"] = [row["instance_id"] for row in overlaps if name in row["lists"]]
                entry["repos_shared"] = len(repos & self._repos[name])


def marks_of(instance_id: str, repo: str, commit: str) -> list[tuple]:
    """Return the id, and repo with base commit where both are known, as a benchmark's marks."""
    marks = [("id", instance_id.lower())] if instance_id else []
    if repo and commit.strip("0"):
        marks.append(("base commit", repo.lower(), commit.lower()))
    return marks


def text_mark(issue: str) -> tuple | None:
    """Return an issue's text as a mark; blanks and line ends count for nothing."""
    words = issue.split()
    return ("issue's text", digest(" ".join(words))[:16]) if words else None


def new_entry(name: str, commit: str | None, instances: int, why: str = "") -> dict:
    """Return a list as the plan keeps it; with `why`, one that was not compared with."""
    return {
        "name": name, "commit": commit, "state": "not checked" if why else "checked", "why": why,
        "instances": instances, "overlaps": [], "repos_shared": 0,
    }  # fmt: skip


def names_asked(flag: str | None, on_the_hub: bool) -> list[str]:
    """Return the lists that --benchmarks names; for a dataset of the Hub those known by default."""
    if flag is None:
        return list(DEFAULT) if on_the_hub else []
    names = [name.strip() for name in flag.split(",")]
    return [name for name in dict.fromkeys(names) if name and name.lower() != "none"]


def read_benchmarks(flag: str | None, on_the_hub: bool, plan: dict | None) -> Benchmarks:
    """Read the lists that --benchmarks names, or those of the plan again as they were then.

    One that cannot be read for a new plan stops nothing: it is said, and the plan keeps why. Raises
    UserError and Outage where one cannot be read again.
    """
    benchmarks = Benchmarks()
    names = names_asked(flag, on_the_hub)
    if plan is None:
        for name in names:
            try:
                benchmarks.add(name, *read_list(name, None))
            except Exception as error:  # whatever a list from outside holds
                why = str(error).strip().partition("\n")[0] or type(error).__name__
                why = why.removeprefix(f"--benchmarks {name}: ")[:200]
                benchmarks.lists.append(new_entry(name, None, 0, why))
                warning = f"WARNING: overlap with {name} not checked: {why}"
                print(printable(warning), file=sys.stderr)
        return benchmarks
    if "benchmarks" not in plan:
        benchmarks.lists = [new_entry(name, None, 0, OLDER_VERSION) for name in names]
        return benchmarks
    for entry in plan["benchmarks"]["lists"]:
        if entry["state"] != "checked":
            benchmarks.lists.append(entry)
            continue
        commit, rows = read_list(entry["name"], entry["commit"])
        if commit != entry["commit"]:
            raise UserError(
                f"--benchmarks {entry['name']}: it is no longer what the plan was made with.\n"
                "Put it back, or start in another folder."
            )
        benchmarks.add(entry["name"], commit, rows)
    return benchmarks


def read_list(name: str, commit: str | None) -> tuple[str, list[dict]]:
    """Return the commit (of a local list a digest) and the rows of a list, absent texts as ""."""
    path = Path(name).expanduser()
    loader = LOADERS.get(path.suffix.lower(), "parquet")
    if loader == "parquet":
        files = open_dataset("--benchmarks", name, (), commit, train=False)
        paths = files.local_paths(COLUMNS)
        commit = files.revision
    else:
        paths = [path]
        commit = "local-" + digest(path.read_bytes().decode("utf-8", "replace"))[:16]
    import datasets  # takes seconds, and most runs need none

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong is said here
    rows = []
    files = [str(path) for path in paths]
    for row in datasets.load_dataset(loader, data_files=files, split="train", streaming=True):
        rows.append({column: as_text(row.get(column)) for column in COLUMNS})
    if not any(row["instance_id"] or row["base_commit"] for row in rows):
        raise UserError(f"no row has an instance_id or a base_commit (of {len(rows)} rows)")
    return commit, rows


def as_text(value: object) -> str:
    return "" if value is None else str(value)


def lines(plan: dict) -> list[str]:
    """Say of each list, for the tally, what it was compared with."""
    if "benchmarks" not in plan:
        return [f"OVERLAP WITH BENCHMARKS NOT CHECKED: {OLDER_VERSION}"]
    said = []
    for entry in plan["benchmarks"]["lists"]:
        if entry["state"] == "checked":
            said.append(
                f"benchmark  {entry['name']}: {len(entry['overlaps'])} of its "
                f"{entry['instances']} instances passed over, {entry['repos_shared']} repos shared"
            )
        else:
            said.append(f"OVERLAP WITH {entry['name']} NOT CHECKED: {entry['why']}")
    return said or ["benchmark  overlap not checked: no list was named (--benchmarks)"]
