"""Find peeking: looks at later commits, at other branches, at a copy of the project.

`git log`, `blame`, `status`, `show HEAD` and a diff of one's own edits are free. A repository may
hold the very fix that is asked for: a chat that shows it teaches peeking, whoever wrote it.
"""

import re
from functools import lru_cache

from common.audit.protocol import bash_blocks
from common.audit.shell import Command
from common.audit.texts import Chat, Record, read_record, squeeze

_TRUNKS = {"main", "master", "trunk", "develop", "devel", "dev", "next", "stable"}
_FETCHING = {"fetch", "pull", "ls-remote", "reflog", "fsck", "for-each-ref", "show-ref"}
_SHOWING = {  # what a ref holds
    *("log", "show", "diff", "blame", "grep", "cat-file", "rev-list", "rev-parse", "shortlog"),
    *("whatchanged", "ls-tree", "archive", "bundle", "format-patch"),
}
_MOVING = {"checkout", "switch", "merge", "rebase", "cherry-pick", "restore", "reset", "worktree"}
_EVERY_REF = re.compile(r"--(?:all|branches|remotes|tags|reflog|walk-reflogs|glob)(?:=.*)?$|-g$")
_OTHER_REF = re.compile(
    r"(?:refs/)?(?:remotes/)?(?:origin|upstream|fork)/[\w./-]+$|refs/[\w./-]+$"
    r"|(?:FETCH|ORIG|MERGE)_HEAD$|[\w./-]*@\{[^{}]+\}$|origin$|upstream$|v?\d+\.\d+(?:\.[\w.]+)?$"
)
_GIT_FILES = re.compile(r"(?:^|/)\.git/(?:packed-refs|FETCH_HEAD|ORIG_HEAD|refs/|logs/|objects)")

_INSTALLERS = "pip3?|pipx|uv|conda|mamba|poetry|pdm|npm|npx|yarn|pnpm|cargo|go|gem|composer|mvn"
_GETS = "download|install|add|get|pack|view|require"
_NETWORK = "curl|wget|gh|hub|git|aria2c|http|svn"
_FORGES = "github|githubusercontent|gitlab|bitbucket|jsdelivr|sourcegraph|codeload"
_REGISTRIES = r"pypi\.org|pythonhosted\.org|registry\.npmjs\.org|crates\.io"
_INSTALLED = r"(?:site|dist)-packages|node_modules|gems|registry/src|pkg/mod|\.m2/repository"
_MEANS = re.compile(rf"\b(?:{_INSTALLERS}|{_NETWORK})\b|{_INSTALLED}|urlopen|requests\.get")
_NOT_SOURCE = {"tests", "test", "docs", "doc", "src", "lib", "examples", "packages", "cmd"}


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
        if found := peeks(commands, before, record):
            shown = squeeze(output)
            known = squeeze(before)
            for line in record.added:
                if squeeze(line) in shown and squeeze(line) not in known:
                    return f"the output of `{found[0]}` shows what the PR adds: {line[:100]}"
        before += "\n" + output
    return None


def peeks(commands: list[Command], chat_text: str, record: Record) -> list[str]:
    """Return the commands that look where the fix may lie."""
    found = []
    for command in commands:
        text = " ".join([command.program, *command.argv[1:], *command.heredocs])
        in_git = any(_GIT_FILES.search(word) for word in command.argv[1:])
        by_git = command.program == "git" and _looks_at_other_commits(command, chat_text)
        if in_git or by_git or _copy_of_project(record).search(text):
            found.append(" ".join(command.argv)[:200])
    return found


def _looks_at_other_commits(command: Command, chat_text: str) -> bool:
    """Tell whether git is asked for something that may lie behind the task's base.

    A trunk's name alone can be the agent's own branch: `git diff main` is no peek, but
    `git diff HEAD main`, `git show main:a.py` and `git checkout main` are.
    """
    place = 1
    while place < len(command.argv) and command.argv[place].startswith("-"):
        place += 2 if command.argv[place] in ("-C", "-c") else 1
    subcommand = "".join(command.argv[place : place + 1])
    words = command.argv[place + 1 :]
    if "--" in words:
        words = words[: words.index("--")]  # paths stand behind
    if subcommand in _FETCHING:
        return True
    if subcommand not in _SHOWING | _MOVING:
        return False
    if subcommand in _SHOWING and any(_EVERY_REF.match(word) for word in words):
        return True
    words = [re.sub(r"^(?:--source=|-s)", "", word) for word in words]
    words = [word for word in words if not word.startswith("-")]
    if subcommand == "grep":
        words = words[1:]  # the pattern
    puts_it_here = subcommand in _MOVING or subcommand == "archive"
    with_head = any(word.startswith("HEAD") for word in words)
    for word in words:
        compares = puts_it_here or with_head or ":" in word or ".." in word
        for ref in re.split(r"\.{2,3}", word.partition(":")[0]):
            ref = re.sub(r"[\^~].*$", "", ref)
            if _OTHER_REF.match(ref):
                return True
            own = rf"On branch {ref}\n|\* {ref}\n"
            if compares and ref in _TRUNKS and not re.search(own, chat_text):
                return True
    return False


@lru_cache(maxsize=64)
def _copy_of_project(record: Record) -> re.Pattern:
    """Return the pattern of commands that read or get another copy of the project."""
    tops = {path.split("/")[0] for path in record.paths if "/" in path}
    tops |= {path.split("/")[1] for path in record.paths if path.startswith(("src/", "lib/"))}
    names = {record.repo.rsplit("/", 1)[-1], *(tops - _NOT_SOURCE)} - {""}
    spellings = [re.sub(r"[-_]", "[-_]", re.escape(name).replace("\\-", "-")) for name in names]
    name = f"(?:{'|'.join(sorted(spellings)) or '(?!)'})"
    return re.compile(
        rf"(?:{_INSTALLED})/(?:\S{{0,120}}/)?{name}(?![\w.])"
        rf"|^(?:python[\d.]* -m )?(?:{_INSTALLERS})(?: \S+){{0,2}} (?:{_GETS})"
        rf" (?:.* )?(?![./])(?:[\w.@-]{{1,80}}/){{0,2}}{name}(?=[=<>!~\[@;\s]|$)"
        rf"|(?:^(?:{_NETWORK}|{_INSTALLERS})\b|urlopen|requests\.get)"
        rf".{{0,300}}?(?:(?:{_FORGES})\S{{0,80}}{re.escape(record.repo or '(?!)')}(?![\w-])"
        rf"|(?:{_REGISTRIES})\S{{0,120}}/{name}\b)"
        r"|^gh (?:pr|api|search|browse)\b",
        re.IGNORECASE,
    )
