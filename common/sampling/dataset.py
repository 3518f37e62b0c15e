"""A dataset: parquet files in a folder here or at a pinned commit of the Hugging Face Hub.

`Dataset` opens it and reads rows. Of a file only its footer is read, and of the row groups asked
for the columns asked for. Heavy packages are imported where they are needed: --help and a sample
that is whole do without.
"""

from __future__ import annotations

import glob
import itertools
import json
import re
from contextlib import contextmanager
from pathlib import Path

from common.files import UserError, clean_text, digest

PRE_BUFFER_BYTES = 64 << 20  # up to here a row group's columns come in one request, into memory
PIECE_BYTES = 16 << 20  # beyond, a column comes in pieces: memory is bounded for any row group
BATCH_ROWS = 64  # of some 36 KB of text each


class Dataset:
    """A dataset's files: `files` {path: size in bytes} and `revision`.

    `name` is a folder, a file, a glob, or a Hub id, read at `revision` (its newest commit); the
    revision of local files is a digest of their names and sizes. The files must hold the top-level
    `columns`. Raises UserError.
    """

    def __init__(self, flag: str, name: str, columns, revision=None, train: bool = True):
        self.label = f"{flag} {name}"
        self.name = name
        self.columns = columns
        self.hub = None  # of a local one
        self._footers = {}
        is_here = glob.has_magic(name) or Path(name).expanduser().exists()
        if not is_here and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
            from common.sampling.hub import Hub

            self.hub = Hub(flag, name, revision, train)
            self.files = self.hub.files
            self.revision = self.hub.revision
        else:
            self._root, self.files = local_files(Path(name).expanduser())
            self.revision = "local-" + digest(json.dumps(self.files))[:16]
        if not any(self.files.values()):
            raise UserError(
                f"{self.label}: no parquet file there that holds anything. Expected a folder or a "
                "glob of *.parquet files, or a Hub dataset id such as owner/name."
            )

    def row_groups(self, file: str) -> list[int]:
        """Return the number of rows of each row group of a file."""
        footer = self._footer(file)
        return [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]

    def groups(self) -> list[tuple[str, int]]:
        """Return (file, number) of all row groups; reads every footer."""
        return [(file, group) for file in self.files for group in range(len(self.row_groups(file)))]

    def column_names(self, file: str) -> list[str]:
        return self._footer(file).schema.to_arrow_schema().names

    def rows(self, file: str, group: int, columns, wanted: set[int] | None = None):
        """Yield (row number in the file, value of each column) of one row group, or of rows of it.

        A value is None where Python has none; text that is no UTF-8 has U+FFFD in it.
        """
        row = sum(self.row_groups(file)[:group])
        for batch in self.batches(file, group, columns):
            arrays = [batch[column] for column in columns]
            for index in range(batch.num_rows):
                if wanted is None or row in wanted:
                    yield row, *(plain_value(array[index]) for array in arrays)
                row += 1

    def batches(self, file: str, group: int, columns):
        """Yield columns of one row group in small batches. Raises UserError for a broken file."""
        import pyarrow.parquet as pq

        footer = self._footer(file)
        leaves = needed_leaves(footer, columns)
        sizes = [footer.row_group(group).column(leaf).total_compressed_size for leaf in leaves]
        at_one_go = self.hub is not None and sum(sizes) <= PRE_BUFFER_BYTES
        buffer_size = 0 if at_one_go else PIECE_BYTES
        with self._plain_errors(file):
            options = {"metadata": footer, "pre_buffer": at_one_go, "buffer_size": buffer_size}
            with pq.ParquetFile(self._open(file), **options) as parquet:
                yield from parquet.iter_batches(BATCH_ROWS, [group], list(leaves.values()))

    def _footer(self, file: str):
        """Return the footer of a file, read once. Raises UserError, also when it lacks a column."""
        import pyarrow.parquet as pq

        if file not in self._footers:
            with self._plain_errors(file), pq.ParquetFile(self._open(file)) as parquet:
                footer = parquet.metadata
            for column in self.columns:
                paths = list(needed_leaves(footer, [column]).values())
                fits = paths == [column]
                if column == "messages":
                    fits = len(paths) == len({*paths}) > 0
                if not fits:
                    raise UserError(
                        f"{self.label}: {file}: expected one column {column!r} of text (messages: "
                        f"of role and content), found {', '.join(paths) or 'none'}."
                    )
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


def local_files(path: Path) -> tuple[Path, dict[str, int]]:
    """Return the folder and {path below it: size} of a folder's, a glob's or a file's parquet.

    Of folders and globs, names that begin with `.` or `_` are passed over.
    """
    if path.is_file():
        return path.parent, {path.name: path.stat().st_size}
    if path.is_dir():
        root = path
        found = path.rglob("*.parquet")
    else:
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        found = map(Path, glob.glob(str(path), recursive=True))
    sizes = {}
    for file in found:
        below = file.relative_to(root)
        is_hidden = any(part.startswith((".", "_")) for part in below.parts)
        if file.is_file() and not is_hidden:
            sizes[below.as_posix()] = file.stat().st_size
    return root, dict(sorted(sizes.items()))  # the draw goes by their order


def needed_leaves(footer, columns) -> dict[int, str]:
    """Return {leaf: its path} of top-level columns; of a list of messages only role and content."""
    leaves = {}
    for leaf in range(len(footer.schema)):
        path = footer.schema.column(leaf).path
        top, *nested = path.split(".")
        if top in columns and (top != "messages" or not nested or {"role", "content"} & {*nested}):
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
