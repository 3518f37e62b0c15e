"""What models write and choose in the tests of chosen challengers."""

from __future__ import annotations

import json
import re

IS_CHOICE = "You choose among replies"


def reply(thought: str, command: str = "ls") -> str:
    return f"THOUGHT: {thought}\n\n```bash\n{command}\n```"


def shown_replies(prompt: str) -> list[str]:
    return [
        text
        for _, _, text in re.findall(
            r"=== (\w+) (REPLY \d+) ===\n(.*?)\n=== \1 END OF \2", prompt, re.DOTALL
        )
    ]


def choose(prompt: str, merit) -> str:
    """Return a choice of the reply of most merit."""
    merits = [merit(text) for text in shown_replies(prompt)]
    return json.dumps({"best": 1 + merits.index(max(merits)), "reason": "as planted"})
