"""How report.py writes what it makes anew, and reads in several processes at once."""

from __future__ import annotations

import filecmp
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from common.files import write_bytes
from common.start import ENDING

MOST_PROCESSES = 4
TURNS_A_PROCESS = 250  # with fewer another one does not pay


@contextmanager
def written_anew(path: Path | str) -> Iterator[BinaryIO]:
    """Give a file to write into, which replaces `path` where it differs; an empty one removes it.

    Until then it lies in report/, whose lock removes what a kill left: a folder that is uploaded
    must hold nothing half written. It is not synced: the next run makes it again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path("report", f".{path.name}.report.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        if temporary.stat().st_size == 0:
            path.unlink(missing_ok=True)
        elif not path.exists() or not filecmp.cmp(temporary, path, shallow=False):
            try:
                os.replace(temporary, path)
            except OSError:  # it lies on another disk
                write_bytes(path, temporary.read_bytes(), durable=False)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def in_processes(work: Callable, items: list, turns: int) -> Iterator[Iterator]:
    """Give work(item) of each item, in order; forked processes share the items of many `turns`.

    Each sends through a pipe of its own and so is never far ahead, and ends when none reads it:
    a pool's workers would outlive a parent that was killed, and hold its locks.
    """
    processes = min(MOST_PROCESSES, os.cpu_count() or 1, turns // TURNS_A_PROCESS)
    if processes < 2:
        yield map(work, items)
        return

    def send(writer, share: list) -> None:
        for reader in readers:
            reader.close()
        with suppress(BrokenPipeError):
            for item in share:
                try:
                    result = work(item)
                except Exception as error:  # for this process to say
                    result = error
                writer.send(result)

    def receive():
        for number in range(len(items)):
            try:
                result = readers[number % processes].recv()
            except (EOFError, OSError):
                raise OSError("a process of this run was killed") from None
            if isinstance(result, Exception):
                raise result
            yield result

    fork = multiprocessing.get_context("fork")
    readers = []
    workers = []
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # for good in those that are forked
        for first in range(processes):
            reader, writer = fork.Pipe(duplex=False)
            readers.append(reader)
            workers.append(fork.Process(target=send, args=(writer, items[first::processes])))
            workers[-1].start()
            writer.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        yield receive()
    finally:
        for reader in readers:
            reader.close()
        for worker in workers:
            worker.join()
