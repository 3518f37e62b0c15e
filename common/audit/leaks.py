"""The leak audit: find what a reply refers to that only the hidden PR record could have given.

It is deterministic and calls no model. Of each thing that reply and record share it asks whether
the chat shows it, lists it, or lets an honest engineer derive it. To search for what the issue
suggests is honest; to read, edit or assert a thing never seen is not. A function finds one kind.
"""

import fnmatch
import itertools
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from common.audit import texts
from common.audit.history import peeks
from common.audit.shell import FILE, addressed_lines, word_list
from common.audit.texts import Chat, Record, Reply

# Raise it whenever the findings change: stored replies are audited again.
AUDIT_VERSION = "10"

_MOST = 200  # hits of one kind, patterns, references: an odd reply costs no minutes
_MOST_FILES = 20  # that a line number in prose can belong to
_MIN_WORD = 5  # letters of a file's name that make it a telling word of the chat
_MOST_CHARS = 60_000  # that are read for disclosure; real replies have a few thousand
# A text nearly holds a hidden line: of its runs of three tokens (four at least) it has this share,
# and this share of those that the chat does not hold.
_NEAR = 0.6
_NOVEL = 1 / 3
# `PR 12`, `pull/12`, `pull request #12`, `GH-12`
_NUMBER = re.compile(
    r"\b(?:PRs?|pull(?:[- ]requests?)?|merge[- ]requests?|MR|GH)[ \-/:#]{1,3}(\d{2,7})\b",
    re.IGNORECASE,
)
_COMMIT = re.compile(
    r"\b(?:(?:commit|sha|revision|rev|changeset|hash)\b[ :`'\"(]{1,3}"
    r"|git (?:show|diff|log|checkout|cherry-pick) (?:-\S{1,40} ){0,9})([0-9a-f]{7,40})\b"
)


def find_leaks(reply: str, messages: list[dict] | Chat, pr: dict) -> list[dict]:
    """Return all hits as {"kind", "text", "why"}; an empty list means clean. No input raises.

    `messages` is the chat up to the turn, or what was read of it, so that the replies of one turn
    share that reading; `pr` is a record as in commit/<instance_id>.json.
    """
    chat = messages if isinstance(messages, Chat) else Chat(messages)
    sides = (Reply(texts.text_of(reply), chat.fence), chat, texts.read_record(pr))
    hits = {}
    for find in (_files, _names, _lines, _verbatim, _disclosure):
        for kind, text, why in itertools.islice(find(*sides), _MOST):
            hits[kind, text[:200]] = why
    for command in peeks(sides[0].commands, chat.text, sides[2]):
        hits["history", command] = "looks at later commits or at a copy of the project"
    return [{"kind": kind, "text": text, "why": why} for (kind, text), why in hits.items()]


def _files(reply: Reply, chat: Chat, record: Record) -> Iterator[tuple[str, str, str]]:
    """Find files that the reply names or edits though the chat neither shows nor suggests them."""
    globs = []
    for word in [word for word in reply.named if re.search(r"[*?]|\[.", word)][:_MOST]:
        letters = max(re.findall(r"\w+", texts.base_name(word)), key=len, default="")
        if letters.lower() not in chat.lower:
            globs.append((texts.base_name(word), letters))
    for path in record.paths:
        name = texts.base_name(path)
        mention = _named(path, reply.said)
        for glob, letters in globs:
            if letters in name.split(".")[0] and fnmatch.fnmatch(name, glob):
                mention = mention or glob
        if mention and not _could_know(path, mention, reply, chat):
            yield "path", mention, "names a file that the chat never showed or suggested"
        if name in reply.edited and name not in chat.shown and _named(path, reply.edited):
            yield "path", path, "edits a file that no command named and no output showed"


def _named(path: str, text: str) -> str:
    """Return how the text names the file, by an ending of its path or as a module; or ''."""
    *folders, name = path.split("/")
    ending = ""
    for first in range(len(folders), -1, -1):
        longer = "/".join([*folders[first:], name])
        before = r"(?<![\w./-])(?:\.?/)?" if first else r"(?<![\w.-])"
        if longer in text and re.search(before + re.escape(longer) + r"(?![\w-])", text):
            ending = longer
    parts = [folder for folder in folders if folder not in word_list("source roots")]
    if (stem := name.split(".")[0]) not in ("__init__", "index", "mod"):
        parts.append(stem)  # `a/b/__init__.py` is module b of folder a
    if "/" in ending or len(parts) < 2 or parts[-1] not in text:
        return ending
    near, stem = map(re.escape, parts[-2:])
    module = re.search(
        rf"(?<!\w){near}(?:\.|::|/){stem}(?!\w)|(?<!\w)`?{stem}`? module\b|\bmodule `?{stem}(?!\w)"
        rf"|\bfrom (?:[\w.]{{1,150}}\.)?{near} import [^\n]{{0,200}}?(?<!\w){stem}(?!\w)",
        text,
    )
    return module[0] if module else ending


def _could_know(path: str, mention: str, reply: Reply, chat: Chat) -> bool:
    """Tell whether an honest engineer could name the file, guess at it, or look for it."""
    folder, _, name = path.rpartition("/")
    if name in word_list("conventional files") and "/" not in folder:
        return True
    if _named(path, chat.text) not in ("", name if folder else ""):
        return True  # written out
    bare = "/" not in mention
    if reply.only_guesses(mention, None if bare else chat.words):
        return True
    # `options.py` where the chat speaks of options; listed in its folder; a telling word in a
    # folder that the chat speaks of: `retry.Do` -> retry/retry.go
    stem = name.split(".")[0].lower().strip("_")
    near = texts.base_name(folder) if len(stem) >= _MIN_WORD else folder
    return stem in chat.words and (bare or texts.says(near.lower(), chat.lower))


def _names(reply: Reply, chat: Chat, record: Record) -> Iterator[tuple[str, str, str]]:
    """Find the record's names and texts in the reply, but for those that it may have made up."""
    held = {text for text in record.texts if texts.squeeze(text) in reply.squeezed}
    for name in sorted(held | record.names & reply.names):
        parts = texts.name_parts(name)
        core = "".join(parts[1:])
        telling = len(parts) > 1 or name.startswith("--") or name in record.defined
        if not telling or texts.squeeze(name) in chat.squeezed:
            continue
        made_up = reply.only_guesses(name) or name in reply.defined
        if made_up and all(part in chat.lower for part in parts):
            continue
        if len(core) > 5 and core in chat.task_names and parts[0] in word_list("glue"):
            continue  # `get_viewports` where the task speaks of viewports
        files = record.defined.get(name, ())
        if any(_named(path, reply.said) and _named(path, chat.text) for path in files):
            continue  # the class of a shown file that the reply speaks of
        yield "identifier", name, "a name or text from the hidden patch, never shown"


def _lines(reply: Reply, chat: Chat, record: Record) -> Iterator[tuple[str, str, str]]:
    """Find lines of hidden hunks that the reply points at though none near was shown."""
    pointed = addressed_lines(reply.commands)
    files = sorted(set(FILE.findall(reply.prose)))[:_MOST_FILES] or [""]
    for named, first, last in texts.spoken_lines(reply.text)[:_MOST]:
        pointed += [(file, first, last) for file in ([named] if named else files)]
    for named, first, last in pointed[:_MOST]:
        for path, start, end in record.hunks:
            there = (
                1 < first <= end and last >= start and (not named or texts.same_file(named, path))
            )
            if there and not chat.knows_lines(path if named else "", first, last):
                why = "points at lines of a hidden change that were never shown"
                yield "line", f"{named or 'line'}:{first}-{last}", why
                break


def _verbatim(reply: Reply, chat: Chat, record: Record) -> Iterator[tuple[str, str, str]]:
    """Find the record's lines that the reply holds, nearly holds, or searches for."""
    for line, triples in record.lines:
        said = triples & reply.triples
        if len(said) < _NEAR * len(triples):
            continue
        novel = triples - chat.triples
        nearly = len(triples) > 3 and novel and len(novel & said) >= _NOVEL * len(novel)
        squeezed = texts.squeeze(line)
        if nearly or squeezed in reply.squeezed and squeezed not in chat.squeezed:
            yield "verbatim", line, "a line of the hidden record, or nearly one, never shown"
    for command in reply.commands:
        for word in command.argv[1:_MOST]:
            piece = texts.squeeze(word)
            telling = len(piece) > 11 and len(texts.token_triples(word)) > 1
            if telling and piece in record.squeezed and piece not in chat.squeezed:
                yield "verbatim", word, "searches for hidden code that was never shown"


def _disclosure(reply: Reply, chat: Chat, record: Record) -> Iterator[tuple[str, str, str]]:
    """Find talk of a source that the agent does not have: the PR, the merged fix, commit ids.

    What the chat says is none: mini-swe-agent's prompts speak of a "PR description".
    """
    text = " ".join(reply.text.split())[:_MOST_CHARS]
    phrases = [match[0] for pattern in _wordings() for match in pattern.finditer(text)]
    phrases = list(dict.fromkeys(phrases))[:_MOST]
    found = [phrase for phrase in phrases if not texts.says(phrase.lower(), chat.lower)]
    numbers = _NUMBER.findall(text)
    if record.number:  # the record's own counts however it is named
        numbers += re.findall(rf"#({record.number})\b", text)
    found += [f"#{number}" for number in numbers if number not in chat.words]
    found += [commit for commit in _COMMIT.findall(text) if commit[:7] not in chat.lower]
    for phrase in dict.fromkeys(found):
        yield "disclosure", phrase, "speaks of a source outside the visible chat"


@lru_cache(maxsize=1)
def _wordings() -> list[re.Pattern]:
    """Read wordings.txt: `NAME = ...` stands for {NAME} in the lines below it."""
    text = Path(__file__).with_name("wordings.txt").read_text("utf-8")
    for name, pattern in reversed(re.findall(r"^([A-Z_]+) = (.+)", text, re.MULTILINE)):
        text = text.replace("{" + name + "}", pattern)
    lines = re.findall(r"^(?!#|[A-Z_]+ = ).+", text, re.MULTILINE)
    return [re.compile(line, re.IGNORECASE) for line in lines]
