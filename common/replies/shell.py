"""Split a shell script into its simple commands, as a shell would: quotes, heredocs, pipes, subshells.

So `grep "cd "` is no `cd`. Nothing is run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass
class Command:
    """One simple command: its words without quotes, redirections (`(">", "out.txt")`), heredoc bodies."""

    words: list[str] = field(default_factory=list)
    redirects: list[tuple[str, str]] = field(default_factory=list)
    heredocs: list[str] = field(default_factory=list)

    @property
    def argv(self) -> list[str]:
        """The words from the program's name on: no `VAR=value`, shell keywords, wrappers such as `sudo`."""
        words = self.words
        while words and (words[0] in _SKIPPED_WORDS or _ASSIGNMENT.match(words[0])):
            words = words[1:]
            while (
                words
                and words[0] != "-"
                and (words[0].startswith("-") or _DURATION.match(words[0]))
            ):
                words = words[1:]  # options of the wrapper: `timeout -k 5 60 make`, `xargs -0 grep`
        return words

    @property
    def program(self) -> str:
        return self.argv[0].rsplit("/", 1)[-1] if self.argv else ""

    @property
    def written_files(self) -> list[str]:
        return [
            target
            for operator, target in self.redirects
            if operator.lstrip("0123456789") in _WRITING and not target.startswith("/dev/")
        ]


_SKIPPED_WORDS = {
    "sudo",
    "time",
    "env",
    "timeout",
    "nohup",
    "command",
    "exec",
    "xargs",
    "nice",
    "stdbuf",
    "builtin",
    "then",
    "do",
    "else",
    "elif",
    "if",
    "while",
    "until",
    "!",
    "{",
    "}",
    "fi",
    "done",
}
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_DURATION = re.compile(r"\d+(?:\.\d+)?[smhd]?$")
_WRITING = {">", ">>", ">|", "&>", "&>>"}
# Each alternative starts with characters of its own and nothing follows the repetition: no backtracking.
_TOKEN = re.compile(
    r"""
    (?P<blank>   [ \t\r]+ | \\\r?\n )
  | (?P<redirect> [0-9]* (?: <<< | <<-? | >> | >\| | [<>]& | <> | < | > ) | &>>? )
  | (?P<operator> && | \|\| | \|& | ;; | [;&|()\n] )
  | (?P<word> (?: \\. | '[^']*' | \$'(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | `[^`]*` | \$\{[^}]*\}
              | \$\(\((?:[^()]|\([^()]*\))*\)\) | [^\s;&|()<>'"`\\] )+ )
""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED = re.compile(r"""\\(.)|\$'((?:\\.|[^'\\])*)'|'([^']*)'|"((?:\\.|[^"\\])*)\"""", re.DOTALL)
_COMMENT = re.compile(r"#[^\n]*")


def _unquote(word: str) -> str:
    return _QUOTED.sub(
        lambda match: next(part for part in (*match.groups(), "") if part is not None), word
    )


def split_commands(script: str) -> list[Command]:
    """The simple commands of a script, in order, across `;`, newlines, `&&`, `||`, pipes, `$(...)`, (...).

    Raises ValueError when a quote or a heredoc is never closed.
    """
    commands, current, awaited, position = [], Command(), [], 0
    pending_redirect = None
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
            pending_redirect = text
        elif token.lastgroup == "word":
            if text.startswith("`") and text.endswith("`"):
                commands += split_commands(text[1:-1].replace("`", " "))
            if pending_redirect is None:
                current.words.append(_unquote(text))
            else:
                current.redirects.append((pending_redirect, _unquote(text)))
                if pending_redirect.lstrip("0123456789") in ("<<", "<<-"):
                    awaited.append((current, pending_redirect, _unquote(text)))
                pending_redirect = None
        elif token.lastgroup == "operator":
            commands.append(current)
            current, pending_redirect = Command(), None
            if text == "\n":
                for owner, operator, delimiter in awaited:
                    body, position = _heredoc_body(
                        script, position, delimiter, operator.endswith("-")
                    )
                    owner.heredocs.append(body)
                awaited = []
    if awaited:
        raise ValueError(f"the heredoc {awaited[0][2]!r} has no body")
    return [command for command in [*commands, current] if command.words or command.redirects]


def _heredoc_body(script: str, start: int, delimiter: str, tabs_stripped: bool) -> tuple[str, int]:
    """The heredoc's text from `start` to its delimiter line, and the position before that line's newline."""
    position = start
    while position < len(script):
        line_end = script.find("\n", position)
        line_end = len(script) if line_end < 0 else line_end
        line = script[position:line_end]
        if (line.lstrip("\t") if tabs_stripped else line) == delimiter:
            return script[start:position], line_end
        position = line_end + 1
    raise ValueError(f"the heredoc {delimiter!r} is never closed")


_SED_ADDRESS = re.compile(r"(?:^|[;{\s])(\d{1,7})(?:,\s*(\+?)(\d{1,7}|\$))?\s*!?[pdsaicqyn={]")
_AFTER_SCRIPT = {"sed", "awk", "grep"}  # their first operand is no file
_OPENS_AT = {"tail", "less", "more", "vim", "vi", "view"}  # at line N, told `+N`
_SHOWS_FILE = {"cat", "nl", "head", "git", "bat"} | _OPENS_AT | _AFTER_SCRIPT
_EVERY_LINE = (
    "",
    "^",
    "$",
    ".*",
)  # as a pattern: `grep -n '' file` numbers the lines, as `nl` does
_GIT_RANGE = re.compile(
    r"-L\s*(\d{1,9}),(\+?)(\d{1,9})(?::(\S+))?"
)  # `git log -L 3,9:file`, `blame -L 3,+7`
TO_THE_END = 10**9


def addressed_lines(commands: list[Command]) -> list[tuple[str, int, int]]:
    """(file, first, last) of each line range that a chain of sed, awk, head, tail, cat, git addresses."""
    found, files, head_end = [], [], 0
    for command in commands:
        program, arguments = command.program, command.argv[1:]
        operands = [a for a in arguments if not a.startswith(("-", "+")) and not a.isdigit()]
        whole = program != "grep" or operands[:1] and operands[0] in _EVERY_LINE
        if program in _SHOWS_FILE and whole and len(operands) > (program in _AFTER_SCRIPT):
            files = operands[program in _AFTER_SCRIPT :]
        files = [target for operator, target in command.redirects if operator == "<"] or files
        joined = " ".join(arguments)
        spans = []
        if program == "sed":
            for first, plus, last in (
                match for script in operands for match in _SED_ADDRESS.findall(script)
            ):
                end = int(first) if not last else TO_THE_END if last == "$" else int(last)
                spans.append((int(first), int(first) + end if plus else end))
        elif program == "awk" and (numbers := re.findall(r"NR\s*[=<>]=?\s*(\d{1,9})", joined)):
            spans.append((min(map(int, numbers)), max(map(int, numbers))))
        elif program == "head":
            count = re.search(r"-n?\s*(\d{1,9})", joined)
            head_end = int(count[1]) if count else 10
            spans.append((1, head_end))
        elif program in _OPENS_AT and (start := re.search(r"(?:^|[\sn])\+(\d{1,9})", joined)):
            spans.append((int(start[1]), int(start[1]) + 20))
        elif program == "tail" and head_end and (count := re.search(r"-n?\s*(\d{1,9})", joined)):
            spans.append(
                (max(head_end - int(count[1]) + 1, 1), head_end)
            )  # `head -n 250 file | tail -n 9`
        elif program == "git" and (span := _GIT_RANGE.search(joined)):
            files = [span[4]] if span[4] else files
            spans.append((int(span[1]), int(span[3]) + (int(span[1]) if span[2] else 0)))
        elif program in ("cat", "nl", "less", "more", "bat"):
            spans.append((1, TO_THE_END))
        found += [(file, first, last) for file in files for first, last in spans]
    return found
