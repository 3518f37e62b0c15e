"""Write report/turns.html: the page to read and to label turns, one file that needs nothing else.

turns.html, turns.css, labels.js and turns.js lie beside this module and are put into one. Every
text of the page comes from models and datasets: control and direction marks are made visible here,
the data is JSON in which no tag can stand, and the page's own policy lets only its own script and
style run.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
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
GZIP = 16 + zlib.MAX_WBITS  # zlib's name for the format
NO_TAGS = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}

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
ASCII_OBEYED = (b"\\u00", b"\\b", b"\\f", b"\\r", b"\x7f")


class Page:
    """turns.html in the making: turns are added as they are read, and packed at once."""

    def __init__(self, turns: int):
        """`turns` is how many there are at most."""
        self.chat_chars = ALL_CHAT_CHARS // max(1, turns)
        self.entries: list[dict] = []
        self.calls: Counter = Counter()  # by (judge, order, what it said of the challenger)
        self.left_out = 0  # turns beyond MOST_TURNS
        self._packer = zlib.compressobj(level=4, wbits=GZIP)
        self._packed: list[bytes] = []

    def add_turn(self, turn: Turn) -> None:
        """Add a turn that has both replies; of more than MOST_TURNS only count it."""
        if not turn.row.challenger_chars:
            return
        if len(self.entries) == MOST_TURNS:
            self.left_out += 1
        else:
            self.add(*turn_data(turn))

    def add(self, entry: dict, texts: dict) -> None:
        """Add what `turn_data` returns."""
        self.entries.append(entry)
        users = [at for at, (role, _) in enumerate(texts["chat"]) if role == "user"]
        chat = []
        for at, (role, text) in enumerate(texts["chat"]):
            chars = max(MESSAGE_CHARS, self.chat_chars // 2 // len(texts["chat"]))
            if at in (users[0], users[-1]):
                chars = max(SHOWN_CHARS, self.chat_chars // 4)
            chat.append([role, shortened(text, min(TEXT_CHARS, chars))])
        replies = {side: shortened(text) for side, text in texts["replies"].items()}
        texts = {**texts, "replies": replies, "chat": chat}
        self._packed.append(self._packer.compress(visible_json(texts) + b"\n"))
        for verdict in texts["verdicts"]:
            if verdict["look"] == 1 and verdict["calls"]:
                challenger = 1 + ORDERS.index(verdict["order"])  # its place in this order
                for call in verdict["calls"]:
                    word = {0: "draw", challenger: "win"}.get(call, "loss")
                    self.calls[verdict["judge"], verdict["order"], word] += 1

    def html(self, title: str, facts: list[str], judges: list[str], fates: dict[str, str]) -> str:
        """Return the page, once; `fates` say what export/ made of each turn."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup

        for entry in self.entries:
            entry["exported"] = fates.get(entry["stem"], "")
        data = visible_json({"metrics": METRICS, "turns": self.entries})
        texts = b"".join([*self._packed, self._packer.flush()])
        style = (HERE / "turns.css").read_text(encoding="utf-8")
        script = (HERE / "labels.js").read_text(encoding="utf-8")
        script += (HERE / "turns.js").read_text(encoding="utf-8")
        loader = FileSystemLoader(HERE)
        templates = Environment(loader=loader, undefined=StrictUndefined, autoescape=True)
        return templates.get_template("turns.html").render(
            title=visible(title),
            about=visible(facts),
            charts=[self.score_chart(), self.verdict_chart(judges)],
            script_hash=source_hash(script),
            style_hash=source_hash(style),
            style=Markup(style),
            script=Markup(script),
            data=Markup(data.decode().translate(NO_TAGS)),
            texts=base64.b64encode(texts).decode("ascii"),
        )

    def score_chart(self) -> dict:
        """Return a histogram of the scores, each bar divided by bucket."""
        scored = [entry for entry in self.entries if entry["bucket"]]
        counts = Counter((min(int(entry["score"] / 10), 9), entry["bucket"]) for entry in scored)
        bars = []
        for tens in range(9, -1, -1):
            label = f"{10 * tens}–{10 * tens + 10}"
            bars.append((label, {name: counts[tens, name] for name in BUCKETS}))
        return chart("Number of turns, by score and bucket", bars)

    def verdict_chart(self, judges: list[str]) -> dict:
        """Return the challenger's wins, draws and losses in the first look, by judge and order."""
        bars = []
        for judge in judges:
            bars.append((visible(judge), {}))
            for order, place in zip(ORDERS, ("1st", "2nd")):
                words = ("win", "draw", "loss")
                bars.append((place, {word: self.calls[judge, order, word] for word in words}))
        title = "Number of calls that the challenger won, drew and lost, by judge: it was shown"
        title += " first (1st) or second (2nd)"
        return chart(title, bars)


def turn_data(turn: Turn) -> tuple[dict, dict]:
    """Return what the page's list needs of a turn, and the texts that its reader sees."""
    row, answer, score, _ = turn
    score = score or {}
    key = OPPONENT[row.mode]
    opponent = SIDES[key]
    replies = {opponent: answer[key], "challenger": answer["challenger"]}
    problems = {
        opponent: protocol_problem(answer[key], answer["messages"]) or "",
        "challenger": row.protocol_problem,
    }
    leaks = {side: list(leak_hits(answer["meta"].get(side, {})) or []) for side in replies}
    for side, quote in (score.get("reader") or {}).items():
        found = {"kind": "reader's test", "text": quote, "why": "the chat does not explain it"}
        leaks.setdefault(SIDES[side], []).append(found)
    counted = {*score.get("counted", []), *score.get("counted_confirmed", [])}
    verdicts = []
    for verdict in score.get("verdicts", []):
        # Older versions did not name the verdicts that a score rests on.
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
        if not any(mark in data for mark in ASCII_OBEYED) and not OBEYED.search(others):
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


def source_hash(text: str) -> str:
    """Return the policy's name of an inline script or style."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def chart(title: str, bars: list[tuple[str, dict[str, int]]]) -> dict:
    """Return what turns.html draws: bars under one another, each divided by name.

    A bar without counts is a heading. What a part is too narrow to hold stands after its bar.
    Colours are in turns.css, by name.
    """
    longest = max((sum(counts.values()) for _, counts in bars), default=0) or 1
    drawn = []
    for label, counts in bars:
        parts = []
        labels = []
        outside = []
        x = 48.0
        for name, count in counts.items():
            width = 236 * count / longest
            words = f"{name} {count}"
            parts.append({"name": name, "words": words, "x": x, "width": width})
            if width > 8 * len(words):
                labels.append({"words": words, "x": x + 4})
            elif count:
                outside.append(words)
            x += width
        labels.append({"words": ", ".join(outside), "x": x + 4})
        drawn.append({"label": label, "parts": parts, "labels": labels})
    return {"title": title, "bars": drawn}
