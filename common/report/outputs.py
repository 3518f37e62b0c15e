"""Files that are made from other files: written where they differ, else left alone.

None is synced to disk: the next run compares it with its sources, and makes it again.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from common.files import clean_text, quarantine, write_bytes


def put(
    path: Path | str, content: str | bytes, is_ours: Callable[[Path], bool] | None = None
) -> Path | None:
    """Write `content` unless it is there.

    Where another file is there and `is_ours` denies it, rename that, and return its new path.
    """
    path = Path(path)
    data = clean_text(content).encode("utf-8") if isinstance(content, str) else content
    quarantined = None
    if path.exists():
        if path.read_bytes() == data:
            return None
        if is_ours and not is_ours(path):
            quarantined = quarantine(path)
    write_bytes(path, data, durable=False)
    return quarantined


@contextmanager
def written_anew(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write into, which replaces `path` at the end; an empty one removes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # what a kill left is written over
    with open(temporary, "wb") as file:
        yield file
    if temporary.stat().st_size == 0:
        path.unlink(missing_ok=True)
        temporary.unlink()
    elif path.exists() and filecmp.cmp(temporary, path, shallow=False):
        temporary.unlink()
    else:
        os.replace(temporary, path)
