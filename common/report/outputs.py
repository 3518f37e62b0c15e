"""Files that are made from other files: written where they differ, else left alone.

None is synced to disk: the next run compares it with its sources, and makes it again.
"""

from __future__ import annotations

import filecmp
import os
import shutil
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
    """Give a file to write into, which replaces `path` at the end; an empty one removes it.

    Until then it lies in report/, whose lock removes what a kill left: a folder that is uploaded
    must hold nothing half written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path("report", f".{path.name}.report.{os.getpid()}.tmp")
    beside = path.with_name(f".{path.name}.tmp")  # older versions wrote here
    beside.unlink(missing_ok=True)
    try:
        with open(temporary, "wb") as file:
            yield file
        if temporary.stat().st_size == 0:
            path.unlink(missing_ok=True)
        elif not path.exists() or not filecmp.cmp(temporary, path, shallow=False):
            try:
                os.replace(temporary, path)
            except OSError:  # it lies on another disk
                shutil.copyfile(temporary, beside)
                os.replace(beside, path)
    finally:
        temporary.unlink(missing_ok=True)
