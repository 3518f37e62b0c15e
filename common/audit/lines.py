"""Lines of files: which ones commands show or change, which ones a text speaks of."""

import re

from common.audit.shell import Command
from common.audit.words import words

TO_THE_END = 10**9
_MOST = 50  # files and ranges of one command: keeps odd commands from costing minutes
_SCREEN = 20  # lines that one sees behind `tail -n +3`
_EVERY_LINE = ("", "^", "$", ".*")  # as patterns: `grep -n '' file` numbers the lines, as `nl` does

FILE = re.compile(r"(?<![\w./@+-])[\w./@+-]{1,200}\.\w{1,10}\b")
# In a command: `3,9p`, `3,+6p`, `3{p;q}`, `NR>=3`, `3..9`, `[3:9]`, `-L3,9:a.py`, `+3`
_RANGE = re.compile(
    r"(?:^|[\s;{\[(=<>L]|\.\.)\+?(\d{1,7})(?:\s?(?:,|:|\.\.)\s?(\+?)(\d{1,7}|\$))?"
    r"(?=$|[\s;,:.)\]{}!&=pdsaicqyn])"
)
# In prose: a file, or a number behind `line` or, right behind a file, `:`, `(` or `#L`
_FILE_OR_NUMBER = re.compile(
    r"(?P<file>(?<![\w./-])[\w./-]{1,150}\.[A-Za-z]\w{0,9}\b)"
    r"|(?P<sign>\blines?\b(?: number)?|[:(]|#?\bL)[ #~]{0,2}(?P<first>\d{1,7})\b"
    r"(?:\s?(?:-|–|:|,|to|and|through)\s?L?(?P<last>\d{1,7})\b)?",
    re.IGNORECASE,
)
_NEAR = 16  # characters between a file's name and the line number said of it


def spoken_lines(text: str) -> list[tuple[str, int, int]]:
    """Return (file, first, last) of each line number in prose; file "" where none stands by it."""
    found = []
    file = ""
    file_end = -_NEAR
    for match in _FILE_OR_NUMBER.finditer(text):
        if match["file"]:
            file = match["file"]
            file_end = match.end()
            continue
        gap = match.start() - file_end
        if match["sign"] not in (":", "(") or gap == 0:
            first = int(match["first"])
            found.append((file if gap <= _NEAR else "", first, int(match["last"] or first)))
    return found


def addressed_lines(commands: list[Command]) -> list[tuple[str, int, int]]:
    """Return (file, first, last) of each range of lines that the commands show or change."""
    found = []
    files = []  # of the pipe so far
    head_end = 0
    for command in commands:
        program = command.program
        options = command.argv[1:]
        text = "\n".join([" ".join(options), *command.heredocs])
        pattern = next((word for word in options if not word.startswith("-")), "")
        numbers_all = program == "grep" and pattern in _EVERY_LINE
        by_range = program in words("line tools")
        if by_range or numbers_all or program in ("head", "tail"):
            files_here = [*command.read_files, *FILE.findall(text)]
            files = files_here or files
            head_end = 0 if files_here else head_end
        spans = []
        if program in ("head", "tail"):
            count, from_start = _count(options)
            if program == "head":
                head_end = count or 10
                spans = [(1, head_end)]
            elif from_start:
                spans = [(count, count + _SCREEN)]
            elif count and head_end:  # `head -250 file | tail -9`
                spans = [(max(head_end - count + 1, 1), head_end)]
        elif by_range:
            spans = _ranges(program, text)
        found += [(file, *span) for file in files[:_MOST] for span in spans]
        if command.ends not in ("|", "|&"):
            files = []
            head_end = 0
    return found


def _count(options: list[str]) -> tuple[int, bool]:
    """Return the number of head's and tail's options, and whether it counts from the start."""
    for word in options:
        number = word.removeprefix("--lines=").lstrip("-n")
        if number.lstrip("+").isdecimal() and len(number) < 10:
            return int(number), number.startswith("+")
    return 0, False


def _ranges(program: str, text: str) -> list[tuple[int, int]]:
    """Return the (first, last) that a program's arguments or script tell."""
    if program == "git":
        text = "".join(text.partition("-L")[1:])
    spans = []
    for first, plus, last in _RANGE.findall(text)[:_MOST]:
        low = int(first)
        high = TO_THE_END if last == "$" else int(last or first)
        spans.append((low, low + high if plus else high))
    if program in ("awk", "gawk", "perl") and spans:  # each bound stands for itself
        spans = [(min(spans)[0], max(spans)[1])]
    if program in words("shows all") and not spans:
        return [(1, TO_THE_END)]
    return spans
