"""The leak audit: find what a reply refers to that only the hidden PR record could have given.

`find_leaks(reply, messages, pr)` is deterministic, calls no model and takes milliseconds. It starts
from what reply and record share, and asks of each such thing whether the chat shows it, lists it,
or lets an honest engineer derive it. To search for what the issue suggests is honest; to read, edit
or assert a thing never seen is not. One function finds one kind of hit.
"""

import re

from common.replies.act import GUESS, Act
from common.replies.chat import LINE_NUMBER, Chat, same_file
from common.replies.disclosure import outside_sources
from common.replies.history import peeks
from common.replies.paths import blind_edits, unknown_files
from common.replies.record import (
    NAME,
    Record,
    name_parts,
    read_record,
    squeeze,
    text_of,
    token_pairs,
    token_triples,
)
from common.replies.views import addressed_lines
from common.replies.words import words

AUDIT_VERSION = "3"  # raise it whenever the audit gets stricter: stored replies are audited again
KINDS = ("path", "identifier", "line", "verbatim", "disclosure", "history")

_MOST = 200  # things of one kind that are weighed: an odd reply costs no minutes
_LINE_REACH = 100  # lines: to page on from what was seen, up to this far, is honest
_STATED_REACH = 30  # lines: the same from a number that the chat states
_SLACK = 12  # lines before a hunk that lead straight to it
_WIDE_VIEW = 250  # lines: a wider view aims at no line, even in a file never seen
_NEAR = 0.6  # share of a hidden line's token pairs that makes a line nearly that line
_MIN_NEAR_PAIRS = 5
_MIN_PIECE_TOKENS = 4  # of a piece of hidden code in a search
_MARKED_NAME = re.compile(r"`(?:[\w.]{0,80}\.)?(\w{1,80})(?:\(\))?`|(?<!\w)(\w{1,80})\(")
_DEFINITION = (
    r"\b(?:def|class|func|fn|function|let|const|var|val|type|struct|enum|interface|as|for)\s{1,9}"
    r"(?:\([^)\n]{0,99}\)\s{0,9})?NAME\b|(?<!\w)NAME\s{0,9}(?::[^=\n]{1,60})?:?=(?!=)"
)


def find_leaks(reply: str, messages: list[dict], pr: dict) -> list[dict]:
    """Return all hits as {"kind", "text", "why"}; an empty list means clean. No input raises.

    `messages` is the chat up to the turn, `pr` a record as in commit/<instance_id>.json.
    """
    act = Act(text_of(reply))
    chat = Chat(messages)
    record = read_record(pr)
    found = []
    for path in unknown_files(act, chat, record):
        found.append(("path", path, "names a file that the chat never showed or suggested"))
    for path in blind_edits(act, chat, record):
        found.append(("path", path, "edits a file that no command named and no output showed"))
    for name in _names(act, chat, record):
        found.append(("identifier", name, "a name from the hidden patch, never shown"))
    for text in _texts(act, chat, record):
        found.append(("identifier", text, "a text from the hidden patch, never shown"))
    for place in _lines(act, chat, record):
        found.append(("line", place, "points at lines of a hidden change that were never shown"))
    for line in _verbatim(act, chat, record):
        found.append(("verbatim", line, "a line of the hidden record, or nearly one, never shown"))
    for piece in _searched_code(act, chat, record):
        found.append(("verbatim", piece, "searches for hidden code that was never shown"))
    for text in outside_sources(act.reply, chat, record):
        found.append(("disclosure", text, "speaks of a source outside the visible chat"))
    for command in peeks(act.commands, chat.text, record):
        found.append(("history", command, "looks at later commits or at a copy of the project"))
    hits = {(kind, text[:200]): why for kind, text, why in found}
    return [{"kind": kind, "text": text, "why": why} for (kind, text), why in hits.items()]


# ---- identifier


def _names(act: Act, chat: Chat, record: Record) -> list[str]:
    """Return the record's names that the reply uses, but for those an agent may have made up."""
    marked = {name for match in _MARKED_NAME.findall(act.said) for name in match}
    marked |= record.defined & set(NAME.findall(act.commanded))
    found = []
    for name in sorted((record.names | record.names_around) & act.names):
        if name in chat.words or name.lower() in record.repo:
            continue
        if len(name) > 8 and name in chat.squeezed:
            continue  # broken over two lines, or part of a longer name
        if name in record.names_around and name not in act.asserted_names:
            continue  # code of the project, quoted from memory
        telling = name.startswith("--") or name in marked and len(name) > 6
        if (telling or len(name_parts(name)) > 1) and not _is_natural(name, act, chat, record):
            found.append(name)
    return found[:_MOST]


def _is_natural(name: str, act: Act, chat: Chat, record: Record) -> bool:
    """Tell whether the agent may have made the name up.

    It is a name of the task with another `get_` or `set_`; or it is said as a guess or defined by
    the reply's own code, of parts that the chat knows, if a change holds it.
    """
    parts = name_parts(name) or [""]
    rest = "".join(parts[1:])
    if parts[0] in words("glue") and len(rest) > 7:
        variants = {glue + rest for glue in ("", *words("glue"))}
        if not variants.isdisjoint(chat.task_names):
            return True
    guessed = name not in act.commanded and act.only_says(name, GUESS)
    if not all(part in chat.lower for part in parts):
        return guessed and name in record.names_around
    if guessed:
        return True
    return re.search(_DEFINITION.replace("NAME", re.escape(name)), act.written) is not None


def _texts(act: Act, chat: Chat, record: Record) -> list[str]:
    """Return the record's messages and other strings of several words that the reply holds."""
    found = []
    for text in sorted(record.texts):
        if text.split()[0].strip(".,:;!?()'\"") not in act.reply:
            continue
        squeezed = squeeze(text)
        if squeezed in act.squeezed and squeezed not in chat.squeezed:
            found.append(text)
    return found[:_MOST]


# ---- line


def _lines(act: Act, chat: Chat, record: Record) -> list[str]:
    """Return the lines of hidden hunks that the reply points at though none near was shown."""
    found = []
    for named, first, last in _references(act)[:_MOST]:
        if last - first > _WIDE_VIEW or first <= 1:
            continue
        for path, hunk in record.hunks:
            start = min(hunk.old_start, hunk.new_start) - _SLACK
            end = max(hunk.old_start + hunk.old_length, hunk.new_start + hunk.new_length) - 1
            if last < start or first > end or named and not same_file(named, path):
                continue
            if not _is_near_shown(path if named else "", first, last, chat):
                shown = f"{first}" if first == last else f"{first}-{last}"
                found.append(f"{named or 'line'}:{shown}")
                break
    return found


def _references(act: Act) -> list[tuple[str, int, int]]:
    """Return (file or '', first, last) of every line that the reply points at."""
    found = addressed_lines(act.commands)
    files = set(re.findall(r"(?<![\w./-])[\w./-]{1,150}\.\w{1,5}\b", act.prose))
    for named, first, last in LINE_NUMBER.findall(act.reply)[:_MOST]:
        span = (int(first), max(int(last or first), int(first)))
        for file in [named] if named else sorted(files)[:20] or [""]:
            found.append((file, *span))
    return found


def _is_near_shown(path: str, first: int, last: int, chat: Chat) -> bool:
    """Tell whether the chat showed or told lines of the file near enough to these."""
    near = [(low - _LINE_REACH, high + _LINE_REACH) for low, high in chat.shown_lines(path)]
    near += [(low - _STATED_REACH, high + _STATED_REACH) for low, high in chat.stated_lines(path)]
    return any(low <= last and first <= high for low, high in near)


# ---- verbatim


def _verbatim(act: Act, chat: Chat, record: Record) -> list[str]:
    """Return the record's lines that the reply holds, also with a few other names in them."""
    found = []
    for line, squeezed, pairs in record.lines:
        if pairs.isdisjoint(act.lines_with):
            continue
        said = squeezed in act.squeezed
        if not said and len(pairs) >= _MIN_NEAR_PAIRS:
            said = _is_nearly_said(line, pairs, act, chat)
        if said and squeezed not in chat.squeezed:
            found.append(line)
    return found[:_MOST]


def _is_nearly_said(line: str, pairs: set, act: Act, chat: Chat) -> bool:
    """Tell whether one line of the reply holds most of these token pairs, and some never shown."""
    spoken = [pair for pair in pairs if pair in act.lines_with]
    if len(spoken) < _NEAR * len(pairs):
        return False
    novel = token_triples(line) - chat.token_triples
    places = {place for pair in spoken for place in act.lines_with[pair]} if novel else ()
    for place in places:
        said, said_pairs = act.lines[place]
        near = len(pairs & said_pairs) >= _NEAR * len(pairs)
        new = near and len(novel & token_triples(said)) >= len(novel) / 3
        if new and squeeze(said) not in chat.squeezed:
            return True
    return False


def _searched_code(act: Act, chat: Chat, record: Record) -> list[str]:
    """Return the pieces of the record's code that the reply's commands search for."""
    found = []
    for command in act.commands:
        if command.program not in words("searchers") and command.program != "git":
            continue
        for word in command.argv[1:][:_MOST]:
            piece = squeeze(word)
            if len(piece) < 12 or len(token_pairs(word)) < _MIN_PIECE_TOKENS - 1:
                continue
            if piece in record.squeezed and piece not in chat.squeezed:
                found.append(word)
    return found
