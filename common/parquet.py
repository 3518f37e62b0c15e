"""Parquet files of a dataset, in a folder here or at a pinned commit of the Hugging Face Hub, read by byte range.

Of a file only its footer and the columns asked for of the row groups asked for are read. All waiting and asking again
is in `Hub.with_retries`: a fault that no pause mends raises UserError (exit code 2) in plain words, an outage raises Outage.
"""

from __future__ import annotations

import glob
import io
import itertools
import json
import random
import re
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, logging

from common.config import environment_values
from common.files import UserError, digest

TRIES = 8  # with the pauses between them about a minute; half as many where nothing answered at all
LONGEST_WAIT_S = 300  # the Hub counts requests over windows of five minutes
PRE_BUFFER_BYTES = (
    64 << 20
)  # up to here a row group's columns come in one request and stay in memory while it is read
PIECE_BYTES = (
    16 << 20
)  # beyond, a column comes in pieces of this size: memory is bounded however large the row group

# huggingface_hub 1.x raises errors of httpx, 2.x of httpx2: the class that its own error extends names the right one.
HTTP_ERRORS = (
    HfHubHTTPError.__bases__[0],
    HfHubHTTPError,
    ConnectionError,
    TimeoutError,
    json.JSONDecodeError,
)


class Outage(Exception):
    """The Hub did not answer well, however often it was asked."""


class CutBody(ConnectionError):
    """A body that is not, or not all of, the byte range that was asked for."""


def open_dataset(flag: str, name: str, columns, revision: str | None = None) -> ParquetFiles:
    """The dataset that a flag names: a folder, a glob, or a Hub id at `revision` (default: its newest commit).

    Its files must hold the top-level `columns`. Raises UserError.
    """
    here = glob.has_magic(name) or Path(name).expanduser().exists()
    if not here and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        try:
            hub = Hub(flag, name, revision)
        except Outage as outage:
            raise UserError(
                f"{outage}.\nCheck the network and HF_ENDPOINT, or give local parquet: --dataset FOLDER "
                "--prs FOLDER."
            ) from None
        return ParquetFiles(
            flag, name, columns, hub.revision, hub.files, lambda file: RemoteFile(hub, file)
        )
    root, files = local_files(Path(name).expanduser())
    if not files:
        raise UserError(
            f"{flag} {name}: no parquet file there. Expected a folder or a glob of *.parquet files, or a Hub "
            "dataset id such as owner/name."
        )
    listing = "local-" + digest(json.dumps(files))[:16]
    return ParquetFiles(flag, name, columns, listing, files, lambda file: root / file, local=True)


def local_files(path: Path) -> tuple[Path, dict[str, int]]:
    """The folder that holds them all, and {path below it: size in bytes}."""
    root = path.parent if path.is_file() else path
    found = [path] if path.is_file() else path.rglob("*.parquet")
    if glob.has_magic(str(path)):
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        found = map(Path, glob.glob(str(path), recursive=True))
    sizes = {
        file.relative_to(root).as_posix(): file.stat().st_size for file in found if file.is_file()
    }
    return root, {file: sizes[file] for file in sorted(sizes)}


class ParquetFiles:
    """`files` {path: size in bytes}, `revision` (commit, or digest of a local listing), `bytes_read` of columns."""

    def __init__(
        self,
        flag: str,
        name: str,
        columns,
        revision: str,
        files: dict[str, int],
        opened,
        local=False,
    ):
        self.flag, self.name, self.columns, self.revision, self.files = (
            flag,
            name,
            columns,
            revision,
            files,
        )
        self.opened, self.local, self.bytes_read = opened, local, 0
        self._footers: dict[str, pq.FileMetaData] = {}
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def footer(self, file: str) -> pq.FileMetaData:
        """The footer of `file`, read once. Raises UserError when it is no parquet or lacks a column."""
        with self._locks[file]:
            if file not in self._footers:
                with self._told(file), pq.ParquetFile(self.opened(file)) as parquet:
                    names, self._footers[file] = parquet.schema_arrow.names, parquet.metadata
                for column in self.columns:
                    if column not in names:
                        raise UserError(
                            f"{self.flag} {self.name}: {file} has no column {column!r}; it has "
                            f"{', '.join(names)}.\nExpected at least {', '.join(self.columns)}."
                        )
            return self._footers[file]

    def batches(self, file: str, group: int, columns, rows_at_once: int):
        """Record batches of columns of one row group, in order. Raises UserError when they do not decode."""
        metadata, size = self.footer(file), self.size(file, group, columns)
        pre_buffer = not self.local and size <= PRE_BUFFER_BYTES
        self.bytes_read += size
        paths = [metadata.schema.column(leaf).path for leaf in needed_leaves(metadata, columns)]
        with (
            self._told(file),
            pq.ParquetFile(
                self.opened(file),
                metadata=metadata,
                pre_buffer=pre_buffer,
                buffer_size=0 if pre_buffer else PIECE_BYTES,
            ) as parquet,
        ):
            yield from parquet.iter_batches(rows_at_once, row_groups=[group], columns=paths)

    def size(self, file: str, group: int, columns) -> int:
        """Compressed bytes of columns of one row group."""
        metadata = self.footer(file)
        return sum(
            metadata.row_group(group).column(leaf).total_compressed_size
            for leaf in needed_leaves(metadata, columns)
        )

    def first_row(self, file: str, group: int) -> int:
        """Row number in the file of a row group's first row."""
        return sum(self.footer(file).row_group(before).num_rows for before in range(group))

    @contextmanager
    def _told(self, file: str):
        try:
            yield
        except (pa.ArrowException, EOFError, OSError) as error:
            if getattr(error, "errno", None):  # a disk's refusal has a number, a torn file none
                raise
            raise UserError(
                f"{self.flag} {self.name}: {file} is not a whole parquet file ({plain(error)[:150]})."
            ) from None


def needed_leaves(metadata: pq.FileMetaData, columns) -> list[int]:
    """Leaf columns under the top-level `columns`; of a list of messages only role and content."""
    leaves = []
    for leaf in range(len(metadata.schema)):
        top, *nested = metadata.schema.column(leaf).path.split(".")
        if top in columns and (
            top != "messages" or not nested or {"role", "content"} & set(nested)
        ):
            leaves.append(leaf)
    return leaves


class Hub:
    """A Hub dataset at a pinned commit: `revision`, `files` {path: size in bytes}, byte ranges."""

    def __init__(self, flag: str, name: str, asked: str | None):
        values = environment_values()
        self.flag, self.name, self.asked, self.answered = flag, name, asked, False
        self.variable = next(
            (key for key in ("HF_TOKEN", "HUGGINGFACE_API_KEY") if values.get(key)), None
        )
        self.token = values[self.variable].strip() if self.variable else None
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise UserError(
                f"{self.variable} holds characters that no token has. Copy it into .env again."
            )
        self.endpoint = (values.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        if not self.endpoint.startswith(("http://", "https://")):
            raise UserError(
                f"HF_ENDPOINT = {self.endpoint!r}: expected an address such as https://huggingface.co."
            )
        logging.set_verbosity_error()
        api = HfApi(endpoint=self.endpoint, token=self.token)
        self.revision = self.with_retries(lambda: api.dataset_info(name, revision=asked).sha)
        listing = self.with_retries(
            lambda: list(
                api.list_repo_tree(
                    name, recursive=True, revision=self.revision, repo_type="dataset"
                )
            )
        )
        sizes = {item.path: item.size for item in listing if item.path.endswith(".parquet")}
        train = {path: size for path, size in sizes.items() if "train" in path}
        self.files = dict(sorted((train or sizes).items()))
        if not self.files:
            raise UserError(f"{flag} {name}: no parquet file in this Hub dataset.")

    def read(self, file: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of a file. What came of a body that was cut is kept: only the rest is asked for again."""
        body = bytearray()

        def rest():
            for chunk in self._stream(file, start + len(body), end):
                body.extend(chunk)
            if len(body) < end - start:
                raise CutBody(f"a body of {file} was cut short")

        self.with_retries(rest)
        return bytes(memoryview(body)[: end - start])

    def _stream(self, file: str, start: int, end: int):
        url = hf_hub_url(
            self.name, file, repo_type="dataset", revision=self.revision, endpoint=self.endpoint
        )
        headers = {
            **build_hf_headers(token=self.token),
            "Range": f"bytes={start}-{end - 1}",
            "Accept-Encoding": "identity",
        }
        with get_session().stream(
            "GET",
            url,
            headers=headers,
            follow_redirects=True,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        ) as response:
            if response.status_code >= 400:
                response.read()
                hf_raise_for_status(response)
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise CutBody(f"{file} came whole where a byte range was asked for")
            yield from response.iter_bytes()

    def with_retries(self, work):
        """`work()`, again after a pause when it fails. Raises UserError for what no pause mends, Outage in the end."""
        for attempt in itertools.count(1):
            try:
                result = work()
                self.answered = True
                return result
            except HTTP_ERRORS as error:
                response = getattr(error, "response", None)
                self.answered |= response is not None
                self._stop_if_final(error, response.status_code if response is not None else None)
                if attempt >= (TRIES if self.answered else TRIES // 2):
                    trouble = "does not answer well" if self.answered else "cannot be reached"
                    raise Outage(f"{self.endpoint} {trouble}: {plain(error)}") from None
                wait_s = asked_wait_s(response) or min(2**attempt / 4, 30) * random.uniform(0.5, 1)
                if wait_s > 20:
                    print(
                        f"the Hub asks to wait {wait_s:.0f} s (a token in HF_TOKEN raises its limits)",
                        file=sys.stderr,
                    )
                time.sleep(wait_s)

    def _stop_if_final(self, error: Exception, status: int | None) -> None:
        what = f"{self.flag} {self.name}"
        if isinstance(error, GatedRepoError):
            token = (
                f"the token in {self.variable} was refused or has no access"
                if self.variable
                else "no token is set"
            )
            raise UserError(
                f"{what} is gated and {token}. Accept its terms at {self.endpoint}/datasets/{self.name},\n"
                "and set HF_TOKEN in .env to a token of that account."
            )
        if isinstance(error, RevisionNotFoundError):
            raise UserError(
                f"{what} has no revision {self.asked!r}. Check --revision, or leave it out."
            )
        if self.variable and (
            status == 403 or status == 401 and not isinstance(error, RepositoryNotFoundError)
        ):
            raise UserError(
                f"{self.variable} was refused for {what} ({status}): expired, mistyped or without permission.\n"
                f"Make one at {self.endpoint}/settings/tokens; public datasets need none."
            )
        if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
            key = (
                f"that {self.variable} may read"
                if self.variable
                else "only with a token in HF_TOKEN"
            )
            raise UserError(
                f"{what}: {self.endpoint} has no such dataset ({status}); check the name. A private one opens "
                f"{key}."
            )
        if status is not None and 400 <= status < 500 and status not in (408, 425, 429):
            raise UserError(f"{what}: {self.endpoint} refused the request ({status}).")


class RemoteFile(io.RawIOBase):
    """A Hub file as a seekable file for pyarrow. Every read is one request for just those bytes: no read-ahead."""

    def __init__(self, hub: Hub, file: str):
        self.hub, self.file, self.length, self.at = hub, file, hub.files[file], 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.length}[whence]
        return self.at

    def read(self, length: int = -1) -> bytes:
        end = self.length if length is None or length < 0 else min(self.at + length, self.length)
        data = self.hub.read(self.file, self.at, end) if end > self.at else b""
        self.at += len(data)
        return data


def plain(error: Exception) -> str:
    """An error in one line, without addresses (they may be signed)."""
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: " + re.sub(r"https?://\S+", "its address", first_line)


def asked_wait_s(response) -> float | None:
    """Seconds that a refusal asks to wait: Retry-After, or the Hub's own `RateLimit: "api";r=0;t=55`."""
    if response is None:
        return None
    asked = re.fullmatch(r"(\d+)", response.headers.get("Retry-After", "").strip()) or re.search(
        r"\br=0;t=(\d+)", response.headers.get("RateLimit", "")
    )
    return min(float(asked[1]) + 0.5, LONGEST_WAIT_S) if asked else None


def in_background(work, *args) -> Future:
    """work(*args) in a daemon thread: one that waits for a stalled server must not hold up Ctrl-C."""
    future: Future = Future()

    def target():
        try:
            future.set_result(work(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=target, daemon=True).start()
    return future
