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
from common.replies.views import addressed_lines
from common.replies.words import words

AUDIT_VERSION = (
    "4"  # raise it whenever the audit's findings change: stored replies are audited again
)
KINDS = ("path", "identifier", "line", "verbatim", "disclosure", "history")

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
    for path in _unknown_files(said, chat, record):
        found.append(("path", path, "names a file that the chat never showed or suggested"))
    for path in _blind_edits(said, chat, record):
        found.append(("path", path, "edits a file that no command named and no output showed"))
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


def _unknown_files(reply: Reply, chat: Chat, record: Record) -> list[str]:
    """Return the files that the reply names though the chat neither shows nor suggests them."""
    found = []
    for path in record.paths:
        mention = _mention(path, reply, chat)
        if not mention or _is_known(path, chat) or _is_guess(path, mention, reply, chat):
            continue
        found.append(mention)
    return found[:_MOST]


def _mention(path: str, reply: Reply, chat: Chat) -> str:
    """Return how the reply names the file: as a path, a module or a pattern; or ''."""
    name = base_name(path)
    if name in reply.base_names and (ending := _longest_ending(path, reply.said)):
        return ending
    folder, stem = map(re.escape, _module(path))
    if folder and stem in reply.words:
        module = re.search(
            rf"(?<!\w){folder}(?:\.|::|/){stem}(?!\w)|(?<!\w)`?{stem}`? module\b"
            rf"|\bmodule `?{stem}(?!\w)"
            rf"|\bfrom (?:[\w.]{{1,150}}\.)?{folder} import [^\n]{{0,200}}?(?<!\w){stem}(?!\w)",
            reply.said,
        )
        if module:
            return module[0]
    for word in reply.globs:
        pattern = base_name(word)
        letters = max(re.findall(r"\w+", pattern), key=len, default="")
        spelled = len(letters) >= _MIN_GLOB and letters in name.split(".")[0]
        if spelled and letters.lower() not in chat.lower and fnmatch.fnmatch(name, pattern):
            return word
    return ""


def _longest_ending(path: str, text: str) -> str:
    """Return the longest ending of the path, at least its name, that the text holds; or ''."""
    parts = path.split("/")
    for first in range(len(parts)):
        ending = "/".join(parts[first:])
        before = r"(?<![\w.-])" if first == 0 else r"(?<![\w./-])(?:\.?/|\$\{?\w{1,60}\}?/)?"
        if ending in text and re.search(before + re.escape(ending) + r"(?![\w-])", text):
            return ending
    return ""


def _module(path: str) -> tuple[str, str]:
    """Return folder and name of the module that a file is: ("a", "b") for `src/a/b/__init__.py`."""
    *folders, name = path.split("/")
    parts = [folder for folder in folders if folder not in words("source roots")]
    stem = name.split(".")[0]
    if stem not in ("__init__", "index", "mod"):
        parts.append(stem)
    return tuple(["", "", *parts][-2:])


def _is_known(path: str, chat: Chat) -> bool:
    """Tell whether the chat writes the file out, or lets an honest engineer name it."""
    folder, _, name = path.rpartition("/")
    if name in words("conventional files") and "/" not in folder:
        return True
    if name in chat.text:
        seen = _longest_ending(path, chat.text)
        if "/" in seen or seen == path:
            return True
    near, stem = _module(path)
    module = rf"(?<!\w){re.escape(near)}(?:\.|::|/){re.escape(stem)}(?!\w)"
    if near and stem in chat.text and re.search(module, chat.text):
        return True  # `astropy.modeling.separable`, `net::tcp`, `../lib/router`
    stem = name.split(".")[0]
    core = re.sub(r"^tests?_|_tests?$|_spec$|Tests?$", "", stem)
    if core != stem and re.search(rf"(?<!\w){re.escape(core)}\.\w", chat.text):
        return True  # the test of a file that was seen
    if stem.lower().strip("_") in chat.words:
        # listed in its folder; `retry.Do` -> retry/retry.go; a telling word in a folder that is one
        telling = len(stem) >= _MIN_WORD and near.lower().strip("_") in chat.words
        if folder in chat.text or near == stem or telling:
            return True
    wanted = "".join(name_parts(core))  # `Engine.render` -> engine.py
    return len(wanted) >= _MIN_WORD and wanted in chat.task_names and base_name(folder) in chat.text


def _is_guess(path: str, mention: str, reply: Reply, chat: Chat) -> bool:
    """Tell whether the reply only guesses at the file, or goes to see whether it is there."""
    name = base_name(path)
    stem = name.split(".")[0].lower()
    if "/" not in mention:
        guessed = mention not in reply.commanded and reply.only_guesses(mention)
        return guessed or stem.strip("_") in chat.words  # `options.py` where it speaks of options
    folder = base_name(path.rpartition("/")[0])
    naming = {command.program for command in reply.commands if name in " ".join(command.words)}
    only_looked_for = naming <= {"ls", "find", "fd", "tree"} and name not in reply.edited
    return only_looked_for and stem in chat.lower and folder in chat.text


def _blind_edits(reply: Reply, chat: Chat, record: Record) -> list[str]:
    """Return the record's files that the reply changes though no command or output named them."""
    found = []
    for path in record.paths:
        name = base_name(path)
        shown = name not in reply.edited or name in chat.shown_names
        if not shown and _longest_ending(path, reply.edited):
            found.append(path)
    return found[:_MOST]


# ---- identifier


def _names(reply: Reply, chat: Chat, record: Record) -> list[str]:
    """Return the record's names and texts that the reply holds, but for those it may have made up.

    It may have made up a name of parts that the chat holds, said as a guess or defined in its code.
    """
    found = []
    for name in sorted(record.names & reply.names):
        parts = name_parts(name)
        telling = len(parts) > 1 or name.startswith("--") or name in record.defined
        if not telling or squeeze(name) in chat.squeezed:
            continue
        guessed = name not in reply.commanded and reply.only_guesses(name)
        own = guessed or name in reply.defined
        if own and all(part in chat.lower for part in parts):
            continue
        core = "".join(parts[1:])
        if parts[0] in words("glue") and len(core) > 7 and core in chat.task_names:
            continue  # `get_window` where the task speaks of a window
        found.append(name)
    for text in sorted(record.texts):
        squeezed = squeeze(text)
        if squeezed in reply.squeezed and squeezed not in chat.squeezed:
            found.append(text)
    return found[:_MOST]


# ---- line


def _lines(reply: Reply, chat: Chat, record: Record) -> list[str]:
    """Return the lines of hidden hunks that the reply points at though none near was shown."""
    pointed = addressed_lines(reply.commands)
    files = sorted(set(re.findall(r"(?<![\w./-])[\w./-]{1,150}\.\w{1,5}\b", reply.prose)))
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
