"""The three texts of an audit: what a reply does, what the chat shows, what a PR record hides.

Every question that is asked once for each hidden thing is a look-up here, so that an audit stays
linear in the length of its texts. Fields of another type than expected count as empty.
"""

import re
from collections import defaultdict
from functools import cached_property, lru_cache

from common.audit.lines import TO_THE_END, addressed_lines, spoken_lines
from common.audit.patch import hunk_lines, parse_patch
from common.audit.protocol import TOOL_CALL, bash_blocks, commands_said, fence_of, prose_parts
from common.audit.shell import Command, expand_script
from common.audit.styles import edited_files, script_style
from common.audit.words import words

_SLACK = 12  # lines before a hunk that lead straight to it
_SHOWN_REACH = 100  # lines: to page on from what was seen, up to this far, is honest
_TOLD_REACH = 30  # lines: the same from a number that the chat tells
_MIN_LINE_CHARS = 12  # a shorter line (`else:`, `return None`) proves nothing
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


def same_file(named: str, path: str) -> bool:
    """Tell whether two paths can be one: `forms/models.py`, `/testbed/django/forms/models.py`."""
    named = named.lstrip("./")
    return bool(named) and f"/{path}".endswith(f"/{named}") or f"/{named}".endswith(f"/{path}")


class Reply:
    """One reply: its prose, its commands, and all that they name."""

    def __init__(self, text: str, fence: str = "bash"):
        script = "\n".join(bash_blocks(text, fence))
        self.commands, named = expand_script(script)
        self.named = named
        self.text = text
        self.prose = "\n".join(prose_parts(text, fence))
        self.commanded = "\n".join([script, *named])
        self.said = "\n".join([text, *named])
        self.squeezed = squeeze(self.said)
        self.triples = token_triples(self.said)
        self.names = set(_NAME.findall(self.said))
        self.edited = "\n".join(edited_files(self.commands))
        written = self.prose.split("```")[1::2]
        if script_style(self.commands) in ("edit", "run"):
            written.append(script)
        self.defined = {name for pair in _DEFINED.findall("\n".join(written)) for name in pair}
        self._sentences = re.split(r"(?<=[.!?])\s|\n", self.prose)

    def only_guesses(self, name: str, reasons: set[str] | None = None) -> bool:
        """Tell whether every sentence with this name says it as a guess, and no command does.

        With `reasons`, each must quote one of these words: "perhaps in a/b.py, with `known`".
        """
        if name in self.commanded:
            return False
        for sentence in self._sentences:
            if name not in sentence:
                continue
            quoted = set(re.findall(r"`_*(\w{3,80}?)_*(?:\(\))?`", sentence.lower()))
            if not _GUESS.search(sentence) or reasons is not None and not quoted & reasons:
                return False
        return True


class Chat:
    """The chat up to the turn: all messages, each command with its output."""

    def __init__(self, messages):
        messages = messages if isinstance(messages, list) else []
        messages = [message for message in messages if isinstance(message, dict)]
        contents = [text_of(message.get("content")) for message in messages]
        answers = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
        self.fence = fence_of(messages)
        self.text = "\n".join(contents)
        self.lower = self.text.lower()
        self.squeezed = squeeze(self.text)
        self.words = {word.strip("_") for word in re.findall(r"\w+", self.lower)}
        self.task = "\n".join(contents[: answers[0]] if answers else contents)
        ends = [*answers[1:], len(contents)]  # several calls of tools have several outputs
        spans = zip(answers, ends)
        self._exchanges = [(contents[i], "\n".join(contents[i + 1 : end])) for i, end in spans]

    @cached_property
    def turns(self) -> list[tuple[list[Command], list[str], str]]:
        """The commands of each earlier turn, what they name, and their output."""
        found = []
        for answer, output in self._exchanges:
            commands, named = expand_script("\n".join(commands_said(answer, self.fence)))
            for call in TOOL_CALL.findall(answer):  # such as an editor's view of a file
                named = [*named, *re.findall(r"[\w./-]+\.\w+", call)]
            found.append((commands, named, output))
        return found

    @cached_property
    def triples(self) -> set[tuple]:
        return token_triples(self.text)

    @cached_property
    def task_names(self) -> set[str]:
        """The words of the task, `getRows`, `get_rows` and `get-rows` alike."""
        return {"".join(name_parts(word)) for word in re.findall(r"[\w-]+", self.task)}

    @cached_property
    def shown(self) -> str:
        """All that commands named and printed: not the task, nor what the agent said."""
        return "\n".join("\n".join([*named, output]) for _, named, output in self.turns)

    @cached_property
    def _known_lines(self) -> dict[str, list[tuple[str, int, int]]]:
        """For each base name: (path, first, last) of lines shown or told, and those near."""
        found = defaultdict(list)
        for commands, named, output in self.turns:
            by_name = defaultdict(set)
            for path, first, last in addressed_lines(commands):
                by_name[base_name(path)].add((first, last))
            tens = {int(number) // 10 * 10 for number in _PRINTED_NUMBER.findall(output)}
            numbers = {(ten, ten + 9) for ten in tens}
            for path in {word for word in named if "." in word and len(word) < 300}:
                seen = by_name[base_name(path)] - {(1, TO_THE_END)} | numbers
                for first, last in seen or {(1, TO_THE_END)}:
                    near = (path, first - _SHOWN_REACH, last + _SHOWN_REACH)
                    found[base_name(path)].append(near)
        for path, first, last in spoken_lines(self.text):
            if path:
                near = (path, first - _TOLD_REACH, last + _TOLD_REACH)
                found[base_name(path)].append(near)
        return found

    def knows_lines(self, path: str, first: int, last: int) -> bool:
        """Tell whether lines of a file near to these were shown or told; without a path, of any."""
        for name in [base_name(path)] if path else list(self._known_lines):
            for named, low, high in self._known_lines.get(name, ()):
                of_it = same_file(named, path) if path else high < TO_THE_END
                if of_it and low <= last and first <= high:
                    return True
        return False


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
                end = hunk.source_start + hunk.source_length
                end = max(end, hunk.target_start + hunk.target_length)
                self.hunks.append((file.path, first, end - 1))
                for name, _ in _DEFINED.findall(hunk.section_header):
                    if len(name) > 6:
                        self.defined[name].add(file.path)
                lines += hunk_lines(hunk)
        self.paths = [path for path in dict.fromkeys(paths) if path.strip("/.")]
        notes = [line for line in notes.splitlines() if len(line.split()) >= _MIN_NOTE_WORDS]
        code = [line[1:] for line in lines] + notes
        self.squeezed = "\n".join(map(squeeze, code))
        telling = [line for line in dict.fromkeys(code) if _is_telling(line)]
        self.lines = [(line.strip(), token_triples(line)) for line in telling]
        before = {squeeze(line[1:]) for line in lines if line[0] != "+"}
        added = [line[1:].strip() for line in lines if line[0] == "+" and _is_telling(line[1:])]
        self.added = [line for line in added if squeeze(line) not in before]
        # A name that only a comment holds proves nothing.
        bare = "\n".join(re.split(r"(?:^|\s)(?:#|//) ", line)[0] for line in code)
        names = set(_NAME.findall(bare))
        self.names = (names | set(self.defined)) - words("keywords") - words("library")
        changed = "\n".join(line[1:] for line in lines if line[0] != " ")
        # Literals of several words, in pieces between their placeholders.
        literals = " % ".join(literal for _, literal in _LITERAL.findall(changed))
        pieces = re.split("[%{}]", literals)
        self.texts = {piece.strip() for piece in pieces if len(piece.split()) > 2}


def _is_telling(line: str) -> bool:
    """Tell whether nobody writes this line of code by accident."""
    names = set(re.findall(r"[A-Za-z_]\w{2,}", line)) - words("keywords")
    return bool(names and token_triples(line)) and len(squeeze(line)) >= _MIN_LINE_CHARS


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
