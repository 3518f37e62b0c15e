"""The rules by which the local server answers in a model's place.

What is asked is recognised by the prompt: a judge's (two replies between marks), a choice among
blind replies, a challenger's (the hidden PR record follows the chat's last turn), else the king's
(the bare chat).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

from common.audit.protocol import action_style, bash_blocks, fence_of, protocol_problem
from common.config import METRICS

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
    """Return a model's reply to a chat request; the same request always gets the same reply."""
    messages = body.get("messages") or [{"role": "user", "content": ""}]
    system = messages[0]["content"]
    last = messages[-1]["content"]
    if "judge" in system and "efficiency" in system:
        return judge(last, body.get("model") or "")
    if "auditor" in system and "quote_1" in system:
        return json.dumps({"reply_1": 0, "reply_2": 0, "quote_1": "", "quote_2": ""})
    if "You choose among replies" in system:
        return choose(last)
    briefing = _BRIEFING.search(last)
    if briefing:
        visible = {**messages[-1], "content": last[: briefing.start()]}
        reply = challenger(Seen([*messages[:-1], visible]), last[briefing.start() :])
    else:
        reply = king(Seen(messages))
    return reply.replace("```bash", "```" + fence_of(messages))


class Seen:
    """What an agent knows from its chat: the issue's words, paths printed, commands run so far."""

    def __init__(self, messages: list[dict]):
        shown = [message["content"] for message in messages if message["role"] != "system"]
        users = [message["content"] for message in messages if message["role"] == "user"]
        replies = [message["content"] for message in messages if message["role"] == "assistant"]
        issue = users[0] if users else ""
        words = [quoted or bare for quoted, bare in _CODE_WORD.findall(issue)]
        self.messages = messages
        self.fence = fence_of(messages)
        self.shown = "\n".join(shown)
        self.paths = list(dict.fromkeys(_PATH.findall("\n".join(users[1:]))))
        self.commands = [command for reply in replies for command in bash_blocks(reply, self.fence)]
        self.edited = any(action_style(reply, self.fence) == "edit" for reply in replies)
        self.words = list(dict.fromkeys(words))
        # Chance, the same for the same chat.
        self.dice = crc32(self.shown.encode("utf-8", "replace"))

    def was_read(self, path: str) -> bool:
        return any(path in command for command in self.commands)

    def unread(self) -> list[str]:
        return [path for path in self.paths if not self.was_read(path)]

    def is_new(self, command: str) -> bool:
        return command not in self.commands


def turn(thought: str, command: str) -> str:
    return f"THOUGHT: {thought}\n\n```bash\n{command}\n```"


# ---------------------------------------------------------------------------------- the two agents


def king(seen: Seen) -> str:
    """Explore plainly: look around, search for a word of the issue, read; or break the form."""
    unread = seen.unread()
    kind = seen.dice % 10
    if kind < 3 and unread:
        path = unread[-1]
        return turn(f"{path} came up in the output. I'll read it.", f"cat {path}")
    if kind < 6 and seen.words:
        word = seen.words[seen.dice % len(seen.words)]
        return turn(f"I'll search for `{word}`, which the issue mentions.", f"grep -rn '{word}' .")
    if kind == 6 and seen.commands:
        return turn("Let me look at that again, to be sure.", seen.commands[-1])
    if kind == 7:
        thought = (
            "I want to know the whole layout of the repository before I go on. There may be "
            "further folders with sources, tests or documents that matter for the issue, so I "
            "list them all."
        )
        return turn(thought, "ls -laR . | head -200")
    if kind == 8:
        listing = turn("I'll list the files and see what has changed.", "ls")
        return listing + "\n\n```bash\ngit status\n```"
    return turn("I'll get an overview of the files first.", "find . -type f | head -50")


def challenger(seen: Seen, briefing: str) -> str:
    """Make a good next move from what the chat shows; the record only picks among such moves."""
    listed = re.search(r"Files changed:\n(.*?)\n\n", briefing + "\n\n", re.DOTALL)
    wanted = listed[1].split() if listed else []
    unread = sorted(seen.unread(), key=lambda path: path not in wanted)
    if seen.edited and seen.is_new("git diff"):
        thought = "The change is made. I'll look at all of it once more before I submit."
        return turn(thought, "git diff")
    if seen.edited:
        thought = "The change does what the issue asks for, and the diff holds nothing else."
        return turn(thought, _SUBMIT)
    if unread:
        thought = (
            f"{unread[0]} turned up in the output and has not been read yet. It is the best lead "
            "so far, so I read it before I change anything."
        )
        return turn(thought, f"cat {unread[0]}")
    for word in seen.words:
        if f"'{word}'" not in "\n".join(seen.commands):
            thought = f"The issue speaks of `{word}`. I'll find where it is defined and used."
            return turn(thought, f"grep -rn '{word}' .")
    if seen.paths:
        known = [path for path in seen.paths if path in wanted]
        path = (known or seen.paths)[0]
        thought = (
            f"I have seen what matters. I'll print {path} with line numbers, so that the edit "
            "hits the right lines."
        )
        return turn(thought, f"cat -n {path}")
    return turn("I'll list the files under version control.", "git ls-files")


# -------------------------------------------------------------------------------------- the judges


@dataclass
class Move:
    """What a judge by rule sees in one reply, higher is better each time."""

    correctness: float
    grounding: float
    progress: float
    protocol: float
    efficiency: float


def rate(reply: str, seen: Seen) -> Move:
    """Rate one reply by its form, its first command and what the chat has shown."""
    problem = protocol_problem(reply, seen.messages)
    command = (bash_blocks(reply, seen.fence) or [""])[0]
    style = action_style(reply, seen.fence)
    paths = _PATH.findall(command)
    unseen = sum(path not in seen.shown for path in paths)
    again = not seen.is_new(command)
    detour = style == "look" and bool(seen.commands)  # looks around again, after the beginning
    step = {"look": 1, "search": 2, "read": 3, "git": 2, "edit": 1}.get(style, 0)
    if style == "edit" and paths and all(seen.was_read(path) for path in paths):
        step = 5
    elif style in ("git", "submit") and seen.edited:
        step = 4
    # Words of the issue, and paths seen, tie a move to the task.
    tied = len(paths) - 2 * unseen + sum(word in reply for word in seen.words[:4]) / 4
    return Move(
        correctness=0 if problem else step - 2 * (again + unseen),
        grounding=min(tied, 2),
        progress=step - 3 * again - detour,
        protocol=-bool(problem),
        efficiency=-len(reply) / 200 - 3 * again - 2 * detour,
    )


@dataclass
class Taste:
    """How far apart two replies must be on a metric for a judge to see a difference.

    Where he sees none the call is equal; but on the metric that he leans on it goes to the reply
    shown last: a position bias.
    """

    correctness: float
    grounding: float
    progress: float
    efficiency: float
    protocol: float = 0.5
    leans_on: str = ""


_TASTES = {
    "kimi": Taste(correctness=0.5, grounding=0.5, progress=0.5, efficiency=0.7),
    "qwen": Taste(correctness=1.5, grounding=0.2, progress=1.0, efficiency=1.2),
    "deepseek": Taste(1.0, grounding=1.0, progress=0.5, efficiency=0.2, leans_on="efficiency"),
}


def choose(prompt: str) -> str:
    """Return the number of the reply that makes most progress, the first of equals."""
    seen = _judged_chat(prompt)
    count = len(re.findall(r"=== \w+ END OF REPLY \d+ ===", prompt))
    moves = [rate(_judged_reply(prompt, f"REPLY {n}"), seen) for n in range(1, count + 1)]
    merits = [move.progress + move.correctness + move.grounding for move in moves]
    best = 1 + merits.index(max(merits))
    return json.dumps({"best": best, "reason": "By rule it makes most progress."})


def judge(prompt: str, model: str) -> str:
    """Return one JSON verdict on the two replies of a judge's prompt."""
    seen = _judged_chat(prompt)
    first = rate(_judged_reply(prompt, "REPLY 1"), seen)
    second = rate(_judged_reply(prompt, "REPLY 2"), seen)
    taste = _TASTES["kimi"]
    for name in _TASTES:
        if name in model.lower():
            taste = _TASTES[name]
    verdict: dict = {}
    for metric in METRICS:
        lead = getattr(first, metric, 0) - getattr(second, metric, 0)  # no rule for it: equal
        if lead and abs(lead) >= getattr(taste, metric):
            verdict[metric] = 1 if lead > 0 else 2
        else:
            verdict[metric] = 2 if taste.leans_on == metric else 0
    verdict["reason"] = _reason(verdict)
    answer = json.dumps(verdict)
    if "deepseek" in model.lower():
        return f"Here is my verdict.\n\n```json\n{answer}\n```"
    return answer


def _judged_chat(prompt: str) -> Seen:
    chat = [{"role": role, "content": text} for _, role, text in _JUDGED_MESSAGE.findall(prompt)]
    return Seen(chat)


def _judged_reply(prompt: str, name: str) -> str:
    return re.search(_JUDGED_REPLY.format(name=name), prompt, re.DOTALL)[2]


def _reason(calls: dict[str, int]) -> str:
    """Say who is ahead, and on which metrics."""
    first = [metric for metric, call in calls.items() if call == 1]
    second = [metric for metric, call in calls.items() if call == 2]
    if len(first) > len(second):
        return f"Reply 1 is ahead by rule ({', '.join(first)})."
    if len(second) > len(first):
        return f"Reply 2 is ahead by rule ({', '.join(second)})."
    return "Neither reply is ahead by rule."


# ------------------------------------------------------------------------------------ asked again


def sampled_replies() -> Callable[[dict], str]:
    """Return a `rule_reply` that may say something else when it is asked the same again."""
    asked: Counter = Counter()

    def reply(body: dict) -> str:
        *before, last = body["messages"]
        chat = json.dumps(body["messages"])
        other = {**last, "content": last["content"] + "\n" * asked[chat]}  # another throw of dice
        asked[chat] += 1
        return rule_reply({**body, "messages": [*before, other]})

    return reply
