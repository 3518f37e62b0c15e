"""Find files that a reply names, reads or edits though the chat neither shows nor suggests them."""

import fnmatch
import re

from common.replies.act import GUESS, PLAN, Act
from common.replies.chat import Chat, base_name
from common.replies.record import Record, name_parts
from common.replies.words import words

_MOST = 200  # files that are weighed: an odd reply costs no minutes
_MIN_WORD = 5  # letters of a file's name that make it a telling word of the chat
_MIN_GLOB = 4  # letters that a pattern spells of a file's name


def unknown_files(act: Act, chat: Chat, record: Record) -> list[str]:
    """Return the files that the reply names though the chat neither shows nor suggests them."""
    found = []
    for path in record.paths:
        mention = _mention(path, act) or _module_mention(path, act)
        mention = mention or _glob_mention(path, act, chat)
        if not mention or _is_shown(path, chat) or _is_derivable(path, chat):
            continue
        if not _is_guess(path, mention, act, chat):
            found.append(mention)
    return found[:_MOST]


def _is_guess(path: str, mention: str, act: Act, chat: Chat) -> bool:
    """Tell whether the reply only guesses at the file, or goes to see whether it is there."""
    folder, _, name = path.rpartition("/")
    stem = name.split(".")[0].lower()
    bare = "/" not in mention
    if bare and _speaks_of(chat, stem):
        return True  # `options.py` where the chat speaks of options
    if bare:
        return mention not in act.commanded and act.only_says(mention, GUESS)
    if not act.only_looks_for(name):
        return False
    if folder in chat.text and act.looks_in(folder) and act.only_says(mention, GUESS):
        return True
    has_ground = stem in chat.lower and base_name(folder) in chat.text
    return has_ground and act.only_says(mention, PLAN)


def _mention(path: str, act: Act) -> str:
    """Return the longest ending of the path, at least its name, that the reply names; or ''."""
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
    *folders, name = path.split("/")
    parts = [folder for folder in folders if folder not in words("source roots")]
    stem = name.split(".")[0]
    return parts if stem in ("__init__", "index", "mod") else [*parts, stem]


def _module_mention(path: str, act: Act) -> str:
    """Return how the reply names the file as a module: `b.x`, `b::x`, `from b import x`; or ''."""
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


def _glob_mention(path: str, act: Act, chat: Chat) -> str:
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
    """Tell whether the chat writes this very file out: with a folder, if it has one."""
    if base_name(path) not in chat.text:
        return False
    seen = _longest_ending(path, chat.text)
    return "/" in seen or bool(seen) and "/" not in path


def _is_derivable(path: str, chat: Chat) -> bool:
    """Tell whether an honest engineer could name the file, from a listing or from words."""
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
    near = base_name(folder)
    if near not in chat.text:
        return False
    if _speaks_of(chat, stem):
        if folder in chat.text or near == stem:
            return True  # listed in its folder, or a word; `retry.Do` -> retry/retry.go
        if len(stem) >= _MIN_WORD and _speaks_of(chat, near):
            return True  # a telling word, in a folder that is a word; listed by `tree`
    wanted = "".join(
        name_parts(core)
    )  # `Engine.render` -> engine.py, `EntryCaches` -> entry_cache.go
    return len(wanted) >= _MIN_WORD and any(wanted in named for named in chat.task_names)


def blind_edits(act: Act, chat: Chat, record: Record) -> list[str]:
    """Return the record's files that the reply changes though no command or output named them."""
    found = []
    for path in record.paths:
        name = base_name(path)
        shown = name not in act.edited or name in chat.shown_names
        if not shown and _longest_ending(path, act.edited):
            found.append(path)
    return found[:_MOST]
