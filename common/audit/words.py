"""The word lists of words.txt, by section. Read once, when first asked for."""

import re
from functools import lru_cache
from pathlib import Path


def words(section: str) -> frozenset[str]:
    """Return the words of one section."""
    return _sections()[section]


@lru_cache(maxsize=1)
def _sections() -> dict[str, frozenset[str]]:
    text = Path(__file__).with_name("words.txt").read_text("utf-8")
    sections = re.findall(r"^\[(.+)\]([^\[]*)", re.sub("# .*", "", text), re.MULTILINE)
    return {name: frozenset(body.split()) for name, body in sections}
