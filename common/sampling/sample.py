"""The sample on disk: prompt/_plan.json, the files of prompts that it plans, and the summary.

prompt.py draws the windows; here they are saved so that a kill loses little.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from contextlib import suppress
from operator import itemgetter
from pathlib import Path

from common.cli import Progress, Tally
from common.files import BadFile, UserError, digest, quarantine, read_json, write_json
from common.sampling.exclusions import Exclusions, new_entry
from common.sampling.parquet import ParquetFiles
from common.sampling.sources import read_chats, read_instances
from common.turns import PROMPTS_PER_FILE, SAMPLING_LISTS, read_record

PROMPT = Path("prompt")
PLAN = PROMPT / "_plan.json"
PLAN_KEYS = ("flags", "revision", "prs_revision", "count", "offsets", "exhausted", "summary")


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
        set_aside(PLAN, bad.why)
        return None
    for kind in SAMPLING_LISTS:
        plan.setdefault(kind, [])  # an older version knew fewer, and no benchmarks
    unchecked = new_entry("any benchmark", "sampled by an older version")
    plan.setdefault("benchmarks", {"lists": [unchecked]})
    made_with = {"--license": [], **plan["flags"]}  # an older version knew fewer flags
    for flag, value in flags.items():
        there = made_with.get(flag, value)
        if there != value:
            raise UserError(
                f"{PLAN} was made with {flag} {there}, this run has {value}.\nGive the same flags "
                "to go on with it; for another sample use another folder, or remove prompt/ and "
                "commit/."
            )
    return plan


def set_aside(path: Path, problem: str) -> None:
    print(f"{path}: {problem}; moved aside to {quarantine(path)}, made again", file=sys.stderr)


def new_plan(flags: dict, files: ParquetFiles, prs: ParquetFiles, exclusions: Exclusions) -> dict:
    """Return a plan in which nothing was drawn yet."""
    return {
        "dataset": flags["--dataset"], "revision": files.revision,
        "prs": flags["--prs"], "prs_revision": prs.revision,
        "seed": flags["--seed"], "count": flags["--count"], "flags": flags,
        "exhausted": False, "summary": None, "benchmarks": {"lists": exclusions.lists},
        **{kind: [] for kind in SAMPLING_LISTS}, "offsets": [],
    }  # fmt: skip


def changed(dataset: ParquetFiles) -> UserError:
    """Return the error of a dataset that is not what the plan was made from."""
    return UserError(
        f"{dataset.what}: it no longer holds what {PLAN} was made from.\n"
        "Put its files back, or start in another folder."
    )


def planned_turns(plan: dict) -> list[dict]:
    """Return the turns of the plan in order, each with its file and its window's number."""
    turns = []
    for number, window in enumerate(plan["offsets"]):
        for turn in window["turns"]:
            turns.append({"file": window["file"], "window": number, **turn})
    return turns


def chat_digest(instance_id: str, messages: list[dict]) -> str:
    """Return what tells one turn from another: a digest of the instance and the whole history."""
    return digest(instance_id, json.dumps(messages))[:16]


# ---------------------------------------------------------------------------------------- prompts


def make_prompt(file: str, turn: dict, repo: str, messages: list[dict]) -> dict:
    """Return the prompt of a planned turn, as its file holds it."""
    return {
        "instance_id": turn["instance_id"],
        "repo": repo,
        "messages": messages[: turn["turn"]],
        "assistant": messages[turn["turn"]]["content"],
        "source": {"file": file, "row": turn["row"], "turn": turn["turn"]},
    }


def is_prompt_of(turn: dict, prompt: object) -> bool:
    """Tell whether a prompt is whole and the one of the plan's turn."""
    try:
        return (
            prompt["source"] == {key: turn[key] for key in ("file", "row", "turn")}
            and chat_digest(prompt["instance_id"], prompt["messages"]) == turn["chat"]
            and digest(prompt["assistant"])[:16] == turn["reply"]
        )
    except (TypeError, KeyError, AttributeError):
        return False


def prompts_file(plan: dict, first: int) -> Path:
    """Return the file whose first prompt is number `first` of the sample (from 0)."""
    return PROMPT / f"prompts_{plan['count']}_{first // PROMPTS_PER_FILE + 1}.json"


def held_prompts(plan: dict, turns: list[dict], first: int) -> list[dict]:
    """Return the prompts of a file; one that holds anything but its planned turns is set aside."""
    path = prompts_file(plan, first)
    planned = turns[first : first + PROMPTS_PER_FILE]
    problem = "does not hold what the plan says"
    try:
        prompts = read_json(path)
        fits = isinstance(prompts, list) and len(prompts) <= len(planned)
        if fits and all(map(is_prompt_of, planned, prompts)):
            return prompts
    except FileNotFoundError:
        return []
    except BadFile as bad:
        problem = bad.why
    set_aside(path, problem)
    return []


def missing_records(turns: list[dict]) -> set[str]:
    """Return the instances that have no whole record in commit/; a torn one is set aside."""
    missing = set()
    for instance_id in {turn["instance_id"] for turn in turns}:
        try:
            read_record(instance_id)
        except UserError:
            missing.add(instance_id)
        except BadFile as bad:
            set_aside(bad.path, bad.why)
            missing.add(instance_id)
    return missing


def read_again(files: ParquetFiles, plan: dict, turns: list[dict]) -> list[dict]:
    """Return the prompts of planned turns, read from the dataset."""
    prompts = []
    for number, turns_of_window in itertools.groupby(turns, key=itemgetter("window")):
        planned = list(turns_of_window)
        place = planned[0]["file"], plan["offsets"][number]["row_group"]
        instances = read_instances(files, *place)
        chats = read_chats(files, *place, {turn["row"] for turn in planned})
        for turn in planned:
            with suppress(KeyError, IndexError, TypeError):  # of a dataset that was changed
                repo = instances[turn["instance_id"]][0]
                prompts.append(make_prompt(turn["file"], turn, repo, chats[turn["row"]]))
    if len(prompts) < len(turns) or not all(map(is_prompt_of, turns, prompts)):
        raise changed(files)
    return prompts


def write_prompts(sampler, goal: int, tally: Tally) -> None:
    """Write prompts 0 to `goal`: those that the plan holds, then those of new windows.

    A kill costs the reading of one file's prompts at most; they are drawn again just so.
    """
    if sampler.plan is None:
        sampler.open()
    plan = sampler.plan
    windows = sampler.draw(goal)
    progress = Progress(goal, "prompts", "prompt")
    prompts: list[dict] = []  # of the file at hand, and what was drawn beyond it
    for first in range(0, goal, PROMPTS_PER_FILE):
        size = min(PROMPTS_PER_FILE, goal - first)
        held = 0  # by the file
        if not prompts:
            turns = planned_turns(plan)
            prompts = held_prompts(plan, turns, first)
            held = len(prompts)
            tally.skipped["already there"] += min(held, size)
            missing = turns[first + held : first + size]
            if missing:
                sampler.open()
                prompts += read_again(sampler.files, plan, missing)
            progress.update(len(prompts))
        try:
            while len(prompts) < size and (drawn := next(windows, None)) is not None:
                prompts += drawn
                progress.update(len(drawn), read=f"{sampler.files.bytes_read / 1e6:,.1f} MB")
        finally:  # also of a run that is interrupted here
            if len(prompts) > held:
                write_json(PLAN, plan)
                write_json(prompts_file(plan, first), prompts[:size])
                tally.done += min(size, len(prompts)) - held
        if len(prompts) < size:
            break  # there are no more
        prompts = prompts[size:]
    progress.close()


# ---------------------------------------------------------------------------------------- summary


def summarize(plan: dict, turns: list[dict], exclusions: Exclusions) -> None:
    """Put into the plan what was sampled; its bytes are those of a run at one go."""
    per_instance = Counter(turn["instance_id"] for turn in turns)
    languages = Counter()
    repos = set()
    for instance_id, count in per_instance.items():
        record = read_record(instance_id)
        languages[record["language"] or "unknown"] += count
        repos.add(record["repo"])
    windows = plan["offsets"]
    sizes = {(window["file"], window["row_group"]): window["bytes"] for window in windows}
    passed_over = set()
    for window in windows:
        for row in window["passed_over"]:
            passed_over.add((window["file"], row["row"], row["reason"]))
    thirds = Counter(turn["third"] for turn in turns)
    plan["summary"] = {
        "prompts": len(turns),
        "instances": len(per_instance),
        "repos": len(repos),
        "most_turns_of_an_instance": max(per_instance.values(), default=0),
        "languages": dict(languages.most_common()),
        "thirds": {third: thirds[third] for third in ("early", "middle", "late")},
        "windows": len(windows),
        "row_groups": len(sizes),
        "trajectory_bytes": sum(sizes.values()),
        "rows_passed_over": dict(Counter(reason for *_, reason in sorted(passed_over))),
    }
    exclusions.count_overlaps(plan["in_benchmark"], repos)


def summary_lines(plan: dict) -> list[str]:
    """Return the summary as lines for the tally."""
    lines = [f"{name}: {json.dumps(value)}" for name, value in plan["summary"].items()]
    for kind, words in SAMPLING_LISTS.items():
        names = [entry["instance_id"] for entry in plan[kind]]
        if names:
            lines.append(f"left out {len(names)} {words}: {', '.join(names[:5])}")
    for entry in plan["benchmarks"]["lists"]:
        name = entry["name"]
        if entry["state"] == "checked":
            found = f"{len(entry['overlaps'])} of its {entry['instances']} instances passed over"
            lines.append(f"benchmark {name}: {found}, {entry['repos_shared']} repos shared")
        else:
            lines.append(f"OVERLAP WITH {name} NOT CHECKED: {entry['why']}")
    if not plan["benchmarks"]["lists"]:
        lines.append("overlap not checked: no list was named (--benchmarks)")
    if plan["exhausted"]:
        found = plan["summary"]["prompts"]
        lines.append(f"the dataset has no more turns to give: {found} of {plan['count']}")
    return lines


def why_empty(plan: dict) -> str:
    """Return why a plan without a turn is empty."""
    reasons = Counter(plan["summary"]["rows_passed_over"])
    for kind in SAMPLING_LISTS:
        reasons.update(entry["reason"] for entry in plan[kind])
    counted = [f"{count} x {reason}" for reason, count in reasons.most_common(3)]
    return "; ".join(counted) or "it has no rows"
