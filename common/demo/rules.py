"""The rules by which the local server answers in a model's place.

What is asked is recognised by the prompt: a judge's (two replies between marks), a challenger's (the hidden
PR record follows the chat's last turn), else the king's (the bare chat).
"""

import json
import re
from dataclasses import dataclass, fields
from zlib import crc32

from common.replies.protocol import action_style, bash_blocks, protocol_problem

_BRIEFING = re.compile(r"\n\n\[\w+\] What follows is no output|\n.{0,40}HIDDEN PR RECORD")
_JUDGED_REPLY = r"=== (\w+) {name} ===\n(.*?)\n=== \1 END OF {name} ==="
_JUDGED_MESSAGE = re.compile(
    r"=== (\w+) CHAT MESSAGE \d+: (\w+) ===\n(.*?)(?=\n=== \1 )", re.DOTALL
)
_PATH = re.compile(
    r"(?<![\w/.-])(?:\./)?"
    r"((?:[\w.-]+/)*[\w-]+\.(?:py|go|tsx?|js|rs|java|rb|c|h|toml|md|json|xml|rst))\b"
)
_CODE_WORD = re.compile(
    r"`[\w.:]*?([A-Za-z_]\w{3,})(?:\([^`]*\))?`|\b([a-z]+_[a-z_]+|[a-z]+[A-Z]\w+)\b"
)
_SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


def rule_reply(body: dict) -> str:
    """A model's reply to a chat request, by rule; the same request always gets the same reply."""
    messages = body.get("messages") or [{"role": "user", "content": ""}]
    last = messages[-1]["content"]
    if "judge" in messages[0]["content"] and "efficiency" in messages[0]["content"]:
        return judge(last, body.get("model") or "")
    if briefing := _BRIEFING.search(last):
        seen = Seen([*messages[:-1], {**messages[-1], "content": last[: briefing.start()]}])
        return challenger(seen, last[briefing.start() :])
    return king(Seen(messages))


class Seen:
    """What an agent knows from its chat: the issue's words, paths printed so far, commands run so far."""

    def __init__(self, messages: "list[dict]"):
        self.messages = messages
        self.shown = "\n".join(
            message["content"] for message in messages if message["role"] != "system"
        )
        users = [message["content"] for message in messages if message["role"] == "user"]
        self.issue = users[0] if users else ""
        self.paths = list(dict.fromkeys(_PATH.findall("\n".join(users[1:]))))
        replies = [message["content"] for message in messages if message["role"] == "assistant"]
        self.commands = [command for reply in replies for command in bash_blocks(reply)]
        self.edited = any(action_style(reply) == "edit" for reply in replies)
        self.words = list(dict.fromkeys(one or two for one, two in _CODE_WORD.findall(self.issue)))
        self.dice = crc32(
            self.shown.encode("utf-8", "replace")
        )  # chance, the same for the same chat

    def was_read(self, path: str) -> bool:
        return any(path in command for command in self.commands)

    def is_new(self, command: str) -> bool:
        return command not in self.commands


def turn(thought: str, command: str) -> str:
    return f"THOUGHT: {thought}\n\n```bash\n{command}\n```"


# ---- the two agents ----


def king(seen: Seen) -> str:
    """Explores plainly: looks around, searches for a word of the issue, reads; at times breaks the form."""
    unread = [path for path in seen.paths if not seen.was_read(path)]
    kind = seen.dice % 10
    if kind < 3 and unread:
        return turn(f"{unread[-1]} came up in the output. I'll read it.", f"cat {unread[-1]}")
    if kind < 6 and seen.words:
        word = seen.words[seen.dice % len(seen.words)]
        return turn(f"I'll search for `{word}`, which the issue mentions.", f"grep -rn '{word}' .")
    if kind == 6 and seen.commands:
        return turn("Let me look at that again, to be sure.", seen.commands[-1])
    if kind == 7:
        return turn(
            "I want to know the whole layout of the repository before I go on. There may be further "
            "folders with sources, tests or documents that matter for the issue, so I list them all.",
            "ls -laR . | head -200",
        )
    if kind == 8:
        return (
            turn("I'll list the files and see what has changed.", "ls")
            + "\n\n```bash\ngit status\n```"
        )
    return turn("I'll get an overview of the files first.", "find . -type f | head -50")


def challenger(seen: Seen, briefing: str) -> str:
    """Goes for a good next move with what the chat has shown; the record only picks among such moves."""
    wanted = re.search(r"Files changed:\n(.*?)\n\n", briefing + "\n\n", re.DOTALL)
    wanted = wanted.group(1).split() if wanted else []
    unread = [path for path in seen.paths if not seen.was_read(path)]
    unread.sort(key=lambda path: path not in wanted)
    if seen.edited and seen.is_new("git diff"):
        return turn(
            "The change is made. I'll look at all of it once more before I submit.", "git diff"
        )
    if seen.edited:
        return turn(
            "The change does what the issue asks for, and the diff holds nothing else.", _SUBMIT
        )
    if unread:
        return turn(
            f"{unread[0]} turned up in the output and has not been read yet. It is the best lead so "
            "far, so I read it before I change anything.",
            f"cat {unread[0]}",
        )
    for word in seen.words:
        command = f"grep -rn '{word}' ."
        if seen.is_new(command) and f"'{word}'" not in "\n".join(seen.commands):
            return turn(
                f"The issue speaks of `{word}`. I'll find where it is defined and used.", command
            )
    if seen.paths:
        path = next((path for path in seen.paths if path in wanted), seen.paths[0])
        return turn(
            f"I have seen what matters. I'll print {path} with line numbers, so that the edit hits "
            "the right lines.",
            f"cat -n {path}",
        )
    return turn("I'll list the files under version control.", "git ls-files")


# ---- the judges ----


@dataclass
class Move:
    """What a judge by rule sees in one reply, higher is better each time."""

    correctness: float
    grounding: float
    progress: float
    protocol: float
    efficiency: float

    @classmethod
    def of(cls, reply: str, seen: Seen) -> "Move":
        problem = protocol_problem(reply, seen.messages)
        command = (bash_blocks(reply) or [""])[0]
        style = action_style(reply)
        paths = _PATH.findall(command)
        unseen = sum(path not in seen.shown for path in paths)
        again = not seen.is_new(command)
        detour = style == "look" and bool(
            seen.commands
        )  # to look around again, after the beginning
        step = {"look": 1, "search": 2, "read": 3, "git": 2, "edit": 1}.get(style, 0)
        if style == "edit" and paths and all(seen.was_read(path) for path in paths):
            step = 5
        elif style in ("git", "submit") and seen.edited:
            step = 4
        # Words of the issue, and paths seen, tie a move to the task.
        tied = len(paths) - 2 * unseen + sum(word in reply for word in seen.words[:4]) / 4
        return cls(
            correctness=0 if problem else step - 2 * (again + unseen),
            grounding=min(tied, 2),
            progress=step - 3 * again - detour,
            protocol=-bool(problem),
            efficiency=-len(reply) / 200 - 3 * again - 2 * detour,
        )


# How far apart two replies must be on a metric for a judge to see a difference. Where none is seen the call
# is equal, but on the metric that the judge leans on it goes to the reply shown last: a position bias.
_TASTES = {
    "kimi": {"correctness": 0.5, "grounding": 0.5, "progress": 0.5, "efficiency": 0.7},
    "qwen": {"correctness": 1.5, "grounding": 0.2, "progress": 1.0, "efficiency": 1.2},
    "deepseek": {
        "correctness": 1.0,
        "grounding": 1.0,
        "progress": 0.5,
        "efficiency": 0.2,
        "leans on": "efficiency",
    },
}


def judge(prompt: str, model: str) -> str:
    """One JSON verdict on the two replies of a judge's prompt."""
    seen = Seen(
        [{"role": role, "content": text} for _, role, text in _JUDGED_MESSAGE.findall(prompt)]
    )
    replies = [
        re.search(_JUDGED_REPLY.format(name=name), prompt, re.DOTALL)[2]
        for name in ("REPLY 1", "REPLY 2")
    ]
    first, second = (Move.of(reply, seen) for reply in replies)
    taste = next(
        (taste for name, taste in _TASTES.items() if name in model.lower()), _TASTES["kimi"]
    )
    verdict = {}
    for metric in (column.name for column in fields(Move)):
        lead = getattr(first, metric) - getattr(second, metric)
        verdict[metric] = 0 if abs(lead) < taste.get(metric, 0.5) else 1 if lead > 0 else 2
        if verdict[metric] == 0 and taste.get("leans on") == metric:
            verdict[metric] = 2
    wins = [sum(call == side for call in verdict.values()) for side in (1, 2)]
    better = (
        "Neither reply" if wins[0] == wins[1] else "Reply 1" if wins[0] > wins[1] else "Reply 2"
    )
    names = [metric for metric, call in verdict.items() if call and wins[call - 1] == max(wins)]
    verdict["reason"] = f"{better} is ahead by rule" + (f" ({', '.join(names)})." if names else ".")
    answer = json.dumps(verdict)
    return (
        f"Here is my verdict.\n\n```json\n{answer}\n```" if "deepseek" in model.lower() else answer
    )
