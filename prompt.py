#!/usr/bin/env python3
"""Stage 1: sample agent turns from a trajectories dataset and mirror their PR records.

    python prompt.py                           2,000 turns from the Hub
    python prompt.py --dataset DIR --prs DIR   from files of your own: folders or globs
    python prompt.py --limit 5                 a small trial; a run without --limit goes on from it

Reads   --dataset: instance_id, repo, messages or trajectory (a list of role and content, or that as
        JSON text; calls of a bash tool become text); or mini-swe-agent's runs, *.traj.json;
        --prs: one row per instance, in the columns of SWE-rebench-V2-PRs or of SWE-bench.
        Each is a Hub dataset id, a folder of parquet or JSONL (but no names that begin with . or _)
        or a glob. HF_TOKEN (or HUGGINGFACE_API_KEY) and HF_ENDPOINT count, also from .env.
Writes  prompt/prompts_<count>_<k>.json   at most 200 turns each: the chat and the next turn
        prompt/_plan.json                 what was drawn from where, what was left out
        commit/<instance_id>.json         the PR record

Instances of benchmarks are kept out: of those that --benchmarks names (as --dataset does), for a
dataset of the Hub by default of the best known. So are chats in which a look at git's history or at
an installed copy has shown the fix already.

A window is one row group of one file, in an order spread over the whole split; it gives one turn of
each of its instances, up to a number. When all row groups were drawn once, the next round begins.
The same flags give the same files, also after a kill; a rerun fills in what is missing.
"""

if __name__ == "__main__":  # before the other imports, which take a second
    from common.start import begin

    begin()

import heapq
import itertools
import math
import os
import random
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.audit.history import may_peek, shows_fix
from common.cli import Tally, parser, run, steps_from, whole_number
from common.files import ItemFailed, lock_folders
from common.sampling import sample
from common.sampling.chats import ROW_COLUMNS, read_chat
from common.sampling.dataset import Dataset, as_text
from common.sampling.records import PR_COLUMNS, Records, read_benchmarks, why_left_out
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


def shuffled(seed: str, items: list) -> list:
    """Return the items in an order that the seed alone decides."""
    return random.Random(seed).sample(items, len(items))


def row_group_order(dataset, seed: int):
    """Yield (file, number of a row group in the file's own shuffled order) for all row groups."""
    # Files take turns in proportion to their share. A file is opened when it comes again.
    chance = random.Random(f"{seed}/files")
    queue = [(chance.random() / size, file, 0) for file, size in dataset.files.items() if size]
    heapq.heapify(queue)
    while queue:
        position, file, number = heapq.heappop(queue)
        if number and number >= len(dataset.open(file).sizes):
            continue
        yield file, number
        heapq.heappush(queue, (position + 1 / dataset.files[file], file, number + 1))


class Sampler:
    """Draws windows into a plan; one that was broken off goes on as if it had not been.

    Which rows a window looks at depends on the seed, its row group and its rounds only, so windows
    may be read ahead; which turns it takes depends on those before it, so they are taken in order.
    """

    def __init__(self, flags: dict, plan: dict | None):
        self.seed = flags["--seed"]
        self.count = flags["--count"]
        pins = plan or {"revision": flags["--revision"], "prs_revision": None}
        self.dataset = Dataset("--dataset", flags["--dataset"], ROW_COLUMNS, pins["revision"])
        prs = Dataset("--prs", flags["--prs"], PR_COLUMNS, pins["prs_revision"])
        if not self.dataset.hub:
            self.dataset.groups()  # what a file lacks is told before anything is drawn
        self.plan = plan or sample.new_plan(flags, self.dataset, prs)
        self.pool = ThreadPoolExecutor(AT_ONCE)
        self.records = Records(prs, self.pool)
        marks = read_benchmarks(self.plan["benchmarks"]["lists"])
        self.kept_out_by = (self.records, flags["--license"], marks)
        turns = sample.planned_turns(self.plan)
        self.chats = {turn["chat"] for turn in turns}  # digests of the chats taken: one a turn
        self.taken = Counter(turn["instance_id"] for turn in turns)
        self.left_out = set()  # what the plan's lists hold
        for kind in SAMPLING_LISTS:
            self.left_out |= {(kind, row["instance_id"], row["reason"]) for row in self.plan[kind]}

    def draw(self, goal: int):
        """Yield the prompts of window after window until the plan holds `goal` turns, or all."""
        plan = self.plan
        last = plan["offsets"][-1] if plan["offsets"] else {}
        rounds = last.get("rounds", [1, 1])  # an older version wrote none
        usual = LEAST_PER_WINDOW  # prompts of a window: as many are read at once as are needed
        drawn = [window for window in plan["offsets"] if window.get("rounds") == rounds]
        row_groups = itertools.islice(row_group_order(self.dataset, self.seed), len(drawn), None)
        while len(self.chats) < goal and not plan["exhausted"]:
            at_once = min(AT_ONCE, math.ceil((goal - len(self.chats)) / usual))
            ahead = list(itertools.islice(row_groups, at_once))
            for read in self.pool.map(self.read_window, ahead, itertools.repeat(rounds)):
                if len(self.chats) < goal:
                    prompts = self.take_window(*read)
                    usual = max(1, len(prompts))
                    yield prompts
            if not ahead:  # all were drawn: as many rounds follow as are surely needed
                drawn = [window for window in plan["offsets"] if window.get("rounds") == rounds]
                gained = sum(len(window["turns"]) for window in drawn)
                plan["exhausted"] = gained == 0 and rounds[1] > max(self.taken.values(), default=0)
                more = (self.count - len(self.chats)) // max(1, gained)
                rounds = [rounds[1] + 1, rounds[1] + max(1, min(more, MOST_ROUNDS))]
                row_groups = row_group_order(self.dataset, self.seed)

    def read_window(self, row_group: tuple[str, int], rounds: list[int]) -> tuple:
        """Return the window's entry for the plan, whom it leaves out, its draws and their chats."""
        file, number = row_group  # its number in the file's shuffled order
        seed = f"{self.seed}/{file}"
        sizes = self.dataset.open(file).sizes
        window = {"file": file, "row_group": None, "rounds": rounds, "passed_over": [], "turns": []}
        if number >= len(sizes):  # a file without rows
            return window, [], [], {}
        group = window["row_group"] = shuffled(seed, list(range(len(sizes))))[number]
        instances = {}  # id: (repo, its rows)
        left_out = []
        for row, values in self.dataset.open(file).rows(group, ("instance_id", "repo")):
            if values is None:
                window["passed_over"].append({"row": row, "reason": "no JSON object"})
                continue
            name, repo = map(as_text, values)
            if name not in instances:
                repo = self.records.repo_of(name, repo)
                instances[name] = (repo, [])
                if why := why_left_out(name, *self.kept_out_by):
                    left_out.append((name, repo, *why))
            instances[name][1].append(row)

        kept = {*instances} - {name for name, *_ in left_out}
        names = shuffled(f"{seed}/{group}", sorted(kept))
        share = min(sizes[group] // ROWS_PER_TURN, self.count // LEAST_WINDOWS)
        per_round = min(max(LEAST_PER_WINDOW, share), len(names))
        draws = []  # (instance id, repo, round, rows that may give the turn)
        for position in range((rounds[0] - 1) * per_round, rounds[1] * per_round):
            earlier, nth = divmod(position, len(names))
            repo, rows = instances[names[nth]]
            rows = shuffled(f"{seed}/{names[nth]}", rows)
            first = earlier % len(rows)
            rows = rows[first:] + rows[:first]
            draws.append((names[nth], repo, earlier + 1, rows[:SPARE_ROWS]))
        wanted = {row for *_, rows in draws for row in rows}
        read = self.dataset.open(file).rows(group, ("messages",), wanted) if wanted else ()
        return window, left_out, draws, {row: read_chat(value) for row, [value] in read}

    def take_window(self, window: dict, left_out: list, draws: list, chats: dict) -> list[dict]:
        """Put a window into the plan: of each draw the first turn that fits and is new."""
        file = window["file"]
        prompts = []
        passed_over = {}  # (row, reason), each once
        for name, repo, in_round, rows in draws:
            if self.taken[name] >= in_round or len(self.chats) >= self.count:
                continue
            for row, turn, problem, shown in self.candidates(file, name, rows, chats):
                if problem:
                    passed_over[row, problem] = True
                    if shown:
                        reason = f"row {row} of {file}: {shown}"
                        left_out.append((name, repo, "shows_fix", reason, []))
                    continue
                prompt = sample.make_prompt(name, repo, file, row, turn, chats[row])
                entry = sample.plan_entry(prompt)
                if entry["chat"] not in self.chats:
                    window["turns"].append(entry)
                    prompts.append(prompt)
                    self.chats.add(entry["chat"])
                    self.taken[name] += 1
                    break
        window["passed_over"] += [{"row": row, "reason": reason} for row, reason in passed_over]
        for name, repo, kind, reason, benchmarks in left_out:
            name = name[:300]
            if (kind, name, reason) not in self.left_out:
                self.left_out.add((kind, name, reason))
                self.plan[kind].append({"instance_id": name, "repo": repo, "reason": reason})
                for benchmark in self.plan["benchmarks"]["lists"]:
                    if benchmark["name"] in benchmarks:
                        benchmark["overlaps"].append(name)
        self.plan["offsets"].append(window)
        return prompts

    def candidates(self, file: str, name: str, rows: list[int], chats: dict):
        """Yield (row, turn, why it is passed over, what shows the fix) of the turns of rows."""
        for row in rows:
            messages = chats[row].messages if chats[row] else []
            turns = next_turns(messages)
            if chats[row] is None:
                yield row, None, "malformed: messages is no list of role and content", None
            elif not turns:
                yield row, None, "no assistant message right after a user message", None
            for turn in shuffled(f"{self.seed}/{file}/{row}", turns):
                shown = None
                problem = chats[row].unfit.get(turn) or reply_problem(messages[turn]["content"])
                if not problem and may_peek(messages[:turn]):  # only then is the record read for it
                    shown = shows_fix(messages[:turn], self.records.read_one(name))
                    problem = shown and "its chat shows the fix"
                yield row, turn, problem, shown


def next_turns(messages: list[dict]) -> list[int]:
    """Return the indices of the assistant messages that come right after a user message."""
    turns = []
    for index, message in enumerate(messages):
        if message["role"] not in ("system", "user", "assistant") or message["content"] is None:
            break  # no later chat is whole
        if message["role"] == "assistant" and index and messages[index - 1]["role"] == "user":
            turns.append(index)
    return turns


def reply_problem(reply: str) -> str | None:
    """Return why a reply is no reference; None when it is one."""
    if not reply.strip():
        return "empty reply"
    fences = sum(line.lstrip(" \t").startswith("```") for line in reply.split("\n"))
    return "reply cut off inside a code block" if fences % 2 else None


def main() -> int:
    """Bring prompt/ and commit/ to what the flags ask for; return the exit code."""
    cli = parser(__doc__)
    add = cli.add_argument
    add("--count", type=whole_number, metavar="N", default=COUNT, help="turns (%(default)s)")
    add("--seed", type=int, default=0, help="another seed, another sample (%(default)s)")
    add("--dataset", default=DATASET, help="trajectories: Hub id, folder or glob (%(default)s)")
    add("--prs", default=PRS, help="PR records: Hub id, folder or glob (%(default)s)")
    add("--revision", help="commit, branch or tag of --dataset (its newest commit, then pinned)")
    add("--benchmarks", metavar="LIST", help="ids or files of benchmarks to keep out, or none")
    add("--license", metavar="LIST", help="keep only records under these: mit,apache-2.0,...")
    args = cli.parse_args()
    flags = {f"--{name}": value for name, value in vars(args).items() if name != "limit"}
    flags["--license"] = sorted({*(args.license or "").lower().replace(" ", "").split(",")} - {""})
    goal = min(args.count, args.limit or args.count)
    tally = Tally("prompt.py")
    lines = [f"output  prompt/prompts_{args.count}_*.json, {sample.PLAN}, commit/"]
    with lock_folders([Path("prompt"), Path("commit")], "prompt"):
        plan = sample.read_plan(flags)
        try:
            if plan and sample.is_whole(plan, goal):
                tally.skipped["already there"] = min(goal, len(sample.planned_turns(plan)))
            else:
                sampler = Sampler(flags, plan)
                plan = sampler.plan
                sources = (sampler.dataset, sampler.records)
                sample.fill(plan, goal, *sources, sampler.draw(goal), tally)
            lines = sample.describe(plan) + lines
        except ItemFailed as outage:
            tally.fail("the rest", outage.kind, outage.detail)
        except KeyboardInterrupt:
            tally.show()
            raise
        tally.write_failed(Path("prompt"))
        return tally.show(*lines, next_command=steps_from("king.py"))


if __name__ == "__main__":
    try:
        run(main)
    except SystemExit as end:  # a thread that still waits for the Hub must not hold up the way out
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)
