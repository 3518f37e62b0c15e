"""hugePR.md: prompts and instances that never became turns, or must not be exported, and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from common import turns
from common.cli import Tally
from common.config import Config
from common.files import BadFile, UserError, turn_files
from common.report.markdown import fill
from common.report.outputs import in_processes


class LeftOut:
    """Which instances get no king and no challenger, and what sampling passed over."""

    def __init__(self, max_record_chars: int):
        self.max_record_chars = max_record_chars
        self.prompts: dict[str, str] = {}  # by the stem of each prompt its instance
        self.sampling: list[dict] = []  # the plan's: instance_id, repo, reason
        self._instances: dict[str, dict] = {}

    def look_up(self, instance: str) -> dict:
        """Return what an instance's record says: why it is left out, its licence, its sizes."""
        if instance not in self._instances:
            missing = ""
            try:
                record = turns.read_record(instance)
            except (UserError, BadFile) as bad:
                # Only the list of exclusions can then exclude it.
                record = {**dict.fromkeys(turns.RECORD_KEYS, ""), "instance_id": instance}
                missing = str(bad).split("\n")[0]
            excluded = turns.exclusion_reason(record, self.max_record_chars)
            self._instances[instance] = {
                "excluded": excluded or "",
                "why": excluded or missing,
                "license": str(record.get("license") or ""),
                "record_chars": turns.record_chars(record),
                "patch_chars": len(record["patch"] or ""),
            }
        return self._instances[instance]

    def unanswered(self, rows: list) -> set[str]:
        """Return the prompts of instances that are left out, but for those answered before."""
        answered = {row.stem for row in rows if row.path}
        waiting = self.prompts.keys() - answered
        return {stem for stem in waiting if self.look_up(self.prompts[stem])["why"]}


def read_left_out(plan: dict, config: Config, tally: Tally) -> LeftOut:
    """Read from plan, prompts and records what prompt.py and king.py passed over."""
    left_out = LeftOut(config.generate.max_record_chars)
    for name in turns.SAMPLING_LISTS:
        left_out.sampling += dicts(plan.get(name))
    paths = turn_files("prompt")
    with in_processes(instances, paths, turns.PROMPTS_PER_FILE * len(paths)) as found:
        for path, names in zip(paths, found):
            if isinstance(names, str):
                fail_torn(tally, path.stem, "prompt.py", names)
                continue
            for order, instance in enumerate(names, 1):
                left_out.prompts[f"{path.stem}_{order}"] = instance
                left_out.look_up(instance)
    return left_out


def instances(path: Path) -> list[str] | str:
    """Return the instance of each prompt of a file; of a torn one what is wrong with it."""
    try:
        return [prompt["instance_id"] for prompt in turns.read_prompts(path)]
    except UserError as bad:
        return str(bad)


def fail_torn(tally: Tally, item: str, stage: str, what: object) -> None:
    """Count a torn or foreign file as failed; `stage` is the script that makes it again."""
    kind = f"torn or foreign file, mended by python {stage}"
    tally.fail(item, kind, str(what), lasting=True, mended_by=stage)


def dicts(value: object) -> list[dict]:
    """Return the objects of a list from outside; of anything else none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def huge_pr_page(left_out: LeftOut, rows: list) -> str:
    """Return hugePR.md; sizes are in characters."""
    page = fill(
        "hugePR.md",
        left_out=left_out,
        unanswered=left_out.unanswered(rows),
        late=[row for row in rows if row.excluded],
        prompts=Counter(left_out.prompts.values()),
        answers=Counter(row.instance_id for row in rows if row.path),
    )
    return f"{page}\n"
