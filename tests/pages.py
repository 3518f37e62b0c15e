"""Turns as report.py gives them to the page, and how its browser is started."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

from common.config import METRICS
from common.report.rows import Row, label_sha
from common.report.turns_page import make_charts, packed, page_html
from common.turns import ORDERS, half_points

JUDGES = ["lab/Judge-One", "lab/Judge-Two", "lab/Judge-Three"]
STYLES = ["read", "search", "edit", "run"]
WORDS = sorted(sys.stdlib_module_names)  # to write texts with
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def make_turn(number: int, rng: random.Random, task="", observation="", **changes) -> dict:
    """Return an entry of the list with its "texts"; `changes` replace parts of either."""

    def text(words: int) -> str:
        return " ".join(rng.choices(WORDS, k=words))

    bucket, score = [("final", 90.0), ("refined", 70.0), ("defeat", 40.0)][number % 3]
    verdicts = []
    for judge in JUDGES:
        for order in ORDERS:
            calls = [rng.choice((0, 1, 2)) for _ in METRICS]
            verdict = {"judge": judge, "order": order, "calls": calls, "reason": text(25)}
            verdicts.append({**verdict, "look": 1})
    replies = {
        "king": f"THOUGHT: {text(80)}\n\n```bash\nls src/{number}\n```",
        "challenger": f"THOUGHT: {text(80)}\n\n```bash\ncat src/{number}.py\n```",
    }
    texts = {
        "chat": [
            ["system", "Rules."],
            ["user", task or f"Issue {number}: {text(300)}"],
            ["assistant", "THOUGHT: I look.\n\n```bash\nls\n```"],
            ["user", observation or text(400)],
        ],
        "replies": replies,
        "fence": "bash",
        "leaks": {"king": [], "challenger": []},
        "problems": {"king": "", "challenger": ""},
        "metrics": dict.fromkeys(METRICS, score),
        "by_judge": {judge: score for judge in JUDGES},
        "verdicts": verdicts,
    }
    turn = {
        "stem": f"prompts_9_1_{number + 1}",
        "file": f"answer_0/prompts_9_1_{number + 1}.json",
        "instance_id": f"acme__widgets-{number}",
        "repo": "acme/widgets",
        "status": "parsed",
        "bucket": bucket,
        "why": "",
        "score": score,
        "score_confirmed": None,
        "style": STYLES[number % 4],
        "step": 1 + number % 7,
        "spread": 10.0 * (number % 6),
        "marks": [],
        "exported": "train" if bucket == "final" else "",
        "opponent": "king",
        "length": len(replies["challenger"]),
        "sha": label_sha(replies["king"], replies["challenger"]),
        "texts": texts,
    }
    for name, value in changes.items():
        (texts if name in texts else turn)[name] = value
    return turn


def make_data(count: int, seed: int = 0, **changes) -> dict:
    """Return what the page of `count` turns is made from."""
    rng = random.Random(seed)
    turns = [make_turn(number, rng, **changes) for number in range(count)]
    return {"title": "A run", "facts": [f"{count} turns"], "judges": JUDGES, "turns": turns}


def write_page(data: dict) -> str:
    """Return turns.html of what `make_data` returns."""
    rows = []
    counts = Counter()
    modes = {"king": 2, "reference": 1}
    for turn in data["turns"]:
        same = {name: value for name, value in turn.items() if name in Row.__slots__}
        row = Row(**{**same, "texts": packed(turn["texts"], len(data["turns"]))})
        row.path = Path(turn["file"])
        row.mode = modes[turn["opponent"]]
        row.challenger_chars = turn["length"]
        row.label_sha = turn["sha"]
        rows.append(row)
        for verdict in turn["texts"]["verdicts"]:
            if verdict["look"] == 1 and verdict["calls"]:
                calls = dict(zip(METRICS, verdict["calls"]))
                for half in half_points({**verdict, "calls": calls}):
                    word = ("loss", "draw", "win")[half]
                    counts["judge", verdict["judge"], f"{verdict['order']} {word}"] += 1
    fates = {turn["stem"]: turn["exported"] for turn in data["turns"]}
    charts = make_charts(rows, counts, data["judges"])
    return page_html(data["title"], data["facts"], rows, fates, charts)
