"""Split a shell script into its simple commands, as a shell would.

Quotes, heredocs, pipes and subshells are read, so `grep "cd "` is no `cd`. Nothing is run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

from common.replies.words import words as word_list

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_DURATION = re.compile(r"\d+(?:\.\d+)?[smhd]?$")
_WRITING = {">", ">>", ">|", "&>", "&>>"}
_HEREDOC = {"<<", "<<-"}
# Each alternative starts with characters of its own and nothing follows the repetition: no
# backtracking. The bound on `${...}` keeps a flood of openings linear.
_TOKEN = re.compile(
    r"""
    (?P<blank>   [ \t\r]+ | \\\r?\n )
  | (?P<redirect> [0-9]* (?: <<< | <<-? | >> | >\| | [<>]& | <> | < | > ) | &>>? )
  | (?P<operator> && | \|\| | \|& | ;; | [;&|()\n] )
  | (?P<word> (?: \\. | '[^']*' | \$'(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | `[^`]*`
              | \$\{[^}]{0,500}\} | \$\(\((?:[^()]|\([^()]*\))*\)\) | [^\s;&|()<>'"`\\] )+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_QUOTED = re.compile(r"""\\(.)|\$'((?:\\.|[^'\\])*)'|'([^']*)'|"((?:\\.|[^"\\])*)\"""", re.DOTALL)
_COMMENT = re.compile(r"#[^\n]*")


@dataclass
class Command:
    """One simple command: words without quotes, redirections (`(">", "out.txt")`), heredoc bodies.

    `ends` is the operator after it.
    """

    words: list[str] = field(default_factory=list)
    redirects: list[tuple[str, str]] = field(default_factory=list)
    heredocs: list[str] = field(default_factory=list)
    ends: str = ""

    @cached_property
    def argv(self) -> list[str]:
        """The words from the program's name on: no `VAR=value`, shell keywords, `sudo` and such."""
        words = self.words
        start = 0
        while start < len(words) and _is_skipped(words[start]):
            start += 1
            while start < len(words) and _is_wrapper_option(words[start]):
                start += 1
        return words[start:]

    @cached_property
    def program(self) -> str:
        argv = self.argv
        return argv[0].rsplit("/", 1)[-1] if argv else ""

    @property
    def written_files(self) -> list[str]:
        found = []
        for operator, target in self.redirects:
            if operator.lstrip("0123456789") in _WRITING and not target.startswith("/dev/"):
                found.append(target)
        return found

    @property
    def read_files(self) -> list[str]:
        return [target for operator, target in self.redirects if operator == "<"]


def _is_skipped(word: str) -> bool:
    return word in word_list("wrappers") or _ASSIGNMENT.match(word) is not None


def _is_wrapper_option(word: str) -> bool:
    """Tell options of a wrapper: `timeout -k 5 60 make`, `xargs -0 grep`."""
    return word != "-" and (word.startswith("-") or _DURATION.match(word) is not None)


def unquote(word: str) -> str:
    """Return the word as the program gets it: without its quotes and backslashes."""
    return _QUOTED.sub(_content, word)


def _content(quoted: re.Match) -> str:
    for part in quoted.groups():
        if part is not None:
            return part
    return ""


def split_commands(script: str, most: int | None = None) -> list[Command]:
    """Return the simple commands of a script, across `;`, newlines, `&&`, pipes, `$(...)`, (...).

    `most` commands at most, if given. Raises ValueError when a quote or a heredoc is never closed.
    """
    commands = []
    current = Command()
    awaited = []  # (command, operator, delimiter) of heredocs whose body starts on the next line
    operator = None  # a redirection that waits for its target
    position = 0
    while position < len(script):
        at_word_start = position == 0 or script[position - 1] in " \t\n;&|("
        if at_word_start and (comment := _COMMENT.match(script, position)):
            position = comment.end()
            continue
        token = _TOKEN.match(script, position)
        if not token:
            raise ValueError("a quote is never closed")
        position = token.end()
        text = token.group()
        if token.lastgroup == "redirect":
            operator = text
        elif token.lastgroup == "word":
            if text.startswith("`") and text.endswith("`"):
                commands += split_commands(text[1:-1].replace("`", " "))
            word = unquote(text)
            if operator is None:
                current.words.append(word)
                continue
            current.redirects.append((operator, word))
            if operator.lstrip("0123456789") in _HEREDOC:
                awaited.append((current, operator, word))
            operator = None
        elif token.lastgroup == "operator":
            current.ends = text
            commands.append(current)
            current = Command()
            operator = None
            if most is not None and len(commands) >= most:
                break
            if text == "\n":
                for owner, arrow, delimiter in awaited:
                    tabs_stripped = arrow.endswith("-")
                    body, position = _heredoc_body(script, position, delimiter, tabs_stripped)
                    owner.heredocs.append(body)
                awaited = []
    if awaited and position >= len(script):
        raise ValueError(f"the heredoc {awaited[0][2]!r} has no body")
    commands.append(current)
    return [command for command in commands if command.words or command.redirects]


def _heredoc_body(script: str, start: int, delimiter: str, tabs_stripped: bool) -> tuple[str, int]:
    """Return the text up to the delimiter line, and the place of that line's end."""
    position = start
    while position < len(script):
        line_end = script.find("\n", position)
        if line_end < 0:
            line_end = len(script)
        line = script[position:line_end]
        if (line.lstrip("\t") if tabs_stripped else line) == delimiter:
            return script[start:position], line_end
        position = line_end + 1
    raise ValueError(f"the heredoc {delimiter!r} is never closed")
