"""Find peeking: looks at later commits, at other branches, at a copy of the project.

`git log`, `blame`, `status`, `show HEAD` and a diff of one's own edits are free. A repository may
hold the very fix that is asked for: a chat that shows it teaches peeking, whoever wrote it.
"""

import re

from common.replies.protocol import bash_blocks
from common.replies.shell import Command
from common.replies.texts import Chat, Record, read_record, squeeze

_TRUNKS = {"main", "master", "trunk", "develop", "devel", "dev", "next", "stable"}
_GLOBAL_WITH_VALUE = {"-C", "-c", "--git-dir", "--work-tree", "--namespace"}
_FETCHING = {"fetch", "pull", "ls-remote", "reflog", "fsck", "for-each-ref", "show-ref"}
# They show what a ref holds.
_SHOWING = {
    *("log", "show", "diff", "blame", "grep", "cat-file", "rev-list", "rev-parse", "shortlog"),
    *("whatchanged", "ls-tree", "archive", "bundle", "format-patch", "range-diff", "difftool"),
    *("annotate", "name-rev", "merge-base", "cherry"),
}
# They put what a ref holds into the work tree.
_MOVING = {"checkout", "switch", "merge", "rebase", "cherry-pick", "restore", "reset", "worktree"}
_EVERY_REF = re.compile(
    r"--(?:all|branches|remotes|tags|reflog|walk-reflogs|alternate-refs|glob)(?:=.*)?$|-g$"
)
_OTHER_REF = re.compile(
    r"(?:refs/)?(?:remotes/)?(?:origin|upstream|fork)/[\w./-]+$|refs/[\w./-]+$"
    r"|(?:FETCH|ORIG|MERGE)_HEAD$|[\w./-]*@\{[^{}]+\}$|origin$|upstream$|v?\d+\.\d+(?:\.[\w.]+)?$"
)
_GIT_FILES = re.compile(r"(?:^|/)\.git/(?:packed-refs|FETCH_HEAD|ORIG_HEAD|refs/|logs/|objects)")
_INSTALLERS = {
    *("pip", "pip3", "pipx", "uv", "conda", "mamba", "poetry", "pdm", "npm", "npx", "yarn", "pnpm"),
    *("cargo", "go", "gem", "composer", "mvn", "dotnet", "easy_install", "apt", "apt-get"),
}
_GETS = {
    "download",
    "install",
    "add",
    "get",
    "pack",
    "view",
    "fetch",
    "unpack",
    "require",
    "source",
}
_NETWORK = {"curl", "wget", "gh", "hub", "git", "aria2c", "http", "lynx", "svn"}
_FORGE = (
    r"(?:github|githubusercontent|gitlab|bitbucket|jsdelivr|sourcegraph|codeload)[^\s'\"]{0,80}"
)
# Programs and places without one of which no command peeks.
_MEANS = re.compile(
    rf"\b(?:git|{'|'.join(sorted(_INSTALLERS | _NETWORK))})\b"
    r"|-packages|node_modules|gems/|registry/src|pkg/mod|\.m2/|urlopen|requests\.get",
    re.IGNORECASE,
)
_NOT_SOURCE = {
    "tests",
    "test",
    "docs",
    "doc",
    "src",
    "lib",
    "examples",
    "packages",
    "cmd",
    "internal",
}


def peeks(commands: list[Command], chat_text: str, record: Record) -> list[str]:
    """Return the commands that look where the fix may lie."""
    found = []
    project = _Project(record)
    for command in commands:
        if _peeks_by_git(command, chat_text) or project.is_copied_by(command):
            found.append(" ".join(command.argv)[:200])
    return found


def may_peek(messages: list[dict]) -> bool:
    """Tell whether some command names what a peek needs: cheap, and without a record."""
    replies = [message["content"] for message in messages if message["role"] == "assistant"]
    return any(_MEANS.search(script) for reply in replies for script in bash_blocks(reply))


def shows_fix(messages: list[dict], pr: dict) -> str | None:
    """Tell why the chat shows the fix: the output of a peek holds lines that the PR adds."""
    chat = Chat(messages)
    record = read_record(pr)
    before = chat.task
    for commands, _, output in chat.turns:
        commands = peeks(commands, before, record)
        if commands:
            shown = squeeze(output)
            known = squeeze(before)
            for line in record.added:
                if squeeze(line) in shown and squeeze(line) not in known:
                    return f"the output of `{commands[0]}` shows what the PR adds: {line[:100]}"
        before += "\n" + output
    return None


# ---- git


def _peeks_by_git(command: Command, chat_text: str) -> bool:
    if any(_GIT_FILES.search(word) for word in command.argv[1:]):
        return True
    if command.program != "git":
        return False
    subcommand, arguments = _git_arguments(command.argv[1:])
    if subcommand in _FETCHING:
        return True
    if subcommand not in _SHOWING and subcommand not in _MOVING:
        return False
    if subcommand in _SHOWING and any(_EVERY_REF.match(word) for word in arguments):
        return True
    return _names_other_ref(subcommand, arguments, chat_text)


def _git_arguments(argv: list[str]) -> tuple[str, list[str]]:
    """Return the subcommand and its words before `--`, behind which stand paths."""
    start = 0
    while start < len(argv) and argv[start].startswith("-"):
        start += 2 if argv[start] in _GLOBAL_WITH_VALUE else 1
    rest = argv[start + 1 :]
    if "--" in rest:
        rest = rest[: rest.index("--")]
    return "".join(argv[start : start + 1]), rest


def _names_other_ref(subcommand: str, arguments: list[str], chat_text: str) -> bool:
    """Tell whether one of the words is a ref that may lie behind the task's base.

    A trunk's name alone can be the agent's own branch: `git diff main` is no peek, but
    `git diff HEAD main`, `git show main:a.py` and `git checkout main` are.
    """
    words_given = [word.removeprefix("--source=").removeprefix("-s") for word in arguments]
    words_given = [word for word in words_given if not word.startswith("-")]
    if subcommand == "grep":
        words_given = words_given[1:]  # the pattern
    with_head = any(word.startswith("HEAD") for word in words_given)
    for word in words_given:
        sides = [side for side in re.split(r"\.{2,3}", word.partition(":")[0]) if side]
        for side in sides:
            side = re.sub(r"[\^~]\d*.*$", "", side)
            if _OTHER_REF.match(side):
                return True
            compared = with_head or len(sides) > 1 or ":" in word or ".." in word
            looks = compared or subcommand in _MOVING or subcommand == "archive"
            if side in _TRUNKS and looks and not _is_own_branch(side, chat_text):
                return True
    return False


def _is_own_branch(name: str, chat_text: str) -> bool:
    return f"On branch {name}" in chat_text or f"* {name}\n" in chat_text


# ---- copies


class _Project:
    """The names under which a copy of the record's project can be had."""

    def __init__(self, record: Record):
        self.repo = record.repo
        name = record.repo.rsplit("/", 1)[-1]
        tops = {path.split("/")[0] for path in record.paths if path.count("/")}
        tops |= {path.split("/")[1] for path in record.paths if path.startswith(("src/", "lib/"))}
        self.names = {_normal(name)} | {_normal(top) for top in tops if top not in _NOT_SOURCE}
        self.names -= {""}
        spellings = self.names | {name.replace("-", "_") for name in self.names}
        names = "|".join(re.escape(name) for name in sorted(spellings)) or "(?!)"
        self.installed = re.compile(
            rf"(?:(?:site|dist)-packages|node_modules(?:/@[\w-]+)?|gems|registry/src/[^/\s]+)/(?:{names})"
            rf"(?![\w.])|(?:pkg/mod|\.m2/repository)/\S*(?:{names})\b",
            re.IGNORECASE,
        )
        self.hosted = re.compile(
            rf"{_FORGE}{re.escape(self.repo or '(?!)')}(?![\w-])"
            rf"|(?:pypi\.org|pythonhosted\.org|registry\.npmjs\.org|crates\.io)\S{{0,120}}/(?:{names})\b",
            re.IGNORECASE,
        )

    def is_copied_by(self, command: Command) -> bool:
        argv = command.argv
        if argv[:1] and command.program.startswith("python") and argv[1:3] == ["-m", "pip"]:
            argv = argv[2:]
        program = argv[0].rsplit("/", 1)[-1] if argv else ""
        for word in [*argv[1:], *command.heredocs]:
            if self.installed.search(word):
                return True
            fetched = program in _NETWORK or program in _INSTALLERS or "urlopen" in word
            if (fetched or "requests.get" in word) and self.hosted.search(word):
                return True
        if program == "gh" and argv[1:2] and argv[1] in ("pr", "api", "search", "browse"):
            return True
        if program in _INSTALLERS and not _GETS.isdisjoint(argv[1:4]):
            operands = [word for word in argv[1:] if not word.startswith("-")]
            return any(_package(word) in self.names for word in operands)
        return False


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


def _package(word: str) -> str:
    """Return the name in `Django==4.2`, `pkg@1.0`, `github.com/owner/name@latest`."""
    if word.startswith((".", "/")):
        return ""  # the project's own folder
    return _normal(
        re.split(r"[=<>!~\[@;]", word.lstrip("@"), maxsplit=1)[0].rstrip("/").rsplit("/", 1)[-1]
    )
