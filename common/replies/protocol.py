"""Reading one agent reply: is it whole, which command does it run, does it keep the rules of its chat.

A reply is what the agent says in one turn: a THOUGHT in prose, then one ```bash block. The block is found by
the rule of mini-swe-agent v1, whose parser decides what would really have been run. The command is then split
as a shell would (quotes, heredocs, pipes, subshells), so that `grep "cd "` is no `cd`. Nothing here calls a
model.
"""

import re

from common.replies.shell import Command, split_commands

# mini-swe-agent v1: exactly one match of this in a reply, else the turn is refused.
_BASH_BLOCK = re.compile(r"```bash\s*\n(.*?)\n```", re.DOTALL)
_FENCE_LINE = re.compile(r"^[ \t]*```[^`\n]*$", re.MULTILINE)
_THINK_OPENS = re.compile(r"<think(?:ing)?>|◁think▷", re.IGNORECASE)  # ◁▷: Kimi's older models
_THINK_ENDS = re.compile(r"</think(?:ing)?>|◁/think▷", re.IGNORECASE)
# Tokens of chat templates and tool calls that providers let through: Kimi and Qwen (<|...|>), DeepSeek
# (full-width bars), Hermes (<tool_call>).
_RAW_TOKEN = re.compile(
    r"<\|(?:tool_calls?|im|end|start|message|channel|return|call|media|python_tag|eot|assistant|user|system"
    r"|fim|endoftext)[A-Za-z_]*\|>|<｜[^<>\n]{1,40}｜>|</?tool_calls?>|</?tool_response>|<\|tool_call>"
    r"|<tool_call\|>"
)


# --------------------------------------------------------------------------------------------------- the text


def visible_text(content: str) -> str:
    """The answer without inline reasoning: `<think>...</think>` is cut, also when one tag is missing."""
    return _THINK_OPENS.split(_THINK_ENDS.split(content)[-1], maxsplit=1)[0].strip()


def format_problem(reply: str) -> str | None:
    """Why this text is no reply at all (empty, raw tokens, reasoning left in, cut off), else None."""
    if not reply or not reply.strip():
        return "the reply is empty"
    if _RAW_TOKEN.search(reply):
        return "the reply holds raw tool-call or chat-template tokens"
    if _THINK_OPENS.search(reply) or _THINK_ENDS.search(reply):
        return "the reply holds a <think> tag"
    if len(_FENCE_LINE.findall(reply)) % 2:
        return "the reply is cut off: a code block is never closed"
    return None


def format_ok(reply: str) -> bool:
    return format_problem(reply) is None


def bash_blocks(reply: str) -> list[str]:
    """The commands of all ```bash blocks, as mini-swe-agent v1 finds them."""
    return [match[1].strip() for match in _block_matches(reply)]


def thought(reply: str) -> str:
    """All prose of a reply: everything but its ```bash blocks."""
    ends = [
        0,
        *(position for match in _block_matches(reply) for position in match.span()),
        len(reply),
    ]
    return "\n".join(reply[start:end] for start, end in zip(ends[::2], ends[1::2]))


def _block_matches(reply: str) -> list[re.Match]:
    last_fence = reply.rfind(
        "\n```"
    )  # no block closes after it: a search there would scan the rest in vain
    return (
        list(_BASH_BLOCK.finditer(reply, 0, last_fence + len("\n```"))) if last_fence >= 0 else []
    )


# -------------------------------------------------------------------------------------- the rules of the chat

_INTERPRETERS = set(
    """
    python python2 python3 pytest py.test tox nox pip pip3 ipython poetry uv pdm conda mamba unittest node
    nodejs npm npx yarn pnpm deno bun tsc jest mocha vitest cargo rustc go gofmt make cmake ninja bazel gcc
    g++ cc c++ clang clang++ java javac mvn mvnw gradle gradlew ant sbt scala kotlinc ruby bundle rake rspec
    gem perl php composer phpunit dotnet swift ghc cabal stack elixir mix erl lua Rscript julia""".split()
)
_SHELL_ESCAPES = {"bash", "sh", "zsh", "dash", "eval", "source", "."}
# `cd`, or `bash -c`, or plain: "do not run cd, python or make".
_NAMED_PROGRAM = re.compile(
    r"(?:[`,(]|\b(?:or|and|use|run|try|call|issue|invoke|like)\b)\s*`?"
    r"([\w+-]+(?:\.\w+)*)"
)
_COMMENT_NAMED = re.compile(
    r"#`?\s*comment|leading comment|comment line|\b(?:start|begin)\b.{0,60}\bcomment", re.IGNORECASE
)
_NEGATED = re.compile(
    r"\b(?:not|never|no|don['’]t|cannot|forbidden|prohibited|disallowed)\b", re.IGNORECASE
)
# "cd and make are not permitted"; a heading: "You must not use:", "FORBIDDEN:".
_BAN_AFTER = re.compile(
    r"\b(?:is|are) (?:(?:not|never) (?:allowed|permitted|available)|forbidden|prohibited"
    r"|disallowed|banned|unavailable)\b",
    re.IGNORECASE,
)
_BAN_HEADING = re.compile(
    r"\b(?:(?:not|never|don['’]t) (?:use|run|call|invoke|allowed|permitted)|forbidden"
    r"|prohibited|disallowed|banned)\b(?: \w+){0,3}:$",
    re.IGNORECASE,
)
_LIST_ITEM = re.compile(r"\s*(?:[-*•]|\d{1,2}[.)])[ \t]+")
_NEXT_BLOCK = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t])")


def forbidden_programs(messages: list[dict]) -> tuple[set[str], bool]:
    """What the chat's own system prompt forbids: (program names, whether a leading `# comment` is forbidden).

    SWE-ZERO forbids `cd`, interpreters, build tools, test runners, `bash -c` and leading comments;
    mini-swe-agent forbids nothing.
    """
    programs, comment_forbidden = set(), False
    system = "\n".join(str(m.get("content") or "") for m in messages if m.get("role") == "system")
    for forbidden in _prohibitions(system):
        programs |= set(_NAMED_PROGRAM.findall(forbidden)) & (
            {"cd"} | _INTERPRETERS | _SHELL_ESCAPES
        )
        if re.search(r"interpreter|build tool|test runner|compiler", forbidden, re.IGNORECASE):
            programs |= _INTERPRETERS
        comment_forbidden = comment_forbidden or bool(_COMMENT_NAMED.search(forbidden))
    return programs, comment_forbidden


def _prohibitions(system: str) -> list[str]:
    """What is forbidden, in pieces: the words after a negation, before "is not allowed", under a heading."""
    found, list_banned = [], False
    for block in _NEXT_BLOCK.split(system):
        item = _LIST_ITEM.match(block)
        banned = list_banned = list_banned and bool(item)
        text = " ".join(block[item.end() if item else 0 :].split())
        for sentence in re.split(r"(?<=[.!?:;])\s+|\s[-*]\s", text):
            negation, ban = _NEGATED.search(sentence), _BAN_AFTER.search(sentence)
            listed = (
                "," + sentence[:1].lower() + sentence[1:]
            )  # the comma lets its first word count
            if banned:
                found.append(listed)
            elif ban and not re.match(r"(?:if|when|where|unless)\b", sentence, re.IGNORECASE):
                found.append(listed[: ban.start() + 1])
            if negation:
                found.append(sentence[negation.end() :])
            banned = _BAN_HEADING.search(sentence) is not None
        list_banned = list_banned or banned
    return found


def _run_programs(commands: list[Command]) -> list[str]:
    """The programs that the commands run, also those of `find -exec`."""
    found = []
    for command in commands:
        argv = command.argv
        found.append(command.program)
        if command.program == "find":
            found += [
                argv[i + 1].rsplit("/", 1)[-1]
                for i, word in enumerate(argv[:-1])
                if word in ("-exec", "-execdir", "-ok", "-okdir")
            ]
    return found


def _unversioned(program: str) -> str:
    """`python3.11` -> `python`: who forbids one forbids all."""
    return re.sub(r"(?<=[a-z])\d[\d.]*$", "", program)


def protocol_problem(reply: str, messages: list[dict]) -> str | None:
    """Why the reply breaks the agent's protocol, in a few plain words, or None when it keeps it.

    Exactly one ```bash block with a command in it and a thought in prose before it, whole, without raw
    tokens, and nothing that the chat's own system prompt forbids.
    """
    if problem := format_problem(reply):
        return problem
    blocks = bash_blocks(reply)
    if len(blocks) != 1:
        return f"the reply holds {len(blocks)} ```bash blocks; exactly one is asked for"
    try:
        commands = split_commands(blocks[0])
    except ValueError as error:
        return f"the command is cut short ({error}); a ``` line inside it ends the block"
    if not any(command.words or command.written_files for command in commands):
        return "the ```bash block holds no command"
    before = reply[: _block_matches(reply)[0].start()]
    if not re.search(r"\w", re.sub(r"^\W*THOUGHT\W*", "", before, flags=re.IGNORECASE)):
        return "no THOUGHT stands before the command"
    programs, comment_forbidden = forbidden_programs(messages)
    if comment_forbidden and blocks[0].startswith("#"):
        return "the command starts with a # comment, which this chat's system prompt forbids"
    families = {_unversioned(program) for program in programs}
    for program in _run_programs(commands):
        if _unversioned(program) in families:
            return f"the command runs `{program}`, which this chat's system prompt forbids"
    return None


# ------------------------------------------------------------------------------------ what kind of move it is

# From the strongest: a chain counts as its strongest part.
STYLES = ("submit", "edit", "run", "git", "read", "search", "look", "other")
_SEARCHERS = {"grep", "egrep", "fgrep", "rg", "ag", "ack", "locate", "which", "whereis"}
_READERS = {
    "cat",
    "head",
    "tail",
    "less",
    "more",
    "nl",
    "sed",
    "awk",
    "bat",
    "diff",
    "od",
    "xxd",
    "strings",
}
_LISTERS = {"ls", "tree", "pwd", "stat", "file", "wc", "du", "find", "fd"}
_EDITORS = {
    "cp",
    "mv",
    "rm",
    "mkdir",
    "rmdir",
    "touch",
    "ln",
    "patch",
    "tee",
    "chmod",
    "dd",
    "truncate",
}
_WRITES_IN_SCRIPT = re.compile(
    r"""open\([^)\n]*,\s*['"][wax]|\.write(?:_text|lines)?\(|writeFile"""
)


def _command_style(command: Command) -> str:
    program, arguments = command.program, command.argv[1:]
    operands = [argument for argument in arguments if not argument.startswith("-")]
    options = [argument for argument in arguments if argument.startswith("-")]
    script = "\n".join([*command.heredocs, *arguments])
    if program in ("echo", "printf") and "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT" in script:
        return "submit"
    if command.written_files or program in _EDITORS:
        return "edit"
    if program in ("sed", "perl") and any(
        re.match(r"-[a-zA-Z]*i|--in-place", option) for option in options
    ):
        return "edit"
    if program in _INTERPRETERS | _SHELL_ESCAPES or re.search(
        r"\.(?:py|sh|js|rb)$|(?:^|/)run", program
    ):
        return "edit" if _WRITES_IN_SCRIPT.search(script) else "run"
    if program == "git":
        subcommand = operands[0] if operands else ""
        return {"apply": "edit", "grep": "search", "ls-files": "look"}.get(subcommand, "git")
    if (
        program in _SEARCHERS
        or program in ("find", "fd")
        and re.search(r"-i?(?:name|path|regex)\b", script)
    ):
        return "search"
    if (
        program in _READERS
    ):  # `| head -20` reads no file: it only trims what another command printed
        needed = 2 if program in ("sed", "awk") else 1
        numbers = sum(1 for operand in operands if operand.isdigit())
        return (
            "read"
            if len(operands) - numbers >= needed or command.redirects and not numbers
            else "other"
        )
    return "look" if program in _LISTERS else "other"


def action_style(reply: str) -> str:
    """What kind of command the reply runs: one of STYLES."""
    try:
        found = {
            _command_style(command)
            for block in bash_blocks(reply)
            for command in split_commands(block)
        }
    except ValueError:
        return "other"
    return next((style for style in STYLES if style in found), "other")
