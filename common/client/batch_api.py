"""A provider's files and batches over the SDK: upload and start, ask after, fetch."""

from __future__ import annotations

from functools import wraps
from pathlib import Path

import openai

from common.client import faults
from common.client.batch_files import ENDED
from common.client.run import Run
from common.client.wire import fault_behind
from common.environment import Endpoint
from common.files import write_bytes


def _or_fault(method):
    """Let a method raise Fault, whatever goes wrong: nothing a provider answers may end the run."""

    @wraps(method)
    async def told(*arguments):
        try:
            return await method(*arguments)
        except openai.APIStatusError as error:
            words = faults.provider_words(error.response.content)
            raise faults.sort_status(error.status_code, words, error.response.headers) from None
        except Exception as error:
            raise fault_behind(error) from None

    return told


class BatchApi:
    """The batches at one provider."""

    def __init__(self, endpoint: Endpoint, run: Run):
        self._run = run
        # The environment may name an organization at another provider.
        nobody = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
        self._client = openai.AsyncOpenAI(
            api_key=endpoint.api_key or "none",
            base_url=endpoint.base_url,
            default_headers=nobody,
            http_client=openai.DefaultAioHttpClient(follow_redirects=False),
        )

    async def close(self) -> None:
        """Close all sockets."""
        await self._client.close()

    @_or_fault
    async def upload(self, path: Path) -> str:
        """Return the id of a request file at the provider."""
        with open(path, "rb") as file:
            upload = (path.name, file, "application/jsonl")
            uploaded = await self._client.files.create(file=upload, purpose="batch")
        return _text(uploaded.id)

    @_or_fault
    async def start(self, file_id: str, mark: str) -> dict:
        """Start a batch on an uploaded file; return what the state holds of it.

        It is tried once: a start whose answer is lost may be one.
        """
        batch = await self._client.with_options(max_retries=0).batches.create(
            input_file_id=file_id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"mark": mark},
        )
        return self._state_of(batch)

    async def _find(self, entry: dict):
        """Return the batch that was started with an entry's file, None without one."""
        async for batch in self._client.batches.list(limit=100):
            mark = (batch.metadata or {}).get("mark")
            if mark == entry["mark"] or batch.input_file_id == entry["input_file_id"]:
                return batch
        return None

    def _state_of(self, batch) -> dict:
        problems = getattr(batch.errors, "data", None) or []
        words = "; ".join(str(getattr(one, "message", one)) for one in problems[:3])
        return {
            "batch_id": _text(batch.id),
            "status": _text(batch.status).lower(),
            "words": self._run.masked(words)[:400],
        }

    @_or_fault
    async def follow(self, entry: dict, path: Path) -> dict | None:
        """Return what the state holds of an entry's batch now, None where it was never started.

        The output and the error file of one that has ended are written to `path` as one.
        """
        if entry["batch_id"]:
            batch = await self._client.batches.retrieve(entry["batch_id"])
        else:
            batch = await self._find(entry)
        if batch is None:
            return None
        state = self._state_of(batch)
        if state["status"] in ENDED:
            parts = []
            for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
                parts.append((await self._client.files.content(file_id)).content)
            if not parts and state["status"] == "completed":
                raise ValueError("completed, but it names no file of results yet")
            write_bytes(path, self._run.masked_bytes(b"\n".join(parts)))
        return state


def _text(value: object) -> str:
    """Return an id or a status. Raises ValueError for what is none."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"no id or status in the answer, but {value!r:.40}")
    return value
