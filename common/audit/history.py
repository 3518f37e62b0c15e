"""Find peeking: looks at later commits, at other branches, at a copy of the project.

`git log`, `blame`, `status`, `show HEAD` and a diff of one's own edits are free. A repository may
hold the very fix that is asked for: a chat that shows it teaches peeking, whoever wrote it.
"""

import re

from common.audit.protocol import commands_said, fence_of
from common.audit.shell import Command
from common.audit.texts import Chat, Record, read_record, squeeze
from common.audit.words import words

_EVERY_REF = re.compile(r"--(?:all|branches|remotes|tags|reflog|walk-reflogs|glob)(?:=.*)?$|-g$")
_OTHER_REF = re.compile(
    r"(?:refs/)?(?:remotes/)?(?:origin|upstream|fork)/[\w./-]+$|refs/[\w./-]+$"
    r"|(?:FETCH|ORIG|MERGE)_HEAD$|[\w./-]*@\{[^{}]+\}$|origin$|upstream$|v?\d+\.\d+(?:\.[\w.]+)?$"
)
_GIT_FILES = ("packed-refs", "FETCH_HEAD", "ORIG_HEAD", "refs/", "logs/", "objects")


def may_peek(messages: list[dict]) -> bool:
    """Tell whether some command names what a peek needs: cheap, and without a record."""
    fence = fence_of(messages)
    replies = [message["content"] for message in messages if message["role"] == "assistant"]
    blocks = [block for reply in replies for block in commands_said(reply, fence)]
    named = {word for block in blocks for word in _words(block)}
    return not named.isdisjoint(words("installers") | words("network") | words("installed copies"))


def _words(text: str) -> list[str]:
    return re.findall(r"[\w-]+", text.lower())


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
    names = _names_of_project(record)
    found = []
    for command in commands:
        in_git = any(f".git/{name}" in word for word in command.argv for name in _GIT_FILES)
        by_git = command.program == "git" and _looks_at_other_commits(command, chat_text)
        if in_git or by_git or _reaches_a_copy(command, record.repo, names):
            found.append(" ".join(command.argv)[:200])
    return found


def _looks_at_other_commits(command: Command, chat_text: str) -> bool:
    """Tell whether git is asked for something that may lie behind the task's base.

    A trunk's name alone can be the agent's own branch: `git diff main` is no peek, but
    `git diff HEAD main`, `git show main:a.py` and `git checkout main` are.
    """
    operands = command.argv[1:]
    while operands and operands[0].startswith("-"):
        operands = operands[2:] if operands[0] in ("-C", "-c") else operands[1:]
    subcommand = operands[0] if operands else ""
    if subcommand in words("git fetching"):
        return True
    if subcommand not in words("git showing") | words("git moving"):
        return False
    if "--" in operands:
        operands = operands[: operands.index("--")]  # paths stand behind
    if subcommand in words("git showing") and any(_EVERY_REF.match(word) for word in operands):
        return True
    operands = [word.removeprefix("--source=").removeprefix("-s") for word in operands[1:]]
    operands = [word for word in operands if not word.startswith("-")]
    if subcommand == "grep":
        operands = operands[1:]  # the pattern
    puts_it_here = subcommand in words("git moving") or subcommand == "archive"
    with_head = any(word.startswith("HEAD") for word in operands)
    for word in operands:
        compares = puts_it_here or with_head or ":" in word or ".." in word
        for ref in word.partition(":")[0].replace("...", "..").split(".."):
            ref = ref.partition("^")[0].partition("~")[0]
            if _OTHER_REF.match(ref):
                return True
            on_it = f"On branch {ref}\n" in chat_text or f"* {ref}\n" in chat_text
            if compares and ref in words("trunks") and not on_it:
                return True
    return False


def _names_of_project(record: Record) -> set[str]:
    """Return the names of the project and of its top folders, as packages are named."""
    folders = [path.removeprefix("src/").removeprefix("lib/") for path in record.paths]
    tops = {folder.split("/")[0] for folder in folders if "/" in folder}
    names = {record.repo.rsplit("/", 1)[-1], *(tops - words("no package"))} - {""}
    return {name.lower().replace("_", "-") for name in names}


def _reaches_a_copy(command: Command, repo: str, names: set[str]) -> bool:
    """Tell whether the command reads or gets another copy of the project.

    An installed one, one that an installer is asked for, one of a forge or a registry.
    """
    argv = [word.lower() for word in command.argv]
    for word in argv:
        folders = word.split("/")
        for installed in words("installed copies").intersection(folders):
            for folder in folders[folders.index(installed) + 1 :]:
                name = folder.replace("_", "-").partition("@")[0]
                if name in names or name.rpartition("-")[0] in names:
                    return True
    if argv[:1] == ["gh"] and argv[1:2] in (["pr"], ["api"], ["search"], ["browse"]):
        return True
    if len(argv) > 3 and argv[0].startswith("python") and argv[1] == "-m":
        argv = argv[2:]
    program = argv[0] if argv else ""
    if program in words("installers") and not words("installer verbs").isdisjoint(argv[1:4]):
        for word in argv[2:]:
            wanted = re.split(r"[=<>!~\[;]|(?<=.)@", word)[0].rsplit("/", 1)[-1]
            if wanted.replace("_", "-") in names and word[0] not in "./":
                return True
    text = " ".join([*argv, *command.heredocs]).lower()
    if (words("installers") | words("network")).isdisjoint(_words(text)):
        return False
    if repo and any(forge in text for forge in words("forges")) and repo in text:
        return True
    in_registry = any(registry in text for registry in words("registries"))
    return in_registry and not names.isdisjoint(text.replace("_", "-").split("/"))
