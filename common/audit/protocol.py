"""Check that a reply keeps the rules of its chat: a thought, one command, nothing forbidden.

A reply is what the agent says in one turn: a THOUGHT in prose, then one ```bash block, found by the
rule of mini-swe-agent v1, whose parser decides what would really have been run. What is forbidden
is read from the chat's own system prompt. Nothing here calls a model.
"""

import re

from common.audit.shell import split_commands
from common.audit.words import words
from common.client.reasoning import visible_text

# mini-swe-agent v1: exactly one match of this in a reply, else the turn is refused.
_BASH_BLOCK = re.compile(r"```bash\s*\n(.*?)\n```", re.DOTALL)
_FENCE_LINE = re.compile(r"^[ \t]*```[^`\n]*$", re.MULTILINE)
# Tokens of chat templates and tool calls that providers let through: Kimi and Qwen (<|...|>),
# DeepSeek (full-width bars), Hermes (<tool_call>).
_RAW_TOKEN = re.compile(
    r"<\|(?:tool_calls?|im|end|start|message|channel|return|call|media|python_tag|eot|assistant"
    r"|user|system|fim|endoftext)[A-Za-z_]*\|>"
    r"|<｜[^<>\n]{1,40}｜>"
    r"|</?tool_calls?>|</?tool_response>|<\|tool_call>|<tool_call\|>"
)
_LABEL = re.compile(r"^\W*THOUGHT\W*", re.IGNORECASE)
_VERSION = re.compile(r"(?<=[a-z])\d[\d.]*$")  # who forbids python forbids python3.11, too
_FIND_RUNS = ("-exec", "-execdir", "-ok", "-okdir")

# How system prompts forbid, in lower case: "never use `cd`", "make is not available", "forbidden:".
_BAN = re.compile(
    r"\b(is |are )?(?:not|never|no|don['’]t|cannot|forbidden|prohibited|disallowed|banned"
    r"|unavailable)\b(?! persist)"
)
_BAN_HEADING = re.compile(
    r"\b(?:(?:not|never|don['’]t) (?:use|run|call|invoke|allowed|permitted)"
    r"|forbidden|prohibited|disallowed|banned)\b(?: \w+){0,3}:$"
)
_CONDITION = re.compile(r"(?:if|when|where|unless)\b")
_ITEM = r"[ \t]*(?:[-*•]|\d[.)])[ \t]+"
_NEXT_SENTENCE = re.compile(rf"(?<=[.!?:;])(?<!\n\d\.)\s+|\n[ \t]*\n|\n(?={_ITEM})")
_NAMED_PROGRAM = re.compile(
    r"(?:[`,(]|\b(?:or|and|use|run|try|call|issue|invoke|like)\b)\s*`?([\w+-]+(?:\.\w+)*)"
)
_FAMILY_NAMED = re.compile(r"interpreter|build tool|test runner|compiler")
_COMMENT_NAMED = re.compile(
    r"#`?\s*comment|leading comment|comment line|\b(?:start|begin)\b.{0,60}\bcomment"
)


def format_problem(reply: str) -> str | None:
    """Tell why this text is no reply at all (empty, raw tokens, reasoning left in, cut off)."""
    if not reply or not reply.strip():
        return "the reply is empty"
    if _RAW_TOKEN.search(reply):
        return "the reply holds raw tool-call or chat-template tokens"
    if visible_text(reply) != reply.strip():
        return "the reply holds a <think> tag"
    if len(_FENCE_LINE.findall(reply)) % 2:
        return "the reply is cut off: a code block is never closed"
    return None


def format_ok(reply: str) -> bool:
    return format_problem(reply) is None


def bash_blocks(reply: str) -> list[str]:
    """Return the commands of all ```bash blocks, as mini-swe-agent v1 finds them."""
    return [block.strip() for block in _BASH_BLOCK.findall(reply, 0, _last_fence(reply))]


def prose_parts(reply: str) -> list[str]:
    """Return the prose before, between and after the ```bash blocks."""
    end = _last_fence(reply)
    *parts, last = _BASH_BLOCK.split(reply[:end])[::2]
    return [*parts, last + reply[end:]]


def _last_fence(reply: str) -> int:
    """Return where the last fence ends: behind it no block closes, to search there is costly."""
    return reply.rfind("\n```") + len("\n```")


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
    if not re.search(r"\w", _LABEL.sub("", prose_parts(reply)[0])):
        return "no THOUGHT stands before the command"
    programs, comment_forbidden = forbidden_programs(messages)
    if comment_forbidden and blocks[0].startswith("#"):
        return "the command starts with a # comment, which this chat's system prompt forbids"
    run = [command.program for command in commands]
    for command in commands:
        if command.program == "find":
            for option, word in zip(command.argv, command.argv[1:], strict=False):
                if option in _FIND_RUNS:
                    run.append(word.rsplit("/", 1)[-1])
    families = {_VERSION.sub("", program) for program in programs}
    for program in run:
        if _VERSION.sub("", program) in families:
            return f"the command runs `{program}`, which this chat's system prompt forbids"
    return None


def forbidden_programs(messages: list[dict]) -> tuple[set[str], bool]:
    """Return what the system prompt forbids: program names, and whether a leading `# comment` is.

    SWE-ZERO forbids `cd`, interpreters, build tools, test runners, `bash -c` and leading comments;
    mini-swe-agent forbids nothing.
    """
    system = [str(m.get("content") or "") for m in messages if m.get("role") == "system"]
    known = {"cd"} | words("interpreters") | words("shells")
    programs = set()
    comment_forbidden = False
    after_heading = False  # "You must not use:"
    in_list = False  # below such a heading
    for sentence in _NEXT_SENTENCE.split("\n" + "\n".join(system).lower()):
        item = re.match(_ITEM, sentence)
        sentence = " ".join(sentence[item.end() if item else 0 :].split())
        in_list = item is not None and (after_heading or in_list)
        ban = _BAN.search(sentence)
        forbidden = ""
        if after_heading or in_list or ban and ban[1] and not _CONDITION.match(sentence):
            forbidden = "," + sentence  # the comma lets its first word count
        elif ban:
            forbidden = sentence[ban.end() :]
        after_heading = _BAN_HEADING.search(sentence) is not None
        programs |= set(_NAMED_PROGRAM.findall(forbidden)) & known
        if _FAMILY_NAMED.search(forbidden):
            programs |= words("interpreters")
        comment_forbidden = comment_forbidden or _COMMENT_NAMED.search(forbidden) is not None
    return programs, comment_forbidden
