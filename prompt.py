#!/usr/bin/env python3
"""Stage 1: sample agent turns from a trajectories dataset and mirror the PR record of each instance.

    python prompt.py                                  2,000 turns from the Hub
    python prompt.py --dataset DIR --prs DIR          from local parquet: folders (read recursively) or globs
    python prompt.py --limit 5                        a small trial; the run without --limit goes on from it

Reads   --dataset: instance_id, repo, messages (a list of role and content, or the same as JSON text)
        --prs: one row per instance with its issue, description and patches
        Each is a Hub dataset id, a folder or a glob. HF_TOKEN (or HUGGINGFACE_API_KEY) and HF_ENDPOINT are
        honoured, from the environment or .env.
Writes  prompt/prompts_<count>_<k>.json   at most 200 turns each: the chat so far, and the dataset's own next turn
        prompt/_plan.json                 what was drawn from where, what was passed over, a summary
        commit/<instance_id>.json         the PR record

Windows are drawn over the whole split: a file in proportion to its bytes, one of its row groups in proportion to its
rows, then rows of different instances within that group. Of a Hub dataset only those byte ranges are read, at a
pinned commit. The same flags give the same files, byte for byte, also after a kill; a rerun fills in what is missing.
Byte ranges of the PR files stay cached under HF_HOME (~/.cache/huggingface/parquet_ranges); those of the
trajectories lie in prompt/_cache until the run is through.
"""
from __future__ import annotations

import glob
import itertools
import json
import math
import os
import random
import re
import shutil
import sys
import threading
import time
from bisect import bisect
from collections import Counter, defaultdict
from concurrent.futures import Future
from pathlib import Path
from statistics import median

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, logging

from common.config import environment_values
from common.io import BadFile, Stop, clean_text, digest, lock_folders, read_json, safe_name, set_aside, write_json
from common.records import _EXCLUDE_IDS, RECORD_KEYS, read_record
from common.stage import EXIT_SOME_FAILED, Progress, Tally, parser, run, whole_number

DATASET, PRS, COUNT = "AlienKevin/SWE-ZERO-12M-trajectories", "nebius/SWE-rebench-V2-PRs", 2000
PROMPT, COMMIT, PLAN = Path("prompt"), Path("commit"), Path("prompt", "_plan.json")
TURNS_PER_FILE = 200

# A window takes one prompt per 100 rows of its row group (in SWE-ZERO some 100 rollouts of an instance lie side by
# side), but at least 12: a group of 1,000 rows is paid for anyway, and holds 10 or 11 instances. Row groups may be
# far larger: then a tenth of the sample at most, so that it comes from ten windows or more.
ROWS_PER_PROMPT, LEAST_PER_WINDOW, LEAST_WINDOWS = 100, 12, 10
SPARE_ROWS = 4  # rows of an instance that are looked at before it is passed over in this window

AT_ONCE = 4  # downloads; more gains little and nears the Hub's anonymous limit of 3,000 file requests in 5 minutes
PIECE = 16 << 20  # bytes asked for in one request: large against a round trip, small against memory and a retry
HOLE = 32 << 10  # unneeded bytes between two needed ranges that cost less than a request of their own
TAIL = 64 << 10  # first guess at a footer's size, as in pyarrow
KEEP = 2 << 30  # bytes of trajectories kept in prompt/_cache while the run lasts
TRIES, LONGEST_WAIT_S = 6, 300  # the Hub counts requests over windows of 5 minutes

USED_UP = "used up: every turn of it is taken"  # the one reason that is no fault of a row

TRAJECTORY_COLUMNS = ("instance_id", "repo", "messages")
RECORD_COLUMNS = {  # key of a record -> column of the PR dataset
    "instance_id": "instance_id", "repo": "repo", "base_commit": "base_commit", "issue": "problem_statement",
    "description": "pr_description", "patch": "patch", "test_patch": "test_patch", "interface": "interface",
    "language": "language", "created_at": "created_at"}

# huggingface_hub 1.x raises errors of httpx, 2.x of httpx2: the class that its own error extends names the right one.
HTTP_ERRORS = (HfHubHTTPError.__bases__[0], HfHubHTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)


class Outage(Exception):
    """The Hub did not answer well, however often it was asked."""


class CutBody(ConnectionError):
    """A body that is not, or not all of, the byte range that was asked for."""


# ------------------------------------------------------------------------------------- where the parquet files lie

class Folder:
    """Parquet files on this machine: `files` {path: size in bytes}, `revision` a digest of that listing."""

    def __init__(self, flag: str, name: str, pinned: str | None = None):
        self.flag, self.name, self.bytes_read, self.footers = flag, name, 0, {}
        path = Path(name).expanduser()
        if glob.has_magic(name):
            found = [Path(hit) for hit in glob.glob(str(path), recursive=True)]
            self.root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        else:
            found = [path] if path.is_file() else list(path.rglob("*.parquet"))
            self.root = path.parent if path.is_file() else path
        names = {file.relative_to(self.root).as_posix(): file for file in found if file.is_file()}
        self.files = {key: names[key].stat().st_size for key in sorted(names)
                      if not any(part.startswith(".") for part in key.split("/"))}
        if not self.files:
            raise Stop(f"{flag} {name}: no parquet file there. Expected a folder or a glob of *.parquet files, or a "
                       "Hub dataset id such as " + (DATASET if flag == "--dataset" else PRS) + ".")
        self.revision = "local-" + digest(json.dumps(self.files))[:16]
        if pinned not in (None, self.revision):
            raise Stop(f"{flag} {name}: its files are no longer those that {PLAN} was made from.\n"
                       "Put them back, or start in another folder.")

    def here(self, file: str) -> Path:
        """Where `file` can be opened."""
        return self.root / file

    def bring(self, file: str, ranges: list[tuple[int, int]]) -> None:
        """Count the byte ranges [start, end) as read; they are here already."""
        self.bytes_read += size_of(ranges)

    def forget(self, file: str) -> bool:
        """Whether reading `file` again could help: it could not."""
        return False

    def trim(self, busy: set[str]) -> None:
        """Nothing of a local folder is kept twice."""


class Hub:
    """Parquet files of a Hub dataset at a pinned commit; the byte ranges that are asked for are mirrored in `cache`.

    A mirrored file is sparse: as long as the original, with only those ranges filled in, which `<file>.have` lists.
    However large a row group is, it goes to the disk piece by piece; a body that is cut or short is gone on with.
    """

    def __init__(self, flag: str, name: str, asked: str | None, pinned: str | None, cache: Path, values: dict):
        self.flag, self.name, self.asked, self.cache = flag, name, asked, cache
        self.bytes_read, self.footers, self.kept, self.lock = 0, {}, {}, threading.Lock()
        self.variable = next((key for key in ("HF_TOKEN", "HUGGINGFACE_API_KEY") if values.get(key)), None)
        self.token = values[self.variable].strip() if self.variable else None
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise Stop(f"{self.variable} holds characters that no token has. Copy it into .env again.")
        self.endpoint = (values.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        if not self.endpoint.startswith(("http://", "https://")):
            raise Stop(f"HF_ENDPOINT = {self.endpoint!r}: expected an address such as https://huggingface.co.")
        logging.set_verbosity_error()  # each of its retries is a warning otherwise
        self.answered = False
        api = HfApi(endpoint=self.endpoint, token=self.token)
        self.revision = pinned or self.patiently(lambda: api.dataset_info(name, revision=asked).sha)
        tree = self.patiently(lambda: list(api.list_repo_tree(
            name, recursive=True, revision=self.revision, repo_type="dataset")))
        sizes = {item.path: item.size for item in tree if item.path.endswith(".parquet") and item.size
                 and not any(part.startswith(".") for part in item.path.split("/"))}
        train = {path: size for path, size in sizes.items() if "train" in path}
        self.files = dict(sorted((train or sizes).items()))
        if not self.files:
            raise Stop(f"{flag} {name}: no parquet file in this Hub dataset.")
        self.cache = cache / name.replace("/", "--") / self.revision

    def here(self, file: str) -> Path:
        """Where the mirrored part of `file` can be opened."""
        return self.cache / file

    def bring(self, file: str, ranges: list[tuple[int, int]]) -> None:
        """Mirror the byte ranges [start, end) of `file`. Raises Stop or Outage."""
        for start, end in joined(ranges, HOLE):
            for first, last in gaps(self._have(file), start, end):
                for piece in range(first, last, PIECE):
                    self._fetch(file, piece, min(piece + PIECE, last))

    def forget(self, file: str) -> bool:
        """Drop the mirror of `file`, to read it again."""
        with self.lock:
            self.kept.pop(file, None)
            for path in (self._list(file), self.here(file)):
                path.unlink(missing_ok=True)
        return True

    def trim(self, busy: set[str]) -> None:
        """Drop the mirrors that were begun first until at most KEEP bytes are left."""
        for file in [file for file in self.kept if file not in busy]:
            if sum(map(size_of, self.kept.values())) <= KEEP:
                return
            self.forget(file)

    def _list(self, file: str) -> Path:
        return self.here(file).with_name(self.here(file).name + ".have")

    def _have(self, file: str) -> list[tuple[int, int]]:
        """The mirrored ranges of `file`, in order; what an earlier run left counts."""
        with self.lock:
            if file not in self.kept:
                mirror, size = self.here(file), self.files[file]
                mirror.parent.mkdir(parents=True, exist_ok=True)
                if not mirror.exists() or mirror.stat().st_size != size:
                    self._list(file).unlink(missing_ok=True)
                    with open(mirror, "wb") as sparse:
                        sparse.truncate(size)
                lines = self._list(file).read_text().splitlines() if self._list(file).exists() else []
                self.kept[file] = joined([(int(line.split()[0]), int(line.split()[1])) for line in lines
                                          if re.fullmatch(r"\d+ \d+ \.", line)])
            return list(self.kept[file])

    def _fetch(self, file: str, start: int, end: int) -> None:
        at = start

        def rest():
            nonlocal at
            for chunk in self._body(file, at, end):
                chunk = chunk[:end - at]
                os.pwrite(mirror.fileno(), chunk, at)
                at += len(chunk)
                self.bytes_read += len(chunk)
            if at < end:
                raise CutBody(f"a body of {file} was cut short")

        with open(self.here(file), "r+b") as mirror:
            try:
                self.patiently(rest)
            finally:  # what came of a body that was cut is good: the next try asks for the rest only
                os.fsync(mirror.fileno())
                with self.lock, open(self._list(file), "a", encoding="ascii") as have:
                    have.write(f"{start} {at} .\n")  # the dot tells a whole line from a torn one
                    self.kept[file] = joined([*self.kept.get(file, []), (start, at)])

    def _body(self, file: str, start: int, end: int):
        url = hf_hub_url(self.name, file, repo_type="dataset", revision=self.revision, endpoint=self.endpoint)
        headers = {**build_hf_headers(token=self.token), "Range": f"bytes={start}-{end - 1}",
                   "Accept-Encoding": "identity"}
        with get_session().stream("GET", url, headers=headers, follow_redirects=True,
                                  timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            if response.status_code >= 400:
                response.read()
                hf_raise_for_status(response)
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise CutBody(f"{file} came whole where a byte range was asked for")
            self.answered = True
            yield from response.iter_bytes()

    def patiently(self, work):
        """`work()`, again after a pause when it fails. Raises Stop for what no pause mends, else Outage in the end."""
        for attempt in itertools.count(1):
            try:
                result = work()
                self.answered = True
                return result
            except HTTP_ERRORS as error:
                response = getattr(error, "response", None)
                self.answered |= response is not None
                self._stop_if_final(error, response)
                if attempt >= (TRIES if self.answered else TRIES // 2):
                    raise Outage(f"{self.endpoint} does not answer well: {plain(error)}") from None
                wait_s = asked_wait_s(response) or min(2 ** (attempt - 1), 30) * random.uniform(0.5, 1)
                if wait_s > 20:
                    print(f"the Hub asks to wait {wait_s:.0f} s (a token in HF_TOKEN raises its limits)",
                          file=sys.stderr)
                time.sleep(wait_s)

    def _stop_if_final(self, error: Exception, response) -> None:
        status = response.status_code if response is not None else None
        what = f"{self.flag} {self.name}"
        if isinstance(error, GatedRepoError):
            raise Stop(f"{what} is gated. Accept its terms at {self.endpoint}/datasets/{self.name}, and set HF_TOKEN "
                       "in .env to a token of that account.")
        if isinstance(error, RevisionNotFoundError):
            raise Stop(f"{what} has no revision {self.asked or self.revision!r}; check --revision.")
        if status in (401, 403) and self.variable and (status == 403 or not isinstance(error, RepositoryNotFoundError)):
            raise Stop(f"{self.variable} was refused for {what} ({status}): it is expired, mistyped or without "
                       f"permission.\nMake one at {self.endpoint}/settings/tokens, or unset it for public datasets.")
        if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
            token = f"that {self.variable} may read" if self.variable else "only with a token in HF_TOKEN"
            raise Stop(f"{what}: no such dataset at {self.endpoint}, or a private one ({status}). Check the name; a "
                       f"private one opens {token}.")
        if status is not None and 400 <= status < 500 and status not in (408, 425, 429):
            raise Stop(f"{what}: {self.endpoint} refused the request ({status}).")


def open_source(flag: str, name: str, asked: str | None, pinned: str | None, cache: Path) -> Folder | Hub:
    """The files behind --dataset or --prs. Raises Stop."""
    if glob.has_magic(name) or Path(name).expanduser().exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return Folder(flag, name, pinned)
    values = environment_values()
    try:
        return Hub(flag, name, asked, pinned, cache, values)
    except Outage as outage:
        raise Stop(f"{outage}.\nCheck the network and HF_ENDPOINT, or use local parquet: "
                   "--dataset FOLDER --prs FOLDER.") from None


def plain(error: Exception) -> str:
    """An error in one line without addresses."""
    return f"{type(error).__name__}: {re.sub(r'https?://[^ ]+', 'its address', str(error)).strip()}".split("\n")[0]


def asked_wait_s(response) -> float | None:
    """Seconds that a refusal asks to wait: Retry-After, or the Hub's `RateLimit: "api";r=0;t=55`."""
    if response is None:
        return None
    asked = re.fullmatch(r"\s*(\d+)\s*", response.headers.get("Retry-After", "")) or (
        response.status_code == 429 and re.search(r"\bt=(\d+)", response.headers.get("RateLimit", "")))
    return min(float(asked[1]) + 0.5, LONGEST_WAIT_S) if asked else None


def joined(ranges: list[tuple[int, int]], hole: int = 0) -> list[tuple[int, int]]:
    """The ranges in order, those that touch or lie at most `hole` apart as one."""
    result: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1] + hole:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def gaps(have: list[tuple[int, int]], start: int, end: int):
    """The parts of [start, end) that no range of `have` covers."""
    for low, high in have:
        if low < end and high > start:
            if low > start:
                yield start, low
            start = max(start, high)
    if start < end:
        yield start, end


def in_background(work, *args) -> Future:
    """work(*args) in a daemon thread: one that waits for a stalled server must not hold up Ctrl-C."""
    future: Future = Future()

    def target():
        try:
            future.set_result(work(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=target, daemon=True).start()
    return future


# ------------------------------------------------------------------------------------------------ reading parquet

def footer(source: Folder | Hub, file: str, columns) -> pq.FileMetaData:
    """The footer of `file`, read once. Raises Stop when it is no parquet or lacks one of `columns`."""
    if file in source.footers:
        return source.footers[file]
    size = source.files[file]

    def read() -> pq.FileMetaData:
        source.bring(file, [(max(0, size - TAIL), size)])
        with open(source.here(file), "rb") as opened:
            opened.seek(max(0, size - 8))
            length = int.from_bytes(opened.read(4), "little")
        if TAIL < length + 8 <= size:
            source.bring(file, [(size - length - 8, size)])
        return pq.read_metadata(source.here(file))

    metadata = readable(source, file, read)
    names = metadata.schema.to_arrow_schema().names
    for column in columns:
        if column not in names:
            raise Stop(f"{source.flag} {source.name}: {file} has no column {column!r}; it has {', '.join(names)}.\n"
                       f"Expected at least {', '.join(columns)}.")
    source.footers[file] = metadata
    return metadata


def readable(source: Folder | Hub, file: str, read):
    """`read()`; a mirrored file that does not decode is fetched again. Raises Stop when it stays unreadable."""
    for attempt in range(3):
        try:
            return read()
        except (pa.ArrowException, OSError, EOFError) as error:
            if isinstance(error, OSError) and error.errno and not isinstance(error, pa.ArrowException):
                raise
            if attempt == 2 or not source.forget(file):
                raise Stop(f"{source.flag} {source.name}: {file} is not a whole parquet file "
                           f"({plain(error)[:160]}).") from None


def needed_leaves(metadata: pq.FileMetaData, columns) -> list[int]:
    """The leaf columns to read: of `messages` only role and content, whatever else its elements hold."""
    leaves = []
    for leaf in range(len(metadata.schema)):
        top, *nested = metadata.schema.column(leaf).path.split(".")
        if top in columns and (top != "messages" or not nested or {"role", "content"} & set(nested)):
            leaves.append(leaf)
    return leaves


def column_ranges(metadata: pq.FileMetaData, group: int, columns) -> list[tuple[int, int]]:
    """Where the needed columns of a row group lie in the file: byte ranges [start, end)."""
    ranges = []
    for leaf in needed_leaves(metadata, columns):
        chunk = metadata.row_group(group).column(leaf)
        starts = [offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset]
        ranges.append((min(starts), min(starts) + chunk.total_compressed_size))
    return ranges


def size_of(ranges: list[tuple[int, int]]) -> int:
    """Bytes in ranges."""
    return sum(end - start for start, end in ranges)


def first_row(metadata: pq.FileMetaData, group: int) -> int:
    """Row number in the file of a group's first row."""
    return sum(metadata.row_group(before).num_rows for before in range(group))


def batches(source: Folder | Hub, file: str, groups: list[int], columns, rows_at_once: int):
    """Record batches of the needed columns of row groups; only a batch and a page of each column are in memory."""
    metadata = source.footers[file]
    with pq.ParquetFile(source.here(file), metadata=metadata, buffer_size=1 << 20) as opened:
        paths = [metadata.schema.column(leaf).path for leaf in needed_leaves(metadata, columns)]
        yield from opened.iter_batches(rows_at_once, row_groups=groups, columns=paths)


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
        messages.append({"role": role, "content": content if content is None else clean_text(content)})
    return messages


def usable_turns(messages: list[dict]) -> list[int]:
    """Indices of the assistant messages that can be a prompt's reply.

    A user message comes right before; all before it is text of system, user and assistant (a tool's role or a missing
    text ends the search: no later chat is whole); and the reply is neither empty nor cut off inside a code block.
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


def changed_files(patch: str) -> list[str]:
    """The paths that a git (or plain unified) diff changes, in order; of a rename both, of a deletion the old one."""
    paths: dict[str, None] = {}
    git_header, old, left = None, None, [0, 0]  # lines of the hunk at hand that are still to come, old and new

    def settle():  # a header without ---/+++ or rename lines: a mode change, an empty or a binary file
        if git_header is not None:
            half = unquoted(git_header[len(git_header) // 2 + 1:])
            paths.setdefault(half.partition("/")[2] or half)

    for line in patch.splitlines():
        if max(left) > 0:
            left[0] -= line[:1] in ("-", " ", "")
            left[1] -= line[:1] in ("+", " ", "")
        elif line.startswith("diff --git "):
            settle()
            git_header = line[11:]
        elif line.startswith(("rename from ", "rename to ", "copy to ")):
            paths.setdefault(unquoted(line.split(" ", 2)[2]))
            git_header = None
        elif line.startswith("--- "):
            old = line[4:]
        elif line.startswith("+++ ") and old is not None:
            name = unquoted((old if line[4:].startswith("/dev/null") else line[4:]).split("\t")[0])
            paths.setdefault(name[2:] if name[:2] in ("a/", "b/") else name)
            git_header = old = None
        elif hunk := re.match(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", line):
            left = [int(hunk[1] or 1), int(hunk[2] or 1)]
    settle()
    return list(paths)


def unquoted(path: str) -> str:
    r"""A path as git writes it, "caf\303\251.txt" in quotes when it holds unusual bytes, as text."""
    if not path.startswith('"'):
        return path.rstrip()
    named = {"n": b"\n", "t": b"\t", "r": b"\r", "a": b"\a", "b": b"\b", "f": b"\f", "v": b"\v"}
    parts = re.split(r"\\([0-7]{3}|.)", path.strip().strip('"'))
    return b"".join(part.encode() if place % 2 == 0 else bytes([int(part, 8) & 255]) if len(part) == 3
                    else named.get(part, part.encode()) for place, part in enumerate(parts)).decode(errors="replace")


# --------------------------------------------------------------------------------------------------------- windows

class Sampler:
    """Draws windows one after the other. What window w holds depends on the seed, w and the windows before it, never
    on timing, so a plan that was broken off goes on as if it had not been."""

    def __init__(self, source: Folder | Hub, plan: dict, known: set[str], excluded: set[str], args):
        self.source, self.plan, self.known, self.excluded, self.args = source, plan, known, excluded, args
        self.names = list(source.files)
        self.bounds = list(itertools.accumulate(source.files.values()))
        self.cap, self.gained = args.per_instance or 1, False
        self.taken, self.used, self.dead, self.seen = Counter(), Counter(), set(), set()
        self.spent: set[tuple[str, int]] = set()  # groups that have nothing more to give under the cap
        self.footer_lock, self.under_way = defaultdict(threading.Lock), {}
        for window in plan["offsets"]:
            self._note(window)

    def start(self, number: int) -> None:
        """Begin to read window `number` in the background."""
        if number not in self.under_way:
            self.under_way[number] = in_background(self._place, number)

    def close(self, number: int) -> None:
        """Window `number` is done with: make room."""
        self.under_way.pop(number, None)
        self.source.trim({self._nominal_file(other) for other in self.under_way})

    def draw(self, number: int) -> tuple[dict, list[dict]] | None:
        """A window for the plan, and its prompts. None when the dataset has no further turn to give."""
        self.start(number)
        start = self.under_way[number].result()
        while (place := self._next_place(start)) is None:
            if self.args.per_instance or not self.gained:
                return None
            self.cap, self.gained = self.cap + 1, False
            self.spent.clear()
        file, group = place
        picks = self._pick(number, file, group)
        found = self._rows(file, group, {row for _, rows in picks for row in rows})
        window = {"file": file, "row_group": group, "rows": self._metadata(file).row_group(group).num_rows,
                  "bytes": size_of(column_ranges(self._metadata(file), group, TRAJECTORY_COLUMNS)),
                  "cap": self.cap, "turns": [], "passed_over": []}
        prompts = []
        for instance_id, rows in picks:
            for row in rows:
                turn = self._choose_turn(window, instance_id, row, found[row][1])
                if turn:
                    self.seen.add(turn["chat"])
                    window["turns"].append(turn)
                    prompts.append(self._prompt(window, turn, found))
                    break
        self._note(window)
        return window, prompts

    def draw_again(self, number: int) -> list[dict]:
        """The prompts of a window that the plan holds."""
        window = self.plan["offsets"][number]
        self.start(number)
        self.under_way[number].result()
        found = self._rows(window["file"], window["row_group"], {turn["row"] for turn in window["turns"]})
        return [self._prompt(window, turn, found) for turn in window["turns"]]

    def _nominal_file(self, number: int) -> str:
        if number < len(self.plan["offsets"]):
            return self.plan["offsets"][number]["file"]
        byte = random.Random(f"{self.args.seed}/{number}/file").randrange(self.bounds[-1])
        return self.names[bisect(self.bounds, byte)]

    def _place(self, number: int) -> tuple[str, int]:
        """File and row group of window `number`, read in so far as it is needed. Runs in the background."""
        file = self._nominal_file(number)
        metadata = self._metadata(file)
        if number < len(self.plan["offsets"]):
            group = self.plan["offsets"][number]["row_group"]
        else:
            ends = list(itertools.accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)))
            if not ends or not ends[-1]:
                return file, 0
            group = bisect(ends, random.Random(f"{self.args.seed}/{number}/group").randrange(ends[-1]))
        if (file, group) not in self.spent:
            self.source.bring(file, column_ranges(metadata, group, TRAJECTORY_COLUMNS))
        return file, group

    def _next_place(self, start: tuple[str, int]) -> tuple[str, int] | None:
        """The first row group from `start` on, around all files, that has something left to give."""
        first = self.names.index(start[0])
        for file in self.names[first:] + self.names[:first]:
            groups, begin = self._metadata(file).num_row_groups, start[1] if file == start[0] else 0
            for group in [*range(begin, groups), *range(min(begin, groups))]:
                if (file, group) in self.spent:
                    continue
                instances = self._instances(file, group)
                if any(self.taken[name] < self.cap and self._live(file, rows) for name, rows in instances.items()):
                    return file, group
                self.spent.add((file, group))
                if len(self.spent) > 50 and not self.seen:
                    raise Stop(f"--prs {self.args.prs} has no record for any instance in 50 row groups of "
                               f"--dataset {self.args.dataset}.\nGive the two that belong together.")
        return None

    def _pick(self, number: int, file: str, group: int) -> list[tuple[str, list[int]]]:
        """Which instances window `number` takes, each with the rows to look at in order: every instance once before
        any twice, and rows that gave nothing yet before others."""
        chance = random.Random(f"{self.args.seed}/{number}/rows")
        instances = self._instances(file, group)
        order = sorted(instances)
        chance.shuffle(order)
        size = self._size(self._metadata(file).row_group(group).num_rows)
        picks, picked, used = [], Counter(), Counter()
        for level in range(self.cap):
            for name in order:
                if len(picks) == size:
                    return picks
                if self.taken[name] + picked[name] == level and (rows := self._live(file, instances[name])):
                    chance.shuffle(rows)
                    rows.sort(key=lambda row: self.used[file, row] + used[row])
                    used[rows[0]] += 1
                    picked[name] += 1
                    picks.append((name, rows[:SPARE_ROWS]))
        return picks

    def _size(self, rows: int) -> int:
        """Prompts to take from a row group of so many rows."""
        if self.args.windows:
            return math.ceil(self.args.count / self.args.windows)
        per_instance = self.args.per_instance or 1
        least = LEAST_PER_WINDOW * per_instance
        return max(least, min(rows * per_instance // ROWS_PER_PROMPT, self.args.count // LEAST_WINDOWS))

    def _live(self, file: str, rows: list[int]) -> list[int]:
        return [row for row in rows if (file, row) not in self.dead]

    def _instances(self, file: str, group: int) -> dict[str, list[int]]:
        """{instance id: its rows in the file} of a row group; those that are left out go to the plan's lists."""
        metadata, columns = self._metadata(file), TRAJECTORY_COLUMNS[:2]

        def read() -> pa.Table:
            self.source.bring(file, column_ranges(metadata, group, columns))
            return pa.Table.from_batches(batches(self.source, file, [group], columns, 10_000))

        if not metadata.row_group(group).num_rows:
            return {}
        table = readable(self.source, file, read)
        ids = table["instance_id"].combine_chunks().dictionary_encode(null_encoding="encode")
        codes = ids.indices.to_numpy()
        by_id, ends = np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes, minlength=len(ids.dictionary)))
        start, result = first_row(metadata, group), {}
        for name, rows in zip(ids.dictionary.to_pylist(), np.split(by_id, ends[:-1])):
            repo = table["repo"][int(rows[0])].as_py()
            if self._left_out(name, repo) is None:
                result[name] = [start + int(row) for row in rows]
        return result

    def _left_out(self, name: object, repo: object) -> str | None:
        """Why an instance is left out (None: it is not); the plan names each once."""
        listed = next((item for item in (name, repo) if item in self.excluded), None)
        if not safe_name(name):
            kind, why = "refused", "its instance id cannot be a file name"
        elif name in _EXCLUDE_IDS or listed:
            kind = "excluded"
            why = f"{listed} is on the list {self.args.exclude}" if listed else "on the list of excluded instances"
        elif name not in self.known:
            kind, why = "without_record", f"no PR record in {self.args.prs}"
        else:
            return None
        entry = {"instance_id": clean_text(str(name))[:300], "repo": clean_text(str(repo))[:300], "reason": why}
        if entry not in self.plan[kind]:
            self.plan[kind].append(entry)
        return why

    def _rows(self, file: str, group: int, wanted: set[int]) -> dict[int, tuple]:
        """{row in the file: (repo, messages as read_messages gives them)} of the wanted rows of a row group."""
        metadata = self._metadata(file)

        def read() -> dict[int, tuple]:
            self.source.bring(file, column_ranges(metadata, group, TRAJECTORY_COLUMNS))
            found, row = {}, first_row(metadata, group)
            for batch in batches(self.source, file, [group], TRAJECTORY_COLUMNS, 64):
                for place in range(batch.num_rows):
                    if row + place in wanted:
                        found[row + place] = (batch["repo"][place].as_py(), text_of(batch["messages"][place]))
                row += batch.num_rows
                if len(found) == len(wanted):
                    break
            return found

        return readable(self.source, file, read)

    def _choose_turn(self, window: dict, instance_id: str, row: int, messages: list[dict] | None) -> dict | None:
        """A random turn of the row that was not taken yet; None (and why, in the window) when it has none."""
        if (window["file"], row) in self.dead:
            return None
        why = why_passed_over(messages)
        if why is None:
            turns = usable_turns(messages)
            for turn in random.Random(f"{self.args.seed}/{window['file']}/{row}").sample(turns, len(turns)):
                chat = chat_digest(instance_id, messages[:turn])
                if chat not in self.seen:
                    place = ("early", "middle", "late")[3 * turns.index(turn) // len(turns)]
                    return {"instance_id": instance_id, "row": row, "turn": turn, "place": place, "chat": chat,
                            "reply": chat_digest("", [messages[turn]])}
            why = USED_UP
        self.dead.add((window["file"], row))
        window["passed_over"].append({"row": row, "reason": why})
        return None

    def _prompt(self, window: dict, turn: dict, found: dict[int, tuple]) -> dict:
        repo, messages = found[turn["row"]]
        return {"instance_id": turn["instance_id"], "repo": clean_text(repo or ""),
                "messages": messages[:turn["turn"]], "assistant": messages[turn["turn"]]["content"],
                "source": {"file": window["file"], "row": turn["row"], "turn": turn["turn"]}}

    def _note(self, window: dict) -> None:
        """Take in what a window of the plan took."""
        if window["cap"] > self.cap:
            self.cap, self.gained = window["cap"], False
        self.gained |= bool(window["turns"])
        for turn in window["turns"]:
            self.taken[turn["instance_id"]] += 1
            self.used[window["file"], turn["row"]] += 1
            self.seen.add(turn["chat"])
        self.dead.update((window["file"], row["row"]) for row in window["passed_over"])

    def _metadata(self, file: str) -> pq.FileMetaData:
        with self.footer_lock[file]:
            return footer(self.source, file, TRAJECTORY_COLUMNS)


def text_of(messages: pa.Scalar) -> list[dict] | None:
    """read_messages of a cell; text that is not UTF-8 is malformed too."""
    try:
        return read_messages(messages.as_py())
    except UnicodeDecodeError:
        return None


def chat_digest(instance_id: str, messages: list[dict]) -> str:
    """What tells one turn from another: the instance and the whole history."""
    return digest(instance_id, json.dumps(messages))[:16]


# ------------------------------------------------------------------------------------------------------ PR records

def record_places(source: Folder | Hub) -> dict[str, tuple[str, int]]:
    """{instance id: (file, row group)} of all PR records, of each id the first."""
    jobs = [(file, group) for file in source.files
            for group in range(footer(source, file, RECORD_COLUMNS.values()).num_row_groups)]
    bring_all(source, jobs, ["instance_id"])
    places: dict[str, tuple[str, int]] = {}
    for file, group in jobs:
        def read() -> list:
            source.bring(file, column_ranges(source.footers[file], group, ["instance_id"]))
            return [name for batch in batches(source, file, [group], ["instance_id"], 10_000)
                    for name in batch["instance_id"].to_pylist()]
        for name in readable(source, file, read):
            places.setdefault(name, (file, group))
    return places


def bring_all(source: Folder | Hub, jobs: list[tuple[str, int]], columns, progress: Progress | None = None) -> None:
    """Bring columns of row groups [(file, group)] here, several at once."""
    under_way: list[Future] = []
    for number, (file, group) in enumerate(jobs):
        if len(under_way) == AT_ONCE:
            under_way.pop(0).result()
        under_way.append(in_background(source.bring, file, column_ranges(source.footers[file], group, columns)))
        if progress:
            progress.notes["read"] = megabytes(source.bytes_read)
    for future in under_way:
        future.result()


def write_records(source: Folder | Hub, places: dict[str, tuple[str, int]], wanted: set[str]) -> None:
    """Write commit/<instance_id>.json for the wanted ids: DuckDB over just the row groups and columns they need."""
    progress = Progress(len(wanted), "records", "record")
    jobs = sorted({places[name] for name in wanted})
    columns = list(RECORD_COLUMNS.values())
    bring_all(source, jobs, columns, progress)
    select = ", ".join(f'"{column}" AS "{key}"' for key, column in RECORD_COLUMNS.items())
    for file, group in jobs:
        ids = sorted(name for name in wanted if places[name] == (file, group))

        def read() -> list[dict]:
            source.bring(file, column_ranges(source.footers[file], group, columns))
            stream = batches(source, file, [group], columns, 64)  # a row group of any size passes through
            first = next(stream)
            rows = pa.RecordBatchReader.from_batches(first.schema, itertools.chain([first], stream))
            with duckdb.connect() as database:
                database.register("pull_requests", rows)
                found = database.execute(f"SELECT {select} FROM pull_requests WHERE instance_id IN "
                                         "(SELECT unnest(?))", [ids])
                names = [column[0] for column in found.description]
                return [dict(zip(names, row)) for row in found.fetchall()]

        for row in reversed(readable(source, file, read)):  # of two records of an id the first is written last
            record = {key: clean_text(value) if isinstance(value, str) else value for key, value in row.items()}
            record.update({key: "" for key in RECORD_COLUMNS if record[key] is None})
            if hasattr(record["created_at"], "isoformat"):
                record["created_at"] = record["created_at"].isoformat()
            record["files"] = changed_files(record["patch"])
            write_json(COMMIT / f"{record['instance_id']}.json", {key: record[key] for key in RECORD_KEYS})
        progress.update(len(ids), read=megabytes(source.bytes_read))
    progress.close()


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


# -------------------------------------------------------------------------------------------- the plan and its files

def read_plan(flags: dict) -> dict | None:
    """The plan that lies here. Raises Stop when it was made with other flags."""
    try:
        plan = read_json(PLAN, ("flags", "revision", "prs_revision", "offsets", "excluded", "exhausted"))
    except FileNotFoundError:
        stray = sorted(PROMPT.glob("prompts_*.json"))
        if stray:
            raise Stop(f"{stray[0]} has no {PLAN} beside it.\nPut the plan back, or move prompt/ and commit/ away, "
                       "then run this again.") from None
        return None
    except BadFile as bad:
        print(f"{bad}; moved aside to {set_aside(PLAN)}, made again", file=sys.stderr)
        return None
    for flag, value in flags.items():
        if plan["flags"].get(flag) != value:
            raise Stop(f"{PLAN} was made with {flag} {plan['flags'].get(flag)}, now it is {value}.\nGive the same "
                       "flags to go on with it; for another sample use another folder, or remove prompt/ and commit/.")
    return plan


def planned_turns(plan: dict) -> list[dict]:
    """The turns of the plan in order, each with its file; at most `count`."""
    turns = [{"file": window["file"], **turn} for window in plan["offsets"] for turn in window["turns"]]
    return turns[:plan["count"]]


def prompts_file(plan: dict, number: int) -> Path:
    return PROMPT / f"prompts_{plan['count']}_{number}.json"


def held_prompts(plan: dict, number: int) -> int:
    """How many prompts of the plan its file `number` (from 1) holds; one that holds anything else is set aside."""
    path, turns = prompts_file(plan, number), planned_turns(plan)[TURNS_PER_FILE * (number - 1):][:TURNS_PER_FILE]
    try:
        prompts = read_json(path)
        if isinstance(prompts, list) and len(prompts) <= len(turns) and all(map(same_turn, prompts, turns)):
            return len(prompts)
        why = "does not hold what the plan says"
    except FileNotFoundError:
        return 0
    except BadFile as bad:
        why = bad.why
    print(f"{path}: {why}; moved aside to {set_aside(path)}, made again", file=sys.stderr)
    return 0


def same_turn(prompt: object, turn: dict) -> bool:
    """Whether a prompt is whole and the one of the plan's turn."""
    try:
        return (prompt["source"] == {key: turn[key] for key in ("file", "row", "turn")}
                and chat_digest(prompt["instance_id"], prompt["messages"]) == turn["chat"]
                and chat_digest("", [{"role": "assistant", "content": prompt["assistant"]}]) == turn["reply"])
    except (TypeError, KeyError, AttributeError):
        return False


class Writer:
    """Takes prompts by their place in the sample and writes each file once all of it is there."""

    def __init__(self, plan: dict, goal: int, whole: set[int]):
        self.plan, self.goal, self.whole, self.waiting, self.saved = plan, goal, whole, {}, time.monotonic()

    def lacks(self, places: range) -> bool:
        """Whether a file that is not whole yet wants one of these places."""
        return any(place < self.goal and place // TURNS_PER_FILE + 1 not in self.whole for place in places)

    def add(self, places: range, prompts: list[dict]) -> None:
        self.waiting.update(zip(places, prompts))
        if time.monotonic() - self.saved > 2:  # a kill costs what was drawn since; it is drawn again just so
            self.save_plan()
        for number in {place // TURNS_PER_FILE + 1 for place in self.waiting} - self.whole:
            self.write(number)

    def write(self, number: int) -> None:
        places = range(TURNS_PER_FILE * (number - 1), min(TURNS_PER_FILE * number, self.goal))
        if all(place in self.waiting for place in places):
            self.save_plan()
            write_json(prompts_file(self.plan, number), [self.waiting[place] for place in places])
            self.whole.add(number)
            self.waiting = {place: prompt for place, prompt in self.waiting.items() if place not in places}

    def save_plan(self) -> None:
        write_json(PLAN, self.plan)
        self.saved = time.monotonic()


def draw_prompts(sampler: Sampler, writer: Writer, progress: Progress) -> None:
    """Draw windows until the goal is reached or the dataset is through; read again what files are missing."""
    plan, place, missing = sampler.plan, 0, []
    for number, window in enumerate(plan["offsets"]):
        places = range(place, place := place + len(window["turns"]))
        if writer.lacks(places):
            missing.append((number, places))
    for index, (number, places) in enumerate(missing):
        for ahead, _ in missing[index:index + AT_ONCE]:
            sampler.start(ahead)
        writer.add(places, sampler.draw_again(number))
        sampler.close(number)
    progress.update(min(place, writer.goal), read=megabytes(sampler.source.bytes_read))
    while place < writer.goal and not plan["exhausted"]:
        number = len(plan["offsets"])
        usual = max(1, len(plan["offsets"][-1]["turns"])) if number else LEAST_PER_WINDOW
        for ahead in range(number, number + min(AT_ONCE, math.ceil((writer.goal - place) / usual))):
            sampler.start(ahead)
        drawn = sampler.draw(number)
        if drawn is None:
            plan["exhausted"] = True
            break
        window, prompts = drawn
        plan["offsets"].append(window)
        writer.add(range(place, place + len(prompts)), prompts)
        sampler.close(number)
        progress.update(min(len(prompts), writer.goal - place), read=megabytes(sampler.source.bytes_read))
        place += len(prompts)
    if place < writer.goal:
        writer.goal = place
        for number in {place // TURNS_PER_FILE + 1 for place in writer.waiting}:
            writer.write(number)
    writer.save_plan()


def missing_records(turns: list[dict]) -> set[str]:
    """Instances of the turns that have no whole record in commit/; a torn one is set aside."""
    missing = set()
    for instance_id in {turn["instance_id"] for turn in turns}:
        try:
            read_record(instance_id, COMMIT)
        except Stop:
            missing.add(instance_id)
        except BadFile as bad:
            print(f"{bad}; moved aside to {set_aside(bad.path)}, made again", file=sys.stderr)
            missing.add(instance_id)
    return missing


def summarize(plan: dict, turns: list[dict], prs: Folder | Hub, places: dict[str, tuple[str, int]]) -> dict:
    """What was sampled: counts over the prompts, for the tally and the report."""
    files = range(1, math.ceil(len(turns) / TURNS_PER_FILE) + 1)
    prompts = [prompt for number in files for prompt in read_json(prompts_file(plan, number))]
    language = {name: read_record(name, COMMIT)["language"] for name in {turn["instance_id"] for turn in turns}}
    drawn = {(window["file"], window["row_group"]): window["bytes"] for window in plan["offsets"]}
    return {
        "prompts": len(turns), "instances": len(language), "repos": len({prompt["repo"] for prompt in prompts}),
        "languages": dict(Counter(language[turn["instance_id"]] or "unknown" for turn in turns).most_common()),
        "places": {place: sum(turn["place"] == place for turn in turns) for place in ("early", "middle", "late")},
        "chat_messages": spread([len(prompt["messages"]) for prompt in prompts]),
        "chat_characters": spread([sum(len(m["content"]) for m in prompt["messages"]) for prompt in prompts]),
        "windows": len(plan["offsets"]), "row_groups": len(drawn), "trajectory_bytes": sum(drawn.values()),
        "record_bytes": sum(size_of(column_ranges(prs.footers[file], group, RECORD_COLUMNS.values()))
                            for file, group in {places[name] for name in language}),
        "most_turns_of_an_instance": max(Counter(turn["instance_id"] for turn in turns).values()),
        "rows_passed_over": dict(Counter(row["reason"] for window in plan["offsets"] for row in window["passed_over"]
                                         if row["reason"] != USED_UP)),
        "instances_left_out": {kind: len(plan[kind]) for kind in ("excluded", "without_record", "refused")},
    }


def spread(numbers: list[int]) -> dict:
    return {"least": min(numbers), "median": median(numbers), "most": max(numbers)}


def summary_lines(plan: dict) -> list[str]:
    """The summary for the tally."""
    seen = plan["summary"]
    listed = {kind: ", ".join(entry["instance_id"] for entry in plan[kind][:5]) for kind in seen["instances_left_out"]}
    lines = [f"{seen['prompts']} prompts of {seen['instances']} instances in {seen['repos']} repos, "
             f"at most {seen['most_turns_of_an_instance']} of an instance",
             "languages  " + ", ".join(f"{name} {count}" for name, count in [*seen["languages"].items()][:8]),
             "turns      " + ", ".join(f"{place} {count}" for place, count in seen["places"].items()),
             "chats      {least} to {most} messages, median {median}; ".format(**seen["chat_messages"])
             + "{least:,} to {most:,} characters, median {median:,}".format(**seen["chat_characters"]),
             f"windows    {seen['windows']}, in {seen['row_groups']} row groups of "
             f"{megabytes(seen['trajectory_bytes'])} (the needed columns)"]
    lines += [f"passed over {count} rows: {reason}" for reason, count in seen["rows_passed_over"].items()]
    lines += [f"left out {count} instances, {kind.replace('_', ' ')}: {listed[kind]}{' ...' if count > 5 else ''}"
              for kind, count in seen["instances_left_out"].items() if count]
    if plan["exhausted"]:
        lines.append(f"the dataset has no more turns to give: {seen['prompts']} of {plan['count']} were found")
    return lines


def read_exclusions(path: str | None) -> set[str]:
    """Instance ids and repos to leave out: one a line, `#` begins a comment."""
    if path is None:
        return set()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(f"--exclude {path}: {getattr(error, 'strerror', None) or 'not a text file'}. Expected instance ids "
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
                       help="draw from about N windows: more spread the sample wider, and read more bytes")
    flags.add_argument("--exclude", metavar="FILE", help="instance ids and repos to leave out, one a line")
    args = flags.parse_args()
    excluded = read_exclusions(args.exclude)
    wanted = {"--dataset": args.dataset, "--prs": args.prs, "--revision": args.revision, "--seed": args.seed,
              "--count": args.count, "--per-instance": args.per_instance, "--windows": args.windows,
              "--exclude": sorted(excluded)}
    with lock_folders([PROMPT, COMMIT], "prompt"):
        return sample(args, excluded, wanted)


def sample(args, excluded: set[str], flags: dict) -> int:
    """Bring prompt/ and commit/ to what the flags ask for; returns the exit code."""
    tally, plan = Tally("prompt"), read_plan(flags)
    turns = planned_turns(plan) if plan else []
    held = [held_prompts(plan, number) for number in range(1, math.ceil(len(turns) / TURNS_PER_FILE) + 1)]
    there = max((TURNS_PER_FILE * index + count for index, count in enumerate(held) if count), default=0)
    goal = min(args.count, max(args.limit or args.count, there))
    if plan and plan["exhausted"]:
        goal = min(goal, len(turns))
    whole = {index + 1 for index, count in enumerate(held) if count >= min(TURNS_PER_FILE, goal - TURNS_PER_FILE * index)}
    if sum(held):
        tally.skipped["already there"] = min(goal, sum(held))
    if not plan or not plan["summary"] or sum(held) < goal or missing_records(turns[:goal]):
        cache = PROMPT / "_cache"
        trajectories = open_source("--dataset", args.dataset, args.revision, plan and plan["revision"], cache)
        prs = open_source("--prs", args.prs, None, plan and plan["prs_revision"],
                          Path(constants.HF_HOME, "parquet_ranges"))
        plan = plan or new_plan(args, flags, trajectories, prs)
        writer = Writer(plan, goal, whole)
        try:
            places = record_places(prs)
            fill(Sampler(trajectories, plan, set(places), excluded, args), writer, prs, places)
            tally.done = writer.goal - tally.skipped["already there"]
            shutil.rmtree(cache, ignore_errors=True)
        except (Outage, KeyboardInterrupt) as stopped:
            writer.save_plan()
            if isinstance(stopped, KeyboardInterrupt):
                raise
            tally.fail(f"prompt {len(planned_turns(plan))}", "the Hub did not answer well", str(stopped))
            tally.write_failed(PROMPT)
            return tally.show("what was drawn so far is kept", next_command="the same line again")
    tally.write_failed(PROMPT)
    return tally.show(*summary_lines(plan), f"output     {PROMPT}/prompts_{args.count}_*.json, {PLAN}, {COMMIT}/",
                      next_command="python king.py")


def new_plan(args, flags: dict, trajectories: Folder | Hub, prs: Folder | Hub) -> dict:
    return {"dataset": args.dataset, "revision": trajectories.revision, "prs": args.prs, "prs_revision": prs.revision,
            "seed": args.seed, "count": args.count, "flags": flags, "exhausted": False, "summary": None,
            "excluded": [], "without_record": [], "refused": [], "offsets": []}


def fill(sampler: Sampler, writer: Writer, prs: Folder | Hub, places: dict[str, tuple[str, int]]) -> None:
    """Prompts, then the records of their instances, then the summary."""
    progress = Progress(writer.goal, "prompts", "prompt")
    draw_prompts(sampler, writer, progress)
    progress.close()
    turns = planned_turns(writer.plan)[:writer.goal]
    if not turns:
        raise Stop(f"no prompt could be drawn from --dataset {sampler.args.dataset}: "
                   f"{nothing_drawn(writer.plan)}.")
    write_records(prs, places, missing_records(turns))
    writer.plan["summary"] = summarize(writer.plan, turns, prs, places)
    writer.save_plan()


def nothing_drawn(plan: dict) -> str:
    """Why a plan without a turn is empty."""
    reasons = Counter(row["reason"] for window in plan["offsets"] for row in window["passed_over"])
    reasons.update(re.sub(r"^.* is on the list", "on the list", entry["reason"])
                   for kind in ("excluded", "without_record", "refused") for entry in plan[kind])
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3)) or "it has no rows"


if __name__ == "__main__":
    run(main)
