"""The doubt that a reply shows: words of hedging in its THOUGHT. Nothing is refused by it.

A writer who knows the answer hedges less, and students of such text lose where nobody knows it
(arXiv 2603.24472). No rule of the leak audit sees that.
"""

import re

from common.audit.words import words

_WORD = re.compile(r"\w+(?:'\w+)*")


def count_doubt(reply: str) -> tuple[int, int]:
    """Return how many hedges the THOUGHT holds, and how many words; a phrase is one hedge."""
    thought = f"\n{reply}".partition("\n```")[0].lower().replace("\u2019", "'")
    said = _WORD.findall(thought)
    said = said[1:] if said[:1] == ["thought"] else said
    hedges = words("hedges")
    line = f" {'  '.join(said)} "  # each word between blanks of its own
    phrases = [f" {hedge.replace('_', '  ')} " for hedge in hedges if "_" in hedge]
    return sum(word in hedges for word in said) + sum(map(line.count, phrases)), len(said)
