"""Check that a reply keeps the form of its chat: a thought, one command, nothing forbidden.

A reply is what the agent says in one turn: a THOUGHT in prose, then one ```bash block, found by the
rule of mini-swe-agent v1, whose parser decides what would really have been run. Nothing here calls
a model.
"""

import re

from common.audit.shell import Command, split_commands
from common.audit.words import words
from common.client.reasoning import visible_text

# SWE-ZERO's rules, known by this mark in the system message, forbid `cd`, the programs of these
# lists of words.txt, and a leading # comment; mini-swe-agent's own rules forbid nothing. It stands
# here and not in ch.py, because the report asks the same of king and of the dataset's reply.
SWE_ZERO_MARK = "`bash -c`, `sh -c`, `eval`"
FORBIDDEN_LISTS = ("shells", "interpreters")

# mini-swe-agent v1: exactly one match of this in a reply, else the turn is refused.
_BASH_BLOCK = re.compile(r"```bash\s*\n(.*?)\n```", re.DOTALL)
# Tokens of chat templates and tool calls that providers let through: Kimi and Qwen (<|...|>),
# DeepSeek (full-width bars), Hermes (<tool_call>).
_RAW_TOKEN = re.compile(
    r"<\|(?:tool_calls?|im|end|start|message|channel|return|call|media|python_tag|eot|assistant"
    r"|user|system|fim|endoftext)[A-Za-z_]*\|>"
    r"|<｜[^<>\n]{1,40}｜>"
    r"|</?tool_calls?>|</?tool_response>|<\|tool_call>|<tool_call\|>"
)
_FIND_RUNS = ("-exec", "-execdir", "-ok", "-okdir")


def format_problem(reply: str) -> str | None:
    """Tell why this text is no reply at all (empty, raw tokens, reasoning left in, cut off)."""
    if not reply or not reply.strip():
        return "the reply is empty"
    if _RAW_TOKEN.search(reply):
        return "the reply holds raw tool-call or chat-template tokens"
    if visible_text(reply) != reply.strip():
        return "the reply holds a <think> tag"
    lines = [line.strip(" \t") for line in reply.split("\n")]
    fences = [line for line in lines if line.startswith("```") and "`" not in line[3:]]
    if len(fences) % 2:
        return "the reply is cut off: a code block is never closed"
    return None


def format_ok(reply: str) -> bool:
    return format_problem(reply) is None


def bash_blocks(reply: str) -> list[str]:
    """Return the commands of all ```bash blocks, as mini-swe-agent v1 finds them."""
    return [block.strip() for block in _split_blocks(reply)[1::2]]


def prose_parts(reply: str) -> list[str]:
    """Return the prose before, between and after the ```bash blocks."""
    return _split_blocks(reply)[::2]


def _split_blocks(reply: str) -> list[str]:
    """Return prose, block, prose, block, ..., prose."""
    # Behind the last fence no block closes, and to search there is costly.
    end = reply.rfind("\n```") + len("\n```")
    *parts, last = _BASH_BLOCK.split(reply[:end])
    return [*parts, last + reply[end:]]


def protocol_problem(reply: str, messages: list[dict]) -> str | None:
    """Tell why the reply breaks the agent's protocol, in a few plain words; None when it keeps it.

    Exactly one ```bash block with a command in it and a thought in prose before it, whole, without
    raw tokens, and nothing that SWE-ZERO forbids where the chat is one of its own.
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
    thought = re.findall(r"\w+", prose_parts(reply)[0])
    if not thought or [word.upper() for word in thought] == ["THOUGHT"]:
        return "no THOUGHT stands before the command"
    if not is_swe_zero(messages):
        return None
    if blocks[0].startswith("#"):
        return "the command starts with a # comment, which this chat's system prompt forbids"
    for program in programs_run(commands):
        family = program.rstrip("0123456789.") or program  # python3.11 is python, too
        if family == "cd" or any(family in words(section) for section in FORBIDDEN_LISTS):
            return f"the command runs `{program}`, which this chat's system prompt forbids"
    return None


def is_swe_zero(messages: list[dict]) -> bool:
    """Tell whether the chat's system message states SWE-ZERO's rules."""
    systems = [message.get("content") for message in messages if message.get("role") == "system"]
    return any(SWE_ZERO_MARK in (text or "") for text in systems)


def programs_run(commands: list[Command]) -> list[str]:
    """Return the programs that the commands run, those behind `find -exec` included."""
    programs = [command.program for command in commands]
    for command in commands:
        if command.program == "find":
            for option, word in zip(command.argv, command.argv[1:], strict=False):
                if option in _FIND_RUNS:
                    programs.append(word.rsplit("/", 1)[-1])
    return programs
