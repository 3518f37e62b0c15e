#!/usr/bin/env python3
"""Stage 1: sample agent turns from a trajectories dataset and mirror their PR records.

    python prompt.py                           2,000 turns from the Hub
    python prompt.py --dataset DIR --prs DIR   from local parquet: folders or globs
    python prompt.py --limit 5                 a small trial; a run without --limit goes on from it

Reads   --dataset: instance_id, repo, messages (a list of role and content, or that as JSON text);
        --prs: one row per instance with its issue, description and patches.
        Each is a Hub dataset id, a folder (read recursively) or a glob. HF_TOKEN (or
        HUGGINGFACE_API_KEY) and HF_ENDPOINT are honoured, also from .env.
Writes  prompt/prompts_<count>_<k>.json   at most 200 turns each: the chat and the next turn
        prompt/_plan.json                 what was drawn from where, what was left out, a summary
        commit/<instance_id>.json         the PR record

Turns are drawn in windows. A window is one row group of one file; the row groups come in an order
spread over the whole split. It gives one turn of each of its instances, up to a number, then the
next window follows. When all row groups were drawn once, the next round begins. Only those byte
ranges are read, at a pinned commit. The same flags give the same files, byte for byte, also after
a kill; a rerun fills in what is missing. What is read of the PR files is kept for the next sample.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import random
import re
import sys
from collections import Counter, deque
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from common.cli import Progress, Tally, parser, run, whole_number
from common.files import UserError, clean_text, digest, is_safe_name, lock_folders, write_json
from common.hub import Outage
from common.parquet import ParquetFiles, open_dataset
from common.sample import (
    LEFT_OUT,
    PLAN,
    chat_digest,
    held_prompts,
    is_prompt_of,
    planned_turns,
    prompts_file,
    read_sample_plan,
    save_sample,
    summarize,
    summary_lines,
)
from common.sources import (
    PR_COLUMNS,
    ROW_COLUMNS,
    find_records,
    missing_records,
    read_chats,
    read_instances,
    write_records,
)
from common.turns import EXCLUDED_IDS, PROMPTS_PER_FILE

DATASET = "AlienKevin/SWE-ZERO-12M-trajectories"
PRS = "nebius/SWE-rebench-V2-PRs"
COUNT = 2000

# A window takes one turn per 100 rows of its row group (in SWE-ZERO some 100 rollouts of an
# instance lie side by side), but at least 12: a group of 1,000 rows is paid for as a whole, and
# holds 10 or 11 instances. Row groups may be far larger: then a tenth of the sample at most.
ROWS_PER_TURN = 100
LEAST_PER_WINDOW = 12
LEAST_WINDOWS = 10
SPARE_ROWS = 4  # rows of an instance that are looked at, at most, before it is passed over
MOST_ROUNDS = 50  # of a small dataset, rounds that one reading of a row group serves at most
AT_ONCE = 4  # more gains little and nears the Hub's limit of 3,000 file requests in 5 minutes


# ------------------------------------------------------------------------------- what is left out


@dataclass
class Rules:
    """What a user or the PR dataset leaves out of a sample."""

    records: dict[str, tuple]  # where the PR record of each instance lies
    prs: str
    excluded: set[str]  # instance ids and repos
    exclude_file: str


def why_left_out(
    rules: Rules, instance_id: object, repo: str, chat: list[dict] | None = None, reply: str = ""
) -> tuple[str, str] | None:
    """Return why an instance or, given its chat and reply, a turn is left out; None when it is not.

    The answer is the plan's list (of a turn "passed_over") and the reason in words.
    """
    if not is_safe_name(instance_id):
        return "refused", "its instance id cannot be a file name"
    if instance_id in EXCLUDED_IDS:
        return "excluded", "on the list of excluded instances"
    for name in (instance_id, repo):
        if name in rules.excluded:
            return "excluded", f"{name} is listed in {rules.exclude_file}"
    if instance_id not in rules.records:
        return "without_record", f"no PR record in {rules.prs}"
    if chat is None:
        return None
    if not reply.strip():
        return "passed_over", "empty reply"
    if len(re.findall(r"^\s*```", reply, re.MULTILINE)) % 2:
        return "passed_over", "reply cut off inside a code block"
    return None


# -------------------------------------------------------------------------- what a row has to offer


def next_turns(messages: list[dict]) -> list[int]:
    """Return the indices of the assistant messages that come right after a user message.

    A tool's role or a missing text ends the search: no later chat is whole.
    """
    turns = []
    for index, message in enumerate(messages):
        if message["role"] not in ("system", "user", "assistant") or message["content"] is None:
            break
        if message["role"] == "assistant" and index and messages[index - 1]["role"] == "user":
            turns.append(index)
    return turns


def row_problem(messages: list[dict] | None) -> str:
    """Return why a row has no turn to give."""
    if messages is None:
        return "malformed: messages is no list of role and content"
    if not any(message["role"] == "assistant" for message in messages):
        return "cut: it ends before the first assistant message"
    return "no usable turn: no assistant message right after a user message"


# --------------------------------------------------------------------------------------- windows


def shuffled(seed: str, items: list) -> list:
    """Return the items in an order that the seed alone decides."""
    return random.Random(seed).sample(items, len(items))


def row_group_order(files: ParquetFiles, seed: int):
    """Yield (file, number of a row group in the file's own shuffled order) for all row groups.

    Files take turns in proportion to their bytes. A footer is asked for when a file comes again.
    """
    chance = random.Random(f"{seed}/files")
    queue = [(chance.random() / size, file, 0) for file, size in files.files.items() if size]
    heapq.heapify(queue)
    while queue:
        place, file, number = heapq.heappop(queue)
        if number and number >= files.footer(file).num_row_groups:
            continue
        yield file, number
        heapq.heappush(queue, (place + 1 / files.files[file], file, number + 1))


@dataclass
class Draw:
    """An instance that a window draws in a round, and the rows that may give its turn."""

    instance_id: str
    repo: str
    round: int
    rows: list[int]


class Sampler:
    """Draws windows into a plan; one that was broken off goes on as if it had not been.

    Which rows a window looks at depends on the seed, its place and its rounds only, so windows may
    be read ahead; which turns it takes depends on those before it, so they are taken in order.
    """

    def __init__(self, files: ParquetFiles, plan: dict, rules: Rules, args, pool: Executor):
        self.files = files
        self.plan = plan
        self.rules = rules
        self.args = args
        self.pool = pool
        self.taken = Counter()  # turns by instance
        self.seen = set()  # chats
        for turn in planned_turns(plan):
            self.note(turn)

    def note(self, turn: dict) -> None:
        self.taken[turn["instance_id"]] += 1
        self.seen.add(turn["chat"])

    def draw(self, goal: int):
        """Yield the prompts of window after window until the plan holds `goal` turns or all."""
        plan = self.plan
        sweep = plan["offsets"][-1].get("sweep", 1) if plan["offsets"] else 1
        while self.taken.total() < goal and not plan["exhausted"]:
            yield from self.draw_sweep(sweep, goal)
            if self.taken.total() < goal:
                drawn = self.windows_of(sweep)
                gained = any(window["turns"] for window in drawn)
                plan["exhausted"] = not gained and drawn[0]["rounds"][1] > max(self.taken.values())
                sweep += 1

    def windows_of(self, sweep: int) -> list[dict]:
        return [window for window in self.plan["offsets"] if window.get("sweep") == sweep]

    def draw_sweep(self, sweep: int, goal: int):
        """Yield the prompts of the windows that a sweep over all row groups still has to draw."""
        drawn = self.windows_of(sweep)
        rounds = drawn[0]["rounds"] if drawn else self.rounds_of(sweep)
        places = itertools.islice(row_group_order(self.files, self.args.seed), len(drawn), None)
        under_way = deque()
        usual = LEAST_PER_WINDOW
        while self.taken.total() < goal:
            # Read a few windows at once, none that would be read in vain.
            while len(under_way) < AT_ONCE and self.taken.total() + len(under_way) * usual < goal:
                place = next(places, None)
                if place is None:
                    break
                under_way.append(self.pool.submit(self.read_window, *place, rounds))
            if not under_way:
                return
            window, left_out, draws, chats = under_way.popleft().result()
            window["sweep"] = sweep
            prompts = self.take(window, left_out, draws, chats)
            usual = max(1, len(prompts))
            yield prompts

    def rounds_of(self, sweep: int) -> list[int]:
        """Return the first and last round of a sweep: as many as are missing by the last sweep."""
        if sweep == 1:
            return [1, self.args.per_instance or 1]
        before = self.windows_of(sweep - 1)
        gained = sum(len(window["turns"]) for window in before)
        missing = self.args.count - self.taken.total()
        last = before[0]["rounds"][1]
        return [last + 1, last + min(math.ceil(missing / max(1, gained)), MOST_ROUNDS)]

    def read_window(self, file: str, number: int, rounds: list[int]) -> tuple:
        """Return the window's entry for the plan, whom it leaves out, its draws and their chats."""
        footer = self.files.footer(file)
        window = {"file": file, "row_group": None, "rounds": rounds, "bytes": 0}
        if number >= footer.num_row_groups:  # a file without rows
            return window, [], [], {}
        group = shuffled(f"{self.args.seed}/{file}", list(range(footer.num_row_groups)))[number]
        window["row_group"] = group
        window["bytes"] = self.files.size(file, group, ROW_COLUMNS)
        instances = read_instances(self.files, file, group)
        left_out = []
        for instance_id, (repo, _) in list(instances.items()):
            why = why_left_out(self.rules, instance_id, repo)
            if why:
                kind, reason = why
                name = clean_text(str(instance_id))[:300]
                left_out.append((kind, {"instance_id": name, "repo": repo, "reason": reason}))
                del instances[instance_id]
        names = shuffled(f"{self.args.seed}/{file}/{group}", sorted(instances))
        per_round = min(self.turns_per_window(footer.row_group(group).num_rows), len(names))
        first = (rounds[0] - 1) * per_round
        last = rounds[1] * per_round
        if self.args.per_instance:
            last = min(last, self.args.per_instance * len(names))
        draws = []
        for position in range(first, last):
            rounds_before, place = divmod(position, len(names))
            name = names[place]
            repo, rows = instances[name]
            rows = shuffled(f"{self.args.seed}/{file}/{name}", rows)
            start = rounds_before % len(rows)
            rows = rows[start:] + rows[:start]
            draws.append(Draw(name, repo, rounds_before + 1, rows[:SPARE_ROWS]))
        wanted = {row for draw in draws for row in draw.rows}
        return window, left_out, draws, read_chats(self.files, file, group, wanted)

    def turns_per_window(self, rows: int) -> int:
        """Return the turns that a window takes in a round from a row group of so many rows."""
        if self.args.windows:
            return math.ceil(self.args.count / self.args.windows)
        share = min(rows // ROWS_PER_TURN, self.args.count // LEAST_WINDOWS)
        return max(LEAST_PER_WINDOW, share)

    def take(self, window: dict, left_out: list, draws: list[Draw], chats: dict) -> list[dict]:
        """Put a window into the plan; return its prompts."""
        turns = []
        prompts = []
        passed_over = set()
        for draw in draws:
            if self.taken[draw.instance_id] >= draw.round or self.taken.total() >= self.args.count:
                continue
            turn = self.first_new_turn(window["file"], draw, chats, passed_over)
            if turn:
                turns.append(turn)
                prompts.append(make_prompt(window["file"], turn, draw.repo, chats[turn["row"]]))
                self.note(turn)
        for kind, entry in left_out:
            if entry not in self.plan[kind]:
                self.plan[kind].append(entry)
        window["passed_over"] = [{"row": row, "reason": why} for row, why in sorted(passed_over)]
        window["turns"] = turns
        self.plan["offsets"].append(window)
        return prompts

    def first_new_turn(self, file: str, draw: Draw, chats: dict, passed_over: set) -> dict | None:
        """Return the first turn of the draw's rows that was not taken yet, as the plan keeps it."""
        for row in draw.rows:
            messages = chats[row]
            turns = next_turns(messages or [])
            if not turns:
                passed_over.add((row, row_problem(messages)))
            for turn in shuffled(f"{self.args.seed}/{file}/{row}", turns):
                chat = messages[:turn]
                reply = messages[turn]["content"]
                why = why_left_out(self.rules, draw.instance_id, draw.repo, chat, reply)
                if why:
                    passed_over.add((row, why[1]))
                    continue
                entry = {
                    "instance_id": draw.instance_id,
                    "row": row,
                    "turn": turn,
                    "third": ("early", "middle", "late")[3 * turns.index(turn) // len(turns)],
                    "chat": chat_digest(draw.instance_id, chat),
                    "reply": digest(reply)[:16],
                }
                if entry["chat"] not in self.seen:
                    return entry
        return None

    def read_again(self, number: int, turns: list[dict]) -> list[dict]:
        """Return the prompts of turns of the plan's window `number`, read anew."""
        window = self.plan["offsets"][number]
        place = window["file"], window["row_group"]
        instances = read_instances(self.files, *place)
        chats = read_chats(self.files, *place, {turn["row"] for turn in turns})
        prompts = []
        for turn in turns:
            repo = instances[turn["instance_id"]][0]
            prompts.append(make_prompt(window["file"], turn, repo, chats[turn["row"]]))
        return prompts


def make_prompt(file: str, turn: dict, repo: str, messages: list[dict]) -> dict:
    """Return the prompt of a turn, as its file holds it."""
    return {
        "instance_id": turn["instance_id"],
        "repo": repo,
        "messages": messages[: turn["turn"]],
        "assistant": messages[turn["turn"]]["content"],
        "source": {"file": file, "row": turn["row"], "turn": turn["turn"]},
    }


# ------------------------------------------------------------------------------------------ files


def write_prompts(sampler: Sampler, goal: int, progress: Progress) -> None:
    """Write prompts 0 to `goal`: first those that the plan holds, then those of new windows."""
    plan = sampler.plan
    turns = planned_turns(plan)
    first = 0  # number of the first prompt of the file at hand
    prompts: list[dict] = []  # from there on
    for first in range(0, min(goal, len(turns)), PROMPTS_PER_FILE):
        prompts = complete_file(sampler, turns, first, goal)
        progress.update(len(prompts))
    for drawn in sampler.draw(goal):
        prompts += drawn
        first = save_sample(plan, first, prompts, goal)
        progress.update(len(drawn), read=f"{sampler.files.bytes_read / 1e6:,.1f} MB")


def complete_file(sampler: Sampler, turns: list[dict], first: int, goal: int) -> list[dict]:
    """Return the prompts of one file; read again and write those that it lacks up to `goal`."""
    planned = turns[first : min(first + PROMPTS_PER_FILE, goal)]
    prompts = held_prompts(sampler.plan, turns, first)
    missing = planned[len(prompts) :]
    for number, turns_of_window in itertools.groupby(missing, key=itemgetter("window")):
        prompts += sampler.read_again(number, list(turns_of_window))
    if not all(map(is_prompt_of, planned, prompts)):
        raise UserError(
            f"{sampler.files.flag} {sampler.files.name}: it no longer holds what {PLAN} was made "
            "from.\nPut its files back, or start in another folder."
        )
    if missing:
        write_json(prompts_file(sampler.plan, first), prompts)
    return prompts


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


# ------------------------------------------------------------------------------------------- main


def read_flags():
    """Return the command line."""
    flags = parser(__doc__)
    add = flags.add_argument
    number = {"type": whole_number, "metavar": "N"}
    add("--count", **number, default=COUNT, help="turns to sample (%(default)s)")
    add("--seed", type=int, default=0, help="another seed, another sample (%(default)s)")
    add("--dataset", default=DATASET, help="trajectories: Hub id, folder or glob (%(default)s)")
    add("--prs", default=PRS, help="PR records: Hub id, folder or glob (%(default)s)")
    add("--revision", help="commit, branch or tag of --dataset (its newest commit, then pinned)")
    add("--per-instance", **number, help="turns of an instance, at most (1; more if all have one)")
    add("--windows", **number, help="draw from about N windows: more spread, more bytes to read")
    add("--exclude", metavar="FILE", help="instance ids and repos to leave out, one a line")
    return flags.parse_args()


def main() -> int:
    args = read_flags()
    excluded = read_exclusions(args.exclude)
    flags = {
        "--dataset": args.dataset,
        "--prs": args.prs,
        "--revision": args.revision,
        "--seed": args.seed,
        "--count": args.count,
        "--per-instance": args.per_instance,
        "--windows": args.windows,
        "--exclude": sorted(excluded),
    }
    with lock_folders([Path("prompt"), Path("commit")], "prompt"):
        return sample(args, excluded, flags)


def sample(args, excluded: set[str], flags: dict) -> int:
    """Bring prompt/ and commit/ to what the flags ask for; return the exit code."""
    tally = Tally("prompt")
    goal = min(args.count, args.limit or args.count)
    plan = read_sample_plan(flags)
    held = count_held(plan, goal)
    if held:
        tally.skipped["already there"] = held
    if not is_complete(plan, held, goal):
        try:
            plan = fill(args, plan, goal, excluded, flags)
        except Outage as outage:
            tally.fail("the rest", "the Hub did not answer well", str(outage))
        finally:
            tally.done = count_held(read_sample_plan(flags), goal) - held
            if isinstance(sys.exc_info()[1], KeyboardInterrupt):
                tally.show()
    tally.write_failed(Path("prompt"))
    lines = [] if tally.failed else summary_lines(plan)
    lines.append(f"output     prompt/prompts_{args.count}_*.json, {PLAN}, commit/")
    return tally.show(*lines, next_command="python king.py")


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
    if held < len(turns) or (len(turns) < goal and not plan["exhausted"]):
        return False
    return not missing_records(turn["instance_id"] for turn in turns)


def fill(args, plan: dict | None, goal: int, excluded: set[str], flags: dict) -> dict:
    """Draw and write what is missing; return the plan. Raises Outage."""
    pool = ThreadPoolExecutor(AT_ONCE)
    files = open_dataset(
        "--dataset", args.dataset, ROW_COLUMNS, plan["revision"] if plan else args.revision
    )
    prs = open_dataset("--prs", args.prs, PR_COLUMNS, plan["prs_revision"] if plan else None)
    if plan is None:
        plan = {
            "dataset": args.dataset,
            "revision": files.revision,
            "prs": args.prs,
            "prs_revision": prs.revision,
            "seed": args.seed,
            "count": args.count,
            "flags": flags,
            "exhausted": False,
            "summary": None,
            **{kind: [] for kind in LEFT_OUT},
            "offsets": [],
        }
    for source, pinned in ((files, plan["revision"]), (prs, plan["prs_revision"])):
        if source.revision != pinned:
            raise UserError(
                f"{source.flag} {source.name}: its files are no longer those that {PLAN} was made "
                "from.\nPut them back, or start in another folder."
            )
    records = find_records(prs, pool)
    rules = Rules(records, args.prs, excluded, args.exclude)
    progress = Progress(goal, "prompts", "prompt")
    write_prompts(Sampler(files, plan, rules, args, pool), goal, progress)
    progress.close()
    turns = planned_turns(plan)[:goal]
    if not turns:
        raise UserError(f"--dataset {args.dataset} gave no prompt: {why_none(plan)}.")
    wanted = missing_records(turn["instance_id"] for turn in turns)
    progress = Progress(len(wanted), "records", "record")
    for _ in write_records(prs, records, wanted, pool):
        progress.update(1)
    progress.close()
    plan["summary"] = summarize(plan, turns)
    write_json(PLAN, plan)
    return plan


def why_none(plan: dict) -> str:
    """Return why a plan without a turn is empty."""
    reasons = Counter()
    for window in plan["offsets"]:
        reasons.update(row["reason"] for row in window["passed_over"])
    for kind in LEFT_OUT:
        reasons.update(entry["reason"] for entry in plan[kind])
    counted = [f"{count} x {reason}" for reason, count in reasons.most_common(3)]
    return "; ".join(counted) or "it has no rows"


if __name__ == "__main__":
    try:
        run(main)
    except SystemExit as end:  # a thread that still waits for the Hub must not hold up the way out
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)
