"""A dataset on the Hugging Face Hub at a pinned commit, read by byte range.

The ranges are our own, since huggingface_hub takes a body that came short for whole. All asking
again is in `Hub.with_retries`: what no pause mends raises UserError in plain words, an outage
raises Outage.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import sys
import time
from pathlib import Path
from uuid import uuid4

from fsspec.spec import AbstractBufferedFile
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
    """A Hub dataset at a pinned commit: `revision` and `files` {path: size in bytes}.

    The files are those of the split for training, or without `train` all others; if there are none
    of these, all.
    """

    def __init__(self, flag: str, name: str, asked: str | None, train: bool = True):
        self.what = f"{flag} {name}"
        self.name = name
        self.answered = False
        values = environment_values()
        keys = [key for key in ("HF_TOKEN", "HUGGINGFACE_API_KEY") if values.get(key)]
        self.variable = keys[0] if keys else None
        self.token = values[self.variable].strip() if keys else None
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise UserError(f"{self.variable} holds characters that no token has. Copy it again.")
        self.endpoint = (values.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        logging.set_verbosity_error()
        api = HfApi(endpoint=self.endpoint, token=self.token)

        self.revision = self.with_retries(lambda: api.dataset_info(name, revision=asked).sha)
        at = {"revision": self.revision, "repo_type": "dataset"}
        entries = self.with_retries(lambda: list(api.list_repo_tree(name, recursive=True, **at)))
        sizes = {entry.path: entry.size for entry in entries if entry.path.endswith(".parquet")}
        chosen = {path: size for path, size in sizes.items() if ("train" in path) == train}
        self.files = dict(sorted((chosen or sizes).items()))

    def with_retries(self, work):
        """Return work(), tried again after a pause. Raises UserError, Outage in the end."""
        for attempt in itertools.count(1):
            try:
                result = work()
                self.answered = True
                return result
            except TRANSIENT as error:
                response = getattr(error, "response", None)
                wait_s = min(2**attempt / 4, 30) * random.uniform(0.5, 1)
                if response is not None:
                    self.answered = True
                    self._stop_if_final(error, response.status_code)
                    wait_s = asked_wait_s(response.headers) or wait_s
                if not self.answered and attempt >= TRIES // 2:
                    raise UserError(
                        f"{self.endpoint} cannot be reached: {plain(error)}.\nCheck the network "
                        "and HF_ENDPOINT, or give local parquet: --dataset FOLDER --prs FOLDER."
                    ) from None
                if attempt >= TRIES:
                    raise Outage(f"{self.endpoint} does not answer well: {plain(error)}") from None
                if wait_s > 30:
                    words = f"the Hub asks to wait {wait_s:.0f} s (a token raises its limits)"
                    print(words, file=sys.stderr)
                time.sleep(wait_s)

    def _stop_if_final(self, error: Exception, status: int) -> None:
        """Raise UserError for a refusal that no pause mends."""
        if status >= 500 or status in (408, 425, 429):
            return
        if isinstance(error, errors.GatedRepoError):
            page = f"{self.endpoint}/datasets/{self.name}"
            advice = f"it is gated: accept its terms at {page}, set HF_TOKEN in .env to your token"
        elif isinstance(error, errors.RevisionNotFoundError):
            advice = "there is no such revision: check --revision, or leave it out"
        elif isinstance(error, errors.RepositoryNotFoundError) or not self.variable:
            advice = "check the name; a private one needs HF_TOKEN in .env"
        else:
            advice = f"{self.variable} may be expired, mistyped or without permission"
        raise UserError(f"{self.what}: {self.endpoint} refuses it ({status}).\n{advice}.")


class RemoteFile(AbstractBufferedFile):
    """A Hub file as a seekable file: every read is one request for just those bytes.

    With `keep` they are kept under HF_HOME (~/.cache/huggingface) for the next run.
    """

    def __init__(self, hub: Hub, file: str, keep: bool = False):
        super().__init__(None, file, cache_type="none", size=hub.files[file])
        self.hub = hub
        self.folder = None
        if keep:
            parts = hub.name.replace("/", "--"), hub.revision, file.replace("/", "--")
            self.folder = Path(constants.HF_HOME, "parquet_parts", *parts)

    def _fetch_range(self, start: int, end: int) -> bytes:
        """Return bytes [start, end) of the file. Raises UserError, Outage."""
        end = min(end, self.size)
        kept = self.folder / f"{start}-{end}" if self.folder else None
        if kept and kept.exists():
            return kept.read_bytes()
        hub = self.hub
        url = hf_hub_url(
            hub.name, self.path, repo_type="dataset", revision=hub.revision, endpoint=hub.endpoint
        )
        headers = build_hf_headers(token=hub.token) | {"Accept-Encoding": "identity"}
        options = {"follow_redirects": True, "timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT}
        body = bytearray()

        def read_the_rest() -> None:  # of a body that was cut
            first = start + len(body)
            headers["Range"] = f"bytes={first}-{end - 1}"
            with get_session().stream("GET", url, headers=headers, **options) as response:
                if response.status_code >= 400:
                    response.read()
                    hf_raise_for_status(response)
                if not response.headers.get("Content-Range", "").startswith(f"bytes {first}-"):
                    raise ConnectionError(f"{self.path} came whole, a byte range was asked for")
                for chunk in response.iter_bytes():
                    body.extend(chunk)
            if len(body) < end - start:
                raise ConnectionError(f"a body of {self.path} was cut short")

        hub.with_retries(read_the_rest)
        del body[end - start :]
        if kept:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".{uuid4()}.tmp"
            temporary.write_bytes(body)
            os.replace(temporary, kept)
        return bytes(body)


def plain(error: Exception) -> str:
    """Return an error as one line, without addresses (they may be signed)."""
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: " + re.sub(r"https?://\S+", "its address", first_line)


def asked_wait_s(headers) -> float | None:
    """Return the seconds that a refusal asks to wait, by Retry-After or the Hub's RateLimit."""
    after = re.fullmatch(r"(\d+)", headers.get("Retry-After", "").strip())
    limit = re.search(r"\br=0;t=(\d+)", headers.get("RateLimit", ""))  # "api";r=0;t=55
    asked = after or limit
    return min(float(asked[1]) + 0.5, LONGEST_WAIT_S) if asked else None
