#!/usr/bin/env python3
"""Stage 1: sample agent turns from a trajectories dataset and mirror the PR record of each instance.

    python prompt.py                             2,000 turns from the Hub
    python prompt.py --dataset DIR --prs DIR     from local parquet: folders (read recursively) or globs
    python prompt.py --limit 5                   a small trial; the run without --limit goes on from it

Reads   --dataset: instance_id, repo, messages (a list of role and content, or the same as JSON text);
        --prs: one row per instance with its issue, description and patches. Each is a Hub dataset id, a
        folder or a glob. HF_TOKEN (or HUGGINGFACE_API_KEY) and HF_ENDPOINT are honoured, also from .env.
Writes  prompt/prompts_<count>_<k>.json   at most 200 turns each: the chat so far, the dataset's own next turn
        prompt/_plan.json                 what was drawn from where, what was passed over, a summary
        commit/<instance_id>.json         the PR record

Turns are drawn in windows over the whole split: a file in proportion to its bytes, in it a row group in
proportion to its rows, in that rows of different instances. Only those byte ranges are read, at a pinned
commit. The same flags give the same files, byte for byte, also after a kill; a rerun fills in what is
missing. What is read of the PR files is kept under HF_HOME (~/.cache/huggingface/parquet_parts) for the
next sample.
"""
from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import sys
import threading
import time
from bisect import bisect
from collections import Counter, defaultdict
from concurrent.futures import Future
from pathlib import Path
from statistics import median

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import constants

from common.parquet import Outage, ParquetFiles, in_background, open_dataset
from common.files import BadFile, UserError, clean_text, digest, lock_folders, read_json, is_safe_name, quarantine, write_json
from common.turns import _EXCLUDE_IDS, RECORD_KEYS, read_record
from common.cli import Progress, Tally, parser, run, whole_number

DATASET, PRS, COUNT = "AlienKevin/SWE-ZERO-12M-trajectories", "nebius/SWE-rebench-V2-PRs", 2000
PROMPT, COMMIT, PLAN = Path("prompt"), Path("commit"), Path("prompt", "_plan.json")
TURNS_PER_FILE = 200

# A window takes one turn per 100 rows of its row group (in SWE-ZERO some 100 rollouts of an instance lie side by
# side), but at least 12: a group of 1,000 rows is paid for as a whole, and holds 10 or 11 instances. Row groups may
# be far larger: then a tenth of the sample at most, so that it comes from ten windows or more.
ROWS_PER_TURN, LEAST_PER_WINDOW, LEAST_WINDOWS = 100, 12, 10
SPARE_ROWS = 4  # rows of an instance that are looked at, at most, before it is passed over
MOST_LAPS = 50  # of a small dataset, turns of an instance that one window takes at most
AT_ONCE = 4  # windows read at once; more gains little and nears the Hub's limit of 3,000 file requests in 5 minutes
SAVE_EVERY_S = 1  # a kill costs what was drawn since; it is drawn again just so

TRAJECTORY_COLUMNS = ("instance_id", "repo", "messages")
RECORD_COLUMNS = {  # key of a record -> column of the PR dataset
    "repo": "repo", "base_commit": "base_commit", "issue": "problem_statement", "description": "pr_description",
    "patch": "patch", "test_patch": "test_patch", "interface": "interface", "language": "language",
    "created_at": "created_at"}
LEFT_OUT = ("excluded", "without_record", "refused")  # the plan's lists of instances that were drawn and left out


# ----------------------------------------------------------------------------------------- what a row has to offer

def read_messages(value: object) -> list[dict] | None:
    """A row's messages as [{"role", "content"}], content None where the dataset has none; None when malformed."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if not isinstance(value, list):
        return None
    messages = []
    for item in value:
        role, content = (item.get("role"), item.get("content")) if isinstance(item, dict) else (None, None)
        if not isinstance(role, str) or not (content is None or isinstance(content, str)):
            return None
        messages.append({"role": clean_text(role), "content": content if content is None else clean_text(content)})
    return messages


def usable_turns(messages: list[dict]) -> list[int]:
    """Indices of the assistant messages that can be a prompt's reply.

    A user message comes right before; all before it is text of system, user and assistant (a tool's role or a missing
    text ends the search: no later chat is whole); the reply is neither empty nor cut off inside a code block.
    """
    turns = []
    for index, message in enumerate(messages):
        if message["role"] not in ("system", "user", "assistant") or message["content"] is None:
            break
        if message["role"] == "assistant" and index and messages[index - 1]["role"] == "user":
            fences = re.findall(r"^\s*```", message["content"], re.MULTILINE)
            if message["content"].strip() and len(fences) % 2 == 0:
                turns.append(index)
    return turns


def why_passed_over(messages: list[dict] | None) -> str | None:
    """Why a row gives no prompt, None when it gives one."""
    if messages is None:
        return "malformed: messages is no list of role and content"
    if not any(message["role"] == "assistant" for message in messages):
        return "cut: it ends before the first assistant message"
    if not usable_turns(messages):
        return "no usable turn: no whole assistant reply right after a user message"
    return None


def chat_digest(instance_id: str, messages: list[dict]) -> str:
    """What tells one turn from another: the instance and the whole history."""
    return digest(instance_id, json.dumps(messages))[:16]


# --------------------------------------------------------------------------------------------------------- windows

class Sampler:
    """Draws windows one after the other, into a plan; a plan that was broken off goes on as if it had not been.

    The instances of a row group are a shuffled deck, and so are the rows of an instance and the turns of a row. A
    window draws the next few from the deck of its group; no group is drawn twice before all were (a pass). Chance
    depends on the seed, the window's number and the place only, never on timing, so windows may be read ahead.
    """

    def __init__(self, files: ParquetFiles, plan: dict, known, excluded: set[str], args):
        self.files, self.plan, self.known, self.excluded, self.args = files, plan, known, excluded, args
        self.names, self.ends = list(files.files), list(itertools.accumulate(files.files.values()))
        self.taken, self.seen, self.read_ahead, self.placed = Counter(), set(), {}, Future()
        self.placed.set_result(None)
        self.number, self.laps, self.gained = 1, args.per_instance or 1, 0  # of this pass
        self.drawn: set[tuple[str, int]] = set()  # places of this pass
        self.cursor: dict[tuple[str, int], int] = defaultdict(int)  # cards dealt from the deck of a place
        for window in plan["offsets"]:
            self._note(window)

    def start(self, number: int) -> None:
        """Begin to read window `number`, the one after the last that was begun, in the background."""
        if number not in self.read_ahead:
            before, self.placed = self.placed, Future()
            self.read_ahead[number] = in_background(self._read_ahead, number, before, self.placed)

    def draw(self, number: int) -> tuple[dict, list[dict]] | None:
        """Window `number` for the plan, and its prompts; None when the dataset has no further turn to give."""
        self.start(number)
        place, found = self.read_ahead.pop(number).result()
        if place is None:
            if not self.gained:
                return None
            missing = self.args.count - self.taken.total()
            self._begin_pass(self.number + 1, min(math.ceil(missing / self.gained), MOST_LAPS))
            return self.draw(number)
        accepted = []
        for turn, prompt in found["drawn"]:
            if self.taken[turn["instance_id"]] <= turn.pop("lap") and turn["chat"] not in self.seen:
                accepted.append((turn, prompt))
                self.seen.add(turn["chat"])
        window = {"file": place[0], "row_group": place[1], "pass": self.number, "laps": self.laps,
                  "deck": found["deck"], "bytes": self.files.size(*place, TRAJECTORY_COLUMNS), "passed_over": found["passed_over"],
                  "turns": [turn for turn, _ in accepted]}
        for kind in LEFT_OUT:
            self.plan[kind] += [entry for entry in found[kind] if entry not in self.plan[kind]]
        self._note(window)
        return window, [prompt for _, prompt in accepted]

    def draw_again(self, number: int) -> list[dict]:
        """The prompts of a window that the plan holds."""
        window = self.plan["offsets"][number]
        found = self._read(window["file"], window["row_group"], window["deck"][0], window["laps"])
        prompts = {(turn["row"], turn["turn"]): prompt for turn, prompt in found["drawn"]}
        return [prompts[turn["row"], turn["turn"]] for turn in window["turns"]]

    def _begin_pass(self, number: int, laps: int) -> None:
        self.number, self.laps, self.gained = number, laps, 0
        self.drawn, self.read_ahead = set(), {}

    def _note(self, window: dict) -> None:
        """Take in what a window took."""
        if window["pass"] > self.number:
            self._begin_pass(window["pass"], window["laps"])
        place = window["file"], window["row_group"]
        self.drawn.add(place)
        self.cursor[place] = window["deck"][1]
        self.gained += len(window["turns"])
        self.taken.update(turn["instance_id"] for turn in window["turns"])
        self.seen.update(turn["chat"] for turn in window["turns"])

    def _read_ahead(self, number: int, before: Future, placed: Future) -> tuple:
        """The place of window `number` and what it holds; (None, None) when this pass has drawn every place."""
        try:
            file = self.names[bisect(self.ends, self._chance(number, "byte").randrange(self.ends[-1]))]
            footer = self.files.footer(file)
            sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
            rows = list(itertools.accumulate(sizes))
            row = self._chance(number, "row").randrange(rows[-1]) if rows and rows[-1] else 0
            before.result()  # places are given in the order of the windows, whichever footer came first
            place = self._free_place(file, bisect(rows, row))
            self.drawn.add(place)
        finally:
            placed.set_result(None)
        return place, place and self._read(*place, self.cursor[place], self.laps)

    def _chance(self, number: int, what: str) -> random.Random:
        return random.Random(f"{self.args.seed}/{number}/{what}")

    def _free_place(self, nominal: str, begin: int) -> tuple[str, int] | None:
        """The first place from row group `begin` of a file on, around all files, that this pass has not drawn."""
        first = self.names.index(nominal)
        for file in self.names[first:] + self.names[:first]:
            groups = self.files.footer(file).num_row_groups
            for group in range(begin, begin + groups) if file == nominal else range(groups):
                if (file, group % groups) not in self.drawn:
                    return file, group % groups
        return None

    def _read(self, file: str, group: int, start: int, laps: int) -> dict:
        """Deal from the deck of a row group: {"drawn": [(turn, prompt)], "deck": [from, to], what was left out}."""
        instances, found = self._instances(file, group)
        deck = shuffled(f"{self.args.seed}/{file}/{group}", sorted(instances))
        end = start + laps * min(self._size(self.files.footer(file).row_group(group).num_rows), len(deck))
        if self.args.per_instance:
            end = min(end, self.args.per_instance * len(deck))
        cards = []  # (instance id, lap: how often the deck gave it before, rows to look at)
        for card in range(start, end):
            lap, name = card // len(deck), deck[card % len(deck)]
            rows = shuffled(f"{self.args.seed}/{file}/{name}", instances[name][1])
            first = lap % len(rows)
            cards.append((name, lap, (rows[first:] + rows[:first])[:SPARE_ROWS], lap // len(rows)))
        chats = self._chats(file, group, {row for *_, rows, _ in cards for row in rows})
        passed_over = {}
        for name, lap, rows, place in cards:
            for row in rows:
                if why := why_passed_over(chats[row]):
                    passed_over[row] = why
                    continue
                turns = usable_turns(chats[row])
                if place < len(turns):
                    turn = shuffled(f"{self.args.seed}/{file}/{row}", turns)[place]
                    found["drawn"].append(self._turn(file, row, turn, turns, name, lap, instances[name][0], chats[row]))
                    break
        found["deck"] = [start, end]
        found["passed_over"] = [{"row": row, "reason": why} for row, why in sorted(passed_over.items())]
        return found

    def _turn(self, file, row, turn, turns, instance_id, lap, repo, chat) -> tuple[dict, dict]:
        """A turn for the plan, and its prompt."""
        third = ("early", "middle", "late")[3 * turns.index(turn) // len(turns)]
        entry = {"instance_id": instance_id, "row": row, "turn": turn, "third": third, "lap": lap,
                 "chat": chat_digest(instance_id, chat[:turn]), "reply": digest(chat[turn]["content"])[:16]}
        return entry, {"instance_id": instance_id, "repo": repo, "messages": chat[:turn],
                       "assistant": chat[turn]["content"], "source": {"file": file, "row": row, "turn": turn}}

    def _size(self, rows: int) -> int:
        """Turns that a window takes from a row group of so many rows."""
        if self.args.windows:
            return math.ceil(self.args.count / self.args.windows)
        per_instance = self.args.per_instance or 1
        return max(LEAST_PER_WINDOW * per_instance,
                   min(rows * per_instance // ROWS_PER_TURN, self.args.count // LEAST_WINDOWS))

    def _instances(self, file: str, group: int) -> tuple[dict[str, tuple[str, list[int]]], dict]:
        """{instance id: (repo, its rows in the file)} of a row group, and those that are left out, by kind."""
        instances, row = {}, self.files.first_row(file, group)
        for batch in self.files.batches(file, group, TRAJECTORY_COLUMNS[:2], 4096):
            for name, repo in zip(batch["instance_id"].to_pylist(), batch["repo"].to_pylist()):
                instances.setdefault(name, (clean_text(str(repo or "")), []))[1].append(row)
                row += 1
        found = {kind: [] for kind in LEFT_OUT} | {"drawn": []}
        for name, (repo, _) in list(instances.items()):
            if left_out := self._why_left_out(name, repo):
                kind, why = left_out
                found[kind].append({"instance_id": clean_text(str(name))[:300], "repo": repo, "reason": why})
                del instances[name]
        return instances, found

    def _why_left_out(self, name: object, repo: str) -> tuple[str, str] | None:
        if not is_safe_name(name):
            return "refused", "its instance id cannot be a file name"
        if name in _EXCLUDE_IDS:
            return "excluded", "on the list of excluded instances"
        if name in self.excluded or repo in self.excluded:
            return "excluded", f"{name if name in self.excluded else repo} is listed in {self.args.exclude}"
        return None if name in self.known else ("without_record", f"no PR record in {self.args.prs}")

    def _chats(self, file: str, group: int, wanted: set[int]) -> dict[int, list[dict] | None]:
        """{row in the file: its messages} of the wanted rows; only a batch of the others is in memory at a time."""
        chats, row = {}, self.files.first_row(file, group)
        for batch in self.files.batches(file, group, TRAJECTORY_COLUMNS[2:], 64) if wanted else ():
            for place in range(batch.num_rows):
                if row + place in wanted:
                    try:
                        chats[row + place] = read_messages(batch["messages"][place].as_py())
                    except UnicodeDecodeError:
                        chats[row + place] = None
            row += batch.num_rows
            if len(chats) == len(wanted):
                break
        return chats


def shuffled(seed: str, items: list) -> list:
    """The items in an order that the seed alone decides."""
    return random.Random(seed).sample(items, len(items))


# ------------------------------------------------------------------------------------------------------ PR records

def record_places(prs: ParquetFiles) -> dict[str, tuple]:
    """{instance id: (file, row group, row in it, bytes of the group's needed columns)}, of each id the first."""
    path, columns = parts_folder(prs) / "instance_ids.parquet", list(RECORD_COLUMNS.values())
    if prs.local or not path.exists():
        groups = [(file, group) for file in prs.files for group in range(prs.footer(file).num_row_groups)]

        def ids_of(file: str, group: int) -> pa.Table:
            ids = [name for batch in prs.batches(file, group, ["instance_id"], 4096)
                   for name in batch["instance_id"].to_pylist()]
            size = prs.size(file, group, columns)
            if not all(isinstance(name, (str, type(None))) for name in ids):
                raise UserError(f"{prs.flag} {prs.name}: column instance_id of {file}: expected text, found "
                           f"{type(next(name for name in ids if name is not None)).__name__}.")
            return pa.table({"id": pa.array(ids, pa.string()), "file": [file] * len(ids), "group": [group] * len(ids),
                             "row": range(len(ids)), "bytes": [size] * len(ids)})

        table = pa.concat_tables(several_at_once(ids_of, groups), promote_options="permissive")
        if not prs.local:
            write_parquet(path, table.schema, table.to_batches())
    else:
        table = pq.read_table(path)
    rows = [table[name].to_pylist() for name in ("id", "file", "group", "row", "bytes")]
    return {name: tuple(place) for name, *place in reversed(list(zip(*rows)))}


def write_records(prs: ParquetFiles, places: dict[str, tuple], wanted: set[str]) -> None:
    """Write commit/<instance_id>.json for the wanted ids, by DuckDB over just the row groups and columns they need."""
    progress = Progress(len(wanted), "records", "record")
    groups = sorted({places[name][:2] for name in wanted})
    select = ", ".join(f'"{column}" AS "{key}"' for key, column in RECORD_COLUMNS.items())
    for (file, group), (path, first) in zip(groups, several_at_once(lambda *place: record_part(prs, *place), groups)):
        ids = {first + places[name][2]: name for name in wanted if places[name][:2] == (file, group)}
        try:
            with duckdb.connect() as database:
                database.execute("SET threads = 1")  # one row group: more threads would only hold more of it in memory
                found = database.execute(
                    f"SELECT file_row_number, {select} FROM read_parquet(?, file_row_number = true) "
                    "WHERE file_row_number BETWEEN ? AND ? AND file_row_number IN (SELECT unnest(?))",
                    [str(path), min(ids), max(ids), sorted(ids)])  # the span keeps other row groups unread
                keys = [column[0] for column in found.description]
                while row := found.fetchone():
                    write_record(dict(zip(keys, row)), ids[row[0]])
        except duckdb.Error as error:
            raise UserError(f"{path} cannot be read ({str(error).splitlines()[0][:150]}).") from None
        progress.update(len(ids), read=megabytes(prs.bytes_read))
    progress.close()


def write_record(row: dict, instance_id: str) -> None:
    record = {key: clean_text(value) if isinstance(value, str) else "" if value is None else value
              for key, value in row.items()}
    if hasattr(record["created_at"], "isoformat"):
        record["created_at"] = record["created_at"].isoformat()
    record |= {"instance_id": instance_id, "files": changed_files(record["patch"])}
    write_json(COMMIT / f"{instance_id}.json", {key: record[key] for key in RECORD_KEYS})


def record_part(prs: ParquetFiles, file: str, group: int) -> tuple[Path, int]:
    """A parquet file on this machine with the record columns of a row group, and the row at which the group begins.

    Of a Hub dataset that is a copy of just these columns (without the ids, read before), kept for the next sample.
    """
    if prs.local:
        return prs.opened(file), prs.first_row(file, group)
    path = parts_folder(prs) / f"{file.replace('/', '--')}.{group}.parquet"
    if not path.exists():
        batches = prs.batches(file, group, RECORD_COLUMNS.values(), 64)
        first = next(batches)
        write_parquet(path, first.schema, itertools.chain([first], batches))
    return path, 0


def parts_folder(prs: ParquetFiles) -> Path:
    return Path(constants.HF_HOME, "parquet_parts", prs.name.replace("/", "--"), prs.revision)


def write_parquet(path: Path, schema: pa.Schema, batches) -> None:
    """Write record batches to `path`: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def several_at_once(work, items: list[tuple]):
    """work(*item) for each item, in order, a few of them under way at a time."""
    under_way = [in_background(work, *item) for item in items[:AT_ONCE]]
    for item in [*items[AT_ONCE:], *[None] * len(under_way)]:
        result = under_way.pop(0).result()
        if item is not None:
            under_way.append(in_background(work, *item))
        yield result


def changed_files(patch: str) -> list[str]:
    """The paths that a git (or plain unified) diff changes, in order; of a rename both, of a deletion the old one."""
    paths: dict[str, None] = {}
    header, old, left = None, None, [0, 0]  # left: lines still to come of the hunk at hand, old and new
    for line in [*patch.splitlines(), "diff --git "]:
        if max(left) > 0:
            left = [left[0] - (line[:1] in ("-", " ", "")), left[1] - (line[:1] in ("+", " ", ""))]
        elif line.startswith("diff --git "):
            if header:  # the one before had neither ---/+++ nor rename lines: a mode change, an empty or binary file
                paths.setdefault(unquoted(header[len(header) // 2 + 1:], "b/"))
            header, old = line[11:], None
        elif line.startswith(("rename from ", "rename to ", "copy to ")):
            paths.setdefault(unquoted(line.split(" ", 2)[2]))
            header = None
        elif line.startswith("--- "):
            old = unquoted(line[4:], "a/")
        elif line.startswith("+++ ") and old is not None:
            new = unquoted(line[4:], "b/")
            paths.setdefault(old if new == "/dev/null" else new)
            header = old = None
        elif hunk := re.match(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", line):
            left = [int(hunk[1] or 1), int(hunk[2] or 1)]
    return list(paths)


def unquoted(path: str, prefix: str = "") -> str:
    r"""A path as a diff writes it, such as "b/caf\303\251.txt" (in quotes when it holds unusual bytes), as text."""
    if path.startswith('"'):
        named = {"n": b"\n", "t": b"\t", "r": b"\r", "a": b"\a", "b": b"\b", "f": b"\f", "v": b"\v"}
        parts = re.split(r"\\([0-7]{3}|.)", path.strip()[1:-1])
        path = b"".join(part.encode() if place % 2 == 0 else bytes([int(part, 8) & 255]) if len(part) == 3
                        else named.get(part, part.encode()) for place, part in enumerate(parts))
        path = path.decode(errors="replace")
    else:
        path = path.split("\t")[0].rstrip()
    return path.removeprefix(prefix)


# -------------------------------------------------------------------------------------------- the plan and its files

def read_plan(flags: dict) -> dict | None:
    """The plan that lies here. Raises UserError when it was made with other flags."""
    try:
        plan = read_json(PLAN, ("flags", "revision", "prs_revision", "count", "offsets", "exhausted", "summary",
                                *LEFT_OUT))
    except FileNotFoundError:
        if stray := sorted(PROMPT.glob("prompts_*.json")):
            raise UserError(f"{stray[0]} lies there without {PLAN}.\nPut the plan back, or move prompt/ and commit/ away, "
                       "then run this again.") from None
        return None
    except BadFile as bad:
        print(f"{bad}; moved aside to {quarantine(PLAN)}, made again", file=sys.stderr)
        return None
    for flag, value in flags.items():
        if plan["flags"].get(flag) != value:
            raise UserError(f"{PLAN} was made with {flag} {plan['flags'].get(flag)}, this run has {value}.\nGive the same "
                       "flags to go on with it; for another sample use another folder, or remove prompt/ and commit/.")
    return plan


def planned_turns(plan: dict) -> list[dict]:
    """The turns of the plan in order, each with its file and the number of its window."""
    return [turn for number, window in enumerate(plan["offsets"]) for turn in turns_of(window, number)]


def turns_of(window: dict, number: int) -> list[dict]:
    return [{"file": window["file"], "window": number, **turn} for turn in window["turns"]]


def file_of(plan: dict, place: int) -> tuple[Path, int]:
    """The file that holds the prompt at `place` (from 0), and the place at which that file begins."""
    number = place // TURNS_PER_FILE
    return PROMPT / f"prompts_{plan['count']}_{number + 1}.json", number * TURNS_PER_FILE


def held_prompts(plan: dict, turns: list[dict], place: int) -> list[dict]:
    """The prompts that the file of `place` holds, as planned; a file that holds anything else is set aside."""
    path, first = file_of(plan, place)
    planned = turns[first:first + TURNS_PER_FILE]
    try:
        prompts = read_json(path)
        if isinstance(prompts, list) and len(prompts) <= len(planned) and all(map(same_turn, prompts, planned)):
            return prompts
        why = "does not hold what the plan says"
    except FileNotFoundError:
        return []
    except BadFile as bad:
        why = bad.why
    print(f"{path}: {why}; moved aside to {quarantine(path)}, made again", file=sys.stderr)
    return []


def same_turn(prompt: object, turn: dict) -> bool:
    """Whether a prompt is whole and the one of the plan's turn."""
    try:
        return (prompt["source"] == {key: turn[key] for key in ("file", "row", "turn")}
                and chat_digest(prompt["instance_id"], prompt["messages"]) == turn["chat"]
                and digest(prompt["assistant"])[:16] == turn["reply"])
    except (TypeError, KeyError, AttributeError):
        return False


def write_prompts(sampler: Sampler, goal: int, progress: Progress) -> list[dict]:
    """Write prompts 0 to `goal`, file after file, drawing windows as they are needed; returns their turns."""
    plan, drawn, saved = sampler.plan, {}, time.monotonic()  # drawn: prompts by place that no file holds yet
    turns = planned_turns(plan)  # may pass `goal` by what the last window has too many
    for first in range(0, goal, TURNS_PER_FILE):
        path, last = file_of(plan, first)[0], min(first + TURNS_PER_FILE, goal)
        prompts = held_prompts(plan, turns, first)
        held = len(prompts)
        progress.update(held)
        try:
            while (place := first + len(prompts)) < last:
                if place in drawn:
                    prompts.append(drawn.pop(place))
                    progress.update(1, read=megabytes(sampler.files.bytes_read))
                elif place < len(turns):
                    window = turns[place]["window"]
                    begin = next(index for index, turn in enumerate(turns) if turn["window"] == window)
                    drawn.update(enumerate(sampler.draw_again(window), start=begin))
                elif plan["exhausted"]:
                    break
                else:
                    number = len(plan["offsets"])
                    for ahead in range(number, number + windows_ahead(plan, goal - place)):
                        sampler.start(ahead)
                    window = sampler.draw(number)
                    if window is None:
                        plan["exhausted"] = True
                        break
                    plan["offsets"].append(window[0])
                    turns += turns_of(window[0], number)
                    drawn.update(enumerate(window[1], start=place))
                    if time.monotonic() - saved > SAVE_EVERY_S:
                        write_json(PLAN, plan)
                        write_json(path, prompts)
                        saved = time.monotonic()
        finally:  # also of a run that is interrupted here
            if turns:
                write_json(PLAN, plan)
            if len(prompts) > held:
                write_json(path, prompts)
    return turns[:goal]


def windows_ahead(plan: dict, missing: int) -> int:
    """How many windows to have under way when so many turns are missing: none that would be read in vain."""
    usual = len(plan["offsets"][-1]["turns"]) if plan["offsets"] else LEAST_PER_WINDOW
    return min(AT_ONCE, math.ceil(missing / max(1, usual)))


def without_record(turns: list[dict]) -> set[str]:
    """Instances of the turns that have no whole record in commit/; a torn one is set aside."""
    missing = set()
    for instance_id in {turn["instance_id"] for turn in turns}:
        try:
            read_record(instance_id, COMMIT)
        except UserError:
            missing.add(instance_id)
        except BadFile as bad:
            print(f"{bad}; moved aside to {quarantine(bad.path)}, made again", file=sys.stderr)
            missing.add(instance_id)
    return missing


def summarize(plan: dict, turns: list[dict], places: dict[str, tuple]) -> dict:
    """What was sampled: counts over the prompts, for the tally and the report; bytes are those of a run at one go."""
    prompts = [prompt for first in range(0, len(turns), TURNS_PER_FILE)
               for prompt in read_json(file_of(plan, first)[0])]
    per_instance = Counter(turn["instance_id"] for turn in turns)
    language = {name: read_record(name, COMMIT)["language"] or "unknown" for name in per_instance}
    windows = {(window["file"], window["row_group"]): window["bytes"] for window in plan["offsets"]}
    reasons = {(window["file"], row["row"]): row["reason"]
               for window in plan["offsets"] for row in window["passed_over"]}

    def spread(numbers: list[int]) -> dict:
        return {"least": min(numbers), "median": median(numbers), "most": max(numbers)}

    return {"prompts": len(turns), "instances": len(per_instance), "repos": len({prompt["repo"] for prompt in prompts}),
            "most_turns_of_an_instance": max(per_instance.values()),
            "languages": dict(Counter(language[turn["instance_id"]] for turn in turns).most_common()),
            "thirds": {third: sum(turn["third"] == third for turn in turns) for third in ("early", "middle", "late")},
            "chat_messages": spread([len(prompt["messages"]) for prompt in prompts]),
            "chat_characters": spread([sum(len(m["content"]) for m in prompt["messages"]) for prompt in prompts]),
            "windows": len(plan["offsets"]), "row_groups": len(windows), "trajectory_bytes": sum(windows.values()),
            "record_bytes": sum({places[name][:2]: places[name][3] for name in per_instance}.values()),
            "rows_passed_over": dict(Counter(reasons.values())),
            "left_out": {kind: len(plan[kind]) for kind in LEFT_OUT}}


def summary_lines(plan: dict) -> list[str]:
    """The summary for the tally."""
    seen = plan["summary"]
    lines = [f"{seen['prompts']} prompts of {seen['instances']} instances in {seen['repos']} repos, "
             f"at most {seen['most_turns_of_an_instance']} of an instance",
             "languages  " + ", ".join(f"{name} {count}" for name, count in [*seen["languages"].items()][:8]),
             "turns      " + ", ".join(f"{third} {count}" for third, count in seen["thirds"].items()),
             "chats      {least} to {most} messages, median {median:g}; ".format(**seen["chat_messages"])
             + "{least:,} to {most:,} characters, median {median:,.0f}".format(**seen["chat_characters"]),
             f"read       {megabytes(seen['trajectory_bytes'])} of trajectories ({seen['windows']} windows, "
             f"{seen['row_groups']} row groups), {megabytes(seen['record_bytes'])} of PR records"]
    lines += [f"passed over {count} rows, {reason}" for reason, count in seen["rows_passed_over"].items()]
    for kind in LEFT_OUT:
        if plan[kind]:
            named = ", ".join(entry["instance_id"] for entry in plan[kind][:5]) + (" ..." if plan[kind][5:] else "")
            lines.append(f"left out {len(plan[kind])} instances, {kind.replace('_', ' ')}: {named}")
    if plan["exhausted"]:
        lines.append(f"the dataset has no more turns to give: {seen['prompts']} of {plan['count']} were found")
    return lines


# ------------------------------------------------------------------------------------------------------------ main

def read_exclusions(path: str | None) -> set[str]:
    """Instance ids and repos to leave out: one a line, `#` begins a comment."""
    if path is None:
        return set()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--exclude {path}: {getattr(error, 'strerror', None) or 'not a text file'}. Expected instance ids "
                   "or repos, one a line.") from None
    return {line.split("#")[0].strip() for line in lines} - {""}


def main() -> int:
    flags = parser(__doc__)
    flags.add_argument("--count", type=whole_number, default=COUNT, metavar="N", help="turns to sample (%(default)s)")
    flags.add_argument("--seed", type=int, default=0, help="another seed, another sample (%(default)s)")
    flags.add_argument("--dataset", default=DATASET, help="trajectories: Hub id, folder or glob (%(default)s)")
    flags.add_argument("--prs", default=PRS, help="PR records: Hub id, folder or glob (%(default)s)")
    flags.add_argument("--revision", help="commit, branch or tag of a Hub --dataset (its newest commit, then pinned)")
    flags.add_argument("--per-instance", type=whole_number, metavar="N",
                       help="turns of one instance, at most (1, and more only once all instances have one)")
    flags.add_argument("--windows", type=whole_number, metavar="N",
                       help="draw from about N windows: more spread the sample wider and read more bytes")
    flags.add_argument("--exclude", metavar="FILE", help="instance ids and repos to leave out, one a line")
    args = flags.parse_args()
    excluded = read_exclusions(args.exclude)
    asked = {"--dataset": args.dataset, "--prs": args.prs, "--revision": args.revision, "--seed": args.seed,
             "--count": args.count, "--per-instance": args.per_instance, "--windows": args.windows,
             "--exclude": sorted(excluded)}
    with lock_folders([PROMPT, COMMIT], "prompt"):
        return sample(args, excluded, asked)


def sample(args, excluded: set[str], flags: dict) -> int:
    """Bring prompt/ and commit/ to what the flags ask for; returns the exit code."""
    tally, plan, goal = Tally("prompt"), read_plan(flags), min(args.count, args.limit or args.count)
    turns = planned_turns(plan) if plan else []
    if plan and plan["exhausted"]:
        goal = min(goal, len(turns))
    held = sum(min(len(held_prompts(plan, turns, first)), goal - first)
               for first in range(0, min(goal, len(turns)), TURNS_PER_FILE))
    if held:
        tally.skipped["already there"] = held
    if held < goal or not plan["summary"] or without_record(turns[:goal]):
        try:
            plan = fill(args, plan, goal, excluded, flags)
        except (Outage, KeyboardInterrupt) as stopped:
            plan = read_plan(flags) if PLAN.exists() else None
            tally.done = len(planned_turns(plan)[:goal]) - held if plan else 0
            if isinstance(stopped, KeyboardInterrupt):
                tally.show()
                raise
            tally.fail(f"prompt {held + tally.done + 1}", "the Hub did not answer well", str(stopped))
        else:
            tally.done = len(planned_turns(plan)[:goal]) - held
    tally.write_failed(PROMPT)
    return tally.show(*(summary_lines(plan) if plan and plan["summary"] and not tally.failed else []),
                      f"output     {PROMPT}/prompts_{args.count}_*.json, {PLAN}, {COMMIT}/",
                      next_command="the same line again" if tally.failed else "python king.py")


def fill(args, plan: dict | None, goal: int, excluded: set[str], flags: dict) -> dict:
    """Draw and write what is missing; returns the plan. Raises Outage."""
    files = open_dataset("--dataset", args.dataset, TRAJECTORY_COLUMNS, plan["revision"] if plan else args.revision)
    prs = open_dataset("--prs", args.prs, ["instance_id", *RECORD_COLUMNS.values()], plan and plan["prs_revision"])
    for source, pinned in (files, plan and plan["revision"]), (prs, plan and plan["prs_revision"]):
        if pinned not in (None, source.revision):
            raise UserError(f"{source.flag} {source.name}: its files are no longer those that {PLAN} was made from.\n"
                       "Put them back, or start in another folder.")
    plan = plan or {"dataset": args.dataset, "revision": files.revision, "prs": args.prs, "prs_revision": prs.revision,
                    "seed": args.seed, "count": args.count, "flags": flags, "exhausted": False, "summary": None,
                    **{kind: [] for kind in LEFT_OUT}, "offsets": []}
    if not any(files.files.values()):
        raise UserError(f"--dataset {args.dataset}: all of its parquet files are empty (0 bytes). Get them again.")
    places = record_places(prs)
    progress = Progress(goal, "prompts", "prompt")
    turns = write_prompts(Sampler(files, plan, places, excluded, args), goal, progress)
    progress.close()
    if not turns:
        raise UserError(f"--dataset {args.dataset} gave no prompt: {why_none(plan)}.")
    write_records(prs, places, without_record(turns))
    plan["summary"] = summarize(plan, turns, places)
    write_json(PLAN, plan)
    return plan


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def why_none(plan: dict) -> str:
    """Why a plan without a turn is empty."""
    reasons = Counter(row["reason"] for window in plan["offsets"] for row in window["passed_over"])
    reasons.update(entry["reason"] for kind in LEFT_OUT for entry in plan[kind])
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3)) or "it has no rows"


if __name__ == "__main__":
    try:
        run(main)
    except SystemExit as end:  # a thread that still waits for the Hub inside Arrow would abort Python's own way out
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)
