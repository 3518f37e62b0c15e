"""Find talk of a source that the agent does not have: the PR, the merged fix, commit ids.

The wordings are those of wordings.txt. What the chat itself says is no disclosure: mini-swe-agent's
prompts speak of a "PR description", issues of patches and numbers.
"""

import re
from functools import lru_cache
from pathlib import Path

from common.audit.texts import Chat, Record

_FILE = Path(__file__).with_name("wordings.txt")
_MOST = 50  # hits that are weighed: one is enough to refuse a reply
_MOST_CHARS = 60_000  # of a reply; real ones have a few thousand
# `PR 12`, `pull/12`, `pull request #12`, `GH-12`
_NUMBER = re.compile(
    r"\b(?:PRs?|pull(?:[- ]requests?)?|merge[- ]requests?|MR|GH)[ \-/:#]{1,3}(\d{2,7})\b",
    re.IGNORECASE,
)
_COMMIT = re.compile(
    r"\b(?:(?:commit|sha|revision|rev|changeset|hash)\b[ :`'\"(]{1,3}"
    r"|git (?:show|diff|log|checkout|cherry-pick) (?:-\S{1,40} ){0,9})([0-9a-f]{7,40})\b"
)


def outside_sources(reply: str, chat: Chat, record: Record) -> list[str]:
    """Return the wordings of the reply that speak of a source outside the chat."""
    text = " ".join(reply.split())[:_MOST_CHARS]
    phrases = [match[0] for pattern in _patterns() for match in pattern.finditer(text)]
    agents_own = {word for word in ("the patch", "the diff") if word in chat.lower}
    if "git diff" in reply or "diff --git" in chat.lower:
        agents_own.add("the diff")
    found = []
    for phrase in list(dict.fromkeys(phrases))[:_MOST]:
        said_in_chat = re.search(rf"(?<!\w){re.escape(phrase.lower())}(?!\w)", chat.lower)
        if not said_in_chat and not any(word in phrase.lower() for word in agents_own):
            found.append(phrase)
    numbers = _NUMBER.findall(text)
    if record.number:  # the record's own counts however it is named
        numbers += re.findall(rf"#({record.number})\b", text)
    found += [f"#{number}" for number in dict.fromkeys(numbers) if number not in chat.words]
    for commit in dict.fromkeys(_COMMIT.findall(text)):
        if not commit.isdigit() and not commit.isalpha() and commit[:7] not in chat.lower:
            found.append(commit)
    return found[:_MOST]


@lru_cache(maxsize=1)
def _patterns() -> list[re.Pattern]:
    """Read wordings.txt: `NAME = ...` stands for {NAME} in the patterns below it."""
    groups = {}
    patterns = []
    for line in _FILE.read_text("utf-8").splitlines():
        for name, pattern in groups.items():
            line = line.replace("{" + name + "}", pattern)
        name, is_group, pattern = line.partition(" = ")
        if is_group and name.isupper():
            groups[name] = pattern
        elif line and not line.startswith("#"):
            patterns.append(re.compile(line, re.IGNORECASE))
    return patterns
