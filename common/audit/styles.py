"""Tell what kind of move a reply makes, and what it changes."""

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


def action_style(reply: str, fence: str = "bash") -> str:
    """Return what kind of command the reply runs, under the chat's fence: one of STYLES."""
    try:
        return script_style(split_commands("\n".join(bash_blocks(reply, fence))))
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
