"""The leak audit: what a reply refers to that the hidden PR record holds and the visible chat could not have given.

`find_leaks(reply, messages, pr)` is deterministic, calls no model and takes milliseconds. It starts from what reply and
record share, and asks of each such thing whether the chat shows it, lists it, or lets an honest engineer derive it.
Searching (`grep`, `find -name`) for what the issue suggests is honest; reading, editing or asserting a thing never seen is
not. Kinds of hits: path, identifier, line, verbatim, disclosure.
"""

import builtins
import keyword
import re
import sys
from dataclasses import dataclass, field
from functools import cached_property

from common.reply import Command, action_style, bash_blocks, split_commands, thought

AUDIT_VERSION = "1"  # raise it whenever the audit gets stricter: ch.py then audits stored replies again

_LINE_REACH = 100  # lines: paging on from what was seen, up to this far, is honest
_NEAR = 0.85  # share of a hidden line's token pairs that makes a reply line nearly that line
_MIN_LINE_CHARS, _MIN_LINE_TOKENS = 14, 4  # a shorter line (`else:`, `return None`) proves nothing
_VOCABULARY = {*keyword.kwlist, *dir(builtins), *dir(str), *dir(dict), *dir(list), *sys.stdlib_module_names}


def find_leaks(reply: str, messages: list[dict], pr: dict) -> list[dict]:
    """All hits as {"kind", "text", "why"}; an empty list means clean. Odd input is taken as empty text; raises nothing."""
    act, chat, record = _Act(_text(reply)), _Chat(messages or []), _Record(pr or {})
    hits = [*_path_leaks(act, chat, record), *_line_leaks(act, chat, record), *_verbatim_leaks(act, chat, record)]
    hits += _identifier_leaks(act, chat, record)
    hits += _disclosures(act, chat, record)
    unique = {(hit["kind"], hit["text"]): hit for hit in hits}
    return list(unique.values())


def _hit(kind: str, text: str, why: str) -> dict:
    return {"kind": kind, "text": text[:200], "why": why}


def _text(value) -> str:
    return value if isinstance(value, str) else ""


def _squeeze(text: str) -> str:
    """Text without whitespace and backslashes: the same for wrapped output, other indents and sed-escaped code."""
    return "".join(text.split()).replace("\\", "")


# ---- the three texts: what the reply does, what the chat showed, what the record hides ----

class _Act:
    """One reply: its prose, its commands, the files they name."""

    def __init__(self, reply: str):
        self.reply = reply
        self.style = action_style(reply)
        self.prose = thought(reply)
        self.commands = _commands(reply)

    @cached_property
    def squeezed(self) -> str:
        return _squeeze(self.reply)


class _Chat:
    """Everything the agent was shown: all messages, and each command with its output."""

    def __init__(self, messages: list):
        messages = [message for message in messages if isinstance(message, dict)]
        contents = [_text(message.get("content")) for message in messages]
        self.text = "\n".join(contents)
        first_answer = next((i for i, m in enumerate(messages) if m.get("role") == "assistant"), len(messages))
        self.task = "\n".join(contents[:first_answer])
        self.turns = [
            (_commands(contents[i]), contents[i + 1] if i + 1 < len(contents) else "")
            for i in range(first_answer, len(messages)) if messages[i].get("role") == "assistant"
        ]

    @cached_property
    def lower(self) -> str:
        return self.text.lower()

    @cached_property
    def squeezed(self) -> str:
        return _squeeze(self.text)

    @cached_property
    def task_names(self) -> list[list[str]]:
        """The names that the task speaks of (classes, functions, hyphenated words), each as its lower-case parts."""
        return [_parts(name) for name in set(re.findall(r"[A-Za-z_][\w-]{3,60}", self.task)) if not name.isdigit()]

    def shows_word(self, word: str) -> bool:
        return word in self.text and re.search(rf"(?<![\w]){re.escape(word)}(?![\w])", self.text) is not None


@dataclass
class _Hunk:
    path: str
    start: int  # first line in the old file
    end: int  # last line, of the longer of the two sides


@dataclass
class _Record:
    """A PR record, read from its patches."""

    pr: dict
    hunks: list[_Hunk] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)  # (sign, text): sign "+", "-" or " "

    def __post_init__(self):
        files = self.pr.get("files")
        self.paths = [path for path in files if isinstance(path, str)] if isinstance(files, list) else []
        path = ""
        for line in "\n".join((_text(self.pr.get("patch")), _text(self.pr.get("test_patch")))).splitlines():
            if header := re.match(r"(?:---|\+\+\+) (?:[ab]/)?(\S+)", line):
                path = header[1]
                if path != "/dev/null":
                    self.paths.append(path)
            elif numbers := re.match(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@(.*)", line):
                start, length = int(numbers[1]), max(int(numbers[2] or 1), int(numbers[3] or 1))
                self.hunks.append(_Hunk(path, start, start + length - 1))
                self.lines.append((" ", numbers[4]))
            elif line[:1] in ("+", "-", " ") and line[1:].strip():
                self.lines.append((line[0], line[1:]))
        self.paths = [path for path in dict.fromkeys(self.paths) if path.strip("/.")]


def _commands(reply: str) -> list[Command]:
    try:
        return [command for block in bash_blocks(reply) for command in split_commands(block)]
    except ValueError:
        return []


def _parts(name: str) -> list[str]:
    """`getHTTPUrl`, `get_http_url` and `get-http-url` alike -> ["get", "http", "url"]."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


# ---- path ----

def _path_leaks(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    hits = []
    for path in record.paths:
        mention = _mention(path, act.reply)
        if mention and not _path_seen(path, chat) and not _path_derivable(path, chat):
            hits.append(_hit("path", mention, "names a file that the chat never showed, listed or suggested"))
    return hits


def _mention(path: str, text: str) -> str:
    """The longest ending of `path` (at least its file name) that stands in the text as a path, else ''."""
    parts = path.split("/")
    if parts[-1] not in text:
        return ""
    for first in range(len(parts)):
        ending = "/".join(parts[first:])
        before = r"(?<![\w.-])" if first == 0 else r"(?<![\w./-])(?:\.?/)?"
        if ending in text and re.search(before + re.escape(ending) + r"(?![\w-])", text):
            return ending
    return ""


def _path_seen(path: str, chat: _Chat) -> bool:
    """Whether the chat showed this very file: written out, in a listing of its folder, or in a tree."""
    folder, _, name = path.rpartition("/")
    if name not in chat.text:
        return path in chat.squeezed
    seen = _mention(path, chat.text)
    if "/" in seen or seen and not folder:
        return True
    listed_name = re.compile(rf"(?:^|[\s─]){re.escape(name)}[*@]?(?=\s|$)", re.MULTILINE)
    section = re.search(rf"(?:^|[\s/]){re.escape(folder)}/?:\n((?:.+\n?)*)", chat.text)
    if section and listed_name.search(section[1]):
        return True
    for commands, output in chat.turns:
        if listed_name.search(output) and any(
            command.program in ("ls", "tree", "find", "dir", "cd", "git") and
            any(word.rstrip("/").endswith(folder) or folder.endswith(word.strip("./") or "\n") for word in command.argv[1:])
            for command in commands
        ):
            return True
    return False


def _path_derivable(path: str, chat: _Chat) -> bool:
    """Whether an honest engineer could name the file: by a module, an import, a class named in the task, or as a test."""
    folder, _, name = path.rpartition("/")
    stem = name.split(".")[0]
    parts = [part for part in f"{folder}/{stem}".split("/") if part and part != "__init__"]
    for first in range(max(len(parts) - 1, 0)):  # at least two parts: `astropy.modeling.separable`, `crate::net::tcp`
        for joint in (".", "::", "/"):
            module = joint.join(parts[first:])
            if module in chat.text and re.search(rf"(?<![\w]){re.escape(module)}(?![\w])", chat.text):
                return True
    if len(stem) < 3:
        return False
    near = parts[-2] if len(parts) > 1 else ""
    if (not near or near in chat.text) and re.search(
            rf"^\W*(?:from|import|use|mod|#include|require|export)\b[^\n]*(?<![\w]){re.escape(stem)}(?![\w])",
            chat.text, re.MULTILINE):
        return True
    core = re.sub(r"^tests?_|_tests?$|_spec$|\.spec$|\.test$|Tests?$", "", stem)
    if core != stem and re.search(rf"(?<![\w]){re.escape(core)}\.\w+(?![\w])", chat.text):
        return True
    wanted = "".join(_parts(core))
    for name_parts in chat.task_names:
        whole = "".join(name_parts)
        if len(wanted) > 3 and whole.startswith(wanted) and len(whole) - len(wanted) <= 2:
            return True
        if len(wanted) > 7 and near in chat.text and wanted in whole:
            return True
    return False


# ---- line ----

def _line_leaks(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    hits = []
    for named, first, last in _line_references(act):
        for hunk in record.hunks:
            if named and not _same_file(named, hunk.path):
                continue
            if last < hunk.start or first > hunk.end or first <= 1:
                continue
            if last - first > 250 or not named and first < 20:
                continue
            if not _lines_known(hunk.path, first, last, chat):
                shown = f"{first}" if first == last else f"{first}-{last}"
                hits.append(_hit("line", f"{named or 'line'}:{shown}", "points at lines that the chat never showed"))
                break
    return hits


def _same_file(named: str, path: str) -> bool:
    named = named.strip("./")
    return bool(named) and (path == named or path.endswith("/" + named) or named.endswith("/" + path))


_SED_RANGE = re.compile(r"(?:^|[;{\s])(\d+)(?:,\s*(\+?)(\d+|\$))?\s*!?[pdsaicqyn={]")


def _command_lines(commands: list[Command]) -> list[tuple[str, int, int]]:
    """(file, first, last) of each line range that a chain of commands addresses."""
    found, current, head = [], "", 0
    for command in commands:
        program, arguments = command.program, command.argv[1:]
        operands = [a for a in arguments if not a.startswith(("-", "+")) and not a.isdigit()]
        if program in ("cat", "nl", "head", "tail", "less", "sed", "awk", "git", "vim", "bat") and operands:
            is_script = program in ("sed", "awk") and len(operands) == 1
            current = current if is_script else operands[-1]
        current = next((target for operator, target in command.redirects if operator == "<"), current)
        joined = " ".join(arguments)
        if program == "sed":
            for script in operands:
                for match in _SED_RANGE.finditer(script):
                    first = int(match[1])
                    last = first if not match[3] else 10**9 if match[3] == "$" else int(match[3])
                    found.append((current, first, first + last if match[2] else last))
        elif program == "awk":
            numbers = [int(n) for n in re.findall(r"NR\s*[=<>]=?\s*(\d+)", joined)]
            if numbers:
                found.append((current, min(numbers), max(numbers)))
        elif program == "head" and (count := re.search(r"-n?\s*(\d+)", joined)):
            head = int(count[1])
            found.append((current, 1, head))
        elif program == "tail" and (count := re.search(r"-n\s*\+(\d+)", joined)):
            found.append((current, int(count[1]), int(count[1]) + 50))
        elif program == "tail" and head and (count := re.search(r"-n?\s*(\d+)", joined)):
            found.append((current, max(head - int(count[1]) + 1, 1), head))
        elif program == "git" and (span := re.search(r"-L\s*(\d+),\+?(\d+)", joined)):
            found.append((current, int(span[1]), int(span[2])))
        elif program in ("cat", "nl", "less", "bat"):
            found.append((current, 1, 10**9))
    return found


_PROSE_LINE = re.compile(
    r"(?:([\w./-]+\.\w+)[`'\"]?(?::|#L|,? (?:at |on |around )?lines? ))?(?:\blines?[ #~]*|#L|(?<=:)|\bL)(\d{1,6})"
    r"(?:\s*(?:-|–|to|and|through)\s*(?:line |L)?(\d{1,6}))?\b", re.IGNORECASE)


def _line_references(act: _Act) -> list[tuple[str, int, int]]:
    found = [(f, first, last) for f, first, last in _command_lines(act.commands) if f and first > 1]
    for match in _PROSE_LINE.finditer(act.prose):
        first = int(match[2])
        found.append((match[1] or "", first, max(int(match[3] or first), first)))
    return found


def _lines_known(path: str, first: int, last: int, chat: _Chat) -> bool:
    """Whether the chat showed lines of the file near enough to these numbers."""
    name = path.rsplit("/", 1)[-1]
    if name not in chat.text:
        return False
    spans = []
    for commands, output in chat.turns:
        files = [word for command in commands for word in [*command.argv[1:], *command.written_files]]
        if not any(_same_file(word, path) for word in files):
            continue
        if any(_same_file(word, path) for command in commands for word in command.written_files):
            return True
        shown = [(low, high) for f, low, high in _command_lines(commands) if _same_file(f, path)]
        whole = [span for span in shown if span == (1, 10**9)]
        parts = [span for span in shown if span not in whole]
        spans += parts or whole
        spans += [(int(n), int(n)) for n in re.findall(r"^\s*(\d+)[:\t-]", output, re.MULTILINE)]
    numbers = re.findall(rf"{re.escape(name)}[`'\"]*(?:,? line |:|#L|\S{{0,3}} \(?lines? )(\d+)", chat.text)
    numbers += re.findall(r"(?:\blines? |#L|\brow )(\d+)", chat.text)
    spans += [(int(n), int(n)) for n in numbers]
    return any(low - _LINE_REACH <= last and first <= high + _LINE_REACH for low, high in spans)


# ---- verbatim ----

def _verbatim_leaks(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    hits, wanted = [], {}
    for _, line in record.lines:
        squeezed = _squeeze(line)
        tokens = _tokens(line)
        if len(squeezed) < _MIN_LINE_CHARS or len(tokens) < _MIN_LINE_TOKENS or squeezed in chat.squeezed:
            continue
        if squeezed in act.squeezed:
            hits.append(_hit("verbatim", line.strip(), "a line of the hidden patch that the chat never showed"))
        else:
            wanted[squeezed] = (line, set(zip(tokens, tokens[1:])))
    if not wanted:
        return hits
    for reply_line in act.reply.splitlines():
        tokens = _tokens(reply_line)
        pairs = set(zip(tokens, tokens[1:]))
        if len(pairs) < _MIN_LINE_TOKENS:
            continue
        if _squeeze(reply_line) in chat.squeezed:
            continue
        for line, hidden_pairs in wanted.values():
            if len(hidden_pairs) > 5 and len(hidden_pairs & pairs) >= _NEAR * len(hidden_pairs):
                hits.append(_hit("verbatim", line.strip(), "nearly a line of the hidden patch that the chat never showed"))
    return hits


def _tokens(line: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s\\]", line)


# ---- identifier ----

def _identifier_leaks(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    text = "\n".join(line for _, line in record.lines)
    hidden = {name for name in re.findall(r"[A-Za-z_$][\w$]{3,80}", text) if _distinctive(name)}
    hidden |= set(re.findall(r"(?<![\w-])--[a-z][\w-]{2,40}", text))
    spoken = set(re.findall(r"[A-Za-z_$][\w$]{3,80}|(?<![\w-])--[a-z][\w-]{2,40}", act.reply))
    hits = []
    for name in sorted(hidden & spoken):
        if chat.shows_word(name) or name in chat.squeezed and len(name) > 8:
            continue
        if _natural(name, act, chat):
            continue
        hits.append(_hit("identifier", name, "a name from the hidden patch that the chat never showed"))
    for literal in set(re.findall(r"\"([^\"\n]{8,90})\"|'([^'\n]{8,90})'", text)):
        literal = "".join(literal)
        squeezed = _squeeze(literal)
        if len(squeezed) > 7 and squeezed in act.squeezed and squeezed not in chat.squeezed and re.search("[A-Za-z]{3}", literal):
            hits.append(_hit("identifier", literal, "a text from the hidden patch that the chat never showed"))
    return hits


def _distinctive(name: str) -> bool:
    """Plain words and the language's own vocabulary prove nothing; names of several parts do."""
    return name not in _VOCABULARY and len(_parts(name)) > 1


def _natural(name: str, act: _Act, chat: _Chat) -> bool:
    """A name that the agent may well have made up: its parts are in the chat, and the reply writes code or searches."""
    if act.style in ("edit", "run"):
        return all(part in chat.lower for part in _parts(name))
    return act.style == "search" and all(part in chat.task.lower() for part in _parts(name))


# ---- disclosure ----

_DISCLOSURE = re.compile(
    r"reference (?:solution|fix|patch)|(?:hidden|gold(?:en)?) (?:patch|fix|record|information)|merged (?:fix|PR|patch)", re.I)


def _disclosures(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    return [_hit("disclosure", match[0], "speaks of something outside the visible chat")
            for match in _DISCLOSURE.finditer(act.prose) if match[0].lower() not in chat.lower]
