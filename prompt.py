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

Instances of public benchmarks are kept out: of those known for a dataset of the Hub
(common/sampling/exclusions.py), else of those that --benchmarks names, Hub ids or parquet, json,
jsonl and csv files. So are chats in which a look at git's history or at an installed copy has
shown the fix already.

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
from argparse import Namespace
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.audit.history import may_peek, shows_fix
from common.cli import Progress, Tally, parser, run, whole_number
from common.files import UserError, digest, lock_folders, write_json
from common.sampling import sample, sources
from common.sampling.exclusions import Exclusions, read_names
from common.sampling.hub import Outage
from common.sampling.parquet import ParquetFiles
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


class Sampler:
    """Draws windows into a plan; one that was broken off goes on as if it had not been.

    Which rows a window looks at depends on the seed, its place and its rounds only, so windows may
    be read ahead; which turns it takes depends on those before it, so they are taken in order.
    """

    def __init__(self, args: Namespace, flags: dict, plan: dict | None):
        self.args = args
        self.flags = flags
        self.plan = plan
        self.files: ParquetFiles | None = None  # until something is found to be missing

    def open(self) -> None:
        """Open the datasets, once: at the commits that the plan pins, or for a new plan."""
        if self.files:
            return
        args = self.args
        pins = self.plan or {"revision": args.revision, "prs_revision": None}
        files = ParquetFiles("--dataset", args.dataset, sources.ROW_COLUMNS, pins["revision"])
        prs = ParquetFiles("--prs", args.prs, sources.PR_COLUMNS, pins["prs_revision"], keep=True)
        for dataset, pinned in ((files, pins["revision"]), (prs, pins["prs_revision"])):
            if self.plan and dataset.revision != pinned:
                raise sample.changed(dataset)
        self.pool = ThreadPoolExecutor(AT_ONCE)
        self.records = sources.Records(prs, self.pool)
        self.exclusions = Exclusions(self.flags, args.exclude, self.records)
        self.exclusions.read_benchmarks(args.benchmarks, files.hub is not None, self.plan)
        self.files = files
        self.plan = self.plan or sample.new_plan(self.flags, files, prs, self.exclusions)
        turns = sample.planned_turns(self.plan)
        self.chats = {turn["chat"] for turn in turns}  # digests of the chats taken: one a turn
        self.taken = Counter(turn["instance_id"] for turn in turns)
        self.left_out = set()  # what the plan's lists hold
        for kind in SAMPLING_LISTS:
            self.left_out |= {(kind, row["instance_id"], row["reason"]) for row in self.plan[kind]}

    def leave_out(self, name: str, repo: str, kind: str, reason: str, lists: list[str]) -> None:
        """Name an instance in one of the plan's lists, once for each reason."""
        key = (kind, name[:300], reason)
        if key not in self.left_out:
            self.left_out.add(key)
            entry = {"instance_id": name[:300], "repo": repo, "reason": reason}
            self.plan[kind].append({**entry, "lists": lists} if lists else entry)

    def draw(self, goal: int):
        """Yield the prompts of window after window until the plan holds `goal` turns, or all."""
        plan = self.plan
        if plan["exhausted"]:
            return
        self.open()
        rounds = [1, self.args.per_instance or 1]
        if plan["offsets"]:
            rounds = plan["offsets"][-1].get("rounds", rounds)  # an older version wrote none
        usual = LEAST_PER_WINDOW  # prompts of a window: as many are read at once as are needed
        while len(self.chats) < goal and not plan["exhausted"]:
            drawn = [window for window in plan["offsets"] if window.get("rounds") == rounds]
            gained = sum(len(window["turns"]) for window in drawn)
            order = row_group_order(self.files, self.args.seed)
            places = itertools.islice(order, len(drawn), None)
            while len(self.chats) < goal:
                at_once = min(AT_ONCE, math.ceil((goal - len(self.chats)) / usual))
                ahead = list(itertools.islice(places, at_once))
                if not ahead:
                    break
                for read in self.pool.map(self.read_window, ahead, itertools.repeat(rounds)):
                    if len(self.chats) < goal:
                        prompts = self.take(*read)
                        usual = max(1, len(prompts))
                        gained += len(prompts)
                        yield prompts
            if len(self.chats) < goal:  # all row groups were drawn
                most = max(self.taken.values(), default=0)
                plan["exhausted"] = gained == 0 and rounds[1] > most
                more = (self.args.count - len(self.chats)) // max(1, gained)
                rounds = [rounds[1] + 1, rounds[1] + max(1, min(more, MOST_ROUNDS))]

    def read_window(self, place: tuple[str, int], rounds: list[int]) -> tuple:
        """Return the window's entry for the plan, whom it leaves out, its draws and their chats.

        A draw is (instance id, repo, round, rows that may give the turn).
        """
        file, number = place
        seed = f"{self.args.seed}/{file}"
        footer = self.files.footer(file)
        window = {"file": file, "row_group": None, "rounds": rounds, "bytes": 0}
        if number >= footer.num_row_groups:  # a file without rows
            return window, [], [], {}
        group = shuffled(seed, list(range(footer.num_row_groups)))[number]
        window["row_group"] = group
        window["bytes"] = self.files.size(file, group, sources.ROW_COLUMNS)
        instances = {}
        left_out = []
        for name, (repo, rows) in sources.read_instances(self.files, file, group).items():
            why = self.exclusions.why_left_out(name, repo)
            if why:
                left_out.append((name, repo, *why))
            else:
                instances[name] = (repo, rows)

        names = shuffled(f"{seed}/{group}", sorted(instances))
        share = footer.row_group(group).num_rows // ROWS_PER_TURN
        per_round = max(LEAST_PER_WINDOW, min(share, self.args.count // LEAST_WINDOWS))
        if self.args.windows:
            per_round = math.ceil(self.args.count / self.args.windows)
        per_round = min(per_round, len(names))
        end = rounds[1] * per_round
        if self.args.per_instance:
            end = min(end, self.args.per_instance * len(names))
        draws = []
        for position in range((rounds[0] - 1) * per_round, end):
            earlier, nth = divmod(position, len(names))
            name = names[nth]
            repo, rows = instances[name]
            rows = shuffled(f"{seed}/{name}", rows)
            first = earlier % len(rows)
            rows = rows[first:] + rows[:first]
            draws.append((name, repo, earlier + 1, rows[:SPARE_ROWS]))
        wanted = {row for *_, rows in draws for row in rows}
        return window, left_out, draws, sources.read_chats(self.files, file, group, wanted)

    def take(self, window: dict, left_out: list, draws: list, chats: dict) -> list[dict]:
        """Put a window into the plan; return its prompts."""
        turns = []
        prompts = []
        passed_over = {}  # (row, reason), each once
        for name, repo, in_round, rows in draws:
            if self.taken[name] < in_round and len(self.chats) < self.args.count:
                own_chats = {row: chats[row] for row in rows}
                turn = self.new_turn(window["file"], name, repo, own_chats, passed_over)
                if turn:
                    self.chats.add(turn["chat"])
                    self.taken[name] += 1
                    turns.append(turn)
                    messages = chats[turn["row"]]
                    prompts.append(sample.make_prompt(window["file"], turn, repo, messages))
        window["passed_over"] = [{"row": row, "reason": reason} for row, reason in passed_over]
        window["turns"] = turns
        for why in left_out:
            self.leave_out(*why)
        self.plan["offsets"].append(window)
        return prompts

    def new_turn(self, file: str, name: str, repo: str, chats: dict, passed_over: dict):
        """Return a turn of these rows that was not taken yet, as the plan keeps it, or None."""
        for row, messages in chats.items():
            turns = next_turns(messages or [])
            if messages is None:
                passed_over[row, "malformed: messages is no list of role and content"] = True
            elif not any(message["role"] == "assistant" for message in messages):
                passed_over[row, "cut: it ends before the first assistant message"] = True
            elif not turns:
                problem = "no usable turn: no assistant message right after a user message"
                passed_over[row, problem] = True
            for turn in shuffled(f"{self.args.seed}/{file}/{row}", turns):
                chat = messages[:turn]
                reply = messages[turn]["content"]
                problem = reply_problem(reply)
                if not problem and may_peek(chat):  # only then is the record read for it
                    [record] = self.records.read({name})
                    words = shows_fix(chat, record)
                    if words:
                        problem = "its chat shows the fix"
                        reason = f"row {row} of {file}: {words}"
                        self.leave_out(name, repo, "shows_fix", reason, [])
                sha = sample.chat_digest(name, chat)
                if problem:
                    passed_over[row, problem] = True
                elif sha not in self.chats:
                    third = ("early", "middle", "late")[3 * turns.index(turn) // len(turns)]
                    return {
                        "instance_id": name, "row": row, "turn": turn, "third": third,
                        "chat": sha, "reply": digest(reply)[:16],
                    }  # fmt: skip
        return None


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
    flags = {f"--{name.replace('_', '-')}": value for name, value in vars(args).items()}
    flags["--exclude"] = sorted(read_names(args.exclude))
    flags["--license"] = sorted({*(args.license or "").lower().replace(" ", "").split(",")} - {""})
    del flags["--limit"]
    tally = Tally("prompt")
    goal = min(args.count, args.limit or args.count)
    with lock_folders([Path("prompt"), Path("commit")], "prompt"):
        lines = [f"output     prompt/prompts_{args.count}_*.json, {sample.PLAN}, commit/"]
        try:
            sampler = Sampler(args, flags, sample.read_plan(flags))
            fill(sampler, goal, tally)
            lines = sample.summary_lines(sampler.plan) + lines
        except Outage as outage:
            tally.fail("the rest", "the Hub did not answer well", str(outage))
        except KeyboardInterrupt:
            tally.show()
            raise
        tally.write_failed(Path("prompt"))
        return tally.show(*lines, next_command="python king.py")


def fill(sampler: Sampler, goal: int, tally: Tally) -> None:
    """Draw and write what is missing: prompts, records, the summary. Raises Outage."""
    sample.write_prompts(sampler, goal, tally)
    plan = sampler.plan
    turns = sample.planned_turns(plan)[:goal]
    missing = sample.missing_records(turns)
    if plan["summary"] and not missing and not sampler.files:
        return  # everything was there
    sampler.open()
    progress = Progress(len(missing), "records", "record")
    for record in sampler.records.read(missing):
        write_json(Path("commit", f"{record['instance_id']}.json"), record)
        progress.update(1)
    progress.close()
    sample.summarize(plan, turns, sampler.exclusions)
    if not turns:
        raise UserError(f"{sampler.files.what} gave no prompt: {sample.why_empty(plan)}.")
    write_json(sample.PLAN, plan)


if __name__ == "__main__":
    try:
        run(main)
    except SystemExit as end:  # a thread that still waits for the Hub must not hold up the way out
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)
