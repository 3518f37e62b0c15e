"""How much two replies say the same, by the runs of three words that they share."""

import re


def word_triples(text: str) -> set[str]:
    """Return the runs of three words, case and punctuation aside."""
    words = re.findall(r"\w+", text.lower())
    starts = range(max(1, len(words) - 2))
    return {" ".join(words[start : start + 3]) for start in starts}


def jaccard(one: set, other: set) -> float:
    """Return the share of two sets' members that both hold."""
    return len(one & other) / len(one | other)
