"""What all models of a run share: the money, the disk, the keys that nobody may see, its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from common import cli
from common.client.costs import Spending
from common.client.faults import Fault
from common.config import CallSettings
from common.environment import Environment
from common.files import json_bytes, write_bytes

_DISK_PATIENCE_S = 60.0  # somebody who is told of a full disk makes room in a minute, or is away
DISK_PAUSE_S = 0.5
# A shorter key, such as "ollama", is a word that a reply may well hold; no real key is that short.
_SECRET_CHARS = 12
_WORDS_SHOWN = 400  # of what a provider says, cut after the key is taken out


class Halted(Exception):
    """The run has been told to stop: this call was not sent, or not tried again."""


class Run:
    """The state that the models of a run share."""

    def __init__(self, environment: Environment, max_cost: float | None = None):
        self.environment = environment
        self.spending = Spending(max_cost)
        self.batches = None  # batches.Batches
        self.say: Callable[[str], None] = print
        self.models: dict = {}  # model.Model by provider and name
        self.given_up = 0  # calls in flight that the end did not wait for
        self.end: tuple[int, str] | None = None  # exit code and reason, once it is over
        self.over = asyncio.Event()
        self.hurried = asyncio.Event()  # interrupted twice: nothing is waited for
        self.disk_patience_s = _DISK_PATIENCE_S
        self.refused_writes: set[Path] = set()  # no new calls while there are any
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

    def masked(self, text: str, shortest: int = _SECRET_CHARS) -> str:
        """Return what a provider or a model said without any key of so many characters."""
        for key in self._keys:
            if len(key) >= shortest:
                text = text.replace(key, "[key]")
        return text

    def masked_fault(self, fault: Fault) -> Fault:
        """Return a fault that may be shown: without any key, and cut."""
        detail = self.masked(fault.detail, 1)[:_WORDS_SHOWN]
        return replace(fault, kind=self.masked(fault.kind, 1), detail=detail)

    def count_reply(self, call: CallSettings, completion, cost_usd: float | None) -> None:
        """Count a whole reply, and take any key out of what is kept of it."""
        self.spending.tokens.update(completion.usage)
        self.spending.unpriced_calls += cost_usd is None
        self.spending.cost_usd += cost_usd or 0.0
        for name in ("finish_reason", "model", "invocation_id"):
            setattr(completion, name, self.masked(getattr(completion, name)))
        if completion.model not in ("", call.model):
            self.spending.answered[call.model, completion.model] += 1

    async def save(self, path: Path | str, value: object) -> None:
        """Write a file that holds paid replies, as JSON; no new call starts while that is refused.

        Once begun it ends, also when who asked for it is cancelled: asyncio.run waits for threads.
        Raises OSError when the disk refuses for too long.
        """
        loop = asyncio.get_running_loop()
        write = loop.run_in_executor(None, self._write, Path(path), json_bytes(value))
        await asyncio.shield(write)

    def _write(self, path: Path, data: bytes) -> None:
        began_s = time.monotonic()
        try:
            while True:
                try:
                    return write_bytes(path, data)
                except OSError as error:
                    error.filename = error.filename or str(path)
                    waited_s = time.monotonic() - began_s
                    if self.hurried.is_set() or waited_s > self.disk_patience_s:
                        self.disk_patience_s = 0.0  # what one waited for in vain, no other does
                        raise
                    if not self.refused_writes:
                        words = f"no new calls, trying again for {self.disk_patience_s:.0f} s"
                        self.say(f"{cli.stop_words(error).splitlines()[0]}: {words}")
                    self.refused_writes.add(path)
                time.sleep(DISK_PAUSE_S)
        finally:
            self.refused_writes.discard(path)
