"""The leak audit: what a reply refers to that the hidden PR record holds and the chat could not give.

`find_leaks(reply, messages, pr)` is deterministic, calls no model and takes milliseconds. It starts from
what the reply and the record share, and asks of each such thing whether the chat shows it, lists it, or
lets an honest engineer derive it. To search for what the issue suggests is honest; to read, edit or
assert a thing never seen is not. One function finds one kind of hit.
"""

import fnmatch
import re
from collections import defaultdict
from functools import cached_property

from common.replies.chat import LINE_NUMBER, Chat, base_name, same_file
from common.replies.disclosure import outside_sources
from common.replies.expand import expand_script
from common.replies.history import peeks
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
from common.replies.styles import edited_files, script_style
from common.replies.text import bash_blocks, thought
from common.replies.views import addressed_lines
from common.replies.words import words

AUDIT_VERSION = "3"  # raise it whenever the audit gets stricter: stored replies are audited again
KINDS = ("path", "identifier", "line", "verbatim", "disclosure", "history")

_MOST = 200  # things of one kind that are weighed: an odd reply costs no minutes
_LINE_REACH = 100  # lines: to page on from what was seen, up to this far, is honest
_STATED_REACH = 30  # lines: the same from a number that the chat states
_SLACK = 15  # lines before a hunk that lead straight to it
_WIDE_VIEW = 250  # lines: a wider view aims at no line, even in a file never seen
_NEAR = 0.6  # share of a hidden line's token pairs that makes a line nearly that line
_MIN_NEAR_PAIRS = 5
_MIN_PIECE_TOKENS = 4  # of a piece of hidden code in a search
_MIN_GLOB = 4  # letters that a pattern spells of a file's name
_GUESS = re.compile(
    r"\b(?:might|may|maybe|perhaps|probabl[ey]|likely|suspect|guess|could|or similar|or wherever"
    r"|typically|usually|if it exists)\b",
    re.IGNORECASE,
)
# Before `ls` or a search: the plan to see whether a file is there.
_PLAN = re.compile(
    _GUESS.pattern
    + r"|\b(?:look(?:ing)? (?:at|in|into|for)|check|find|search|locate|see if|confirm)\b",
    re.IGNORECASE,
)
_MARKED_NAME = re.compile(r"`(?:[\w.]{0,80}\.)?(\w{1,80})(?:\(\))?`|(?<!\w)(\w{1,80})\(")
_DEFINITION = (
    r"\b(?:def|class|func|fn|function|let|const|var|val|type|struct|enum|interface|as|for)\s{1,9}"
    r"(?:\([^)\n]{0,99}\)\s{0,9})?NAME\b|(?<!\w)NAME\s{0,9}(?::[^=\n]{1,60})?:?=(?!=)"
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n\s{0,99}\n|\n[ \t]{0,99}[-*`]")
_LISTING = {"ls", "tree", "find", "fd", "cd", "pushd", "git"}


def find_leaks(reply: str, messages: list[dict], pr: dict) -> list[dict]:
    """Return all hits as {"kind", "text", "why"}; an empty list means clean. No input raises.

    `messages` is the chat up to the turn, `pr` a record as in commit/<instance_id>.json.
    """
    act = _Act(text_of(reply))
    chat = Chat(messages)
    record = read_record(pr)
    found = []
    for path in _paths(act, chat, record):
        found.append(("path", path, "names a file that the chat never showed or suggested"))
    for path in _blind_edits(act, chat, record):
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


class _Act:
    """One reply: its prose, its commands, and all that they name."""

    def __init__(self, reply: str):
        self.reply = reply
        self.prose = thought(reply)
        self.script = "\n".join(bash_blocks(reply))
        self.commands, self.named = expand_script(self.script)
        self.commanded = self.script + "\n" + "\n".join(self.named)
        self.said = reply + "\n" + "\n".join(self.named)
        self.squeezed = squeeze(self.said)
        self.edited = "\n".join(edited_files(self.commands))
        self.globs = [word for word in self.named if re.search(r"[*?]|\[.", word)][:_MOST]
        self.words = set(re.findall(r"\w+", self.said))
        self.names = set(NAME.findall(self.said))
        self.base_names = {base_name(path) for path in re.findall(r"[\w./+-]+", self.said)}
        self.sentences = _SENTENCE_END.split(self.prose)

    def only_says(self, name: str, manner: re.Pattern) -> bool:
        """Tell whether every sentence with this name is of this manner: a guess, a plan."""
        return all(manner.search(sentence) for sentence in self.sentences if name in sentence)

    def only_looks_for(self, name: str) -> bool:
        """Tell whether the commands do nothing with this file but see whether it is there."""
        if name in self.edited or script_style(self.commands) not in ("look", "search"):
            return False
        naming = [command for command in self.commands if name in "\n".join(command.words)]
        return all(command.program in ("ls", "find", "fd", "tree") for command in naming)

    @cached_property
    def written(self) -> str:
        """Code that the reply proposes (other fenced blocks) or puts into files and interpreters."""
        proposed = "\n".join(re.findall(r"```\w*\n(.*?)```", self.prose, re.DOTALL))
        return proposed + (self.script if script_style(self.commands) in ("edit", "run") else "")

    @cached_property
    def lines(self) -> list[tuple[str, set]]:
        """Each line with its pairs of neighbouring tokens."""
        return [(line, token_pairs(line)) for line in dict.fromkeys(self.said.splitlines())]

    @cached_property
    def lines_with(self) -> dict[tuple, list[int]]:
        """The places of the lines that hold a pair of tokens, of each pair the first few."""
        places = defaultdict(list)
        for place, (_, pairs) in enumerate(self.lines):
            for pair in pairs:
                if len(places[pair]) < 20:
                    places[pair].append(place)
        return places


# ---- path


def _paths(act: _Act, chat: Chat, record: Record) -> list[str]:
    """Return the files that the reply names though the chat neither shows nor suggests them."""
    found = []
    for path in record.paths:
        mention = (
            _mention(path, act) or _module_mention(path, act) or _glob_mention(path, act, chat)
        )
        if not mention or _is_shown(path, chat) or _is_derivable(path, chat):
            continue
        if not _is_guess(path, mention, act, chat):
            found.append(mention)
    return found[:_MOST]


def _is_guess(path: str, mention: str, act: _Act, chat: Chat) -> bool:
    """Tell whether the reply only guesses at the file, or goes to see whether it is there."""
    folder, _, name = path.rpartition("/")
    stem = name.split(".")[0].lower()
    bare = "/" not in mention
    if bare and _speaks_of(chat, stem):
        return True  # `options.py` where the chat speaks of options
    if bare:
        return mention not in act.commanded and act.only_says(mention, _GUESS)
    has_ground = stem in chat.lower and base_name(folder) in chat.text
    return has_ground and act.only_looks_for(name) and act.only_says(mention, _PLAN)


def _mention(path: str, act: _Act) -> str:
    """Return the longest ending of the path (at least its file name) that the reply names, or ''."""
    return _longest_ending(path, act.said) if base_name(path) in act.base_names else ""


def _longest_ending(path: str, text: str) -> str:
    parts = path.split("/")
    for first in range(len(parts)):
        ending = "/".join(parts[first:])
        before = r"(?<![\w.-])" if first == 0 else r"(?<![\w./-])(?:\.?/|\$\{?\w{1,60}\}?/)?"
        if ending in text and re.search(before + re.escape(ending) + r"(?![\w-])", text):
            return ending
    return ""


def _module_parts(path: str) -> list[str]:
    """Return the parts of the module that a file is: ["a", "b"] for `src/a/b/__init__.py`."""
    parts = [*path.split("/")[:-1], base_name(path).split(".")[0]]
    parts = [part for part in parts if part and part not in ("__init__", "index", "mod")]
    while len(parts) > 2 and parts[0] in words("source roots"):
        parts = parts[1:]
    return parts


def _module_mention(path: str, act: _Act) -> str:
    """Return how the reply names the file as a module: `a.b.x`, `b::x`, `from b import x`, or ''."""
    parts = _module_parts(path)
    if len(parts) < 2 or parts[-1] not in act.words:
        return ""
    last = parts[-1]
    for joint in (".", "::", "/"):
        name = joint.join(parts[-2:])
        if _has_word(name, act.said):
            return name
    folder, stem = re.escape(parts[-2]), re.escape(last)
    for pattern in (
        rf"\bfrom (?:[\w.]{{1,150}}\.)?{folder} import [^\n]{{0,200}}?(?<!\w){stem}(?!\w)",
        rf"(?<!\w)`?{stem}`? module\b|\bmodule `?{stem}(?!\w)",
    ):
        if len(last) > 3 and (match := re.search(pattern, act.said)):
            return match[0]
    return ""


def _glob_mention(path: str, act: _Act, chat: Chat) -> str:
    """Return the pattern that picks the file by letters of its name that the chat does not hold."""
    for word in act.globs:
        pattern = base_name(word)
        letters = max(re.findall(r"\w+", pattern), key=len, default="")
        if len(letters) < _MIN_GLOB or letters.lower() in chat.lower:
            continue
        if fnmatch.fnmatch(base_name(path), pattern) and letters in base_name(path).split(".")[0]:
            return word
    return ""


def _has_word(word: str, text: str) -> bool:
    """Tell whether the word stands in the text with no word character beside it."""
    return word in text and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def _speaks_of(chat: Chat, word: str) -> bool:
    return word.lower().strip("_") in chat.lower_words


def _is_shown(path: str, chat: Chat) -> bool:
    """Tell whether the chat showed this very file: written out, or in a listing of its folder."""
    folder, _, name = path.rpartition("/")
    if name not in chat.text:
        return False
    seen = _longest_ending(path, chat.text.replace("\\", "/"))
    if "/" in seen or seen and not folder:
        return True
    listed = re.compile(
        rf"(?:^|[\s─'\"m]){re.escape(name)}(?:\x1b\[m?0?m?)?['\"*@,]{{0,3}}(?=\s|$)", re.M
    )
    section = re.search(
        rf"(?:^|[\s/]){re.escape(folder)}/?:\n((?:.+\n)*)", chat.text + "\n"
    )  # `ls -R`
    if section and listed.search(section[1]):
        return True
    for commands, places, output in chat.turns:
        if any(command.program in _LISTING for command in commands) and listed.search(output):
            places = [place.strip("./") for place in places]
            if any(
                place and f"{folder}/".startswith(f"{place}/") or same_file(place, folder)
                for place in places
            ):
                return True
            if any(command.program == "tree" for command in commands):
                return True
    return False


def _is_derivable(path: str, chat: Chat) -> bool:
    """Tell whether an honest engineer could name the file: by its module, its words, or as a test."""
    folder, _, name = path.rpartition("/")
    if name in words("conventional files") and "/" not in folder:
        return True
    parts = _module_parts(path)
    for joint in (".", "::", "/"):  # `astropy.modeling.separable`, `net::tcp`, `../lib/router`
        if len(parts) > 1 and _has_word(joint.join(parts[-2:]), chat.text):
            return True
    stem = name.split(".")[0]
    core = re.sub(r"^tests?_|_tests?$|_spec$|Tests?$", "", stem)
    if core != stem and re.search(rf"(?<!\w){re.escape(core)}\.\w", chat.text):
        return True  # the test of a file that was seen
    if folder and base_name(folder) not in chat.text:
        return False
    if _speaks_of(chat, stem) and (folder in chat.text or base_name(folder) == stem):
        return True  # a word of the chat, in a folder that was shown; `retry.Do` -> retry/retry.go
    wanted = "".join(name_parts(core))
    for (
        named
    ) in chat.task_names:  # `Engine.render` -> engine.py, `MultiOutputClassifier` -> multioutput.py
        shorter, longer = sorted((wanted, named), key=len)
        if len(shorter) > 3 and longer.startswith(shorter) and len(longer) - len(shorter) <= 2:
            return True
        if len(wanted) > 7 and wanted in named:
            return True
    return False


def _blind_edits(act: _Act, chat: Chat, record: Record) -> list[str]:
    """Return the files of the record that the reply changes though nothing but the task named them."""
    found = []
    for path in record.paths:
        name = base_name(path)
        if name in act.edited and name not in chat.shown_names:
            if _longest_ending(path, act.edited):
                found.append(path)
    return found[:_MOST]


# ---- identifier


def _names(act: _Act, chat: Chat, record: Record) -> list[str]:
    """Return the record's names that the reply uses, but for those that an agent may have made up."""
    marked = {name for match in _MARKED_NAME.findall(act.said) for name in match}
    marked |= record.classes & set(NAME.findall(act.commanded))
    found = []
    for name in sorted(record.names & act.names):
        if name in chat.words or name.lower() in record.repo:
            continue
        if len(name) > 8 and name in chat.squeezed:
            continue  # broken over two lines, or part of a longer name
        telling = name.startswith("--") or name in marked and len(name) > 6
        if (telling or len(name_parts(name)) > 1) and not _is_natural(name, act, chat):
            found.append(name)
    return found[:_MOST]


def _is_natural(name: str, act: _Act, chat: Chat) -> bool:
    """Tell whether the agent may have made the name up.

    It is a name of the task with another `get_` or `set_`; or, of parts that the chat knows, it is
    said as a guess or defined by the reply's own code.
    """
    first, *rest = name_parts(name) or [""]
    rest = "".join(rest)
    if first in words("glue") and len(rest) > 7:
        if any(glue + rest in chat.task_names for glue in ("", *words("glue"))):
            return True
    if not all(part in chat.lower for part in name_parts(name)):
        return False
    if name not in act.commanded and act.only_says(name, _GUESS):
        return True
    return re.search(_DEFINITION.replace("NAME", re.escape(name)), act.written) is not None


def _texts(act: _Act, chat: Chat, record: Record) -> list[str]:
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


def _lines(act: _Act, chat: Chat, record: Record) -> list[str]:
    """Return the lines of the record's hunks that the reply points at without having been near them."""
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


def _references(act: _Act) -> list[tuple[str, int, int]]:
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
    for spans, reach in (
        (chat.shown_lines(path), _LINE_REACH),
        (chat.stated_lines(path), _STATED_REACH),
    ):
        if any(low - reach <= last and first <= high + reach for low, high in spans):
            return True
    return False


# ---- verbatim


def _verbatim(act: _Act, chat: Chat, record: Record) -> list[str]:
    """Return the record's lines that the reply holds, also with a few other names in them."""
    found = []
    for line, squeezed, pairs in record.lines:
        if pairs.isdisjoint(act.lines_with):
            continue
        if squeezed in act.squeezed:
            if squeezed not in chat.squeezed:
                found.append(line)
        elif len(pairs) >= _MIN_NEAR_PAIRS and _is_nearly_said(line, pairs, act, chat):
            if squeezed not in chat.squeezed:
                found.append(line)
    return found[:_MOST]


def _is_nearly_said(line: str, pairs: set, act: _Act, chat: Chat) -> bool:
    """Tell whether one line of the reply holds most of these token pairs, and some never shown."""
    spoken = [pair for pair in pairs if pair in act.lines_with]
    if len(spoken) < _NEAR * len(pairs):
        return False
    novel = token_triples(line) - chat.token_triples
    for place in {place for pair in spoken for place in act.lines_with[pair]}:
        said, said_pairs = act.lines[place]
        if len(pairs & said_pairs) >= _NEAR * len(pairs) and squeeze(said) not in chat.squeezed:
            if novel and len(novel & token_triples(said)) >= len(novel) / 3:
                return True
    return False


def _searched_code(act: _Act, chat: Chat, record: Record) -> list[str]:
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
