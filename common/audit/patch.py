"""Read a git diff, or a plain unified one: its files, and the hunks and lines of each.

unidiff reads them; quoted paths and empty last lines that are lost are mended here.
"""

import codecs
from contextlib import suppress
from typing import NamedTuple

from unidiff import Hunk, PatchSet
from unidiff.errors import UnidiffParseError


class FilePatch(NamedTuple):
    """What a diff says of one file."""

    old_path: str | None  # None for a new file
    path: str  # after the change; of a deleted file before
    renamed: bool
    hunks: list[Hunk]


def changed_files(patch: str) -> list[str]:
    """Return the paths that a diff changes, in order; of a rename both."""
    paths = []
    for file in parse_patch(patch):
        paths += [file.old_path, file.path] if file.renamed else [file.path]
    return [path for path in dict.fromkeys(paths) if path]


def parse_patch(patch: str) -> list[FilePatch]:
    """Return the files of a diff in order. No text raises: what is no diff has no files."""
    start = "\ndiff --git "
    first, *others = ("\n" + patch.replace("\r\n", "\n")).split(start)
    files = []
    for piece in [first, *(start + other for other in others)]:
        piece = piece.strip("\n") + "\n"
        found = []
        for lines_lost in range(4):  # data sets strip the last lines where they are empty
            with suppress(UnidiffParseError, ValueError):
                found = PatchSet(piece + " \n" * lines_lost)
                break
        for file in found:
            renamed = any(line.startswith("rename from ") for line in file.patch_info or [])
            old = _path(file.source_file, "a/")
            new = _path(file.target_file, "b/")
            files.append(FilePatch(old, new or old or "", renamed, list(file)))
    return files


def _path(path: str, prefix: str) -> str | None:
    r"""Return a path as text; None for /dev/null. Git quotes unusual ones: "b/caf\303\251.txt"."""
    if path.startswith('"'):
        with suppress(ValueError):  # a lone backslash at its end
            path = codecs.escape_decode(path[1:-1].encode())[0].decode(errors="replace")
    return None if path == "/dev/null" else path.removeprefix(prefix)


def hunk_lines(hunk: Hunk) -> list[str]:
    """Return a hunk's lines; each begins with "+", "-" or " "."""
    return [str(line).rstrip("\n") for line in hunk if line.line_type != "\\"]
