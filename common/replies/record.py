"""What a PR record hides: its paths, hunks, lines, names, texts, ids; read once for each record."""

import re
from functools import cached_property, lru_cache

from common.replies.patch import Hunk, parse_patch
from common.replies.words import words

_MIN_LINE_CHARS = 12  # a shorter line (`else:`, `return None`) proves nothing
_MIN_LINE_TOKENS = 3
_MIN_NOTE_WORDS = 6  # of a line of the description
TOKEN = re.compile(r"\w+|[^\w\s\\\"'`]")
NAME = re.compile(r"(?<![\w$-])--[a-z][\w-]{2,40}|(?<![\w$])[A-Za-z_$][\w$]{3,80}(?![\w$])")
_STRING = re.compile(r"\"([^\"\n]{6,120})\"|'([^'\n]{6,120})'|`([^`\n]{6,120})`")
_PLACEHOLDER = re.compile(r"%[\d.]*[sdrfx]|\$?\{[^{}]{0,40}\}")
# what a hunk's header or context line defines
_DEFINED = re.compile(
    r"\b(?:class|struct|enum|interface|trait|impl|type|def|func|fn|function)\s{1,9}"
    r"(?:\([^)\n]{0,80}\)\s{0,9})?(\w+)"  # Go: `func (w *Window) shift(`
)
_IMPORT = re.compile(r"\s*(?:from|import|use|#include|package|using|require)\b")
_DUNDER = re.compile(r"__\w+__$")
_BLOB = re.compile(r"^index ([0-9a-f]{7,40})\.\.([0-9a-f]{7,40})", re.MULTILINE)


def text_of(value) -> str:
    return value if isinstance(value, str) else ""


def squeeze(text: str) -> str:
    """Return text without blanks and backslashes: alike for wrapped output and escaped code."""
    return "".join(text.split()).replace("\\", "")


def name_parts(name: str) -> list[str]:
    """Return ["get", "http", "url"] for `getHTTPUrl`, `get_http_url` and `get-http-url` alike."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def token_pairs(line: str) -> set[tuple[str, str]]:
    """Return neighbouring tokens; quote marks count for nothing."""
    tokens = TOKEN.findall(line)
    return set(zip(tokens, tokens[1:], strict=False))


def token_triples(text: str) -> set[tuple[str, str, str]]:
    tokens = TOKEN.findall(text)
    return set(zip(tokens, tokens[1:], tokens[2:], strict=False))


class Record:
    """The hidden side of a turn. Fields of another type than expected count as empty."""

    def __init__(self, patch: str, notes: str, files: tuple, repo: str, commit: str, number: str):
        self.repo = repo
        self.number = number
        self.ids = {blob[:7] for pair in _BLOB.findall(patch) for blob in pair} | {commit[:7]}
        self.hunks: list[tuple[str, Hunk]] = []
        paths = list(files)
        for file in parse_patch(patch):
            paths += [file.old_path or "", file.path]
            self.hunks += [(file.path, hunk) for hunk in file.hunks]
        self.paths = [path for path in dict.fromkeys(paths) if path.strip("/.")]
        lines = [line for _, hunk in self.hunks for line in hunk.lines]
        notes = [line for line in notes.splitlines() if len(line.split()) >= _MIN_NOTE_WORDS]
        changed = [line[1:] for line in lines if line[0] in "+-"] + notes
        self.names = _names(changed)
        self.defined = set(_DEFINED.findall("\n".join(hunk.header for _, hunk in self.hunks)))
        context = [line[1:] for line in lines if line[0] == " "]
        beside = _names([line for line in context if not _IMPORT.match(line)])
        beside = {name for name in beside if len(name_parts(name)) > 1}
        self.names_around = (beside | _names([*self.defined])) - self.names
        self.texts = _texts("\n".join(changed))
        self.lines = _telling_lines([line[1:] for line in lines] + notes)
        before = {squeeze(line[1:]) for line in lines if line[0] != "+"}
        added = _telling_lines([line[1:] for line in lines if line[0] == "+"])
        self.added = [line for line in added if line[1] not in before]

    @cached_property
    def squeezed(self) -> str:
        return "\n".join(squeezed for _, squeezed, _ in self.lines)


def read_record(pr) -> Record:
    """Return the record of one PR, as in commit/<instance_id>.json."""
    pr = pr if isinstance(pr, dict) else {}
    files = pr.get("files") if isinstance(pr.get("files"), (list, tuple)) else ()
    number = re.search(r"-(\d{1,9})$", text_of(pr.get("instance_id")))
    return _read(
        text_of(pr.get("patch")).rstrip("\n") + "\n" + text_of(pr.get("test_patch")),
        text_of(pr.get("description")) + "\n" + text_of(pr.get("interface")),
        tuple(path for path in files if isinstance(path, str)),
        text_of(pr.get("repo")).lower(),
        text_of(pr.get("base_commit")),
        number[1] if number else "",
    )


_read = lru_cache(maxsize=64)(Record)  # the turns and retries of one instance share its record


def _names(lines: list[str]) -> set[str]:
    """Return names that tell something: no words of a language, no `__dunder__`, no assertions."""
    names = set(NAME.findall("\n".join(lines))) - words("keywords") - words("library")
    return {name for name in names if not _DUNDER.match(name) and not re.match("assert[A-Z]", name)}


def _texts(code: str) -> set[str]:
    """Return the string literals, in pieces between placeholders, that have several words."""
    found = set()
    for groups in _STRING.findall(code):
        for piece in _PLACEHOLDER.split("".join(groups)):
            if " " in piece.strip() and len(re.findall(r"[A-Za-z]{2,}", piece)) > 1:
                found.add(piece.strip())
    return found


def _telling_lines(lines: list[str]) -> list[tuple[str, str, set]]:
    """Return (line, squeezed, token pairs) of those that nobody repeats by accident."""
    found = []
    for line in dict.fromkeys(lines):
        squeezed = squeeze(line)
        if len(squeezed) < _MIN_LINE_CHARS or len(TOKEN.findall(line)) < _MIN_LINE_TOKENS:
            continue
        if set(re.findall(r"[A-Za-z_]\w{2,}", line)) - words("keywords"):
            found.append((line.strip(), squeezed, token_pairs(line)))
    return found
