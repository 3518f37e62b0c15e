"""Tell which lines of which files a chain of commands addresses, as `sed -n 3,9p a.py` does."""

from __future__ import annotations

import re

from common.replies.shell import Command

TO_THE_END = 10**9
_MOST = 50  # files and ranges of one command: keeps odd commands from costing minutes
_WHOLE = {"cat", "nl", "less", "more", "bat"}  # show all of a file, if told nothing else
_SCRIPT_FIRST = {"sed", "awk", "gawk", "perl", "ruby", "grep"}  # their first operand is no file
# As a pattern these match every line: `grep -n '' file` numbers the lines, as `nl` does.
_EVERY_LINE = ("", "^", "$", ".*")
# How each program is told lines: groups (first, plus, last).
_OPTION = re.compile(
    r"(?:^|[\s=])\+?(\d{1,7})(?:[,:](\+?)(\d{1,7}|\$))?(?=$|[\sp])"
)  # `-r 3:9`, `+3`
_SED = re.compile(r"(?:^|[;{\s])(\d{1,7})(?:,\s?(\+?)(\d{1,7}|\$))?\s{0,9}!?[pdsaicqyn={]")
_AWK = re.compile(r"NR\s?[=<>]=?\s?(\d{1,7})()()")
_PERL = re.compile(r"(?:\$\.\s?[=<>]=?\s?|(?<=\.\.)\s?|(?=\d{1,7}\s?\.\.))(\d{1,7})()()")
_CODE = re.compile(
    r"[\[(,]\s?(\d{1,7})(?:\s?(?:,|:|\.\.)\s?()(\d{1,7}))?\s?[\])]"
)  # `[3:9]`, `(3..9)`
_GIT = re.compile(r"-L\s?(\d{1,7}),(\+?)(\d{1,7})")
_TOLD = {
    **{"sed": _SED, "awk": _AWK, "gawk": _AWK, "perl": _PERL, "git": _GIT},
    **{program: _CODE for program in ("python", "python3", "ruby", "node")},
    **{program: _OPTION for program in ("less", "more", "bat", "ed", "ex", "vim", "vi", "view")},
}
_FILE = re.compile(r"(?<![\w./@+-])[\w./@+-]{1,200}\.\w{1,10}\b")
_COUNT = re.compile(r"-(?:n|-lines)?[\s=]?(\d{1,9})")
_FROM = re.compile(r"(?:-n|--lines)?[\s=]?\+(\d{1,9})")
_SCREEN = 20  # lines that one sees where a program opens at a line


def addressed_lines(commands: list[Command]) -> list[tuple[str, int, int]]:
    """Return (file, first, last) of each range of lines that the commands show or change."""
    found = []
    files: list[str] = []  # of the pipe so far
    head_end = 0
    for command in commands:
        own = _files(command)
        if own:
            files = own
            head_end = 0
        spans = _spans(command, head_end)
        if command.program == "head":
            head_end = spans[0][1]
        found += [(file, *span) for file in files[:_MOST] for span in spans[:_MOST]]
        if command.ends not in ("|", "|&"):
            files = []
            head_end = 0
    return found


def _files(command: Command) -> list[str]:
    """Return the files that a command names: operands, redirected input, literals of its code."""
    program = command.program
    if program not in _TOLD and program not in _WHOLE and program not in ("head", "tail", "grep"):
        return []
    operands = command.argv[1:]
    if program != "git":  # `git log -L 3,9:a.py`
        operands = [word for word in operands if not word.startswith(("-", "+"))]
    if program == "grep" and operands[:1] and operands[0] not in _EVERY_LINE:
        return []  # it shows the lines that match, wherever they are
    if program in _SCRIPT_FIRST and operands[1:]:
        operands = operands[1:]
    files = command.read_files
    for operand in [*operands, *command.heredocs]:
        files += _FILE.findall(operand)
    return files


def _spans(command: Command, head_end: int) -> list[tuple[int, int]]:
    """Return the (first, last) that a command addresses."""
    program = command.program
    arguments = command.argv[1:]
    if program == "head":
        count = _COUNT.search(" ".join(arguments))
        return [(1, int(count[1]) if count else 10)]
    if program == "tail":
        start = _FROM.search(" ".join(arguments))
        if start:
            return [(int(start[1]), int(start[1]) + _SCREEN)]
        count = _COUNT.search(" ".join(arguments))
        if head_end and count:  # `head -250 file | tail -9`
            return [(max(head_end - int(count[1]) + 1, 1), head_end)]
        return []
    if program not in _TOLD:
        return [(1, TO_THE_END)] if program in _WHOLE else []
    typed = [target for operator, target in command.redirects if operator == "<<<"]
    spans = []
    for text in [" ".join(arguments), *arguments, *command.heredocs, *typed]:
        spans += [_span(*numbers) for numbers in _TOLD[program].findall(text)[:_MOST]]
    if program in ("awk", "gawk", "perl") and spans:  # each bound stands for itself
        spans = [(min(spans)[0], max(spans)[0])]
    return spans or ([(1, TO_THE_END)] if program in _WHOLE else [])


def _span(first: str, plus: str, last: str) -> tuple[int, int]:
    start = int(first)
    if not last:
        return start, start
    if last == "$":
        return start, TO_THE_END
    return start, start + int(last) if plus else int(last)
