"""The leak audit: what a reply refers to that the hidden PR record holds and the chat could not have given.

`find_leaks(reply, messages, pr)` is deterministic, calls no model and takes milliseconds. It starts from what
the reply and the record share, and asks of each such thing whether the chat shows it, lists it, or lets an
honest engineer derive it. Searching (`grep`, `find -name`) for what the issue suggests is honest; reading,
editing or asserting a thing never seen is not. Kinds of hits: path, identifier, line, verbatim, disclosure.
"""

import importlib
import keyword
import re
import sys
import unittest
from functools import cached_property, lru_cache

from common.replies.disclosure import outside_sources
from common.replies.protocol import action_style, bash_blocks, thought
from common.replies.shell import Command, split_commands
from common.replies.views import TO_THE_END, addressed_lines

AUDIT_VERSION = "2"  # raise it whenever the audit gets stricter: ch.py then audits stored replies again

# Tuned on real turns of some repositories, checked on others; tests/bench_leaks.py prints the figures.
_LINE_REACH = 100  # lines: to page on from what was seen, up to this far, is honest
_STATED_REACH = 30  # lines: the same from a number that the chat states: tracebacks, links, `grep -rn`
_MIN_LOOSE_LINE = 12  # prompts speak of "line 1" and "lines 1-10" in their examples, of no file
_PAGE = 40  # lines: a view this wide of a file that was seen in part is paging, not aiming
_WIDE_VIEW = 250  # lines: a wider view aims at no line, even in a file never seen
_MIN_LINE_CHARS, _MIN_LINE_TOKENS = 12, 3  # a shorter line (`else:`, `return None`) proves nothing
_NEAR, _MIN_NEAR_PAIRS = 0.6, 5  # share of a hidden line's token pairs that makes a line nearly that line

# Words that prove nothing: of the languages, of Python's standard library, and the flags of everyday tools.
_LANGUAGE = {*keyword.kwlist, *"""
    self cls args kwargs numpy pandas pytest __init__ __name__ __main__ __future__ annotations super int str
    bool float nil err null undefined this void public private protected static final const func struct impl
    mut pub std boolean HashMap HashSet ArrayList StringBuilder toString hashCode equals println printf
    sprintf Sprintf Errorf Println forEach indexOf hasOwnProperty parseInt parseFloat addEventListener
    querySelector useState useEffect beforeEach unwrap_or unwrap_or_else to_string as_str into_iter size_t
    uint8_t uint32_t uint64_t int32_t int64_t nullptr push_back static_cast const_cast make_shared make_unique
    float32 float64 int32 int64 uint8 python2
    python3""".split()}
_LIBRARY = ("base64", "builtins", "collections", "datetime", "functools", "itertools", "json", "os",
            "os.path", "pathlib", "re", "sys", "typing", "unittest")
_FLAGS = {f"--{flag}" for flag in """
    all cached check color config debug dry-run exclude exclude-dir features file fix follow force format help
    include json level line-number log max-count name name-only no-color no-pager oneline output path patch
    quiet recursive release stat staged test timeout type upgrade user verbose version watch write""".split()}
# Of the browser, Node and React; Go's, Rust's, Java's and C++'s standard libraries.
_API = """
    setTimeout clearTimeout setInterval clearInterval requestAnimationFrame queueMicrotask AbortController
    AbortSignal preventDefault stopPropagation className classList onChange onClick onSubmit useMemo
    useCallback useRef useContext useReducer useLayoutEffect createContext createElement appendChild
    getElementById querySelectorAll removeEventListener dispatchEvent innerHTML textContent innerText
    localStorage sessionStorage encodeURIComponent decodeURIComponent toLowerCase toUpperCase startsWith
    endsWith charCodeAt replaceAll padStart trimEnd isArray fromEntries defineProperty getOwnPropertyNames
    instanceof typeof readonly readFileSync writeFileSync existsSync toEqual toThrow toHaveBeenCalled
    afterEach beforeAll afterAll Promise
    WithTimeout WithCancel WithValue WithDeadline WaitGroup RWMutex RLock RUnlock HasPrefix HasSuffix
    TrimSpace TrimPrefix TrimSuffix ReadAll ReadFile WriteFile NewReader NewWriter NewDecoder NewEncoder
    MarshalJSON UnmarshalJSON StatusOK StatusBadRequest DeadlineExceeded ListenAndServe HandlerFunc
    ResponseWriter Fprintf Fatalf Printf NewRequest ToLower ToUpper ReplaceAll TypeOf ValueOf DeepEqual
    unwrap_or_default and_then or_else map_err ok_or ok_or_else as_ref as_mut to_owned to_vec len_utf8
    char_indices from_utf8 from_str try_from try_into from_iter filter_map flat_map is_empty is_some
    is_none is_ok is_err BTreeMap BTreeSet VecDeque RefCell RwLock PhantomData saturating_sub
    saturating_add checked_add checked_sub wrapping_add assert_eq assert_ne debug_assert writeln eprintln
    usize isize with_capacity
    NullPointerException IllegalArgumentException IllegalStateException UnsupportedOperationException
    IOException RuntimeException isEmpty isPresent getClass getName getOrDefault computeIfAbsent
    putIfAbsent containsKey entrySet keySet InputStream OutputStream BufferedReader InputStreamReader
    AutoCloseable CompletableFuture ConcurrentHashMap LinkedHashMap LinkedList StandardCharsets instanceOf
    compareTo assertEquals assertThrows assertTrue assertFalse assertNull assertNotNull valueOf
    unique_ptr shared_ptr weak_ptr emplace_back string_view lock_guard unique_lock unordered_map
    unordered_set reinterpret_cast dynamic_cast ostringstream stringstream is_same_v enable_if_t
    numeric_limits make_pair runtime_error invalid_argument out_of_range static_assert constexpr noexcept
    uint16_t int16_t int8_t
    """.split()
VOCABULARY = {*_LANGUAGE, *_API, *_FLAGS, *sys.stdlib_module_names,
               *dir(str), *dir(list), *dir(dict), *dir(unittest.TestCase),
               *(name for module in _LIBRARY for name in dir(importlib.import_module(module)))}


def find_leaks(reply: str, messages: list[dict], pr: dict) -> list[dict]:
    """All hits as {"kind", "text", "why"}; an empty list means clean. Odd input counts as empty, none raises.

    `messages` is the chat up to the turn, `pr` a record as in commit/<instance_id>.json.
    """
    act, chat, record = _Act(_text(reply)), _Chat(messages), _record(pr)
    finders = (_path_leaks, _identifier_leaks, _line_leaks, _verbatim_leaks, _disclosures)
    hits = {(hit["kind"], hit["text"]): hit for finder in finders for hit in finder(act, chat, record)}
    return list(hits.values())


def _hit(kind: str, text: str, why: str) -> dict:
    return {"kind": kind, "text": text[:200], "why": why}


def _text(value) -> str:
    return value if isinstance(value, str) else ""


def _squeeze(text: str) -> str:
    """Text without whitespace and backslashes: the same for wrapped output, other indents, escaped code."""
    return "".join(text.split()).replace("\\", "")


def _parts(name: str) -> list[str]:
    """`getHTTPUrl`, `get_http_url` and `get-http-url` alike -> ["get", "http", "url"]."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def _one_spelling(text: str) -> str:
    """Text with `"$D"/x`, `a//b`, `a/./b`, `a/c/../b`, `a%2Fb` as `$D/x` and `a/b`; URLs lose their `//`."""
    text = re.sub("%2F", "/", text, flags=re.IGNORECASE).replace("://", ":")
    text = re.sub(r"/(?:\.?/)+", "/", re.sub(r"(?<=/)[\"']|[\"'](?=/)", "", text))
    return re.sub(r"(?<![\w.-])[\w-]{1,80}/\.\./", "", text)


def _has_word(word: str, text: str) -> bool:
    """Whether the word stands in the text with no word character beside it."""
    start = text.find(word)
    while start >= 0:
        neighbours = text[start - 1:start] + text[start + len(word):start + len(word) + 1]
        if not any(character.isalnum() or character == "_" for character in neighbours):
            return True
        start = text.find(word, start + 1)
    return False


def _commands(reply: str) -> list[Command]:
    try:
        return [command for block in bash_blocks(reply) for command in split_commands(block)]
    except ValueError:
        return []


# ------------------------------------ the three texts: what the reply does, the chat showed, the record hides

class _Act:
    """One reply: its prose, its command, and the code that it writes."""

    def __init__(self, reply: str):
        self.reply, self.style, self.commands = reply, action_style(reply), _commands(reply)
        self.prose, self.script = thought(reply), "\n".join(bash_blocks(reply))
        self.squeezed = _squeeze(reply)
        self.sentences = re.split(r"(?<=[.!?])\s|\n\s*\n|\n[ \t]*[-*`]", self.prose)

    def only_guesses(self, name: str, excuse: re.Pattern | None = None) -> bool:
        """Whether every sentence with this name says it as a guess (or as `excuse` has it)."""
        return all((excuse or _HEDGE).search(sentence) for sentence in self.sentences if name in sentence)

    @cached_property
    def written(self) -> str:
        """Code that the reply proposes (other fenced blocks) or puts into files and interpreters."""
        proposed = "\n".join(re.findall(r"```\w*\n(.*?)```", self.prose, re.DOTALL))
        return proposed + (self.script if self.style in ("edit", "run") else "")

    @cached_property
    def lines(self) -> list[tuple[str, set]]:
        """Each line squeezed, with its pairs of neighbouring tokens."""
        return [(_squeeze(line), _pairs(line)) for line in self.reply.splitlines()]


class _Chat:
    """Everything the agent was shown: all messages, and each command with its output."""

    def __init__(self, messages):
        messages = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
        contents = [_text(message.get("content")) for message in messages]
        answers = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
        self.text = "\n".join(contents)
        self.task = "\n".join(contents[:answers[0]] if answers else contents)
        self._exchanges = [(contents[i], contents[i + 1] if i + 1 < len(contents) else "") for i in answers]
        self.lower = self.text.lower()
        self._stated = {}

    @cached_property
    def turns(self) -> list[tuple[list[Command], str]]:
        """(commands, output) of each earlier turn."""
        return [(_commands(answer), output) for answer, output in self._exchanges]

    @cached_property
    def squeezed(self) -> str:
        return _squeeze(self.text)

    @cached_property
    def task_names(self) -> set[str]:
        """What the task names: CamelCase, snake_case, `marked`, called(), a-b; in lower case, joined."""
        named = ".".join(name for groups in _NAMED_THING.findall(self.task) for name in groups)
        return {"".join(_parts(name)) for name in named.split(".")} - {""}

    def stated_lines(self, path: str) -> list[tuple[int, int]]:
        """(first, last) of each line number that the chat states of a file: tracebacks, links, prose.

        An empty path stands for any file. Numbers without a file count where the task has them: the agent's
        own words come from what it was shown.
        """
        if path not in self._stated:
            name = path.rsplit("/", 1)[-1]
            lines = "\n".join(line for line in self.text.split("\n") if name in line)
            stated = [match for match in _LINE_NUMBER.findall(lines)
                      if match[0] and (not path or _same_file(match[0], path))]
            stated += [match for match in _LINE_NUMBER.findall(self.task)
                       if not match[0] and int(match[1]) >= _MIN_LOOSE_LINE]
            self._stated[path] = [(int(first), int(last or first)) for _, first, last in stated]
        return self._stated[path]

    def speaks_of(self, name: str) -> bool:
        return name.lower().strip("_") in self.lower


_NAMED_THING = re.compile(
    r"\b([A-Z]+[a-z]+(?:[A-Z]+[a-z0-9]*)+|\w{1,60}(?=\()|[A-Z]\w{1,60}(?=\.\w)|\w{1,60}_\w{1,60})\b"
    r"|\b([A-Za-z]{1,60}-[a-z]{1,60})\b|`([\w.]{1,100})`")


class _Hunk:
    def __init__(self, path: str, old_start: int, old_length: int, new_start: int, new_length: int):
        self.path, self.start = path, min(old_start, new_start)
        self.ends = {old_start + old_length - 1, new_start + new_length - 1}
        self.end = max(self.ends)


class _Record:
    """A PR record: the paths, hunks, lines and names of its patches, and the lines of its description."""

    def __init__(self, patch: str, notes: str, files: tuple, repo: str, commit: str, pr_number: str):
        self.patch, self.repo, self.commit, self.pr_number = patch, repo.lower(), commit, pr_number
        self.hunks, paths, path = [], list(files), ""
        lines, touched = [], []  # touched: changed lines and the functions that they stand in
        function = ""  # the last one that the hunk's context defines
        old_left = new_left = 0  # lines of the current hunk still to come: `--- x` in it is a removed `-- x`
        for line in patch.splitlines():
            if numbers := re.match(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@(.*)", line):
                hunk = [int(number or 1) for number in numbers.groups()[:4]]
                self.hunks.append(_Hunk(path, *hunk))
                old_left, new_left, function = hunk[1], hunk[3], ""
                touched.append(numbers[5] if "class " not in numbers[5] else "")
            elif (old_left > 0 or new_left > 0) and line[:1] in ("+", "-", " ", ""):
                old_left -= line[:1] != "+"
                new_left -= line[:1] != "-"
                lines.append(line[1:])
                if line[:1] in ("+", "-"):
                    touched += [function, line[1:]]
                elif defined := _FUNCTION.match(line[1:]):
                    function = defined[1] or defined[2]
            elif header := _PATCH_HEADER.match(line):
                named = next(filter(None, header.groups()))
                path = path if named == "/dev/null" else named
                paths.append(path)
                old_left = new_left = 0
        notes = [line for line in notes.splitlines() if len(line.split()) > 5]
        lines, touched = lines + notes, touched + notes
        self.paths = [path for path in dict.fromkeys(paths) if path.strip("/.")]
        self.lines = [(line, _squeeze(line), _pairs(line)) for line in dict.fromkeys(lines) if _telling(line)]
        touched = "\n".join(touched)
        self.names = set(_NAME.findall(touched)) - VOCABULARY
        strings = ("".join(groups) for groups in _STRING.findall(touched))
        self.texts = {text.strip() for string in strings for text in _PLACEHOLDER.split(string)}


def _record(pr) -> _Record:
    pr = pr if isinstance(pr, dict) else {}
    files = pr.get("files") if isinstance(pr.get("files"), (list, tuple)) else ()
    number = re.search(r"-(\d{1,9})$", _text(pr.get("instance_id")))
    return _read_record(_text(pr.get("patch")) + "\n" + _text(pr.get("test_patch")),
                        _text(pr.get("description")) + "\n" + _text(pr.get("interface")),
                        tuple(path for path in files if isinstance(path, str)),
                        _text(pr.get("repo")), _text(pr.get("base_commit")), number[1] if number else "")


_read_record = lru_cache(maxsize=64)(_Record)  # the turns and retries of one instance share its record

_PATCH_HEADER = re.compile(r"(?:---|\+\+\+) (?:[ab]/)?(\S+)|rename (?:from|to) (\S+)|diff --git a/(\S+) ")
_MODIFIER = (r"(?:pub(?:\(\w{1,20}\))?|export|default|async|public|private|protected|static|final|abstract"
             r"|override|virtual|unsafe|const)\s+")
_FUNCTION = re.compile(rf"\s*(?:{_MODIFIER}){{0,5}}(?:def|func|fn|function)\s+"
                       r"(?:\([^)\n]{0,80}\)\s*)?(\w{1,80})"  # Go: `func (w *Window) shift(`
                       rf"|\s*(?:{_MODIFIER}){{1,5}}[\w<>\[\]]{{1,80}}\s+(\w{{1,80}})\s*\(")
_TOKEN = re.compile(r"\w+|[^\w\s\\\"'`]")
_NAME = re.compile(r"(?<![\w$-])--[a-z][\w-]{2,40}|(?<![\w$])[A-Za-z_$][\w$]{3,80}(?![\w$])")
_STRING = re.compile(r"\"([^\"\n]{6,120})\"|'([^'\n]{6,120})'|`([^`\n]{6,120})`")
_PLACEHOLDER = re.compile(r"%[\d.]*[sdrfx]|\$?\{[^{}]{0,40}\}")


def _pairs(line: str) -> set[tuple[str, str]]:
    """Neighbouring tokens; quote marks count for nothing."""
    tokens = _TOKEN.findall(line)
    return set(zip(tokens, tokens[1:]))


def _telling(line: str) -> bool:
    """Whether a line is long enough, and holds a word of its own, so that to repeat it is no accident."""
    if len(_squeeze(line)) < _MIN_LINE_CHARS or len(_TOKEN.findall(line)) < _MIN_LINE_TOKENS:
        return False
    return any(word not in _LANGUAGE for word in re.findall(r"[A-Za-z_]\w{2,}", line))


# ------------------------------------------------------------------------------------------------------- path

# A guess that is said as a guess; and, before `ls`, `find` or `grep`, the plan to look at a file in a folder.
_HEDGE = re.compile(r"\b(?:might|may|maybe|perhaps|probabl[ey]|likely|suspect|guess|could|or similar"
                    r"|or wherever|typically|usually|if it exists)\b", re.IGNORECASE)
_INTENT = re.compile(_HEDGE.pattern + r"|\b(?:look(?:ing)? (?:at|in|into|for)|check|find|search|locate"
                                      r"|see if|confirm)\b", re.IGNORECASE)
# Folders that are no part of a module's name.
_SOURCE_ROOTS = {"src", "lib", "source", "python", "packages", "main", "java", "crates", "app"}
# What every project of a language has, at its top or one folder down.
CONVENTIONAL = {"lib.rs", "main.rs", "main.go", "index.js", "index.ts", "package.json", "Cargo.toml",
                "go.mod", "pom.xml", "Makefile", "README.md"}
_IMPORT_LINE = (r"^(?:Observation: *)?(?:[\w./-]{0,150}:?\d+[:-])?[^\w\n]*"  # `grep -rn` prints it so too
                r"(?:from|import|use|mod|include|require|export)\b[^\n]*(?<!\w)%s(?!\w)")
_LISTING = {"ls", "tree", "find", "fd", "cd", "pushd", "git"}
_COLOUR = r"\x1b\[[\d;]{0,12}[mK]"  # of `ls --color`


def _path_leaks(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    hits, spelled = [], _one_spelling(act.reply)
    for path in record.paths:
        mention = _mention(path, spelled)
        module = "" if mention else _module_mention(path, act.reply)
        if not (mention or module) or _path_seen(path, chat) or _path_derivable(path, chat):
            continue
        if module:
            if module in act.script or not act.only_guesses(module):
                hits.append(_hit("path", module, "names a module that the chat never showed or suggested"))
            continue
        if "/" not in mention and chat.speaks_of(path.rsplit("/", 1)[-1].split(".")[0]):
            continue  # a bare `options.py` where the chat speaks of options
        in_passing = "/" not in mention and not _mention(path, _one_spelling(act.script))
        if _looked_for(path, mention, act) and (in_passing or _has_ground(path, chat)):
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
        before = r"(?<![\w.-])" if first == 0 else r"(?<![\w./-])(?:\.?/|\$\{?\w{1,60}\}?/)?"
        if ending in text and re.search(before + re.escape(ending) + r"(?![\w-])", text):
            return ending
    return ""


def _module(path: str) -> list[str]:
    """The parts of the module that a file is: `src/a/b/__init__.py` -> ["a", "b"]."""
    *folders, name = path.split("/")
    parts = [part for part in [*folders, name.split(".")[0]] if part and part != "__init__"]
    while len(parts) > 2 and parts[0] in _SOURCE_ROOTS:
        parts = parts[1:]
    return parts


def _module_mention(path: str, text: str) -> str:
    """How the text names the file as a module: `a.b.x`, `b::x`, `from a.b import x`; else ''."""
    *folders, last = _module(path) or [""]
    folders = [folder for folder in folders if folder not in _SOURCE_ROOTS][-2:]
    if not folders or last not in text:
        return ""
    for joint in (".", "::"):
        if _has_word(name := joint.join([*folders, last]), text):
            return name
    imported = (rf"\bfrom (?:[\w.]{{1,150}}\.)?{re.escape(folders[-1])} import [^\n]{{0,200}}?"
                rf"(?<!\w){re.escape(last)}(?!\w)")
    return match[0] if (match := re.search(imported, text)) else ""


def _looked_for(path: str, mention: str, act: _Act) -> bool:
    """Whether the reply only guesses at the file, or goes to see whether it is there."""
    for command in act.commands:
        named = " ".join([*command.words, *(target for _, target in command.redirects), *command.heredocs])
        if command.program not in ("ls", "tree", "find", "fd") and _mention(path, _one_spelling(named)):
            return False
    goes_to_see = "/" in mention and act.style in ("look", "search")
    return act.only_guesses(mention, _INTENT if goes_to_see else _HEDGE)


def _has_ground(path: str, chat: _Chat) -> bool:
    """Whether the chat speaks of the file's folder and of its name, at least as words."""
    *folders, name = path.split("/")
    return chat.speaks_of(name.split(".")[0]) and (not folders or folders[-1] in chat.text)


def _path_seen(path: str, chat: _Chat) -> bool:
    """Whether the chat showed this very file: written out, in a listing of its folder, or in a tree."""
    folder, _, name = path.rpartition("/")
    if name not in chat.text:
        return path in chat.squeezed
    seen = _mention(path, chat.text.replace("\\", "/"))
    if "/" in seen or seen and not folder:
        return True
    listed_name = re.compile(rf"(?:^|[\s─'\"]|{_COLOUR}){re.escape(name)}(?:{_COLOUR})?"
                             r"['\"*@,]{0,3}(?=\s|$)", re.MULTILINE)
    section = re.search(rf"(?:^|[\s/]){re.escape(folder)}/?:\n((?:.+\n)*)", chat.text + "\n")  # of `ls -R`
    if section and listed_name.search(section[1]):
        return True
    for commands, output in chat.turns:
        listing = [command for command in commands if command.program in _LISTING]
        places = [word.strip("./") for command in listing for word in command.argv[1:]]
        near = any(_same_file(place, folder) or place and folder.startswith(place + "/") for place in places)
        if (near or any(command.program == "tree" for command in listing)) and listed_name.search(output):
            return True
    return False


def _same_file(named: str, path: str) -> bool:
    """Whether two paths can be one, as `forms/models.py` and `/testbed/django/forms/models.py` can."""
    named = named.lstrip("./")
    return bool(named) and (path == named or path.endswith("/" + named) or named.endswith("/" + path))


def _path_derivable(path: str, chat: _Chat) -> bool:
    """Whether an honest engineer could name the file: by a module, an import, a thing named, or as a test."""
    *folders, name = path.split("/")
    if name in CONVENTIONAL and len(folders) < 2:
        return True
    stem = name.split(".")[0]
    if folders and folders[-1] == stem and _has_word(stem, chat.text):
        return True  # `retry.Do` -> retry/retry.go
    parts = _module(path)
    for ending in (parts[first:] for first in range(len(parts))):
        whole_enough = len(ending) > 2 or len(ending) == len(parts) == 2
        if whole_enough and any(_has_word(joint.join(ending), chat.text) for joint in (".", "::")):
            return True  # `astropy.modeling.separable`, `net::tcp::stream`
        if len(ending) > 1 and _has_word("/".join(ending), chat.text):
            return True  # `../lib/router`
    near_seen = len(parts) < 2 or parts[-2] in chat.text
    if near_seen and stem in chat.text and re.search(_IMPORT_LINE % re.escape(stem), chat.text, re.MULTILINE):
        return True
    core = re.sub(r"^tests?_|_tests?$|_spec$|Tests?$", "", stem)
    if core != stem and re.search(rf"(?<!\w){re.escape(core)}\.\w+(?!\w)", chat.text):
        return True  # the test of a file that was seen
    wanted = "".join(_parts(core))
    for name in chat.task_names:  # `Engine.render` -> engine.py, `Auto-reloader` -> autoreload.py
        shorter, longer = sorted((wanted, name), key=len)
        if near_seen and len(shorter) > 3 and longer.startswith(shorter) and len(longer) - len(shorter) <= 2:
            return True
        if len(wanted) > 7 and near_seen and wanted in name:  # `MultiOutputClassifier` -> multioutput.py
            return True
    return False


# ------------------------------------------------------------------------------------------------- identifier

_MARKED_NAME = re.compile(r"`(?:[\w.]{0,80}\.)?(\w{1,80})(?:\(\))?`|(?<!\w)(\w{1,80})\(")
_DEFINITION = (r"\b(?:def|class|func|fn|function|let|const|var|val|type|struct|enum|interface|as|for)\s+"
               r"(?:\([^)\n]*\)\s*)?NAME\b|(?<!\w)NAME\s*(?::[^=\n]{1,60})?:?=(?!=)")
_GLUE = ("get", "set", "is", "has", "add", "remove", "on", "test", "with", "to")


def _identifier_leaks(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    marked = {name for match in _MARKED_NAME.findall(act.reply) for name in match}
    hits = []
    for name in sorted(record.names & set(_NAME.findall(act.reply))):
        if name.lower() in record.repo or _has_word(name, chat.text):
            continue
        if len(name) > 8 and name in chat.squeezed:
            continue  # broken over two lines
        marks_itself = name.startswith("--") or name in marked and len(name) > 6
        plain_word = len(_parts(name)) < 2 and not marks_itself
        if not plain_word and not _natural(name, act, chat):
            hits.append(_hit("identifier", name, "a name from the hidden patch that the chat never showed"))
    for text in sorted(record.texts):
        squeezed = _squeeze(text)
        several_words = " " in text and len(re.findall(r"[A-Za-z]{2,}", text)) > 1
        if several_words and squeezed in act.squeezed and squeezed not in chat.squeezed:
            hits.append(_hit("identifier", text, "a text from the hidden patch that the chat never showed"))
    return hits


def _natural(name: str, act: _Act, chat: _Chat) -> bool:
    """Whether the agent may have made the name up: it is a name of the task with another `get_` or `set_`;
    or, of parts that the chat knows, it is said as a guess or defined by the reply's own code."""
    first, *rest = _parts(name) or [""]
    rest = "".join(rest)
    if first in _GLUE and len(rest) > 7 and any(glue + rest in chat.task_names for glue in ("", *_GLUE)):
        return True
    if not all(part in chat.lower for part in _parts(name)):
        return False
    if name not in act.script and act.only_guesses(name):
        return True
    return re.search(_DEFINITION.replace("NAME", re.escape(name)), act.written) is not None


# ------------------------------------------------------------------------------------------------------- line

_PRINTED_NUMBER = re.compile(r"^(?:Observation:)?[ \t]*(\d{1,7})[:\t-]", re.MULTILINE)  # by `grep -n`, `nl`
_LINE_NUMBER = re.compile(
    r"(?:(?<![\w./-])([\w./-]{1,150}\.\w{1,10})[`'\"*]*(?:,? (?:at|on|around|near))?[ ,(:]*)?"
    r"(?:\b(?:lines?|row|ln)(?: numbers?| no\.?)?[ #~.]*|\bll\. ?|#L|\bL|(?<=\w:)"
    r"|(?(1)(?<=\w\()(?=\d{1,7}\))|(?!)))(\d{1,7})\b"  # `file.cc(335)`; without a file it is a call
    r"(?:\s?(?:-|–|—|:|,|to|and|through|until)\s?(?:lines? |L)?(\d{1,7})\b)?", re.IGNORECASE)

def _line_leaks(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    hits = []
    for named, first, last in _line_references(act):
        for hunk in record.hunks:
            if named and not _same_file(named, hunk.path) or last < hunk.start or first > hunk.end:
                continue
            whole_view = last - first > _WIDE_VIEW or first <= 1 and last not in hunk.ends
            if whole_view or not named and first < 10 or _lines_known(named and hunk.path, first, last, chat):
                continue
            shown = f"{first}" if first == last else f"{first}-{last}"
            why = "points at lines of a hidden change that the chat never showed"
            hits.append(_hit("line", f"{named or 'line'}:{shown}", why))
            break
    return hits


def _line_references(act: _Act) -> list[tuple[str, int, int]]:
    """(file or '', first, last) of every line that the reply points at, by command or in prose."""
    found = addressed_lines(act.commands)
    files = set(re.findall(r"(?<![\w./-])[\w./-]{1,150}\.\w{1,5}\b", act.prose))
    for named, first, last in _LINE_NUMBER.findall(act.reply):
        span = (int(first), max(int(last or first), int(first)))
        found += [(file, *span) for file in ([named] if named else sorted(files) or [""])]
    return found


def _lines_known(path: str, first: int, last: int, chat: _Chat) -> bool:
    """Whether the chat showed lines of the file (of any file, where `path` is empty) near enough to these."""
    def is_it(named):
        return not path or _same_file(named, path)

    shown = []
    for commands, output in chat.turns:
        if path and any(is_it(word) for command in commands for word in command.written_files):
            return True
        if any(is_it(word) for command in commands for word in command.argv[1:]):
            spans = [(low, high) for file, low, high in addressed_lines(commands) if is_it(file)]
            shown += [span for span in spans if span != (1, TO_THE_END)] or spans
            shown += [(int(number), int(number)) for number in _PRINTED_NUMBER.findall(output)]
    if any(low - _LINE_REACH <= last and first <= high + _LINE_REACH for low, high in shown):
        return True
    if shown and last - first >= _PAGE:
        return True
    return any(low - _STATED_REACH <= last and first <= high + _STATED_REACH
               for low, high in chat.stated_lines(path))


# --------------------------------------------------------------------------------------------------- verbatim

def _verbatim_leaks(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    hits = []
    spoken = set().union(*(pairs for _, pairs in act.lines))
    for line, squeezed, pairs in record.lines:
        if squeezed in act.squeezed:
            if squeezed not in chat.squeezed:
                hits.append(_hit("verbatim", line.strip(), "a line of the record that the chat never showed"))
        elif len(pairs) >= _MIN_NEAR_PAIRS and len(pairs & spoken) >= _NEAR * len(pairs):
            if squeezed not in chat.squeezed and _nearly_said(pairs, act, chat):
                hits.append(_hit("verbatim", line.strip(), "nearly a line of the hidden record"))
    return hits


def _nearly_said(pairs: set, act: _Act, chat: _Chat) -> bool:
    """Whether one line of the reply holds most of these token pairs, and of those never shown in the chat."""
    novel = {pair for pair in pairs if "".join(pair) not in chat.squeezed}
    return bool(novel) and any(
        len(pairs & said) >= _NEAR * len(pairs) and len(novel & said) >= len(novel) / 2
        and line not in chat.squeezed for line, said in act.lines)


# ------------------------------------------------------------------------------------------------- disclosure

def _disclosures(act: _Act, chat: _Chat, record: _Record) -> list[dict]:
    found = outside_sources(act.reply, chat.text, record.patch, record.commit, record.pr_number)
    return [_hit("disclosure", text, "speaks of a source outside the visible chat") for text in found]
