"""Files: every one whole or absent, every name checked, one run per folder.

A write goes to a temporary file in the same folder, is synced, and is then renamed over its name, so that a kill at
any instant leaves the old file, the new file, or none; never half of one.
"""
from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import socket
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

_SURROGATE = re.compile("[\ud800-\udfff]")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_OUR_HEAD, _OUR_TAIL = b'{\n "instance_id": "', b"\n}\n"  # how answers begin and end as write_json lays them out
_WRITER = Path(sys.argv[0]).stem or "python"  # temporary files carry their stage's name: each sweeps its own


class Stop(Exception):
    """A configuration or input error, told in one or two plain lines; the stage ends with exit code 2."""


class BadFile(Exception):
    """A file that is there but torn or not ours: `path` and, in plain words, `why`."""

    def __init__(self, path: Path, why: str):
        super().__init__(f"{path}: {why}")
        self.path, self.why = Path(path), why


def safe_name(name: object) -> bool:
    """Whether a name from outside may become a file name: letters, digits, `._-`, no leading dot, at most 200."""
    return isinstance(name, str) and _SAFE_NAME.fullmatch(name) is not None


def clean_text(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD: they cannot be written as UTF-8."""
    return _SURROGATE.sub("\ufffd", text)


# ---------------------------------------------------------------------------------------------------------- write

def write_text(path: Path | str, text: str, durable: bool = True) -> None:
    """Write `text` as UTF-8 to `path`, atomically and durably; makes the folder. Raises OSError when the disk does.

    What the next run makes again from other files need not be `durable`: it then waits for no disk.
    """
    write_bytes(path, text.encode("utf-8"), durable)


def write_bytes(path: Path | str, data: bytes, durable: bool = True) -> None:
    """`write_text` for text that is encoded already."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{_WRITER}.{os.getpid()}.tmp"
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


def write_json(path: Path | str, value: object) -> None:
    """Write `value` as one JSON document; text is kept readable, lone surrogates are escaped."""
    try:
        data = json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8")
    except UnicodeEncodeError:
        data = json.dumps(value, ensure_ascii=True, indent=1).encode("utf-8")
    write_bytes(path, data + b"\n")


def write_jsonl(path: Path | str, rows: list[dict]) -> None:
    """Write one JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))


# ----------------------------------------------------------------------------------------------------------- read

def read_json(path: Path | str, keys: tuple[str, ...] = ()) -> dict | list:
    """The JSON document at `path`. With `keys`, an object that holds at least these.

    Raises FileNotFoundError when there is none, BadFile when it is torn, not JSON, or lacks a key.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise BadFile(path, f"not a whole JSON document ({error})") from None
    if keys:
        if not isinstance(value, dict):
            raise BadFile(path, f"expected one JSON object, found a {type(value).__name__}")
        missing = [key for key in keys if key not in value]
        if missing:
            raise BadFile(path, f"key {missing[0]!r} is missing")
    return value


def check_whole(path: Path, keys: tuple[str, ...]) -> None:
    """Raise BadFile unless `path` is a whole object of ours with `keys`.

    A file of ours is told by its ends alone, so that 20,000 are checked in a second: in a document that write_json
    laid out, a closing brace at the start of a line stands only at the very end (in a text, a newline is escaped).
    """
    if ends(path, len(_OUR_HEAD), len(_OUR_TAIL)) != (_OUR_HEAD, _OUR_TAIL):
        read_json(path, keys)


def ends(path: Path, head_bytes: int, tail_bytes: int) -> tuple[bytes, bytes]:
    """The first and the last bytes of a file."""
    file = os.open(path, os.O_RDONLY)
    try:
        start = max(0, os.fstat(file).st_size - tail_bytes)
        return os.pread(file, head_bytes, 0), os.pread(file, tail_bytes, start)
    finally:
        os.close(file)


def set_aside(path: Path) -> Path:
    """Rename a torn or foreign file to `<name>.bad` (`.bad2`, ... when that is taken) and return where it lies now."""
    aside, number = path.with_name(path.name + ".bad"), 2
    while aside.exists():
        aside, number = path.with_name(f"{path.name}.bad{number}"), number + 1
    os.replace(path, aside)
    return aside


def turn_files(folder: Path | str) -> list[Path]:
    """The per-turn `*.json` of a folder in natural order (2 before 10); names with a leading `_` or `.` are no turns."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name.endswith(".json") and e.name[0] not in "._"]
    except FileNotFoundError:
        return []
    return [Path(folder, name) for name in sorted(names, key=natural_key)]


def answer_folders(root: Path | str = ".") -> list[Path]:
    """The folders answer_0, answer_1, ... that exist, in numeric order."""
    found = [path for path in Path(root).glob("answer_*") if path.name[7:].isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name[7:]))


def natural_key(name: str) -> list:
    """Sort key that reads digit runs as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def digest(*parts: str) -> str:
    """Hex SHA-256 over texts, each with its length before it, so that no two lists of texts run together."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(b"%d:" % len(data))
        hasher.update(data)
    return hasher.hexdigest()


# ----------------------------------------------------------------------------------------------------------- lock

@contextmanager
def lock_folders(folders: list[Path], stage: str, shard: tuple[int, int] | None = None):
    """Hold `folders` for one run of `stage`; raises Stop, naming the holder, when another run has one of them.

    The lock is flock(2) on `_lock_<stage>`: the kernel drops it when its holder dies. A run with a shard (I, N) shares
    that lock with the other shards and holds `_lock_<stage>_<I>_of_<N>` alone. Temporary files that a killed run left
    behind are removed once the folder is ours alone.
    """
    with ExitStack() as stack:
        for folder in folders:
            Path(folder).mkdir(parents=True, exist_ok=True)
            common = Path(folder, f"_lock_{stage}")
            stack.enter_context(_flock(common, shared=shard is not None))
            if shard:
                stack.enter_context(_flock(common.with_name(f"{common.name}_{shard[0]}_of_{shard[1]}"), shared=False))
            else:
                _sweep(folder)
        yield


@contextmanager
def _flock(path: Path, shared: bool):
    file = open(path, "a+", encoding="utf-8")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another run"
        file.close()
        raise Stop(f"{path.parent}/ is in use by {holder}.\nWait for it to end, or stop it, then run this again.") from None
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


def _sweep(folder: Path | str) -> None:
    """Remove what a killed run of this stage left half written; its folder lock is held, so no other one writes."""
    for path in Path(folder).glob(f".*.{_WRITER}.*.tmp"):
        path.unlink(missing_ok=True)
