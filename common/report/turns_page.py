"""report/turns.html, the page to read and to label turns, and the labels that come back.

turns.html, turns.css, labels.js and turns.js lie beside this module and are put into one. Every
text of the page comes from models and datasets: it is data in which no tag can stand, its control
and direction marks are made visible, and the page's own policy lets only its own script run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import math
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

from pydantic_core import PydanticSerializationError, to_json

from common.audit.protocol import fence_of, protocol_problem
from common.config import METRICS
from common.files import UserError, natural_key
from common.report.rows import Row, Turn, counted_verdicts, leak_hits
from common.turns import BUCKETS, OPPONENT, ORDERS, SIDES, Status

HERE = Path(__file__).parent
MOST_TURNS = 5000  # of a page: some 12 MB, and a list that a browser still scrolls with ease
ALL_CHAT_CHARS = 12_000_000  # of the chats of all turns, half of it for what stands open
SHOWN_CHARS = 500  # at least, of the two messages that stand open: the task, the last output
MESSAGE_CHARS = 150  # at least, of each other message of a chat
TEXT_CHARS = 20_000  # of a reply, and of all else

# What the page's list has of a row, under the row's own names.
ENTRY = (
    "stem", "instance_id", "repo", "status", "bucket", "why", "score", "score_confirmed", "style",
    "step", "spread", "marks",
)  # fmt: skip

# report/labels*.csv: `preferred` is the side that a person, who saw neither names nor scores, held
# for the better next step; `sha` is of the two replies: it tells when they have changed since.
HEADER = "stem,preferred,seconds,sha"
# With DUEL_MODE=1 the reference stands in the king's place.
LABEL_SCORE = {"challenger": 100, "level": 50, "king": 0, "reference": 0}
CHOICES = "|".join([*LABEL_SCORE, "skip"])
LABEL = re.compile(rf"([\w-][\w.-]*),({CHOICES}),\d+(?:\.\d*)?,([0-9a-f]{{16}})", re.ASCII)
A_LABEL = f"a turn's name, one of {CHOICES.replace('|', ', ')}, a number from 0, and 16 hex digits"
Z_90 = 1.6449  # standard errors from the middle to each end of a 90 % interval
MOST_DIFFERENCES = 5  # turns that are named

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


def pack_texts(turn: Turn, turns: int) -> None:
    """Put into a turn's row its flags and, packed, what the reader of a page of `turns` sees."""
    row = turn.row
    answer = turn.answer
    score = turn.score if turn.score and row.status != Status.STALE else {}
    messages = answer["messages"]
    key = OPPONENT[row.mode]
    opponent = SIDES[key]
    replies = {opponent: answer[key], "challenger": answer["challenger"]}
    problems = {
        opponent: protocol_problem(answer[key], messages) or "",
        "challenger": row.protocol_problem,
    }
    leaks = {side: leak_hits(answer["meta"].get(side, {})) or [] for side in replies}
    for side, quote in (score.get("reader") or {}).items():
        found = {"kind": "reader's test", "text": quote, "why": "the chat does not explain it"}
        leaks.setdefault(SIDES[side], []).append(found)
    row.marks = [f"{side}: leak audit" for side in replies if leaks[side]]
    row.marks += [f"{side}: protocol" for side in replies if problems[side]]
    verdicts = []
    for verdict in counted_verdicts(turn):
        calls = verdict["calls"] and [verdict["calls"][metric] for metric in METRICS]
        shown = {name: verdict[name] for name in ("judge", "order", "look")}
        verdicts.append({**shown, "reason": shortened(verdict["reason"]), "calls": calls})
    texts = {
        "chat": [[message["role"], message["content"]] for message in messages],
        "replies": replies,
        "fence": fence_of(messages),
        "leaks": leaks,
        "problems": problems,
        "metrics": row.metrics,
        "by_judge": row.by_judge,
        "verdicts": verdicts,
    }
    row.texts = packed(texts, turns)


def packed(texts: dict, turns: int) -> bytes:
    """Return a turn's texts as JSON, the chat the shorter the more turns the page has."""
    users = [at for at, (role, _) in enumerate(texts["chat"]) if role == "user"]
    chat_chars = ALL_CHAT_CHARS // turns
    open_chars = max(SHOWN_CHARS, chat_chars // 4)
    other_chars = max(MESSAGE_CHARS, chat_chars // 2 // len(texts["chat"]))
    chat = []
    for at, (role, text) in enumerate(texts["chat"]):
        chars = open_chars if at in (users[0], users[-1]) else other_chars
        chat.append([role, shortened(text, min(TEXT_CHARS, chars))])
    replies = {side: shortened(text) for side, text in texts["replies"].items()}
    return visible_json({**texts, "replies": replies, "chat": chat})


def page_html(
    title: str, about: list[str], rows: list[Row], fates: dict[str, str], charts: dict
) -> str:
    """Return turns.html: `about` says what there is of the run, `fates` what export/ made of it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    entries = []
    for row in rows:
        entry = {name: getattr(row, name) for name in ENTRY}
        entry["file"] = row.path.as_posix()
        entry["opponent"] = SIDES[OPPONENT[row.mode]]
        entry["length"] = row.challenger_chars
        entry["sha"] = row.label_sha
        entry["exported"] = fates.get(row.stem, "")
        entries.append(entry)
    data = visible_json({"metrics": METRICS, "turns": entries}).decode()
    for sign in "<>&":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    texts = gzip.compress(b"\n".join(row.texts for row in rows), compresslevel=1, mtime=0)
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
        about=visible(about),
        charts=visible(charts),
        style=Markup(style),
        script=Markup(script),
        data=Markup(data),
        texts=base64.b64encode(texts).decode("ascii"),
        **hashes,
    )


def make_charts(rows: list[Row], counts: Counter, judges: list[str]) -> dict[str, dict]:
    """Return by title the bars of each chart: label, and counts by name; none: a heading."""
    scored = [row for row in rows if row.bucket]
    turns = Counter((min(int(row.score / 10), 9), row.bucket) for row in scored)
    by_score = []
    for tens in range(9, -1, -1):
        parts = {name: turns[tens, name] for name in BUCKETS}
        by_score.append([f"{10 * tens}–{10 * tens + 10}", parts])
    by_judge = []
    for judge in judges:
        by_judge.append([judge, {}])
        for order, place in zip(ORDERS, ("1st", "2nd")):
            words = ("win", "draw", "loss")
            by_judge.append(
                [place, {name: counts["judge", judge, f"{order} {name}"] for name in words}]
            )
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


def read_labels(folder: Path | str = "report") -> dict[str, tuple[str, str]]:
    """Return (preferred, sha) by stem of all report/labels*.csv; the last of a turn counts."""
    found = {}
    for path in sorted(Path(folder).glob("labels*.csv"), key=lambda path: natural_key(path.stem)):
        text = path.read_text(encoding="utf-8-sig", errors="replace") or "\n"
        for number, line in enumerate(text.splitlines(), 1):
            line = re.sub(r"\s*,\s*", ",", line.strip())
            label = LABEL.fullmatch(line)
            if label:
                found[label[1]] = (label[2], label[3])
            elif line != HEADER and (number == 1 or line.strip(",")):
                expected = A_LABEL if number > 1 else f"the columns {HEADER}"
                raise UserError(
                    f"{path}, line {number}: expected {expected}, found {line[:100]!r}.\n"
                    "Save the labels again from report/turns.html, or move the file out of report/."
                )
    return found


def compare_labels(labels: dict[str, tuple[str, str]], rows: list) -> dict:
    """Return how far the panel and the person agree; `stale` are labels of other texts."""
    found = {"given": len(labels), "labels": 0, "skipped": 0, "final": 0, "not_worse": 0}
    apart = []
    for row in rows:
        preferred, sha = labels.get(row.stem, ("", None))
        if not row.bucket or sha != row.label_sha:
            continue
        if preferred == "skip":
            found["skipped"] += 1
            continue
        said = LABEL_SCORE[preferred]
        found["labels"] += 1
        if row.bucket == "final":
            found["final"] += 1
            found["not_worse"] += said >= 50  # the challenger's reply is better or level
        gap = abs(row.score - said)
        if gap > 50:  # further than level is from either side
            apart.append({"row": row, "preferred": preferred, "gap": gap})
    apart.sort(key=lambda turn: -turn["gap"])
    found["stale"] = len(labels) - found["labels"] - found["skipped"]
    found["differences"] = apart[:MOST_DIFFERENCES]
    return {**found, **share_of(found["not_worse"], found["final"])}


def share_of(hits: int, count: int) -> dict:
    """Return a share, `hits` of `count`, with Wilson's 90 % interval; NaN of 0 to 1 for none."""
    if not count:
        return {"hits": 0, "share": math.nan, "interval": (0.0, 1.0)}
    share = hits / count
    spread = Z_90**2 / count
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4)
    middle = share + spread / 2
    interval = ((middle - half) / (1 + spread), (middle + half) / (1 + spread))
    return {"hits": hits, "share": share, "interval": interval}
