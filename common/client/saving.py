"""Saving paid replies on a disk that may refuse for a while: full, out of inodes or descriptors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from common.cli import disk_words
from common.files import json_bytes, write_bytes

_PAUSE_S = 0.5


class Saver:
    """Writes files; while one cannot be written, no new call starts. Notes go to `say`."""

    def __init__(self, say: Callable[[str], None]):
        self.patience_s = 60.0  # with each file
        self.lost = 0  # files given up
        self.hurried = False
        self.sound = asyncio.Event()  # set while nothing is refused
        self.sound.set()
        self._say = say
        self._refused: set[Path] = set()
        self._writes: set[asyncio.Future] = set()

    async def save(self, path: Path | str, value: object) -> None:
        """Write `value` as JSON. Raises OSError when the disk refused for too long.

        Once begun it ends, also when who asked for it is cancelled.
        """
        write = asyncio.ensure_future(self._write(Path(path), json_bytes(value)))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        await asyncio.shield(write)

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def _write(self, path: Path, data: bytes) -> None:
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
                        words = disk_words(error).splitlines()[0]
                        pause = f"no new calls, trying again for {self.patience_s:.0f} s"
                        self._say(f"{words}: {pause}")
                    self._refused.add(path)
                    self.sound.clear()
                    await asyncio.sleep(_PAUSE_S)
        finally:
            self._refused.discard(path)
            if not self._refused:
                self.sound.set()
