"""One HTTP attempt: send a request through the openai SDK and read what came back.

The SDK's client, auth, transport and errors are kept. Two of its layers are passed by, because
they cost more than the call itself: the typed transform of the messages (the request goes out as
the bytes that we serialise once) and the typed chunk models of a stream (140-170 microseconds an
event; the stream's bytes are read and parsed here instead).

Importing this module takes a second (openai): import it only once there is something to ask.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import aiohttp
import httpx2
import openai

from common.client.completion import Completion, read_completion
from common.client.faults import Fault, provider_words, sort_break, sort_status
from common.config import CallSettings

# The SDK then hands over bytes.
_RAW_STREAM = {"Content-Type": "application/json", "X-Stainless-Raw-Response": "stream"}
_CONNECT_S = 15
_MAX_BODY_BYTES = 64 * 2**20  # a server that never ends must not fill the memory
_INVOCATION_HEADERS = ("x-chutes-invocationid", "x-request-id")


class Connection:
    """The SDK's client for one provider.

    Retrying is the caller's alone: the SDK's would hide rate limits from the pace of a model.
    """

    def __init__(self, base_url: str, api_key: str):
        # 0: as many as are asked for. None would be aiohttp's own hundred for all models together.
        limits = httpx2.Limits(max_connections=0, keepalive_expiry=20)
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or "none",
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(limits=limits),
        )
        # Models whose server refuses stream_options: their streams tell no usage.
        self._without_usage: set[str] = set()

    async def close(self) -> None:
        """Close all sockets."""
        await self._client.close()

    async def models(self) -> list[dict]:
        """Return the provider's free list of models, as it stands there."""
        response = await self._client.get("/models", cast_to=httpx2.Response)
        return response.json()["data"]

    async def complete(
        self, call: CallSettings, messages: list[dict], max_tokens: int, alive: Callable[[], None]
    ) -> Completion:
        """Return a completion from one attempt; `alive()` is called when words arrive.

        Raises Fault.
        """
        body = {"model": call.model, "messages": messages, **call.sampling()}
        body["max_tokens"] = max_tokens
        if call.stream:
            body["stream"] = True
            if call.model not in self._without_usage:
                body["stream_options"] = {"include_usage": True}
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        try:
            return await asyncio.wait_for(self._send(content, call, alive), call.timeout_s)
        except asyncio.TimeoutError:
            detail = f"not finished after {call.timeout_s:g} s"
            raise Fault("transient", "no whole reply in time", detail) from None
        except openai.APIStatusError as error:
            status = error.status_code
            said = error.response.content
            if status in (400, 422) and "stream_options" in body and b"stream_options" in said:
                self._without_usage.add(call.model)
                return await self.complete(call, messages, max_tokens, alive)
            raise sort_status(status, provider_words(said), error.response.headers) from None
        except (openai.APIError, httpx2.HTTPError, aiohttp.ClientError, OSError) as error:
            raise sort_break(error) from None

    async def _send(
        self, content: bytes, call: CallSettings, alive: Callable[[], None]
    ) -> Completion:
        silence_s = call.stall_s
        if not call.stream:
            silence_s = call.timeout_s  # without a stream, silence is how a reply is made
        timeout = httpx2.Timeout(connect=_CONNECT_S, read=silence_s, write=call.stall_s, pool=None)
        response = await self._client.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=content,
            options={"headers": _RAW_STREAM, "timeout": timeout},
        )
        try:
            body = await _read(response, alive)
        finally:
            await response.aclose()
        completion = read_completion(body)
        for name in _INVOCATION_HEADERS:
            if response.headers.get(name):
                completion.invocation_id = response.headers[name]
                break
        return completion


async def _read(response, alive: Callable[[], None]) -> bytes:
    parts = []
    size = 0
    async for part in response.aiter_bytes():
        if b'"delta"' in part:  # words of a reply, not a comment that keeps the connection open
            alive()
        parts.append(part)
        size += len(part)
        if size > _MAX_BODY_BYTES:
            raise Fault("transient", "endless reply", f"more than {_MAX_BODY_BYTES} bytes")
    return b"".join(parts)
