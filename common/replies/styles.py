"""Tell what kind of move a reply makes: one word for its command."""

import re

from common.replies.shell import Command, split_commands
from common.replies.text import bash_blocks
from common.replies.words import words

# From the strongest: a chain counts as its strongest part.
STYLES = ("submit", "edit", "run", "git", "read", "search", "look", "other")
_GIT_STYLES = {"apply": "edit", "grep": "search", "ls-files": "look"}
_SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
_IN_PLACE = re.compile(r"-[a-zA-Z]*i|--in-place")
_SCRIPT_FILE = re.compile(r"\.(?:py|sh|js|rb)$|(?:^|/)run")
_FINDS_BY_NAME = re.compile(r"-i?(?:name|path|regex)\b")
# The bound keeps `open(` repeated on one line from costing seconds.
_WRITES_IN_SCRIPT = re.compile(
    r"""open\([^)\n]{0,500},\s{0,99}['"][wax]|\.write(?:_text|lines)?\(|writeFile"""
)


def action_style(reply: str) -> str:
    """Return what kind of command the reply runs: one of STYLES."""
    commands = []
    try:
        for block in bash_blocks(reply):
            commands += split_commands(block)
    except ValueError:
        return "other"
    return script_style(commands)


def script_style(commands: list[Command]) -> str:
    """Return the strongest style of these commands."""
    found = {_command_style(command) for command in commands}
    for style in STYLES:
        if style in found:
            return style
    return "other"


def _command_style(command: Command) -> str:
    program = command.program
    arguments = command.argv[1:]
    operands = [argument for argument in arguments if not argument.startswith("-")]
    options = [argument for argument in arguments if argument.startswith("-")]
    script = "\n".join([*command.heredocs, *arguments])
    if program in ("echo", "printf") and _SUBMIT in script:
        return "submit"
    if command.written_files or program in words("editors"):
        return "edit"
    if program in ("sed", "perl") and any(_IN_PLACE.match(option) for option in options):
        return "edit"
    runs_code = program in words("interpreters") or program in words("shells")
    if runs_code or _SCRIPT_FILE.search(program):
        return "edit" if _WRITES_IN_SCRIPT.search(script) else "run"
    if program == "git":
        subcommand = operands[0] if operands else ""
        return _GIT_STYLES.get(subcommand, "git")
    if program in words("searchers"):
        return "search"
    if program in ("find", "fd") and _FINDS_BY_NAME.search(script):
        return "search"
    if program in words("readers"):
        return "read" if _reads_a_file(command, operands) else "other"
    return "look" if program in words("listers") else "other"


def edited_files(commands: list[Command]) -> list[str]:
    """Return the texts that name what the commands change: targets, operands, scripts."""
    found = []
    for command in commands:
        if command.program in words("editors") or _command_style(command) == "edit":
            found += [*command.written_files, *command.heredocs]
            found += command.argv[1:]
    return found


def _reads_a_file(command: Command, operands: list[str]) -> bool:
    """Tell a reader of files from `| head -20`, which only trims what another command printed."""
    needed = 2 if command.program in ("sed", "awk") else 1
    numbers = [operand for operand in operands if operand.isdigit()]
    if len(operands) - len(numbers) >= needed:
        return True
    return bool(command.redirects) and not numbers
