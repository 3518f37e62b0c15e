"""Files: every one whole or absent, every name checked, one run per folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import sys
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from pydantic_core import PydanticSerializationError, from_json, to_json

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some Lustre and NFS mounts
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
# File systems take 255 bytes: 200 leave room for what temporary names and the folders' lists add.
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class UserError(Exception):
    """A configuration or input error, said in one or two plain lines; exit code 2."""

    def __init__(self, words: str):
        super().__init__(printable(words))


class BadFile(Exception):
    """A file that is there but torn or not ours: `path` and, in plain words, `why`."""

    def __init__(self, path: Path | str, why: str):
        super().__init__(path, why)  # from which pickle makes it anew
        self.path = Path(path)
        self.why = why

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.why}")


class ItemFailed(Exception):
    """One item fails, the rest goes on: `kind` for the tally, `lasting` if it would fail again."""

    def __init__(self, kind: str, detail: str = "", *, lasting: bool = False):
        super().__init__(detail or kind)
        self.kind = kind
        self.detail = detail or kind
        self.lasting = lasting
        self.replies: list[dict] = []  # those refused, shortened


def is_safe_name(name: object) -> bool:
    """Return whether a name from outside may become a file name."""
    return isinstance(name, str) and _SAFE_NAME.fullmatch(name) is not None


def clean_text(text: str) -> str:
    """Return the text with lone surrogates replaced by U+FFFD: UTF-8 cannot hold them."""
    return _SURROGATE.sub("\ufffd", text)


def printable(text: str) -> str:
    """Return the text with control and direction marks as escapes: a terminal would obey them."""
    return _CONTROL.sub(lambda mark: mark[0].encode("unicode_escape").decode(), text)


def digest(*parts: str) -> str:
    """Return the hex SHA-256 over texts, each with its length in bytes before it."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    sized = b"".join(b"%d:%b" % (len(part), part) for part in encoded)
    return hashlib.sha256(sized).hexdigest()


def write_bytes(path: Path | str, data: bytes, durable: bool = True) -> None:
    """Write `data` to `path`, whole or not at all, and make its folder. Raises OSError.

    What the next run makes again from other files need not be `durable`: it waits for no disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(sys.argv[0]).stem  # each stage removes its own, see lock_folders
    temporary = path.with_name(f".{path.name}.{stage}.{os.getpid()}.tmp")
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
    """Write `value` as one JSON document. Raises OSError."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: object) -> bytes:
    """Return `value` as write_json writes it: text stays readable, lone surrogates are escaped."""
    try:
        return to_json(value, indent=1, inf_nan_mode="constants") + b"\n"
    except PydanticSerializationError:  # a lone surrogate
        text = json.dumps(value, ensure_ascii=False, indent=1)
        return text.encode("utf-8", "backslashreplace") + b"\n"  # its escapes are JSON's as well


def read_whole(path: Path | str) -> bytes:
    """Return what a file holds. Raises OSError, and BadFile for what is there and no file."""
    if not os.path.isfile(path) and os.path.exists(path):  # to read a pipe would wait for ever
        raise BadFile(path, "a folder or a pipe where a file was expected")
    with open(path, "rb", buffering=0) as file:  # a buffer would double the time
        return file.read()


def read_json(path: Path | str, keys: tuple[str, ...] = ()) -> dict | list:
    """Return a JSON document; with `keys`, an object of them. Raises OSError, BadFile."""
    data = read_whole(path)
    try:
        value = from_json(data)
    except ValueError:
        try:
            value = json.loads(data)  # it knows escapes of lone surrogates
        except (ValueError, RecursionError) as error:
            raise BadFile(path, f"not a whole JSON document ({error})") from None
    if keys and not isinstance(value, dict):
        raise BadFile(path, f"expected one JSON object, found a {type(value).__name__}")
    for key in keys:
        if key not in value:
            raise BadFile(path, f"key {key!r} is missing")
    return value


def turn_files(folder: Path | str) -> list[Path]:
    """Return the `*.json` of a folder in natural order (2 before 10), but for `_*` and `.*`."""
    names = []
    for entry in os.scandir(folder) if os.path.exists(folder) else ():
        if entry.name.endswith(".json") and entry.name[0] not in "._" and entry.is_file():
            names.append(entry.name)
    return [Path(folder, name) for name in sorted(names, key=natural_key)]


def natural_key(name: str) -> list:
    """Return a sort key that reads runs of digits as numbers."""
    parts = re.split(r"([0-9]{1,18})", name)  # int() refuses texts of thousands of digits
    parts[1::2] = map(int, parts[1::2])
    return parts


def quarantine(path: Path) -> Path:
    """Rename a torn or foreign file to `<name>.bad` (`.bad2`, ...) and return its new path."""
    for number in count(1):
        new_path = path.with_name(f"{path.name}.bad{number if number > 1 else ''}")
        if not new_path.exists():
            return path.replace(new_path)


@contextmanager
def lock_folders(folders: list[Path], stage: str, shard: tuple[int, int] | None = None):
    """Hold `folders` (of a dry run: none) for one run of `stage`, or raise UserError.

    By flock(2), which the kernel drops when its holder dies. Only shards of one N run side by side:
    those of another N hold some of the same turns. What a killed run left half written is removed.
    """
    name = f"_lock_{stage}"
    process = f"process {os.getpid()} on {socket.gethostname()}"
    holder = f"in use by {process}"
    if shard:
        name += f"_{shard[0]}_of_{shard[1]}"
        holder = f"shard {shard[0]}/{shard[1]} is at work ({process})"
    with ExitStack() as stack:
        for folder in map(Path, folders):
            folder.mkdir(parents=True, exist_ok=True)
            own = stack.enter_context(open(folder / name, "a+", encoding="utf-8"))
            _lock(own, fcntl.LOCK_EX)
            stack.callback(own.truncate, 0)  # a finished folder names no process
            own.truncate(0)
            own.write(holder)
            own.flush()
            # Our own lock is held by now: of two that start at once at most one goes on.
            for path in folder.glob(f"_lock_{stage}*"):
                beside_us = shard and path.name.endswith(f"_of_{shard[1]}")
                if path.name != name and not beside_us:
                    with open(path, encoding="utf-8") as other:
                        _lock(other, fcntl.LOCK_SH)
            for path in [] if shard else folder.glob(f".*.{stage}.*.tmp"):
                path.unlink(missing_ok=True)
        yield


def _lock(file, kind: int) -> None:
    folder = Path(file.name).parent
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        words = f"{folder}/: {file.read() or 'in use by another run'}."
        raise UserError(f"{words}\nWait for it to end, or stop it, then run this again.") from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        if kind == fcntl.LOCK_EX:
            words = f"{folder}/: the file system has no locks ({error.strerror})"
            print(f"{words}: see that no second run works here", file=sys.stderr)
