"""The leak audit: what a reply refers to that the hidden PR record holds and the visible chat could not have given.

`find_leaks(reply, messages, pr)` is deterministic, calls no model and takes milliseconds. It starts from what the reply
and the record share, and asks of each such thing whether the chat shows it, lists it, or lets an honest engineer derive
it. Searching (`grep`, `find -name`) for what the issue suggests is honest; reading, editing or asserting a thing never
seen is not. Kinds of hits: path, identifier, line, verbatim, disclosure.
"""

import builtins
import keyword
import re
import sys
from functools import cached_property

from common.reply import Command, action_style, bash_blocks, split_commands, thought

AUDIT_VERSION = "1"  # raise it whenever the audit gets stricter: ch.py then audits stored replies again

# Tuned on real turns of some repositories, checked on others (tests/bench_leaks.py prints the figures).
_LINE_REACH = 100  # lines: to page on from what was seen, up to this far, is honest
_STATED_REACH = 30  # lines: the same from a number that the chat states, as tracebacks, links and `grep -rn` do
_MIN_LOOSE_LINE = 12  # prompts speak of "line 1" and "lines 1-10" in their examples, of no file
_PAGE = 40  # lines: a view this wide of a file that was seen in part is paging, not aiming
_WIDE_VIEW = 250  # lines: a wider view aims at no line
_MIN_LINE_CHARS, _MIN_LINE_TOKENS = 12, 3  # a shorter line (`else:`, `return None`) proves nothing
_NEAR, _MIN_NEAR_TOKENS = 0.6, 6  # share of a hidden line's token pairs that makes a reply's line nearly that line
# Words of the language itself, which no reply needs to have been shown.
_VOCABULARY = {*keyword.kwlist, *dir(builtins), *dir(str), *dir(dict), *dir(list), *sys.stdlib_module_names}


def find_leaks(reply: str, messages: list[dict], pr: dict) -> list[dict]:
    """All hits as {"kind", "text", "why"}; an empty list means clean. Odd input counts as empty text; raises nothing.

    `messages` is the chat up to the turn, `pr` a record as in commit/<instance_id>.json.
    """
    act, chat, record = _Act(_text(reply)), _Chat(messages), _Record(pr)
    finders = (_path_leaks, _identifier_leaks, _line_leaks, _verbatim_leaks, _disclosures)
    hits = {(hit["kind"], hit["text"]): hit for finder in finders for hit in finder(act, chat, record)}
    return list(hits.values())


def _hit(kind: str, text: str, why: str) -> dict:
    return {"kind": kind, "text": text[:200], "why": why}


def _text(value) -> str:
    return value if isinstance(value, str) else ""


def _squeeze(text: str) -> str:
    """Text without whitespace and backslashes: the same for wrapped output, other indents and sed-escaped code."""
    return "".join(text.split()).replace("\\", "")


def _parts(name: str) -> list[str]:
    """`getHTTPUrl`, `get_http_url` and `get-http-url` alike -> ["get", "http", "url"]."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def _commands(reply: str) -> list[Command]:
    try:
        return [command for block in bash_blocks(reply) for command in split_commands(block)]
    except ValueError:
        return []


# ---- the three texts: what the reply does, what the chat showed, what the record hides ----

class _Act:
    """One reply: its prose, its command, and the code that it writes."""

    def __init__(self, reply: str):
        self.reply, self.style, self.commands = reply, action_style(reply), _commands(reply)
        self.prose = thought(reply)
        self.script = "\n".join(bash_blocks(reply))
        self.squeezed = _squeeze(reply)

    @cached_property
    def written(self) -> str:
        """Code that the reply proposes (other fenced blocks) or puts into files and interpreters."""
        proposed = "\n".join(re.findall(r"```\w*\n(.*?)```", self.prose, re.DOTALL))
        return proposed + (self.script if self.style in ("edit", "run") else "")


class _Chat:
    """Everything the agent was shown: all messages, and each command with its output."""

    def __init__(self, messages):
        messages = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
        contents = [_text(message.get("content")) for message in messages]
        answers = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
        self.text = "\n".join(contents)
        self.task = "\n".join(contents[:answers[0]] if answers else contents)
        self._exchanges = [(contents[i], contents[i + 1] if i + 1 < len(contents) else "") for i in answers]

    @cached_property
    def turns(self) -> list[tuple[list[Command], str]]:
        return [(_commands(answer), output) for answer, output in self._exchanges]

    @cached_property
    def lower(self) -> str:
        return self.text.lower()

    @cached_property
    def squeezed(self) -> str:
        return _squeeze(self.text)

    @cached_property
    def task_names(self) -> set[str]:
        """The names that the task speaks of (classes, functions, hyphenated words), in lower case without separators."""
        return {"".join(_parts(name)) for name in re.findall(r"[A-Za-z_][\w-]{3,60}", self.task)}

    @cached_property
    def stated_lines(self) -> list[tuple[str, int, int]]:
        """(file or '', first, last) of each line number that the chat states: tracebacks, links, `grep -rn`, prose.

        Without a file only those of the task count: the agent's own words come from what it was shown.
        """
        stated = [match for match in _LINE_NUMBER.findall(self.text) if match[0]]
        stated += [match for match in _LINE_NUMBER.findall(self.task) if not match[0]]
        return [(named, int(first), int(last or first)) for named, first, last in stated]

    def shows_word(self, word: str) -> bool:
        return word in self.text and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", self.text) is not None

    def speaks_of(self, name: str) -> bool:
        return name.lower().strip("_") in self.lower


class _Hunk:
    def __init__(self, path: str, old_start: int, old_length: int, new_start: int, new_length: int):
        self.path, self.start = path, min(old_start, new_start)
        self.ends = {old_start + old_length - 1, new_start + new_length - 1}
        self.end = max(self.ends)


class _Record:
    """A PR record: the paths, hunks and lines of its patches."""

    def __init__(self, pr):
        pr = pr if isinstance(pr, dict) else {}
        files = pr.get("files")
        self.paths = [path for path in files if isinstance(path, str)] if isinstance(files, list) else []
        self.hunks, self.lines, path = [], [], ""
        self.patch = "\n".join((_text(pr.get("patch")), _text(pr.get("test_patch"))))
        for line in self.patch.splitlines():
            if header := re.match(r"(?:---|\+\+\+) (?:[ab]/)?(\S+)", line):
                path = header[1]
                self.paths.append(path)
            elif numbers := re.match(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@(.*)", line):
                self.hunks.append(_Hunk(path, *(int(number or 1) for number in numbers.groups()[:4])))
                self.lines.append(numbers[5])
            elif line[:1] in ("+", "-", " ") and line[1:].strip():
                self.lines.append(line[1:])
        self.paths = [path for path in dict.fromkeys(self.paths) if path.strip("/.") and path != "/dev/null"]
        number = re.search(r"-(\d+)$", _text(pr.get("instance_id")))
        self.pr_number = number[1] if number else ""
        self.repo = _text(pr.get("repo")).lower()
        self.commit = _text(pr.get("base_commit"))


# ---- path ----

# A guess that is said as a guess: "probably in", "I suspect", "or similar". Only prose is excused by it, never a command.
_HEDGE = re.compile(r"\b(?:might|may|maybe|perhaps|probabl[ey]|likely|suspect|guess|could|or similar|or wherever|typically"
                    r"|usually|if it exists)\b", re.IGNORECASE)


def _path_leaks(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    hits = []
    for path in record.paths:
        mention = _mention(path, act.reply)
        if not mention or _path_seen(path, chat) or _path_derivable(path, chat):
            continue
        if "/" not in mention and chat.speaks_of(path.rsplit("/", 1)[-1].split(".")[0]):
            continue  # a bare `options.py` where the chat speaks of options
        if act.style in ("look", "search") and _has_ground(path, chat):
            continue  # `ls`, `find`, `grep` for what the chat suggests
        guessed = not _mention(path, act.script) and _hedged(mention, act.prose)
        if guessed and ("/" not in mention or _has_ground(path, chat)):
            continue
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


def _has_ground(path: str, chat: _Chat) -> bool:
    """Whether the chat speaks of the file's folder and of its name, at least as words."""
    *folders, name = path.split("/")
    return chat.speaks_of(name.split(".")[0]) and (not folders or folders[-1] in chat.text)


def _hedged(name: str, prose: str) -> bool:
    """Whether every sentence that names it says that it is a guess."""
    return all(_HEDGE.search(sentence) for sentence in re.split(r"\n|(?<=[.!?])\s", prose) if name in sentence)


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
        words = [word.strip("./") for command in commands if command.program in _LISTING for word in command.argv[1:]]
        if any(word and _same_file(word, folder) or folder.startswith(word + "/") for word in words) or words and "tree" in words:
            if listed_name.search(output):
                return True
    return False


_LISTING = {"ls", "tree", "find", "fd", "cd", "git"}


def _path_derivable(path: str, chat: _Chat) -> bool:
    """Whether an honest engineer could name the file: by a module, an import, a class named in the task, or as a test."""
    folder, _, name = path.rpartition("/")
    stem = name.split(".")[0]
    parts = [part for part in f"{folder}/{stem}".split("/") if part and part != "__init__"]
    for first in range(max(len(parts) - 1, 0)):  # at least two parts: `astropy.modeling.separable`, `net::tcp`, `./net/tcp`
        if any(chat.shows_word(joint.join(parts[first:])) for joint in (".", "::", "/")):
            return True
    near = parts[-2] if len(parts) > 1 else ""
    near_seen = not near or near in chat.text
    import_line = rf"^\W*(?:from|import|use|mod|#include|require|export)\b[^\n]*(?<!\w){re.escape(stem)}(?!\w)"
    if near_seen and stem in chat.text and re.search(import_line, chat.text, re.MULTILINE):
        return True
    core = re.sub(r"^tests?_|_tests?$|_spec$|Tests?$", "", stem)
    if core != stem and re.search(rf"(?<!\w){re.escape(core)}\.\w+(?!\w)", chat.text):
        return True  # the test of a file that was seen
    wanted = "".join(_parts(core))
    for whole in chat.task_names:  # `Engine` -> engine.py, `Auto-reloader` -> autoreload.py, `MultiOutputClassifier` -> multioutput.py
        if len(wanted) > 3 and whole.startswith(wanted) and len(whole) - len(wanted) <= 2:
            return True
        if len(wanted) > 7 and near_seen and wanted in whole:
            return True
    return False


# ---- line ----

def _line_leaks(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    hits = []
    for named, first, last in _line_references(act):
        for hunk in record.hunks:
            if named and not _same_file(named, hunk.path) or last < hunk.start or first > hunk.end:
                continue
            whole_view = last - first > _WIDE_VIEW or first <= 1 and last not in hunk.ends
            if whole_view or not named and first < 10 or _lines_known(hunk.path, first, last, chat):
                continue
            shown = f"{first}" if first == last else f"{first}-{last}"
            hits.append(_hit("line", f"{named or 'line'}:{shown}", "points at lines that the chat never showed"))
            break
    return hits


def _same_file(named: str, path: str) -> bool:
    """Whether two paths can be one file: `forms/models.py`, `/testbed/django/forms/models.py`, `django/forms/models.py`."""
    named = named.lstrip("./")
    return bool(named) and (path == named or path.endswith("/" + named) or named.endswith("/" + path))


_SED_ADDRESS = re.compile(r"(?:^|[;{\s])(\d+)(?:,\s*(\+?)(\d+|\$))?\s*!?[pdsaicqyn={]")
_SHOWS_FILE = {"cat", "nl", "head", "tail", "less", "more", "sed", "awk", "git", "vim", "vi", "bat"}
_TO_THE_END = 10**9


def _addressed_lines(commands: list[Command]) -> list[tuple[str, int, int]]:
    """(file, first, last) of each line range that a chain of commands addresses: sed, awk, head, tail, cat, git -L."""
    found, file, head_end = [], "", 0
    for command in commands:
        program, arguments = command.program, command.argv[1:]
        operands = [a for a in arguments if not a.startswith(("-", "+")) and not a.isdigit()]
        if program in _SHOWS_FILE and len(operands) > (program in ("sed", "awk")):
            file = operands[-1]
        file = next((target for operator, target in command.redirects if operator == "<"), file)
        joined = " ".join(arguments)
        spans = []
        if program == "sed":
            for first, plus, last in (match for script in operands for match in _SED_ADDRESS.findall(script)):
                end = int(first) if not last else _TO_THE_END if last == "$" else int(last)
                spans.append((int(first), int(first) + end if plus else end))
        elif program == "awk" and (numbers := [int(n) for n in re.findall(r"NR\s*[=<>]=?\s*(\d{1,9})", joined)]):
            spans.append((min(numbers), max(numbers)))
        elif program == "head":
            count = re.search(r"-n?\s*(\d{1,9})", joined)
            head_end = int(count[1]) if count else 10
            spans.append((1, head_end))
        elif program == "tail" and (count := re.search(r"-n?\s*(\+?)(\d{1,9})", joined)):
            if count[1]:
                spans.append((int(count[2]), int(count[2]) + 20))
            elif head_end:
                spans.append((max(head_end - int(count[2]) + 1, 1), head_end))
        elif program == "git" and (span := re.search(r"-L\s*(\d{1,9}),(\d{1,9})", joined)):
            spans.append((int(span[1]), int(span[2])))
        elif program in ("cat", "nl", "less", "more", "bat"):
            spans.append((1, _TO_THE_END))
        elif program in ("vim", "vi") and (span := re.search(r"\+(\d{1,9})", joined)):
            spans.append((int(span[1]), int(span[1])))
        found += [(file, first, last) for first, last in spans]
    return found


_LINE_NUMBER = re.compile(
    r"(?:([\w./-]+\.\w+)[`'\"*]*(?:,? (?:at|on|around|near))?[ ,(:]*)?"
    r"(?:\b(?:lines?|row|ln)[ #~.]*|#L|\bL|(?<=\w:))(\d{1,7})\b(?:\s?(?:-|–|—|:|,|to|and|through|until)\s?(?:lines? |L)?(\d{1,7})\b)?",
    re.IGNORECASE)


def _line_references(act: _Act) -> list[tuple[str, int, int]]:
    """(file or '', first, last) of every line that the reply points at, by command or in prose."""
    found = [span for span in _addressed_lines(act.commands) if span[0]]
    files = re.findall(r"[\w./-]+\.\w{1,5}\b", act.prose)
    for named, first, last in _LINE_NUMBER.findall(act.reply):
        span = (int(first), max(int(last or first), int(first)))
        found += [(file, *span) for file in ([named] if named else set(files) or [""])]
    return found


def _lines_known(path: str, first: int, last: int, chat: _Chat) -> bool:
    """Whether the chat showed lines of the file near enough to these numbers."""
    name = path.rsplit("/", 1)[-1]
    spans = []
    for commands, output in chat.turns:
        if not any(_same_file(word, path) for command in commands for word in [*command.argv[1:], *command.written_files]):
            continue
        if any(_same_file(word, path) for command in commands for word in command.written_files):
            return True
        shown = [(low, high) for file, low, high in _addressed_lines(commands) if _same_file(file, path)]
        spans += [span for span in shown if span != (1, _TO_THE_END)] or shown
        spans += [(int(number), int(number)) for number in re.findall(r"^\s*(\d{1,7})[:\t-]", output, re.MULTILINE)]
    if any(low - _LINE_REACH <= last and first <= high + _LINE_REACH for low, high in spans):
        return True
    if spans and last - first >= _PAGE:
        return True
    stated = [(low, high) for named, low, high in chat.stated_lines
              if (_same_file(named, path) if named else low >= _MIN_LOOSE_LINE)]
    return any(low - _STATED_REACH <= last and first <= high + _STATED_REACH for low, high in stated)


# ---- verbatim ----

def _verbatim_leaks(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    hits, nearly = [], []
    for line in dict.fromkeys(record.lines):
        squeezed, tokens = _squeeze(line), _TOKEN.findall(line)
        if len(squeezed) < _MIN_LINE_CHARS or len(tokens) < _MIN_LINE_TOKENS or squeezed in chat.squeezed:
            continue
        if squeezed in act.squeezed:
            hits.append(_hit("verbatim", line.strip(), "a line of the hidden patch that the chat never showed"))
        elif len(tokens) > _MIN_NEAR_TOKENS:
            nearly.append((line, _pairs(tokens)))
    for reply_line in act.reply.splitlines() if nearly else ():
        pairs = _pairs(_TOKEN.findall(reply_line))
        if len(pairs) < _MIN_NEAR_TOKENS // 2 or _squeeze(reply_line) in chat.squeezed:
            continue
        for line, hidden in nearly:
            if len(hidden & pairs) < _NEAR * len(hidden):
                continue
            novel = {pair for pair in hidden if "".join(pair) not in chat.squeezed}
            if novel and len(novel & pairs) >= len(novel) / 2:
                hits.append(_hit("verbatim", line.strip(), "nearly a line of the hidden patch that the chat never showed"))
    return hits


_TOKEN = re.compile(r"\w+|[^\w\s\\]")


def _pairs(tokens: list[str]) -> set[tuple[str, str]]:
    """Neighbouring tokens; quote marks count for nothing."""
    tokens = [token for token in tokens if token not in "'\"`"]
    return set(zip(tokens, tokens[1:]))


# ---- identifier ----

_NAME = re.compile(r"(?<![\w$-])--[a-z][\w-]{2,40}|[A-Za-z_$][\w$]{3,80}")
_MARKED_NAME = re.compile(r"`[\w.]*?(\w+)(?:\(\))?`|\.?(\w+)\(")
_GLUE = ("get", "set", "is", "has", "add", "remove", "on", "test", "with", "to")
_STRING = re.compile(r"\"([^\"\n]{6,120})\"|'([^'\n]{6,120})'|`([^`\n]{6,120})`")


def _identifier_leaks(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    text = "\n".join(record.lines)
    marked = {name for match in _MARKED_NAME.findall(act.reply) for name in match}
    hits = []
    for name in sorted(set(_NAME.findall(text)) & set(_NAME.findall(act.reply))):
        if name in _VOCABULARY or name.lower() in record.repo or chat.shows_word(name) or len(name) > 8 and name in chat.squeezed:
            continue
        plain_word = len(_parts(name)) < 2 and not (name in marked and len(name) > 6)
        if not plain_word and not _natural(name, act, chat):
            hits.append(_hit("identifier", name, "a name from the hidden patch that the chat never showed"))
    for literal in {"".join(groups) for groups in _STRING.findall(text)}:
        squeezed = _squeeze(literal)
        if len(re.findall(r"[A-Za-z]{2,}", literal)) > 1 and squeezed in act.squeezed and squeezed not in chat.squeezed:
            hits.append(_hit("identifier", literal, "a text from the hidden patch that the chat never showed"))
    return hits


def _natural(name: str, act: _Act, chat: _Chat) -> bool:
    """Whether the agent may have made the name up: it is a seen name with another `get_` or `set_`, or the reply's own code
    defines it, of parts that the chat knows."""
    first, *rest = _parts(name) or [""]
    if first in _GLUE and len("".join(rest)) > 7 and any(glue + "".join(rest) in chat.task_names for glue in ("", *_GLUE)):
        return True
    word = re.escape(name)
    defined = (rf"\b(?:def|class|func|fn|function|let|const|var|val|type|struct|enum|interface|as|for)\s+(?:\([^)\n]*\)\s*)?{word}\b"
               rf"|(?<!\w){word}\s*(?::[^=\n]{{1,60}})?(?::?=)(?!=)")
    return name in act.written and re.search(defined, act.written) is not None and all(p in chat.lower for p in _parts(name))


# ---- disclosure ----

_HIDDEN = r"(?:hidden|secret|gold(?:en)?|reference|ground[- ]truth|oracle|merged|accepted|privileged|leaked|upstream|official|canonical)"
_WORK = r"(?:patch|fix|diff|solution|PR|pull[- ]request|merge[- ]request|commit|change(?:s|set)?|answer)"
_SHOWS = (r"(?:shows?|does|did|says?|adds?|added|changes?|changed|modif(?:y|ies|ied)|touche[sd]|edits|edited|introduce[sd]?"
          r"|replace[sd]?|rename[sd]?|remove[sd]?|moves|moved|fixes|fixed|implements|implemented|reveals?|contains?|tells?|uses|used)")
# Each: (pattern, whether the chat may speak so itself and thereby excuse it).
_DISCLOSURES = [re.compile(pattern, re.IGNORECASE) for pattern in (
    rf"\b{_HIDDEN} (?:\w+ )?{_WORK}\b",
    rf"\b(?:hidden|secret|privileged|inside) (?:PR |pull[- ]request )?(?:information|info|knowledge|record|context|details?|hints?|data)\b",
    rf"\bhidden tests? (?:expects?|checks?|requires?|verif\w+|asserts?|calls?|wants?|needs?|uses?)\b",
    rf"\bthe (?:patch|diff|pull[- ]request|merge[- ]request|record) {_SHOWS}\b",
    rf"\b(?:according to|as per|per|based on|following|given|from|in|like|matching|mirrors?|follows?|by|see|with|to) the "
    rf"(?:(?:provided|given|known|actual|original|real|final|eventual|correct|full) )?(?:patch|diff|record)\b(?! (?:file|script|command|method|function|object))",
    rf"\b(?:actual|real|true|original|eventual|final|corresponding|associated|linked) (?:PR|pull[- ]request|merge[- ]request)\b(?! description)",
    rf"\bthe PR (?:#?\d+ )?{_SHOWS}\b(?<!says)(?<!uses)|\b(?:the|this|that) PR(?:'s|’s)? (?:diff|patch|changes|changeset|commits?|fix|record|number|title|branch|solution)\b",
    rf"\b(?:provided|eventual|landed|committed|shipped) (?:patch|fix|diff|PR|pull[- ]request)\b|\bknown (?:fix|patch|solution)\b",
    rf"\b(?:fix|patch|change|PR|pull[- ]request|solution)\b[^.\n]{{0,30}}\b(?:was|were|got|been|is|has|later|eventually|already|that) (?:\w+ )?(?:merged|landed|upstreamed|accepted)\b",
    rf"\b(?:fixed|resolved|merged|landed|done|solved|addressed|changed|patched|handled|implemented) (?:in |by )?upstream\b|\bupstream (?:\w+ )?(?:fixe[sd]|patched|resolved|changed|solved|merged|did|does)\b",
    rf"\bmaintainers? (?:\w+ )?(?:merged|fixed|landed|accepted|committed|ended up|resolved|changed|solved|shipped)\b",
    rf"\bsolution (?:patch|diff|record)\b|\btest[_ ]patch\b|\bFAIL_TO_PASS\b|\bPASS_TO_PASS\b|\banswer key\b|\bPR record\b",
    rf"\bI (?:was|am|have been|'ve been|’ve been) (?:given|told|shown|provided) (?:with )?the (?:\w+ )?(?:{_WORK}|record)\b",
    rf"\bI(?: have|'ve|’ve)? (?:already )?(?:know|knew|saw|seen|have|had|can see|have access to) (?:from |in |that )?the (?:\w+ )?(?:patch|fix|diff|solution|PR|answer|record)\b(?! description)",
    rf"\b(?:without|not|n't|avoid) (?:reveal|disclos|let(?:ting)? on|leak|giv(?:e|ing) away|mention)\w* (?:\w+ ){{0,3}}(?:knowledge|hidden|patch|PR|fix|solution|record|answer|source)\b",
    rf"\b(?:act|pretend|behave)(?:ing)? (?:as if|as though|like|that|not to|to not)[^.\n]{{0,40}}\b(?:know|knew|seen|blind|honest|hidden|patch|fix|solution)\w*",
)]
# Every pattern above holds one of these words: they tell cheaply which sentences to look at.
_TELLING = ("patch", "fix", "diff", "solution", "pr", "pull", "merge", "commit", "change", "answer", "record", "hidden", "secret",
            "privileged", "inside", "upstream", "maintainer", "_to_pass", "know", "act", "behav")
_PR_WORD = re.compile(r"\b(?:PRs?|pull[- ]requests?|merge[- ]requests?)\b")
_PR_NUMBER = re.compile(
    r"\b(?:PRs?|pull(?:[- ]request)?s?|merge[- ]requests?|MR|GH|ticket|issue|bug|fix(?:es|ed)?|close[sd]?)[ \-/#:]{0,3}(?:no\. ?|number )?#?(\d{2,7})\b"
    r"|(?<![\w&])#(\d{2,7})\b", re.IGNORECASE)
_COMMIT = re.compile(r"(?:\b(?:commit|sha|revision|rev|changeset|hash)\b[ :`'\"(]{1,3}([0-9a-f]{7,40})\b)|\b([0-9a-f]{7,40})\b", re.IGNORECASE)


def _disclosures(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    sentences = [" ".join(sentence.split()) for sentence in re.split(r"(?<=[.!?])\s|\n\s*\n|```", act.reply)]
    telling = [sentence for sentence in sentences if any(word in sentence.lower() for word in _TELLING)]
    found = [match[0] for sentence in telling for pattern in _DISCLOSURES for match in pattern.finditer(sentence)]
    if not _PR_WORD.search(chat.text):
        found += _PR_WORD.findall(act.reply)
    for match in _PR_NUMBER.finditer(act.reply):
        number = match[1] or match[2]
        is_pr = re.match(r"PR|pull|merge|MR|GH", match[0], re.IGNORECASE) or number == record.pr_number
        if is_pr and not chat.shows_word(number):
            found.append(match[0])
    for named, bare in _COMMIT.findall(act.reply):
        digits = named or bare
        if (named or digits in record.patch or record.commit.startswith(digits)) and digits not in chat.text:
            if re.search(r"\d", digits) and not digits.isdigit():
                found.append(digits)
    return [_hit("disclosure", text, "speaks of a source outside the visible chat")
            for text in found if text.lower() not in chat.lower]
