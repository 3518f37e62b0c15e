"""The leak audit: find what a reply refers to that only the hidden PR record could have given.

`find_leaks(reply, messages, pr)` is deterministic, calls no model and takes milliseconds. It starts
from what reply and record share, and asks of each such thing whether the chat shows it, lists it,
or lets an honest engineer derive it. To search for what the issue suggests is honest; to read, edit
or assert a thing never seen is not. One function finds one kind of hit.
"""

import fnmatch
import re

from common.replies.disclosure import outside_sources
from common.replies.history import peeks
from common.replies.styles import FILE, addressed_lines
from common.replies.texts import (
    LINE_NUMBER,
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
from common.replies.words import words

AUDIT_VERSION = (
    "4"  # raise it whenever the audit's findings change: stored replies are audited again
)

_MOST = 200  # things of one kind that are weighed: an odd reply costs no minutes
_MIN_WORD = 5  # letters of a file's name that make it a telling word of the chat
_MIN_GLOB = 4  # letters that a pattern spells of a file's name
_NOVEL = 0.33
_MIN = 4
_NEAR = 0.6  # share of a hidden line's runs of three tokens that makes a text nearly hold it


def find_leaks(reply: str, messages: list[dict], pr: dict) -> list[dict]:
    """Return all hits as {"kind", "text", "why"}; an empty list means clean. No input raises.

    `messages` is the chat up to the turn, `pr` a record as in commit/<instance_id>.json.
    """
    said = Reply(text_of(reply))
    chat = Chat(messages)
    record = read_record(pr)
    found = []
    for path, why in _files(said, chat, record):
        found.append(("path", path, why))
    for name in _names(said, chat, record):
        found.append(("identifier", name, "a name or text from the hidden patch, never shown"))
    for place in _lines(said, chat, record):
        found.append(("line", place, "points at lines of a hidden change that were never shown"))
    for line in _verbatim(said, chat, record):
        found.append(("verbatim", line, "a line of the hidden record, or nearly one, never shown"))
    for text in outside_sources(said.text, chat, record):
        found.append(("disclosure", text, "speaks of a source outside the visible chat"))
    for command in peeks(said.commands, chat.text, record):
        found.append(("history", command, "looks at later commits or at a copy of the project"))
    hits = {(kind, text[:200]): why for kind, text, why in found}
    return [{"kind": kind, "text": text, "why": why} for (kind, text), why in hits.items()]


# ---- path


def _files(reply: Reply, chat: Chat, record: Record) -> list[tuple[str, str]]:
    """Return (name, why) of files that the reply names or edits and could not know of."""
    patterns = _telling_globs(reply, chat)
    found = []
    for path in record.paths:
        name = base_name(path)
        globs = [
            word
            for word, letters in patterns
            if letters in name.split(".")[0] and fnmatch.fnmatch(name, base_name(word))
        ]
        mention = _named(path, reply.said) or "".join(globs[:1])
        if mention and not _is_known(path, chat) and not _is_guess(path, mention, reply, chat):
            found.append((mention, "names a file that the chat never showed or suggested"))
        if name in reply.edited and name not in chat.shown and _named(path, reply.edited):
            found.append((path, "edits a file that no command named and no output showed"))
    return found[:_MOST]


def _named(path: str, text: str) -> str:
    """Return how the text names the file: by an ending of its path, or as a module; or ''."""
    *folders, name = path.split("/")
    ending = ""
    for first in range(len(folders), -1, -1):
        longer = "/".join([*folders[first:], name])
        before = r"(?<![\w./-])(?:\.?/|\$\{?\w{1,60}\}?/)?" if first else r"(?<![\w.-])"
        if longer not in text:
            break
        if re.search(before + re.escape(longer) + r"(?![\w-])", text):
            ending = longer
    # `src/a/b/__init__.py` is module b of folder a
    parts = [folder for folder in folders if folder not in words("source roots")]
    if (stem := name.split(".")[0]) not in ("__init__", "index", "mod"):
        parts.append(stem)
    if "/" in ending or len(parts) < 2 or parts[-1] not in text:
        return ending
    near, stem = map(re.escape, parts[-2:])
    module = re.search(
        rf"(?<!\w){near}(?:\.|::|/){stem}(?!\w)|(?<!\w)`?{stem}`? module\b|\bmodule `?{stem}(?!\w)"
        rf"|\bfrom (?:[\w.]{{1,150}}\.)?{near} import [^\n]{{0,200}}?(?<!\w){stem}(?!\w)",
        text,
    )
    return module[0] if module else ending


def _telling_globs(reply: Reply, chat: Chat) -> list[tuple[str, str]]:
    """Return (pattern, letters) of the patterns that spell letters which the chat does not hold."""
    found = []
    for word in reply.named:
        letters = max(re.findall(r"\w+", base_name(word)), key=len, default="")
        if re.search(r"[*?]|\[.", word) and len(letters) >= _MIN_GLOB:
            if len(found) < _MOST and letters.lower() not in chat.lower:
                found.append((word, letters))
    return found


def _is_known(path: str, chat: Chat) -> bool:
    """Tell whether the chat writes the file out, or lets an honest engineer name it."""
    folder, _, name = path.rpartition("/")
    if name in words("conventional files") and "/" not in folder:
        return True
    if _named(path, chat.text) not in ("", name if folder else ""):
        return True
    stem = name.split(".")[0]
    core = re.sub(r"^tests?_|_tests?$|_spec$|Tests?$", "", stem)
    if core != stem and re.search(rf"(?<!\w){re.escape(core)}\.\w", chat.text):
        return True  # the test of a file that was seen
    near = base_name(folder)
    if stem.lower().strip("_") in chat.words:
        # listed in its folder; `retry.Do` -> retry/retry.go; a telling word in a folder that is one
        telling = len(stem) >= _MIN_WORD and near.lower().strip("_") in chat.words
        if folder in chat.text or near == stem or telling:
            return True
    wanted = "".join(name_parts(core))  # `Engine.render` -> engine.py
    return len(wanted) >= _MIN_WORD and wanted in chat.task_names and near in chat.text


def _is_guess(path: str, mention: str, reply: Reply, chat: Chat) -> bool:
    """Tell whether the reply only guesses at the file, or goes to see whether it is there."""
    folder, _, name = path.rpartition("/")
    stem = name.split(".")[0].lower()
    if "/" not in mention:
        # `options.py` where the chat speaks of options
        return reply.only_guesses(mention) or stem.strip("_") in chat.words
    naming = {command.program for command in reply.commands if name in " ".join(command.words)}
    only_looked_for = naming <= {"ls", "find", "fd", "tree"} and name not in reply.edited
    return only_looked_for and stem in chat.lower and base_name(folder) in chat.text


# ---- identifier


def _names(reply: Reply, chat: Chat, record: Record) -> list[str]:
    """Return the record's names and texts in the reply, but for those that it may have made up."""
    held = {text for text in record.texts if squeeze(text) in reply.squeezed}
    found = []
    for name in sorted(held | record.names & reply.names):
        parts = name_parts(name)
        telling = len(parts) > 1 or name.startswith("--") or name in record.defined
        if not telling or squeeze(name) in chat.squeezed:
            continue
        own = reply.only_guesses(name) or name in reply.defined
        if own and all(part in chat.lower for part in parts):
            continue
        core = "".join(parts[1:])
        if parts[0] in words("glue") and len(core) > 7 and core in chat.task_names:
            continue  # `get_window` where the task speaks of a window
        found.append(name)
    return found[:_MOST]


# ---- line


def _lines(reply: Reply, chat: Chat, record: Record) -> list[str]:
    """Return the lines of hidden hunks that the reply points at though none near was shown."""
    pointed = addressed_lines(reply.commands)
    files = sorted(set(FILE.findall(reply.prose)))
    for named, first, last in LINE_NUMBER.findall(reply.text)[:_MOST]:
        for file in [named] if named else files[:20] or [""]:
            pointed.append((file, int(first), int(last or first)))
    found = []
    for named, first, last in pointed[:_MOST]:
        for path, start, end in record.hunks if first > 1 else []:
            if last < start or first > end or named and not same_file(named, path):
                continue
            if not chat.knows_lines(path if named else "", first, last):
                found.append(f"{named or 'line'}:{first}-{last}")
                break
    return found


# ---- verbatim


def _verbatim(reply: Reply, chat: Chat, record: Record) -> list[str]:
    """Return the record's lines that the reply holds, nearly holds, or searches for."""
    found = []
    for line, triples in record.lines:
        said = triples & reply.triples
        if len(said) < _NEAR * len(triples):
            continue
        novel = triples - chat.triples
        nearly = len(triples) >= _MIN and novel and len(novel & said) >= _NOVEL * len(novel)
        squeezed = squeeze(line)
        if nearly or squeezed in reply.squeezed and squeezed not in chat.squeezed:
            found.append(line)
    for command in reply.commands:
        if command.program not in words("searchers") and command.program != "git":
            continue
        for word in command.argv[1:_MOST]:
            piece = squeeze(word)
            if len(piece) < 12 or len(token_triples(word)) < 2:
                continue
            if piece in record.squeezed and piece not in chat.squeezed:
                found.append(word)
    return found[:_MOST]
