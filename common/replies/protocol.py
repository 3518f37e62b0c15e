"""Check that a reply keeps the rules of its chat: a thought, one command, nothing forbidden.

What is forbidden is read from the chat's own system prompt. Nothing here calls a model.
"""

import re

from common.replies.shell import Command, split_commands
from common.replies.styles import STYLES, action_style
from common.replies.text import (
    bash_blocks,
    format_ok,
    format_problem,
    text_before_command,
    thought,
    visible_text,
)
from common.replies.words import words

# What this module and its neighbours offer about one reply.
__all__ = [
    "STYLES", "Command", "action_style", "bash_blocks", "forbidden_programs", "format_ok",
    "format_problem", "protocol_problem", "split_commands", "thought", "visible_text",
]  # fmt: skip

# `cd`, or `bash -c`, or plain: "do not run cd, python or make".
_NAMED_PROGRAM = re.compile(
    r"(?:[`,(]|\b(?:or|and|use|run|try|call|issue|invoke|like)\b)\s*`?([\w+-]+(?:\.\w+)*)"
)
_FAMILY_NAMED = re.compile(r"interpreter|build tool|test runner|compiler", re.IGNORECASE)
_COMMENT_NAMED = re.compile(
    r"#`?\s*comment|leading comment|comment line|\b(?:start|begin)\b.{0,60}\bcomment", re.IGNORECASE
)
_NEGATED = re.compile(
    r"\b(?:not|never|no|don['’]t|cannot|forbidden|prohibited|disallowed)\b", re.IGNORECASE
)
# "cd and make are not permitted"
_BAN_AFTER = re.compile(
    r"\b(?:is|are) (?:(?:not|never) (?:allowed|permitted|available)"
    r"|forbidden|prohibited|disallowed|banned|unavailable)\b",
    re.IGNORECASE,
)
# a heading: "You must not use:", "FORBIDDEN:"
_BAN_HEADING = re.compile(
    r"\b(?:(?:not|never|don['’]t) (?:use|run|call|invoke|allowed|permitted)"
    r"|forbidden|prohibited|disallowed|banned)\b(?: \w+){0,3}:$",
    re.IGNORECASE,
)
_CONDITION = re.compile(r"(?:if|when|where|unless)\b", re.IGNORECASE)
_LIST_ITEM = re.compile(r"\s*(?:[-*•]|\d{1,2}[.)])[ \t]+")
_NEXT_BLOCK = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t])")
_NEXT_SENTENCE = re.compile(r"(?<=[.!?:;])\s+|\s[-*]\s")
_LABEL = re.compile(r"^\W*THOUGHT\W*", re.IGNORECASE)
_FIND_RUNS = ("-exec", "-execdir", "-ok", "-okdir")


def protocol_problem(reply: str, messages: list[dict]) -> str | None:
    """Tell why the reply breaks the agent's protocol, in a few plain words; None when it keeps it.

    Exactly one ```bash block with a command in it and a thought in prose before it, whole, without
    raw tokens, and nothing that the chat's own system prompt forbids.
    """
    if problem := format_problem(reply):
        return problem
    blocks = bash_blocks(reply)
    if len(blocks) != 1:
        return f"the reply holds {len(blocks)} ```bash blocks; exactly one is asked for"
    try:
        commands = split_commands(blocks[0])
    except ValueError as error:
        return f"the command is cut short ({error}); a ``` line inside it ends the block"
    if not any(command.words or command.written_files for command in commands):
        return "the ```bash block holds no command"
    if not re.search(r"\w", _LABEL.sub("", text_before_command(reply))):
        return "no THOUGHT stands before the command"
    programs, comment_forbidden = forbidden_programs(messages)
    if comment_forbidden and blocks[0].startswith("#"):
        return "the command starts with a # comment, which this chat's system prompt forbids"
    families = {_unversioned(program) for program in programs}
    for program in _programs_run(commands):
        if _unversioned(program) in families:
            return f"the command runs `{program}`, which this chat's system prompt forbids"
    return None


def forbidden_programs(messages: list[dict]) -> tuple[set[str], bool]:
    """Return what the system prompt forbids: program names, and whether a leading `# comment` is.

    SWE-ZERO forbids `cd`, interpreters, build tools, test runners, `bash -c` and leading comments;
    mini-swe-agent forbids nothing.
    """
    interpreters = words("interpreters")
    known = {"cd"} | interpreters | words("shells")
    programs = set()
    comment_forbidden = False
    system = [str(m.get("content") or "") for m in messages if m.get("role") == "system"]
    for forbidden in _prohibitions("\n".join(system)):
        programs |= set(_NAMED_PROGRAM.findall(forbidden)) & known
        if _FAMILY_NAMED.search(forbidden):
            programs |= interpreters
        if _COMMENT_NAMED.search(forbidden):
            comment_forbidden = True
    return programs, comment_forbidden


def _prohibitions(system: str) -> list[str]:
    """Return what follows a negation, what stands before "is not allowed" or under a heading."""
    found = []
    under_heading = False
    for block in _NEXT_BLOCK.split(system):
        item = _LIST_ITEM.match(block)
        under_heading = under_heading and item is not None
        banned = under_heading
        text = " ".join(block[item.end() if item else 0 :].split())
        for sentence in _NEXT_SENTENCE.split(text):
            # the comma lets its first word count
            listed = "," + sentence[:1].lower() + sentence[1:]
            negation = _NEGATED.search(sentence)
            ban = _BAN_AFTER.search(sentence)
            if banned:
                found.append(listed)
            elif ban and not _CONDITION.match(sentence):
                found.append(listed[: ban.start() + 1])
            if negation:
                found.append(sentence[negation.end() :])
            banned = _BAN_HEADING.search(sentence) is not None
        under_heading = under_heading or banned
    return found


def _programs_run(commands: list[Command]) -> list[str]:
    """Return the programs that the commands run, also those of `find -exec`."""
    found = []
    for command in commands:
        found.append(command.program)
        if command.program == "find":
            argv = command.argv
            for word, following in zip(argv, argv[1:], strict=False):
                if word in _FIND_RUNS:
                    found.append(following.rsplit("/", 1)[-1])
    return found


def _unversioned(program: str) -> str:
    """Return `python` for `python3.11`: who forbids one forbids all."""
    return re.sub(r"(?<=[a-z])\d[\d.]*$", "", program)
