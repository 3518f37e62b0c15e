"""Reasoning that stands inside the content of a reply: only what follows it is the answer."""

import re

# ◁▷: Kimi's older models
_THINK_OPENS = re.compile(r"<think(?:ing)?>|◁think▷", re.IGNORECASE)
_THINK_ENDS = re.compile(r"</think(?:ing)?>|◁/think▷", re.IGNORECASE)


def visible_text(content: str) -> str:
    """Return the answer without `<think>...</think>`, also when one of the two tags is missing."""
    after_reasoning = _THINK_ENDS.split(content)[-1]
    return _THINK_OPENS.split(after_reasoning, maxsplit=1)[0].strip()
