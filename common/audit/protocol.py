"""Check that a reply keeps the form of its chat: a thought, one command, nothing forbidden.

A reply is what the agent says in one turn: a THOUGHT in prose, then one block under the fence that
the chat's rules name, found by the rule of mini-swe-agent, whose parser decides what would really
have been run. Nothing here calls a model.
"""

import json
import re
import shlex
from contextlib import suppress
from functools import lru_cache

from common.audit.shell import split_commands, word_list
from common.client.reasoning import reasoning_left

# SWE-ZERO's rules, known by this mark in the system message, forbid the programs of these lists of
# words.txt, and a leading # comment; mini-swe-agent's own rules forbid nothing.
_SWE_ZERO_MARK = "`bash -c`, `sh -c`, `eval`"
_FORBIDDEN_LISTS = ("shells", "interpreters", "movers")

# mini-swe-agent v1 asks for ```bash, the text form of v2 for ```mswea_bash_command. Exactly one
# match of its block in a reply, else the turn is refused.
_NAMED_FENCE = re.compile(r"```(bash|sh|mswea_bash_command)\b[ \t]*(\S?)")
_FENCE_LINE = re.compile(r"^[ \t]*```[^`\n]*$", re.MULTILINE)
# Tokens of chat templates and tool calls that providers let through: Kimi and Qwen (<|...|>),
# DeepSeek (full-width bars), Hermes (<tool_call>).
_RAW_TOKEN = re.compile(
    r"<\|(?:tool_calls?|im|end|start|message|channel|return|call|media|python_tag|eot|assistant"
    r"|user|system|fim|endoftext)[A-Za-z_]*\|>"
    r"|<｜[^<>\n]{1,40}｜>"
    r"|</?tool_calls?>|</?tool_response>|<\|tool_call>|<tool_call\|>"
    r"|\A\s*<\|\w+\|>|(?:<\|\w+\|>|</s>|<eos>|<end_of_turn>)\s*\Z"  # any, at either end
)
TOOL_CALL = re.compile(r"^Tool call: \S+ (.*)", re.MULTILINE)  # as prompt.py writes them

# The report asks several things of one reply: its script is read once. Nobody changes the commands.
read_script = lru_cache(maxsize=8)(split_commands)


def format_ok(reply: str) -> bool:
    return format_problem(reply) is None


def format_problem(reply: str) -> str | None:
    """Tell why this text is no reply at all (empty, raw tokens, reasoning left in, cut off)."""
    if not reply or not reply.strip():
        return "the reply is empty"
    if "<" in reply and _RAW_TOKEN.search(reply):
        return "the reply holds raw tool-call or chat-template tokens"
    if mark := reasoning_left(reply):
        return f"the reply holds reasoning marked {mark}"
    if len(_FENCE_LINE.findall(reply)) % 2:
        return "the reply is cut off: a code block is never closed"
    return None


def fence_of(messages: list[dict]) -> str:
    """Return the fence that the chat's own rules name for a command, "bash" where they name none.

    The system message's first counts. In the first user message an issue may stand before the
    rules: there a fence named within a sentence counts before one that opens a block, and of
    blocks the last.
    """
    rules = {}
    for message in messages:
        text = message.get("content")
        rules.setdefault(message.get("role"), text if isinstance(text, str) else "")
    if in_system := _NAMED_FENCE.search(rules.get("system", "")):
        return in_system[1]
    named = _NAMED_FENCE.findall(rules.get("user", ""))
    told = [fence for fence, more in named if more or fence == "mswea_bash_command"]
    blocks = [fence for fence, _ in named[-1:]]
    return (told or blocks or ["bash"])[0]


@lru_cache(maxsize=8)
def _split_blocks(reply: str, fence: str) -> list[str]:
    """Return prose, block, prose, block, ..., prose."""
    # Behind the last fence no block closes, and to search there is costly.
    end = reply.rfind("\n```") + len("\n```")
    *parts, last = re.split(rf"```{fence}\s*\n(.*?)\n```", reply[:end], flags=re.DOTALL)
    return [*parts, last + reply[end:]]


def bash_blocks(reply: str, fence: str = "bash") -> list[str]:
    """Return the commands of all blocks under this fence, as mini-swe-agent finds them."""
    return [block.strip() for block in _split_blocks(reply, fence)[1::2]]


def prose_parts(reply: str, fence: str = "bash") -> list[str]:
    """Return the prose before, between and after the blocks."""
    return _split_blocks(reply, fence)[::2]


def commands_said(reply: str, fence: str) -> list[str]:
    """Return the commands of an earlier reply: of its blocks, and of calls that made no block."""
    found = bash_blocks(reply, fence)
    for arguments in TOOL_CALL.findall(reply):
        with suppress(ValueError, RecursionError, TypeError, LookupError):
            command = json.loads(arguments)["command"]
            found.append(command if isinstance(command, str) else shlex.join(command))
    return found


def protocol_problem(reply: str, messages: list[dict]) -> str | None:
    """Tell why the reply breaks the agent's protocol, in a few plain words; None when it keeps it.

    Exactly one block under the chat's fence, with a command in it and a thought in prose before it,
    whole, without raw tokens, and nothing that SWE-ZERO forbids where the chat is one of its own.
    """
    if problem := format_problem(reply):
        return problem
    fence = fence_of(messages)
    blocks = bash_blocks(reply, fence)
    if len(blocks) != 1:
        return f"the reply holds {len(blocks)} ```{fence} blocks; exactly one is asked for"
    try:
        commands = read_script(blocks[0])
    except ValueError as error:
        return f"the command is cut short ({error}); a ``` line inside it ends the block"
    if not any(command.words or command.written_files for command in commands):
        return f"the ```{fence} block holds no command"
    thought = re.findall(r"\w+", prose_parts(reply, fence)[0])
    if not thought or [word.upper() for word in thought] == ["THOUGHT"]:
        return "no THOUGHT stands before the command"

    systems = [message.get("content") for message in messages if message.get("role") == "system"]
    if not any(_SWE_ZERO_MARK in (text or "") for text in systems):
        return None
    if blocks[0].startswith("#"):
        return "the command starts with a # comment, which this chat's system prompt forbids"
    for program in [command.program for command in commands]:
        family = program.rstrip("0123456789.") or program  # python3.11 is python, too
        if any(family in word_list(section) for section in _FORBIDDEN_LISTS):
            return f"the command runs `{program}`, which this chat's system prompt forbids"
    return None
