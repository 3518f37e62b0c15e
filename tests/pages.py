"""Turns as report.py gives them to the page, and how its browser is started."""

from __future__ import annotations

import random
import sys

from common.turns import METRICS, ORDERS

JUDGES = ["lab/Judge-One", "lab/Judge-Two", "lab/Judge-Three"]
STYLES = ["read", "search", "edit", "run"]
WORDS = sorted(sys.stdlib_module_names)  # to write texts with
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def make_turn(number: int, rng: random.Random, **changes) -> dict:
    """Return one turn as report.py gives it to the page; `changes` replace parts of it."""

    def text(words: int) -> str:
        return " ".join(rng.choices(WORDS, k=words))

    bucket, score = [("final", 90.0), ("refined", 70.0), ("defeat", 40.0)][number % 3]
    verdicts = []
    for judge in JUDGES:
        for order in ORDERS:
            calls = {metric: rng.choice((0, 1, 2)) for metric in METRICS}
            verdicts.append({"judge": judge, "order": order, "calls": calls, "reason": text(25)})
    turn = {
        "stem": f"prompts_9_1_{number + 1}",
        "file": f"answer_0/prompts_9_1_{number + 1}.json",
        "instance_id": f"acme__widgets-{number}",
        "repo": "acme/widgets",
        "status": "parsed",
        "bucket": bucket,
        "why": "",
        "score": score,
        "style": STYLES[number % 4],
        "step": 1 + number % 7,
        "metrics": dict.fromkeys(METRICS, score),
        "by_judge": {judge: score for judge in JUDGES},
        "spread": 10.0 * (number % 6),
        "flags": [],
        "export": "train" if bucket == "final" else "",
        "opponent": "king",
        "task": f"Issue {number}: {text(300)}",
        "observation": text(400),
        "replies": {
            "king": f"THOUGHT: {text(80)}\n\n```bash\nls src/{number}\n```",
            "challenger": f"THOUGHT: {text(80)}\n\n```bash\ncat src/{number}.py\n```",
        },
        "leaks": {},
        "protocol_problem": {},
        "verdicts": verdicts,
    }
    return turn | changes


def make_data(count: int, seed: int = 0, **changes) -> dict:
    """Return what the page of `count` turns is made from."""
    rng = random.Random(seed)
    turns = [make_turn(number, rng, **changes) for number in range(count)]
    facts = [f"{count} turns"]
    return {
        "title": "A run", "facts": facts, "judges": JUDGES, "metrics": METRICS, "turns": turns,
    }  # fmt: skip
