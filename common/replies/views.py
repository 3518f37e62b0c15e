"""Tell which lines of which files a chain of commands addresses, as `sed -n 3,9p a.py` does."""

import re

from common.replies.shell import Command

TO_THE_END = 10**9
_MOST = 50  # files and ranges of one command: keeps odd commands from costing minutes
_SED_ADDRESS = re.compile(r"(?:^|[;{\s])(\d{1,7})(?:,\s*(\+?)(\d{1,7}|\$))?\s*!?[pdsaicqyn={]")
_AFTER_SCRIPT = {"sed", "awk", "grep"}  # their first operand is no file
_OPENS_AT = {"tail", "less", "more", "vim", "vi", "view"}  # at line N, told `+N`
_SHOWS_FILE = {"cat", "nl", "head", "git", "bat"} | _OPENS_AT | _AFTER_SCRIPT
# As a pattern these match every line: `grep -n '' file` numbers the lines, as `nl` does.
_EVERY_LINE = ("", "^", "$", ".*")
# `git log -L 3,9:file`, `blame -L 3,+7`
_GIT_RANGE = re.compile(r"-L\s*(\d{1,9}),(\+?)(\d{1,9})(?::(\S+))?")


def addressed_lines(commands: list[Command]) -> list[tuple[str, int, int]]:
    """(file, first, last) of each line range that a chain of sed, awk, head, tail, cat, git addresses."""
    found, files, head_end = [], [], 0
    for command in commands:
        program, arguments = command.program, command.argv[1:]
        operands = [a for a in arguments if not a.startswith(("-", "+")) and not a.isdigit()]
        whole = program != "grep" or operands[:1] and operands[0] in _EVERY_LINE
        if program in _SHOWS_FILE and whole and len(operands) > (program in _AFTER_SCRIPT):
            files = operands[program in _AFTER_SCRIPT:]
        files = [target for operator, target in command.redirects if operator == "<"] or files
        joined = " ".join(arguments)
        spans = []
        if program == "sed":
            for first, plus, last in (match for script in operands for match in _SED_ADDRESS.findall(script)):
                end = int(first) if not last else TO_THE_END if last == "$" else int(last)
                spans.append((int(first), int(first) + end if plus else end))
        elif program == "awk" and (numbers := re.findall(r"NR\s*[=<>]=?\s*(\d{1,9})", joined)):
            spans.append((min(map(int, numbers)), max(map(int, numbers))))
        elif program == "head":
            count = re.search(r"-n?\s*(\d{1,9})", joined)
            head_end = int(count[1]) if count else 10
            spans.append((1, head_end))
        elif program in _OPENS_AT and (start := re.search(r"(?:^|[\sn])\+(\d{1,9})", joined)):
            spans.append((int(start[1]), int(start[1]) + 20))
        elif program == "tail" and head_end and (count := re.search(r"-n?\s*(\d{1,9})", joined)):
            spans.append((max(head_end - int(count[1]) + 1, 1), head_end))  # `head -n 250 file | tail -n 9`
        elif program == "git" and (span := _GIT_RANGE.search(joined)):
            files = [span[4]] if span[4] else files
            spans.append((int(span[1]), int(span[3]) + (int(span[1]) if span[2] else 0)))
        elif program in ("cat", "nl", "less", "more", "bat"):
            spans.append((1, TO_THE_END))
        found += [(file, first, last) for file in files for first, last in spans]
    return found
