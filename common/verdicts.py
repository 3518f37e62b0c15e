"""Verdicts: which of those on file count for a panel, what is missing, and the score they make.

A verdict is cached by judge, sampling, rubric, both replies, chat and order. The files hold every
verdict that was ever paid for; `counted` in a score file names those that its score rests on.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.cli import Tally
from common.config import CallSettings, Config
from common.files import BadFile, digest, quarantine
from common.replies.flags import reply_flags
from common.turns import (
    METRICS,
    OPPONENT,
    ORDERS,
    SIDES,
    Status,
    panel_points,
    read_answer,
    read_score,
    text_digests,
    turn_score,
)

SCORE = Path("score")
USAGE = ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")


@dataclass
class Turn:
    """One turn as it is judged; `verdicts` are all on file, of other panels and modes too."""

    stem: str
    mode: int
    answer: dict
    saved: dict | None  # the score file as it was found
    verdicts: list[dict]
    sha: dict[str, str]  # digests of the chat and of each reply
    saving: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def path(self) -> Path:
        return SCORE / f"{self.stem}.json"

    @property
    def identical(self) -> bool:
        return self.sha["challenger"] == self.sha[OPPONENT[self.mode]]

    def shown(self, order: str) -> tuple[str, str]:
        """Return the two replies in the order in which the judge sees them."""
        challenger = self.answer["challenger"]
        opponent = self.answer[OPPONENT[self.mode]]
        if order == "challenger-first":
            return challenger, opponent
        return opponent, challenger


def load_turn(stem: str, path: Path, mode: int, tally: Tally, write: bool) -> Turn | None:
    """Return a turn with the verdicts on file, None for one that cannot be judged yet.

    A torn answer fails in the tally, a torn score is forgotten; with `write` both are set aside.
    """
    try:
        answer = read_answer(path)
    except BadFile as bad:
        where = f", moved to {quarantine(path)}" if write else ""
        tally.fail(stem, "torn answer: run king.py, then ch.py", f"{bad}{where}")
        return None
    if not answer["challenger"]:
        tally.skipped["no challenger yet: ch.py writes it"] += 1
        return None
    if not answer[OPPONENT[mode]]:
        tally.skipped[f"no {SIDES[OPPONENT[mode]]} to compare the challenger with"] += 1
        return None
    try:
        saved = read_score(SCORE / f"{stem}.json")
    except FileNotFoundError:
        saved = None
    except BadFile as bad:
        where = f"; moved to {quarantine(bad.path)}" if write else ""
        print(f"{bad}{where}; its verdicts are asked for again", file=sys.stderr)
        saved = None
    verdicts = list(saved["verdicts"]) if saved else []
    return Turn(stem, mode, answer, saved, verdicts, text_digests(answer))


class Panel:
    """The judges of this run, in chain.toml's order, and the key of each verdict."""

    def __init__(self, config: Config, told: str):
        """`told` is everything fixed that a judge is told: rubric and layout."""
        self.judges = [config.judge_call(model) for model in config.judge.models]
        self.names = [call.model for call in self.judges]
        self._digests = {}
        for call in self.judges:
            sampling = json.dumps(call.sampling(), sort_keys=True)
            self._digests[call.model] = digest(call.model, sampling, told)

    def key(self, judge: str, order: str, turn: Turn) -> str:
        """Return what a verdict is cached by: judge, sampling, rubric, chat, replies, order."""
        texts = turn.sha["chat"] + turn.sha["challenger"] + turn.sha[OPPONENT[turn.mode]]
        return digest(self._digests[judge] + texts + order)

    def counted(self, turn: Turn) -> dict[tuple[str, str], dict]:
        """Return the verdicts on file that count, by (judge, order); of two the later one."""
        on_file = {verdict["key"]: verdict for verdict in turn.verdicts}
        found = {}
        for name in self.names:
            for order in ORDERS:
                verdict = on_file.get(self.key(name, order, turn))
                if verdict is not None:
                    found[name, order] = verdict
        return found

    def missing(self, turn: Turn, retry_failed: bool) -> list[tuple[CallSettings, str]]:
        """List the (judge's settings, order) to ask, a judge's two orders side by side.

        `retry_failed` asks again where an answer could not be read. Identical replies are a draw
        without a call.
        """
        if turn.identical:
            return []
        found = self.counted(turn)
        missing = []
        for call in self.judges:
            for order in ORDERS:
                verdict = found.get((call.model, order))
                if verdict is None or retry_failed and verdict["calls"] is None:
                    missing.append((call, order))
        return missing


def status_of(turn: Turn, counted: dict, names: list[str]) -> Status:
    """Return whether the full panel answered, and readably."""
    if turn.identical:
        return Status.PARSED
    if len(counted) < len(names) * len(ORDERS):
        return Status.UNFINISHED
    if all(verdict["calls"] is not None for verdict in counted.values()):
        return Status.PARSED
    return Status.PARSE_FAIL


def score_record(turn: Turn, panel: Panel) -> dict:
    """Return the content of score/<stem>.json."""
    counted = panel.counted(turn)
    status = status_of(turn, counted, panel.names)
    points = points_of(turn.identical, counted, panel.names)
    flags = []
    for side in ("challenger", OPPONENT[turn.mode]):
        flags += [f"{SIDES[side]}: {flag}" for flag in reply_flags(turn.answer[side])]
    record = {
        "stem": turn.stem,
        "instance_id": turn.answer["instance_id"],
        "repo": str(turn.answer["meta"].get("repo") or ""),
        "mode": turn.mode,
        **turn_score(points, panel.names),
        "parsed": status is Status.PARSED,
        "status": status.value,
        "reason": "",
        "flags": flags,
        "sha": turn.sha,
        "counted": [verdict["key"] for verdict in counted.values()],
        "verdicts": turn.verdicts,
    }
    if status is Status.PARSED:
        record["reason"] = "Both replies are the same text: a draw without a call."
        if not turn.identical:
            record["reason"] = nearest_reason(record, counted)
    return record


def points_of(identical: bool, counted: dict[tuple[str, str], dict], names: list[str]) -> list:
    """Return half-points by judge, order and metric; identical replies draw everywhere."""
    if identical:
        return [[[1] * len(METRICS) for _ in ORDERS] for _ in names]
    return panel_points(counted, names)


def nearest_reason(record: dict, counted: dict[tuple[str, str], dict]) -> str:
    """Return the reason of the judge nearest to the panel, the challenger shown first."""
    by_judge = record["by_judge"]
    name = min(by_judge, key=lambda judge: abs(by_judge[judge] - record["score"]))
    return f"{name} (reply 1 = challenger): {counted[name, 'challenger-first']['reason']}"


# ------------------------------------------------------------------------------- for the duel


@dataclass
class Rows:
    """What the duel needs of all turns that have both replies, in the order of their stems."""

    instances: list[str]
    statuses: list[Status]
    identical: np.ndarray  # bool (turns,)
    points: np.ndarray  # half-points, int8 (turns, judges, orders, metrics); -1 where unread
    bills: dict[str, Counter]  # by judge, of the verdicts that count
    flags: Counter


def read_rows(stems: list[str], names: list[str], mode: int) -> Rows:
    """Read the score files of these turns; one without a file is unfinished."""
    instances = []
    statuses = []
    identical = []
    points = np.full((len(stems), len(names), len(ORDERS), len(METRICS)), -1, np.int8)
    bills = {name: Counter() for name in names}
    flags: Counter = Counter()
    for place, stem in enumerate(stems):
        try:
            score = read_score(SCORE / f"{stem}.json")
        except FileNotFoundError:
            instances.append("")
            statuses.append(Status.UNFINISHED)
            identical.append(False)
            continue
        same = score["sha"]["challenger"] == score["sha"][OPPONENT[mode]]
        keys = set(score["counted"])
        counted = {}
        for verdict in score["verdicts"]:
            if verdict["key"] in keys:
                counted[verdict["judge"], verdict["order"]] = verdict
        for verdict in counted.values():
            bills[verdict["judge"]].update(bill_of(verdict))
        instances.append(score["instance_id"])
        statuses.append(Status(score["status"]))
        identical.append(same)
        points[place] = points_of(same, counted, names)
        flags.update(score["flags"])
    return Rows(instances, statuses, np.array(identical, bool), points, bills, flags)


def bill_of(verdict: dict) -> dict[str, int]:
    """Return what one verdict cost, in whole numbers: nano-dollars, so that sums are exact."""
    cost_usd = verdict["cost_usd"]
    usage = verdict["usage"] or {}
    return {
        "calls": 1,
        "readable": int(verdict["calls"] is not None),
        "unpriced": int(cost_usd is None),
        "nano_usd": round((cost_usd or 0) * 1e9),
        **{name: usage.get(name) or 0 for name in USAGE},
    }


def spending(bill: Counter) -> dict:
    """Return calls, parse rate, usage and dollars; dollars are null when no price is known."""
    calls = bill["calls"]
    return {
        "calls": calls,
        "parse_rate": bill["readable"] / calls if calls else None,
        "usage": {name: bill[name] for name in USAGE},
        "cost_usd": bill["nano_usd"] / 1e9 if calls > bill["unpriced"] else None,
    }


def percent_of(points: np.ndarray) -> float:
    """Return the challenger's share of these half-points, 0-100."""
    return 100 * int(points.sum(dtype=np.int64)) / (2 * points.size) if points.size else 0.0
