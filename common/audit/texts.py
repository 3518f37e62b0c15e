"""The three texts of an audit: what a reply does, what the chat shows, what a PR record hides.

unidiff reads the record's diffs; quoted paths and empty last lines that are lost are mended here.
Every question that is asked once for each hidden thing is a look-up here, so that an audit stays
linear in the length of its texts. Fields of another type than expected count as empty.
"""

import codecs
import re
from collections import defaultdict
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import chain
from typing import NamedTuple

from unidiff import Hunk, PatchSet
from unidiff.errors import UnidiffParseError

from common.audit import protocol
from common.audit.shell import TO_THE_END, Command, addressed_lines, expand_script, word_list

_SLACK = 12  # lines before a hunk that lead straight to it
_REACH = 30  # lines: to page on from what was shown or told, up to this far, is honest
_MIN_LINE_CHARS = 12  # a shorter line (`else:`, `class Base:`) proves nothing
_MIN_NOTE_WORDS = 6  # of a line of the description

_NAME = re.compile(r"(?<![\w$-])--[a-z][\w-]{2,40}|(?<![\w$])[A-Za-z_$][\w$]{3,80}(?![\w$])")
# What a hunk's header or a piece of code defines; Go: `func (w *Window) shift(`.
_DEFINED = re.compile(
    r"\b(?:class|struct|enum|interface|trait|impl|type|def|func|fn|function|let|const|var|for|as)"
    r"\s{1,9}(?:\([^)\n]{0,80}\)\s{0,9})?(\w+)|(?<![\w.])(\w+)\s{0,9}(?::[^=\n]{1,60})?:?=(?!=)"
)
_GUESS = re.compile(
    r"\b(?:might|may|maybe|perhaps|probabl[ey]|likely|suspect|guess|could|or similar|or wherever"
    r"|typically|usually|if it exists)\b",
    re.IGNORECASE,
)
_PRINTED_NUMBER = re.compile(r"^(?:Observation:)?[ \t]{0,12}(\d{1,7})[:\t-]", re.MULTILINE)
_TOKEN = re.compile(r"\w+|[^\w\s\\\"'`]")
_LITERAL = re.compile(r"([\"'`])([^\"'`\n]{0,120})\1")
# `a.py:3`, `a.py(3)`, `a.py#L3-9`, `In a.py, around line 3`, and `lines 3 to 9` of no file
_SPOKEN_LINES = re.compile(
    r"(?:(?<![\w./-])([\w./-]{1,150}\.[A-Za-z]\w{0,9})(?:[:(]|#?L|[^\w\n][^\n]{0,14}?\blines? )"
    r"|\blines? )(?:number )?[#~]{0,2}(\d{1,7})\b"
    r"(?:\s?(?:-|–|:|,|to|and|through)\s?L?(\d{1,7})\b)?",
    re.IGNORECASE,
)


def text_of(value) -> str:
    return value if isinstance(value, str) else ""


def squeeze(text: str) -> str:
    """Return text without blanks and backslashes: alike for wrapped output and escaped code."""
    return "".join(text.split()).replace("\\", "")


def token_triples(text: str) -> set[tuple[str, str, str]]:
    """Return the runs of three tokens; quote marks count for nothing."""
    tokens = _TOKEN.findall(text)
    return set(zip(tokens, tokens[1:], tokens[2:], strict=False))


def name_parts(name: str) -> list[str]:
    """Return ["get", "http", "url"] for `getHTTPUrl`, `get_http_url` and `get-http-url` alike."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def base_name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def says(phrase: str, text: str) -> bool:
    """Tell whether the text holds the phrase, or its plural, as whole words."""
    return phrase in text and bool(re.search(rf"(?<!\w){re.escape(phrase)}s?(?!\w)", text))


def same_file(named: str, path: str) -> bool:
    """Tell whether two paths can be one: `forms/models.py`, `/testbed/django/forms/models.py`."""
    named = named.lstrip("./")
    return bool(named) and f"/{path}".endswith(f"/{named}") or f"/{named}".endswith(f"/{path}")


def spoken_lines(text: str) -> list[tuple[str, int, int]]:
    """Return (file, first, last) of each line number in prose; file "" where none stands by it."""
    found = _SPOKEN_LINES.findall(text)
    return [(file, int(first), int(last or first)) for file, first, last in found]


class Reply:
    """One reply: its prose, its commands, and all that they name."""

    def __init__(self, text: str, fence: str):
        script = "\n".join(protocol.bash_blocks(text, fence))
        self.commands, self.named = expand_script(script)
        self.text = text
        self.prose = "\n".join(protocol.prose_parts(text, fence))
        self.commanded = "\n".join([script, *self.named])
        self.said = "\n".join([text, *self.named])
        self.squeezed = squeeze(self.said)
        self.triples = token_triples(self.said)
        self.names = set(_NAME.findall(self.said))
        edited = []  # what names the files that the commands change: targets, operands, scripts
        for command in self.commands:
            if protocol.command_style(command) == "edit":
                edited += [*command.written_files, *command.heredocs, *command.argv[1:]]
        self.edited = "\n".join(edited)
        written = "\n".join([*edited, *self.prose.split("```")[1::2]])
        self.defined = set(chain.from_iterable(_DEFINED.findall(written)))
        self._sentences = re.split(r"(?<=[.!?])\s|\n", self.prose)

    def only_guesses(self, name: str, reasons: set[str] | None = None) -> bool:
        """Tell whether every sentence with this name says it as a guess, and no command does.

        With `reasons`, each must quote one of these words: "perhaps in a/b.py, with `known`".
        """
        if name in self.commanded:
            return False
        for sentence in self._sentences:
            if name in sentence:
                quoted = re.findall(r"`_*(\w{3,80}?)_*(?:\(\))?`", sentence.lower())
                has_reason = reasons is None or not reasons.isdisjoint(quoted)
                if not (has_reason and _GUESS.search(sentence)):
                    return False
        return True


class Chat:
    """The chat up to the turn: all messages, each command with its output."""

    def __init__(self, messages):
        messages = messages if isinstance(messages, list) else []
        messages = [message for message in messages if isinstance(message, dict)]
        contents = [text_of(message.get("content")) for message in messages]
        self.fence = protocol.fence_of(messages)
        self.text = "\n".join(contents)
        self.lower = self.text.lower()
        self.squeezed = squeeze(self.text)
        self.words = {word.strip("_") for word in re.findall(r"\w+", self.lower)}
        self._said = [(message.get("role"), text) for message, text in zip(messages, contents)]

    @cached_property
    def turns(self) -> list[tuple[list[Command], list[str], str]]:
        """The task, then each earlier turn: its commands, what they name, and their output."""
        found = [([], [], "")]
        for role, text in self._said:
            commands, named, output = found[-1]
            if role != "assistant":
                found[-1] = (commands, named, f"{output}\n{text}")
                continue
            commands, named = expand_script("\n".join(protocol.commands_said(text, self.fence)))
            found.append((commands, named, ""))
        return found

    @cached_property
    def shown(self) -> str:
        """All that commands named and printed: not the task, nor what the agent said."""
        return "\n".join("\n".join([*named, output]) for _, named, output in self.turns[1:])

    @cached_property
    def task_names(self) -> set[str]:
        """The words of the task, `getRows`, `get_rows` and `get-rows` alike."""
        return {"".join(name_parts(word)) for word in re.findall(r"[\w-]+", self.turns[0][2])}

    @cached_property
    def triples(self) -> set[tuple]:
        return token_triples(self.text)

    @cached_property
    def _known_lines(self) -> dict[str, set[tuple[str, int, int]]]:
        """For each base name: (path, first, last) of lines that were shown or told."""
        found = defaultdict(set)
        for path, first, last in spoken_lines(self.text):
            found[base_name(path)].add((path, first, last))
        found[""].clear()  # of no file
        for commands, named, output in self.turns:
            by_name = defaultdict(set)
            for path, first, last in addressed_lines(commands):
                by_name[base_name(path)].add((first, last))
            tens = {int(number) // 10 * 10 for number in _PRINTED_NUMBER.findall(output)}
            numbers = {(ten, ten + 9) for ten in tens}
            for path in {word for word in named if "." in word and len(word) < 300}:
                seen = by_name[base_name(path)] | numbers or {(1, TO_THE_END)}
                found[base_name(path)] |= {(path, first, last) for first, last in seen}
        return found

    def knows_lines(self, path: str, first: int, last: int) -> bool:
        """Tell whether lines of a file near to these were shown or told; without a path, of any."""
        for name in [base_name(path)] if path else list(self._known_lines):
            for named, low, high in self._known_lines.get(name, ()):
                of_it = same_file(named, path) if path else high < TO_THE_END
                if of_it and low - _REACH <= last and first <= high + _REACH:
                    return True
        return False


class FilePatch(NamedTuple):
    """What a diff says of one file."""

    old_path: str | None  # None for a new file
    path: str  # after the change; of a deleted file before
    renamed: bool
    hunks: list[Hunk]


def changed_files(patch: str) -> list[str]:
    """Return the paths that a diff changes, in order; of a rename both."""
    paths = []
    for file in parse_patch(patch):
        paths += [file.old_path, file.path] if file.renamed else [file.path]
    return [path for path in dict.fromkeys(paths) if path]


def parse_patch(patch: str) -> list[FilePatch]:
    """Return the files of a diff in order. No text raises: what is no diff has no files."""
    files = []
    for piece in re.split(r"\n(?=diff --git )", patch.replace("\r\n", "\n")):
        piece = piece.strip("\n") + "\n"
        found = []
        for lines_lost in range(4):  # data sets strip the last lines where they are empty
            with suppress(UnidiffParseError, ValueError):
                found = PatchSet(piece + " \n" * lines_lost)
                break
        for file in found:
            renamed = any(line.startswith("rename from ") for line in file.patch_info or [])
            old = _path(file.source_file, "a/")
            new = _path(file.target_file, "b/")
            files.append(FilePatch(old, new or old or "", renamed, list(file)))
    return files


def _path(path: str, prefix: str) -> str | None:
    r"""Return a path as text; None for /dev/null. Git quotes unusual ones: "b/caf\303\251.txt"."""
    if path.startswith('"'):
        with suppress(ValueError):  # a lone backslash at its end
            path = codecs.escape_decode(path[1:-1].encode())[0].decode(errors="replace")
    return None if path == "/dev/null" else path.removeprefix(prefix)


def hunk_lines(hunk: Hunk) -> list[str]:
    """Return a hunk's lines; each begins with "+", "-" or " "."""
    return [str(line).rstrip("\n") for line in hunk if line.line_type != "\\"]


class Record:
    """The hidden side of a turn: its paths, hunks, lines, names and texts."""

    def __init__(self, patch: str, notes: str, files: tuple, repo: str, number: str):
        self.repo = repo
        self.number = number
        self.hunks: list[tuple[str, int, int]] = []  # (path, first, last)
        self.defined: dict[str, set[str]] = defaultdict(set)  # names of hunk headers: their files
        paths = list(files)
        lines = []
        for file in parse_patch(patch):
            paths += [file.old_path or "", file.path]
            for hunk in file.hunks:
                first = min(hunk.source_start, hunk.target_start) - _SLACK
                end_before = hunk.source_start + hunk.source_length
                end_after = hunk.target_start + hunk.target_length
                self.hunks.append((file.path, first, max(end_before, end_after) - 1))
                for name, _ in _DEFINED.findall(hunk.section_header):
                    if len(name) > 6:
                        self.defined[name].add(file.path)
                lines += hunk_lines(hunk)
        self.paths = [path for path in dict.fromkeys(paths) if path.strip("/.")]
        told = [line for line in notes.splitlines() if len(line.split()) >= _MIN_NOTE_WORDS]
        code = [line[1:] for line in lines] + told
        self.squeezed = "\n".join(map(squeeze, code))
        self.lines = []  # that nobody writes by accident, with their runs of tokens
        for line in dict.fromkeys(code):
            triples = token_triples(line)
            telling = set(re.findall(r"[A-Za-z_]\w{2,}", line)) - word_list("keywords")
            if triples and telling and len(squeeze(line)) >= _MIN_LINE_CHARS:
                self.lines.append((line.strip(), triples))
        changed = "\n".join(line[1:] for line in lines if line[0] != " ")
        # Literals of several words, in pieces between their placeholders.
        pieces = re.split(r"%\w?|[{}]", " % ".join(text for _, text in _LITERAL.findall(changed)))
        self.texts = {piece.strip(" :,.") for piece in pieces if len(piece.split()) > 2}
        before = {squeeze(line[1:]) for line in lines if line[0] != "+"}
        added = {line[1:].strip() for line in lines if line[0] == "+"}
        self.added = [
            line for line, _ in self.lines if line in added and squeeze(line) not in before
        ]
        # A name that only a comment holds proves nothing.
        bare = "\n".join(re.split(r"(?:^|\s)(?:#|//) ", line)[0] for line in code)
        names = set(_NAME.findall(bare)) | set(self.defined)
        self.names = names - word_list("keywords") - word_list("library")


_read = lru_cache(maxsize=64)(Record)  # the turns and retries of one instance share its record


def read_record(pr: dict) -> Record:
    """Return the record of one PR, as in commit/<instance_id>.json."""
    pr = pr if isinstance(pr, dict) else {}
    files = pr.get("files") if isinstance(pr.get("files"), (list, tuple)) else ()
    number = re.search(r"-(\d{1,9})$", text_of(pr.get("instance_id")))
    return _read(
        text_of(pr.get("patch")).rstrip("\n") + "\n" + text_of(pr.get("test_patch")),
        text_of(pr.get("description")) + "\n" + text_of(pr.get("interface")),
        tuple(path for path in files if isinstance(path, str)),
        text_of(pr.get("repo")).lower(),
        number[1] if number else "",
    )
