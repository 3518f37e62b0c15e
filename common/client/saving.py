"""Saving paid replies on a disk that may refuse for a while: full, out of inodes or descriptors."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from common.cli import disk_words
from common.files import json_bytes, write_bytes

_PATIENCE_S = 60.0
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 4.0


class Saver:
    """Writes files; while one cannot be written, no new call starts."""

    def __init__(self, llm):
        self.patience_s = _PATIENCE_S  # from the first refusal on, for all files together
        self.lost = 0  # files given up
        self.hurried = False
        self._llm = llm
        self._refused: set[Path] = set()
        self._sound: asyncio.Event | None = None  # set when nothing is refused any more
        self._writes: set[asyncio.Future] = set()

    async def save(self, path: Path | str, value: object) -> None:
        """Write `value` as JSON. Raises OSError when the disk refused for too long.

        Once begun it ends, also when who asked for it is cancelled.
        """
        write = asyncio.ensure_future(self._write(Path(path), json_bytes(value)))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        await asyncio.shield(write)

    async def wait(self) -> None:
        """Wait while the disk refuses."""
        if self._refused:
            await self._sound.wait()

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    def lines(self) -> list[str]:
        """Return what the tally says of files given up."""
        if not self.lost:
            return []
        return [f"lost    {self.lost:,} paid replies: the disk took no file for them"]

    async def _write(self, path: Path, data: bytes) -> None:
        started = time.monotonic()
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                await asyncio.to_thread(write_bytes, path, data)
                break
            except OSError as error:
                error.filename = error.filename or str(path)
                waited_s = time.monotonic() - started
                # What one file had to wait for in vain, no other waits for.
                if self.lost or self.hurried or waited_s > self.patience_s:
                    self.lost += 1
                    self._note(path, refused=False)
                    raise
                if not self._refused:
                    words = disk_words(error).splitlines()[0]
                    pause = f"no new calls, trying again for {self.patience_s:.0f} s"
                    self._llm.say(f"{words}: {pause}")
                self._note(path, refused=True)
                await asyncio.sleep(wait_s)
                wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)
        self._note(path, refused=False)

    def _note(self, path: Path, refused: bool) -> None:
        if refused:
            self._refused.add(path)
            self._sound = self._sound or asyncio.Event()
            return
        self._refused.discard(path)
        if self._sound is not None and not self._refused:
            self._sound.set()
            self._sound = None
