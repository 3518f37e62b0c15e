"""Batches: requests are written to batch/, sent as files at the batch price, and collected later.

A request's `custom_id` is a digest of its body, of who asks, and of the number of the try. So a run
finds the results of every try by itself, reads them as replies by wire, and notes the next try. A
line that failed, or that never came back, has used up its try. The files: batch_files.py.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import time
from collections import Counter, defaultdict

from common.cli import EXIT_DONE, EXIT_SOME_FAILED, EXIT_STOPPED, STOPPING, clock, stop_words
from common.client import faults
from common.client.batch_files import (
    ENDED,
    UNSENT,
    WRITTEN,
    add_request,
    change,
    find_results,
    is_good,
    new_file,
    path_of,
    read_state,
)
from common.client.faults import Fault
from common.client.run import Halted, Prices, Run
from common.config import CallSettings
from common.files import ItemFailed, digest, json_bytes, write_bytes

_NO_BATCHES = (400, 404, 405, 501)  # statuses


class Waiting(ItemFailed):
    """A turn that waits for a batch: it is not done, and has not failed."""


class Batches:
    """What one stage has in batches: results on file, requests under way, requests to be sent."""

    def __init__(self, run: Run, stage: str, flags):
        self.asks_nothing_live = flags.batch or flags.batch_files
        self._run = run
        self._sends = flags.batch
        self._stage = stage
        self._shard = "{}_of_{}".format(*flags.shard) if flags.shard else ""
        self._collecting: asyncio.Future | None = None
        self._waiting: list[dict] = []  # entries of the files that are not back
        # By custom_id: the entry, and where in its results the line stands, None without one.
        self._results: dict[str, tuple[dict, int | None]] = {}
        self.told: set[str] = set()  # files that an earlier run has collected
        self._collected = 0  # replies
        self._odd: Counter = Counter()  # lines of results that were left
        self._noted: defaultdict[tuple, list[dict]] = defaultdict(list)  # by provider and model
        self._stop = (EXIT_DONE, "")  # the gravest reason why not all is sent, with its exit code

    async def answer(self, connection, call: CallSettings, messages, max_tokens, who, tried):
        """Return (failed tries, None), or as second (completion, tries, dollars or None) from file.

        `who` tells this asking from another in the same words, `tried` counts the tries before.
        Raises Waiting, ItemFailed when all tries have failed, or Halted.
        """
        from common.client.wire import request_body  # takes a second

        self._collecting = self._collecting or asyncio.ensure_future(self._collect())
        await asyncio.shield(self._collecting)
        if not (self.asks_nothing_live or self._results):
            return 0, None
        body = request_body(call.model_copy(update={"stream": False}), messages, max_tokens)
        for failed in itertools.count():
            custom_id = digest(call.provider, who, str(tried + failed + 1), body.decode())
            if custom_id not in self._results:
                break
            entry, place = self._results[custom_id]
            if entry["status"] not in ENDED:
                raise Waiting("under way in a batch")
            try:
                completion = self._read(entry, place)
            except Fault as error:
                fault = self._run.masked_fault(error)
                self._run.spending.calls[fault.kind] += 1
                # A live call asks it anew: perhaps an engine with a smaller context refused it.
                if fault.category == "item" and self.asks_nothing_live:
                    raise ItemFailed(fault.kind, str(fault), lasting=True) from None
                is_shared = fault.category in ("configuration", "cap")
                if is_shared and entry["file"] not in self.told and not entry["good"]:
                    advice = fault.advice_at(connection.endpoint)  # the next run asks anew
                    self._run.halt(EXIT_STOPPED, f"{path_of(entry)}: {fault}\n{advice}")
                    raise Halted() from None
                continue
            cost = None  # of an engine of one's own
            if entry["batch_id"]:
                cost = (await connection.prices(call)).cost_usd(completion.usage)
                cost = cost and cost * connection.endpoint.batch_price
            self._run.count_reply(call, completion, cost)
            self._collected += 1
            return failed, (completion, failed + 1, cost)
        if not self.asks_nothing_live:
            return failed, None
        if tried + failed >= call.bad_reply_tries:
            detail = f"failed in {tried + failed} batches: {fault}; without --batch it goes live"
            raise ItemFailed(f"provider: {fault.kind}", detail)

        # It is noted for the next batch, within --max-cost.
        at_most_usd = 0.0
        spending = self._run.spending
        prices = await connection.prices(call) if self._sends else Prices()
        if prices.prompt is not None or (self._sends and spending.limit_usd < math.inf):
            at_most_usd = prices.worst_case_usd(call, messages, max_tokens)
            at_most_usd *= connection.endpoint.batch_price
            if why := await spending.reserve(at_most_usd):
                words = f"{why}, as the most that batches can cost.\nRun the same line again."
                self._stop = max(self._stop, (EXIT_SOME_FAILED, words))
                raise Waiting("beyond --max-cost")
            spending.settle(at_most_usd, at_most_usd)
        files = self._noted[call.provider, call.model]
        if not files or not add_request(files[-1], custom_id, body, at_most_usd):
            where = {"provider": call.provider, "base_url": connection.endpoint.base_url}
            whose = {"stage": self._stage, "shard": self._shard, "model": call.model, **where}
            files.append(new_file(**whose))
            add_request(files[-1], custom_id, body, at_most_usd)
        self._results[custom_id] = (files[-1], None)
        raise Waiting("noted for a batch")

    def _read(self, entry: dict, place: int | None):
        from common.client.wire import read_completion

        if place is None:
            raise Fault("transient", f"no result, batch {entry['status']}", str(path_of(entry)))
        with open(path_of(entry, ".out"), "rb") as file:
            file.seek(place)
            row = faults.parse_json(file.readline())
        response = row.get("response") if isinstance(row.get("response"), dict) else {}
        status = response.get("status_code")
        body = response.get("body", response)  # Fireworks: the reply itself is the response
        if is_good(row):
            text = body.encode("utf-8", "replace") if isinstance(body, str) else json_bytes(body)
            completion = read_completion(text)
            completion.batch = entry["file"]
            return completion
        words = faults.provider_words(json_bytes(row.get("error") or body))
        raise faults.sort_status(status if status in range(300, 1000) else 500, words)

    async def _collect(self) -> None:
        """Ask after what is under way, fetch what has ended, find all results on file."""
        for entry in read_state().values():
            path = path_of(entry)
            if entry["stage"] != self._stage or not path.exists():  # removed by the user
                continue
            for left in [] if self._shard else path.parent.glob(f".{path.stem}.out.*.tmp"):
                left.unlink()  # a killed run's
            if entry["status"] in ENDED:
                self.told.add(entry["file"])
            elif entry["input_file_id"] and (fault := await self._at_provider(entry, self._follow)):
                self._run.say(
                    f"{path} could not be asked after: {fault}\nIts requests wait. If it is gone "
                    "for good, remove that file: they are asked anew, and paid anew."
                )
            is_sent = entry["status"] != UNSENT or entry["input_file_id"]
            if not is_sent and self._shard in ("", entry["shard"]):
                path.unlink()  # noted anew, within this run's --max-cost
                continue
            if entry["status"] not in ENDED and path_of(entry, ".out").exists():
                change(entry, status="completed")  # elsewhere
            if entry["status"] not in ENDED:
                self._waiting.append(entry)
            places = find_results(entry, self._odd)
            self._results |= {custom_id: (entry, place) for custom_id, place in places.items()}

    async def close(self) -> None:
        """Send what was noted, unless the run is over or ends meanwhile."""
        if self._run.end is None:
            sending = asyncio.ensure_future(self._send())
            over = asyncio.ensure_future(self._run.over.wait())
            over.add_done_callback(lambda _: sending.cancel())
            try:
                await sending
            except STOPPING as error:
                self._run.halt(EXIT_STOPPED, stop_words(error))
            except asyncio.CancelledError:
                pass

    async def _send(self) -> None:
        models = self._run.models
        refused_by = set()  # providers
        noted = [files for key, files in self._noted.items() if not models[key].gone]
        for entry in itertools.chain(*noted):
            path = path_of(entry)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            if not self._sends:
                change(entry, status=WRITTEN)
            elif entry["provider"] in refused_by:
                pass
            elif fault := await self._at_provider(entry, self._start):
                if fault.category != "item":  # of this file
                    refused_by.add(entry["provider"])
                endpoint = self._run.environment.providers[entry["provider"]]
                code = EXIT_STOPPED
                advice = fault.advice_at(endpoint)
                if fault.status in _NO_BATCHES:
                    path.unlink()  # nothing is under way: live calls may ask
                    advice = "It seems to take no batches: use --batch-files, or ask live."
                elif fault.category != "configuration":
                    code = EXIT_SOME_FAILED
                    advice = "Run the same line again: it sends them then."
                self._stop = max(self._stop, (code, f"{endpoint.base_url}: {fault}\n{advice}"))
            if path.exists():
                self._waiting.append(entry)
        if self._stop[0] != EXIT_DONE:
            self._run.halt(*self._stop)

    async def _at_provider(self, entry: dict, step) -> Fault | None:
        """Take a step of an entry where its requests go; return what went wrong, for the user."""
        import openai  # takes a second

        from common.client.wire import fault_behind

        endpoint = self._run.environment.providers.get(entry["provider"])
        try:
            if endpoint is None or endpoint.base_url != entry["base_url"]:
                words = f"it is at {entry['base_url']}, where this run asks nothing"
                raise Fault("transient", words)
            # The environment may name an organization at another provider.
            nobody = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
            async with openai.AsyncOpenAI(
                api_key=endpoint.api_key or "none",
                base_url=endpoint.base_url,
                default_headers=nobody,
                http_client=openai.DefaultAioHttpClient(follow_redirects=False),
            ) as client:
                await step(entry, client)
        except STOPPING:  # of our own files
            raise
        except Exception as error:  # nothing that a provider answers may end the run
            return self._run.masked_fault(fault_behind(error))
        return None

    async def _start(self, entry: dict, client) -> None:
        """Upload a request file and start its batch, each step in the state."""
        with open(path_of(entry), "rb") as file:
            upload = (path_of(entry).name, file, "application/jsonl")
            uploaded = await client.files.create(file=upload, purpose="batch")
        change(entry, input_file_id=uploaded.id.strip())
        # It is tried once: a start whose answer is lost may be one.
        batch = await client.with_options(max_retries=0).batches.create(
            input_file_id=entry["input_file_id"],
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"mark": entry["mark"]},
        )
        change(entry, batch_id=batch.id, status=batch.status.lower(), since=time.time())

    async def _follow(self, entry: dict, client) -> None:
        """Bring an entry up to date with its batch; fetch the results of one that has ended."""
        if entry["batch_id"]:
            batch = await client.batches.retrieve(entry["batch_id"])
        else:  # a run ended before it heard of its batch
            page = await client.batches.list(limit=100)
            if not isinstance(page.data, list):
                raise ValueError("its list of batches cannot be read")
            async for batch in page:
                mark = (batch.metadata or {}).get("mark")
                if mark == entry["mark"] or batch.input_file_id == entry["input_file_id"]:
                    break
            else:
                change(entry, input_file_id="")  # it was never started
                return
        status = batch.status.lower()
        if status in ENDED:
            if batch.errors and batch.errors.data:
                words = self._run.masked(str(batch.errors.data[0].message), 1)[:400]
                self._run.say(f"{path_of(entry)} {status}: {words}")
            files = filter(None, (batch.output_file_id, batch.error_file_id))
            parts = [(await client.files.content(file)).content for file in files]
            if not parts and status == "completed":
                raise ValueError("completed, but it names no file of results yet")
            text = b"\n".join(parts).decode("utf-8", "surrogateescape")
            results = self._run.masked(text).encode("utf-8", "surrogateescape")
            write_bytes(path_of(entry, ".out"), results)
        change(entry, batch_id=batch.id, status=status)

    def lines(self) -> list[str]:
        """Return the lines of the tally."""
        lines = []
        if self._collected:
            lines.append(f"batch   {self._collected:,} of the replies came from batches")
        for entry in self._waiting:
            at_most = f", at most ${entry['at_most_usd']:.2f}" if entry["at_most_usd"] else ""
            age = f"{entry['status']} for {clock(time.time() - entry['since'])}"
            words = f"{path_of(entry)}: {entry['requests']:,} requests{at_most}, {age}"
            if entry["status"] == WRITTEN:
                words += f"; put the results into {path_of(entry, '.out')}"
                words += ", or remove the requests to ask anew"
            lines.append(f"batch   {words}")
        if self._odd:
            odd = ", ".join(f"{count:,} {kind}" for kind, count in self._odd.items())
            lines.append(f"batch   lines of results that were left: {odd}")
        return lines
