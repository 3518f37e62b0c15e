"""The sample on disk: prompt/_plan.json and the files of prompts that it plans."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from common.cli import Progress, Tally
from common.files import BadFile, UserError, digest, read_json, write_json
from common.sampling.chats import Chat
from common.sampling.dataset import Dataset
from common.sampling.exclusions import name_benchmarks, new_entry
from common.sampling.sources import PR_COLUMNS, ROW_COLUMNS, Records, read_chats, read_instances
from common.turns import PROMPTS_PER_FILE, SAMPLING_LISTS, read_record, set_aside

PROMPT = Path("prompt")
PLAN = PROMPT / "_plan.json"
PLAN_KEYS = ("flags", "revision", "prs_revision", "count", "offsets", "exhausted")


# ------------------------------------------------------------------------------------------- plan


def read_plan(flags: dict) -> dict | None:
    """Return the plan that lies here. Raises UserError when it was made with other flags."""
    try:
        plan = read_json(PLAN, PLAN_KEYS)
    except FileNotFoundError:
        stray = sorted(PROMPT.glob("prompts_*.json"))
        if stray:
            raise UserError(
                f"{stray[0]} lies there without {PLAN}.\nPut the plan back, or move prompt/ and "
                "commit/ away, then run this again."
            ) from None
        return None
    except BadFile as bad:
        set_aside(bad, "it is made again")
        return None
    plan.pop("summary", None)  # of an older version, as are the defaults below
    for kind in SAMPLING_LISTS:
        plan.setdefault(kind, [])
    unchecked = new_entry("any benchmark", "sampled by an older version")
    plan.setdefault("benchmarks", {"lists": [unchecked]})
    made_with = {"--license": [], **plan["flags"]}
    for flag, value in flags.items():
        there = made_with.get(flag, value)
        if there != value:
            raise UserError(
                f"{PLAN} was made with {flag} {there}, this run has {value}.\nGive the same flags "
                "to go on with it; for another sample use another folder, or remove prompt/ and "
                "commit/."
            )
    return plan


def open_datasets(flags: dict, plan: dict | None) -> tuple[dict, Dataset, Dataset]:
    """Return the plan, trajectories and PR records, both at the commits that the plan pins.

    Without a plan it is a new one, of their newest commits, in which nothing was drawn yet.
    """
    pins = plan or {"revision": flags["--revision"], "prs_revision": None}
    rows = Dataset("--dataset", flags["--dataset"], ROW_COLUMNS, pins["revision"])
    prs = Dataset("--prs", flags["--prs"], PR_COLUMNS, pins["prs_revision"])
    if not plan:
        benchmarks = name_benchmarks(flags["--benchmarks"], rows.hub is not None)
        plan = {
            "dataset": flags["--dataset"], "revision": rows.revision,
            "prs": flags["--prs"], "prs_revision": prs.revision,
            "seed": flags["--seed"], "count": flags["--count"], "flags": flags,
            "kinds": rows.kinds(), "exhausted": False, "benchmarks": {"lists": benchmarks},
            **{kind: [] for kind in SAMPLING_LISTS}, "offsets": [],
        }  # fmt: skip
    for dataset, key in ((rows, "revision"), (prs, "prs_revision")):
        if dataset.revision != plan[key]:
            raise changed(dataset)
    if not rows.hub:
        rows.groups()  # what a file lacks is told before anything is drawn
    return plan, rows, prs


def changed(dataset: Dataset) -> UserError:
    """Return the error of a dataset that is not what the plan was made from."""
    return UserError(
        f"{dataset.label}: it no longer holds what {PLAN} was made from.\n"
        "Put its files back, or start in another folder."
    )


def planned_turns(plan: dict) -> list[dict]:
    """Return the turns of the plan in order, each with its file and row group."""
    return [
        {"file": window["file"], "row_group": window["row_group"], **turn}
        for window in plan["offsets"]
        for turn in window["turns"]
    ]


def is_whole(plan: dict, goal: int) -> bool:
    """Tell whether the first `goal` prompts lie there, with their records, or all there can be."""
    turns = planned_turns(plan)
    if len(turns) < goal and not plan["exhausted"]:
        return False
    end = min(goal, len(turns))
    for first in range(0, end, PROMPTS_PER_FILE):
        size = min(PROMPTS_PER_FILE, end - first)
        if len(held_prompts(plan, turns, first)) < size:
            return False
    return not missing_records(turns[:goal])


# ---------------------------------------------------------------------------------------- prompts


def make_prompt(file: str, turn: dict, repo: str, chat: Chat) -> dict:
    """Return the prompt of a planned turn, as its file holds it."""
    place = {"file": file, "row": turn["row"], "turn": turn["turn"]}
    return {
        "instance_id": turn["instance_id"],
        "repo": repo,
        "messages": chat.messages[: turn["turn"]],
        "assistant": chat.messages[turn["turn"]]["content"],
        "source": {**place, "form": chat.form, "fence": chat.fence},
    }


def chat_digest(instance_id: str, messages: list[dict]) -> str:
    """Return what tells one turn from another: a digest of the instance and the whole history."""
    return digest(instance_id, json.dumps(messages))[:16]


def is_prompt_of(turn: dict, prompt: object) -> bool:
    """Tell whether a prompt is whole and the one of the plan's turn."""
    try:
        return (
            all(prompt["source"][key] == turn[key] for key in ("file", "row", "turn"))
            and chat_digest(prompt["instance_id"], prompt["messages"]) == turn["chat"]
            and digest(prompt["assistant"])[:16] == turn["reply"]
        )
    except (TypeError, KeyError, AttributeError):
        return False


def prompts_file(plan: dict, first: int) -> Path:
    """Return the file whose first prompt is number `first` of the sample (from 0)."""
    return PROMPT / f"prompts_{plan['count']}_{first // PROMPTS_PER_FILE + 1}.json"


def held_prompts(plan: dict, turns: list[dict], first: int) -> list[dict]:
    """Return the prompts of the file that begins with number `first`, none without a file.

    Raises UserError for a file that is torn or holds anything but its planned turns.
    """
    path = prompts_file(plan, first)
    planned = turns[first : first + PROMPTS_PER_FILE]
    problem = f"it does not hold what {PLAN} says"
    try:
        prompts = read_json(path)
        fits = isinstance(prompts, list) and len(prompts) <= len(planned)
        if fits and all(map(is_prompt_of, planned, prompts)):
            return prompts
    except FileNotFoundError:
        return []
    except BadFile as bad:
        problem = bad.why
    raise UserError(f"{path}: {problem}.\nRemove it and run prompt.py again.")


def read_again(dataset: Dataset, records: Records, turns: list[dict]) -> list[dict]:
    """Return the prompts of planned turns, read from the dataset."""
    prompts = []
    for (file, group), window in itertools.groupby(turns, key=itemgetter("file", "row_group")):
        planned = list(window)
        instances = read_instances(dataset, file, group)
        chats = read_chats(dataset, file, group, {turn["row"] for turn in planned})
        for turn in planned:
            # Of a dataset that was changed a row may be missing, or no chat.
            with suppress(KeyError, IndexError, TypeError, AttributeError):
                repo = records.repo_of(turn["instance_id"], instances[turn["instance_id"]][0])
                prompts.append(make_prompt(file, turn, repo, chats[turn["row"]]))
    if len(prompts) < len(turns) or not all(map(is_prompt_of, turns, prompts)):
        raise changed(dataset)
    return prompts


@dataclass
class PromptFiles:
    """Writes the prompts of a plan, file by file, and the plan with each.

    A kill costs the reading of one file's prompts at most; they are drawn again just so.
    """

    plan: dict
    goal: int
    tally: Tally
    progress: Progress
    first: int = 0  # number in the sample of the first prompt of the file at hand
    prompts: list[dict] = field(default_factory=list)  # from there on
    held: int = 0  # of these, how many the file holds

    def fill_in(self, dataset: Dataset, records: Records) -> None:
        """Write what is planned and lies in no file: it is read from the dataset again."""
        turns = planned_turns(self.plan)
        for first in range(0, min(self.goal, len(turns)), PROMPTS_PER_FILE):
            self.prompts = held_prompts(self.plan, turns, first)
            self.held = len(self.prompts)
            end = min(first + PROMPTS_PER_FILE, self.goal)
            self.tally.skipped["already there"] += min(self.held, end - first)
            self.add(read_again(dataset, records, turns[first + self.held : end]))

    def add(self, prompts: list[dict]) -> None:
        """Take the prompts that come next; write every file that is full."""
        self.prompts += prompts
        self.progress.update(len(prompts))
        while len(self.prompts) >= PROMPTS_PER_FILE:
            self.write()
            self.first += PROMPTS_PER_FILE
            self.prompts = self.prompts[PROMPTS_PER_FILE:]
            self.held = 0

    def write(self) -> None:
        """Write the file at hand, unless it holds all that there is."""
        size = min(PROMPTS_PER_FILE, max(0, self.goal - self.first))
        prompts = self.prompts[:size]
        if len(prompts) > self.held:
            write_json(PLAN, self.plan)
            write_json(prompts_file(self.plan, self.first), prompts)
            self.tally.done += len(prompts) - self.held


def missing_records(turns: list[dict]) -> set[str]:
    """Return the instances that have no whole record in commit/; a torn one is set aside."""
    missing = set()
    for instance_id in {turn["instance_id"] for turn in turns}:
        try:
            read_record(instance_id)
        except UserError:
            missing.add(instance_id)
        except BadFile as bad:
            set_aside(bad, "it is made again")
            missing.add(instance_id)
    return missing


# ------------------------------------------------------------------------------------------- words


def describe(plan: dict) -> list[str]:
    """Return what was sampled and what was left out, as lines for the tally."""
    turns = planned_turns(plan)
    instances = {turn["instance_id"] for turn in turns}
    lines = [f"sampled {len(turns)} turns of {len(instances)} instances"]
    kinds = plan.get("kinds", {})  # an older version wrote none
    if {*kinds} - {"*.parquet"}:
        taken = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        lines.append(f"taken      {taken} of --dataset; files of other kinds are not read")
    rows = passed_over(plan)
    for reason, count in Counter(row[-1] for row in rows).most_common():
        file, row, _ = min(row for row in rows if row[-1] == reason)
        lines.append(f"passed over {count} rows: {reason}, such as row {row} of {file}")
    for kind, words in SAMPLING_LISTS.items():
        names = [entry["instance_id"] for entry in plan[kind]]
        if names:
            lines.append(f"left out {len(names)} {words}: {', '.join(names[:5])}")
    for entry in plan["benchmarks"]["lists"]:
        name = entry["name"]
        if entry["state"] == "checked":
            found = f"{len(entry['overlaps'])} of its {entry['instances']} instances passed over"
            lines.append(f"benchmark {name}: {found}")
        else:
            lines.append(f"OVERLAP WITH {name} NOT CHECKED: {entry['why']}")
    if not plan["benchmarks"]["lists"]:
        lines.append("overlap not checked: no list was named (--benchmarks)")
    if plan["exhausted"]:
        lines.append(f"the dataset has no more turns to give: {len(turns)} of {plan['count']}")
    return lines


def passed_over(plan: dict) -> set[tuple[str, int, str]]:
    """Return (file, row, reason) of the rows that were passed over, for each reason once."""
    rows = set()
    for window in plan["offsets"]:
        for row in window["passed_over"]:
            rows.add((window["file"], row["row"], row["reason"]))
    return rows


def why_empty(plan: dict) -> str:
    """Return why a plan without a turn is empty."""
    reasons = Counter(reason for *_, reason in sorted(passed_over(plan)))
    for kind in SAMPLING_LISTS:
        reasons.update(entry["reason"] for entry in plan[kind])
    counted = [f"{count} x {reason}" for reason, count in reasons.most_common(3)]
    return "; ".join(counted) or "it has no rows"
