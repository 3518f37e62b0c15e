"""What is kept out of a sample: what a user lists, other licences, tasks of public benchmarks.

A benchmark's task is known again by its id, by its repo and base commit, or by its issue's text.
The plan pins what became of each list, so that a rerun compares with the same lists or with none.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common.files import UserError, digest, is_safe_name, printable
from common.sampling.parquet import ParquetFiles, as_text
from common.turns import EXCLUDED_IDS

DEFAULT_LISTS = (
    "princeton-nlp/SWE-bench",
    "princeton-nlp/SWE-bench_Verified",
    "SWE-bench/SWE-bench_Multilingual",
    "ScaleAI/SWE-bench_Pro",
    "SWE-bench-Live/SWE-bench-Live",
)
LIST_COLUMNS = ("instance_id", "repo", "base_commit", "problem_statement")
LOADERS = {".json": "json", ".jsonl": "json", ".csv": "csv"}  # all else is parquet


class Exclusions:
    """What is kept out of a sample; `lists` are the benchmarks as the plan keeps them.

    `flags` are those of the plan, with --exclude as a list of instance ids and repos.
    """

    def __init__(self, flags: dict, exclude_file: str | None, records):
        self.excluded = set(flags["--exclude"])
        self.exclude_file = exclude_file
        self.licenses = flags["--license"]
        self.records = records
        self.lists: list[dict] = []
        self._marks: dict[str, set[tuple]] = {}  # of a list that was read: what tells its tasks

    def why_left_out(self, instance_id: str, repo: str) -> tuple[str, str, list[str]] | None:
        """Return the plan's list for it, the reason and the benchmarks; None where it stays in."""
        if not is_safe_name(instance_id):
            return "refused", "its instance id cannot be a file name", []
        if instance_id in EXCLUDED_IDS:
            return "excluded", "on the list of excluded instances", []
        for name in (instance_id, repo):
            if name in self.excluded:
                return "excluded", f"{name} is listed in {self.exclude_file}", []
        place = self.records.places.get(instance_id)
        if place is None:
            return "without_record", f"no PR record in {self.records.prs.name}", []
        if self.licenses and place.license.lower() not in self.licenses:
            found = place.license or "unknown"
            return "other_license", f"its licence is {found}, --license keeps others", []
        if not self._marks:
            return None
        marks = marks_of(instance_id, place.repo, place.base_commit)
        marks.append(self.records.text_mark(instance_id))
        lists = {}
        same = {}
        for mark in marks:
            for name, known in self._marks.items():
                if mark in known:
                    lists[name] = same[mark[0]] = True
        if not lists:
            return None
        reason = f"in {', '.join(lists)}: the same {' and '.join(same)}"
        return "in_benchmark", reason, list(lists)

    def read_benchmarks(self, flag: str | None, on_the_hub: bool, plan: dict | None) -> None:
        """Read the lists that --benchmarks names, or those of the plan again as they were then.

        Without the flag those known by default, for a dataset of the Hub. A list that cannot be
        read for a new plan stops nothing: it is said, and the plan keeps why. Raises UserError and
        Outage where one cannot be read again.
        """
        if plan:
            self.lists = plan["benchmarks"]["lists"]
        else:
            names = [name.strip() for name in (flag or "").split(",")]
            if flag is None and on_the_hub:
                names = DEFAULT_LISTS
            names = [name for name in dict.fromkeys(names) if name.lower() not in ("", "none")]
            self.lists = [new_entry(name) for name in names]
        for entry in self.lists:
            if entry["state"] == "not checked":
                continue
            name = entry["name"]
            try:
                commit, rows = read_list(name, entry["commit"])
            except Exception as error:  # whatever a list from outside holds
                if plan:
                    raise
                why = str(error).strip().partition("\n")[0] or type(error).__name__
                why = why.removeprefix(f"--benchmarks {name}").lstrip(": ")[:200]
                entry |= {"state": "not checked", "why": why}
                warning = f"WARNING: overlap with {name} not checked: {why}"
                print(printable(warning), file=sys.stderr)
                continue
            entry |= {"commit": commit, "instances": len({row["instance_id"] for row in rows})}
            self._marks[name] = {text_mark(row["problem_statement"]) for row in rows} - {None}
            for row in rows:
                marks = marks_of(row["instance_id"], row["repo"], row["base_commit"])
                self._marks[name].update([*marks, ("repo", row["repo"].lower())])

    def count_overlaps(self, overlaps: list[dict], sampled_repos: set[str]) -> None:
        """Put into the lists which instances were passed over, and how many repos they share."""
        repos = {("repo", repo.lower()) for repo in sampled_repos if repo}
        for entry in self.lists:
            name = entry["name"]
            if name in self._marks:
                entry["overlaps"] = [row["instance_id"] for row in overlaps if name in row["lists"]]
                entry["repos_shared"] = len(repos & self._marks[name])


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


def text_mark(issue: str) -> tuple | None:
    """Return an issue's text as a mark; blanks and line ends count for nothing."""
    words = issue.split()
    return ("issue's text", digest(" ".join(words))[:16]) if words else None


def new_entry(name: str, why: str = "") -> dict:
    """Return a list as the plan keeps it; with `why`, one that was not compared with."""
    return {
        "name": name, "commit": None, "state": "not checked" if why else "checked", "why": why,
        "instances": 0, "overlaps": [], "repos_shared": 0,
    }  # fmt: skip


def read_list(name: str, pinned: str | None) -> tuple[str, list[dict]]:
    """Return the commit (of a local list a digest) and the rows of a list, absent texts as "".

    Raises UserError where the list is not the pinned one, or holds no tasks.
    """
    path = Path(name).expanduser()
    loader = LOADERS.get(path.suffix.lower())
    if loader:
        commit = "local-" + digest(path.read_bytes().decode("utf-8", "replace"))[:16]
    else:
        files = ParquetFiles("--benchmarks", name, (), pinned, train=False, keep=True)
        commit = files.revision
    if pinned not in (None, commit):
        raise UserError(
            f"--benchmarks {name}: it is no longer what the plan was made with.\n"
            "Put it back, or start in another folder."
        )
    rows = []
    if loader:
        import datasets  # takes seconds, and most runs need none

        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong is said here
        rows = datasets.load_dataset(loader, data_files=str(path), split="train", streaming=True)
    else:
        for group in files.groups():
            for batch in files.batches(*group, LIST_COLUMNS):
                rows += batch.to_pylist()
    rows = [{column: as_text(row.get(column)) for column in LIST_COLUMNS} for row in rows]
    if not any(row["instance_id"] or row["base_commit"] for row in rows):
        raise UserError(f"no row has an instance_id or a base_commit (of {len(rows)} rows)")
    return commit, rows
