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

from common.client.clock import AwakeClock, TimeLimit
from common.client.completion import Completion, read_completion
from common.client.costs import Model, read_models
from common.client.faults import Fault, parse_json, provider_words, sort_status
from common.config import CallSettings
from common.environment import Endpoint
from common.files import printable

# The SDK then hands over bytes.
_RAW_STREAM = {"Content-Type": "application/json", "X-Stainless-Raw-Response": "stream"}
_CONNECT_S = 15
_LIST_S = 4  # the first finished reply waits for the prices: less than the grace of an interrupt
# A server that never ends must not fill the memory.
_MAX_BODY_BYTES = 64 * 2**20
_MAX_ERROR_BYTES = 64 * 2**10
_INVOCATION_HEADERS = ("x-chutes-invocationid", "x-request-id")
_NEVER_REACHED = (aiohttp.ClientConnectorError, httpx2.ConnectError, ConnectionRefusedError)


class Connection:
    """The SDK's client for one provider, and the provider's price list.

    Retrying is the caller's alone: the SDK's would hide rate limits from the pace of a model.
    """

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint
        self._prices: asyncio.Future | None = None
        # 0: as many as are asked for. None would be aiohttp's own hundred for all models together.
        limits = httpx2.Limits(max_connections=0, keepalive_expiry=20)
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.api_key or "none",
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(
                limits=limits,
                follow_redirects=False,  # prompt and key go nowhere else; a POST may become a GET
                event_hooks={"response": [_cap_body]},
            ),
        )

    async def close(self) -> None:
        """Close all sockets."""
        if self._prices is not None:
            self._prices.cancel()
        await self._client.close()

    async def models(self) -> dict[str, Model]:
        """Return the models of the provider's free list by id. Raises Fault."""
        try:
            request = self._client.get("/models", cast_to=httpx2.Response)
            return read_models(parse_json((await asyncio.wait_for(request, _LIST_S)).content))
        except asyncio.TimeoutError:
            detail = f"the model list did not come within {_LIST_S} s"
            raise Fault("transient", "no answer", detail, reached=False) from None
        except Exception as error:
            raise _fault_behind(error) from None

    def fetch_prices(self) -> None:
        """Begin to fetch the model list, once; it stays empty when it cannot be had."""

        async def models_or_none() -> dict[str, Model]:
            try:
                return await self.models()
            except Fault:
                return {}

        if self._prices is None:
            self._prices = asyncio.ensure_future(models_or_none())

    async def model(self, name: str) -> Model:
        """Return a model's prices, unknown ones where the list does not tell."""
        self.fetch_prices()
        return (await asyncio.shield(self._prices)).get(name, Model())

    async def complete(
        self,
        call: CallSettings,
        messages: list[dict],
        max_tokens: int,
        clock: AwakeClock,
        alive: Callable[[], None],
    ) -> Completion:
        """Return a completion from one attempt; `alive()` is called when words arrive.

        Raises Fault.
        """
        body = {"model": call.model, "messages": messages, **call.sampling()}
        body["max_tokens"] = max_tokens
        if call.stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        # Without a stream, silence is how a reply is made.
        silence_s = call.stall_s if call.stream else call.timeout_s
        limit = TimeLimit(clock, silence_s, call.timeout_s)
        try:
            return await limit.run(self._send(content, limit, alive))
        except Exception as error:
            raise _fault_behind(error) from None

    async def _send(
        self, content: bytes, limit: TimeLimit, alive: Callable[[], None]
    ) -> Completion:
        timeout = httpx2.Timeout(None, connect=_CONNECT_S)
        response = await self._client.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=content,
            options={"headers": _RAW_STREAM, "timeout": timeout},
        )
        parts = []
        try:
            async for part in response.aiter_bytes():
                limit.heard()
                if b'"delta"' in part:  # of a reply, not a comment that keeps the connection open
                    alive()
                parts.append(part)
        finally:
            await response.aclose()
        completion = read_completion(b"".join(parts))
        for name in _INVOCATION_HEADERS:
            if response.headers.get(name):
                completion.invocation_id = response.headers[name][:200]
                break
        return completion


async def _cap_body(response) -> None:
    """Let no more of a body be read than fits into memory."""
    most = _MAX_ERROR_BYTES if response.status_code >= 300 else _MAX_BODY_BYTES
    response.stream = _Capped(response.stream, most)


class _Capped(httpx2.AsyncByteStream):
    """The beginning of a body."""

    def __init__(self, stream, most_bytes: int):
        self._stream = stream
        self._most_bytes = most_bytes

    async def __aiter__(self):
        size = 0
        async for part in self._stream:
            yield part
            size += len(part)
            if size > self._most_bytes:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()


def _fault_behind(error: BaseException) -> Fault:
    """Return the fault behind whatever an attempt has raised: nothing of it may end the run."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, openai.APIStatusError):
        headers = error.response.headers
        words = provider_words(error.response.content)
        if error.status_code < 400:
            words = printable(f"to {headers.get('location')}")
        return sort_status(error.status_code, words, headers)
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    said = [str(cause) for cause in causes if str(cause)]
    detail = printable(said[-1] if said else type(causes[-1]).__name__)
    if any(isinstance(cause, _NEVER_REACHED) for cause in causes):
        return Fault("transient", "no connection", detail, reached=False)
    return Fault("transient", "connection broken", detail)
