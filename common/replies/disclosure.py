"""Find talk of a source that the agent does not have: the PR, the merged fix, commit ids.

The wordings are those of wordings.txt. What the chat itself says is no disclosure: mini-swe-agent's
prompts speak of a "PR description", issues of patches and numbers.
"""

import re
from functools import lru_cache
from pathlib import Path

from common.replies.act import sentences as split_sentences
from common.replies.chat import Chat
from common.replies.record import Record

_FILE = Path(__file__).with_name("wordings.txt")
_MOST = 50  # wordings that are weighed: one is enough to refuse a reply
_MOST_CHARS = 60_000  # of the sentences that are weighed; replies have a few thousand
# Every wording holds one of these: they tell cheaply which sentences to look at.
_TELLING = re.compile(
    r"patch|fix|diff|solution|pr\b|pr['’]|prs|pull|merge|commit|change|answer|record|hidden|secret"
    r"|privileged|inside|upstream|maintainer|_to_pass|bench|know|act|behav|ground|blind|briefing"
    r"|target|pretend",
    re.IGNORECASE,
)
_PR_WORD = re.compile(r"\b(?:PRs?|[Pp]ull[- ][Rr]equests?|[Mm]erge[- ][Rr]equests?)\b")
# `PR 12`, `pull/12`, `GH-12`, `fixed by #12`; alone, `#12` counts if it is the record's own number
_PR_NUMBER = re.compile(
    r"\b(PRs?|pull(?:[- ]request)?s?|merge[- ]requests?|MR|GH|issue|ticket|bug|see|by|in"
    r"|fix(?:e[sd])?|close[sd]?|resolve[sd]?)?[ \-/:]{0,3}(?:no\. ?|number )?"
    r"(?<![\w.])(#|(?<=[ \-/#:]))(\d{2,7})\b",
    re.IGNORECASE,
)
_PULL_REQUEST = re.compile(r"PR|pull|merge|MR|GH", re.IGNORECASE)
_COMMIT = re.compile(
    r"\b(?:(?:commit|sha|revision|rev|changeset|hash)\b[ :`'\"(]{1,3}"
    r"|git (?:show|diff|log|checkout|cherry-pick) (?:-\S{1,40} ){0,9})([0-9a-f]{7,40})\b"
    r"|\b([0-9a-f]{7,40})\b"
)


def outside_sources(reply: str, chat: Chat, record: Record) -> list[str]:
    """Return the wordings of the reply that speak of a source outside the chat.

    Of the hidden record only the ids count: even without a word like "commit" before them.
    """
    found = [*_wordings(reply, chat), *_pull_requests(reply, chat, record)]
    return [*found, *_commits(reply, chat, record)]


def _wordings(reply: str, chat: Chat) -> list[str]:
    """Return the phrases of wordings.txt that the chat does not use itself."""
    sentences = dict.fromkeys(" ".join(text.split()) for text in split_sentences(reply))
    telling = "\n".join(sentence for sentence in sentences if _TELLING.search(sentence))
    phrases = [m[0] for pattern in _patterns() for m in pattern.finditer(telling[:_MOST_CHARS])]
    if not _PR_WORD.search(chat.text):
        phrases += _PR_WORD.findall(reply)
    found = []
    own_diff = "the diff" in chat.lower or "diff --git" in chat.lower or "git diff" in reply
    for phrase in list(dict.fromkeys(phrases))[:_MOST]:
        lower = phrase.lower()
        if "the patch" in lower and "the patch" in chat.lower:
            continue
        if own_diff and re.search(r"\bthe (?:final )?diff\b", lower):
            continue
        if lower not in chat.lower or not re.search(
            rf"(?<!\w){re.escape(lower)}(?!\w)", chat.lower
        ):
            found.append(phrase)
    return found


def _pull_requests(reply: str, chat: Chat, record: Record) -> list[str]:
    """Return the numbers of pull requests and tickets that the chat never told."""
    found = {}
    for named, mark, number in _PR_NUMBER.findall(reply):
        told = number in chat.words
        telling = mark == "#" or _PULL_REQUEST.match(named)
        if not told and (named and telling or number == record.number):
            found[f"{named} {number}".strip()] = True
    return list(found)[:_MOST]


def _commits(reply: str, chat: Chat, record: Record) -> list[str]:
    """Return the commit ids that the chat never showed."""
    found = {}
    for named, bare in _COMMIT.findall(reply):
        commit = named or bare
        if not named and commit[:7] not in record.ids:
            continue
        is_id = re.search(r"\d", commit) and not commit.isdigit()
        if is_id and commit[:7] not in chat.ids:
            found[commit] = True
    return list(found)[:_MOST]


@lru_cache(maxsize=1)
def _patterns() -> list[re.Pattern]:
    """Read wordings.txt: `NAME = ...` stands for {NAME} in the patterns below it."""
    groups = {}
    patterns = []
    for line in _FILE.read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        for name, words in groups.items():
            line = line.replace("{" + name + "}", words)
        if named := re.match(r"([A-Z_]+) = ", line):
            groups[named[1]] = line[named.end() :]
        else:
            patterns.append(re.compile(line, re.IGNORECASE))
    return patterns
