"""The doubt that a reply shows: words of hedging in its THOUGHT. Nothing is refused by it.

A writer who knows the answer hedges less, and students of such text lose where nobody knows it
(arXiv 2603.24472). No rule of the leak audit sees that.
"""

import re
from functools import lru_cache

from common.audit.protocol import prose_parts
from common.audit.words import words

_WORD = re.compile(r"\w+(?:'\w+)*")
_LABEL = re.compile(r"\s*\W*THOUGHT\W")


def count_doubt(reply: str) -> tuple[int, int]:
    """Return how many hedges the THOUGHT holds, and how many words; a phrase is one hedge."""
    thought = prose_parts(reply)[0].replace("\u2019", "'")
    label = _LABEL.match(thought)
    thought = thought[label.end() :] if label else thought
    return len(_hedges().findall(thought)), len(_WORD.findall(thought))


@lru_cache(maxsize=1)
def _hedges() -> re.Pattern:
    longest_first = sorted(words("hedges"), key=len, reverse=True)
    phrases = [hedge.replace("_", r"\s+") for hedge in longest_first]
    return re.compile(rf"(?<![\w'])(?:{'|'.join(phrases)})(?![\w'])", re.IGNORECASE)
