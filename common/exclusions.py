"""What is kept out of a sample: instances that a user or a benchmark lists, other licences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.benchmarks import Benchmarks, marks_of
from common.files import UserError, is_safe_name
from common.sources import Records
from common.turns import EXCLUDED_IDS


@dataclass
class Rules:
    """What is kept out of a sample."""

    records: Records
    benchmarks: Benchmarks
    excluded: set[str]  # instance ids and repos
    exclude_file: str | None
    licenses: list[str]  # in small letters; empty: any


class Why(NamedTuple):
    """Why an instance is left out: the plan's list for it, in words, and the benchmarks."""

    kind: str
    reason: str
    lists: list[str] = []


def why_left_out(rules: Rules, instance_id: object, repo: str) -> Why | None:
    """Return why an instance is left out; None when it is not."""
    if not is_safe_name(instance_id):
        return Why("refused", "its instance id cannot be a file name")
    if instance_id in EXCLUDED_IDS:
        return Why("excluded", "on the list of excluded instances")
    for name in (instance_id, repo):
        if name in rules.excluded:
            return Why("excluded", f"{name} is listed in {rules.exclude_file}")
    place = rules.records.places.get(instance_id)
    if place is None:
        return Why("without_record", f"no PR record in {rules.records.prs.name}")
    if rules.licenses and place.license.lower() not in rules.licenses:
        found = place.license or "unknown"
        return Why("other_license", f"its licence is {found}, --license keeps others")
    marks = marks_of(instance_id, place.repo, place.base_commit)
    if rules.benchmarks.has_texts:
        marks.append(rules.records.text_mark(instance_id))
    lists, same = rules.benchmarks.find(marks)
    if lists:
        return Why("in_benchmark", f"in {', '.join(lists)}: the same {same}", lists)
    return None


def read_exclusions(path: str | None) -> set[str]:
    """Return instance ids and repos to leave out: one a line, `#` begins a comment."""
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


def read_licenses(flag: str | None) -> list[str]:
    """Return the licences that --license names, in small letters."""
    names = {name.strip().lower() for name in (flag or "").split(",")}
    return sorted(names - {""})
