"""Files that a stage makes from other files: written when they differ, else left alone.

None is synced to disk: the next run compares it with its sources, and makes it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.files import clean_text, quarantine, write_bytes


class Outputs:
    """The files of one run; with `check` nothing is written, and what would have been is noted."""

    def __init__(self, check: bool = False):
        self.check = check
        self.stale: list[str] = []  # with check: the files that are not as they should be
        self.quarantined: list[Path] = []  # foreign files that stood in the way, where they lie now

    def put(
        self,
        path: Path | str,
        content: str | bytes,
        is_ours: Callable[[Path], bool] = lambda path: True,
        essence: Callable[[bytes], bytes] = bytes,
    ) -> None:
        """Write `content` unless it is there; a file that is not ours is moved aside first.

        `essence` returns what of a content counts when it is compared.
        """
        path = Path(path)
        data = clean_text(content).encode("utf-8") if isinstance(content, str) else content
        exists = path.exists()
        if exists and essence(path.read_bytes()) == essence(data):
            return
        if self.check:
            self._note_difference(path, exists)
            return
        if exists and not is_ours(path):
            self.quarantined.append(quarantine(path))
        write_bytes(path, data, durable=False)

    @contextmanager
    def lines(self, path: Path | str) -> Iterator[Callable[[str], None]]:
        """Give a function that adds a line to `path`: for files that need not fit into memory.

        The lines go to a temporary file, and are compared with the file that is there on the way.
        """
        path = Path(path)
        exists = path.exists()
        if self.check:
            temporary = Path(os.devnull)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.tmp")  # what a kill left is written over
        with open(path if exists else os.devnull, "rb") as old, open(temporary, "wb") as new:
            same = exists

            def add(line: str) -> None:
                nonlocal same
                data = clean_text(line).encode("utf-8") + b"\n"
                same = same and old.read(len(data)) == data
                new.write(data)

            yield add
            same = same and not old.read(1)
        if self.check:
            if not same:
                self._note_difference(path, exists)
        elif same:
            temporary.unlink()
        else:
            os.replace(temporary, path)

    def remove(self, path: Path, why: str) -> None:
        """Remove a file that does not belong where it is."""
        if self.check:
            self.stale.append(f"{path} {why}")
        else:
            path.unlink(missing_ok=True)

    def _note_difference(self, path: Path, exists: bool) -> None:
        self.stale.append(f"{path} is out of date" if exists else f"{path} is missing")
