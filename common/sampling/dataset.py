"""A dataset: parquet or JSON files here, or parquet at a pinned commit of the Hugging Face Hub.

`Dataset` opens it and reads rows. Of parquet only the footer is read, and of the row groups asked
for the columns asked for; of JSON see json_files.py. Heavy packages are imported where they are
needed: --help and a sample that is whole do without.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.files import UserError, clean_text, digest
from common.sampling.json_files import JSON_KINDS, KINDS, RUN, JsonFile, kind_of

PRE_BUFFER_BYTES = 64 << 20  # up to here a row group's columns come in one request, into memory
PIECE_BYTES = 16 << 20  # beyond, a column comes in pieces: memory is bounded for any row group
LFS_BYTES = 1024  # more than any pointer has
BATCH_ROWS = 64  # of some 36 KB of text each
RUN_WEIGHT = 10_000  # bytes of a row in parquet: a run is one row to the draw, however long it is
# Columns that may be absent (SWE-bench has none of these but repo), what others call one, and what
# of a chat is read.
OPTIONAL = {"repo", "pr_description", "interface", "language", "created_at"}
OTHER_NAMES = {"messages": "trajectory", "pr_description": "hints_text"}
CHATS = ("messages", "trajectory")
CHAT_KEYS = {"role", "content", "tool_calls", "function_call"}


class Dataset:
    """A dataset's files: `files` {path: size in bytes} and `revision`.

    `name` is a folder, a file, a glob, or a Hub id, read at `revision` (its newest commit); the
    revision of local files is a digest of their names and sizes. The files must hold the top-level
    `columns` under their own or their other name, but for OPTIONAL. Raises UserError.
    """

    def __init__(self, flag: str, name: str, columns, revision=None, train: bool = True):
        self.label = f"{flag} {name}"
        self.name = name
        self.columns = columns
        self.hub = None  # of a local one
        self.broken = {}  # (file, group): {row: why}, of the JSON rows that were no object
        self._footers = {}
        self._json = {}
        kinds = KINDS if "messages" in columns else KINDS[:-1]
        is_here = glob.has_magic(name) or Path(name).expanduser().exists()
        if not is_here and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
            from common.sampling.hub import Hub

            self.hub = Hub(flag, name, revision, train)
            self.files = self.hub.files
            self.revision = self.hub.revision
        else:
            self._root, self.files = local_files(Path(name).expanduser(), kinds)
            self.revision = "local-" + digest(json.dumps(self.files))[:16]
        if not any(self.files.values()):
            raise UserError(
                f"{self.label}: no file there that holds anything. Expected a folder or a glob of "
                f"{' '.join('*' + kind for kind in kinds)}, or a Hub dataset id such as owner/name."
            )

    def kinds(self) -> dict[str, int]:
        """Return how many files of each kind there are."""
        return dict(Counter(f"*{kind_of(file)}" for file in self.files))

    def weight(self, file: str) -> int:
        """Return a file's share in the draw: its bytes, or of a run one row's."""
        return RUN_WEIGHT if kind_of(file) == RUN else self.files[file]

    def row_groups(self, file: str) -> list[int]:
        """Return the number of rows of each row group of a file."""
        if kind_of(file) in JSON_KINDS:
            return self._json_file(file).group_sizes
        footer = self._footer(file)
        return [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]

    def groups(self) -> list[tuple[str, int]]:
        """Return (file, number) of all row groups; reads every footer."""
        return [(file, group) for file in self.files for group in range(len(self.row_groups(file)))]

    def rows(self, file: str, group: int, columns, wanted: set[int] | None = None):
        """Yield (row number in the file, value of each column) of one row group, or of rows of it.

        A value is None where Python has none; text that is no UTF-8 has U+FFFD in it.
        """
        if kind_of(file) in JSON_KINDS:
            for row, document in self._json_file(file).rows(group, wanted):
                if document is None:
                    self.broken.setdefault((file, group), {})[row] = "no JSON object"
                else:
                    yield row, *(value_of(document, column) for column in columns)
            return
        row = sum(self.row_groups(file)[:group])
        for batch in self.batches(file, group, columns):
            arrays = [batch[column] for column in columns]
            for index in range(batch.num_rows):
                if wanted is None or row in wanted:
                    yield row, *(plain_value(array[index]) for array in arrays)
                row += 1

    def batches(self, file: str, group: int, columns):
        """Yield columns of one row group in small batches, those that are not there as nulls.

        Raises UserError for a broken file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if kind_of(file) in JSON_KINDS:
            rows = [values for _, *values in self.rows(file, group, columns)]
            arrays = map(as_array, columns, zip(*rows))
            yield from [pa.RecordBatch.from_arrays(list(arrays), list(columns))] if rows else []
            return
        footer = self._footer(file)
        names = footer.schema.to_arrow_schema().names
        here = [name if names.count(name) == 1 else OTHER_NAMES.get(name) for name in columns]
        leaves = needed_leaves(footer, here)
        sizes = [footer.row_group(group).column(leaf).total_compressed_size for leaf in leaves]
        at_one_go = self.hub is not None and sum(sizes) <= PRE_BUFFER_BYTES
        buffer_size = 0 if at_one_go else PIECE_BYTES
        with self._plain_errors(file):
            options = {"metadata": footer, "pre_buffer": at_one_go, "buffer_size": buffer_size}
            with pq.ParquetFile(self._open(file), **options) as parquet:
                for batch in parquet.iter_batches(BATCH_ROWS, [group], list(leaves.values())):
                    nulls = pa.nulls(batch.num_rows)
                    arrays = [batch[name] if name in names else nulls for name in here]
                    yield pa.RecordBatch.from_arrays(arrays, list(columns))

    def _json_file(self, file: str) -> JsonFile:
        """Return a JSON file, opened once. Raises UserError when its first rows lack a column."""
        if file not in self._json:
            found = JsonFile(self._root / file)
            if found.group_sizes and not found.run:
                if not found.keys:
                    problem = "none of its first lines is a JSON object, as each has to be"
                    raise UserError(f"{self.label}: {file}: {problem}.")
                for column in self.columns:
                    names = {column, OTHER_NAMES.get(column)} & found.keys
                    self._check(file, column, [*names][:1])
            self._json[file] = found
        return self._json[file]

    def _check(self, file: str, column: str, paths: list[str]) -> None:
        """Raise UserError where a file's leaves of a column are not what it has to hold."""
        fits = paths in ([column], [OTHER_NAMES.get(column, column)])
        if column in CHATS:
            fits = len(paths) == len({*paths}) > 0
        if not fits and (paths or column not in OPTIONAL):
            raise UserError(
                f"{self.label}: {file}: expected one column {column!r} of text (messages: "
                f"of role and content), found {', '.join(paths) or 'none'}.\n"
                f"Needed: {', '.join(sorted({*self.columns} - OPTIONAL))}."
            )

    def _footer(self, file: str):
        """Return the footer of a file, read once. Raises UserError, also when it lacks a column."""
        import pyarrow.parquet as pq

        if file not in self._footers:
            with self._plain_errors(file), pq.ParquetFile(self._open(file)) as parquet:
                footer = parquet.metadata
            for column in self.columns:
                leaves = needed_leaves(footer, [column])
                leaves = leaves or needed_leaves(footer, [OTHER_NAMES.get(column)])
                self._check(file, column, list(leaves.values()))
            self._footers[file] = footer
        return self._footers[file]

    def _open(self, file: str):
        return self.hub.open(file) if self.hub else self._root / file

    @contextmanager
    def _plain_errors(self, file: str):
        """Raise UserError in place of what pyarrow raises for a file that is no parquet."""
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, EOFError, OSError) as error:
            if getattr(error, "errno", None):  # a disk's refusal has a number, a torn file none
                raise
            words = str(error).strip().partition("\n")[0][:150]
            problem = f"{file} is not a whole parquet file ({words})"
            raise UserError(f"{self.label}: {problem}.") from None


def local_files(path: Path, kinds) -> tuple[Path, dict[str, int]]:
    """Return the folder and {path below it: size} of a folder's, a glob's or a file's data.

    Of folders and globs only files of these kinds, no names that begin with `.` or `_`. Raises
    UserError where Git LFS has left a pointer in place of a file.
    """
    root = path.parent
    found = [path]
    if path.is_dir():
        root = path
        found = files_below(path)
    elif not path.is_file():
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        found = files_of_glob(path)
    sizes = {}
    for file in found:
        below = file.relative_to(root)
        is_hidden = any(part.startswith((".", "_")) for part in below.parts)
        is_asked = file == path or kind_of(file.name) in kinds and not is_hidden
        if is_asked and file.is_file():
            if clean_text(below.as_posix()) != below.as_posix():
                raise UserError(f"{ascii(str(file))}: its name is no UTF-8. Rename it.")
            size = sizes[below.as_posix()] = file.stat().st_size
            if 0 < size < LFS_BYTES and file.read_bytes().startswith(b"version https://git-lfs"):
                problem = "is a pointer of Git LFS. Run `git lfs pull` in its repository"
                raise UserError(f"{file} {problem}.")
    return root, dict(sorted(sizes.items()))  # the draw goes by their order


def files_of_glob(path: Path) -> Iterator[Path]:
    """Yield what a glob finds; below its `**` linked folders are followed, each once."""
    before, deep, rest = str(path).partition("**")
    if not deep:
        yield from map(Path, glob.glob(before))
    for folder in glob.glob(before or ".") if deep else ():
        below = files_below(Path(folder))
        yield from (file for file in below if file.match(rest.strip("/") or "*"))


def files_below(root: Path) -> Iterator[Path]:
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


def value_of(row: dict, column: str) -> object:
    """Return a JSON row's value of a column, under its own name or the other."""
    value = row.get(column)
    return row.get(OTHER_NAMES.get(column)) if value is None else value


def as_array(column: str, values: tuple):
    """Return JSON values as a column of text; times may be numbers."""
    import pyarrow as pa

    if column == "created_at":
        with suppress(pa.ArrowException, ValueError, OverflowError):
            return pa.array(values)
    return pa.array([None if value is None else as_text(value) for value in values], pa.string())


def as_text(value: object) -> str:
    """Return a value as clean text, null as ""."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if hasattr(value, "isoformat"):
        value = value.isoformat()
    return "" if value is None else clean_text(str(value))
