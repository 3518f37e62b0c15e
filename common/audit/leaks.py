"""The leak audit: find what a reply refers to that only the hidden PR record could have given.

`find_leaks(reply, messages, pr)` is deterministic, calls no model and takes milliseconds. It starts
from what reply and record share, and asks of each such thing whether the chat shows it, lists it,
or lets an honest engineer derive it. To search for what the issue suggests is honest; to read, edit
or assert a thing never seen is not. One function finds one kind of hit.
"""

import fnmatch
import itertools
import re
from collections.abc import Iterator

from common.audit.disclosure import outside_sources
from common.audit.history import peeks
from common.audit.lines import FILE, addressed_lines, spoken_lines
from common.audit.texts import (
    Chat,
    Record,
    Reply,
    base_name,
    name_parts,
    read_record,
    same_file,
    squeeze,
    text_of,
    token_triples,
)
from common.audit.words import words

# Raise it whenever the findings change: stored replies are audited again.
AUDIT_VERSION = "7"

_MOST = 200  # hits of one kind, patterns, references: an odd reply costs no minutes
_MIN_WORD = 5  # letters of a file's name that make it a telling word of the chat
_MIN_GLOB = 4  # letters that a pattern spells of a file's name
# A text nearly holds a hidden line: of its runs of three tokens (four at least) it has this share,
# and this share of those that the chat does not hold.
_NEAR = 0.6
_NOVEL = 1 / 3


def find_leaks(reply: str, messages: list[dict] | Chat, pr: dict) -> list[dict]:
    """Return all hits as {"kind", "text", "why"}; an empty list means clean. No input raises.

    `messages` is the chat up to the turn, or what was read of it, so that the replies of one turn
    share that reading; `pr` is a record as in commit/<instance_id>.json.
    """
    chat = messages if isinstance(messages, Chat) else Chat(messages)
    texts = (Reply(text_of(reply), chat.fence), chat, read_record(pr))
    hits = {}
    for find in (_files, _names, _lines, _verbatim, _disclosure, _history):
        for kind, text, why in itertools.islice(find(*texts), _MOST):
            hits[kind, text[:200]] = why
    return [{"kind": kind, "text": text, "why": why} for (kind, text), why in hits.items()]


def _files(reply: Reply, chat: Chat, record: Record) -> Iterator[tuple[str, str, str]]:
    """Find files that the reply names or edits though the chat neither shows nor suggests them."""
    globs = []
    for word in reply.named:
        letters = max(re.findall(r"\w+", base_name(word)), key=len, default="")
        if len(letters) >= _MIN_GLOB and re.search(r"[*?]|\[.", word) and len(globs) < _MOST:
            globs.append((base_name(word), letters))
    globs = [(glob, letters) for glob, letters in globs if letters.lower() not in chat.lower]
    for path in record.paths:
        name = base_name(path)
        mention = _named(path, reply.said)
        for glob, letters in globs:
            if letters in name.split(".")[0] and fnmatch.fnmatch(name, glob):
                mention = mention or glob
        if mention and not _could_know(path, mention, reply, chat):
            yield "path", mention, "names a file that the chat never showed or suggested"
        if name in reply.edited and name not in chat.shown and _named(path, reply.edited):
            yield "path", path, "edits a file that no command named and no output showed"


def _named(path: str, text: str) -> str:
    """Return how the text names the file: by an ending of its path, or as a module; or ''."""
    *folders, name = path.split("/")
    ending = ""
    for first in range(len(folders), -1, -1):
        longer = "/".join([*folders[first:], name])
        if longer not in text:
            break
        before = r"(?<![\w./-])(?:\.?/)?" if first else r"(?<![\w.-])"
        if re.search(before + re.escape(longer) + r"(?![\w-])", text):
            ending = longer
    return ending if "/" in ending else _named_as_module(folders, name, text) or ending


def _named_as_module(folders: list[str], name: str, text: str) -> str:
    """Return how the text names the module: `a.b`, `the b module`, `from a import b`; or ''."""
    parts = [folder for folder in folders if folder not in words("source roots")]
    if (stem := name.split(".")[0]) not in ("__init__", "index", "mod"):
        parts.append(stem)  # `src/a/b/__init__.py` is module b of folder a
    if len(parts) < 2 or parts[-1] not in text:
        return ""
    near, stem = map(re.escape, parts[-2:])
    module = re.search(
        rf"(?<!\w){near}(?:\.|::|/){stem}(?!\w)|(?<!\w)`?{stem}`? module\b|\bmodule `?{stem}(?!\w)"
        rf"|\bfrom (?:[\w.]{{1,150}}\.)?{near} import [^\n]{{0,200}}?(?<!\w){stem}(?!\w)",
        text,
    )
    return module[0] if module else ""


def _could_know(path: str, mention: str, reply: Reply, chat: Chat) -> bool:
    """Tell whether an honest engineer could name the file, guess at it, or look for it."""
    folder, _, name = path.rpartition("/")
    stem = name.split(".")[0].lower().strip("_")
    if name in words("conventional files") and "/" not in folder:
        return True
    if _named(path, chat.text) not in ("", name if folder else ""):
        return True  # written out
    bare = "/" not in mention
    if reply.only_guesses(mention, None if bare else chat.words):
        return True
    # `options.py` where the chat speaks of options; listed in its folder; a telling word in a
    # folder that the chat speaks of: `retry.Do` -> retry/retry.go
    telling = len(stem) >= _MIN_WORD and base_name(folder).lower().strip("_") in chat.lower
    return stem in chat.words and (bare or folder in chat.text or telling)


def _names(reply: Reply, chat: Chat, record: Record) -> Iterator[tuple[str, str, str]]:
    """Find the record's names and texts in the reply, but for those that it may have made up."""
    held = {text for text in record.texts if squeeze(text) in reply.squeezed}
    for name in sorted(held | record.names & reply.names):
        parts = name_parts(name)
        core = "".join(parts[1:])
        telling = len(parts) > 1 or name.startswith("--") or name in record.defined
        if not telling or squeeze(name) in chat.squeezed:
            continue
        made_up = reply.only_guesses(name) or name in reply.defined
        if made_up and all(part in chat.lower for part in parts):
            continue
        if parts[0] in words("glue") and len(core) > 5 and core in chat.task_names:
            continue  # `get_viewports` where the task speaks of viewports
        files = record.defined.get(name, ())
        if any(_named(path, reply.said) and _named(path, chat.text) for path in files):
            continue  # the class of a shown file that the reply speaks of
        yield "identifier", name, "a name or text from the hidden patch, never shown"


def _lines(reply: Reply, chat: Chat, record: Record) -> Iterator[tuple[str, str, str]]:
    """Find lines of hidden hunks that the reply points at though none near was shown."""
    pointed = addressed_lines(reply.commands)
    files = sorted(set(FILE.findall(reply.prose)))[:20]
    for named, first, last in spoken_lines(reply.text)[:_MOST]:
        for file in [named] if named else files or [""]:
            pointed.append((file, first, last))
    for named, first, last in pointed[:_MOST]:
        for path, start, end in record.hunks:
            there = 1 < first <= end and last >= start and (not named or same_file(named, path))
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
        squeezed = squeeze(line)
        if nearly or squeezed in reply.squeezed and squeezed not in chat.squeezed:
            yield "verbatim", line, "a line of the hidden record, or nearly one, never shown"
    for command in reply.commands:
        if command.program not in words("searchers") and command.program != "git":
            continue
        for word in command.argv[1:_MOST]:
            piece = squeeze(word)
            telling = len(piece) > 11 and len(token_triples(word)) > 1
            if telling and piece in record.squeezed and piece not in chat.squeezed:
                yield "verbatim", word, "searches for hidden code that was never shown"


def _disclosure(reply: Reply, chat: Chat, record: Record) -> Iterator[tuple[str, str, str]]:
    for text in outside_sources(reply.text, chat, record):
        yield "disclosure", text, "speaks of a source outside the visible chat"


def _history(reply: Reply, chat: Chat, record: Record) -> Iterator[tuple[str, str, str]]:
    for command in peeks(reply.commands, chat.text, record):
        yield "history", command, "looks at later commits or at a copy of the project"
