"""The sample on disk: prompt/_plan.json, the files of prompts that it plans, their PR records."""

import itertools
import json
from collections import Counter
from contextlib import closing, suppress
from operator import itemgetter
from pathlib import Path

from common.cli import Progress, Tally
from common.files import BadFile, UserError, digest, read_json, write_json
from common.sampling.chats import ROW_COLUMNS, Chat, read_chat
from common.sampling.dataset import Dataset, as_text
from common.sampling.records import Records, name_benchmarks
from common.turns import PROMPTS_PER_FILE, SAMPLING_LISTS, read_record, set_aside

PROMPT = Path("prompt")
PLAN = PROMPT / "_plan.json"
PLAN_KEYS = ("flags", "revision", "prs_revision", "count", "offsets", "exhausted")


def read_plan(flags: dict) -> dict | None:
    """Return the plan that lies here. Raises UserError when it was made with other flags."""
    try:
        plan = read_json(PLAN, PLAN_KEYS)
    except FileNotFoundError:
        for stray in sorted(PROMPT.glob("prompts_*.json")):
            advice = "Put that back, or move prompt/ and commit/ away."
            raise UserError(f"{stray} lies there without {PLAN}.\n{advice}") from None
        return None
    except BadFile as bad:
        set_aside(bad, "it is made again")
        return None
    for kind in SAMPLING_LISTS:  # these defaults are for older versions
        plan.setdefault(kind, [])
    plan.setdefault("benchmarks", {"lists": []})
    made_with = {"--license": [], "--benchmarks": None, **plan["flags"]}  # also flags of the past
    for flag, there in made_with.items():
        value = flags.get(flag)
        if (there or None) != (value or None):
            advice = "Give the same flags to go on with it, or sample into another folder."
            if flag not in flags:
                advice = "This version has no such flag: sample into another folder."
            made = f"{flag} {there}"[:200]
            raise UserError(f"{PLAN} was made with {made}, this run has {value}.\n{advice}")
    return plan


def new_plan(flags: dict, dataset: Dataset, prs: Dataset) -> dict:
    """Return the plan of datasets at these commits, in which nothing was drawn yet."""
    benchmarks = name_benchmarks(flags["--benchmarks"], dataset.hub is not None)
    return {
        "dataset": flags["--dataset"], "revision": dataset.revision,
        "prs": flags["--prs"], "prs_revision": prs.revision,
        "seed": flags["--seed"], "count": flags["--count"], "flags": flags, "exhausted": False,
        "benchmarks": {"lists": benchmarks}, **{kind: [] for kind in SAMPLING_LISTS}, "offsets": [],
    }  # fmt: skip


def planned_turns(plan: dict) -> list[dict]:
    """Return the turns of the plan in order, each with its file and row group."""
    turns = []
    for window in plan["offsets"]:
        place = {"file": window["file"], "row_group": window["row_group"]}
        turns += [{**place, **turn} for turn in window["turns"]]
    return turns


def is_whole(plan: dict, goal: int) -> bool:
    """Tell whether the first `goal` prompts lie there, with their records, or all there can be."""
    turns = planned_turns(plan)
    end = min(goal, len(turns)) if plan["exhausted"] else goal
    for first in range(0, end, PROMPTS_PER_FILE):
        if len(held_prompts(plan, turns, first)) < min(PROMPTS_PER_FILE, end - first):
            return False
    return not missing_records(turns[:goal])


def fill(plan: dict, goal: int, dataset: Dataset, records: Records, drawing, tally: Tally) -> None:
    """Fill in what is missing of the first `goal` prompts, file by file, then of their records.

    What is planned is read again, then `drawing` goes on with the plan. A kill costs the reading of
    one file's prompts at most; they are drawn again just so.
    """
    drawn = []  # what the last file had no room for
    with closing(Progress(goal, "prompts", "prompt")) as progress:
        for first in range(0, goal, PROMPTS_PER_FILE):
            size = min(PROMPTS_PER_FILE, goal - first)
            turns = planned_turns(plan)
            held = [] if drawn else held_prompts(plan, turns, first)
            missing = turns[first + len(held) : first + size]
            prompts = drawn or held + read_again(dataset, records, missing)
            tally.skipped["already there"] += min(len(held), size)
            progress.update(min(len(prompts), size))
            try:
                while len(prompts) < size and (more := next(drawing, None)) is not None:
                    prompts += more
                    progress.update(len(more))
            finally:  # also of a run that is interrupted
                if len(prompts) > len(held):
                    write_json(PLAN, plan)
                    write_json(prompts_file(plan, first), prompts[:size])
                    tally.done += len(prompts[:size]) - len(held)
            if len(prompts) < size:
                break
            drawn = prompts[size:]
    turns = planned_turns(plan)[:goal]
    if not turns:
        lists = [window["passed_over"] for window in plan["offsets"]]
        lists += [plan[kind] for kind in SAMPLING_LISTS]
        reasons = Counter(entry["reason"] for entry in itertools.chain(*lists)).most_common(3)
        why = "; ".join(f"{count} x {reason}" for reason, count in reasons) or "it has no rows"
        raise UserError(f"{dataset.label} gave no prompt: {why}.")
    write_json(PLAN, plan)  # the last windows may have given nothing
    missing = missing_records(turns)
    with closing(Progress(len(missing), "records", "record")) as progress:
        for record in records.read(missing):
            write_json(Path("commit", f"{record['instance_id']}.json"), record)
            progress.update()


def prompts_file(plan: dict, first: int) -> Path:
    return PROMPT / f"prompts_{plan['count']}_{first // PROMPTS_PER_FILE + 1}.json"


def held_prompts(plan: dict, turns: list[dict], first: int) -> list[dict]:
    """Return the prompts of a file, none without it. Raises UserError for a torn or foreign one."""
    path = prompts_file(plan, first)
    planned = turns[first : first + PROMPTS_PER_FILE]
    if not planned or not path.exists():
        return []
    problem = f"it does not hold what {PLAN} says"
    try:
        prompts = read_json(path)
        if are_planned(prompts, planned):
            return prompts
    except BadFile as bad:
        problem = bad.why
    raise UserError(f"{path}: {problem}.\nRemove it and run prompt.py again.")


def are_planned(prompts: object, turns: list[dict]) -> bool:
    """Tell whether these are whole prompts, those of the first of the plan's turns."""
    try:
        for prompt, turn in zip(prompts, turns):
            found = {"file": prompt["source"]["file"], **plan_entry(prompt)}
            if not found.items() <= turn.items():
                return False
    except (TypeError, KeyError, AttributeError):
        return False
    return isinstance(prompts, list) and len(prompts) <= len(turns)


def read_again(dataset: Dataset, records: Records, turns: list[dict]) -> list[dict]:
    """Return the prompts of planned turns, read from the dataset."""
    prompts = []
    # Of a dataset that was changed a row group or a row may be missing, or be no chat.
    with suppress(KeyError, IndexError, TypeError, AttributeError):
        for (file, group), window in itertools.groupby(turns, itemgetter("file", "row_group")):
            planned = [(turn["row"], turn["turn"]) for turn in window]
            rows = dict(dataset.open(file).rows(group, ROW_COLUMNS, {row for row, _ in planned}))
            for row, turn in planned:
                name, repo, messages = rows[row]
                name = as_text(name)
                repo = records.repo_of(name, as_text(repo))
                prompts.append(make_prompt(name, repo, file, row, turn, read_chat(messages)))
    if len(prompts) < len(turns) or not are_planned(prompts, turns):
        raise dataset.changed()
    return prompts


def make_prompt(name: str, repo: str, file: str, row: int, turn: int, chat: Chat) -> dict:
    """Return the prompt of a turn of a row's chat, as its file holds it."""
    source = {"file": file, "row": row, "turn": turn, "form": chat.form, "fence": chat.fence}
    reply = chat.messages[turn]["content"]
    prompt = {"instance_id": name, "repo": repo, "messages": chat.messages[:turn]}
    return {**prompt, "assistant": reply, "source": source}


def plan_entry(prompt: dict) -> dict:
    """Return a prompt's turn as the plan keeps it; `chat` tells one history from another."""
    entry = {key: prompt["source"][key] for key in ("row", "turn")}
    chat = digest(prompt["instance_id"], json.dumps(prompt["messages"]))[:16]
    reply = digest(prompt["assistant"])[:16]
    return {"instance_id": prompt["instance_id"], **entry, "chat": chat, "reply": reply}


def missing_records(turns: list[dict]) -> set[str]:
    """Return the instances that have no whole record in commit/; a torn one is set aside."""
    missing = {turn["instance_id"] for turn in turns}
    for instance_id in list(missing):
        try:
            read_record(instance_id)
            missing.remove(instance_id)
        except BadFile as bad:
            set_aside(bad, "it is made again")
        except UserError:
            pass
    return missing


def describe(plan: dict) -> list[str]:
    """Return what was sampled and what was left out, as lines for the tally."""
    turns = planned_turns(plan)
    instances = {turn["instance_id"] for turn in turns}
    lines = [f"sampled {len(turns)} turns of {len(instances)} instances"]
    passed_over = {}  # {reason: its rows, one of several windows once}
    for window in plan["offsets"]:
        for row in window["passed_over"]:
            passed_over.setdefault(row["reason"], set()).add((window["file"], row["row"]))
    for reason, rows in sorted(passed_over.items(), key=lambda entry: (-len(entry[1]), entry[0])):
        file, row = min(rows)
        lines.append(f"passed over {len(rows)} rows: {reason}, such as row {row} of {file}")
    for kind, words in SAMPLING_LISTS.items():
        names = [entry["instance_id"] for entry in plan[kind]]
        if names:
            lines.append(f"left out {len(names)} {words}: {', '.join(names[:5])}")
    for entry in plan["benchmarks"]["lists"]:
        if entry["state"] == "not checked":
            lines.append(f"OVERLAP WITH {entry['name']} NOT CHECKED: {entry['why']}")
        else:
            found = f"{len(entry['overlaps'])} of its {entry['instances']} instances passed over"
            lines.append(f"benchmark {entry['name']}: {found}")
    if not plan["benchmarks"]["lists"]:
        lines.append("overlap not checked: no list was named (--benchmarks)")
    if plan["exhausted"]:
        lines.append(f"the dataset has no more turns to give: {len(turns)} of {plan['count']}")
    return lines
