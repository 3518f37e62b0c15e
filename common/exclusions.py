"""What is kept out of a sample: what a user lists, other licences, tasks of public benchmarks.

A benchmark's task is known again by its id, by its repo and base commit, or by its issue's text.
The plan pins what became of each list, so that a rerun compares with the same lists or with none.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common.files import UserError, digest, is_safe_name, printable
from common.parquet import ParquetFiles, as_text
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
        self._names: dict[tuple, list[str]] = {}  # mark -> the lists that hold it
        self._repos: dict[str, set[str]] = {}  # list -> its repos
        self._has_texts = False

    def why_left_out(self, instance_id: object, repo: str) -> tuple[str, str, list[str]] | None:
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
        marks = marks_of(instance_id, place.repo, place.base_commit)
        if self._has_texts:
            marks.append(self.records.text_mark(instance_id))
        marks = [mark for mark in marks if mark in self._names]
        if marks:
            lists = list(dict.fromkeys(name for mark in marks for name in self._names[mark]))
            same = " and ".join(mark[0] for mark in marks)
            return "in_benchmark", f"in {', '.join(lists)}: the same {same}", lists
        return None

    def read_benchmarks(self, flag: str | None, on_the_hub: bool, plan: dict | None) -> None:
        """Read the lists that --benchmarks names, or those of the plan again as they were then.

        Without the flag those known by default, for a dataset of the Hub. A list that cannot be
        read for a new plan stops nothing: it is said, and the plan keeps why. Raises UserError and
        Outage where one cannot be read again.
        """
        if plan is None:
            names = [name.strip() for name in (flag or "").split(",")]
            if flag is None and on_the_hub:
                names = DEFAULT_LISTS
            for name in dict.fromkeys(names):
                if name.lower() in ("", "none"):
                    continue
                try:
                    self.add_list(name, *read_list(name, None))
                except Exception as error:  # whatever a list from outside holds
                    why = str(error).strip().partition("\n")[0] or type(error).__name__
                    why = why.removeprefix(f"--benchmarks {name}").lstrip(": ")[:200]
                    self.lists.append(new_entry(name, None, 0, why))
                    warning = f"WARNING: overlap with {name} not checked: {why}"
                    print(printable(warning), file=sys.stderr)
            return
        for entry in plan["benchmarks"]["lists"]:
            if entry["state"] != "checked":
                self.lists.append(entry)
                continue
            commit, rows = read_list(entry["name"], entry["commit"])
            if commit != entry["commit"]:
                raise UserError(
                    f"--benchmarks {entry['name']}: it is no longer what the plan was made with.\n"
                    "Put it back, or start in another folder."
                )
            self.add_list(entry["name"], commit, rows)

    def add_list(self, name: str, commit: str, rows: list[dict]) -> None:
        """Add a benchmark that was read."""
        marks = set()
        for row in rows:
            marks.update(marks_of(row["instance_id"], row["repo"], row["base_commit"]))
            text = text_mark(row["problem_statement"])
            if text:
                marks.add(text)
                self._has_texts = True
        for mark in marks:
            self._names.setdefault(mark, []).append(name)
        self._repos[name] = {row["repo"].lower() for row in rows} - {""}
        self.lists.append(new_entry(name, commit, len({row["instance_id"] for row in rows})))

    def count_overlaps(self, overlaps: list[dict], sampled_repos: set[str]) -> None:
        """Put into the lists which instances were passed over, and how many repos they share."""
        repos = {repo.lower() for repo in sampled_repos}
        for entry in self.lists:
            if entry["state"] == "checked":
                name = entry["name"]
                entry["overlaps"] = [row["instance_id"] for row in overlaps if name in row["lists"]]
                entry["repos_shared"] = len(repos & self._repos[name])


def read_names(path: str | None) -> set[str]:
    """Return the instance ids and repos of --exclude: one a line, `#` begins a comment."""
    if path is None:
        return set()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "not a text file"
        raise UserError(
            f"--exclude {path}: {problem}. Expected instance ids or repos, one a line."
        ) from None
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


def new_entry(name: str, commit: str | None, instances: int, why: str = "") -> dict:
    """Return a list as the plan keeps it; with `why`, one that was not compared with."""
    return {
        "name": name, "commit": commit, "state": "not checked" if why else "checked", "why": why,
        "instances": instances, "overlaps": [], "repos_shared": 0,
    }  # fmt: skip


def read_list(name: str, commit: str | None) -> tuple[str, list[dict]]:
    """Return the commit (of a local list a digest) and the rows of a list, absent texts as ""."""
    path = Path(name).expanduser()
    loader = LOADERS.get(path.suffix.lower())
    rows = []
    if loader:
        import datasets  # takes seconds, and most runs need none

        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong is said here
        commit = "local-" + digest(path.read_bytes().decode("utf-8", "replace"))[:16]
        rows = list(
            datasets.load_dataset(loader, data_files=str(path), split="train", streaming=True)
        )
    else:
        files = ParquetFiles("--benchmarks", name, (), commit, train=False)
        commit = files.revision
        for group in files.groups():
            for batch in files.clean_batches(*group, LIST_COLUMNS):
                rows += batch.to_pylist()
    rows = [{column: as_text(row.get(column)) for column in LIST_COLUMNS} for row in rows]
    if not any(row["instance_id"] or row["base_commit"] for row in rows):
        raise UserError(f"no row has an instance_id or a base_commit (of {len(rows)} rows)")
    return commit, rows


def benchmark_lines(plan: dict) -> list[str]:
    """Say of each list, for the tally, what it was compared with."""
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
