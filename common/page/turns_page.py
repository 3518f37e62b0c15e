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
from collections import Counter
from html import escape
from pathlib import Path
from urllib.parse import quote

from common.files import clean_text
from common.page.charts import score_chart, verdict_chart
from common.page.labels import label_sha

HERE = Path(__file__).parent
PLAIN_BYTES = 1_500_000  # of texts: from here they are packed with gzip, a third of the size
TURN_BYTES = 2_400  # of the file for each turn, so that 2,000 give some 5 MB ...
SMALL_RUN = 500  # ... but a run of fewer turns may take as much as one of these
CONTEXT_CHARS = (4000, 2000, 1000, 500, 250)  # of task and observation, as far as the size allows
REPLY_CHARS = 20_000
REASON_CHARS = 1_000
SAMPLED_TURNS = 100  # by which the size is told before all is packed

# Marks that a screen would obey instead of showing: controls, zero-width and direction marks, tags.
OBEYED = [
    *range(0x20), *range(0x7F, 0xA0), 0xAD, 0x061C, 0x180E, *range(0x200B, 0x2010),
    *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFC),
    *range(0xE0000, 0xE0080),
]  # fmt: skip
SHOWN = {code: f"⟨U+{code:04X}⟩" for code in OBEYED}
SHOWN |= {0x00: "⟨NUL⟩", 0x0D: "⟨CR⟩", 0x1B: "⟨ESC⟩", 0x7F: "⟨DEL⟩"}
del SHOWN[0x09], SHOWN[0x0A]  # tab and newline


def turns_page(data: dict) -> str:
    """Return the page.

    `data` is {"title", "facts", "judges", "metrics", "turns"}: two texts (facts: a list of lines),
    two lists of names, and for each turn {"stem", "file" (relative to the page, or None),
    "instance_id", "repo", "status", "bucket", "why", "score", "score_confirmed" (optional), "style",
    "step", "metrics" and "by_judge" (0-100 by name), "spread", "flags", "export", "opponent"
    ("king" or "reference"), "messages" (the chat), "replies", "leaks", "protocol_problem" (each by
    side, "challenger" and the opponent), "verdicts" (as in score/)}.
    """
    turns = data["turns"]
    judges = list(data["judges"])
    for turn in turns:
        judges += [v["judge"] for v in turn["verdicts"] if v["judge"] not in judges]
    rows = [list_row(turn, judges, data["metrics"]) for turn in turns]
    facts = as_json(visible({"judges": judges, "metrics": data["metrics"], "turns": rows}))
    kind, texts = pack(turns, judges, data["metrics"], len(facts))
    style = (HERE / "turns.css").read_text(encoding="utf-8")
    script = (HERE / "turns.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {source_hash(script)}; style-src {source_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    about = "".join(f"<li>{escape(line)}</li>" for line in visible(data["facts"]))
    pictures = score_chart(turns) + verdict_chart(
        visible(data["judges"]), count_calls(turns, data["metrics"])
    )
    page = (HERE / "turns.html").read_text(encoding="utf-8")
    for mark, text in (
        ("<!-- policy -->", f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        ('<link rel="stylesheet" href="turns.css">', f"<style>{style}</style>"),
        ('<script src="turns.js"></script>', f"<script>{script}</script>"),
        ("<!-- title -->", escape(visible(data["title"]))),
        ("<!-- about -->", about),
        ("<!-- pictures -->", pictures),
        ("<!-- facts -->", f'<script type="application/json" id="facts">{facts}</script>'),
        ("<!-- texts -->", f'<script type="{kind}" id="texts">{texts}</script>'),
    ):
        page = page.replace(mark, text)
    return page


def list_row(turn: dict, judges: list[str], metrics: list[str]) -> dict:
    """Return what the list, its filters and the draw of labels need of a turn."""
    replies = turn["replies"]
    opponent = replies.get(turn["opponent"]) or ""
    challenger = replies.get("challenger") or ""
    marks = list(map(str, turn["flags"]))
    for side in replies:
        if turn["leaks"].get(side):
            marks.append(f"{side}: leak audit")
        if turn["protocol_problem"].get(side):
            marks.append(f"{side}: protocol")
    return {
        "stem": turn["stem"],
        "file": quote(turn["file"]) if turn["file"] else "",
        "instance": turn["instance_id"],
        "repo": turn["repo"],
        "status": str(turn["status"]),
        "bucket": turn["bucket"] or "",
        "why": turn["why"],
        "score": rounded(turn["score"]),
        "confirmed": rounded(turn.get("score_confirmed")),
        "style": turn["style"],
        "step": turn["step"],
        "spread": rounded(turn["spread"]),
        "metrics": [rounded(turn["metrics"].get(name)) for name in metrics],
        "judges": [rounded(turn["by_judge"].get(name)) for name in judges],
        "marks": marks,
        "export": turn["export"],
        "opponent": turn["opponent"],
        "length": len(challenger),
        "sha": label_sha(opponent, challenger),
        "labels": bool(turn["bucket"] and opponent and challenger and opponent != challenger),
    }


def rounded(value: float | None) -> float | None:
    """Return a score as the page shows it."""
    return None if value is None else round(value, 1)


# ------------------------------------------------------------------------------------------ texts


def pack(turns: list[dict], judges: list[str], metrics: list[str], taken: int) -> tuple[str, str]:
    """Return the type and the text of the data block that holds the turns' texts.

    Long tasks and observations are cut, as far as the file, of which `taken` bytes are given away,
    would else grow too large. Few texts stay plain JSON; many are packed: base64 of gzip.
    """
    most = TURN_BYTES * max(len(turns), SMALL_RUN) - taken
    sample = turns[:: max(1, len(turns) // SAMPLED_TURNS)]
    for chars in CONTEXT_CHARS:
        if len(zipped(all_texts(sample, judges, metrics, chars))) * len(turns) <= most * len(sample):
            break
    texts = all_texts(turns, judges, metrics, chars)
    if len(texts) < PLAIN_BYTES:
        return "application/json", texts
    return "application/gzip", zipped(texts)


def zipped(text: str) -> str:
    """Return text as base64 of gzip."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 6, mtime=0)).decode("ascii")


def all_texts(turns: list[dict], judges: list[str], metrics: list[str], chars: int) -> str:
    """Return the texts of all turns as JSON; turns of one task share it."""
    tasks: dict[str, int] = {}
    rows = []
    for turn in turns:
        where = f"the whole chat is in {turn['file'] or 'no file'}"
        messages = turn["messages"]
        asked = next((m["content"] for m in messages if m["role"] == "user"), "")
        task = visible(cut(asked, chars, where))
        first = len(messages) < 2 or messages[-1]["content"] == asked
        observation = cut(messages[-1]["content"], chars, where) if messages and not first else ""
        sides = (turn["opponent"], "challenger")
        row = {
            "task": tasks.setdefault(task, len(tasks)),
            "observation": observation,
            "replies": [cut(turn["replies"].get(side) or "", REPLY_CHARS, where) for side in sides],
            "leaks": [turn["leaks"].get(side) or [] for side in sides],
            "problems": [turn["protocol_problem"].get(side) or "" for side in sides],
            "verdicts": [verdict_row(verdict, judges, metrics) for verdict in turn["verdicts"]],
        }
        rows.append(visible(row))
    return as_json({"tasks": list(tasks), "turns": rows})


def verdict_row(verdict: dict, judges: list[str], metrics: list[str]) -> list:
    """Return [judge, order, calls, reason, look].

    Order 0 is the challenger first. Calls: a letter by metric, C(hallenger), O(pponent) or = (level);
    "" when the judge's answer could not be read.
    """
    order = 0 if verdict["order"] == "challenger-first" else 1
    letters = {0: "=", 1: "CO"[order], 2: "OC"[order]}
    calls = "".join(letters[verdict["calls"][name]] for name in metrics) if verdict["calls"] else ""
    reason = cut(verdict["reason"], REASON_CHARS, "the whole reason is in score/")
    return [judges.index(verdict["judge"]), order, calls, reason, verdict.get("look", 1)]


def count_calls(turns: list[dict], metrics: list[str]) -> dict[tuple[str, int], Counter]:
    """Count win, level and loss of the first look's calls by (judge, order)."""
    words = {"C": "win", "=": "level", "O": "loss"}
    counts: dict[tuple[str, int], Counter] = {}
    for turn in turns:
        for verdict in turn["verdicts"]:
            judge = visible(verdict["judge"])
            _, order, calls, _, look = verdict_row(verdict, [verdict["judge"]], metrics)
            if look == 1:
                counts.setdefault((judge, order), Counter()).update(words[call] for call in calls)
    return counts


def cut(text: str, chars: int, where: str) -> str:
    """Return text of at most `chars` characters: its start and its end, and what is left out."""
    if len(text) <= chars:
        return text
    head = chars * 2 // 3
    tail = chars - head
    left_out = f"{len(text) - chars:,} characters left out; {where}"
    return f"{text[:head]}\n⋯ {left_out} ⋯\n{text[-tail:]}"


# ----------------------------------------------------------------------------------- safe writing


def visible(value):
    """Return a value of JSON in which each text shows its control and direction marks."""
    if isinstance(value, str):
        return clean_text(value).translate(SHOWN)
    if isinstance(value, list):
        return [visible(item) for item in value]
    if isinstance(value, dict):
        return {visible(key): visible(item) for key, item in value.items()}
    return value


def as_json(value: object) -> str:
    """Return JSON that may stand in a script element: it holds no <, > or &."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def source_hash(text: str) -> str:
    """Return the policy's name of an inline script or style."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
