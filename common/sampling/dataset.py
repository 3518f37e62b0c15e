"""A dataset: parquet or JSON files here, or parquet at a pinned commit of the Hugging Face Hub.

Of parquet only the footer is read, and of the row groups asked for the columns asked for. JSON has
a row a line (*.jsonl), or is a run of mini-swe-agent (*.traj.json). Heavy packages are imported
where they are needed: --help and a sample that is whole do without.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path

from common.files import UserError, clean_text, digest

RUN = ".traj.json"
KINDS = (".parquet", ".jsonl", RUN)
RUN_WEIGHT = 10_000  # bytes of a row in parquet: a run is one row to the draw, however long it is
GROUP_LINES = 250  # of 30 to 300 KB each: a group is read in a second
PRE_BUFFER_BYTES = 64 << 20  # up to here a row group's columns come in one request, into memory
PIECE_BYTES = 16 << 20  # beyond, a column comes in pieces: memory is bounded for any row group
BATCH_ROWS = 64  # of some 36 KB of text each
LFS_BYTES = 1024  # more than any pointer of Git LFS has

# Columns that may be absent, what others call one, and what of a chat is read.
OPTIONAL = {"repo", "pr_description", "interface", "language", "created_at"}
OTHER_NAMES = {"messages": "trajectory", "pr_description": "hints_text"}
CHATS = ("messages", "trajectory")
CHAT_KEYS = {"role", "content", "tool_calls", "function_call"}


class Dataset:
    """A dataset's `files` {path: share in the draw, mostly its size in bytes} and `revision`.

    `name` is a folder, a file, a glob, or a Hub id, read at `revision` (its newest commit). Local
    files have a digest for it: of names and sizes, or of the text of a benchmark's list (those are
    read without `train`). All must hold the `columns`. Raises UserError.
    """

    def __init__(self, flag: str, name: str, columns, revision=None, train: bool = True):
        self.label = f"{flag} {name}"
        self.name = name
        self.columns = columns
        self.hub = None  # of a local one
        self._opened = {}
        kinds = KINDS if "messages" in columns else KINDS[:-1]
        path = Path(name).expanduser()
        was_here = re.fullmatch("local-[0-9a-f]{16}", revision or "")  # as a plan pins local files
        is_here = was_here or glob.has_magic(name) or path.exists()
        if not is_here and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
            from common.sampling.hub import Hub

            self.hub = Hub(flag, name, revision, train)
            self.files = self.hub.files
            self.revision = self.hub.revision
            self._source = self.hub.open
        else:
            root, self.files = local_files(path, kinds)
            held = json.dumps(self.files)
            if not train and path.is_file() and path.suffix.lower() != ".parquet":
                held = path.read_bytes().decode("utf-8", "replace")
            self.revision = "local-" + digest(held)[:16]
            self._source = root.joinpath
            if revision and not was_here:
                advice = "Drop --revision, or move it away"
                raise UserError(f"{self.label} lies here, with no revision {revision}.\n{advice}.")
            if revision not in (None, self.revision):
                raise self.changed()
            self.files |= {file: RUN_WEIGHT for file in self.files if file.lower().endswith(RUN)}
        if not any(self.files.values()):
            raise UserError(
                f"{self.label}: no file there that holds anything. Expected a folder or a glob of "
                f"{' '.join('*' + kind for kind in kinds)}, or a Hub dataset id such as owner/name."
            )

    def changed(self) -> UserError:
        """Return the error of a dataset that is not what a plan was made from."""
        advice = "Put its files back, or start in another folder."
        return UserError(f"{self.label}: it no longer holds what the plan was made from.\n{advice}")

    def open(self, file: str) -> ParquetFile | JsonFile:
        """Return a file, opened once. Raises UserError when it lacks a column."""
        if file not in self._opened:
            if not self.hub and file.lower().endswith(KINDS[1:]):
                opened = JsonFile(self._source(file))
            else:
                opened = ParquetFile(f"{self.label}: {file}", lambda: self._source(file))
            for column in self.columns if opened.columns is not None else ():
                other = OTHER_NAMES.get(column)
                found = opened.columns.get(column) or opened.columns.get(other, [])
                is_chat = column in CHATS and len({*found}) == len(found) > 0
                is_missing = not found and column in OPTIONAL
                if not (is_chat or is_missing or found in ([column], [other])):
                    none = "none" if opened.columns else "no JSON object in its first lines"
                    raise UserError(
                        f"{self.label}: {file}: expected in each row or JSON object one column "
                        f"{column!r} of text (messages: of role and content), found "
                        f"{', '.join(found) or none}.\n"
                        f"Needed: {', '.join(sorted({*self.columns} - OPTIONAL))}."
                    )
            self._opened[file] = opened
        return self._opened[file]

    def groups(self) -> list[tuple[str, int]]:
        """Return (file, number) of all row groups; opens every file."""
        return [(file, group) for file in self.files for group in range(len(self.open(file).sizes))]


class ParquetFile:
    """A parquet file: its row groups' `sizes` in rows, its `columns` {name: paths of leaves}."""

    def __init__(self, label: str, source):
        self.label = label
        self._source = source  # makes the path, or an open file of the Hub
        self._footer = None
        with self._parquet() as parquet:
            self._footer = parquet.metadata
        groups = map(self._footer.row_group, range(self._footer.num_row_groups))
        self.sizes = [group.num_rows for group in groups]
        self.columns = {}
        self._names = self._footer.schema.to_arrow_schema().names
        for path in needed_leaves(self._footer, self._names).values():
            self.columns.setdefault(path.partition(".")[0], []).append(path)

    def rows(self, group: int, columns, wanted: set[int] | None = None):
        """Yield (row number in the file, its values) of a row group, or of wanted rows of it."""
        row = sum(self.sizes[:group])
        for batch in self.batches(group, columns):
            arrays = [batch[column] for column in columns]
            for index in range(batch.num_rows):
                if wanted is None or row in wanted:
                    yield row, [plain_value(array[index]) for array in arrays]
                row += 1

    def batches(self, group: int, columns):
        """Yield columns of one row group in small batches, those that are not there as nulls."""
        import pyarrow as pa

        names = self._names
        here = [name if names.count(name) == 1 else OTHER_NAMES.get(name) for name in columns]
        leaves = needed_leaves(self._footer, here)
        chunks = map(self._footer.row_group(group).column, leaves)
        at_one_go = sum(chunk.total_compressed_size for chunk in chunks) <= PRE_BUFFER_BYTES
        buffer_size = 0 if at_one_go else PIECE_BYTES
        with self._parquet(pre_buffer=at_one_go, buffer_size=buffer_size) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, [group], list(leaves.values())):
                nulls = pa.nulls(batch.num_rows)
                arrays = [batch[name] if name in names else nulls for name in here]
                yield pa.RecordBatch.from_arrays(arrays, list(columns))

    @contextmanager
    def _parquet(self, **options):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self._source(), metadata=self._footer, **options) as parquet:
                yield parquet
        except (pa.ArrowException, EOFError, OSError) as error:
            if getattr(error, "errno", None):  # a disk's refusal has a number, a torn file none
                raise
            words = str(error).strip().partition("\n")[0][:150]
            raise UserError(f"{self.label} is not a whole parquet file ({words}).") from None


class JsonFile:
    """A JSON file, as ParquetFile: a row a line, or a run. Where any `columns` will do: None."""

    def __init__(self, path: Path):
        self.path = path
        self.run = path.name[: -len(RUN)] if path.name.lower().endswith(RUN) else ""
        self.columns = None
        self.sizes = []
        self._starts = [0]  # the offset of each group, and of the end
        with open(path, "rb") as file:
            lines = iter([b""] if self.run else file)
            while size := sum(1 for _ in itertools.islice(lines, GROUP_LINES)):
                self.sizes.append(size)
                self._starts.append(file.tell())
        if self.sizes and not self.run:
            self.columns = {}
            for _, row in self._documents(0):
                self.columns |= {key: [key] for key in row or () if row[key] is not None}

    def rows(self, group: int, columns, wanted: set[int] | None = None):
        """Yield (row number, its values) as ParquetFile; None for what is no JSON object."""
        for number, document in self._documents(group, wanted):
            yield number, document and [document.get(column) for column in columns]

    def batches(self, group: int, columns):
        """Yield columns of a group as one batch of text; times stay as they are if they can."""
        import pyarrow as pa

        arrays = []
        rows = [values for _, values in self.rows(group, columns) if values]
        for column, values in zip(columns, zip(*rows)):
            array = pa.array(map(as_text, values))
            with suppress(pa.ArrowException, ValueError, OverflowError):
                array = pa.array(values) if column == "created_at" else array
            arrays.append(array)
        if rows:
            yield pa.RecordBatch.from_arrays(arrays, list(columns))

    def _documents(self, group: int, wanted: set[int] | None = None):
        with open(self.path, "rb") as file:
            file.seek(self._starts[group])
            texts = [file.read()] if self.run else itertools.islice(file, GROUP_LINES)
            for row, text in enumerate(texts, group * GROUP_LINES):
                if not self.run and (not text.strip() or wanted is not None and row not in wanted):
                    continue
                document = None
                with suppress(ValueError, RecursionError):
                    document = json.loads(text.decode("utf-8-sig", "replace"))
                if self.run and isinstance(document, list):  # bare messages
                    document = {"messages": document}
                if not isinstance(document, dict):
                    yield row, None
                    continue
                info = document.get("info")  # a run's id stands there, or is the file's name
                known = info.get("instance_id") if isinstance(info, dict) else None
                document["instance_id"] = document.get("instance_id") or known or self.run or None
                for name, other in OTHER_NAMES.items():
                    if document.get(name) is None:
                        document[name] = document.get(other)
                yield row, document


def local_files(path: Path, kinds: tuple) -> tuple[Path, dict[str, int]]:
    """Return the folder and {path below it: size} of a folder's, a glob's or a file's data.

    Of folders and globs only files of these kinds, no names that begin with `.` or `_`.
    """
    root = path if path.is_dir() else path.parent
    found = files_below(path) if path.is_dir() else [path]
    if not path.exists():
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        before, deep, rest = str(path).partition("**")
        found = map(Path, glob.glob(before or "."))
        if deep:
            below = itertools.chain.from_iterable(map(files_below, found))
            found = [file for file in below if file.match(rest.strip("/") or "*")]
    sizes = {}
    for file in found:
        below = file.relative_to(root)
        is_hidden = any(part.startswith((".", "_")) for part in below.parts)
        is_asked = file == path or file.name.lower().endswith(kinds) and not is_hidden
        if is_asked and file.is_file():
            if clean_text(str(below)) != str(below):
                raise UserError(f"{ascii(str(file))}: its name is no UTF-8. Rename it.")
            size = sizes[below.as_posix()] = file.stat().st_size
            if size < LFS_BYTES and file.read_bytes().startswith(b"version https://git-lfs"):
                problem = "is a pointer of Git LFS. Run `git lfs pull` in its repository"
                raise UserError(f"{file} {problem}.")
    return root, dict(sorted(sizes.items()))  # the draw goes by their order


def files_below(root: Path):
    """Yield the files of a folder and of all below it; linked ones are followed, each once."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
        else:
            yield from (Path(folder, name) for name in names)
        seen.add(real)


def needed_leaves(footer, columns) -> dict[int, str]:
    """Return {leaf: its path} of top-level columns; of a list of messages only CHAT_KEYS."""
    leaves = {}
    for leaf in range(len(footer.schema)):
        path = footer.schema.column(leaf).path
        top, *nested = path.split(".")
        if top in columns and (top not in CHATS or not nested or CHAT_KEYS & {*nested}):
            leaves[leaf] = path
    return leaves


def plain_value(scalar) -> object:
    """Return a value: None where Python has none, U+FFFD in text that is no UTF-8."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, NotImplementedError):
        if not hasattr(scalar, "as_buffer"):  # such as a date beyond the year 9999
            return None
        return scalar.as_buffer().to_pybytes().decode("utf-8", "replace")


def as_text(value: object) -> str:
    """Return a value as clean text, null as ""."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if hasattr(value, "isoformat"):
        value = value.isoformat()
    return "" if value is None else clean_text(str(value))
