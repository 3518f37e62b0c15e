"""Files that a stage makes from other files: written when they differ, else left alone.

None is synced to disk: the next run compares it with its sources, and makes it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
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
    ) -> None:
        """Write `content` unless it is there; a file that is not ours is moved aside first."""
        path = Path(path)
        data = clean_text(content).encode("utf-8") if isinstance(content, str) else content
        if path.exists() and path.read_bytes() == data:
            return
        if self.check:
            self._note(path)
            return
        if path.exists() and not is_ours(path):
            self.quarantined.append(quarantine(path))
        write_bytes(path, data, durable=False)

    def put_lines(self, path: Path, lines: Iterable[str]) -> None:
        """Write lines, for files that need not fit into memory: they are compared on the way."""
        temporary = Path(os.devnull)
        if not self.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.tmp")  # what a kill left is written over
        same = path.exists()
        there = path if same else os.devnull
        with (
            open(there, encoding="utf-8", errors="replace", newline="\n") as old,
            open(temporary, "w", encoding="utf-8", newline="\n") as new,
        ):
            for line in lines:
                same = same and old.readline() == line
                new.write(line)
            same = same and not old.readline()
        if self.check and not same:
            self._note(path)
        elif not self.check and same:
            temporary.unlink()
        elif not self.check:
            os.replace(temporary, path)

    def remove(self, path: Path, why: str) -> None:
        """Remove a file that does not belong where it is, if it is there."""
        if self.check and path.exists():
            self.stale.append(f"{path} {why}")
        elif not self.check:
            path.unlink(missing_ok=True)

    def _note(self, path: Path) -> None:
        self.stale.append(f"{path} is {'out of date' if path.exists() else 'missing'}")
