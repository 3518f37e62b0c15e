"""Read the text of one reply: cut reasoning, tell whether it is whole, find its ```bash blocks.

A reply is what the agent says in one turn: a THOUGHT in prose, then one ```bash block. The block is
found by the rule of mini-swe-agent v1, whose parser decides what would really have been run.
"""

import re

# mini-swe-agent v1: exactly one match of this in a reply, else the turn is refused.
_BASH_BLOCK = re.compile(r"```bash\s*\n(.*?)\n```", re.DOTALL)
_FENCE_LINE = re.compile(r"^[ \t]*```[^`\n]*$", re.MULTILINE)
# ◁▷: Kimi's older models
_THINK_OPENS = re.compile(r"<think(?:ing)?>|◁think▷", re.IGNORECASE)
_THINK_ENDS = re.compile(r"</think(?:ing)?>|◁/think▷", re.IGNORECASE)
# Tokens of chat templates and tool calls that providers let through: Kimi and Qwen (<|...|>),
# DeepSeek (full-width bars), Hermes (<tool_call>).
_RAW_TOKEN = re.compile(
    r"<\|(?:tool_calls?|im|end|start|message|channel|return|call|media|python_tag|eot|assistant"
    r"|user|system|fim|endoftext)[A-Za-z_]*\|>"
    r"|<｜[^<>\n]{1,40}｜>"
    r"|</?tool_calls?>|</?tool_response>|<\|tool_call>|<tool_call\|>"
)


def visible_text(content: str) -> str:
    """Return the answer without `<think>...</think>`, also when one of the two tags is missing."""
    after_reasoning = _THINK_ENDS.split(content)[-1]
    return _THINK_OPENS.split(after_reasoning, maxsplit=1)[0].strip()


def format_problem(reply: str) -> str | None:
    """Tell why this text is no reply at all (empty, raw tokens, reasoning left in, cut off)."""
    if not reply or not reply.strip():
        return "the reply is empty"
    if _RAW_TOKEN.search(reply):
        return "the reply holds raw tool-call or chat-template tokens"
    if _THINK_OPENS.search(reply) or _THINK_ENDS.search(reply):
        return "the reply holds a <think> tag"
    if len(_FENCE_LINE.findall(reply)) % 2:
        return "the reply is cut off: a code block is never closed"
    return None


def format_ok(reply: str) -> bool:
    return format_problem(reply) is None


def bash_blocks(reply: str) -> list[str]:
    """Return the commands of all ```bash blocks, as mini-swe-agent v1 finds them."""
    return [match[1].strip() for match in _block_matches(reply)]


def thought(reply: str) -> str:
    """Return all prose of a reply: everything but its ```bash blocks."""
    pieces = []
    start = 0
    for match in _block_matches(reply):
        pieces.append(reply[start : match.start()])
        start = match.end()
    pieces.append(reply[start:])
    return "\n".join(pieces)


def text_before_command(reply: str) -> str:
    """Return the prose before the first ```bash block."""
    matches = _block_matches(reply)
    return reply[: matches[0].start()] if matches else reply


def _block_matches(reply: str) -> list[re.Match]:
    last_fence = reply.rfind("\n```")
    if last_fence < 0:
        return []
    # No block closes after the last fence: a search there would scan the rest in vain.
    return list(_BASH_BLOCK.finditer(reply, 0, last_fence + len("\n```")))
