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
        if path.exists() and essence(path.read_bytes()) == essence(data):
            return
        if self.check:
            self._note_difference(path)
            return
        if path.exists() and not is_ours(path):
            self.quarantined.append(quarantine(path))
        write_bytes(path, data, durable=False)

    @contextmanager
    def lines(self, path: Path) -> Iterator[Callable[[str], None]]:
        """Give a function that adds a line to `path`: for files that need not fit into memory.

        They go to a temporary file, and are compared with the file that is there on the way.
        """
        temporary = path.with_name(f".{path.name}.tmp")  # what a kill left is written over
        if self.check:
            temporary = Path(os.devnull)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        same = path.exists()
        with open(path if same else os.devnull, "rb") as old, open(temporary, "wb") as new:

            def add(line: str) -> None:
                nonlocal same
                data = clean_text(line).encode("utf-8") + b"\n"
                same = same and old.read(len(data)) == data
                new.write(data)

            yield add
            same = same and not old.read(1)
        if self.check:
            if not same:
                self._note_difference(path)
        elif same:
            temporary.unlink()
        else:
            os.replace(temporary, path)

    def remove(self, path: Path, why: str) -> None:
        """Remove a file that does not belong where it is, if it is there."""
        if self.check and path.exists():
            self.stale.append(f"{path} {why}")
        elif not self.check:
            path.unlink(missing_ok=True)

    def _note_difference(self, path: Path) -> None:
        self.stale.append(f"{path} is {'out of date' if path.exists() else 'missing'}")
