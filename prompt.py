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

Instances of public benchmarks are kept out: of those known (common/benchmarks.py) for a dataset of
the Hub, else of those that --benchmarks names, Hub ids or parquet, json, jsonl and csv files. So
are chats in which a look at git's history or at an installed copy has shown the fix already.

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
from pathlib import Path

from common import sample, sources
from common.benchmarks import read_benchmarks
from common.cli import Progress, Tally, parser, run, whole_number
from common.exclusions import Rules, read_exclusions, read_licenses, why_left_out
from common.files import UserError, clean_text, digest, lock_folders, write_json
from common.hub import Outage
from common.parquet import ParquetFiles, open_dataset
from common.replies.history import may_peek, shows_fix
from common.turns import SAMPLING_LISTS

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


def reply_problem(reply: str) -> str | None:
    """Return why a reply is no reference; None when it is one."""
    if not reply.strip():
        return "empty reply"
    if len(re.findall(r"^[ \t]*```", reply, re.MULTILINE)) % 2:
        return "reply cut off inside a code block"
    return None


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
        self.chats = set()  # digests of the chats taken: as many as turns
        self.taken = Counter()  # turns by instance
        self.left_out = set()  # what the plan's lists hold
        for turn in sample.planned_turns(plan):
            self.note(turn)
        for kind in SAMPLING_LISTS:
            self.left_out |= {(kind, row["instance_id"], row["reason"]) for row in plan[kind]}

    def note(self, turn: dict) -> None:
        self.chats.add(turn["chat"])
        self.taken[turn["instance_id"]] += 1

    def leave_out(self, kind: str, entry: dict) -> None:
        """Put into one of the plan's lists what it does not hold yet."""
        key = (kind, entry["instance_id"], entry["reason"])
        if key not in self.left_out:
            self.left_out.add(key)
            self.plan[kind].append(entry)

    def draw(self, goal: int):
        """Yield the prompts of window after window until the plan holds `goal` turns, or all."""
        plan = self.plan
        rounds = [1, self.args.per_instance or 1]
        if plan["offsets"]:
            rounds = plan["offsets"][-1].get("rounds", rounds)  # an older version wrote none
        while len(self.chats) < goal and not plan["exhausted"]:
            yield from self.draw_rounds(rounds, goal)
            if len(self.chats) < goal:  # all row groups were drawn
                gained = sum(len(window["turns"]) for window in self.windows_of(rounds))
                most = max(self.taken.values(), default=0)
                plan["exhausted"] = gained == 0 and rounds[1] > most
                more = (self.args.count - len(self.chats)) // max(1, gained)
                rounds = [rounds[1] + 1, rounds[1] + max(1, min(more, MOST_ROUNDS))]

    def windows_of(self, rounds: list[int]) -> list[dict]:
        return [window for window in self.plan["offsets"] if window.get("rounds") == rounds]

    def draw_rounds(self, rounds: list[int], goal: int):
        """Yield the prompts of the windows that these rounds still have to draw."""
        order = row_group_order(self.files, self.args.seed)
        places = itertools.islice(order, len(self.windows_of(rounds)), None)
        under_way = deque()
        usual = LEAST_PER_WINDOW
        while len(self.chats) < goal:
            # Read a few windows at once, none that would be read in vain.
            while len(under_way) < AT_ONCE and len(self.chats) + len(under_way) * usual < goal:
                place = next(places, None)
                if place is None:
                    break
                under_way.append(self.pool.submit(self.read_window, *place, rounds))
            if not under_way:
                return
            prompts = self.take(*under_way.popleft().result())
            usual = max(1, len(prompts))
            yield prompts

    def read_window(self, file: str, number: int, rounds: list[int]) -> tuple:
        """Return the window's entry for the plan, whom it leaves out, its draws and their chats."""
        footer = self.files.footer(file)
        window = {"file": file, "row_group": None, "rounds": rounds, "bytes": 0}
        if number >= footer.num_row_groups:  # a file without rows
            return window, [], [], {}
        group = shuffled(f"{self.args.seed}/{file}", list(range(footer.num_row_groups)))[number]
        window["row_group"] = group
        window["bytes"] = self.files.size(file, group, sources.ROW_COLUMNS)
        instances = {}
        left_out = []
        for name, (repo, rows) in sources.read_instances(self.files, file, group).items():
            why = why_left_out(self.rules, name, repo)
            if why:
                named = clean_text(str(name))[:300]
                entry = {"instance_id": named, "repo": repo, "reason": why.reason}
                left_out.append((why.kind, {**entry, "lists": why.lists} if why.lists else entry))
            else:
                instances[name] = (repo, rows)
        names = shuffled(f"{self.args.seed}/{file}/{group}", sorted(instances))
        per_round = min(self.turns_per_window(footer.row_group(group).num_rows), len(names))
        end = rounds[1] * per_round
        if self.args.per_instance:
            end = min(end, self.args.per_instance * len(names))
        draws = []
        for position in range((rounds[0] - 1) * per_round, end):
            earlier, place = divmod(position, len(names))
            name = names[place]
            repo, rows = instances[name]
            rows = shuffled(f"{self.args.seed}/{file}/{name}", rows)
            first = earlier % len(rows)
            rows = rows[first:] + rows[:first]
            draws.append(Draw(name, repo, earlier + 1, rows[:SPARE_ROWS]))
        wanted = {row for draw in draws for row in draw.rows}
        return window, left_out, draws, sources.read_chats(self.files, file, group, wanted)

    def turns_per_window(self, rows: int) -> int:
        """Return the turns that a window takes in a round from a row group of so many rows."""
        if self.args.windows:
            return math.ceil(self.args.count / self.args.windows)
        share = min(rows // ROWS_PER_TURN, self.args.count // LEAST_WINDOWS)
        return max(LEAST_PER_WINDOW, share)

    def take(self, window: dict, left_out: list, draws: list[Draw], chats: dict) -> list[dict]:
        """Put a window into the plan; return its prompts."""
        window["passed_over"] = []
        window["turns"] = []
        prompts = []
        for draw in draws:
            if self.taken[draw.instance_id] < draw.round and len(self.chats) < self.args.count:
                turn = self.new_turn(window, draw, chats)
                if turn:
                    self.note(turn)
                    window["turns"].append(turn)
                    messages = chats[turn["row"]]
                    prompts.append(sample.make_prompt(window["file"], turn, draw.repo, messages))
        for kind, entry in left_out:
            self.leave_out(kind, entry)
        self.plan["offsets"].append(window)
        return prompts

    def new_turn(self, window: dict, draw: Draw, chats: dict) -> dict | None:
        """Return a turn of the draw's rows that was not taken yet, as the plan keeps it."""
        for row in draw.rows:
            messages = chats[row]
            turns = next_turns(messages or [])
            if not turns:
                pass_over(window, row, row_problem(messages))
            for turn in shuffled(f"{self.args.seed}/{window['file']}/{row}", turns):
                chat = messages[:turn]
                reply = messages[turn]["content"]
                problem = reply_problem(reply) or self.shown_fix(window, draw, row, chat)
                if problem:
                    pass_over(window, row, problem)
                    continue
                sha = sample.chat_digest(draw.instance_id, chat)
                if sha not in self.chats:
                    third = ("early", "middle", "late")[3 * turns.index(turn) // len(turns)]
                    return {
                        "instance_id": draw.instance_id, "row": row, "turn": turn, "third": third,
                        "chat": sha, "reply": digest(reply)[:16],
                    }  # fmt: skip
        return None

    def shown_fix(self, window: dict, draw: Draw, row: int, chat: list[dict]) -> str | None:
        """Return what is wrong with a chat that shows the fix, and name it in the plan.

        The record is read for it only where a command might have looked at the fix.
        """
        if not may_peek(chat):
            return None
        words = shows_fix(chat, self.rules.records.read(draw.instance_id))
        if words is None:
            return None
        reason = f"row {row} of {window['file']}: {words}"
        entry = {"instance_id": draw.instance_id, "repo": draw.repo, "reason": reason}
        self.leave_out("shows_fix", entry)
        return "its chat shows the fix"

    def read_again(self, number: int, turns: list[dict]) -> list[dict]:
        """Return the prompts of turns of the plan's window `number`, read anew."""
        window = self.plan["offsets"][number]
        place = window["file"], window["row_group"]
        instances = sources.read_instances(self.files, *place)
        chats = sources.read_chats(self.files, *place, {turn["row"] for turn in turns})
        prompts = []
        for turn in turns:
            repo = instances[turn["instance_id"]][0]
            messages = chats[turn["row"]]
            prompts.append(sample.make_prompt(window["file"], turn, repo, messages))
        return prompts


def pass_over(window: dict, row: int, reason: str) -> None:
    entry = {"row": row, "reason": reason}
    if entry not in window["passed_over"]:
        window["passed_over"].append(entry)


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
    add("--benchmarks", metavar="LIST", help="ids or files of benchmarks to keep out, or none")
    add("--license", metavar="LIST", help="keep only records under these: mit,apache-2.0,...")
    return flags.parse_args()


def main() -> int:
    """Bring prompt/ and commit/ to what the flags ask for; return the exit code."""
    args = read_flags()
    excluded = read_exclusions(args.exclude)
    flags = {f"--{name.replace('_', '-')}": value for name, value in vars(args).items()}
    flags["--exclude"] = sorted(excluded)
    flags["--license"] = read_licenses(args.license)
    del flags["--limit"]
    tally = Tally("prompt")
    goal = min(args.count, args.limit or args.count)
    with lock_folders([Path("prompt"), Path("commit")], "prompt"):
        plan = sample.read_plan(flags)
        held = sample.count_held(plan, goal)
        tally.skipped["already there"] = held
        if not sample.is_complete(plan, held, goal):
            try:
                plan = fill(args, plan, goal, excluded, flags)
            except Outage as outage:
                tally.fail("the rest", "the Hub did not answer well", str(outage))
            except KeyboardInterrupt:
                tally.done = sample.count_held(sample.read_plan(flags), goal) - held
                tally.show()
                raise
            tally.done = sample.count_held(sample.read_plan(flags), goal) - held
        tally.write_failed(Path("prompt"))
        lines = [] if tally.failed else sample.summary_lines(plan)
        lines.append(f"output     prompt/prompts_{args.count}_*.json, {sample.PLAN}, commit/")
        return tally.show(*lines, next_command="python king.py")


def fill(args, plan: dict | None, goal: int, excluded: set[str], flags: dict) -> dict:
    """Draw and write what is missing; return the plan. Raises Outage."""
    pool = ThreadPoolExecutor(AT_ONCE)
    revision = plan["revision"] if plan else args.revision
    files = open_dataset("--dataset", args.dataset, sources.ROW_COLUMNS, revision)
    revision = plan["prs_revision"] if plan else None
    prs = open_dataset("--prs", args.prs, sources.PR_COLUMNS, revision)
    benchmarks = read_benchmarks(args.benchmarks, files.hub is not None, plan)
    plan = plan or sample.new_plan(flags, files.revision, prs.revision)
    plan["benchmarks"] = {"lists": benchmarks.lists}
    sample.check_revisions(plan, files, prs)

    records = sources.Records(prs, pool)
    rules = Rules(records, benchmarks, excluded, args.exclude, flags["--license"])
    progress = Progress(goal, "prompts", "prompt")
    sample.write_prompts(Sampler(files, plan, rules, args, pool), goal, progress)
    progress.close()
    turns = sample.planned_turns(plan)[:goal]
    if not turns:
        raise UserError(f"--dataset {args.dataset} gave no prompt: {sample.why_empty(plan)}.")

    missing = sample.missing_records(turns)
    progress = Progress(len(missing), "records", "record")
    for _ in records.write(missing):
        progress.update(1)
    progress.close()
    plan["summary"] = sample.summarize(plan, turns)
    benchmarks.count(plan["in_benchmark"], sample.sampled_repos(turns))
    write_json(sample.PLAN, plan)
    return plan


if __name__ == "__main__":
    try:
        run(main)
    except SystemExit as end:  # a thread that still waits for the Hub must not hold up the way out
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)
