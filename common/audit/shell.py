"""Read a shell script: its simple commands, and what they name, with all words in full.

Quotes, heredocs, pipes and subshells are read, so `grep "cd "` is no `cd`. Nothing is run. The
standard library's shlex knows no heredocs and takes quadratic time for a long word.
"""

import posixpath
import re
from dataclasses import dataclass, field
from functools import cached_property

from common.audit.words import words as word_list

# Odd scripts cost no minutes.
_MOST_COMMANDS = 1000
_MOST_WORDS = 2000  # of one command
_MOST_VALUES = 32  # of one variable or brace
_MOST_CHARS = 4000  # of a word that is looked into

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
_BACKQUOTED = re.compile(r"`([^`]*)`")
_WRAPPER_OPTION = re.compile(r"-.|\d+(?:\.\d+)?[smhd]?$")  # `timeout -k 5 60 make`, `xargs -0 grep`

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w{0,60})\+?=(.{0,300})", re.DOTALL)
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w{0,60})\}?")
_BRACES = re.compile(r"\{([^{}\s]{0,400},[^{}\s]{0,400})\}")
_ONE_OF_ONE = re.compile(r"\[(\w)\]")  # `nam[e]` in a pattern
# `-Sname`, `--include=a.py`
_GLUED_OPTION = re.compile(r"^(?:-[SGeCI](?=[\w/.]{3})|--?[\w-]{1,30}=)")
_PLAIN_WORD = re.compile(r"[\w.@~+-][\w./@+-]*$")
# Code: `name = "a/b"`, and such a name in `f"{name}/c"`
_CODE_ASSIGNMENT = re.compile(r"\b([A-Za-z_]\w{0,60})\s?=\s?['\"]([^'\"\n]{1,150})['\"]")
_CODE_NAME = re.compile(r"\{([A-Za-z_]\w{0,60})\}")


@dataclass
class Command:
    """One simple command: words without quotes, files, heredoc bodies, the operator behind it."""

    words: list[str] = field(default_factory=list)
    written_files: list[str] = field(default_factory=list)
    read_files: list[str] = field(default_factory=list)
    heredocs: list[str] = field(default_factory=list)  # and texts behind `<<<`
    ends: str = ""

    @cached_property
    def argv(self) -> list[str]:
        """The words from the program's name on: no `VAR=value`, shell keywords, `sudo` and such."""
        wrapped = False
        for place, word in enumerate(self.words):
            if word in word_list("wrappers") or _ASSIGNMENT.match(word):
                wrapped = True
            elif not (wrapped and _WRAPPER_OPTION.match(word)):
                return self.words[place:]
        return []

    @cached_property
    def program(self) -> str:
        return self.argv[0].rsplit("/", 1)[-1] if self.argv else ""


def split_commands(script: str, most: int = 10**9) -> list[Command]:
    """Return the simple commands of a script, across `;`, newlines, `&&`, pipes, `$(...)`, (...).

    `most` commands at most. Raises ValueError when a quote or a heredoc is never closed.
    """
    script = _BACKQUOTED.sub(r"$(\1)", script)
    commands = [Command()]
    awaited = []  # (command, tabs, delimiter) of heredocs whose body starts on the next line
    redirect = ""  # a redirection that waits for its target
    position = 0
    while position < len(script) and len(commands) <= most:
        token = _TOKEN.match(script, position)
        if not token:
            raise ValueError("a quote is never closed")
        position = token.end()
        if token["redirect"]:
            redirect = token["redirect"].lstrip("0123456789")
        elif token["word"]:
            word = _QUOTED.sub(lambda quoted: quoted[quoted.lastindex], token["word"])
            if not redirect:
                commands[-1].words.append(word)
            elif redirect in ("<<", "<<-"):
                awaited.append((commands[-1], "\t*" if redirect == "<<-" else "", word))
            elif redirect == "<<<":
                commands[-1].heredocs.append(word)
            elif redirect == "<":
                commands[-1].read_files.append(word)
            elif redirect in (">", ">>", ">|", "&>", "&>>") and not word.startswith("/dev/"):
                commands[-1].written_files.append(word)
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
    if awaited:
        raise ValueError(f"the heredoc {awaited[0][2]!r} has no body")
    return [c for c in commands if c.words or c.written_files or c.read_files or c.heredocs]


def expand_script(script: str) -> tuple[list[Command], list[str]]:
    """Return the script's commands with all words in full, and all that they name.

    `cd a && cat b.py`, `D=a; cat $D/b.py` and `cat a/{b,c}.py` all name `a/b.py`. What cannot be
    told from the script's own text stays as it is; one whose quotes never close has no commands.
    """
    try:
        commands = split_commands(script, _MOST_COMMANDS)
    except ValueError:
        return [], []
    in_full = []
    named = []
    values = {}  # of variables; one that goes over several, as in a loop, is `{a,b}`
    folder = ""
    for command in commands:
        words = command.words[:_MOST_WORDS]
        words = [full for word in words for full in _expand(word, values)]
        written = [_expand(word, values)[0] for word in command.written_files]
        read = [_expand(word, values)[0] for word in command.read_files]
        command = Command(words, written, read, command.heredocs, command.ends)
        in_full.append(command)
        for word in [*words, *written, *read]:
            if len(word) > _MOST_CHARS:
                continue
            word = _ONE_OF_ONE.sub(r"\1", word)
            named += [word, _GLUED_OPTION.sub("", word)]
            if _PLAIN_WORD.match(word):
                named.append(posixpath.normpath(posixpath.join(folder, word)))
        code = "\n".join([*command.heredocs, *words])
        strings = dict(_CODE_ASSIGNMENT.findall(code))
        named.append(_fill(_CODE_NAME, strings, code))
        if len(words) > 3 and words[0] == "for" and words[2] == "in":
            short = [word[:300] for word in words[3 : 3 + _MOST_VALUES]]
            values[words[1]] = "{" + ",".join(short) + "}" if len(short) > 1 else short[0]
        for word in words[:_MOST_VALUES]:
            if assignment := _ASSIGNMENT.match(word):
                values[assignment[1]] = assignment[2]
        if command.program in ("cd", "pushd") and command.argv[1:]:
            folder = posixpath.join(folder, command.argv[1])
    return in_full, named


def _fill(pattern: re.Pattern, values: dict[str, str], text: str) -> str:
    return pattern.sub(lambda name: values.get(name[1], name[0]), text)


def _expand(word: str, values: dict[str, str]) -> list[str]:
    """Return the word with its variables and braces replaced: one word, or several."""
    if len(word) > _MOST_CHARS or "{" not in word and "$" not in word:
        return [word]
    found = [_fill(_VARIABLE, values, word)[:_MOST_CHARS]]
    for _ in range(4):  # braces in one word
        several = []
        for choice in found:
            head, *rest = _BRACES.split(choice, maxsplit=1)
            if rest:
                several += [head + middle + rest[1] for middle in rest[0].split(",")]
            else:
                several.append(choice)
        found = several[:_MOST_VALUES]
    return found
