"""The word lists of words.txt, by section. Read once, when first asked for."""

from functools import lru_cache
from pathlib import Path

_FILE = Path(__file__).with_name("words.txt")


def words(section: str) -> frozenset[str]:
    """Return the words of one section."""
    return _sections()[section]


@lru_cache(maxsize=1)
def _sections() -> dict[str, frozenset[str]]:
    """Read `[name]` headings with words below them; `#` starts a comment."""
    found = {}
    current = []
    for line in _FILE.read_text("utf-8").splitlines():
        line = line.partition("# ")[0].strip()
        if line.startswith("["):
            current = found.setdefault(line.strip("[]"), [])
        else:
            current.extend(line.split())
    return {name: frozenset(entries) for name, entries in found.items()}
