"""One HTTP attempt: send a request over the openai SDK's own HTTP client, read what comes back.

The SDK's layers above that client are passed by, because they cost more than the call itself:
building a request 0.4 ms of CPU (in all 0.65 against 0.25 ms a call of 31 KB), and typed chunks
140 to 170 microseconds an event of a stream.

Importing this module takes a second (openai): import it only once there is something to ask.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import aiohttp
import httpx2
import openai
from pydantic_core import PydanticSerializationError, to_json

from common.client import faults
from common.client.costs import Listing, priced, read_listings
from common.client.faults import Fault
from common.config import CallSettings
from common.environment import Endpoint
from common.files import printable

_CONNECT_S = 15
_LIST_AGAIN_S = 30  # each time some replies wait for it
_LIST_S = 4  # the first finished reply waits for the prices: less than the grace of an interrupt
# A server that never ends must not fill the memory.
_MAX_BODY_BYTES = 64 * 2**20
_MAX_ERROR_BYTES = 64 * 2**10
_MAX_HEADER_BYTES = 16 * 2**10  # of one header; aiohttp takes 8,190, some gateways send more
_INVOCATION_HEADERS = ("x-chutes-invocationid", "x-request-id")
_NEVER_REACHED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    httpx2.ConnectError,
    ConnectionRefusedError,
)
_REASONING_FIELDS = ("reasoning_content", "reasoning")
_NAME_CHARS = 200  # of what a server calls its model or a call
_MOST_TOKENS = 10**9  # a larger count is no count


@dataclass
class Completion:
    """A whole reply as it came: `content` may be empty, `finish_reason` is always there."""

    content: str = ""
    reasoning_field: str = ""  # where reasoning came, if it did
    reasoning_bytes: int = 0
    finish_reason: str = ""
    usage: dict = field(default_factory=dict)
    model: str = ""
    invocation_id: str = ""
    batch: str = ""  # the request file that it comes from


def request_body(call: CallSettings, messages: list[dict], max_tokens: int) -> dict:
    """Return the body of a chat request."""
    body = {"model": call.model, "messages": messages, **call.sampling()}
    del body["max_tokens"]
    body[call.max_tokens_field] = max_tokens
    if call.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return {name: value for name, value in body.items() if name not in call.omit}


def batch_body(call: CallSettings, messages: list[dict], max_tokens: int) -> bytes:
    """Return the body of a chat request in a batch: as a live one, whole."""
    body = request_body(call, messages, max_tokens)
    for name in ("stream", "stream_options"):
        body.pop(name, None)
    return _body_bytes(body)


def _body_bytes(body: dict) -> bytes:
    try:
        return to_json(body)
    except PydanticSerializationError:  # a lone surrogate in a chat
        return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def _new_client(endpoint: Endpoint) -> httpx2.AsyncClient:
    """Return an HTTP client with the key of a provider, and without any connection yet."""
    key = endpoint.api_key or "none"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    # No redirects: prompt and key go nowhere else; a POST may become a GET.
    client = openai.DefaultAioHttpClient(headers=headers, follow_redirects=False)
    for transport in (client._transport, *client._mounts.values()):  # direct, by proxies
        if transport is not None:
            transport.client = partial(_new_session, transport)
    return client


def _new_session(transport) -> aiohttp.ClientSession:
    # 0: as many as are asked for, not aiohttp's own hundred for all models together.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=20, ssl=transport.ssl_context)
    return aiohttp.ClientSession(connector=connector, max_field_size=_MAX_HEADER_BYTES)


class Connection:
    """The HTTP client for one provider, and the provider's list of models."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint
        self.prices: dict[str, dict] = {}  # of chain.toml, by model: they go over the list's
        self._listings: asyncio.Future | None = None  # a table, or the fault in its place
        self._list_again_at_s = 0.0
        self._chat_url = httpx2.URL(f"{endpoint.base_url}/chat/completions")
        self._http = _new_client(endpoint)

    async def close(self) -> None:
        """Close all sockets."""
        if self._listings is not None:
            self._listings.cancel()
        await self._http.aclose()

    async def models(self) -> dict[str, Listing]:
        """Return the models of the provider's free list by id. Raises Fault."""
        request = self._http.build_request("GET", f"{self.endpoint.base_url}/models")
        body, _ = await self._fetch(request, _LIST_S)
        try:
            return read_listings(faults.parse_json(body))
        except ValueError:
            raise Fault("transient", "malformed model list", faults.provider_words(body)) from None

    async def listing(self, model: str, needed: bool = False) -> Listing:
        """Return what the list says of a model, an empty listing where it does not tell.

        The list is fetched when first asked for, and again now and then where it could not be had;
        `needed`: again at once, and raises Fault.
        """
        now_s = asyncio.get_running_loop().time()
        asked = self._listings
        lost = asked and asked.done() and not isinstance(asked.result(), dict)
        if asked is None or (lost and (needed or now_s > self._list_again_at_s)):
            self._list_again_at_s = now_s + _LIST_AGAIN_S
            self._listings = asyncio.ensure_future(self._models_or_fault())
        if not self._listings.done():
            await asyncio.shield(self._listings)
        prices = self.prices.get(model)
        listings = self._listings.result()
        if isinstance(listings, dict):
            return priced(listings.get(model, Listing()), prices)
        if needed and not prices:
            raise listings
        return priced(Listing(), prices)

    async def _models_or_fault(self) -> dict[str, Listing] | Fault:
        try:
            return await self.models()
        except Fault as fault:
            return fault if fault.category == "transient" else {}

    async def complete(
        self,
        call: CallSettings,
        messages: list[dict],
        max_tokens: int,
        alive: Callable[[int], None],
        fresh: bool = False,
    ) -> Completion:
        """Return a completion from one attempt; call `alive` when words arrive. Raises Fault.

        `fresh`: over a connection of its own, which nothing before can have broken.
        """
        # Now: llama-cpp-python ends a running stream for whatever comes next.
        await self.listing(call.model)
        body, headers = await self._post(call, messages, max_tokens, alive, fresh)
        if call.stream and not body.strip():
            # It answers so when a prompt is too long, and closes; without a stream it says why.
            whole = call.model_copy(update={"stream": False})
            body, headers = await self._post(whole, messages, max_tokens, alive, fresh=True)
        completion = read_completion(body)
        for name in _INVOCATION_HEADERS:
            if headers.get(name):
                completion.invocation_id = headers[name][:_NAME_CHARS]
                break
        return completion

    async def _post(self, call, messages, max_tokens, alive, fresh):
        """Return body and headers of the answer to a chat request. Raises Fault."""
        # Without a stream, silence is how a reply is made.
        silence_s = call.stall_s if call.stream else call.timeout_s
        request = self._http.build_request(
            "POST",
            self._chat_url,
            content=_body_bytes(request_body(call, messages, max_tokens)),
            timeout=httpx2.Timeout(None, connect=_CONNECT_S, read=silence_s),
        )
        if not fresh:
            return await self._fetch(request, call.timeout_s, alive)
        async with _new_client(self.endpoint) as client:
            return await self._fetch(request, call.timeout_s, alive, client)

    async def _fetch(
        self, request: httpx2.Request, total_s: float, alive=None, client=None
    ) -> tuple[bytes, httpx2.Headers]:
        """Return body and headers of what a request brings within `total_s`. Raises Fault."""
        try:
            receive = self._receive(client or self._http, request, alive)
            return await asyncio.wait_for(receive, total_s)
        except asyncio.TimeoutError:
            detail = f"not finished after {total_s:g} s"
            raise Fault("transient", "no whole reply in time", detail) from None
        except Fault:
            raise
        except Exception as error:  # nothing that an attempt raises may end the run
            raise fault_behind(error) from None

    async def _receive(
        self, client, request: httpx2.Request, alive: Callable[[int], None] | None
    ) -> tuple[bytes, httpx2.Headers]:
        response = await client.send(request, stream=True)
        status = response.status_code
        limit = _MAX_BODY_BYTES if status < 300 else _MAX_ERROR_BYTES
        body = bytearray()
        try:
            async for part in response.aiter_bytes():
                body += part
                # Words of a reply, not a comment that keeps the connection open.
                if alive and b'"delta"' in part:
                    alive(len(part))
                if len(body) > limit:
                    break
        except (httpx2.NetworkError, httpx2.ProtocolError):
            if body or status >= 300:
                raise  # else the connection was closed without a word: an empty stream
        finally:
            await response.aclose()
        if status < 300:
            return bytes(body), response.headers
        words = faults.provider_words(bytes(body))
        if status < 400:
            words = printable(f"to {response.headers.get('location')}")
        raise faults.sort_status(status, words, response.headers)


def fault_behind(error: BaseException | None) -> Fault:
    """Return the fault behind what an attempt has raised, by all that led to it."""
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    said = [str(cause) for cause in causes if str(cause)]
    detail = printable(said[-1] if said else type(causes[-1]).__name__)
    if any(isinstance(cause, aiohttp.SocketTimeoutError) for cause in causes):
        return Fault("transient", "stalled", detail)
    if any(isinstance(cause, _NEVER_REACHED) for cause in causes):
        return Fault("transient", "no connection", detail, reached=False)
    return Fault("transient", "connection broken", detail)


# ------------------------------------------------------------------------- reading what came back


def read_completion(body: bytes) -> Completion:
    """Read a reply in either form, whatever was asked for. Raises Fault."""
    try:
        return _read_events(body)
    except Fault:
        raise
    except Exception as error:  # whatever a server sends is a fault of this call alone
        detail = f"{type(error).__name__} in {faults.provider_words(body)}"
        raise Fault("transient", "malformed reply", detail) from None


def _read_events(body: bytes) -> Completion:
    """Read server-sent events, or one JSON document, which is the only event then.

    Only `content` is the answer: what comes as `reasoning_content` or `reasoning` is passed over.
    A fault in mid-stream may come as a `data:` event or, on Chutes, as a bare JSON line without
    `data:`, after which the stream just ends: a reply without a finish_reason is never a reply.
    """
    body = body.removeprefix(b"\xef\xbb\xbf").strip()
    if body.startswith(b"<"):
        kind = "a page of HTML instead of a reply"
        raise Fault("transient", kind, faults.provider_words(body), advice=faults.CHECK_ADDRESS)
    completion = Completion()
    pieces = []
    for line in [body] if body.startswith(b"{") else body.splitlines():
        if not line.startswith((b"data:", b"{")):
            continue  # a comment that keeps the connection open, an event name, or an empty line
        line = line.removeprefix(b"data:").strip()
        if line in (b"", b"[DONE]"):
            continue
        event = faults.parse_json(line)
        completion.model = _name(event.get("model")) or completion.model
        completion.invocation_id = _name(event.get("id")) or completion.invocation_id
        usage = _usage(event.get("usage"))
        completion.usage = usage or completion.usage
        if not event.get("choices"):
            fault = faults.sort_error_body(event, line)
            if fault:
                raise fault
            continue
        choice = event["choices"][0]
        pieces.append("")
        if choice.get("index") in (0, None):  # another index is another reply
            said = choice.get("delta") or choice.get("message") or {}
            pieces.append(_text(said.get("content")))
            for name in _REASONING_FIELDS:
                if said.get(name):
                    completion.reasoning_field = name
                    completion.reasoning_bytes += len(str(said[name]).encode("utf-8", "replace"))
            reason = _name(choice.get("finish_reason"))
            completion.finish_reason = reason or completion.finish_reason
            # Moonshot's place for it.
            completion.usage = usage or _usage(choice.get("usage")) or completion.usage
    if not pieces:
        raise Fault("transient", "no choices in the reply", faults.provider_words(body))
    completion.content = "".join(pieces)
    if completion.finish_reason in ("", "error", "abort"):
        raise Fault("transient", "reply without an end", "no finish_reason: the stream was cut")
    if completion.finish_reason == "content_filter":
        raise Fault("item", "refused by the provider's content filter")
    return completion


def _name(given: object) -> str:
    """Return a short text of the server's, such as a model's name."""
    return printable(given[:_NAME_CHARS]) if isinstance(given, str) else ""


def _text(content: object) -> str:
    """Return content as text: a string, or the text parts of a list of typed parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if part.get("type") == "text"]
        return "".join(_text(part) for part in parts)
    return content if isinstance(content, str) else ""


def _usage(given: object) -> dict:
    """Return the token counts of a reply, whatever their names; {} when they are not told."""
    prompt = _count(given, "prompt_tokens")
    completion = _count(given, "completion_tokens")
    if prompt is None or completion is None:
        return {}
    reasoning = _count(given.get("completion_tokens_details"), "reasoning_tokens")
    cached = _count(given.get("prompt_tokens_details"), "cached_tokens") or 0
    if cached > prompt:  # Anthropic's way, which some gateways pass on: those read anew alone
        prompt += cached
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "reasoning_tokens": reasoning or _count(given, "reasoning_tokens") or 0,
        "cached_tokens": cached,
    }


def _count(table: object, name: str) -> int | None:
    """Return a count of tokens; None for an odd figure, which must never cost the reply."""
    value = table.get(name) if isinstance(table, dict) else None
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else None
