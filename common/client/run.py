"""The run over all turns of a stage: so many at once, each saved by its own work, a clean end.

The disk may refuse for a while (full, out of inodes or descriptors): what is paid for waits.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from pathlib import Path

from common import cli
from common.cli import ENDING, handle_signals
from common.client.faults import Halted
from common.files import BadFile, ItemFailed, UserError, json_bytes, printable, write_bytes

_GRACE_S = 5.0  # after Ctrl-C: time for calls in flight, which are paid, to come home
_DISK_PATIENCE_S = 60.0
_DISK_PAUSE_S = 0.5
_ALIKE = 3  # errors of the program alike in a row: a fault of the program, not of an item
_TICK_S = 0.2
_STOPPED_S = 2.0  # between two ticks: the process was stopped, or the machine slept

# In each item the last reply that came, so that an item that breaks does not lose it.
LAST_REPLY: ContextVar[list] = ContextVar("LAST_REPLY")


def run_turns(
    llm,
    turns: Iterable,
    work: Callable[[object], Awaitable[None]],
    *,
    name: Callable[[object], str],
    width: int,
    progress: cli.Progress,
    tally: cli.Tally,
) -> int:
    """Do `work(turn)` for every turn, `width` at once, pulled from `turns` as they are needed.

    `work` saves its own results; ItemFailed fails that turn in `tally`. A halt (Ctrl-C,
    configuration, outage, --max-cost) ends the run: no new calls, those in flight get a few
    seconds, what they bring is saved. Return 0, or the exit code, its reason told on stderr.
    """
    left = iter(turns)
    errors_alike: list[str] = []  # in a row

    async def worker() -> None:
        """Work on one turn after the other, until there are no more or the run is halted."""
        try:
            for turn in left:
                if llm.halted:
                    return
                last_reply = []
                LAST_REPLY.set(last_reply)
                try:
                    await work(turn)
                    tally.done += 1
                    errors_alike.clear()
                except ItemFailed as failure:
                    reason = failure.detail
                    tally.fail(name(turn), failure.kind, reason, lasting=failure.lasting)
                except (Halted, UserError, BadFile, OSError):
                    raise
                except Exception as error:
                    fail_by_error(name(turn), error, last_reply)
                progress.update(failed=len(tally.failed), **llm.notes())
        except Halted:
            return
        except (UserError, BadFile) as stop:
            llm.halt(cli.EXIT_STOPPED, str(stop))
        except OSError as error:
            llm.halt(cli.EXIT_STOPPED, cli.disk_words(error))

    def fail_by_error(item: str, error: Exception, last_reply: list) -> None:
        """Fail an item by an error of this program; keep the traceback and the paid reply."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"error of this program: {type(error).__name__} in {place.name}"
        tally.fail(
            item,
            kind,
            f"{type(error).__name__}: {error}",
            traceback=llm.masked("".join(traceback.format_exception(error))),
            replies=[{"text": reply.text, **reply.meta} for reply in last_reply],
        )
        errors_alike.append(kind)
        if errors_alike[-_ALIKE:] == [kind] * _ALIKE:
            words = f"{_ALIKE} turns in a row failed alike: {kind}: {error}"
            where = "_failed.jsonl holds the tracebacks and the replies that were paid for."
            llm.halt(cli.EXIT_STOPPED, f"{llm.masked(words)[:400]}\n{where}")

    async def drive() -> None:
        """Let the workers run until the turns are through or the run is halted."""
        loop = asyncio.get_running_loop()
        loop.time = _AwakeTime()
        ticking = asyncio.ensure_future(_tick())
        workers = [asyncio.ensure_future(worker()) for _ in range(width)]
        all_done = asyncio.gather(*workers, return_exceptions=True)
        halted = asyncio.ensure_future(llm.halt_signal.wait())

        def interrupt() -> None:
            """End the run; asked twice, do not wait for the calls in flight."""
            if llm.halted and llm.halted[0] == cli.EXIT_INTERRUPTED:
                all_done.cancel()
                llm.saver.hurried = True
            llm.halt(cli.EXIT_INTERRUPTED, cli.INTERRUPTED)

        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, interrupt)
        try:
            await asyncio.wait({all_done, halted}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({all_done}, timeout=_GRACE_S)
        finally:
            all_done.cancel()
            results = await asyncio.gather(*workers, return_exceptions=True)
            halted.cancel()
            ticking.cancel()
            await llm.close()
        for result in results:
            if isinstance(result, Exception):
                raise result

    llm.say = progress.say
    try:
        asyncio.run(drive())
    finally:
        handle_signals(signal.default_int_handler)
        progress.close()
    if llm.halted is None:
        return cli.EXIT_DONE
    tally.left = max(0, progress.total - progress.n)
    code, words = llm.halted
    tally.stopped = code == cli.EXIT_STOPPED
    print(printable(f"\n{tally.stage}: {words}"), file=sys.stderr)
    return code


class _AwakeTime:
    """A loop's clock that stands still while the process is stopped (Ctrl-Z, a laptop's sleep).

    By any other, all time-outs would have passed when it goes on, though the replies lie in its
    sockets.
    """

    def __init__(self):
        self._asked_at = time.monotonic()
        self._stopped_s = 0.0

    def __call__(self) -> float:
        now = time.monotonic()
        if now - self._asked_at > _STOPPED_S:
            self._stopped_s += now - self._asked_at
        self._asked_at = now
        return now - self._stopped_s


async def _tick() -> None:
    """Make the loop ask for the time, so that a gap can only be a stop."""
    while True:
        await asyncio.sleep(_TICK_S)


class Saver:
    """Writes files; while one cannot be written, no new call starts."""

    def __init__(self):
        self.patience_s = _DISK_PATIENCE_S  # with each file
        self.lost = 0  # files given up
        self.hurried = False
        self.sound = asyncio.Event()  # set while nothing is refused
        self.sound.set()
        self._refused: set[Path] = set()
        self._writes: set[asyncio.Future] = set()

    async def save(self, path: Path | str, value: object, say: Callable[[str], None]) -> None:
        """Write `value` as JSON; notes go to `say`. Raises OSError when refused for too long.

        Once begun it ends, also when who asked for it is cancelled.
        """
        write = asyncio.ensure_future(self._write(Path(path), json_bytes(value), say))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        await asyncio.shield(write)

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def _write(self, path: Path, data: bytes, say: Callable[[str], None]) -> None:
        give_up_at = time.monotonic() + self.patience_s
        try:
            while True:
                try:
                    await asyncio.to_thread(write_bytes, path, data)
                    return
                except OSError as error:
                    error.filename = error.filename or str(path)
                    # What one file had to wait for in vain, no other waits for.
                    if self.lost or self.hurried or time.monotonic() > give_up_at:
                        self.lost += 1
                        raise
                    if not self._refused:
                        words = cli.disk_words(error).splitlines()[0]
                        pause = f"no new calls, trying again for {self.patience_s:.0f} s"
                        say(f"{words}: {pause}")
                    self._refused.add(path)
                    self.sound.clear()
                    await asyncio.sleep(_DISK_PAUSE_S)
        finally:
            self._refused.discard(path)
            if not self._refused:
                self.sound.set()
