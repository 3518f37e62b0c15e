"""Write report/turns.html: the page to read and to label turns, one file that needs nothing else.

turns.html, turns.css and turns.js lie beside this module and are put into one. Every text of the
page comes from models and datasets: control and direction marks are made visible here, the data is
JSON in which no tag can stand, and the page's own policy lets only its own script and style run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from collections import Counter
from html import escape
from pathlib import Path
from urllib.parse import quote

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

# What a screen would obey instead of showing: controls, zero-width and direction marks, tags, half
# characters; and accents piled so high that they cover the lines around.
OBEYED = re.compile(
    "\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
    "|[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{4,}"
)
NAMES = {"\x00": "NUL", "\r": "CR", "\x1b": "ESC", "\x7f": "DEL"}
LETTERS = {  # of a call, by order: C(hallenger), O(pponent), = (level)
    "challenger-first": {0: "=", 1: "C", 2: "O"},
    "challenger-second": {0: "=", 1: "O", 2: "C"},
}


def turns_page(data: dict) -> str:
    """Return the page.

    `data` holds "title", "facts" (a list of lines), "judges" and "metrics" (names), and "turns";
    each turn "stem", "file" (the answer, from the run's folder; or None), "instance_id", "repo",
    "status", "bucket", "why", "score", "style", "step", "metrics" and "by_judge" (0-100 by name),
    "spread", "flags", "export", "opponent" ("king" or "reference"), "task" and "observation" (as
    `task_and_observation` gives them), "replies", "leaks" (hits) and "protocol_problem" (each by
    side: "challenger", and the opponent), "verdicts" (as in score/); "score_confirmed" where there
    is one.
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
    pictures = score_chart(turns) + verdict_chart(data["judges"], count_calls(turns))
    page = (HERE / "turns.html").read_text(encoding="utf-8")
    for mark, text in (
        ("<!-- policy -->", f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        ('<link rel="stylesheet" href="turns.css">', f"<style>{style}</style>"),
        ('<script src="turns.js"></script>', f"<script>{script}</script>"),
        ("<!-- title -->", escape(visible(data["title"]))),
        ("<!-- about -->", about),
        ("<!-- pictures -->", visible(pictures)),
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
        "file": quote(turn["file"] or "", errors="replace"),
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
        size = len(zipped(text_lines(sample, judges, metrics, chars)))
        if size * len(turns) <= most * len(sample):
            break
    lines = text_lines(turns, judges, metrics, chars)
    if sum(map(len, lines)) < PLAIN_BYTES:
        return "application/json", b"\n".join(lines).decode("utf-8")
    return "application/gzip", zipped(lines)


def task_and_observation(messages: list[dict]) -> tuple[str, str]:
    """Return what a chat asks for and what the agent saw last; "" when that is the task itself."""
    said = [message["content"] for message in messages if message["role"] == "user"]
    return said[0], said[-1] if len(said) > 1 else ""


def zipped(lines: list[bytes]) -> str:
    """Return the lines as base64 of gzip."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as file:
        for line in lines:
            file.write(line + b"\n")
    return base64.b64encode(packed.getbuffer()).decode("ascii")


def text_lines(turns: list[dict], judges: list[str], metrics: list[str], chars: int) -> list[bytes]:
    """Return the texts of all turns as JSON; turns of one task share it.

    In lines, as bytes: of a large run one text would take four times the memory.
    """
    tasks: dict[bytes, int] = {}
    lines = []
    for turn in turns:
        where = f"the whole chat is in {turn['file'] or 'no file'}"
        task = as_json(visible(cut(turn["task"], chars, "the whole chat holds them")))
        sides = (turn["opponent"], "challenger")
        row = {
            "task": tasks.setdefault(task.encode("utf-8"), len(tasks)),
            "observation": cut(turn["observation"], chars, where),
            "replies": [cut(turn["replies"].get(side) or "", REPLY_CHARS, where) for side in sides],
            "leaks": [turn["leaks"].get(side) or [] for side in sides],
            "problems": [turn["protocol_problem"].get(side) or "" for side in sides],
            "verdicts": [verdict_row(verdict, judges, metrics) for verdict in turn["verdicts"]],
        }
        lines.append(as_json(visible(row)).encode("utf-8"))
    return [b'{"turns": [', *listed(lines), b'], "tasks": [', *listed(list(tasks)), b"]}"]


def listed(values: list[bytes]) -> list[bytes]:
    """Return JSON values with a comma after each but the last."""
    return [value + b"," for value in values[:-1]] + values[-1:]


def verdict_row(verdict: dict, judges: list[str], metrics: list[str]) -> list:
    """Return [judge, order, calls, reason, look].

    Order 0 is the challenger first; calls are a letter by metric, "" when the judge's answer could
    not be read.
    """
    order = list(LETTERS).index(verdict["order"])
    letters = LETTERS[verdict["order"]]
    calls = ""
    if verdict["calls"]:
        calls = "".join(letters[verdict["calls"][name]] for name in metrics)
    reason = cut(verdict["reason"], REASON_CHARS, "the whole reason is in score/")
    return [judges.index(verdict["judge"]), order, calls, reason, verdict.get("look", 1)]


def count_calls(turns: list[dict]) -> dict[tuple[str, str], Counter]:
    """Count win, level and loss of the first look's calls by (judge, order)."""
    words = {"C": "win", "=": "level", "O": "loss"}
    counts: dict[tuple[str, str], Counter] = {}
    for turn in turns:
        for verdict in turn["verdicts"]:
            if verdict["calls"] and verdict.get("look", 1) == 1:
                of_bar = counts.setdefault((verdict["judge"], verdict["order"]), Counter())
                letters = LETTERS[verdict["order"]]
                of_bar.update(words[letters[call]] for call in verdict["calls"].values())
    return counts


def cut(text: str, chars: int, where: str) -> str:
    """Return text of at most `chars` characters: its start and its end, and what is left out."""
    if len(text) <= chars:
        return text
    head = chars * 2 // 3
    tail = chars - head
    left_out = f"{len(text) - chars:,} characters left out; {where}"
    return f"{text[:head]}\n⋯ {left_out} ⋯\n{text[-tail:]}"


def unpacked_part(page: bytes) -> bytes:
    """Return the page without its packed texts, which another build of zlib packs otherwise."""
    return re.sub(rb'(<script type="application/gzip" id="texts">)[^<]*', rb"\1", page)


# ----------------------------------------------------------------------------------- safe writing


def visible(value):
    """Return a value of JSON in which each text shows its control and direction marks."""
    if isinstance(value, str):
        return OBEYED.sub(spelled, value)
    if isinstance(value, list):
        return [visible(item) for item in value]
    if isinstance(value, dict):
        return {visible(key): visible(item) for key, item in value.items()}
    return value


def spelled(match: re.Match) -> str:
    """Return each character by its name or number."""
    return "".join(f"⟨{NAMES.get(mark) or f'U+{ord(mark):04X}'}⟩" for mark in match[0])


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
