"""hugePR.md: prompts that never became turns, and why."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.cli import Tally
from common.config import Config
from common.files import BadFile, UserError, is_safe_name, turn_files
from common.page.markdown import NOTHING, blocks, count, fill, shown, table
from common.turns import SAMPLING_LISTS, exclusion_reason, read_prompts, read_record, record_chars


@dataclass
class LeftOut:
    """Prompts without a turn; a row names its instance, repo, number of prompts and why."""

    instances: dict[str, str] = field(default_factory=dict)  # by stem, of every prompt
    repos: dict[str, str] = field(default_factory=dict)  # by instance
    licences: dict[str, str] = field(default_factory=dict)  # by instance, where its record has one
    excluded: list[dict] = field(default_factory=list)  # rows; with record_chars, patch_chars
    no_record: list[dict] = field(default_factory=list)  # rows
    sampling: list[dict] = field(default_factory=list)  # the plan's: instance_id, repo, reason

    def stems(self) -> set[str]:
        """Return the stems of the prompts that got no king and no challenger."""
        out = {row["instance_id"] for row in [*self.excluded, *self.no_record]}
        return {stem for stem, instance in self.instances.items() if instance in out}


def read_left_out(plan: dict, config: Config, tally: Tally) -> LeftOut:
    """Read from plan, prompts and records what prompt.py and king.py passed over."""
    left_out = LeftOut()
    for name in SAMPLING_LISTS:
        left_out.sampling += dicts(plan.get(name))
    rows: dict[str, dict] = {}
    for path in turn_files("prompt"):
        try:
            prompts = read_prompts(path)
        except UserError as bad:
            tally.fail(path.stem, "torn or foreign file, mended by python prompt.py", str(bad))
            continue
        for order, prompt in enumerate(prompts, 1):
            instance = str(prompt["instance_id"] or "")
            repo = str(prompt.get("repo") or "")
            left_out.instances[f"{path.stem}_{order}"] = instance
            left_out.repos.setdefault(instance, repo)
            row = {"instance_id": instance, "repo": repo, "prompts": 0}
            rows.setdefault(instance, row)["prompts"] += 1
    for row in rows.values():
        _place(row, left_out, config.generate.max_record_chars)
    left_out.excluded.sort(key=lambda row: (-row["record_chars"], row["instance_id"]))
    return left_out


def _place(row: dict, left_out: LeftOut, max_record_chars: int) -> None:
    """Add an instance to the list that it belongs to, if it was left out."""
    if not is_safe_name(row["instance_id"]):
        left_out.no_record.append({**row, "why": "a name that cannot be a file name"})
        return
    try:
        record = read_record(row["instance_id"])
    except (UserError, BadFile) as missing:
        left_out.no_record.append({**row, "why": str(missing).split("\n")[0]})
        return
    left_out.licences[row["instance_id"]] = str(record.get("license") or "")
    why = exclusion_reason(record, max_record_chars)
    if why:
        sizes = {"record_chars": record_chars(record), "patch_chars": len(record["patch"] or "")}
        left_out.excluded.append({**row, "why": why, **sizes})


def dicts(value: object) -> list[dict]:
    """Return the objects of a list from outside; of anything else none."""
    if not isinstance(value, list):
        return []
    return [item for item in value if isinstance(item, dict)]


def huge_pr_page(left_out: LeftOut, max_record_chars: int) -> str:
    """Return hugePR.md; sizes are in characters."""
    excluded = _rows(
        left_out.excluded,
        "instance | repo | why | record chars # | of them patch # | prompts #",
        ("instance_id", "repo", "why", "record_chars", "patch_chars", "prompts"),
    )
    sampling = _rows(left_out.sampling, "instance | repo | why", ("instance_id", "repo", "reason"))
    no_record = _rows(
        left_out.no_record,
        "instance | repo | why | prompts #",
        ("instance_id", "repo", "why", "prompts"),
    )
    text = fill(
        blocks("hugePR.md")["page"],
        prompts=count(len(left_out.instances), "prompt"),
        left_out=f"{len(left_out.stems()):,}",
        max_record_chars=f"{max_record_chars:,}",
        excluded=excluded,
        sampling=sampling,
        fetch="`python prompt.py` fetches what is missing." if left_out.no_record else "",
        no_record=no_record,
    )
    return text + "\n"


def _rows(found: list[dict], headers: str, keys: tuple[str, ...]) -> str:
    if not found:
        return "None."
    rows = []
    for row in found:
        values = [row.get(key) for key in keys]
        rows.append(
            [value if isinstance(value, int) else shown(value or NOTHING) for value in values]
        )
    return table(headers, rows)
