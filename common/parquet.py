"""Parquet files of a dataset, in a folder here or at a pinned commit of the Hugging Face Hub.

Of a file only its footer is read, and of the row groups asked for the columns asked for.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import constants

from common.files import UserError, clean_text, digest
from common.hub import Hub, Outage, RemoteFile, plain

PRE_BUFFER_BYTES = 64 << 20  # up to here a row group's columns come in one request, into memory
PIECE_BYTES = 16 << 20  # beyond, a column comes in pieces: memory is bounded for any row group


class ParquetFiles:
    """A dataset's files: `files` {path: size in bytes}, `revision`, `bytes_read` of columns.

    `name` is a folder, a file, a glob, or a Hub id, read at `revision` (its newest commit); the
    revision of local files is a digest of their names and sizes. The files must hold the top-level
    `columns`. Raises UserError.
    """

    def __init__(self, flag: str, name: str, columns, revision=None, train: bool = True):
        self.what = f"{flag} {name}"
        self.name = name
        self.columns = columns
        self.hub: Hub | None = None
        self.bytes_read = 0
        self._footers: dict[str, pq.FileMetaData] = {}
        path = Path(name).expanduser()
        is_here = glob.has_magic(name) or path.exists()
        if not is_here and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
            try:
                self.hub = Hub(flag, name, revision, train)
            except Outage as outage:
                raise UserError(
                    f"{outage}.\nCheck the network and HF_ENDPOINT, or give local parquet: "
                    "--dataset FOLDER --prs FOLDER."
                ) from None
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
            wrong = "all of its parquet files are empty" if self.files else "no parquet file there"
            raise UserError(
                f"{self.what}: {wrong}. Expected a folder or a glob of *.parquet files, or a "
                "Hub dataset id such as owner/name."
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
                problem = column_problem(metadata, column)
                if problem:
                    raise UserError(
                        f"{self.what}: {file} {problem}\n"
                        f"Expected columns: {', '.join(self.columns)}."
                    )
            self._footers[file] = metadata
        return self._footers[file]

    def batches(self, file: str, group: int, columns, rows_at_once: int = 64):
        """Yield record batches of columns of one row group. Raises UserError for a broken file."""
        metadata = self.footer(file)
        size = self.size(file, group, columns)
        self.bytes_read += size
        at_one_go = self.hub is not None and size <= PRE_BUFFER_BYTES
        paths = [metadata.schema.column(leaf).path for leaf in needed_leaves(metadata, columns)]
        parquet = pq.ParquetFile(
            self._open(file),
            metadata=metadata,
            pre_buffer=at_one_go,
            buffer_size=0 if at_one_go else PIECE_BYTES,
        )
        with self._told(file), parquet:
            yield from parquet.iter_batches(rows_at_once, row_groups=[group], columns=paths)

    def clean_batches(self, file: str, group: int, columns) -> Iterator[pa.RecordBatch]:
        """Yield what `batches` does, all but numbers as clean text, null where there is none.

        A Hub dataset's row group is copied first, under HF_HOME (~/.cache/huggingface), and the
        copy is kept for the next run.
        """
        if self.hub is None:
            batches = self.batches(file, group, columns)
        else:
            batches = self._kept_batches(file, group, columns)
        for batch in batches:
            clean = {}
            for name, column in zip(batch.schema.names, batch.columns):
                is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
                if not is_number:
                    column = pa.array(map(as_text, plain_values(column)), pa.string())
                clean[name] = column
            yield pa.RecordBatch.from_pydict(clean)

    def _kept_batches(self, file: str, group: int, columns) -> Iterator[pa.RecordBatch]:
        folder = Path(constants.HF_HOME, "parquet_parts", self.name.replace("/", "--"))
        part = f"{file.replace('/', '--')}.{group}.{digest(*columns)[:8]}.parquet"
        path = folder / self.revision / part
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{part}.{os.getpid()}-{threading.get_ident()}.tmp")
            try:
                batches = self.batches(file, group, columns)
                first = next(batches)
                with pq.ParquetWriter(temporary, first.schema, compression="zstd") as writer:
                    for batch in itertools.chain([first], batches):
                        writer.write_batch(batch)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        with self._told(path), pq.ParquetFile(path) as parquet:
            yield from parquet.iter_batches(1024)

    def size(self, file: str, group: int, columns) -> int:
        """Return the compressed bytes of columns of one row group."""
        metadata = self.footer(file)
        row_group = metadata.row_group(group)
        leaves = needed_leaves(metadata, columns)
        return sum(row_group.column(leaf).total_compressed_size for leaf in leaves)

    def first_row(self, file: str, group: int) -> int:
        """Return the row number in the file of a row group's first row."""
        return sum(self.footer(file).row_group(before).num_rows for before in range(group))

    def _open(self, file: str):
        return RemoteFile(self.hub, file) if self.hub else self._root / file

    @contextmanager
    def _told(self, file: str | Path):
        try:
            yield
        except (pa.ArrowException, EOFError, OSError) as error:
            if getattr(error, "errno", None):  # a disk's refusal has a number, a torn file none
                raise
            problem = f"{file} is not a whole parquet file ({plain(error)[:150]})"
            raise UserError(f"{self.what}: {problem}.") from None


def needed_leaves(metadata: pq.FileMetaData, columns) -> list[int]:
    """Return the leaves of the top-level `columns`; of a list of messages only role and content."""
    leaves = []
    for leaf in range(len(metadata.schema)):
        top, *nested = metadata.schema.column(leaf).path.split(".")
        if top in columns and (top != "messages" or not nested or {"role", "content"} & {*nested}):
            leaves.append(leaf)
    return leaves


def column_problem(metadata: pq.FileMetaData, column: str) -> str | None:
    """Return why a file's column cannot be read, in words; None when it can."""
    schema = metadata.schema.to_arrow_schema()
    found = schema.get_all_field_indices(column)
    if not found:
        return f"has no column {column!r}; it has {', '.join(schema.names[:40])}."
    if len(found) > 1:
        return f"has {len(found)} columns named {column!r}; expected one."
    kind = schema.field(found[0]).type
    if column == "messages" and not needed_leaves(metadata, [column]):
        return f"holds {str(kind)[:80]} in 'messages'; expected a list of role and content."
    if column != "messages" and pa.types.is_nested(kind):
        return f"holds {str(kind)[:80]} in column {column!r}; expected text."
    return None


def plain_values(column: pa.Array) -> list:
    """Return a column's values: None where Python has none, U+FFFD in text that is no UTF-8."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        if len(column) > 1:
            return [plain_values(column.slice(place, 1))[0] for place in range(len(column))]
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return [
                value.decode("utf-8", "replace") for value in column.cast(pa.binary()).to_pylist()
            ]
        return [None]


def as_text(value: object) -> str:
    """Return a value as clean text, null as ""."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if hasattr(value, "isoformat"):
        value = value.isoformat()
    return "" if value is None else clean_text(str(value))
