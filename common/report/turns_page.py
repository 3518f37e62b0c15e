"""Write report/turns.html: the page to read and to label turns, one file that needs nothing else.

turns.html, turns.css, labels.js and turns.js lie beside this module and are put into one. Every
text of the page comes from models and datasets: control and direction marks are made visible here,
the data is JSON in which no tag can stand, and the page's own policy lets only its own script and
style run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

from pydantic_core import PydanticSerializationError, to_json

from common.audit.protocol import fence_of, protocol_problem
from common.config import METRICS
from common.report.rows import Turn, leak_hits
from common.turns import BUCKETS, OPPONENT, ORDERS, SIDES

HERE = Path(__file__).parent
MOST_TURNS = 5000  # of a page: some 12 MB, and a list that a browser still scrolls with ease
ALL_CHAT_CHARS = 12_000_000  # of the chats of all turns, half of it for what stands open
SHOWN_CHARS = 500  # at least, of the two messages that stand open: the task, the last output
MESSAGE_CHARS = 150  # at least, of each other message of a chat
TEXT_CHARS = 20_000  # of a reply, and of all else

# What the page's list has of a row, under the row's own names.
ENTRY = (
    "stem", "instance_id", "repo", "status", "bucket", "why", "score", "score_confirmed", "style",
    "step", "spread",
)  # fmt: skip

# What a screen would obey instead of showing: controls, zero-width and direction marks, tags, half
# characters; and accents piled so high that they cover the lines around.
OBEYED = re.compile(
    "\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
    "|[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{4,}"
)
ASCII = bytes(range(128))
# How ASCII's stand in JSON, where `\\b` in a text looks like one, too: then each text is looked at.
ASCII_OBEYED = re.compile(rb"\\[bfru]")


def turn_data(turn: Turn) -> tuple[dict, dict]:
    """Return what the page's list needs of a turn, and the texts that its reader sees."""
    row = turn.row
    answer = turn.answer
    score = turn.score or {}
    key = OPPONENT[row.mode]
    opponent = SIDES[key]
    replies = {opponent: answer[key], "challenger": answer["challenger"]}
    problems = {
        opponent: protocol_problem(answer[key], answer["messages"]) or "",
        "challenger": row.protocol_problem,
    }
    leaks = {side: leak_hits(answer["meta"].get(side, {})) or [] for side in replies}
    for side, quote in (score.get("reader") or {}).items():
        found = {"kind": "reader's test", "text": quote, "why": "the chat does not explain it"}
        leaks.setdefault(SIDES[side], []).append(found)
    counted = {*score.get("counted", []), *score.get("counted_confirmed", [])}
    verdicts = []
    for verdict in score.get("verdicts", []):
        # A score that validate.py has not made anew names none of those that it rests on.
        if verdict["look"] <= 2 and ("counted" not in score or verdict["key"] in counted):
            shown = {name: verdict[name] for name in ("judge", "order", "look")}
            shown["reason"] = shortened(verdict["reason"])
            calls = verdict["calls"] and [verdict["calls"][metric] for metric in METRICS]
            verdicts.append({**shown, "calls": calls})
    marks = [f"{side}: leak audit" for side in replies if leaks[side]]
    marks += [f"{side}: protocol" for side in replies if problems[side]]
    is_alike = answer[key] == answer["challenger"]
    entry = {
        **{name: getattr(row, name) for name in ENTRY},
        "file": row.path.as_posix(),
        "opponent": opponent,
        "marks": marks,
        "length": row.challenger_chars,
        # Identical replies are not put before a person, nor those that were never judged.
        "sha": row.label_sha if row.bucket and not is_alike else "",
    }
    texts = {
        "chat": [[message["role"], message["content"]] for message in answer["messages"]],
        "replies": replies,
        "fence": fence_of(answer["messages"]),
        "leaks": leaks,
        "problems": problems,
        "metrics": row.metrics,
        "by_judge": row.by_judge,
        "verdicts": verdicts,
    }
    return entry, texts


class Page:
    """turns.html, or a part of it, in the making."""

    def __init__(self, turns: int):
        """`turns` is how many the whole page has at most."""
        self.chat_chars = ALL_CHAT_CHARS // max(1, turns)
        self.entries: list[dict] = []
        self.texts: list[bytes] = []  # JSON, a turn each
        self.calls: Counter = Counter()  # by (judge, order, what it said of the challenger)

    def add(self, entry: dict, texts: dict) -> None:
        """Add what `turn_data` returns, the chat the shorter the more turns there are."""
        self.entries.append(entry)
        users = [at for at, (role, _) in enumerate(texts["chat"]) if role == "user"]
        open_chars = max(SHOWN_CHARS, self.chat_chars // 4)
        other_chars = max(MESSAGE_CHARS, self.chat_chars // 2 // len(texts["chat"]))
        chat = []
        for at, (role, text) in enumerate(texts["chat"]):
            chars = open_chars if at in (users[0], users[-1]) else other_chars
            chat.append([role, shortened(text, min(TEXT_CHARS, chars))])
        replies = {side: shortened(text) for side, text in texts["replies"].items()}
        self.texts.append(visible_json({**texts, "replies": replies, "chat": chat}))
        for verdict in texts["verdicts"]:
            if verdict["look"] == 1 and verdict["calls"]:
                challenger = 1 + ORDERS.index(verdict["order"])  # its place in this order
                for call, word in ((0, "draw"), (challenger, "win"), (3 - challenger, "loss")):
                    said = verdict["calls"].count(call)
                    self.calls[verdict["judge"], verdict["order"], word] += said

    def update(self, part: Page) -> None:
        """Add the turns of a part."""
        self.entries += part.entries
        self.texts += part.texts
        self.calls.update(part.calls)

    def html(self, title: str, facts: list[str], judges: list[str], fates: dict[str, str]) -> str:
        """Return the page, once; `fates` say what export/ made of each turn."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup

        for entry in self.entries:
            entry["exported"] = fates.get(entry["stem"], "")
        data = visible_json({"metrics": METRICS, "turns": self.entries}).decode()
        for sign in "<>&":
            data = data.replace(sign, f"\\u{ord(sign):04x}")
        texts = gzip.compress(b"\n".join(self.texts), compresslevel=1, mtime=0)
        style = (HERE / "turns.css").read_text(encoding="utf-8")
        script = (HERE / "labels.js").read_text(encoding="utf-8")
        script += (HERE / "turns.js").read_text(encoding="utf-8")
        hashes = {}
        for name, source in (("style_hash", style), ("script_hash", script)):
            digest = hashlib.sha256(source.encode("utf-8")).digest()
            hashes[name] = f"sha256-{base64.b64encode(digest).decode('ascii')}"
        loader = FileSystemLoader(HERE)
        templates = Environment(loader=loader, undefined=StrictUndefined, autoescape=True)
        return templates.get_template("turns.html").render(
            title=visible(title),
            about=visible(facts),
            charts=self.charts(judges),
            style=Markup(style),
            script=Markup(script),
            data=Markup(data),
            texts=base64.b64encode(texts).decode("ascii"),
            **hashes,
        )

    def charts(self, judges: list[str]) -> dict[str, list[tuple[str, dict[str, int]]]]:
        """Return by title the bars of each chart: label, and counts by name; none: a heading."""
        scored = [entry for entry in self.entries if entry["bucket"]]
        counts = Counter((min(int(entry["score"] / 10), 9), entry["bucket"]) for entry in scored)
        by_score = []
        for tens in range(9, -1, -1):
            parts = {name: counts[tens, name] for name in BUCKETS}
            by_score.append((f"{10 * tens}–{10 * tens + 10}", parts))
        by_judge = []
        for judge in judges:
            by_judge.append((visible(judge), {}))
            for order, place in zip(ORDERS, ("1st", "2nd")):
                parts = {word: self.calls[judge, order, word] for word in ("win", "draw", "loss")}
                by_judge.append((place, parts))
        title = "Number of calls that the challenger won, drew and lost, by judge: it was shown"
        return {
            "Number of turns, by score and bucket": by_score,
            f"{title} first (1st) or second (2nd)": by_judge,
        }


def shortened(text: str, chars: int = TEXT_CHARS) -> str:
    """Return a text; of one that is longer than `chars` its start and its end."""
    if len(text) <= chars:
        return text
    head = chars * 2 // 3
    left_out = f"{len(text) - chars:,} characters left out: the file holds the whole"
    return f"{text[:head]}\n⋯ {left_out} ⋯\n{text[head - chars :]}"


def visible_json(value: object) -> bytes:
    """Return `value` as JSON in which each text shows its control and direction marks."""
    with suppress(PydanticSerializationError):  # half a character
        data = to_json(value)
        others = data.translate(None, delete=ASCII).decode()
        is_plain = b"\x7f" not in data and not ASCII_OBEYED.search(data)
        if is_plain and not OBEYED.search(others):
            return data  # most of them: to look at each text takes ten times as long
    return to_json(visible(value))


def visible(value):
    """Return a value of JSON in which each text shows its control and direction marks."""
    if isinstance(value, str):
        return OBEYED.sub(lambda marks: "".join(f"⟨U+{ord(m):04X}⟩" for m in marks[0]), value)
    if isinstance(value, list):
        return [visible(item) for item in value]
    if isinstance(value, dict):
        return {visible(key): visible(item) for key, item in value.items()}
    return value
