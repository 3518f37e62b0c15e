"""Write report/turns.html: the page to read and to label turns, one file that needs nothing else.

turns.html, turns.css and turns.js lie beside this module and are put into one. Every text of the
page comes from models and datasets: control and direction marks are made visible here, the data is
JSON in which no tag can stand, and the page's own policy lets only its own script and style run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections import Counter
from difflib import SequenceMatcher
from html import escape
from pathlib import Path

from common.audit.protocol import protocol_problem
from common.config import METRICS
from common.report.figures import Facts, verdict_word
from common.report.rows import Row
from common.turns import BUCKETS, ORDERS, SIDES, read_answer

HERE = Path(__file__).parent
PLAIN_CHARS = 1_500_000  # of texts: from here they are packed with gzip, a third of the size
MOST_TURNS = 5000  # of a page: some 12 MB, and a list that a browser still scrolls with ease
TURN_BYTES = 2_800  # of the file for each turn, so that 2,000 give some 5 MB ...
SMALL_RUN = 500  # ... but a run of fewer turns may take as much as one of these
CONTEXT_CHARS = (4000, 2000, 1000, 500)  # of task and observation, as far as the size allows
TEXT_CHARS = 20_000  # of a reply, and of all else
MOST_WORDS = 3_000  # of a reply that is compared: hostile ones take 0.5 s at most
LEAST_SHARED = 0.3  # of the shorter reply's words; below, the marks would cover everything

# What the page's list has of a row, under the row's own names.
ENTRY = (
    "stem", "instance_id", "repo", "status", "bucket", "why", "score", "score_confirmed", "style",
    "step", "spread", "exported",
)  # fmt: skip

# What a screen would obey instead of showing: controls, zero-width and direction marks, tags, half
# characters; and accents piled so high that they cover the lines around.
OBEYED = re.compile(
    "\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
    "|[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{4,}"
)


def turns_data(facts: Facts) -> dict:
    """Return what `turns_page` makes the page from: the first MOST_TURNS that have both replies."""
    rows = [row for row in facts.rows if row.challenger]
    lines = [str(facts.duel["why"])] if facts.duel else []
    lines.append(", ".join(f"{name}/ {facts.buckets[name]:,}" for name in BUCKETS))
    more = len(rows) - MOST_TURNS
    if more > 0:
        lines.append(f"Here are the first {MOST_TURNS:,} turns; turns.csv lists {more:,} more.")
    return {
        "title": f"Challenger against {facts.opponent}: {verdict_word(facts.duel)}",
        "facts": lines,
        "judges": facts.judges,
        "turns": [turn_data(row) for row in rows[:MOST_TURNS]],
    }


def turn_data(row: Row) -> dict:
    """Return what the page's list needs of a turn and, as "texts", what its reader sees of it."""
    answer = read_answer(row.path)
    opponent = SIDES[row.opponent]
    replies = {opponent: answer[row.opponent], "challenger": row.challenger}
    problems = {
        opponent: protocol_problem(replies[opponent], answer["messages"]) or "",
        "challenger": row.protocol_problem or "",
    }
    leaks = {side: list(row.leaks.get(side, [])) for side in replies}
    for side, quote in (row.judged.get("reader") or {}).items():
        found = {"kind": "reader's test", "text": quote, "why": "the chat does not explain it"}
        leaks.setdefault(SIDES[side], []).append(found)
    counted = {*row.judged.get("counted", []), *row.judged.get("counted_confirmed", [])}
    verdicts = []
    for verdict in row.judged.get("verdicts", []):
        # Older versions did not name the verdicts that a score rests on.
        if verdict["look"] <= 2 and ("counted" not in row.judged or verdict["key"] in counted):
            names = ("judge", "order", "calls", "reason", "look")
            verdicts.append({name: verdict[name] for name in names})
    marks = list(map(str, row.judged.get("flags", [])))
    for side in replies:
        if leaks[side]:
            marks.append(f"{side}: leak audit")
        if problems[side]:
            marks.append(f"{side}: protocol")
    said = [message["content"] for message in answer["messages"] if message["role"] == "user"]
    return {
        **{name: getattr(row, name) for name in ENTRY},
        "file": row.path.as_posix(),
        "opponent": opponent,
        "marks": marks,
        "length": len(row.challenger),
        # Identical replies are not put before a person, nor those that were never judged.
        "sha": row.label_sha if row.bucket and len(set(replies.values())) == 2 else "",
        "texts": {
            "task": said[0],
            "observation": said[-1] if len(said) > 1 else "",
            "replies": replies,
            "leaks": leaks,
            "problems": problems,
            "metrics": row.metrics,
            "by_judge": row.by_judge,
            "verdicts": verdicts,
        },
    }


# ------------------------------------------------------------------------------------ the one file


def turns_page(data: dict) -> str:
    """Return the page of what `turns_data` returns."""
    turns = data["turns"]
    entries = [{name: turn[name] for name in turn if name != "texts"} for turn in turns]
    facts = as_json(visible({"metrics": list(METRICS), "turns": entries}))
    rows = []
    for turn in turns:
        row = visible({**turn["texts"], "task": "", "observation": ""})
        sides = (turn["opponent"], "challenger")
        parts = compared(*[row["replies"][side] for side in sides])
        rows.append({**row, "replies": dict(zip(sides, parts))})
    for chars in CONTEXT_CHARS:
        for row, turn in zip(rows, turns):
            row["task"] = visible(turn["texts"]["task"], chars)
            row["observation"] = visible(turn["texts"]["observation"], chars)
        texts = as_json(rows)
        kind = "json"
        if len(texts) > PLAIN_CHARS:
            packed = gzip.compress(texts.encode("ascii"), compresslevel=6, mtime=0)
            texts = base64.b64encode(packed).decode("ascii")
            kind = "gzip"
        if len(facts) + len(texts) <= TURN_BYTES * max(len(turns), SMALL_RUN):
            break
    style = (HERE / "turns.css").read_text(encoding="utf-8")
    script = (HERE / "turns.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {source_hash(script)}; style-src {source_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    about = "".join(f"<li>{escape(line)}</li>" for line in data["facts"])
    page = (HERE / "turns.html").read_text(encoding="utf-8")
    for mark, text in (
        ("<!-- policy -->", f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        ('<link rel="stylesheet" href="turns.css">', f"<style>{style}</style>"),
        ('<script src="turns.js"></script>', f"<script>{script}</script>"),
        ("<!-- title -->", escape(visible(data["title"]))),
        ("<!-- about -->", visible(about)),
        ("<!-- pictures -->", visible(score_chart(turns) + verdict_chart(data["judges"], turns))),
        ("<!-- facts -->", f'<script type="application/json" id="facts">{facts}</script>'),
        ("<!-- texts -->", f'<script type="application/{kind}" id="texts">{texts}</script>'),
    ):
        page = page.replace(mark, text)
    return page


def compared(first: str, second: str) -> tuple[list[str], list[str]]:
    """Return each text in parts: by turns what it alone holds, and what both hold.

    Of texts that are long, or have little in common, all is said to be held by both.
    """
    one = re.findall(r"\s*\S+|\s+", first)
    two = re.findall(r"\s*\S+|\s+", second)
    whole = (["", first], ["", second])
    if max(len(one), len(two)) > MOST_WORDS:
        return whole
    parts = ([], [])
    from_one = 0
    from_two = 0
    shared = 0
    for at_one, at_two, size in SequenceMatcher(None, one, two).get_matching_blocks():
        if size == 1 and "\n" not in one[at_one]:  # "the" stands everywhere
            continue
        same = "".join(one[at_one : at_one + size])
        parts[0].extend(["".join(one[from_one:at_one]), same])
        parts[1].extend(["".join(two[from_two:at_two]), same])
        from_one = at_one + size
        from_two = at_two + size
        shared += size
    if shared < LEAST_SHARED * min(len(one), len(two)):
        return whole
    return parts


def visible(value, chars: int = TEXT_CHARS):
    """Return a value of JSON in which each text shows its control and direction marks.

    Of texts that are longer than `chars` it holds the start and the end.
    """
    if isinstance(value, str):
        if len(value) > chars:
            head = chars * 2 // 3
            left_out = f"{len(value) - chars:,} characters left out: the file holds the whole"
            value = f"{value[:head]}\n⋯ {left_out} ⋯\n{value[head - chars :]}"
        return OBEYED.sub(lambda marks: "".join(f"⟨U+{ord(m):04X}⟩" for m in marks[0]), value)
    if isinstance(value, list):
        return [visible(item) for item in value]
    if isinstance(value, dict):
        return {visible(key): visible(item) for key, item in value.items()}
    return value


def as_json(value: object) -> str:
    """Return JSON in ASCII that may stand in a script element: it holds no <, > or &."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def source_hash(text: str) -> str:
    """Return the policy's name of an inline script or style."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


# --------------------------------------------------------------------------------- the pictures


def score_chart(turns: list[dict]) -> str:
    """Return a histogram of the scores, each bar divided by bucket."""
    scored = [turn for turn in turns if turn["bucket"]]
    counts = Counter((min(int(turn["score"] / 10), 9), turn["bucket"]) for turn in scored)
    bars = []
    for tens in range(9, -1, -1):
        label = f"{10 * tens}–{10 * tens + 10}"
        bars.append((label, {name: counts[tens, name] for name in BUCKETS}))
    return bar_chart("Turns by score and bucket", bars)


def verdict_chart(judges: list[str], turns: list[dict]) -> str:
    """Return the challenger's wins, draws and losses in the first look, by judge and order."""
    counts = Counter()
    for verdict in (verdict for turn in turns for verdict in turn["texts"]["verdicts"]):
        if verdict["look"] == 1 and verdict["calls"]:
            challenger = 1 + ORDERS.index(verdict["order"])  # its place in this order
            for call in verdict["calls"].values():
                word = {0: "draw", challenger: "win"}.get(call, "loss")
                counts[verdict["judge"], verdict["order"], word] += 1
    bars = []
    for judge in judges:
        bars.append((judge, {}))
        for order, place in zip(ORDERS, ("1st", "2nd")):
            calls = {word: counts[judge, order, word] for word in ("win", "draw", "loss")}
            bars.append((place, calls))
    title = "Win, draw and loss of the challenger by judge, shown first (1st) and second (2nd)"
    return bar_chart(title, bars)


def bar_chart(title: str, bars: list[tuple[str, dict[str, int]]]) -> str:
    """Return SVG of bars under one another, each divided by name; one without counts is a heading.

    Colours are in turns.css, by name; each part also tells its name and count in words.
    """
    longest = max((sum(counts.values()) for _, counts in bars), default=0) or 1
    parts = []
    y = 0
    for label, counts in bars:
        parts.append(f'<text x="0" y="{y + 13}">{escape(label)}</text>')
        x = 44
        for name, count in counts.items():
            width = 300 * count / longest
            words = f"{name} {count}"
            box = f'x="{x:.1f}" y="{y + 1}" width="{width:.1f}" height="16"'
            parts.append(f'<rect class="{name}" {box}><title>{words}</title></rect>')
            if width > 8 * len(words):
                parts.append(f'<text x="{x + 4:.1f}" y="{y + 13}">{words}</text>')
            x += width
        y += 18
    box = f'role="img" aria-label="{escape(title)}" viewBox="0 0 352 {y}"'
    picture = f"<svg {box}>{''.join(parts)}</svg>"
    return f"<figure><figcaption>{escape(title)}</figcaption>{picture}</figure>"
