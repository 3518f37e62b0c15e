"""Tell what kind of move a reply makes, how much it doubts, and how alike two of them are."""

import re
from contextlib import suppress
from functools import cache

from common.audit.protocol import bash_blocks, read_script
from common.audit.shell import Command, word_list

# From the strongest: a chain counts as its strongest part.
STYLES = ("submit", "edit", "run", "git", "read", "search", "look", "other")
_GIT_STYLES = {"apply": "edit", "grep": "search", "ls-files": "look"}
_SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
_IN_PLACE = re.compile(r"^(?:-[a-zA-Z]*i|--in-place)", re.MULTILINE)
# The bound keeps `open(` repeated on one line from costing seconds.
_WRITES_IN_SCRIPT = re.compile(
    r"""open\([^)\n]{0,500},\s{0,99}['"][wax]|\.write(?:_text|lines)?\(|writeFile"""
)
_WORD = re.compile(r"\w+(?:'\w+)*")


def action_style(reply: str, fence: str = "bash") -> str:
    """Return what kind of command the reply runs, under the chat's fence: one of STYLES."""
    found = set()
    with suppress(ValueError):
        commands = read_script("\n".join(bash_blocks(reply, fence)))
        found = {command_style(command) for command in commands}
    return next((style for style in STYLES if style in found), "other")


def command_style(command: Command) -> str:
    program = command.program
    operands = [word for word in command.argv[1:] if not word.startswith("-")]
    script = "\n".join([*command.heredocs, *command.argv[1:]])
    if program in ("echo", "printf") and _SUBMIT in script:
        return "submit"
    in_place = program in ("sed", "perl") and _IN_PLACE.search(script)
    if command.written_files or in_place or program in word_list("editors"):
        return "edit"
    if program in word_list("interpreters") | word_list("shells"):
        return "edit" if _WRITES_IN_SCRIPT.search(script) else "run"
    if program == "git":
        return _GIT_STYLES.get("".join(operands[:1]), "git")
    if program in word_list("searchers"):
        return "search"
    if program in word_list("readers"):  # of a file: `| head -20` trims another command's output
        files = [word for word in operands if not word.isdigit()]
        return "read" if len(files) > (program in ("sed", "awk")) else "other"
    return "look" if program in word_list("listers") else "other"


@cache
def _hedge_phrases() -> list[str]:
    return [f" {hedge.replace('_', '  ')} " for hedge in word_list("hedges") if "_" in hedge]


def count_doubt(reply: str) -> tuple[int, int]:
    """Return how many hedges the THOUGHT holds, and how many words; a phrase is one hedge.

    A writer who knows the answer hedges less, and students of such text lose where nobody knows it
    (arXiv 2603.24472). No rule of the leak audit sees that, and nothing is refused by it.
    """
    thought = f"\n{reply}".partition("\n```")[0].lower().replace("\u2019", "'")
    said = _WORD.findall(thought)
    said = said[1:] if said[:1] == ["thought"] else said
    hedges = word_list("hedges")
    line = f" {'  '.join(said)} "  # each word between blanks of its own
    phrases = sum(map(line.count, _hedge_phrases()))
    return phrases + sum(word in hedges for word in said), len(said)


def word_triples(text: str) -> set[str]:
    """Return the runs of three words, case and punctuation aside."""
    words = re.findall(r"\w+", text.lower())
    starts = range(max(1, len(words) - 2))
    return {" ".join(words[start : start + 3]) for start in starts}


def jaccard(one: set, other: set) -> float:
    """Return the share of two sets' members that both hold."""
    return len(one & other) / len(one | other)
