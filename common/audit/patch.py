"""Read a git diff, or a plain unified one: its files, and the hunks and lines of each."""

import codecs
from contextlib import suppress
from dataclasses import dataclass

from unidiff import PatchSet
from unidiff.errors import UnidiffParseError


@dataclass
class Hunk:
    """A run of changed lines: where it lies in the old and the new file."""

    old_start: int
    old_length: int
    new_start: int
    new_length: int
    header: str  # what stands behind the second @@: often the function around it
    lines: list[str]  # each begins with "+", "-" or " "


@dataclass
class FilePatch:
    """What a diff says of one file."""

    old_path: str | None  # None for a new file
    new_path: str | None  # None for a deleted one
    renamed: bool
    hunks: list[Hunk]

    @property
    def path(self) -> str:
        """The file's path after the change; of a deleted one the path before."""
        return self.new_path or self.old_path or ""


def changed_files(patch: str) -> list[str]:
    """Return the paths that a diff changes, in order; of a rename both."""
    paths = []
    for file in parse_patch(patch):
        if file.renamed:
            paths.append(file.old_path)
        paths.append(file.path)
    return [path for path in dict.fromkeys(paths) if path]


def parse_patch(patch: str) -> list[FilePatch]:
    """Return the files of a diff in order. No text raises: what is no diff has no files."""
    start = "\ndiff --git "
    first, *others = ("\n" + patch.replace("\r\n", "\n")).split(start)
    files = []
    for piece in [first, *(start + other for other in others)]:
        piece = piece.strip("\n") + "\n"
        try:
            found = PatchSet(piece)
        except UnidiffParseError:
            found = []
            with suppress(UnidiffParseError):
                found = PatchSet(_recounted(piece))
        files += [_file_patch(file) for file in found]
    return files


def _recounted(piece: str) -> str:
    """Return the diff with each hunk as long as it says: data sets strip the last empty lines."""
    head, *hunks = piece.rstrip("\n").split("\n@@ ")
    for hunk in hunks:
        header, *lines = hunk.split("\n")
        lines = [line for line in lines if line[:1] in ("", " ", "+", "-")]
        removed = sum(line[:1] != "+" for line in lines)
        added = sum(line[:1] != "-" for line in lines)
        ranges, _, section = header.partition(" @@")
        old, _, new = ranges.partition(" ")
        numbers = f"{old.split(',')[0]},{removed} {new.split(',')[0]},{added}"
        head += "\n".join([f"\n@@ {numbers} @@{section}", *lines])
    return head + "\n"


def _file_patch(file) -> FilePatch:
    renamed = any(line.startswith("rename from ") for line in file.patch_info or [])
    old_path = _path(file.source_file, "a/")
    new_path = _path(file.target_file, "b/")
    hunks = []
    for hunk in file:
        lines = [str(line).rstrip("\n") for line in hunk if line.line_type != "\\"]
        old = (hunk.source_start, hunk.source_length)
        new = (hunk.target_start, hunk.target_length)
        hunks.append(Hunk(*old, *new, hunk.section_header, lines))
    return FilePatch(old_path, new_path, renamed, hunks)


def _path(path: str, prefix: str) -> str | None:
    r"""Return a path as text; None for /dev/null. Git quotes unusual ones: "b/caf\303\251.txt"."""
    if path.startswith('"'):
        with suppress(ValueError):  # a lone backslash at its end
            path = codecs.escape_decode(path[1:-1].encode())[0].decode(errors="replace")
    return None if path == "/dev/null" else path.removeprefix(prefix)
