"""Files: every one whole or absent, every name checked, one run per folder.

A write goes to a temporary file in the same folder, is synced, and is then renamed over its name.
A kill at any instant leaves the old file, the new file, or none; never half of one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import socket
import stat
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class UserError(Exception):
    """A configuration or input error, told in one or two plain lines; exit code 2."""

    def __str__(self) -> str:
        return printable(super().__str__())


class BadFile(Exception):
    """A file that is there but torn or not ours: `path` and, in plain words, `why`."""

    def __init__(self, path: Path | str, why: str):
        super().__init__(printable(f"{path}: {why}"))
        self.path = Path(path)
        self.why = why


def is_safe_name(name: object) -> bool:
    """Tell whether a name from outside may become a file name.

    Letters, digits, `._-`, no leading dot, at most 200 characters.
    """
    return isinstance(name, str) and _SAFE_NAME.fullmatch(name) is not None


def clean_text(text: str) -> str:
    """Replace lone surrogates by U+FFFD: they cannot be written as UTF-8."""
    return _SURROGATE.sub("\ufffd", text)


def printable(text: str) -> str:
    """Show control and direction marks as escapes: a terminal would obey them."""
    return _CONTROL.sub(lambda mark: mark[0].encode("unicode_escape").decode(), text)


def digest(*parts: str) -> str:
    """Return the hex SHA-256 over texts, each with its length before it."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(b"%d:" % len(data))
        hasher.update(data)
    return hasher.hexdigest()


# ------------------------------------------------------------------------------------------ write


def write_bytes(path: Path | str, data: bytes, durable: bool = True) -> None:
    """Write `data` to `path` whole or not at all; makes the folder. Raises OSError.

    What the next run makes again from other files need not be `durable`: it waits for no disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{_writer()}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path | str, text: str, durable: bool = True) -> None:
    """Write `text` as UTF-8, as write_bytes does."""
    write_bytes(path, text.encode("utf-8"), durable)


def write_json(path: Path | str, value: object) -> None:
    """Write `value` as one JSON document."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: object) -> bytes:
    """Return `value` as write_json writes it: text stays readable, lone surrogates are escaped."""
    try:
        data = json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8")
    except UnicodeEncodeError:
        data = json.dumps(value, ensure_ascii=True, indent=1).encode("utf-8")
    return data + b"\n"


def write_jsonl(path: Path | str, rows: list[dict]) -> None:
    """Write one JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))


def _writer() -> str:
    """Return the stage's name: temporary files carry it, so that each stage sweeps its own."""
    return Path(sys.argv[0]).stem or "python"


# ------------------------------------------------------------------------------------------- read


def read_json(path: Path | str, keys: tuple[str, ...] = ()) -> dict | list:
    """Return the JSON document at `path`; with `keys`, an object that holds at least these.

    Raises FileNotFoundError when there is none, BadFile when it is torn or lacks a key.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to read a pipe would wait for ever
            raise BadFile(path, "a folder or a pipe where a file was expected")
        value = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadFile(path, f"not a whole JSON document ({error})") from None
    if keys and not isinstance(value, dict):
        raise BadFile(path, f"expected one JSON object, found a {type(value).__name__}")
    for key in keys:
        if key not in value:
            raise BadFile(path, f"key {key!r} is missing")
    return value


def turn_files(folder: Path | str) -> list[Path]:
    """Return the per-turn `*.json` of a folder in natural order (2 before 10).

    Names with a leading `_` or `.` are no turns, nor are folders and pipes.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_file()]
    except FileNotFoundError:
        return []
    names = [name for name in names if name.endswith(".json") and name[0] not in "._"]
    return [Path(folder, name) for name in sorted(names, key=natural_key)]


def natural_key(name: str) -> list:
    """Return a sort key that reads digit runs as numbers."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def quarantine(path: Path) -> Path:
    """Rename a torn or foreign file to `<name>.bad` (`.bad2`, ...) and return its new path."""
    aside = path.with_name(path.name + ".bad")
    number = 2
    while aside.exists():
        aside = path.with_name(f"{path.name}.bad{number}")
        number += 1
    os.replace(path, aside)
    return aside


# ------------------------------------------------------------------------------------------- lock


@contextmanager
def lock_folders(folders: list[Path], stage: str, shard: tuple[int, int] | None = None):
    """Hold `folders` for one run of `stage`; raises UserError when another run has one of them.

    The lock is flock(2) on `_lock_<stage>`: the kernel drops it when its holder dies. A shard
    (I, N) shares that lock with the other shards and holds `_lock_<stage>_<I>_of_<N>` alone; shards
    of another N overlap it, so none of these may run. Temporary files that a killed run left behind
    are removed once the folder is ours alone.
    """
    with ExitStack() as stack:
        for folder in folders:
            Path(folder).mkdir(parents=True, exist_ok=True)
            whole = Path(folder, f"_lock_{stage}")
            stack.enter_context(_flock(whole, shared=shard is not None))
            if shard:
                part = whole.with_name(f"{whole.name}_{shard[0]}_of_{shard[1]}")
                stack.enter_context(_flock(part, shared=False))
                _refuse_other_shards(whole, shard[1])
            else:
                _sweep(folder)
        yield


@contextmanager
def _flock(path: Path, shared: bool):
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - held for the whole run
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another run"
        file.close()
        raise UserError(
            f"{path.parent}/ is in use by {holder}.\n"
            "Wait for it to end, or stop it, then run this again."
        ) from None
    if not shared:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} ({path.name})")
        file.flush()
    try:
        yield
    finally:
        if not shared:
            file.truncate(0)  # a finished folder tells nothing of the process that made it
        file.close()


def _refuse_other_shards(whole: Path, shards: int) -> None:
    """Raise UserError while a shard of another number of shards runs.

    Called with our own lock held: of two that start at the same moment at most one goes on.
    """
    for path in whole.parent.glob(f"{whole.name}_*_of_*"):
        index, number = path.name.removeprefix(f"{whole.name}_").split("_of_")
        if number == str(shards):
            continue
        with open(path, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = file.read().split(" (")[0] or "just started"
                raise UserError(
                    f"{path.parent}/: shard {index}/{number} is at work ({holder}), "
                    f"and shards of {shards} hold some of the same turns.\n"
                    f"Wait for it to end, or run every shard as I/{number}."
                ) from None


def _sweep(folder: Path | str) -> None:
    """Remove what a killed run of this stage left half written; we hold the folder's lock."""
    for path in Path(folder).glob(f".*.{_writer()}.*.tmp"):
        path.unlink(missing_ok=True)
