"""The run over all turns of a stage: so many at once, each saved by its own work, a clean end."""

from __future__ import annotations

import asyncio
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar

from common.cli import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    INTERRUPTED,
    Progress,
    Tally,
    disk_words,
)
from common.client.faults import Halted, ItemFailed
from common.files import BadFile, UserError, printable
from common.signals import ENDING

_GRACE_S = 5.0  # after Ctrl-C: time for calls in flight, which are paid, to come home
_ALIKE = 3  # errors of the program alike in a row: a fault of the program, not of an item

# In each item the last reply that came, so that an item that breaks does not lose it.
LAST_REPLY: ContextVar[list] = ContextVar("LAST_REPLY")


def run_turns(
    llm,
    turns: Iterable,
    work: Callable[[object], Awaitable[None]],
    *,
    name: Callable[[object], str],
    width: int,
    progress: Progress,
    tally: Tally,
) -> int:
    """Do `work(turn)` for every turn, `width` at once, pulled from `turns` as they are needed.

    `work` saves its own results; ItemFailed fails that turn in `tally`. A halt (Ctrl-C,
    configuration, outage, --max-cost) ends the run: no new calls, those in flight get a few
    seconds, what they bring is saved. Return 0, or the exit code, its reason told on stderr.
    """
    before = {number: signal.getsignal(number) for number in ENDING}
    llm.say = progress.say
    run = _Run(llm, iter(turns), work, name, progress, tally)
    try:
        asyncio.run(run.drive(width))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        progress.close()
    if llm.halted is None:
        return EXIT_DONE
    tally.left = max(0, progress.total - progress.n)
    code, words = llm.halted
    tally.stopped = code == EXIT_STOPPED
    print(printable(f"\n{tally.stage}: {words}"), file=sys.stderr)
    return code


class _Run:
    def __init__(self, llm, turns: Iterator, work, name, progress: Progress, tally: Tally):
        self.llm = llm
        self.turns = turns
        self.work = work
        self.name = name
        self.progress = progress
        self.tally = tally
        self.workers: list[asyncio.Future] = []
        self.errors_alike: list[str] = []

    async def drive(self, width: int) -> None:
        """Let `width` workers run until the turns are through or the run is halted."""
        halt_signal = await self.llm.open()
        self.workers = [asyncio.ensure_future(self.worker()) for _ in range(width)]
        loop = asyncio.get_running_loop()
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self.interrupt)
        halted = asyncio.ensure_future(halt_signal.wait())
        all_done = asyncio.gather(*self.workers, return_exceptions=True)
        try:
            await asyncio.wait({all_done, halted}, return_when=asyncio.FIRST_COMPLETED)
            if not all_done.done():
                await asyncio.wait({all_done}, timeout=_GRACE_S)
        finally:
            self.cancel()
            results = await asyncio.gather(*self.workers, return_exceptions=True)
            halted.cancel()
            await self.llm.close()
        for result in results:
            if isinstance(result, Exception):
                raise result

    def interrupt(self) -> None:
        """End the run; asked twice, do not wait for the calls in flight."""
        if self.llm.halted and self.llm.halted[0] == EXIT_INTERRUPTED:
            self.cancel()
            self.llm.hurry()
        self.llm.halt(EXIT_INTERRUPTED, INTERRUPTED)

    def cancel(self) -> None:
        for worker in self.workers:
            worker.cancel()

    async def worker(self) -> None:
        """Work on one turn after the other, until there are no more or the run is halted."""
        try:
            for turn in self.turns:
                if self.llm.halted:
                    return
                last_reply = []
                LAST_REPLY.set(last_reply)
                try:
                    await self.work(turn)
                    self.tally.done += 1
                    self.errors_alike.clear()
                except ItemFailed as failure:
                    fault = {"kind": failure.kind, "detail": failure.detail}
                    self.tally.fail(self.name(turn), **fault, lasting=failure.lasting)
                except (Halted, UserError, BadFile, OSError):
                    raise
                except Exception as error:
                    self.note_error(turn, error, last_reply)
                notes = {"failed": len(self.tally.failed), "at_once": self.llm.at_once()}
                if self.llm.spent():
                    notes["spent"] = self.llm.spent()
                self.progress.update(**notes)
        except Halted:
            return
        except (UserError, BadFile) as stop:
            self.llm.halt(EXIT_STOPPED, str(stop))
        except OSError as error:
            self.llm.halt(EXIT_STOPPED, disk_words(error))

    def note_error(self, turn, error: Exception, last_reply: list) -> None:
        """Fail an item by an error of this program; keep the traceback and the paid reply."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"error of this program: {type(error).__name__} in {place.name}"
        self.tally.fail(
            self.name(turn),
            kind,
            f"{type(error).__name__}: {error}",
            traceback=self.llm.masked("".join(traceback.format_exception(error))),
            replies=[{"text": reply.text, **reply.meta()} for reply in last_reply],
        )
        self.errors_alike.append(kind)
        if self.errors_alike[-_ALIKE:] == [kind] * _ALIKE:
            words = f"{_ALIKE} turns in a row failed alike: {kind}: {error}"
            where = "_failed.jsonl holds the tracebacks and the replies that were paid for."
            self.llm.halt(EXIT_STOPPED, f"{self.llm.masked(words)[:400]}\n{where}")
