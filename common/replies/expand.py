"""Say in full what a script names in pieces: variables, braces, loops, `cd`, joins in code.

`cd a && cat b.py`, `D=a; cat $D/b.py`, `cat a/{b,c}.py`, `os.path.join("a", "b.py")` all name
`a/b.py`. Nothing is run; what cannot be told from the script's own text stays as it is.
"""

import posixpath
import re
import urllib.parse

from common.replies.shell import Command, split_commands

_MOST = 32  # values of one variable, words of one brace: keeps odd scripts from costing minutes
_MOST_COMMANDS = 1000
_MOST_WORDS = 2000  # of one command
_MOST_CHARS = 4000  # of one word that is looked into
_MOST_VALUE_CHARS = 300  # of a variable
# `$(echo a/b)`, also in quotes and backquotes
_PRINTED = re.compile(
    r"\$\(\s{0,9}(?:echo|printf)\s([^()`\n]{1,300})\)|`(?:echo|printf)\s([^`\n]{1,300})`"
)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w{0,60})=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w{0,60})\}?")
_BRACES = re.compile(r"\{([^{}\s]{0,400},[^{}\s]{0,400})\}")
_ONE_OF_ONE = re.compile(r"\[(\w)\]")  # `nam[e]` in a pattern
# `git log -Sname`, `--include=a.py`
_GLUED_OPTION = re.compile(r"-[SGeCI](?=[\w/.]{3})|--?[\w-]{1,30}=")
_HAS_PATH = re.compile(r"^[\w.@~+-][\w./@+-]*$")
# code: `name = "a/b"`, and where such a name is joined with others
_CODE_ASSIGNMENT = re.compile(
    r"\b([A-Za-z_]\w{0,60})\s?=\s?(?:Path\()?[rf]?(['\"])([^'\"\n]{1,150})\2"
)
_CODE_NAME = re.compile(r"\$?\{([A-Za-z_]\w{0,60})\}|\b([A-Za-z_]\w{0,60})\b(?=\s?[+/,)])")
_JOINTS = (
    (re.compile(r"/?['\"]\)?\s?/\s?[rf]?['\"]"), "/"),
    (re.compile(r"['\"]\s?\+\s?[rf]?['\"]"), ""),
    (re.compile(r"/?['\"],\s?[rf]?['\"]"), "/"),
)


def expand_script(script: str) -> tuple[list[Command], list[str]]:
    """Return the script's commands with all words in full, and what else they name.

    A script whose quotes never close has no commands.
    """
    try:
        commands = split_commands(_PRINTED.sub(_print, script), _MOST_COMMANDS)
    except ValueError:
        return [], []
    shell = _Shell()
    return [shell.run(command) for command in commands], shell.named


def _print(match: re.Match) -> str:
    return printed((match[1] or match[2]).split())


def printed(words: list[str]) -> str:
    """Return what `echo` or `printf` of these words prints."""
    words = [word.strip("'\"") for word in words if word not in ("-n", "-e")]
    if words and "%s" in words[0]:
        text = words[0]
        for word in words[1:_MOST]:
            text = text.replace("%s", word, 1)
        return text.replace("\\n", "")
    return " ".join(words)


class _Shell:
    """Variables, folder and piped words as the script goes on; all that its commands name."""

    def __init__(self):
        self.variables: dict[str, list[str]] = {}
        self.folder = ""
        self.piped: list[str] = []
        self.named: list[str] = []

    def run(self, command: Command) -> Command:
        """Take in one command, and return it with its words in full."""
        words = []
        for word in command.words[:_MOST_WORDS]:
            words += self._expand(word)
        self._remember(words)
        if "xargs" in words:
            words = _filled_in(words, self.piped)
        redirects = [(operator, self._expand(word)[0]) for operator, word in command.redirects]
        full = Command(words, redirects, command.heredocs, command.ends)
        for word in [*words, *full.written_files, *full.read_files]:
            self.named += self._names(word)
        code = [word for word in words if len(word) > 20]
        self.named += joined_in_code("\n".join([*command.heredocs, *code]))
        self.piped = []
        if full.program in ("cd", "pushd") and full.argv[1:]:
            self.folder = posixpath.join(self.folder, full.argv[1])
        elif full.program in ("echo", "printf") and command.ends == "|":
            self.piped = printed(full.argv[1:]).split()[:_MOST]
        return full

    def _remember(self, words: list[str]) -> None:
        """Take in `NAME=value` and `for NAME in values`."""
        if len(words) > 3 and words[0] == "for" and words[2] == "in":
            self.variables[words[1]] = [word[:_MOST_VALUE_CHARS] for word in words[3 : 3 + _MOST]]
        for word in words[:_MOST]:
            if assigned := _ASSIGNMENT.match(word[:_MOST_CHARS]):
                self.variables[assigned[1]] = [assigned[2][:_MOST_VALUE_CHARS]]

    def _expand(self, word: str) -> list[str]:
        """Return the word with braces and variables replaced: one word, or several."""
        if len(word) > _MOST_CHARS or "{" not in word and "$" not in word:
            return [word]
        found = []
        for choice in _without_braces(word):
            names = [name for name in _VARIABLE.findall(choice) if name in self.variables]
            several = [name for name in names if len(self.variables[name]) > 1][:1]
            for value in self.variables[several[0]] if several else [""]:
                values = {name: self.variables[name][0] for name in names}
                values.update({name: value for name in several})
                found.append(_VARIABLE.sub(lambda m, v=values: v.get(m[1], m[0]), choice))
        return found[:_MOST]

    def _names(self, word: str) -> list[str]:
        """Return the word, what an option holds, and a path under the folder of `cd`."""
        if len(word) > _MOST_CHARS or word.isalnum():
            return []
        word = urllib.parse.unquote(_ONE_OF_ONE.sub(r"\1", word))
        found = [word]
        if glued := _GLUED_OPTION.match(word):
            found.append(word[glued.end() :])
        if _HAS_PATH.match(word) and ("." in word or "/" in word):
            found.append(posixpath.normpath(posixpath.join(self.folder, word)))
        elif "//" in word or "/." in word:
            found.append(posixpath.normpath(word))
        return found


def _filled_in(words: list[str], piped: list[str]) -> list[str]:
    """Return the words of `xargs -I N command`, or `xargs command`, with what is piped to it."""
    place = words.index("-I") + 1 if "-I" in words else len(words)
    if place >= len(words):
        return words + piped[:_MOST]
    name = words[place]
    found = words[: place - 1]
    for word in words[place + 1 : place + _MOST]:
        if name in word and len(word) < _MOST_CHARS:
            found += [word.replace(name, value) for value in piped]
        else:
            found.append(word)
    return found


def _without_braces(word: str) -> list[str]:
    """Return every word that `{a,b}` stands for."""
    words = [word]
    for _ in range(4):  # braces in one word
        several = []
        for choice in words:
            if not (braces := _BRACES.search(choice)):
                several.append(choice)
                continue
            head, tail = choice[: braces.start()], choice[braces.end() :]
            several += [head + middle + tail for middle in braces[1].split(",")[:_MOST]]
        words = several[:_MOST]
    return words


def joined_in_code(code: str) -> list[str]:
    """Return the code with its joined strings as one: `os.path.join("a", "b")`, `"a/" + "b"`."""
    if "'" not in code and '"' not in code:
        return []
    values = {name: f"'{value}'" for name, _, value in _CODE_ASSIGNMENT.findall(code)}

    def literal(match: re.Match) -> str:
        if match[1]:
            return values[match[1]].strip("'") if match[1] in values else match[0]
        return values.get(match[2], match[0])

    joined = _CODE_NAME.sub(literal, code)
    for joint, text in _JOINTS:
        joined = joint.sub(text, joined)
    return [joined] if joined != code else []
