"""What all models of a run share: the money, the disk, the keys that nobody may see, its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from common import cli
from common.client.costs import Budget, Spending
from common.config import CallSettings, Environment
from common.files import json_bytes, write_bytes

_DISK_PATIENCE_S = 60.0  # somebody who is told of a full disk makes room in a minute, or is away
_DISK_PAUSE_S = 0.5
# A shorter key, such as "ollama", is a word that a reply may well hold; no real key is that short.
_SECRET_CHARS = 12


class Halted(Exception):
    """The run has been told to stop: this call was not sent, or not tried again."""


class Run:
    """The state that the models of a run share."""

    def __init__(self, environment: Environment, max_cost: float | None = None):
        self.environment = environment
        self.spending = Spending()
        self.budget = Budget(max_cost)
        self.batches = None  # batches.Batches
        self.say: Callable[[str], None] = print
        self.models: dict = {}  # model.Model by provider and name
        self.given_up = 0  # calls in flight that the end did not wait for
        self.end: tuple[int, str] | None = None  # exit code and reason, once it is over
        self.over = asyncio.Event()
        self.hurried = asyncio.Event()  # interrupted twice: nothing is waited for
        self.disk_patience_s = _DISK_PATIENCE_S
        self.disk_is_sound = asyncio.Event()  # set while no write is refused
        self.disk_is_sound.set()
        self._refused: set[Path] = set()
        self._writes: set[asyncio.Future] = set()
        keys = {endpoint.api_key for endpoint in environment.providers.values()}
        self._keys = sorted(keys - {""}, key=len, reverse=True)

    def halt(self, code: int, words: str) -> None:
        """Start no new call from now on; the first reason stands."""
        if self.end is None:
            self.end = (code, words)
            self.over.set()
            for model in self.models.values():
                model.limiter.turn_away(Halted())

    def interrupt(self) -> None:
        """End the run by Ctrl-C or its like; asked twice, do not wait for the calls in flight."""
        if self.end and self.end[0] == cli.EXIT_INTERRUPTED:
            self.hurried.set()
        self.halt(cli.EXIT_INTERRUPTED, cli.INTERRUPTED)

    def masked(self, text: str, shortest: int = 1) -> str:
        """Return a text without any key of `shortest` characters or more."""
        for key in self._keys:
            if len(key) >= shortest:
                text = text.replace(key, "[key]")
        return text

    def masked_reply(self, text: str) -> str:
        """Return what a model said without any real key."""
        return self.masked(text, _SECRET_CHARS)

    def masked_bytes(self, line: bytes) -> bytes:
        """Return a line of a provider's file without any real key."""
        text = line.decode("utf-8", "surrogateescape")
        return self.masked_reply(text).encode("utf-8", "surrogateescape")

    def count_reply(self, call: CallSettings, completion, cost_usd: float | None) -> None:
        """Count a whole reply, and take any key out of what is kept of it."""
        self.spending.add(completion.usage, cost_usd)
        for name in ("finish_reason", "model", "invocation_id"):
            setattr(completion, name, self.masked_reply(getattr(completion, name)))
        if completion.model not in ("", call.model):
            self.spending.answered[call.model, completion.model] += 1

    async def save(self, path: Path | str, value: object) -> None:
        """Write a file that holds paid replies, as JSON; no new call starts while that is refused.

        Once begun it ends, also when who asked for it is cancelled. Raises OSError when the disk
        refuses for too long.
        """
        write = asyncio.ensure_future(self._write(Path(path), json_bytes(value)))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        await asyncio.shield(write)

    async def finish_writes(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def _write(self, path: Path, data: bytes) -> None:
        began_s = time.monotonic()
        try:
            while True:
                try:
                    return await asyncio.to_thread(write_bytes, path, data)
                except OSError as error:
                    error.filename = error.filename or str(path)
                    waited_s = time.monotonic() - began_s
                    if self.hurried.is_set() or waited_s > self.disk_patience_s:
                        self.disk_patience_s = 0.0  # what one waited for in vain, no other does
                        raise
                    if not self._refused:
                        words = f"no new calls, trying again for {self.disk_patience_s:.0f} s"
                        self.say(f"{cli.disk_words(error).splitlines()[0]}: {words}")
                    self._refused.add(path)
                    self.disk_is_sound.clear()
                await asyncio.sleep(_DISK_PAUSE_S)
        finally:
            self._refused.discard(path)
            if not self._refused:
                self.disk_is_sound.set()
