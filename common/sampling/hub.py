"""A dataset on the Hugging Face Hub at a pinned commit.

huggingface_hub itself asks six times for a listing or a byte range that is refused or breaks off,
but takes a body that came short for whole, and asks once for a dataset's commit.
"""

import json
import os
import re
import time
from contextlib import suppress

from huggingface_hub import HfApi, HfFileSystem, constants, errors, get_token
from huggingface_hub.hf_file_system import HfFileSystemFile
from huggingface_hub.utils import logging

from common.config import check_way_out, environment_values
from common.files import ItemFailed, UserError

PAUSES_S = (0.5, 2, 8, 32)  # between tries; only the first where nothing answered at all
PATIENCE_S = 60.0  # with what huggingface_hub tried by itself
TOKENS = ("HF_TOKEN", "HUGGINGFACE_API_KEY", "HUGGING_FACE_HUB_TOKEN")
PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")

# huggingface_hub 1.x raises errors of httpx, 2.x of httpx2: its own error extends the right class.
HTTP_ERROR = errors.HfHubHTTPError.__bases__[0]
# RuntimeError: its client was closed by another thread, which could not connect.
TRANSIENT = (HTTP_ERROR, ConnectionError, TimeoutError, json.JSONDecodeError, RuntimeError)


class Hub:
    """A Hub dataset at a pinned commit: its `revision`, and {path: size} of its `files`."""

    def __init__(self, flag: str, name: str, asked: str | None, train: bool = True):
        self.label = f"{flag} {name}"
        self.name = name
        self.answered = False
        values = environment_values()
        tokens = {key: values.get(key) for key in TOKENS}
        with suppress(OSError, ValueError):  # a home that cannot be read holds no login
            tokens[f"the login saved in {constants.HF_TOKEN_PATH}"] = get_token()
        self.whose, token = next(((key, tokens[key]) for key in tokens if tokens[key]), ("", False))
        if token and not (token.isascii() and token.isprintable()):
            raise UserError(f"{self.whose} holds characters that no token has. Copy it again.")
        self.endpoint = (values.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        check_way_out(self.endpoint)
        logging.set_verbosity_error()
        api = HfApi(self.endpoint, token)
        self.remote = HfFileSystem(endpoint=self.endpoint, token=token, skip_instance_cache=True)
        self.revision = self.with_retries(lambda: api.dataset_info(name, revision=asked).sha)
        at = {"revision": self.revision, "repo_type": "dataset"}
        entries = self.with_retries(lambda: list(api.list_repo_tree(name, recursive=True, **at)))
        sizes = {entry.path: entry.size for entry in entries if entry.path.endswith(".parquet")}
        # Those of the split for training, or without `train` all others; if there are none, all.
        chosen = {path: size for path, size in sizes.items() if ("train" in path) == train}
        self.files = dict(sorted((chosen or sizes).items()))

    def open(self, file: str) -> HfFileSystemFile:
        """Return a file as a seekable one: every read is one request for just those bytes."""
        return self.with_retries(lambda: HubFile(self, file))

    def with_retries(self, work, length: int | None = None):
        """Return work(), of that length, tried again after pauses. Raises UserError, ItemFailed."""
        started = time.monotonic()
        for pause_s in (*PAUSES_S, None):
            try:
                result = work()
                self.answered = True
                if length is None or len(result) == length:
                    return result
                problem = f"{len(result)} bytes of {length} came"
            except Exception as error:
                status = getattr(getattr(error, "response", None), "status_code", 0)
                self.answered = self.answered or status > 0
                if 0 < status < 500 and status not in (408, 425, 429):
                    raise self._refusal(error, status) from None
                if self.answered and not isinstance(error, TRANSIENT):
                    raise
                words = str(error).strip().partition("\n")[0]
                words = re.sub(r"https?://\S+", "its address", words)  # it may be signed
                problem = f"{type(error).__name__}: {words}"
            if not self.answered and pause_s != PAUSES_S[0]:
                proxies = "".join(f", {name}" for name in os.environ if name.upper() in PROXIES)
                raise UserError(
                    f"{self.endpoint} cannot be reached: {problem}.\nCheck the network{proxies} "
                    "and HF_ENDPOINT, or give local parquet: --dataset FOLDER --prs FOLDER."
                )
            if pause_s is None or time.monotonic() - started > PATIENCE_S:
                words = f"{self.endpoint} does not answer well: {problem}"
                raise ItemFailed("the Hub did not answer well", words)
            time.sleep(pause_s)

    def _refusal(self, error: Exception, status: int) -> UserError:
        if isinstance(error, errors.GatedRepoError):
            page = f"{self.endpoint}/datasets/{self.name}"
            advice = f"it is gated: accept its terms at {page}, set HF_TOKEN in .env to your token"
        elif isinstance(error, errors.RevisionNotFoundError):
            advice = "there is no such revision: check --revision, or leave it out"
        elif not self.whose or status == 404:
            advice = "check the name; a private one needs HF_TOKEN in .env"
        else:  # public data asks for no token, but refuses one that has expired
            advice = f"{self.whose} may be expired, mistyped or without permission; renew it "
            advice += "(a login by `hf auth login`), or remove it: public data needs none"
        return UserError(f"{self.label}: {self.endpoint} refuses it ({status}).\n{advice}.")


class HubFile(HfFileSystemFile):
    """A file of a Hub dataset. A body of another length than was asked for is asked for again."""

    def __init__(self, hub: Hub, file: str):
        path = f"datasets/{hub.name}@{hub.revision}/{file}"
        super().__init__(hub.remote, path, cache_type="none", size=hub.files[file])
        self.hub = hub

    def _fetch_range(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        fetch = super()._fetch_range
        return self.hub.with_retries(lambda: fetch(start, end), end - start)
