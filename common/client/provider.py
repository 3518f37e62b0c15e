"""One provider of a run: its connection, its price list, and the keys that must not be shown."""

from __future__ import annotations

import asyncio

from common.client.costs import Model, read_models
from common.client.faults import Fault
from common.config import Endpoint, Environment

_LIST_S = 4  # the first finished reply waits for the prices: less than the grace of an interrupt
# A shorter key, such as "ollama", is a word that a reply may well hold; no real key is that short.
_SECRET_CHARS = 12


def mask_keys(text: str, environment: Environment, shortest: int = 1) -> str:
    """Return a text without the keys of any provider that have `shortest` characters or more."""
    keys = {endpoint.api_key for endpoint in environment.providers.values()}
    for key in sorted(keys, key=len, reverse=True):
        if len(key) >= shortest:
            text = text.replace(key, "[key]")
    return text


def mask_reply(text: str, environment: Environment) -> str:
    """Return a part of a reply without any real key: a server may echo what it was sent."""
    return mask_keys(text, environment, _SECRET_CHARS)


class Provider:
    """A provider's connection and its price list, which is fetched once."""

    def __init__(self, endpoint: Endpoint, watch):
        from common.client.wire import Connection  # takes a second

        self.endpoint = endpoint
        self.connection = Connection(endpoint, watch)
        self._models: asyncio.Future | None = None

    async def models(self) -> dict[str, Model]:
        """Return the models of the provider's free list by id. Raises Fault."""
        try:
            return read_models(await asyncio.wait_for(self.connection.models(), _LIST_S))
        except asyncio.TimeoutError:
            detail = f"the model list did not come within {_LIST_S} s"
            raise Fault("transient", "no answer", detail, reached=False) from None

    async def model(self, name: str) -> Model:
        """Return a model's prices; unknown ones when the list cannot be had."""
        if self._models is None:
            self._models = asyncio.ensure_future(self._models_or_none())
        return (await asyncio.shield(self._models)).get(name, Model())

    async def _models_or_none(self) -> dict[str, Model]:
        try:
            return await self.models()
        except Fault:
            return {}

    async def close(self) -> None:
        """Close all sockets."""
        if self._models is not None:
            self._models.cancel()
        await self.connection.close()
