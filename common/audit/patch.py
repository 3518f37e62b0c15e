"""Read a git diff, or a plain unified one: its files, and the hunks and lines of each."""

import codecs
import re
from dataclasses import dataclass, field

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@ ?(.*)")

_ESCAPE = re.compile(rb'\\(?:[0-3][0-7]{2}|[abtnvfr"\\])')  # those that git writes; others stay


@dataclass
class Hunk:
    """A run of changed lines: where it lies in the old and the new file."""

    old_start: int
    old_length: int
    new_start: int
    new_length: int
    header: str  # what stands behind the second @@: often the function around it
    lines: list[str] = field(default_factory=list)  # each begins with "+", "-" or " "


@dataclass
class FilePatch:
    """What a diff says of one file."""

    old_path: str | None = None  # None for a new file
    new_path: str | None = None  # None for a deleted one
    renamed: bool = False
    hunks: list[Hunk] = field(default_factory=list)

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
    """Return the files of a diff in order. No text raises: what is no diff has no files.

    A hunk ends where its header says, so that a removed `-- x` is no `--- x` of the next file.
    """
    files: list[FilePatch] = []
    old_path = None  # of a `--- ` line whose `+++ ` line is still to come
    old_left = 0  # lines of the current hunk still to come
    new_left = 0
    for line in patch.removesuffix("\n").split("\n"):
        line = line.removesuffix("\r")
        if (old_left > 0 or new_left > 0) and line[:1] in ("", " ", "+", "-", "\\"):
            if line.startswith("\\"):  # "\ No newline at end of file"
                continue
            line = line or " "  # an editor took the space of an empty context line
            files[-1].hunks[-1].lines.append(line)
            old_left -= line[0] != "+"
            new_left -= line[0] != "-"
            continue
        old_left = 0
        new_left = 0
        if line.startswith("diff --git "):
            both = line.removeprefix("diff --git ")
            path = _path(both[len(both) // 2 + 1 :], "b/")  # the same name twice, unless renamed
            files.append(FilePatch(path, path))
        elif line.startswith("--- "):
            old_path = line.removeprefix("--- ")
        elif line.startswith("+++ ") and old_path is not None:
            if not files or files[-1].hunks:
                files.append(FilePatch())
            files[-1].old_path = _path(old_path, "a/")
            files[-1].new_path = _path(line.removeprefix("+++ "), "b/")
            old_path = None
        elif hunk := _HUNK.match(line):
            if not files:
                files.append(FilePatch())
            numbers = [int(number or 1) for number in hunk.groups()[:4]]
            files[-1].hunks.append(Hunk(*numbers, header=hunk[5]))
            old_left = numbers[1]
            new_left = numbers[3]
        elif files and line.startswith(("rename from ", "copy from ")):
            files[-1].old_path = _path(line.partition(" from ")[2])
            files[-1].renamed = line.startswith("rename")
        elif files and line.startswith(("rename to ", "copy to ")):
            files[-1].new_path = _path(line.partition(" to ")[2])
        elif files and line.startswith("new file mode "):
            files[-1].old_path = None
        elif files and line.startswith("deleted file mode "):
            files[-1].new_path = None
    return files


def _path(text: str, prefix: str = "") -> str | None:
    r"""Return a path as text; None for /dev/null. Unusual ones are quoted: "b/caf\303\251.txt"."""
    if not text.startswith('"'):
        path = text.split("\t")[0].rstrip()  # behind a tab stands the time
        return None if path == "/dev/null" else path.removeprefix(prefix)
    quoted = text.strip()[1:-1].encode(errors="replace")
    unescaped = _ESCAPE.sub(
        lambda e: codecs.decode(e[0], "unicode_escape").encode("latin-1"), quoted
    )
    return unescaped.decode(errors="replace").removeprefix(prefix)
