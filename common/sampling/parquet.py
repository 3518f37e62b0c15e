"""Parquet files of a dataset, in a folder here or at a pinned commit of the Hugging Face Hub.

Of a file only its footer is read, and of the row groups asked for the columns asked for.
"""

from __future__ import annotations

import glob
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.files import UserError, clean_text, digest
from common.sampling.hub import Hub, RemoteFile, plain

PRE_BUFFER_BYTES = 64 << 20  # up to here a row group's columns come in one request, into memory
PIECE_BYTES = 16 << 20  # beyond, a column comes in pieces: memory is bounded for any row group


class ParquetFiles:
    """A dataset's files: `files` {path: size in bytes}, `revision`, `bytes_read` of columns.

    `name` is a folder, a file, a glob, or a Hub id, read at `revision` (its newest commit); the
    revision of local files is a digest of their names and sizes. The files must hold the top-level
    `columns`. What is read of the Hub is kept for the next run with `keep`. Raises UserError.
    """

    def __init__(
        self, flag: str, name: str, columns, revision=None, train: bool = True, keep: bool = False
    ):
        self.what = f"{flag} {name}"
        self.name = name
        self.columns = columns
        self.keep = keep
        self.hub: Hub | None = None
        self.bytes_read = 0
        self._footers: dict[str, pq.FileMetaData] = {}
        path = Path(name).expanduser()
        is_here = glob.has_magic(name) or path.exists()
        if not is_here and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
            self.hub = Hub(flag, name, revision, train)
            self.files = self.hub.files
            self.revision = self.hub.revision
        else:
            if path.is_dir():
                self._root = path
                found = path.rglob("*.parquet")
            elif path.is_file():
                self._root = path.parent
                found = [path]
            else:
                fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
                self._root = Path(*fixed)
                found = map(Path, glob.glob(str(path), recursive=True))
            sizes = {}
            for file in found:
                if file.is_file():
                    sizes[file.relative_to(self._root).as_posix()] = file.stat().st_size
            self.files = dict(sorted(sizes.items()))  # the draw goes by their order
            self.revision = "local-" + digest(json.dumps(self.files))[:16]
        if not any(self.files.values()):
            raise UserError(
                f"{self.what}: no parquet file there that holds anything. Expected a folder or a "
                "glob of *.parquet files, or a Hub dataset id such as owner/name."
            )

    def groups(self) -> list[tuple[str, int]]:
        """Return (file, number) of all row groups; reads every footer."""
        return [
            (file, group)
            for file in self.files
            for group in range(self.footer(file).num_row_groups)
        ]

    def footer(self, file: str) -> pq.FileMetaData:
        """Return the footer of `file`, read once. Raises UserError, also when it lacks a column."""
        if file not in self._footers:
            with self._told(file), pq.ParquetFile(self._open(file)) as parquet:
                metadata = parquet.metadata
            for column in self.columns:
                paths = list(needed_leaves(metadata, [column]).values())
                if column == "messages":
                    fits = len(paths) == len({*paths}) > 0
                else:
                    fits = paths == [column]
                if not fits:
                    raise UserError(
                        f"{self.what}: {file}: expected one column {column!r} of text (messages: "
                        f"of role and content), found {', '.join(paths) or 'none'}."
                    )
            self._footers[file] = metadata
        return self._footers[file]

    def batches(self, file: str, group: int, columns) -> Iterator[pa.RecordBatch]:
        """Yield columns of one row group in small batches. Raises UserError for a broken file."""
        metadata = self.footer(file)
        size = self.size(file, group, columns)
        self.bytes_read += size
        at_one_go = self.hub is not None and size <= PRE_BUFFER_BYTES
        paths = list(needed_leaves(metadata, columns).values())
        parquet = pq.ParquetFile(
            self._open(file),
            metadata=metadata,
            pre_buffer=at_one_go,
            buffer_size=0 if at_one_go else PIECE_BYTES,
        )
        with self._told(file), parquet:
            yield from parquet.iter_batches(64, row_groups=[group], columns=paths)

    def rows(self, file: str, group: int, columns, wanted: set[int] | None = None):
        """Yield (row number in the file, value of each column) of one row group, or of rows of it.

        A value is None where Python has none; text that is no UTF-8 has U+FFFD in it.
        """
        row = sum(self.footer(file).row_group(before).num_rows for before in range(group))
        for batch in self.batches(file, group, columns):
            arrays = [batch[column] for column in columns]
            for place in range(batch.num_rows):
                if wanted is None or row in wanted:
                    yield row, *(plain_value(array[place]) for array in arrays)
                row += 1

    def size(self, file: str, group: int, columns) -> int:
        """Return the compressed bytes of columns of one row group."""
        metadata = self.footer(file)
        row_group = metadata.row_group(group)
        leaves = needed_leaves(metadata, columns)
        return sum(row_group.column(leaf).total_compressed_size for leaf in leaves)

    def _open(self, file: str):
        return RemoteFile(self.hub, file, self.keep) if self.hub else self._root / file

    @contextmanager
    def _told(self, file: str):
        try:
            yield
        except (pa.ArrowException, EOFError, OSError) as error:
            if getattr(error, "errno", None):  # a disk's refusal has a number, a torn file none
                raise
            problem = f"{file} is not a whole parquet file ({plain(error)[:150]})"
            raise UserError(f"{self.what}: {problem}.") from None


def needed_leaves(metadata: pq.FileMetaData, columns) -> dict[int, str]:
    """Return {leaf: its path} of top-level columns; of a list of messages only role and content."""
    leaves = {}
    for leaf in range(len(metadata.schema)):
        path = metadata.schema.column(leaf).path
        top, *nested = path.split(".")
        if top in columns and (top != "messages" or not nested or {"role", "content"} & {*nested}):
            leaves[leaf] = path
    return leaves


def plain_value(scalar: pa.Scalar) -> object:
    """Return a value: None where Python has none, U+FFFD in text that is no UTF-8."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        is_text = isinstance(scalar, pa.StringScalar)
        return scalar.as_buffer().to_pybytes().decode("utf-8", "replace") if is_text else None


def as_text(value: object) -> str:
    """Return a value as clean text, null as ""."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if hasattr(value, "isoformat"):
        value = value.isoformat()
    return "" if value is None else clean_text(str(value))
