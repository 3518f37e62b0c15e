"""Tell what kind of move a reply makes, what it changes, and which lines of files it addresses."""

import re

from common.audit.protocol import bash_blocks
from common.audit.shell import Command, split_commands
from common.audit.words import words

# From the strongest: a chain counts as its strongest part.
STYLES = ("submit", "edit", "run", "git", "read", "search", "look", "other")
_GIT_STYLES = {"apply": "edit", "grep": "search", "ls-files": "look"}
_SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
_IN_PLACE = re.compile(r"^(?:-[a-zA-Z]*i|--in-place)", re.MULTILINE)
_SCRIPT_FILE = re.compile(r"\.(?:py|sh|js|rb)$|(?:^|/)run")
_FINDS_BY_NAME = re.compile(r"-i?(?:name|path|regex)\b")
# The bound keeps `open(` repeated on one line from costing seconds.
_WRITES_IN_SCRIPT = re.compile(
    r"""open\([^)\n]{0,500},\s{0,99}['"][wax]|\.write(?:_text|lines)?\(|writeFile"""
)

TO_THE_END = 10**9
_MOST = 50  # files and ranges of one command: keeps odd commands from costing minutes
_SHOW_ALL = {"cat", "nl", "less", "more", "bat"}  # all of a file, if told nothing else
_TOLD_LINES = {
    *("sed", "awk", "gawk", "perl", "ruby", "python", "python3", "node", "git"),
    *("ed", "ex", "vim", "vi", "view", *_SHOW_ALL),
}
FILE = re.compile(r"(?<![\w./@+-])[\w./@+-]{1,200}\.\w{1,10}\b")
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


def action_style(reply: str) -> str:
    """Return what kind of command the reply runs: one of STYLES."""
    try:
        return script_style(split_commands("\n".join(bash_blocks(reply))))
    except ValueError:
        return "other"


def script_style(commands: list[Command]) -> str:
    """Return the strongest style of these commands."""
    found = {_command_style(command) for command in commands}
    return next((style for style in STYLES if style in found), "other")


def edited_files(commands: list[Command]) -> list[str]:
    """Return the texts that name what the commands change: targets, operands, scripts."""
    found = []
    for command in commands:
        if _command_style(command) == "edit":
            found += [*command.written_files, *command.heredocs, *command.argv[1:]]
    return found


def _command_style(command: Command) -> str:
    program = command.program
    operands = [word for word in command.argv[1:] if not word.startswith("-")]
    script = "\n".join([*command.heredocs, *command.argv[1:]])
    if program in ("echo", "printf") and _SUBMIT in script:
        return "submit"
    if command.written_files or program in words("editors"):
        return "edit"
    if program in ("sed", "perl") and _IN_PLACE.search(script):
        return "edit"
    if program in words("interpreters") | words("shells") or _SCRIPT_FILE.search(program):
        return "edit" if _WRITES_IN_SCRIPT.search(script) else "run"
    if program == "git":
        return _GIT_STYLES.get("".join(operands[:1]), "git")
    if program in words("searchers"):
        return "search"
    if program in ("find", "fd") and _FINDS_BY_NAME.search(script):
        return "search"
    if program in words("readers"):  # of a file: `| head -20` trims what another command printed
        files = [word for word in operands if not word.isdigit()]
        needed = 2 if program in ("sed", "awk") else 1
        return "read" if len(files) >= needed or command.read_files else "other"
    return "look" if program in words("listers") else "other"


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
            own = [*command.read_files, *FILE.findall(text)]
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
