"""One HTTP attempt: send a request through the openai SDK and read what came back.

The SDK's client, auth, transport and errors are kept. Two of its layers are passed by, because
they cost more than the call itself: the typed transform of the messages (the request goes out as
the bytes that we serialise once) and the typed chunk models of a stream (140-170 microseconds an
event; the stream's bytes are read and parsed here instead).

Importing this module takes a second (openai): import it only once there is something to ask.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import aiohttp
import httpx2
import openai

from common.client.completion import Completion, read_completion
from common.client.faults import Fault, parse_json, provider_words, sort_break, sort_status
from common.client.watch import TimeLimit, Watch
from common.config import CallSettings, Endpoint

# The SDK then hands over bytes.
_RAW_STREAM = {"Content-Type": "application/json", "X-Stainless-Raw-Response": "stream"}
_CONNECT_S = 15
# A server that never ends must not fill the memory.
_MAX_BODY_BYTES = 64 * 2**20
_MAX_ERROR_BYTES = 64 * 2**10
_INVOCATION_HEADERS = ("x-chutes-invocationid", "x-request-id")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Connection:
    """The SDK's client for one provider.

    Retrying is the caller's alone: the SDK's would hide rate limits from the pace of a model.
    """

    def __init__(self, endpoint: Endpoint, watch: Watch):
        # 0: as many as are asked for. None would be aiohttp's own hundred for all models together.
        limits = httpx2.Limits(max_connections=0, keepalive_expiry=20)
        http_client = openai.DefaultAioHttpClient(
            limits=limits, event_hooks={"response": [self._check_response]}
        )
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.api_key or "none",
            max_retries=0,
            http_client=http_client,
        )
        self._endpoint = endpoint
        self._watch = watch
        # Models whose server refuses stream_options: their streams tell no usage.
        self._without_usage: set[str] = set()

    async def close(self) -> None:
        """Close all sockets."""
        await self._client.close()

    async def models(self) -> object:
        """Return the provider's free list of models, as it stands there. Raises Fault."""
        try:
            response = await self._client.get("/models", cast_to=httpx2.Response)
            return parse_json(response.content)
        except Exception as error:
            raise self._fault(error) from None

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
        # Without a stream, silence is how a reply is made.
        silence_s = call.stall_s if call.stream else call.timeout_s
        limit = TimeLimit(self._watch, silence_s, call.timeout_s)
        try:
            return await limit.run(self._send(content, alive, limit))
        except Exception as error:
            fault = self._fault(error)
        refused = fault.status in (400, 422) and "stream_options" in fault.detail
        if refused and "stream_options" in body:
            self._without_usage.add(call.model)
            return await self.complete(call, messages, max_tokens, alive)
        raise fault

    def _fault(self, error: Exception) -> Fault:
        """Return the fault behind whatever an attempt has raised."""
        cause = error
        while cause is not None:
            if isinstance(cause, Fault):
                return cause
            cause = cause.__cause__
        if isinstance(error, openai.APIStatusError):
            response = error.response
            key = self._endpoint.api_key.encode()
            said = response.content.replace(key, b"[key]") if key else response.content
            return sort_status(error.status_code, provider_words(said), response.headers)
        broken = (openai.APIError, httpx2.HTTPError, aiohttp.ClientError, OSError)
        if isinstance(error, broken):
            return sort_break(error)
        # Nothing that a server sends may end the run.
        return Fault("transient", "malformed reply", f"{type(error).__name__}: {error}"[:4000])

    async def _send(
        self, content: bytes, alive: Callable[[], None], limit: TimeLimit
    ) -> Completion:
        timeout = httpx2.Timeout(None, connect=_CONNECT_S)
        response = await self._client.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=content,
            options={"headers": _RAW_STREAM, "timeout": timeout},
        )
        try:
            body = await _read(response, alive, limit)
        finally:
            await response.aclose()
        completion = read_completion(body)
        for name in _INVOCATION_HEADERS:
            if response.headers.get(name):
                completion.invocation_id = response.headers[name][:200]
                break
        return completion

    async def _check_response(self, response) -> None:
        """Refuse to be led elsewhere; cap the body. Raises Fault."""
        if response.has_redirect_location:
            self._check_redirect(response)
        most = _MAX_ERROR_BYTES if response.status_code >= 300 else _MAX_BODY_BYTES
        response.stream = _Capped(response.stream, most)

    def _check_redirect(self, response) -> None:
        """Let a request be sent on within its server, while it stays what it is."""
        target = response.url.join(response.headers["location"])
        upgraded = (response.url.scheme, target.scheme) == ("http", "https")
        ports = [url.port or _DEFAULT_PORTS.get(url.scheme) for url in (response.url, target)]
        same_server = target.host == response.url.host and (
            ports[0] == ports[1] or (upgraded and ports == [80, 443])
        )
        status = response.status_code
        stays = status in (307, 308) or response.request.method == "GET"
        if same_server and stays:
            return
        where = str(target.copy_with(query=None, userinfo=b""))
        what = "leads to another server, which gets nothing from here"
        if same_server:
            what = "would turn the request into a GET, which such a server refuses with 405"
        kind = f"redirected ({status}) to {where}"
        raise Fault("configuration", kind, what, status=status)


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


async def _read(response, alive: Callable[[], None], limit: TimeLimit) -> bytes:
    parts = []
    size = 0
    async for part in response.aiter_bytes():
        limit.heard()
        if b'"delta"' in part:  # words of a reply, not a comment that keeps the connection open
            alive()
        parts.append(part)
        size += len(part)
        if size >= _MAX_BODY_BYTES:
            raise Fault("transient", "endless reply", f"more than {_MAX_BODY_BYTES} bytes")
    return b"".join(parts)
