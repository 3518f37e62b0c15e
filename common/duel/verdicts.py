"""Verdicts: which of those on file count for a panel, what is missing, and the score they make.

A verdict is cached by judge, sampling, rubric, both replies, chat and order. A score file holds
every verdict that was ever paid for; its `counted` names those that its score rests on.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common.cli import Tally
from common.config import CallSettings, Config
from common.duel.reader import READER_RUBRIC, named_sides
from common.files import BadFile, digest, printable, quarantine
from common.replies.flags import reply_flags
from common.turns import (
    FINAL_MIN,
    OPPONENT,
    ORDERS,
    SIDES,
    Status,
    bucket,
    panel_points,
    points_of,
    read_answer,
    read_score,
    score_bounds,
    text_digests,
    turn_score,
)

SCORE = Path("score")
FIRST_LOOK = 1
SECOND_LOOK = 2
READING = 3  # the reader's test: a finding, not a score


class Question(NamedTuple):
    """One call to make: a judge's settings, the order of the replies, and which look it is."""

    call: CallSettings
    order: str
    look: int


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
        where = printable(f"; moved to {quarantine(bad.path)}") if write else ""
        print(f"{bad}{where}; its verdicts are asked for again", file=sys.stderr)
        saved = None
    verdicts = list(saved["verdicts"]) if saved else []
    return Turn(stem, mode, answer, saved, verdicts, text_digests(answer))


class Panel:
    """The judges of this run and, of each turn, which verdicts count and which are missing."""

    def __init__(self, config: Config, told: str):
        """`told` is everything fixed that a judge is told: rubric and layout."""
        self.judges = [config.judge_call(model) for model in config.judge.models]
        self.names = [call.model for call in self.judges]
        self.cheapest_first = list(self.judges)
        self.stop_early = config.judge.stop_early
        self.full_share = config.judge.full_share
        self.confirm = [config.confirm_call(model) for model in config.confirm.models]
        self.band = config.confirm.band
        others = [call for call in self.confirm if call.model != config.generate.model]
        self.reader = others[0] if others and config.confirm.peek else None
        # Decided is a turn that can reach neither final/ nor the band of the second look.
        self.edge = min(self.band[0], FINAL_MIN) if self.confirm else FINAL_MIN
        self._told = {FIRST_LOOK: told, SECOND_LOOK: told, READING: READER_RUBRIC}
        self._digests: dict[tuple[str, int], str] = {}

    def key(self, question: Question, turn: Turn) -> str:
        """Return what a verdict is cached by: judge, sampling, rubric, chat, replies, order."""
        judge = self._judge_digest(question.call, question.look)
        texts = turn.sha["chat"] + turn.sha["challenger"] + turn.sha[OPPONENT[turn.mode]]
        again = f" look {question.look}" if question.look > FIRST_LOOK else ""
        return digest(judge + texts + question.order + again)

    def _judge_digest(self, call: CallSettings, look: int) -> str:
        """Return a digest of what is the same for all turns of a judge, made once a look."""
        if (call.model, look) not in self._digests:
            sampling = json.dumps(call.sampling(), sort_keys=True)
            self._digests[call.model, look] = digest(call.model, sampling, self._told[look])
        return self._digests[call.model, look]

    def questions(self, look: int) -> list[Question]:
        """Return every question of a look, a judge's two orders side by side."""
        readers = [self.reader] if self.reader else []
        calls = {FIRST_LOOK: self.cheapest_first, SECOND_LOOK: self.confirm, READING: readers}
        return [Question(call, order, look) for call in calls[look] for order in ORDERS]

    def counted(self, turn: Turn, look: int) -> dict[tuple[str, str], dict]:
        """Return the verdicts on file that count, by (judge, order); of two the later one."""
        on_file = {verdict["key"]: verdict for verdict in turn.verdicts}
        found = {}
        for question in self.questions(look):
            verdict = on_file.get(self.key(question, turn))
            if verdict is not None:
                found[question.call.model, question.order] = verdict
        return found

    def missing(self, turn: Turn, look: int, retry_failed: bool) -> list[Question]:
        """List the questions of a look whose verdict is not there.

        `retry_failed` asks again where an answer could not be read. Identical replies are a draw
        without a call.
        """
        if turn.identical:
            return []
        found = self.counted(turn, look)
        missing = []
        for question in self.questions(look):
            verdict = found.get((question.call.model, question.order))
            if verdict is None or retry_failed and not is_read(verdict):
                missing.append(question)
        return missing

    def pending(self, turn: Turn, confirm: bool, retry_failed: bool) -> list[Question]:
        """List what to ask of a turn now: the first look, or with `confirm` what follows it.

        Of a turn that may be stopped early ask the first alone, then come again.
        """
        if not confirm:
            if self.may_stop(turn) and self.is_decided(turn):
                return []
            return self.missing(turn, FIRST_LOOK, retry_failed)
        if turn.answer["meta"]["challenger"].get("refused"):
            return []  # the audit keeps it out of final/, whatever anyone says
        score = score_record(turn, self)
        if score["status"] == Status.PARSED and self.in_band(score):
            missing = self.missing(turn, SECOND_LOOK, retry_failed)
            if missing or "score_confirmed" not in score:
                return missing
        if bucket({**score, "held_back": ""})[0] == "final":
            return self.missing(turn, READING, retry_failed)
        return []

    def ahead(self, turn: Turn, confirm: bool, retry_failed: bool) -> list[Question]:
        """List every question that a run may ask of a turn that has some pending."""
        if not confirm:
            return self.pending(turn, confirm, retry_failed)
        questions = []
        if self.in_band(score_record(turn, self)):
            questions += self.missing(turn, SECOND_LOOK, retry_failed)
        return questions + self.missing(turn, READING, retry_failed)

    def may_stop(self, turn: Turn) -> bool:
        """Tell whether the turn may be stopped early: `full_share` of them never are."""
        return self.stop_early and not is_full(turn.stem, self.full_share)

    def is_decided(self, turn: Turn) -> bool:
        """Tell whether no verdict that is left could lift the turn to the edge of final/."""
        points = panel_points(self.counted(turn, FIRST_LOOK), self.names)
        return score_bounds(points)[1] < self.edge

    def in_band(self, score: dict) -> bool:
        """Tell whether a parsed turn's first score asks for a second look."""
        low, high = self.band
        hundredfold = 100 * score["points"]
        most = score["max_points"]
        return bool(self.confirm) and low * most <= hundredfold <= high * most

    def status(self, turn: Turn) -> Status:
        """Return how far the first look of a turn has come."""
        if turn.identical:
            return Status.PARSED
        found = self.counted(turn, FIRST_LOOK)
        if len(found) == len(self.names) * len(ORDERS):
            read = all(is_read(verdict) for verdict in found.values())
            return Status.PARSED if read else Status.PARSE_FAIL
        if self.may_stop(turn) and found and self.is_decided(turn):
            return Status.STOPPED
        return Status.UNFINISHED


def is_full(stem: str, full_share: float) -> bool:
    """Tell whether a turn belongs to the share that is always judged in full, by a hash."""
    return int(digest("full", stem)[:8], 16) < full_share * 2**32


def was_stopped(saved: dict | None) -> bool:
    """Tell whether a score file is of a turn that was stopped, or since then is not judged yet."""
    return saved is not None and (saved["status"] == Status.STOPPED or "reopened" in saved)


def is_read(verdict: dict) -> bool:
    """Tell whether a judge's answer could be read."""
    return verdict["calls"] is not None


# --------------------------------------------------------------------------------- a turn's score


def score_record(turn: Turn, panel: Panel) -> dict:
    """Return the content of score/<stem>.json."""
    counted = panel.counted(turn, FIRST_LOOK)
    status = panel.status(turn)
    points = points_of(turn.identical, counted, panel.names)
    flags = []
    for side in ("challenger", OPPONENT[turn.mode]):
        flags += [f"{SIDES[side]}: {flag}" for flag in reply_flags(turn.answer[side])]
    record = {
        "stem": turn.stem,
        "instance_id": turn.answer["instance_id"],
        "repo": str(turn.answer["meta"].get("repo") or ""),
        "mode": turn.mode,
        **turn_score(points, panel.names, scored=status in (Status.PARSED, Status.STOPPED)),
        "bounds": score_bounds(points),
        "parsed": status is Status.PARSED,
        "status": status.value,
        "reason": "",
        "held_back": "",
        "flags": flags,
        "sha": turn.sha,
        "counted": [verdict["key"] for verdict in counted.values()],
        "verdicts": turn.verdicts,
    }
    if status is Status.UNFINISHED and was_stopped(turn.saved):
        record["reopened"] = True
    if status is Status.PARSED:
        record["reason"] = _reason(turn, record, counted)
        add_second_look(record, turn, panel)
    elif status is Status.STOPPED:
        record["reason"] = (
            f"Stopped after {len(counted)} of {len(panel.names) * len(ORDERS)} verdicts: "
            f"it could reach {record['bounds'][1]:.1f} at most."
        )
    return record


def add_second_look(record: dict, turn: Turn, panel: Panel) -> None:
    """Add what the second look and the reader's test say of a parsed turn."""
    again = panel.counted(turn, SECOND_LOOK)
    if panel.in_band(record) and len(again) == len(panel.confirm) * len(ORDERS):
        record["counted_confirmed"] = [verdict["key"] for verdict in again.values()]
        if all(is_read(verdict) for verdict in again.values()):
            names = [call.model for call in panel.confirm]
            second = turn_score(panel_points(again, names), names, scored=True)
            record["points_confirmed"] = record["points"] + second["points"]
            record["max_points_confirmed"] = record["max_points"] + second["max_points"]
            share = record["points_confirmed"] / record["max_points_confirmed"]
            record["score_confirmed"] = 100 * share
        else:
            record["held_back"] = "a verdict of the second look could not be read"
    findings = {}
    for (_, order), verdict in panel.counted(turn, READING).items():
        if is_read(verdict):
            findings[order] = verdict["calls"]
    if len(findings) == len(ORDERS):
        record["reader"] = named_sides(findings, turn.answer, turn.mode)
        if "challenger" in record["reader"] and bucket(record)[0] == "final":
            quote = " ".join(record["reader"]["challenger"].split())[:200]
            record["held_back"] = f"the reader's test: the chat does not explain {quote!r}"


def _reason(turn: Turn, record: dict, counted: dict[tuple[str, str], dict]) -> str:
    """Return the reason of the judge nearest to the panel, the challenger shown first."""
    if turn.identical:
        return "Both replies are the same text: a draw without a call."
    by_judge = record["by_judge"]
    name = min(by_judge, key=lambda judge: abs(by_judge[judge] - record["score"]))
    return f"{name} (reply 1 = challenger): {counted[name, 'challenger-first']['reason']}"
