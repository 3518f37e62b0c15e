"""Tell which lines of which files a chain of commands addresses, as `sed -n 3,9p a.py` does."""

import re

from common.replies.shell import Command

TO_THE_END = 10**9
_MOST = 50  # files and ranges of one command: keeps odd commands from costing minutes
_SHOW_ALL = {"cat", "nl", "less", "more", "bat"}  # all of a file, if told nothing else
_TOLD_LINES = {
    *("sed", "awk", "gawk", "perl", "ruby", "python", "python3", "node", "git"),
    *("ed", "ex", "vim", "vi", "view", *_SHOW_ALL),
}
_FILE = re.compile(r"(?<![\w./@+-])[\w./@+-]{1,200}\.\w{1,10}\b")
# `3,9p`, `3,+6p`, `3{p;q}`, `NR>=3`, `3..9`, `[3:9]`, `-L3,9:a.py`, `+3`
_LINES = re.compile(
    r"(?:^|[\s;{\[(=<>L]|\.\.)\+?(\d{1,7})(?:\s?(?:,|:|\.\.)\s?(\+?)(\d{1,7}|\$))?"
    r"(?=$|[\s;,:.)\]{}!&=pdsaicqyn])"
)
_COUNT = re.compile(r"-(?:n|-lines)?[\s=]?(\d{1,9})")
_FROM = re.compile(r"\+(\d{1,9})")
_SCREEN = 20  # lines that one sees behind `tail -n +3`
# As a pattern these match every line: `grep -n '' file` numbers the lines, as `nl` does.
_EVERY_LINE = ("", "^", "$", ".*")


def addressed_lines(commands: list[Command]) -> list[tuple[str, int, int]]:
    """Return (file, first, last) of each range of lines that the commands show or change."""
    found = []
    files = []  # of the pipe so far
    head_end = 0
    for command in commands:
        program = command.program
        operands = [word for word in command.argv[1:] if not word.startswith("-")]
        text = "\n".join([" ".join(command.argv[1:]), *command.heredocs])
        lists_all = program == "grep" and "".join(operands[:1]) in _EVERY_LINE
        if program in _TOLD_LINES or program in ("head", "tail") or lists_all:
            own = [*command.read_files, *_FILE.findall(text)]
            files = own or files
            head_end = 0 if own else head_end
        spans = []
        count = _COUNT.search(text)
        start = _FROM.search(text)
        if program == "head":
            head_end = int(count[1]) if count else 10
            spans = [(1, head_end)]
        elif program == "tail" and start:
            spans = [(int(start[1]), int(start[1]) + _SCREEN)]
        elif program == "tail" and count and head_end:  # `head -250 file | tail -9`
            spans = [(max(head_end - int(count[1]) + 1, 1), head_end)]
        elif program in _TOLD_LINES:
            spans = _told_lines(program, text)
        found += [(file, *span) for file in files[:_MOST] for span in spans]
        if command.ends not in ("|", "|&"):
            files = []
            head_end = 0
    return found


def _told_lines(program: str, text: str) -> list[tuple[int, int]]:
    """Return the (first, last) that a program is told in its arguments or its script."""
    if program == "git":
        text = "".join(text.partition("-L")[1:])
    spans = []
    for first, plus, last in _LINES.findall(text)[:_MOST]:
        low = int(first)
        high = TO_THE_END if last == "$" else int(last or first)
        spans.append((low, low + high if plus else high))
    if program in ("awk", "gawk", "perl") and spans:  # each bound stands for itself
        spans = [(min(spans)[0], max(spans)[1])]
    if program in _SHOW_ALL and not spans:
        return [(1, TO_THE_END)]
    return spans
