"""The sample on disk: prompt/_plan.json and the files of prompts that it plans.

A sampler (prompt.py has it) draws the windows; here they are saved so that a kill loses little.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections import Counter
from operator import itemgetter
from pathlib import Path

from common import benchmarks
from common.cli import Progress
from common.files import BadFile, UserError, digest, quarantine, read_json, write_json
from common.parquet import ParquetFiles
from common.turns import PROMPTS_PER_FILE, SAMPLING_LISTS, read_record

PROMPT = Path("prompt")
PLAN = PROMPT / "_plan.json"
SAVE_EVERY_S = 1  # what a kill costs; it is drawn again just so
PLAN_KEYS = ("flags", "revision", "prs_revision", "count", "offsets", "exhausted", "summary")
YOUNGER_FLAGS = {"--license": []}  # what a plan that does not name them was made with


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
        print(f"{bad}; moved aside to {quarantine(PLAN)}, made again", file=sys.stderr)
        return None
    for kind in SAMPLING_LISTS:
        plan.setdefault(kind, [])  # an older version knew fewer
    for flag, value in flags.items():
        there = plan["flags"].get(flag, YOUNGER_FLAGS.get(flag, value))
        if there != value:
            raise UserError(
                f"{PLAN} was made with {flag} {there}, this run has {value}.\nGive the same flags "
                "to go on with it; for another sample use another folder, or remove prompt/ and "
                "commit/."
            )
    return plan


def new_plan(flags: dict, revision: str, prs_revision: str) -> dict:
    """Return a plan in which nothing was drawn yet."""
    plan = {
        "dataset": flags["--dataset"], "revision": revision,
        "prs": flags["--prs"], "prs_revision": prs_revision,
        "seed": flags["--seed"], "count": flags["--count"], "flags": flags,
        "exhausted": False, "summary": None, "benchmarks": {"lists": []},
    }  # fmt: skip
    for kind in SAMPLING_LISTS:
        plan[kind] = []
    plan["offsets"] = []
    return plan


def check_revisions(plan: dict, files: ParquetFiles, prs: ParquetFiles) -> None:
    """Raise UserError when the datasets are not those that the plan was made from."""
    for source, pinned in ((files, plan["revision"]), (prs, plan["prs_revision"])):
        if source.revision != pinned:
            raise UserError(
                f"{source.flag} {source.name}: its files are no longer those that {PLAN} was made "
                "from.\nPut them back, or start in another folder."
            )


def planned_turns(plan: dict) -> list[dict]:
    """Return the turns of the plan in order, each with its file and the number of its window."""
    turns = []
    for number, window in enumerate(plan["offsets"]):
        for turn in window["turns"]:
            turns.append({"file": window["file"], "window": number, **turn})
    return turns


def chat_digest(instance_id: str, messages: list[dict]) -> str:
    """Return what tells one turn from another: a digest of the instance and the whole history."""
    return digest(instance_id, json.dumps(messages))[:16]


def prompts_file(plan: dict, first: int) -> Path:
    """Return the file whose first prompt is number `first` of the sample (from 0)."""
    return PROMPT / f"prompts_{plan['count']}_{first // PROMPTS_PER_FILE + 1}.json"


def make_prompt(file: str, turn: dict, repo: str, messages: list[dict]) -> dict:
    """Return the prompt of a planned turn, as its file holds it."""
    return {
        "instance_id": turn["instance_id"],
        "repo": repo,
        "messages": messages[: turn["turn"]],
        "assistant": messages[turn["turn"]]["content"],
        "source": {"file": file, "row": turn["row"], "turn": turn["turn"]},
    }


def held_prompts(plan: dict, turns: list[dict], first: int) -> list[dict]:
    """Return the prompts of a file; one that holds anything but its planned turns is set aside."""
    path = prompts_file(plan, first)
    planned = turns[first : first + PROMPTS_PER_FILE]
    try:
        prompts = read_json(path)
    except FileNotFoundError:
        return []
    except BadFile as bad:
        problem = bad.why
    else:
        fits = isinstance(prompts, list) and len(prompts) <= len(planned)
        if fits and all(map(is_prompt_of, planned, prompts)):
            return prompts
        problem = "does not hold what the plan says"
    print(f"{path}: {problem}; moved aside to {quarantine(path)}, made again", file=sys.stderr)
    return []


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


def count_held(plan: dict | None, goal: int) -> int:
    """Return how many of the first `goal` prompts of the plan lie there, whole."""
    turns = planned_turns(plan) if plan else []
    held = 0
    for first in range(0, min(goal, len(turns)), PROMPTS_PER_FILE):
        held += min(len(held_prompts(plan, turns, first)), goal - first)
    return held


def is_complete(plan: dict | None, held: int, goal: int) -> bool:
    """Tell whether nothing is left to do: no turn, no record, no summary."""
    if plan is None or not plan["summary"]:
        return False
    turns = planned_turns(plan)[:goal]
    drawn = len(turns) == goal or plan["exhausted"]
    return drawn and held == len(turns) and not missing_records(turns)


def missing_records(turns: list[dict]) -> set[str]:
    """Return the instances that have no whole record in commit/; a torn one is set aside."""
    missing = set()
    for instance_id in {turn["instance_id"] for turn in turns}:
        try:
            read_record(instance_id)
        except UserError:
            missing.add(instance_id)
        except BadFile as bad:
            print(f"{bad}; moved aside to {quarantine(bad.path)}, made again", file=sys.stderr)
            missing.add(instance_id)
    return missing


def save(plan: dict, first: int, prompts: list[dict], goal: int) -> tuple[int, list[dict]]:
    """Write the plan, then the prompts from number `first` to `goal`.

    Return the number of the first prompt whose file is not full, and the prompts from there on.
    """
    write_json(PLAN, plan)
    while prompts and first < goal:
        write_json(prompts_file(plan, first), prompts[: min(PROMPTS_PER_FILE, goal - first)])
        if len(prompts) < PROMPTS_PER_FILE:
            break
        prompts = prompts[PROMPTS_PER_FILE:]
        first += PROMPTS_PER_FILE
    return first, prompts


# ------------------------------------------------------------------------------------------ files


def write_prompts(sampler, goal: int, progress: Progress) -> None:
    """Write prompts 0 to `goal`: first those that the plan holds, then those of new windows."""
    turns = planned_turns(sampler.plan)
    first = 0  # number of the first prompt of the file at hand
    prompts: list[dict] = []  # from there on
    for first in range(0, min(goal, len(turns)), PROMPTS_PER_FILE):
        prompts = complete_file(sampler, turns, first, goal)
        progress.update(len(prompts))
    saved_at = time.monotonic()
    unsaved = False
    try:
        for drawn in sampler.draw(goal):
            prompts += drawn
            unsaved = bool(sampler.taken)
            if unsaved and time.monotonic() - saved_at > SAVE_EVERY_S:
                first, prompts = save(sampler.plan, first, prompts, goal)
                saved_at = time.monotonic()
                unsaved = False
            progress.update(len(drawn), read=f"{sampler.files.bytes_read / 1e6:,.1f} MB")
    finally:  # also of a run that is interrupted here
        if unsaved:
            save(sampler.plan, first, prompts, goal)


def complete_file(sampler, turns: list[dict], first: int, goal: int) -> list[dict]:
    """Return the prompts of one file; read again and write those that it lacks up to `goal`."""
    planned = turns[first : min(first + PROMPTS_PER_FILE, goal)]
    prompts = held_prompts(sampler.plan, turns, first)
    missing = planned[len(prompts) :]
    again = []
    for number, turns_of_window in itertools.groupby(missing, key=itemgetter("window")):
        again += sampler.read_again(number, list(turns_of_window))
    if not all(map(is_prompt_of, missing, again)):
        raise UserError(
            f"{sampler.files.flag} {sampler.files.name}: it no longer holds what {PLAN} "
            "was made from.\nPut its files back, or start in another folder."
        )
    if again:
        prompts += again
        write_json(prompts_file(sampler.plan, first), prompts)
    return prompts


# ---------------------------------------------------------------------------------------- summary


def sampled_repos(turns: list[dict]) -> set[str]:
    """Return the repos of the records of these turns."""
    return {read_record(name)["repo"] for name in {turn["instance_id"] for turn in turns}}


def summarize(plan: dict, turns: list[dict]) -> dict:
    """Return what was sampled, for the tally and the report; bytes are those of a run at one go."""
    per_instance = Counter(turn["instance_id"] for turn in turns)
    languages = Counter()
    for instance_id, count in per_instance.items():
        languages[read_record(instance_id)["language"] or "unknown"] += count
    sizes = {}
    passed_over = set()
    for window in plan["offsets"]:
        sizes[window["file"], window["row_group"]] = window["bytes"]
        for row in window["passed_over"]:
            passed_over.add((window["file"], row["row"], row["reason"]))
    thirds = Counter({"early": 0, "middle": 0, "late": 0})
    thirds.update(turn["third"] for turn in turns)
    return {
        "prompts": len(turns),
        "instances": len(per_instance),
        "repos": len(sampled_repos(turns)),
        "most_turns_of_an_instance": max(per_instance.values()),
        "languages": dict(languages.most_common()),
        "thirds": dict(thirds),
        "windows": len(plan["offsets"]),
        "row_groups": len(sizes),
        "trajectory_bytes": sum(sizes.values()),
        "rows_passed_over": dict(Counter(reason for *_, reason in sorted(passed_over))),
    }


def summary_lines(plan: dict) -> list[str]:
    """Return the summary as lines for the tally."""
    seen = plan["summary"]
    languages = list(seen["languages"].items())[:8]
    lines = [
        f"{seen['prompts']} prompts of {seen['instances']} instances in {seen['repos']} repos, "
        f"at most {seen['most_turns_of_an_instance']} of an instance",
        "languages  " + ", ".join(f"{name} {count}" for name, count in languages),
        "turns      " + ", ".join(f"{third} {count}" for third, count in seen["thirds"].items()),
        f"read       {seen['trajectory_bytes'] / 1e6:,.1f} MB of trajectories "
        f"({seen['windows']} windows, {seen['row_groups']} row groups)",
    ]
    for reason, count in seen["rows_passed_over"].items():
        lines.append(f"passed over {count} rows, {reason}")
    for kind, words in SAMPLING_LISTS.items():
        names = [entry["instance_id"] for entry in plan[kind]]
        if names:
            named = ", ".join(names[:5]) + (" ..." if names[5:] else "")
            lines.append(f"left out {len(names)} {words}: {named}")
    lines += benchmarks.lines(plan)
    if plan["exhausted"]:
        found = f"{seen['prompts']} of {plan['count']} were found"
        lines.append(f"the dataset has no more turns to give: {found}")
    return lines


def why_empty(plan: dict) -> str:
    """Return why a plan without a turn is empty."""
    reasons = Counter()
    for window in plan["offsets"]:
        reasons.update(row["reason"] for row in window["passed_over"])
    for kind in SAMPLING_LISTS:
        reasons.update(entry["reason"] for entry in plan[kind])
    counted = [f"{count} x {reason}" for reason, count in reasons.most_common(3)]
    return "; ".join(counted) or "it has no rows"
