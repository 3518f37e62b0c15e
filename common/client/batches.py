"""Batches: requests are written to batch/, sent as files at the batch price, and collected later.

A request's `custom_id` is a digest of its body, of who asks, and of the number of the try. So a run
finds the results of every try by itself, reads them as replies by wire, and notes the next try. A
line that failed, or that never came back, has used up its try. The files: batch_files.py.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace

from common.cli import EXIT_SOME_FAILED, EXIT_STOPPED, clock, disk_words
from common.client import batch_files, faults
from common.client.batch_files import BATCH, ENDED, UNSENT, WRITTEN, change, path_of
from common.client.faults import Fault
from common.client.run import Halted, Run
from common.config import CallSettings
from common.files import ItemFailed, digest, json_bytes

_NO_BATCHES = (400, 404, 405, 501)  # statuses
_ODD_LINES = ("torn", "double", "unknown")


class Waiting(ItemFailed):
    """A turn that waits for a batch: it is not done, and has not failed."""


class Batches:
    """What one stage has in batches: results on file, requests under way, requests to be sent."""

    def __init__(self, run: Run, stage: str, flags):
        self.asks_nothing_live = flags.batch or flags.batch_files
        self._run = run
        self._sends = flags.batch
        self._status = UNSENT if self._sends else WRITTEN
        self._stage = stage
        self._shard = "{}_of_{}".format(*flags.shard) if flags.shard else ""
        self._collecting: asyncio.Future | None = None
        self._apis: dict = {}  # BatchApi by provider
        self._results: dict[str, batch_files.Result] = {}
        self._told: set[str] = set()  # files that an earlier run has collected
        self._under_way: set[str] = set()
        self._waiting: list[dict] = []  # entries that are not back
        self._unsent: list[dict] = []
        self._open: dict[tuple, batch_files.Requests] = {}  # by provider and model
        self._counts: Counter = Counter()

    # ------------------------------------------------------------------------------ one request

    async def answer(
        self, connection, call: CallSettings, messages: list, max_tokens: int, who: str, tried: int
    ):
        """Return (failed tries, None), or as second (completion, tries, dollars or None) from file.

        `who` tells this asking from another in the same words, `tried` counts the tries before.
        Raises Waiting, ItemFailed when all tries have failed, or Halted.
        """
        from common.client.wire import batch_body  # takes a second

        self._collecting = self._collecting or asyncio.ensure_future(self._collect())
        await asyncio.shield(self._collecting)
        if not (self.asks_nothing_live or self._results or self._under_way):
            return 0, None
        body = batch_body(call, messages, max_tokens)
        number = tried
        fault = None
        while True:
            number += 1
            custom_id = digest(call.provider, who, str(number), body.decode())
            result = self._results.get(custom_id)
            if result is None:
                break
            try:
                completion = self._read(result)
            except Fault as failed:
                fault = self._bear(failed, result, connection)
                continue
            cost = None  # of an engine of one's own
            if result.entry["batch_id"]:
                cost = (await connection.listing(call.model)).cost_usd(completion.usage)
                cost = cost and cost * connection.endpoint.batch_price
            self._run.count_reply(call, completion, cost)
            self._counts["collected"] += 1
            return number - tried, (completion, number - tried, cost)
        if custom_id in self._under_way:
            raise Waiting("under way in a batch")
        if not self.asks_nothing_live:
            return number - tried - 1, None
        if number > call.bad_reply_tries:
            detail = f"failed in {number - 1} batches: {fault}; without --batch it is asked live"
            raise ItemFailed(f"provider: {fault.kind}", detail)
        self._under_way.add(custom_id)
        await self._note(connection, call, messages, max_tokens, custom_id, body)
        raise Waiting("noted for a batch")

    def is_news(self, file: str) -> bool:
        """Tell whether a reply came by wire, or from a batch that no run has collected before."""
        return file not in self._told

    def _read(self, result: batch_files.Result):
        """Return the completion in a result. Raises Fault."""
        from common.client.wire import read_completion

        if result.file is None:
            words = result.entry["words"] or f"batch/{result.entry['file']}"
            raise Fault("transient", f"no result, batch {result.entry['status']}", words)
        result.file.seek(result.place)
        row = faults.parse_json(result.file.readline())
        response = row.get("response") or {}
        body = response.get("body", response)  # Fireworks: the reply itself is the response
        if not result.good:
            error = {"error": row.get("error") or body or "no reply"}
            words = faults.provider_words(json_bytes(error))
            status = response.get("status_code")
            if type(status) is int and 300 <= status < 1000:
                raise faults.sort_status(status, words)
            raise faults.sort_error_body(error, json_bytes(error))
        completion = read_completion(body.encode() if isinstance(body, str) else json_bytes(body))
        completion.batch = result.entry["file"]
        return completion

    def _bear(self, fault: Fault, result: batch_files.Result, connection) -> Fault:
        """Return a fault that used up its try. Raises ItemFailed, or Halted at settings at fault.

        A live call asks anew what was refused: perhaps an engine with a smaller context did it.
        What refuses a whole batch ends the run that collects it; the next one sends it anew.
        """
        kind, detail = self._run.masked(fault.kind), self._run.masked(fault.detail)[:400]
        fault = replace(fault, kind=kind, detail=detail)
        self._run.spending.calls[fault.kind] += 1
        if fault.category == "item" and self.asks_nothing_live:
            raise ItemFailed(fault.kind, str(fault), lasting=True)
        entry = result.entry
        is_shared = fault.category in ("configuration", "cap")
        if is_shared and entry["is_new"] and not entry["good"]:
            advice = fault.advice_at(connection.endpoint)
            self._run.halt(EXIT_STOPPED, f"batch/{entry['file']}: {fault}\n{advice}")
            raise Halted()
        return fault

    async def _note(self, connection, call, messages, max_tokens, custom_id, body) -> None:
        """Write a request into its model's file. Raises Waiting beyond --max-cost."""
        at_most_usd = None
        budget = self._run.budget
        listing = await connection.listing(call.model) if self._sends else None
        if self._sends and (budget.is_limited or listing.has_prices):
            at_most_usd = listing.worst_case_usd(call, messages, max_tokens)
            at_most_usd *= connection.endpoint.batch_price
            if not await budget.reserve(at_most_usd):
                self._counts["beyond budget"] += 1
                raise Waiting("beyond --max-cost")
            budget.settle(at_most_usd, at_most_usd)
        key = (call.provider, call.model)
        if key not in self._open or not self._open[key].add(custom_id, body, at_most_usd):
            if key in self._open:
                self._unsent.append(self._open[key].close(self._status))
            self._open[key] = batch_files.Requests(
                stage=self._stage,
                shard=self._shard,
                provider=call.provider,
                base_url=connection.endpoint.base_url,
                model=call.model,
            )
            self._open[key].add(custom_id, body, at_most_usd)

    # ----------------------------------------------------------------------------- all of a stage

    async def _collect(self) -> None:
        """Ask after what is under way, fetch what has ended, find all results on file."""
        if not BATCH.is_dir():
            return
        for entry in batch_files.entries_of(self._stage):
            entry["is_new"] = entry["status"] not in ENDED
            if entry["is_new"] and (entry["batch_id"] or entry["input_file_id"]):
                try:
                    await self._follow(entry)
                except Fault as fault:
                    path = path_of(entry["file"])
                    words = self._run.masked(str(fault))[:400]
                    self._run.say(
                        f"{path} could not be asked after: {words}\nIts requests wait. If it is "
                        "gone for good, remove that file: they are asked anew, and paid anew."
                    )
            if entry["status"] == WRITTEN and path_of(entry["file"], ".out").exists():
                change(entry, status=batch_files.ANSWERED)
            is_ours = self._shard in ("", entry["shard"])
            if entry["status"] in ENDED:
                self._told |= set() if entry["is_new"] else {entry["file"]}
                self._results.update(batch_files.find_results(entry, self._counts))
            elif entry["status"] == UNSENT and not entry["input_file_id"] and is_ours:
                path_of(entry["file"]).unlink()  # noted anew, within this run's --max-cost
            else:
                self._under_way |= batch_files.custom_ids(entry)
                self._waiting.append(entry)

    async def _follow(self, entry: dict) -> None:
        """Bring an entry up to date with its batch; fetch the results of one that has ended."""
        endpoint = self._run.environment.providers.get(entry["provider"])
        if endpoint is None or endpoint.base_url != entry["base_url"]:
            raise Fault("transient", f"it is at {entry['base_url']}, where this run asks nothing")
        state = await self._api(entry["provider"]).follow(entry, path_of(entry["file"], ".out"))
        if state is None:  # a run ended between upload and start
            change(entry, input_file_id="")
            return
        if state["words"]:
            self._run.say(f"batch/{entry['file']} {state['status']}: {state['words']}")
        change(entry, **state)

    async def close(self) -> None:
        """Send what was noted, unless the run is over or ends meanwhile."""
        if self._run.end is None:
            sending = asyncio.ensure_future(self._send())
            over = asyncio.ensure_future(self._run.over.wait())
            over.add_done_callback(lambda _: sending.cancel())
            with suppress(asyncio.CancelledError):
                await sending
        for api in self._apis.values():
            await api.close()

    async def _send(self) -> None:
        """Finish the request files, send each, start its batch; then halt for what went wrong."""
        stops = []
        if self._counts["beyond budget"]:
            words = f"{self._run.budget}, as the most that the batches can cost"
            stops.append((EXIT_SOME_FAILED, f"{words}.\nRun the same line again to go on."))
        try:
            for (provider, model), requests in self._open.items():
                if not self._run.models[provider, model].gone:
                    self._unsent.append(requests.close(self._status))
            refused_by = set()
            for entry in self._unsent:
                if self._sends and entry["provider"] not in refused_by:
                    try:
                        await self._start(entry)
                    except Fault as fault:
                        refused_by.add(entry["provider"])
                        stops.append(self._why_not_sent(fault, entry))
                if path_of(entry["file"]).exists():
                    self._waiting.append(entry)
        except OSError as error:
            stops.append((EXIT_STOPPED, disk_words(error)))
        for code, words in sorted(stops, reverse=True):  # the gravest one is told
            self._run.halt(code, words)

    async def _start(self, entry: dict) -> None:
        """Upload a request file and start its batch, each step in the state. Raises Fault."""
        api = self._api(entry["provider"])
        try:
            file_id = await api.upload(path_of(entry["file"]))
            change(entry, input_file_id=file_id)
            state = await api.start(file_id, entry["mark"])
        except Fault as fault:
            if fault.status in _NO_BATCHES:  # nothing is under way: live calls may ask
                path_of(entry["file"]).unlink()
            raise
        change(entry, **state, since=time.time())

    def _why_not_sent(self, fault: Fault, entry: dict) -> tuple[int, str]:
        """Return exit code and words."""
        endpoint = self._run.environment.providers[entry["provider"]]
        words = f"{endpoint.base_url}: {self._run.masked(str(fault))[:400]}"
        if fault.status in _NO_BATCHES:
            return EXIT_STOPPED, (
                f"{words}: it seems to take no batches.\nWith --batch-files the files are written "
                "for an engine of your own; without either flag the calls go out live."
            )
        if fault.category == "configuration":
            return EXIT_STOPPED, f"{words}\n{fault.advice_at(endpoint)}"
        return EXIT_SOME_FAILED, f"{words}\nRun the same line again: it sends them then."

    def _api(self, provider: str):
        """Return the batches of a provider."""
        from common.client.batch_api import BatchApi  # takes a second

        if provider not in self._apis:
            self._apis[provider] = BatchApi(self._run.environment.providers[provider], self._run)
        return self._apis[provider]

    def lines(self) -> list[str]:
        """Return the lines of the tally."""
        lines = []
        if self._counts["collected"]:
            lines.append(f"batch   {self._counts['collected']:,} of the replies came from batches")
        for entry in self._waiting:
            words = f"{path_of(entry['file'])}: {entry['requests']:,} requests"
            if entry["at_most_usd"] is not None:
                words += f", at most ${entry['at_most_usd']:.2f}"
            words += f", {entry['status']} for {clock(time.time() - entry['since'])}"
            if entry["status"] == WRITTEN:
                results = path_of(entry["file"], ".out")
                words += f"; put the results into {results}, or remove the requests to ask anew"
            lines.append(f"batch   {words}")
        if any(self._counts[kind] for kind in _ODD_LINES):
            odd = ", ".join(f"{self._counts[kind]:,} {kind}" for kind in _ODD_LINES)
            lines.append(f"batch   lines of results that were left: {odd}")
        return lines
