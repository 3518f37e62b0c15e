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
_GIT_FILES = re.compile(r"\.git/(?:packed-refs|FETCH_HEAD|ORIG_HEAD|refs/|logs/|objects)")


def may_peek(messages: list[dict]) -> bool:
    """Tell whether some command names what a peek needs: cheap, and without a record."""
    fence = fence_of(messages)
    replies = [message["content"] for message in messages if message["role"] == "assistant"]
    blocks = [block for reply in replies for block in commands_said(reply, fence)]
    named = set(re.findall(r"[\w-]+", "\n".join(blocks).lower()))
    needed = [word_list(section) for section in ("installers", "network", "installed copies")]
    return not named.isdisjoint(frozenset().union(*needed))


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
    folders = [path.removeprefix("src/").removeprefix("lib/") for path in record.paths]
    tops = {folder.split("/")[0] for folder in folders if "/" in folder}
    # The project and its top folders are named as packages are.
    names = {record.repo.rsplit("/", 1)[-1], *(tops - word_list("no package"))} - {""}
    copy, registry_page = _copies(frozenset(name.lower().replace("_", "-") for name in names))
    fetchers = word_list("installers") | word_list("network")
    found = []
    for command in commands:
        text = " ".join([*command.argv, *command.heredocs]).lower()
        plain = text.replace("_", "-")
        peeks_here = any(map(_GIT_FILES.search, command.argv)) or copy.search(plain)
        if command.program == "git":
            peeks_here = peeks_here or _looks_at_other_commits(command, chat_text)
        if not fetchers.isdisjoint(re.findall(r"[\w-]+", text)):
            on_forge = any(forge in text for forge in word_list("forges"))
            its_page = record.repo and record.repo in text and on_forge
            peeks_here = peeks_here or its_page or registry_page.search(plain)
        if peeks_here:
            found.append(" ".join(command.argv)[:200])
    return found


@lru_cache(maxsize=64)
def _copies(names: frozenset[str]) -> tuple[re.Pattern, re.Pattern]:
    """Return what names a copy of the project: an installed one or an installer's, a registry's."""

    def any_of(words: frozenset[str]) -> str:
        return "|".join(re.escape(word.replace("_", "-")) for word in words) or "(?!)"

    project = any_of(names)
    sections = ("installed copies", "installers", "installer verbs", "registries")
    folders, installers, verbs, registries = (any_of(word_list(section)) for section in sections)
    here = (
        rf"(?:^|[ /])(?:{folders})/(?:\S{{0,200}}/)?"
        rf"(?:{project})(?:-[^/ -]*)?(?:@[^/ ]*)?(?=[/ ]|$)"
    )
    asked = (
        rf"^(?:python\S* -m )?(?:{installers})(?: \S+){{0,2}} (?:{verbs}) (?:.* )?(?![./])"
        rf"(?:\S{{0,200}}/)?(?:{project})(?=[=<>!~\[;@\s]|$)|^gh (?:pr|api|search|browse)(?!\S)"
    )
    there = rf"(?:{registries})/(?:\S{{0,200}}/)?(?:{project})(?=[/\s'\"]|$)"
    return re.compile(f"{here}|{asked}"), re.compile(there)


def _looks_at_other_commits(command: Command, chat_text: str) -> bool:
    """Tell whether git is asked for something that may lie behind the task's base.

    A trunk's name alone can be the agent's own branch: `git diff main` is no peek, but
    `git diff HEAD main`, `git show main:a.py` and `git checkout main` are.
    """
    words = command.argv[1:]
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] in ("-C", "-c") else words[1:]
    subcommand = words[0] if words else ""
    words = words[1 : words.index("--") if "--" in words else None]  # paths stand behind
    shows = subcommand in word_list("git showing")
    moves = subcommand in word_list("git moving")
    if subcommand in word_list("git fetching") or shows and any(map(_EVERY_REF.match, words)):
        return True
    if not (shows or moves):
        return False
    words = [word.removeprefix("--source=") for word in words]
    words = [word for word in words if not word.startswith("-")]
    if subcommand == "grep":
        words = words[1:]  # the pattern
    with_head = any(word.startswith("HEAD") for word in words)
    for word in words:
        compares = moves or with_head or ":" in word or ".." in word
        for ref in re.split(r"\.{2,3}", word.partition(":")[0]):
            ref = re.split(r"[\^~]", ref)[0]
            on_it = f"On branch {ref}\n" in chat_text or f"* {ref}\n" in chat_text
            if _OTHER_REF.match(ref) or compares and ref in word_list("trunks") and not on_it:
                return True
    return False
