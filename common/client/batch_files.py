"""The files in batch/: requests as they are written, results as they came, the state of both.

<stage>-<provider>-<model>-<k>.jsonl       requests of one model, one a line
<stage>-<provider>-<model>-<k>.out.jsonl   their results, wherever they were made
_state.json                                an entry for each request file: who wrote it, where it
                                           went, what has become of it and since when
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import uuid4

from common.client import faults
from common.files import json_bytes, read_json, write_json

BATCH = Path("batch")
UNSENT = "not sent"  # being written, or its run ended before it was sent
WRITTEN = "written"  # for whoever takes it
ANSWERED = "results on file"  # of what nobody sent
ENDED = ("completed", "failed", "expired", "cancelled", ANSWERED)
MOST_LINES = 50_000
MOST_BYTES = 90 * 10**6  # OpenAI takes 200 MB, others 100
_LINE = b'{"custom_id":"%b","method":"POST","url":"/v1/chat/completions","body":%b}\n'
_ID_PLACE = slice(14, 78)  # in such a line
_OF_THIS_RUN = ("good", "is_new")  # keys of an entry that the state does not hold


class Result(NamedTuple):
    """Where a result stands; `file` is None for a request whose batch has ended without it."""

    entry: dict
    file: BinaryIO | None
    place: int
    good: bool


class Requests:
    """A request file that is being written, and its entry."""

    def __init__(self, **entry: str):
        """Open a file under a new name; `entry`: stage, shard, provider, base_url, model."""
        stem = f"{entry['stage']}-{entry['provider'] or 'env'}-{entry['model']}"
        stem = re.sub(r"[^A-Za-z0-9._-]", "-", stem)[:160]
        k = 1
        BATCH.mkdir(exist_ok=True)
        with changed_state() as entries:
            while f"{stem}-{k}" in entries or path_of(f"{stem}-{k}").exists():
                k += 1
            self.entry = entries[f"{stem}-{k}"] = {
                "file": f"{stem}-{k}",
                **entry,
                "requests": 0,
                "at_most_usd": 0.0,
                "mark": uuid4().hex,  # in the batch's metadata
                "input_file_id": "",
                "batch_id": "",
                "status": UNSENT,
                "words": "",
                "since": time.time(),
            }
        self._file = open(path_of(self.entry["file"]), "wb")  # noqa: SIM115  # until it is closed
        self._size = 0

    def add(self, custom_id: str, body: bytes, at_most_usd: float | None) -> bool:
        """Write a request; return False where the file is full."""
        line = _LINE % (custom_id.encode(), body)
        entry = self.entry
        if entry["requests"] == MOST_LINES or self._size + len(line) > MOST_BYTES:
            return False
        self._file.write(line)
        self._size += len(line)
        entry["requests"] += 1
        entry["at_most_usd"] = None if at_most_usd is None else entry["at_most_usd"] + at_most_usd
        return True

    def close(self, status: str) -> dict:
        """Finish the file and return its entry."""
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())
        change(self.entry, status=status)
        return self.entry


def path_of(name: str, kind: str = "") -> Path:
    """Return a request file, or of kind ".out" its results."""
    return BATCH / f"{name}{kind}.jsonl"


@contextmanager
def changed_state() -> Iterator[dict[str, dict]]:
    """Give the entries of all stages by file; where they were changed they are written whole."""
    path = BATCH / "_state.json"
    with open(BATCH / "_lock_state", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            entries = read_json(path, ("batches",))["batches"]
        except FileNotFoundError:
            entries = {}
        for left in BATCH.glob("._state.json.*.tmp"):
            left.unlink()  # a killed run's
        before = json_bytes(entries)
        yield entries
        if json_bytes(entries) != before:
            write_json(path, {"batches": entries})


def change(entry: dict, **changes) -> None:
    """Change an entry, here and in the state."""
    entry.update(changes)
    with changed_state() as entries:
        entries[entry["file"]] = {key: entry[key] for key in entry if key not in _OF_THIS_RUN}


def entries_of(stage: str) -> list[dict]:
    """Return a stage's entries whose request file is there; the user may have removed others."""
    with changed_state() as entries:
        of_stage = [entry for entry in entries.values() if entry["stage"] == stage]
    return [entry for entry in of_stage if path_of(entry["file"]).exists()]


def custom_ids(entry: dict) -> set[str]:
    """Return the custom_id of each request of a file."""
    with open(path_of(entry["file"]), "rb") as file:
        return {line[_ID_PLACE].decode("ascii", "replace") for line in file}


def find_results(entry: dict, counts: Counter) -> dict[str, Result]:
    """Return where the result of each request of an ended batch stands.

    Lines that are torn, double or of somebody else are counted. Of two the first good one stands.
    """
    found = {custom_id: Result(entry, None, 0, False) for custom_id in custom_ids(entry)}
    path = path_of(entry["file"], ".out")
    file = open(path, "rb") if path.exists() else None  # noqa: SIM115  # read until the run ends
    place = 0
    for line in file or []:
        start, place = place, place + len(line)
        if not line.strip():
            continue
        try:
            row = faults.parse_json(line)
            before = found.get(str(row["custom_id"]))
            response = row.get("response") or {}
            good = not row.get("error") and response.get("status_code", 200) == 200
        except (ValueError, KeyError, TypeError, AttributeError):
            counts["torn"] += 1
            continue
        if before is None:
            counts["unknown"] += 1
            continue
        counts["double"] += before.file is not None
        if before.file is None or (good and not before.good):
            found[row["custom_id"]] = Result(entry, file, start, good)
    entry["good"] = sum(result.good for result in found.values())
    return found
