"""Read one reply: the form that its chat asks for, what kind of move it makes, how it doubts.

A reply is a THOUGHT in prose, then one block under the fence that the chat's rules name, found by
the rule of mini-swe-agent, whose parser decides what would really have been run.
"""

import json
import re
import shlex
from contextlib import suppress
from functools import cache, lru_cache

from common.audit.shell import Command, split_commands, word_list
from common.client.reasoning import reasoning_left

# SWE-ZERO's rules, known by this mark in the system message, forbid shells, interpreters, `cd`, and
# a leading # comment; mini-swe-agent's own rules forbid nothing.
_SWE_ZERO_MARK = "`bash -c`, `sh -c`, `eval`"

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
_TOOL_CALL = re.compile(r"^Tool call: \S+ (.*)", re.MULTILINE)  # as prompt.py writes them

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

# The report asks several things of one reply: its script is read once. Nobody changes the commands.
_read_script = lru_cache(maxsize=8)(split_commands)


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

    In the first user message an issue may stand before the rules: there a fence named within a
    sentence counts before one that opens a block, and of blocks the last.
    """
    rules = {}
    for message in messages:
        text = message.get("content")
        rules.setdefault(message.get("role"), text if isinstance(text, str) else "")
    if in_system := _NAMED_FENCE.search(rules.get("system", "")):
        return in_system[1]
    named = _NAMED_FENCE.findall(rules.get("user", ""))
    told = [fence for fence, more in named if more or fence == "mswea_bash_command"]
    return [*told, *(fence for fence, _ in named[-1:]), "bash"][0]


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
    """Return the commands of an earlier reply: its blocks, calls that made none and their files."""
    found = bash_blocks(reply, fence)
    for arguments in _TOOL_CALL.findall(reply):
        found += re.findall(r"[\w./-]+\.\w+", arguments)  # such as an editor's view of a file
        with suppress(ValueError, RecursionError, TypeError, LookupError):
            command = json.loads(arguments)["command"]
            found.append(command if isinstance(command, str) else shlex.join(command))
    return found


def protocol_problem(reply: str, messages: list[dict]) -> str | None:
    """Tell why the reply breaks the agent's protocol, in a few plain words; None if it keeps it."""
    if problem := format_problem(reply):
        return problem
    fence = fence_of(messages)
    blocks = bash_blocks(reply, fence)
    if len(blocks) != 1:
        return f"the reply holds {len(blocks)} ```{fence} blocks; exactly one is asked for"
    try:
        commands = _read_script(blocks[0])
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
        if any(family in word_list(section) for section in ("shells", "interpreters", "movers")):
            return f"the command runs `{program}`, which this chat's system prompt forbids"
    return None


def action_style(reply: str, fence: str = "bash") -> str:
    """Return what kind of command the reply runs, under the chat's fence: one of STYLES."""
    found = set()
    with suppress(ValueError):
        commands = _read_script("\n".join(bash_blocks(reply, fence)))
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

    Who knows the answer hedges less; students of such text lose elsewhere (arXiv 2603.24472).
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
