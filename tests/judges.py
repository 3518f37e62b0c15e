"""Turns to judge, and rules by which the local server judges them.

The challenger's reply holds the word GOOD, the king's does not: so a rule sees which is which.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from common.config import METRICS
from makers import get, make_answer, make_prompt, make_record, put, write_settings
from runner import stage

JUDGES = ["a/steady", "b/second", "c/third"]
SECRET = "zebra_offset"  # stands in every PR record, and nowhere in a chat
_REPLY = r"=== (\w+) REPLY {0} ===\n(.*?)\n=== \1 END OF REPLY {0} ==="


# ----------------------------------------------------------------------------------- what is judged


def write_turn(folder: Path, number: int, king="plain.", challenger="GOOD.", **fields) -> str:
    """Write one answer, whose replies say what is given; return its stem.

    A challenger of "" is not there yet.
    """
    stem = f"prompts_40_1_{number}"
    block = f"\n\n```bash\nls dir_{number}\n```"
    prompt = make_prompt(number, chars=40)
    answer = make_answer(
        number,
        prompt,
        king=f"THOUGHT: {king}{block}",
        challenger=challenger and f"THOUGHT: {challenger}{block}",
        assistant=f"THOUGHT: the data set's own{block}",
        **fields,
    )
    put(folder / f"answer_0/{stem}.json", answer)
    return stem


def write_turns(folder: Path, count: int, **replies) -> list[str]:
    """Write turns 1 to `count` with their PR records; return their stems."""
    stems = []
    for number in range(1, count + 1):
        stems.append(write_turn(folder, number, **replies))
        put(folder / f"commit/acme__widgets-{number}.json", make_record(number))
    return stems


def write_panel(folder: Path, judges=JUDGES, **sections) -> None:
    """Write chain.toml with this panel; a section named as a judge is that judge's override."""
    judge = {"retry_budget_s": 5.0, "bad_reply_tries": 2, **sections.pop("judge", {})}
    duel = {"resamples": 1000, **sections.pop("duel", {})}
    confirm = sections.pop("confirm", {})
    overrides = {f'judge.override."{model}"': values for model, values in sections.items()}
    write_settings(
        folder,
        generate={"model": JUDGES[0]},
        judge={"models": judges, **judge},
        duel=duel,
        confirm=confirm,
        **overrides,
    )


def score(folder: Path, stem: str) -> dict:
    return get(folder / f"score/{stem}.json")


def duel(folder: Path) -> dict:
    return get(folder / "score/_duel.json")


def validate(cwd: Path, server, *flags: str, code: int = 0, **environment: str):
    """Run validate.py and check how it ends."""
    result = stage("validate.py", *flags, cwd=cwd, server=server, **environment)
    assert "Traceback" not in result.stderr, result.stderr
    assert result.returncode == code, (result.stdout, result.stderr)
    return result


def calls(cwd: Path, server, *flags: str, **environment: str) -> int:
    """Run validate.py and return how many calls it took."""
    before = len(server.chats)
    validate(cwd, server, *flags, **environment)
    return len(server.chats) - before


# ---------------------------------------------------------------------------------------- the rules


def prompt_of(body: dict) -> str:
    return body["messages"][1]["content"]


def replies_of(body: dict) -> tuple[str, str]:
    """Return the two replies of a judge's prompt, as they are shown."""
    prompt = prompt_of(body)
    one = re.search(_REPLY.format(1), prompt, re.DOTALL)[2]
    two = re.search(_REPLY.format(2), prompt, re.DOTALL)[2]
    return one, two


def turn_of(body: dict) -> int:
    """Return the number of the turn that is judged."""
    return int(re.search(r"Issue (\d+):", prompt_of(body))[1])


def challenger_is_first(body: dict) -> bool:
    return "GOOD" in replies_of(body)[0]


def verdict(call: int, **changes) -> str:
    return json.dumps({**dict.fromkeys(METRICS, call), "reason": f"call {call}", **changes})


def by_merit(body: dict) -> str:
    """Prefer the reply that holds GOOD."""
    one, two = replies_of(body)
    if ("GOOD" in one) == ("GOOD" in two):
        return verdict(0)
    return verdict(1 if "GOOD" in one else 2)


def by_seat(body: dict) -> str:
    """Prefer the reply shown second, whatever it says."""
    return verdict(2)


def mixed(**judges):
    """Return a rule for each judge by the last part of its name; the others judge by merit."""
    return lambda body: judges.get(body["model"].split("/")[1], by_merit)(body)


def planted(points: np.ndarray, judges: list[str]):
    """Return a rule that gives the calls of `points`: half-points (turns, judges, orders, metrics).

    Turn n of `write_turns` is row n - 1.
    """

    def reply(body: dict) -> str:
        first = challenger_is_first(body)
        row = points[turn_of(body) - 1, judges.index(body["model"]), 0 if first else 1]
        shown = (2, 0, 1) if first else (1, 0, 2)  # by half-points: loss, draw, win
        calls = {metric: shown[half] for metric, half in zip(METRICS, row.tolist())}
        return json.dumps({**calls, "reason": "as planted"})

    return reply
