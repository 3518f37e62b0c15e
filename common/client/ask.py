"""Asking a model so that no paid reply is lost: the retry policy, in one place.

- configuration (401, 402, 403, 404, no money, a refusal of the first calls and of a one-word chat
  alike): the run stops, exit 2;
- item (prompt too long, content refused, no acceptable reply after all tries): this item fails,
  the rest goes on;
- transient (429, 408, 409, 5xx, broken or stalled connections, replies without an end): tried
  again after growing, jittered waits, within `retry_budget_s` a call; nothing good from a model
  for `outage_s`, and no answer to a one-word chat either: no more is asked of it, and when no other
  model is left the run stops, exit 1. Where others pass, an item that never does fails alone.

What a fault stands for is decided in faults.py and route.py, the pace of each model in limiter.py.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from common.client.costs import Budget, Model, Spending
from common.client.faults import Halted
from common.client.reasoning import visible_text
from common.client.route import SECRET_CHARS, Route, mask_keys
from common.client.run import LAST_REPLY, Saver
from common.client.run import run_turns as run_turns  # the scripts take it from here
from common.config import CallSettings, Environment
from common.files import ItemFailed, clean_text


class Reply(NamedTuple):
    """A reply as it is kept: `text` without reasoning, and for the file what is known of it.

    In `meta`, `usage` is of this reply; `usage_all_tries`, `cost_usd` (None where no price is
    known) and `tries` are of all that it took.
    """

    text: str
    meta: dict


class NoAcceptableReply(ItemFailed):
    """Every reply was refused; `last` is the last one that came, empty or cut off as it may be."""

    def __init__(self, kind: str, detail: str, last: Reply):
        super().__init__(kind, detail)
        self.last = last


class LLM:
    """All models of a run: a connection per provider, a route per model, one budget."""

    def __init__(
        self,
        environment: Environment,
        *,
        concurrency: int | None = None,
        max_cost: float | None = None,
    ):
        self.environment = environment
        self.concurrency = concurrency
        self.spending = Spending()
        self.budget = Budget(max_cost)
        self.saver = Saver()
        self.say: Callable[[str], None] = print
        self.halted: tuple[int, str] | None = None  # exit code and reason
        self.halt_signal = asyncio.Event()
        self.routes: dict[tuple[str, str], Route] = {}  # by provider and model
        self._connections = {}

    async def ask(
        self,
        call: CallSettings,
        messages: list[dict],
        accept: Callable[[str], str | None],
        again: Callable[[str, str], list[dict]] | None = None,
    ) -> Reply:
        """Return a reply that `accept` finds nothing wrong with (it returns None, or says what).

        A refused, empty or cut-off reply is asked for again, at most `bad_reply_tries` times in
        all; a cut-off one with twice the tokens, up to `max_tokens_cap`. `again(text, why)` may
        give other messages for the next try. Raises ItemFailed, NoAcceptableReply, or Halted when
        the run is over.
        """
        asked_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        started = time.monotonic()
        max_tokens = call.max_tokens
        tries = 0
        cost_usd: float | None = 0.0
        usage_all_tries: Counter = Counter()
        route = self._route(call)
        for _ in range(call.bad_reply_tries):
            completion, attempts, cost = await route.complete(call, messages, max_tokens)
            tries += attempts
            cost_usd = None if cost is None or cost_usd is None else cost_usd + cost
            usage_all_tries.update(completion.usage)
            text = clean_text(visible_text(completion.content))
            text = mask_keys(text, self.environment, SECRET_CHARS)
            finish_reason = completion.finish_reason
            meta = {
                "finish_reason": finish_reason,
                "usage": completion.usage,
                "usage_all_tries": dict(usage_all_tries),
                "cost_usd": cost_usd,
                "model": call.model,
                "model_answered": completion.model,
                "invocation_id": completion.invocation_id,
                "asked_at": asked_at,
                "time_s": round(time.monotonic() - started, 3),
                "tries": tries,
                "sampling": {**call.sampling(), "max_tokens": max_tokens},
            }
            last = Reply(text, meta)
            LAST_REPLY.get([])[:] = [last]
            if finish_reason == "length":
                why = "cut off at max_tokens"
                if not text:
                    why = "empty: all of max_tokens went into reasoning"
                max_tokens = min(2 * max_tokens, call.max_tokens_cap)
            elif finish_reason in ("tool_calls", "function_call"):
                why = "a tool call instead of text"
            elif not text:
                why = "empty"
            else:
                why = accept(text)
                if why is None:
                    self.spending.calls["good"] += 1
                    return last
                if again:
                    messages = again(text, why)
            self.spending.calls["refused reply"] += 1
        detail = f"{why} (asked {call.bad_reply_tries} times)"
        if finish_reason == "length":
            asked = f"max_tokens {last.meta['sampling']['max_tokens']:,}"
            cap = f"max_tokens_cap {call.max_tokens_cap:,}"
            detail = f"{detail}; {asked} of {cap} in chain.toml was not enough"
        raise NoAcceptableReply(f"no acceptable reply: {why}", detail, last)

    def _route(self, call: CallSettings) -> Route:
        key = call.provider, call.model
        if key not in self.routes:
            self.routes[key] = Route(self, call, self._connection(call))
            self.saver.patience_s = min(self.saver.patience_s, call.outage_s / 2)
        return self.routes[key]

    def _connection(self, call: CallSettings):
        from common.client.wire import Connection  # takes a second

        if call.provider not in self._connections:
            endpoint = self.environment.providers[call.provider]
            self._connections[call.provider] = Connection(endpoint)
        return self._connections[call.provider]

    async def model(self, call: CallSettings) -> Model:
        """Return the model's prices, from its provider's free list, fetched once."""
        return await self._connection(call).model(call.model)

    async def save(self, path: Path | str, value: object) -> None:
        """Write a file that holds paid replies; a disk that refuses is tried again for a while."""
        await self.saver.save(path, value, self.say)

    def halt(self, code: int, words: str) -> None:
        """Start no new call from now on; the first reason stands."""
        if self.halted is None:
            self.halted = (code, words)
            self.halt_signal.set()
            for route in self.routes.values():
                route.limiter.turn_away(Halted())

    async def close(self) -> None:
        """Finish what is being saved, close all sockets."""
        await self.saver.close()
        for connection in self._connections.values():
            await connection.close()

    def notes(self) -> dict:
        """Return the pace of each model and the dollars so far, for the progress bar."""
        notes = {"at_once": "+".join(str(one.limiter.pace) for one in self.routes.values())}
        if self.spending.cost_usd:
            notes["spent"] = f"${self.spending.cost_usd:.2f}"
        return notes

    def masked(self, text: str) -> str:
        """Return a text without any key."""
        return mask_keys(text, self.environment)

    def usage_lines(self) -> list[str]:
        """Return calls by outcome, tokens and cost, for the tally."""
        lines = self.spending.lines()
        if self.saver.lost:
            lines.append(
                f"lost    {self.saver.lost:,} paid replies: the disk took no file for them"
            )
        return lines
