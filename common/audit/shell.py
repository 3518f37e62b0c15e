"""Read a shell script: its commands, what they name with all words in full, the lines they address.

Quotes, heredocs, pipes and subshells are read, so `grep "cd "` is no `cd`. Nothing is run. The
standard library's shlex knows no heredocs and takes quadratic time for a long word.
"""

import posixpath
import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import islice, product
from pathlib import Path

TO_THE_END = 10**9  # the last line of a range that has no other end
# Odd scripts cost no minutes.
_MOST_COMMANDS = 1000
_MOST_VALUES = 32  # of one variable or brace, and files and ranges of lines of one command
_MOST_CHARS = 4000  # of a word that is looked into
_MOST_FOLDER = 200  # characters, of its end
_SCREEN = 20  # lines that one sees behind `tail -n +3`

# Each alternative starts with characters of its own and nothing follows the repetition: no
# backtracking. The bound on `${...}` keeps a flood of openings linear.
_TOKEN = re.compile(
    r"""
    (?P<blank>   [ \t\r]+ | \\\r?\n | (?<![^ \t\n;&|(]) \# [^\n]* )
  | (?P<redirect> [0-9]* (?: <<< | <<-? | >> | >\| | [<>]& | <> | < | > ) | &>>? )
  | (?P<operator> && | \|\| | \|& | ;; | [;&|()\n] )
  | (?P<word> (?: \\. | '[^']*' | \$'(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*"
              | \$\{[^}]{0,500}\} | \$\(\((?:[^()]|\([^()]*\))*\)\) | [^\s;&|()<>'"`\\] )+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_QUOTED = re.compile(r"""\\(.)|\$'((?:\\.|[^'\\])*)'|'([^']*)'|"((?:\\.|[^"\\])*)\"""", re.DOTALL)
# Where a word goes by the redirection before it; a file that is read is an operand like others.
_TARGETS = {"": "words", "<": "words", "<<<": "heredocs"}
_TARGETS |= dict.fromkeys((">", ">>", ">|", "&>", "&>>"), "written_files")
_FIND_RUNS = ("-exec", "-execdir", "-ok", "-okdir")
_WRAPPER_OPTION = re.compile(r"-.|\d+(?:\.\d+)?[smhd]?$")  # `timeout -k 5 60 make`, `xargs -0 grep`

_ASSIGNS = re.compile(r"[A-Za-z_]\w{0,60}\+?=")
# `D=a/b`, `name = "a/b"` in code; `for f in a b`; and their use: `$D`, `${D}`, `{name}`
_SET = re.compile(r"\b([A-Za-z_]\w{0,60})\s?=\s?(?:['\"]([^'\"\n]{1,150})|([^\s;&|()'\"]{1,150}))")
_LOOP = re.compile(r"\bfor ([A-Za-z_]\w{0,60}) in ([^;\n]{1,300})")
_USED = re.compile(r"\$([A-Za-z_]\w{0,60})|\$?\{([A-Za-z_]\w{0,60})\}")
_BRACES = re.compile(r"\{([^{}\s]{0,400},[^{}\s]{0,400})\}")
# `-Sname`, `--include=a.py`
_GLUED_OPTION = re.compile(r"^(?:-[SGeCI](?=[\w/.]{3})|--?[\w-]{1,30}=)")

FILE = re.compile(r"(?<![\w./@+-])[\w./@+-]{1,200}\.\w{1,10}\b")
# `3,9p`, `3,+6p`, `3{p;q}`, `NR>=3`, `3..9`, `[3:9]`, `-L3,9:a.py`, `+3`
_RANGE = re.compile(
    r"(?:^|[\s;{\[(=<>L]|\.\.)\+?(\d{1,7})(?:\s?(?:,|:|\.\.)\s?(\+?)(\d{1,7}|\$))?"
    r"(?=$|[\s;,:.)\]{}!&=pdsaicqyn])"
)
_COUNT = re.compile(r"(?:--lines=|-n|-)?(\+?)(\d{1,9})$")  # of head and tail


@cache
def word_list(section: str) -> frozenset[str]:
    """Return the words of one section of words.txt."""
    text = Path(__file__).with_name("words.txt").read_text("utf-8")
    text = re.sub("# .*", "", text)
    body = re.search(rf"^\[{section}\]([^\[]*)", text, re.MULTILINE)
    return frozenset(body[1].split())


@dataclass
class Command:
    """One simple command: words without quotes, files, heredoc bodies, the operator behind it."""

    words: list[str] = field(default_factory=list)
    written_files: list[str] = field(default_factory=list)
    heredocs: list[str] = field(default_factory=list)  # and texts behind `<<<`
    ends: str = ""

    @cached_property
    def argv(self) -> list[str]:
        """The words from the program's name on: no `VAR=value`, shell keywords, `sudo` and such."""
        wrapped = False
        for index, word in enumerate(self.words):
            if word in word_list("wrappers") or _ASSIGNS.match(word):
                wrapped = True
            elif not (wrapped and _WRAPPER_OPTION.match(word)):
                return self.words[index:]
        return []

    @cached_property
    def program(self) -> str:
        return self.argv[0].rsplit("/", 1)[-1] if self.argv else ""


def split_commands(script: str) -> list[Command]:
    """Return a script's simple commands. Raises ValueError for a quote or heredoc never closed."""
    script = re.sub(r"`([^`]*)`", r"$(\1)", script) + "\n"
    commands = [Command()]
    awaited = []  # (command, tabs, delimiter) of heredocs whose body starts on the next line
    redirect = ""  # a redirection that waits for its target
    position = 0
    while position < len(script) and len(commands) <= _MOST_COMMANDS:
        token = _TOKEN.match(script, position)
        if not token:
            raise ValueError("a quote is never closed")
        position = token.end()
        if token["redirect"]:
            redirect = token["redirect"].lstrip("0123456789")
        elif token["word"] in _FIND_RUNS:
            commands.append(Command())
        elif token["word"]:
            word = _QUOTED.sub(lambda quoted: quoted[quoted.lastindex], token["word"])
            target = _TARGETS.get(redirect)
            if redirect in ("<<", "<<-"):
                awaited.append((commands[-1], "\t*" if redirect == "<<-" else "", word))
            elif target == "words" or target and not word.startswith("/dev/"):
                getattr(commands[-1], target).append(word)
            redirect = ""
        elif token["operator"]:
            commands[-1].ends = token["operator"]
            commands.append(Command())
            redirect = ""
            if token["operator"] == "\n":
                for command, tabs, delimiter in awaited:
                    last_line = re.compile(rf"^{tabs}{re.escape(delimiter)}$", re.MULTILINE)
                    if not (end := last_line.search(script, position)):
                        raise ValueError(f"the heredoc {delimiter!r} is never closed")
                    command.heredocs.append(script[position : end.start()])
                    position = end.end()
                awaited = []
    return [c for c in commands if c.words or c.written_files or c.heredocs]


def expand_script(script: str) -> tuple[list[Command], list[str]]:
    """Return the script's commands, and all that they name with its words in full.

    `cd a && cat b.py`, `D=a; cat $D/b.py` and `cat a//{b,c}.py` all name `a/b.py`. One whose
    quotes never close has no commands.
    """
    commands = []
    values = {name: quoted or plain for name, quoted, plain in _SET.findall(script)}
    for name, listed in _LOOP.findall(script):
        items = listed.split()[:_MOST_VALUES]
        values[name] = "{" + ",".join(items) + "}" if len(items) > 1 else listed.strip()
    in_full = _USED.sub(lambda at: values.get(at[1] or at[2], at[0]), script, count=_MOST_COMMANDS)
    for text in (in_full, script):  # with its values a script may be cut short
        with suppress(ValueError):
            commands = split_commands(text)
            break
    for command in commands[:]:  # `bash -lc 'git log'`, `eval git log`
        if command.program in word_list("shells"):
            operands = command.argv[1:]
            inner = "\n".join([" ".join(operands), *operands, *command.heredocs])
            with suppress(ValueError):
                commands += split_commands(inner)

    named = [in_full] if commands else []
    folder = ""
    for command in commands:
        for word in [*command.words, *command.written_files]:
            if len(word) <= _MOST_CHARS:
                word = re.sub(r"\[(\w)\]", r"\1", word)  # `nam[e]` in a pattern
                parts = _BRACES.split(word)  # text, choices, text, ...
                choices = [part.split(",") if at % 2 else [part] for at, part in enumerate(parts)]
                for full in map("".join, islice(product(*choices), _MOST_VALUES)):
                    named += [full, _GLUED_OPTION.sub("", full)]
                    named.append(posixpath.normpath(posixpath.join(folder, full)))
        if command.program in ("cd", "pushd"):
            folder = posixpath.join(folder, *command.argv[1:2])[-_MOST_FOLDER:]
    return commands, named


def addressed_lines(commands: list[Command]) -> list[tuple[str, int, int]]:
    """Return (file, first, last) of each range of lines that the commands show or change."""
    found = []
    files = []  # of the pipe so far
    head_end = 0
    for command in commands:
        program = command.program
        options = command.argv[1:]
        text = "\n".join([" ".join(options), *command.heredocs])
        numbers_all = program == "grep" and "" in options  # `grep -n '' file`, as `nl` does
        by_range = program in word_list("line tools")
        trims = program in ("head", "tail")
        if (by_range or numbers_all or trims) and (named := FILE.findall(text)):
            files = named[:_MOST_VALUES]
            head_end = 0
        spans = []
        if trims:
            counts = [count for count in map(_COUNT.match, options) if count]
            count = int(counts[0][2]) if counts else 10
            if program == "head":
                head_end = count
                spans = [(1, count)]
            elif counts and counts[0][1]:
                spans = [(count, count + _SCREEN)]
            elif head_end:  # `head -250 file | tail -9`
                spans = [(max(head_end - count + 1, 1), head_end)]
        elif by_range:
            for first, plus, last in _RANGE.findall(text)[:_MOST_VALUES]:
                high = TO_THE_END if last == "$" else int(last or first)
                spans.append((int(first), int(first) + high if plus else high))
            if program in ("awk", "gawk", "perl") and spans:  # each bound stands for itself
                spans = [(min(spans)[0], max(spans)[1])]
        found += [(file, *span) for file in files for span in spans]
        if command.ends not in ("|", "|&"):
            files = []
            head_end = 0
    return found
