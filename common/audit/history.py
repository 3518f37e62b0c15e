"""Find peeking: looks at later commits, at other branches, at a copy of the project.

`git log`, `blame`, `status`, `show HEAD` and a diff of one's own edits are free. A repository may
hold the very fix that is asked for: a chat that shows it teaches peeking, whoever wrote it.
"""

import re
from functools import lru_cache

from common.audit.protocol import commands_said, fence_of
from common.audit.shell import Command, word_list
from common.audit.texts import Chat, Record, read_record, squeeze

_EVERY_REF = re.compile(r"--(?:all|branches|remotes|tags|reflog|walk-reflogs|glob)(?:=.*)?$|-g$")
_OTHER_REF = re.compile(
    r"(?:refs/)?(?:remotes/)?(?:origin|upstream|fork)/[\w./-]+$|refs/[\w./-]+$"
    r"|(?:FETCH|ORIG|MERGE)_HEAD$|[\w./-]*@\{[^{}]+\}$|origin$|upstream$|v?\d+\.\d+(?:\.[\w.]+)?$"
)
_GIT_FILES = re.compile(r"\.git/(?:packed-refs|fetch_head|orig_head|refs/|logs/|objects)")


def may_peek(messages: list[dict]) -> bool:
    """Tell whether some command names what a peek needs: cheap, and without a record."""
    fence = fence_of(messages)
    replies = [message["content"] for message in messages if message["role"] == "assistant"]
    blocks = "\n".join(block for reply in replies for block in commands_said(reply, fence))
    named = re.findall(r"[\w-]+", blocks.lower())
    sections = ("installers", "network", "homes of copies")
    return any(not word_list(section).isdisjoint(named) for section in sections)


def shows_fix(messages: list[dict], pr: dict) -> str | None:
    """Tell why the chat shows the fix: the output of a peek holds lines that the PR adds."""
    chat = Chat(messages)
    record = read_record(pr)
    before = ""
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
    folders = [path.removeprefix("src/").removeprefix("lib/") for path in record.paths]
    tops = {folder.split("/")[0] for folder in folders if "/" in folder}
    # The project and its top folders are named as packages are.
    names = {record.repo.rsplit("/", 1)[-1], *(tops - word_list("no package"))} - {""}
    copy = _copy_of(frozenset(name.lower().replace("_", "-") for name in names))
    fetchers = word_list("installers") | word_list("network")
    found = []
    for command in commands:
        text = " ".join([*command.argv, *command.heredocs]).lower()
        peeks_here = copy.search(text.replace("_", "-")) or _GIT_FILES.search(text)
        if command.program == "git":
            peeks_here = peeks_here or _looks_at_other_commits(command.argv[1:], chat_text)
        if record.repo and record.repo in text and not peeks_here:
            on_forge = any(forge in text for forge in word_list("forges"))
            peeks_here = on_forge and not fetchers.isdisjoint(re.findall(r"[\w-]+", text))
        if peeks_here:
            found.append(" ".join(command.argv)[:200])
    return found


@lru_cache(maxsize=64)
def _copy_of(names: frozenset[str]) -> re.Pattern:
    """Return what names a copy of the project: an installed one, an installer's, a registry's."""

    def any_of(words: frozenset[str]) -> str:
        return "|".join(re.escape(word.replace("_", "-")) for word in words) or "(?!)"

    project = rf"(?:\S{{0,200}}/)?(?:{any_of(names)})"
    sections = ("homes of copies", "installers", "installer verbs")
    homes, installers, verbs = (any_of(word_list(section)) for section in sections)
    there = rf"(?:^|[ /.])(?:{homes})/{project}(?=[-@/\s'\"]|$)"
    asked = rf"^(?:python\S* -m )?(?:{installers})(?: \S+){{0,2}} (?:{verbs}) (?:.* )?(?![./])"
    forge = r"^gh (?:pr|api|search|browse)(?!\S)"
    return re.compile(rf"{there}|{asked}{project}(?=[=<>!~\[;@\s]|$)|{forge}")


def _looks_at_other_commits(words: list[str], chat_text: str) -> bool:
    """Tell whether git is asked for something that may lie behind the task's base.

    A trunk's name alone can be the agent's own branch: `git diff main` is no peek, unlike
    `git diff HEAD main`, `git show main:a.py` and `git checkout main`.
    """
    fetches, shows, moves = (word_list(f"git {kind}") for kind in ("fetching", "showing", "moving"))
    while words and words[0] not in fetches | shows | moves:
        words = words[1:]
    subcommand = words[0] if words else ""
    words = words[1 : words.index("--") if "--" in words else None]  # paths stand behind
    if subcommand in fetches or any(map(_EVERY_REF.match, words)):
        return True
    if subcommand == "grep":  # its first operand is the pattern
        words = [word for word in words if not word.startswith("-")][1:]
    with_head = any(word.startswith("HEAD") for word in words)
    for word in words:
        compares = subcommand in moves or with_head or ":" in word or ".." in word
        for ref in re.split(r"\.\.+|[\^~]", word.removeprefix("--source=").partition(":")[0]):
            trunk = compares and ref in word_list("trunks")
            if trunk and (f"On branch {ref}\n" in chat_text or f"* {ref}\n" in chat_text):
                trunk = False  # the agent's own branch
            if trunk or _OTHER_REF.match(ref):
                return True
    return False
