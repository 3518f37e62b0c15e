"""hugePR.md: prompts and instances that never became turns, or must not be exported, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from common import turns
from common.cli import Tally
from common.config import Config
from common.files import BadFile, UserError, turn_files
from common.report.markdown import fill
from common.report.outputs import in_processes, processes_for


@dataclass
class LeftOut:
    """What prompt.py and king.py passed over, and what records say of the other instances."""

    max_record_chars: int
    instances: dict[str, str] = field(default_factory=dict)  # by stem, of every prompt
    repos: dict[str, str] = field(default_factory=dict)  # by instance
    licences: dict[str, str] = field(default_factory=dict)  # by instance, where its record has one
    # Instances without a turn: instance_id, repo, why, prompts; record_chars, patch_chars if known.
    rows: list[dict] = field(default_factory=list)
    sampling: list[dict] = field(default_factory=list)  # the plan's: instance_id, repo, reason
    excluded: dict[str, str] = field(default_factory=dict)  # by instance, why; "": it is not

    def stems(self) -> set[str]:
        """Return the stems of the prompts whose instance is left out."""
        out = {row["instance_id"] for row in self.rows}
        return {stem for stem, instance in self.instances.items() if instance in out}

    def unanswered(self, rows: list) -> int:
        """Count those of `stems` that nobody answered before."""
        return len(self.stems() - {row.stem for row in rows if row.path})

    def why_excluded(self, instance: str) -> str:
        """Return why king.py would leave an instance out today; "" where it would not."""
        if instance not in self.excluded:
            self.excluded[instance] = turns.why_excluded(instance, self.max_record_chars) or ""
        return self.excluded[instance]


def read_left_out(plan: dict, config: Config, tally: Tally) -> LeftOut:
    """Read from plan, prompts and records what prompt.py and king.py passed over."""
    left_out = LeftOut(config.generate.max_record_chars)
    for name in turns.SAMPLING_LISTS:
        left_out.sampling += dicts(plan.get(name))
    paths = turn_files("prompt")
    processes = processes_for(turns.PROMPTS_PER_FILE * len(paths))
    with in_processes(instances_and_repos, paths, processes) as found:
        for path, prompts in zip(paths, found):
            if isinstance(prompts, str):
                fail_torn(tally, path.stem, "prompt.py", prompts)
                continue
            for order, (instance, repo) in enumerate(prompts, 1):
                left_out.instances[f"{path.stem}_{order}"] = instance
                left_out.repos.setdefault(instance, repo)
    prompts_of = Counter(left_out.instances.values())
    for instance, repo in left_out.repos.items():
        row = {"instance_id": instance, "repo": repo, "prompts": prompts_of[instance]}
        try:
            record = turns.read_record(instance)
        except (UserError, BadFile) as bad:
            left_out.rows.append({**row, "why": str(bad).split("\n")[0]})
            continue
        left_out.licences[instance] = str(record.get("license") or "")
        row["why"] = turns.exclusion_reason(record, left_out.max_record_chars)
        left_out.excluded[instance] = row["why"] or ""
        if row["why"]:
            row["record_chars"] = turns.record_chars(record)
            row["patch_chars"] = len(record["patch"] or "")
            left_out.rows.append(row)
    left_out.rows.sort(key=lambda row: (-row.get("record_chars", 0), row["instance_id"]))
    return left_out


def instances_and_repos(path: Path) -> list[tuple[str, str]] | str:
    """Return what is needed of each prompt of a file; of a torn one what is wrong with it."""
    try:
        prompts = turns.read_prompts(path)
    except UserError as bad:
        return str(bad)
    return [(prompt["instance_id"], str(prompt.get("repo") or "")) for prompt in prompts]


def fail_torn(tally: Tally, item: str, stage: str, what: object) -> None:
    """Count a torn or foreign file as failed; `stage` is the script that makes it again."""
    kind = f"torn or foreign file, mended by python {stage}"
    tally.fail(item, kind, str(what), lasting=True, mended_by=stage)


def dicts(value: object) -> list[dict]:
    """Return the objects of a list from outside; of anything else none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def huge_pr_page(left_out: LeftOut, rows: list) -> str:
    """Return hugePR.md; sizes are in characters."""
    late = [row for row in rows if row.excluded]
    page = fill(
        "hugePR.md",
        left_out=left_out,
        out=left_out.unanswered(rows),
        late=late,
        judged=sum(row.bucket is not None for row in late),
        answers=Counter(row.instance_id for row in rows if row.path),
    )
    return f"{page}\n"
