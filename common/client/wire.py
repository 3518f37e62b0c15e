"""One HTTP attempt: send a request over the openai SDK's own HTTP client, read what comes back.

The SDK's layers above that client cost more than the call itself: building a request 0.4 ms of CPU
(in all 0.65 against 0.25 ms a call of 31 KB), typed chunks 140 to 170 microseconds an event. It
takes a second to import: import this module only once there is something to ask.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from dataclasses import dataclass, field

import aiohttp
import httpx2
import openai
from pydantic_core import PydanticSerializationError, to_json

from common.client import faults
from common.client.faults import Fault
from common.client.run import Prices, prices_of, read_prices
from common.config import CallSettings, Endpoint
from common.files import printable

_CONNECT_S = 15
_LIST_AGAIN_S = 30  # each time some replies wait for it
_LIST_S = 4  # the first finished reply waits for the prices: less than the grace of an interrupt
_MOST_BYTES = 64 * 2**20  # a server that never ends must not fill the memory
_MOST_ERROR_BYTES = 64 * 2**10
_HEADER_BYTES = 16 * 2**10  # of one header; aiohttp takes 8,190, some gateways send more
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


class Connection:
    """The HTTP client for one model, and the prices of its provider's list."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint
        self._list: asyncio.Task | None = None  # the last that was asked for
        self._list_again_at_s = 0.0
        self._http = _new_client(endpoint)
        self.close = self._http.aclose

    async def list_prices(self) -> dict[str, Prices]:
        """Return the models of the provider's free list with their prices. Raises Fault."""
        request = self._http.build_request("GET", f"{self.endpoint.base_url}/models")
        body, _ = await _fetch(self._http, request, _LIST_S)
        try:
            return read_prices(faults.parse_json(body))
        except ValueError:
            raise Fault("transient", "malformed model list", faults.provider_words(body)) from None

    async def prices(self, call: CallSettings, needed: bool = False) -> Prices:
        """Return the prices of a model by chain.toml, else by the list, where it tells them.

        A list that could not be had is fetched again now and then; `needed`: at once, or Fault.
        """
        now_s = asyncio.get_running_loop().time()
        lost = self._list and self._list.done() and self._list.exception()
        is_due = lost and lost.category == "transient" and (needed or now_s > self._list_again_at_s)
        if self._list is None or is_due:
            self._list_again_at_s = now_s + _LIST_AGAIN_S
            self._list = asyncio.ensure_future(self.list_prices())
        if not self._list.done():
            await asyncio.wait([self._list])
        fault = self._list.exception()
        if fault and fault.category == "transient" and needed and not call.prices:
            raise fault
        return prices_of(call, {} if fault else self._list.result())

    async def complete(self, call, messages, max_tokens, alive, fresh=False) -> Completion:
        """Return a completion from one attempt; call `alive(bytes)` when words come. Raises Fault.

        `fresh`: over a connection of its own, which nothing before can have broken.
        """
        # Now: llama-cpp-python ends a running stream for whatever comes next.
        await self.prices(call)
        # Without a stream, silence is how a reply is made.
        silence_s = call.stall_s if call.stream else call.timeout_s
        request = self._http.build_request(
            "POST",
            f"{self.endpoint.base_url}/chat/completions",
            content=request_body(call, messages, max_tokens),
            timeout=httpx2.Timeout(None, connect=_CONNECT_S, read=silence_s),
        )
        async with _new_client(self.endpoint) if fresh else nullcontext(self._http) as client:
            body, headers = await _fetch(client, request, call.timeout_s, alive)
        if call.stream and not body.strip():
            # It answers so when a prompt is too long, and closes; without a stream it says why.
            whole = call.model_copy(update={"stream": False})
            return await self.complete(whole, messages, max_tokens, alive, fresh=True)
        completion = read_completion(body)
        named = headers.get("x-chutes-invocationid") or headers.get("x-request-id")
        completion.invocation_id = _name(named) or completion.invocation_id
        return completion


def request_body(call: CallSettings, messages: list[dict], max_tokens: int) -> bytes:
    """Return the body of a chat request."""
    body = {"model": call.model, "messages": messages, **call.sampling()}
    del body["max_tokens"]
    body[call.max_tokens_field] = max_tokens
    if call.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    body = {name: value for name, value in body.items() if name not in call.omit}
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
    for transport in filter(None, (client._transport, *client._mounts.values())):  # of proxies
        # 0: as many as are asked for, not aiohttp's own hundred for all models together.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=20, ssl=transport.ssl_context)
        transport.client = aiohttp.ClientSession(connector=connector, max_field_size=_HEADER_BYTES)
    return client


async def _fetch(client, request, total_s: float, alive=None) -> tuple[bytes, httpx2.Headers]:
    """Return body and headers of what a request brings within `total_s`. Raises Fault."""

    async def receive() -> tuple[httpx2.Response, bytes]:
        response = await client.send(request, stream=True)
        most_bytes = _MOST_BYTES if response.status_code < 300 else _MOST_ERROR_BYTES
        body = bytearray()
        try:
            async for part in response.aiter_bytes():
                body += part
                # Words of a reply, not a comment that keeps the connection open.
                if alive and b'"delta"' in part:
                    alive(len(part))
                if len(body) > most_bytes:
                    break
        except (httpx2.NetworkError, httpx2.ProtocolError):
            if body or response.status_code >= 300:
                raise  # else the connection was closed without a word: an empty stream
        finally:
            await response.aclose()
        return response, bytes(body)

    try:
        response, body = await asyncio.wait_for(receive(), total_s)
    except asyncio.TimeoutError:
        detail = f"not finished after {total_s:g} s"
        raise Fault("transient", "no whole reply in time", detail) from None
    except Exception as error:  # nothing that an attempt raises may end the run
        raise fault_behind(error) from None
    if response.status_code < 300:
        return body, response.headers
    words = faults.provider_words(body)
    if response.status_code < 400:
        words = printable(f"to {response.headers.get('location')}")
    raise faults.sort_status(response.status_code, words, response.headers)


def fault_behind(error: Exception) -> Fault:
    """Return the fault behind what an attempt or the SDK has raised, by all that led to it."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, openai.APIStatusError):
        words = faults.provider_words(error.response.content)
        return faults.sort_status(error.status_code, words, error.response.headers)
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    said = [str(cause) for cause in causes if str(cause)] or [type(causes[-1]).__name__]
    detail = printable(said[-1])
    kinds = {kind for cause in causes for kind in type(cause).__mro__}
    if aiohttp.SocketTimeoutError in kinds:
        return Fault("transient", "stalled", detail)
    if kinds & {aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError}:
        return Fault("transient", "no connection", detail, reached=False)
    return Fault("transient", "connection broken", detail)


def read_completion(body: bytes) -> Completion:
    """Read a reply: server-sent events, or one JSON document, the only event then. Raises Fault."""
    body = body.removeprefix(b"\xef\xbb\xbf").strip()
    if body.startswith(b"<"):
        kind = "a page of HTML instead of a reply"
        raise Fault("transient", kind, faults.provider_words(body), advice=faults.CHECK_ADDRESS)
    completion = Completion()
    pieces = []
    try:
        for line in [body] if body.startswith(b"{") else body.splitlines():
            # No comment, no event's name; on Chutes a fault comes without `data:`.
            is_event = line.startswith((b"data:", b"{"))
            line = line.removeprefix(b"data:").strip()
            if is_event and line not in (b"", b"[DONE]"):
                _read_event(line, completion, pieces)
    except Fault:
        raise
    except Exception as error:  # whatever a server sends is a fault of this call alone
        detail = f"{type(error).__name__} in {faults.provider_words(body)}"
        raise Fault("transient", "malformed reply", detail) from None
    if not pieces:
        raise Fault("transient", "no choices in the reply", faults.provider_words(body))
    completion.content = "".join(pieces)
    if completion.finish_reason in ("", "error", "abort"):
        raise Fault("transient", "reply without an end", "no finish_reason: the stream was cut")
    if completion.finish_reason == "content_filter":
        raise Fault("item", "refused by the provider's content filter")
    return completion


def _read_event(line: bytes, completion: Completion, pieces: list[str]) -> None:
    """Add what an event says to a completion, its words to `pieces`. Raises Fault."""
    event = faults.parse_json(line)
    choice = {}
    if event.get("choices"):
        choice = event["choices"][0]
        pieces.append("")
    elif fault := faults.sort_error_body(event, line):
        raise fault
    if choice.get("index") not in (0, None):  # another reply
        choice = {}
    said = choice.get("delta") or choice.get("message") or {}
    content = said.get("content")  # alone is the answer
    if isinstance(content, list):  # of typed parts
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if isinstance(content, str):
        pieces.append(content)
    for name in ("reasoning_content", "reasoning"):
        if said.get(name):
            completion.reasoning_field = name
            completion.reasoning_bytes += len(str(said[name]).encode("utf-8", "replace"))
    # Moonshot's place for it is the choice.
    usage = _usage(event.get("usage")) or _usage(choice.get("usage"))
    completion.usage = usage or completion.usage
    completion.model = _name(event.get("model")) or completion.model
    completion.invocation_id = _name(event.get("id")) or completion.invocation_id
    completion.finish_reason = _name(choice.get("finish_reason")) or completion.finish_reason


def _name(given: object) -> str:
    """Return a short text of the server's, such as a model's name."""
    return printable(given[:_NAME_CHARS]) if isinstance(given, str) else ""


def _usage(given: object) -> dict:
    """Return the token counts of a reply; {} where prompt or completion is not told, or odd."""
    if not isinstance(given, dict):
        return {}
    told = dict(given)
    for part in ("prompt_tokens_details", "completion_tokens_details"):
        if isinstance(given.get(part), dict):
            told |= given[part]
    usage = {}
    for name in ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens"):
        is_count = type(told.get(name)) is int and 0 <= told[name] < _MOST_TOKENS
        if not is_count and name in ("prompt_tokens", "completion_tokens"):
            return {}
        usage[name] = told[name] if is_count else 0  # an odd detail is none
    if usage["cached_tokens"] > usage["prompt_tokens"]:
        # Anthropic's way, which some gateways pass on: the prompt's are those read anew alone.
        usage["prompt_tokens"] += usage["cached_tokens"]
    return usage
