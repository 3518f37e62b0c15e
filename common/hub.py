"""A dataset on the Hugging Face Hub at a pinned commit, read by byte range.

By ranges of our own, since huggingface_hub asks anew for the whole of a body that was cut, and
takes one that came short for whole. All asking again is in `Hub.with_retries`: what no pause
mends raises UserError in plain words, an outage raises Outage.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import sys
import time

from huggingface_hub import HfApi, constants, errors, hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, logging

from common.config import environment_values
from common.files import UserError

TRIES = 8  # with the pauses between them about a minute; half as many where nothing answered at all
LONGEST_WAIT_S = 300  # the Hub counts requests over windows of five minutes

# huggingface_hub 1.x raises errors of httpx, 2.x of httpx2: its own error extends the right class.
HTTP_ERROR = errors.HfHubHTTPError.__bases__[0]
TRANSIENT = (HTTP_ERROR, errors.HfHubHTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)


class Outage(Exception):
    """The Hub did not answer well, however often it was asked."""


class Hub:
    """A Hub dataset at a pinned commit: `revision`, `files` {path: size in bytes}, byte ranges.

    The files are those of the split for training, or without `train` all others; if there are none
    of these, all.
    """

    def __init__(self, flag: str, name: str, asked: str | None, train: bool = True):
        self.what = f"{flag} {name}"
        self.name = name
        self.asked = asked
        self.answered = False
        values = environment_values()
        keys = [key for key in ("HF_TOKEN", "HUGGINGFACE_API_KEY") if values.get(key)]
        self.variable = keys[0] if keys else None
        self.token = values[keys[0]].strip() if keys else None
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise UserError(f"{self.variable} holds characters that no token has. Copy it again.")
        self.endpoint = (values.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        if not self.endpoint.startswith(("http://", "https://")):
            raise UserError(
                f"HF_ENDPOINT = {self.endpoint!r}: expected an address such as "
                "https://huggingface.co."
            )
        logging.set_verbosity_error()
        api = HfApi(endpoint=self.endpoint, token=self.token)
        self.revision = self.with_retries(lambda: api.dataset_info(name, revision=asked).sha)
        self.files = self.with_retries(lambda: self._listing(api, train))

    def _listing(self, api: HfApi, train: bool) -> dict[str, int]:
        entries = api.list_repo_tree(
            self.name, recursive=True, revision=self.revision, repo_type="dataset"
        )
        sizes = {entry.path: entry.size for entry in entries if entry.path.endswith(".parquet")}
        chosen = {path: size for path, size in sizes.items() if ("train" in path) == train}
        return dict(sorted((chosen or sizes).items()))

    def read(self, file: str, start: int, end: int) -> bytes:
        """Return bytes [start, end) of a file; ask only for the rest of a body that was cut."""
        body = bytearray()

        def read_the_rest() -> None:
            for chunk in self._stream(file, start + len(body), end):
                body.extend(chunk)
            if len(body) < end - start:
                raise ConnectionError(f"a body of {file} was cut short")

        self.with_retries(read_the_rest)
        return bytes(memoryview(body)[: end - start])

    def _stream(self, file: str, start: int, end: int):
        url = hf_hub_url(
            self.name, file, repo_type="dataset", revision=self.revision, endpoint=self.endpoint
        )
        headers = build_hf_headers(token=self.token)
        headers |= {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        options = {"follow_redirects": True, "timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT}
        with get_session().stream("GET", url, headers=headers, **options) as response:
            if response.status_code >= 400:
                response.read()
                hf_raise_for_status(response)
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise ConnectionError(f"{file} came whole where a byte range was asked for")
            yield from response.iter_bytes()

    def with_retries(self, work):
        """Return work(), tried again after a pause. Raises UserError at once, Outage in the end."""
        for attempt in itertools.count(1):
            try:
                result = work()
                self.answered = True
                return result
            except TRANSIENT as error:
                response = getattr(error, "response", None)
                if response is not None:
                    self.answered = True
                    self._stop_if_final(error, response.status_code)
                if attempt >= (TRIES if self.answered else TRIES // 2):
                    trouble = "does not answer well" if self.answered else "cannot be reached"
                    raise Outage(f"{self.endpoint} {trouble}: {plain(error)}") from None
                pause_s = min(2**attempt / 4, 30) * random.uniform(0.5, 1)
                wait_s = asked_wait_s(response) or pause_s
                if wait_s > 20:
                    words = f"the Hub asks to wait {wait_s:.0f} s (a token raises its limits)"
                    print(words, file=sys.stderr)
                time.sleep(wait_s)

    def _stop_if_final(self, error: Exception, status: int) -> None:
        """Raise UserError for a refusal that no pause mends."""
        unknown = isinstance(error, errors.RepositoryNotFoundError)
        if isinstance(error, errors.GatedRepoError):
            token = "the token was refused or has no access" if self.token else "no token is set"
            raise UserError(
                f"{self.what} is gated and {token}. Accept its terms at "
                f"{self.endpoint}/datasets/{self.name},\n"
                "and set HF_TOKEN in .env to a token of that account."
            )
        if isinstance(error, errors.RevisionNotFoundError):
            raise UserError(
                f"{self.what} has no revision {self.asked!r}. Check --revision, or leave it out."
            )
        if self.variable and (status == 403 or status == 401 and not unknown):
            raise UserError(
                f"{self.variable} was refused for {self.what} ({status}): expired, mistyped or "
                f"without permission.\nMake one at {self.endpoint}/settings/tokens; "
                "public datasets need none."
            )
        if unknown or status in (401, 403, 404):
            token = f"that {self.variable} may read" if self.token else "with a token in HF_TOKEN"
            raise UserError(
                f"{self.what}: {self.endpoint} has no such dataset ({status}); check the name. "
                f"A private one opens only {token}."
            )
        if 400 <= status < 500 and status not in (408, 425, 429):
            raise UserError(f"{self.what}: {self.endpoint} refused the request ({status}).")


class RemoteFile(io.RawIOBase):
    """A Hub file as a seekable file: every read is one request for just those bytes."""

    def __init__(self, hub: Hub, file: str):
        self.hub = hub
        self.file = file
        self.length = hub.files[file]
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.length}[whence]
        self.at = start + offset
        return self.at

    def read(self, length: int = -1) -> bytes:
        end = self.length if length is None or length < 0 else min(self.at + length, self.length)
        data = self.hub.read(self.file, self.at, end) if end > self.at else b""
        self.at += len(data)
        return data


def plain(error: Exception) -> str:
    """Return an error as one line, without addresses (they may be signed)."""
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: " + re.sub(r"https?://\S+", "its address", first_line)


def asked_wait_s(response) -> float | None:
    """Return the seconds that a refusal asks to wait, by Retry-After or the Hub's RateLimit."""
    if response is None:
        return None
    after = re.fullmatch(r"(\d+)", response.headers.get("Retry-After", "").strip())
    limit = re.search(r"\br=0;t=(\d+)", response.headers.get("RateLimit", ""))  # "api";r=0;t=55
    asked = after or limit
    return min(float(asked[1]) + 0.5, LONGEST_WAIT_S) if asked else None
