"""The files in batch/: requests as they are written, results as they came, the state of both.

A file X.jsonl holds requests of one model, X.out.jsonl their results, wherever they were made;
_state.json has an entry for each: who wrote it, where it went, what has become of it.
"""

from __future__ import annotations

import fcntl
import re
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

from common.client import faults
from common.files import read_json, write_json

_BATCH = Path("batch")
UNSENT = "not sent"  # being written, or its run ended before it was sent
WRITTEN = "written"  # for whoever takes it
ENDED = ("completed", "failed", "expired", "cancelled")
_MOST_LINES = 50_000
_MOST_BYTES = 90 * 10**6  # OpenAI takes 200 MB, others 100
_LINE = b'{"custom_id":"%b","method":"POST","url":"/v1/chat/completions","body":%b}\n'
_ID_PLACE = slice(14, 78)  # in such a line


def new_file(**whose: str) -> dict:
    """Return the entry of a request file under a new name."""
    entry = {**whose, "requests": 0, "at_most_usd": 0.0, "input_file_id": "", "batch_id": ""}
    entry |= {"mark": uuid4().hex, "status": UNSENT, "since": time.time()}
    _BATCH.mkdir(exist_ok=True)
    change(entry)
    return entry


def add_request(entry: dict, custom_id: str, body: bytes, at_most_usd: float) -> bool:
    """Write a request into a file; return False where that is full."""
    line = _LINE % (custom_id.encode(), body)
    with open(path_of(entry), "ab") as file:
        if entry["requests"] == _MOST_LINES or file.tell() + len(line) > _MOST_BYTES:
            return False
        file.write(line)
    entry["requests"] += 1
    entry["at_most_usd"] += at_most_usd
    return True


def path_of(entry: dict, kind: str = "") -> Path:
    """Return an entry's request file, or of kind ".out" its results."""
    return _BATCH / f"{entry['file']}{kind}.jsonl"


def read_state() -> dict[str, dict]:
    """Return the entries of all stages by file."""
    path = _BATCH / "_state.json"
    return read_json(path, ("batches",))["batches"] if path.exists() else {}


def change(entry: dict, **changes) -> None:
    """Change an entry, here and in the state; a new one gets the name of its file."""
    entry.update(changes)
    with open(_BATCH / "_lock_state", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in _BATCH.glob("._state.json.*.tmp"):
            left.unlink()  # a killed run's
        entries = read_state()
        if "file" not in entry:
            stem = f"{entry['stage']}-{entry['provider'] or 'env'}-{entry['model']}"
            stem = re.sub(r"[^A-Za-z0-9._-]", "-", stem)[:160]
            k = 1
            while f"{stem}-{k}" in entries or (_BATCH / f"{stem}-{k}.jsonl").exists():
                k += 1
            entry["file"] = f"{stem}-{k}"
        write_json(_BATCH / "_state.json", {"batches": {**entries, entry["file"]: entry}})


def find_results(entry: dict, counts: Counter) -> dict[str, int | None]:
    """Return where each request's result stands, None without one; count other lines.

    Of two the first good one stands. `entry` gets the number of good ones, for this run alone.
    """
    good = set()
    with open(path_of(entry), "rb") as file:
        found = {line[_ID_PLACE].decode("ascii", "replace"): None for line in file}
    path = path_of(entry, ".out")
    if entry["status"] not in ENDED or not path.exists():
        return found
    with open(path, "rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = faults.parse_json(line)
                custom_id = str(row["custom_id"])
            except (ValueError, KeyError, TypeError):
                counts["torn"] += 1
                continue
            if custom_id not in found:
                counts["unknown"] += 1
                continue
            if found[custom_id] is not None:
                counts["double"] += 1
            is_better = is_good(row) and custom_id not in good
            if is_better:
                good.add(custom_id)
            if is_better or found[custom_id] is None:
                found[custom_id] = file.tell() - len(line)
    entry["good"] = len(good)
    return found


def is_good(row: dict) -> bool:
    """Return whether a line of results holds a reply."""
    response = row.get("response")
    if row.get("error") or not isinstance(response, dict):
        return False
    return response.get("status_code", 200) == 200
