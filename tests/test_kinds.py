"""The doubt that replies show, and challengers of both kinds compared, as planted."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.audit.protocol import count_doubt
from common.config import METRICS
from common.demo.server import Server
from common.duel.statistics import rate_ratio
from judges import replies_of
from makers import make_prompt, make_record, make_run, put, write_prompts, write_settings
from reports import FINAL, read, read_csv, rewrite
from reports import report as run_report
from runner import KEY, QUICK, stage
from writers import IS_CHOICE, choose, reply

# -------------------------------------------------------------------------------------- doubt


@pytest.mark.parametrize(
    "thought, found",
    [
        ("I'm not sure. It might be here; let me check it.", (3, 11)),
        ("It’s here, I DON’T KNOW where: `might_fail` awaits.", (1, 8)),
        ("The cause is the loop. I fix it.", (0, 8)),
        ("Perhaps\nlet me\n  check perhaps", (3, 5)),
        ("", (0, 0)),
    ],
)
def test_hedges_and_words_of_the_thought_alone_are_counted(thought, found):
    assert count_doubt(reply(thought, "grep -rn 'maybe perhaps' .")) == found


def test_the_ratio_of_rates_keeps_its_level():
    """With turns alike by instance: of 90 % intervals about 90 % hold the planted ratio."""
    chance = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        groups = np.repeat(np.arange(60), 5)
        moods = np.repeat(chance.gamma(4, 0.25, 60), 5)
        words = chance.integers(20, 80, (2, 300))
        events = chance.poisson([0.02 * moods * words[0], 0.04 * moods * words[1]])
        counts = np.column_stack([events[0], words[0], events[1], words[1]])
        low, high = rate_ratio(counts, groups, alpha=0.05)["interval"]
        held += low <= 0.5 <= high
    assert 0.86 <= held / 400 <= 0.94
    assert rate_ratio(np.array([[0, 9, 2, 9]]), ["a"], 0.05) == {"ratio": 0.0, "interval": None}
    assert rate_ratio(np.array([[2, 9, 0, 9]]), ["a"], 0.05) is None


@pytest.mark.parametrize("hedges, is_told", [(0, True), (1, True), (3, False)])
def test_challengers_that_doubt_less_than_half_as_much_are_a_point(tmp_path, hedges, is_told):
    for number, stem in enumerate(make_run(tmp_path, [FINAL] * 24)):
        thought = f"perhaps {'plain ' * 30}{number}"
        fewer = "perhaps" if number % 4 < hedges else "plain"
        challenger = reply(f"{fewer} {'plain ' * 30}{number}", f"ls {number}")
        rewrite(tmp_path, stem, king=reply(thought, "pwd"), challenger=challenger)
    run_report(tmp_path)
    page = read(tmp_path / "report/report.md")
    assert ("**The challengers doubt little**" in page) == is_told
    interval = r" \(.*\)\*\*, 90 % interval over instances" if hedges else r"\*\*\. Nothing"
    assert re.search(rf"challenger to king \*\*{hedges / 4:.2f}{interval}", page)
    assert "(–)" not in page
    assert "king 3.1" in page and "Two kinds" not in page
    assert "in 100 words of THOUGHT" in read(tmp_path / "export/README.md")
    assert {row["king_doubt"] for row in read_csv(tmp_path)} == {"3.12"}


# -------------------------------------------------------------------- both kinds, as planted

DOUBT = {"blind": 0.06, "informed": 0.02}  # of 40 words of a thought
LEAKY = 0.15  # blind replies that name a file which the chat has not shown
SURE = 0.05  # worth between replies that a judge sees
# Worth: blind uniform from 0 to 1, informed from 0.3 to 1, chosen the best of four. So, in theory:
KEPT = {"informed": 0.6, "chosen": 0.75}
SCORE = {"informed": 64.9, "chosen": 79.8}
TURNS = 240


def planted_writers(seed: int):
    """Return a rule for all that is asked: replies whose words say what they are worth."""
    chance = random.Random(seed)

    def write(worth: float, doubt: float, leaky: float) -> str:
        words = ["maybe" if chance.random() < doubt else "then" for _ in range(40)]
        command = "cat gears/ratio.py" if chance.random() < leaky else f"ls {chance.random()}"
        return reply(f"{' '.join(words)} worth {worth:.4f}", command)

    def answer(body: dict) -> str:
        system = body["messages"][0]["content"]
        if "efficiency" in system:
            one, two = map(worth_of, replies_of(body))
            call = 0 if abs(one - two) <= SURE else 1 if one > two else 2
            return json.dumps({**dict.fromkeys(METRICS, call), "reason": "worth"})
        if IS_CHOICE in system:
            return choose(body["messages"][1]["content"], worth_of)
        if "HIDDEN PR RECORD" in body["messages"][-1]["content"]:
            return write(0.3 + 0.7 * chance.random(), DOUBT["informed"], 0.3)
        return write(chance.random(), DOUBT["blind"], LEAKY)

    return answer


def worth_of(text: str) -> float:
    return float(re.search(r"worth (\d\.\d+)", text)[1])


def make_planted_run(folder: Path, seed: int) -> None:
    """Run all stages on TURNS turns of instances of three; half of them chosen, by shards."""
    prompts = []
    for number in range(TURNS):
        prompt = make_prompt(number, 40)
        prompts.append({**prompt, "instance_id": f"acme__widgets-{number // 3}"})
        put(folder / f"commit/acme__widgets-{number // 3}.json", make_record(number // 3))
    write_prompts(folder, prompts)
    patient = {**QUICK, "bad_reply_tries": 10}
    with Server(reply=planted_writers(seed), key=KEY) as server:

        def run_stage(*command: str, **generate) -> None:
            judge = {"models": ["a/judge"]}
            write_settings(folder, generate={**patient, **generate}, judge=judge)
            result = stage(*command, cwd=folder, server=server)
            assert result.returncode == 0, result.stderr + result.stdout

        run_stage("king.py")
        run_stage("ch.py", "--shard", "0/2")
        run_stage("ch.py", challenger="chosen")
        run_stage("validate.py")
        run_stage("report.py")


def intervals(cell: str) -> tuple[float, float, float]:
    """Return the figure of a cell of the report and its interval."""
    return tuple(map(float, re.findall(r"\d+(?:\.\d+)?", cell)))


def is_near(cell: str, truth: float) -> bool:
    """Tell whether a truth lies within the interval, stretched to twice its width."""
    mean, low, high = intervals(cell)
    return 2 * low - mean <= truth <= 2 * high - mean


def compared_kinds(folder: Path) -> dict[str, list[str]]:
    """Return the cells of each kind in the report's table."""
    rows = re.findall(
        r"^\| (informed|chosen): .*$", read(folder / "report/report.md"), re.MULTILINE
    )
    assert rows == ["informed", "chosen"]
    found = {}
    for kind in rows:
        (line,) = re.findall(
            rf"^\| {kind}: (.*) \|$", read(folder / "report/report.md"), re.MULTILINE
        )
        found[kind] = line.split(" | ")[1:]
    return found


@pytest.mark.background
def test_kinds_come_out_as_planted(tmp_path):
    make_planted_run(tmp_path, 1)
    kinds = compared_kinds(tmp_path)
    hedging = 100 / 43  # three of 43 words say what a reply is worth
    truths = {
        kind: [100 * KEPT[kind], SCORE[kind], {"informed": 0, "chosen": 100 * LEAKY}[kind]]
        for kind in kinds
    }
    for kind, (_, kept, score, leaks, hedges, ratio) in kinds.items():
        for cell, truth in zip((kept, score, leaks), truths[kind]):
            assert is_near(cell, truth), (kind, cell, truth)
        doubt = DOUBT["informed" if kind == "informed" else "blind"]
        assert is_near(ratio, doubt / DOUBT["blind"]), (kind, ratio)
        assert float(hedges) == pytest.approx(40 * doubt * hedging, rel=0.25)
    assert sum(int(cells[0]) for cells in kinds.values()) == TURNS
    page = read(tmp_path / "report/report.md")
    assert "They are a second null beside the king's" in page
    rows = read_csv(tmp_path)
    by_kind = Counter((row["made"], row["candidates_distinct"]) for row in rows)
    assert set(by_kind) <= {("informed", "0"), *(("chosen", str(n)) for n in range(1, 5))}
    assert not any(int(row["leak_hits"]) for row in rows)
    assert all(row["king_doubt"] and row["challenger_doubt"] for row in rows)
    card = read(tmp_path / "export/README.md")
    assert (
        "that a look at the task's hidden PR record chose" in card
        and "in 100 words of THOUGHT" in card
    )
    sft = [json.loads(line) for line in read(tmp_path / "export/sft-train.jsonl").splitlines()]
    distinct = {row["stem"]: int(row["candidates_distinct"]) for row in rows}
    assert sft and all(row["candidates_distinct"] == distinct[row["stem"]] for row in sft)
