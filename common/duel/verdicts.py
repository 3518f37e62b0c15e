"""Verdicts: which of those on file count for a panel, what is missing, and the score they make.

A verdict is cached by judge, sampling, rubric, both replies, chat and order. A score file holds
every verdict that was ever paid for; its `counted` names those that its score rests on.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
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


@dataclass
class Turn:
    """One turn as it is judged; `verdicts` are all on file, of other panels and modes too."""

    stem: str
    mode: int
    answer: dict
    shown: dict[str, tuple[str, str]]  # by order: both replies as a judge sees them
    path: Path  # of its score file
    saved: dict | None  # the score file as it was found
    verdicts: list[dict]
    sha: dict[str, str]  # digests of the chat and of each reply

    @property
    def identical(self) -> bool:
        return self.sha["challenger"] == self.sha[OPPONENT[self.mode]]


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
    opponent = OPPONENT[mode]
    if not answer["challenger"]:
        tally.skipped["no challenger yet: ch.py writes it"] += 1
        return None
    if not answer[opponent]:
        tally.skipped[f"no {SIDES[opponent]} to compare the challenger with"] += 1
        return None
    replies = (answer["challenger"], answer[opponent])
    shown = {"challenger-first": replies, "challenger-second": replies[::-1]}
    score_path = SCORE / f"{stem}.json"
    saved = None
    try:
        saved = read_score(score_path)
    except FileNotFoundError:
        pass
    except BadFile as bad:
        where = printable(f"; moved to {quarantine(bad.path)}") if write else ""
        print(f"{bad}{where}; its verdicts are asked for again", file=sys.stderr)
    verdicts = list(saved["verdicts"]) if saved else []
    return Turn(stem, mode, answer, shown, score_path, saved, verdicts, text_digests(answer))


class Question(NamedTuple):
    """One call to make; `told` is a digest of judge, sampling and rubric."""

    call: CallSettings
    order: str
    look: int
    told: str

    def key(self, turn: Turn) -> str:
        """Return what the verdict is cached by."""
        texts = turn.sha["chat"] + turn.sha["challenger"] + turn.sha[OPPONENT[turn.mode]]
        again = f" look {self.look}" if self.look > FIRST_LOOK else ""
        return digest(self.told + texts + self.order + again)


class Panel:
    """The judges of this run and, of each turn, what is still to ask and the score so far."""

    def __init__(self, config: Config, told: str):
        """`told` is everything fixed that a judge is told: rubric and layout."""
        self.names = config.judge.models
        self.stop_early = config.judge.stop_early
        self.full_share = config.judge.full_share
        self.band = config.confirm.band
        self.judges = [config.judge_call(model) for model in self.names]
        self.confirm = [config.confirm_call(model) for model in config.confirm.models]
        readers = [call for call in self.confirm if call.model != config.generate.model]
        readers = readers[:1] if config.confirm.peek else []
        self.reader = readers[0].model if readers else None
        # Decided is a turn that can reach neither final/ nor the band of the second look.
        self.edge = min(self.band[0], FINAL_MIN) if self.confirm else FINAL_MIN
        self.questions: dict[int, list[Question]] = {}  # a judge's two orders lie side by side
        for look, calls, rubric in (
            (FIRST_LOOK, self.judges, told),
            (SECOND_LOOK, self.confirm, told),
            (READING, readers, READER_RUBRIC),
        ):
            self.questions[look] = []
            for call in calls:
                sampling = json.dumps(call.sampling(), sort_keys=True)
                sha = digest(call.model, sampling, rubric)
                self.questions[look] += [Question(call, order, look, sha) for order in ORDERS]

    def may_stop(self, stem: str) -> bool:
        """Tell whether a turn may be stopped early: `full_share` of them never are."""
        return self.stop_early and not is_full(stem, self.full_share)

    def in_band(self, score: dict) -> bool:
        """Tell whether a turn's first score asks for a second look."""
        if not self.confirm or score["status"] != Status.PARSED:
            return False
        low, high = self.band
        return low * score["max_points"] <= 100 * score["points"] <= high * score["max_points"]

    def counted(self, turn: Turn, look: int) -> dict[tuple[str, str], dict]:
        """Return the verdicts on file that count, by (judge, order); of two the later one."""
        on_file = {verdict["key"]: verdict for verdict in turn.verdicts}
        found = {}
        for question in self.questions[look]:
            key = question.key(turn)
            if key in on_file:
                found[question.call.model, question.order] = on_file[key]
        return found

    def missing(self, turn: Turn, look: int, retry_failed: bool = False) -> list[Question]:
        """List the questions of a look that no verdict answers, or with `retry_failed` none that
        could be read. Identical replies are a draw without a call."""
        if turn.identical:
            return []
        answered = set()
        for place, verdict in self.counted(turn, look).items():
            if is_read(verdict) or not retry_failed:
                answered.add(place)
        questions = self.questions[look]
        return [one for one in questions if (one.call.model, one.order) not in answered]

    def pending(self, turn: Turn, score: dict, confirm: bool, retry_failed: bool) -> list[Question]:
        """List what to ask of a turn now: the first look, or with `confirm` what follows it.

        score: its `score_record`. Of a turn that may be stopped early ask the first question alone,
        then come again.
        """
        if not confirm:
            if self.may_stop(turn.stem) and score["bounds"][1] < self.edge:
                return []
            return self.missing(turn, FIRST_LOOK, retry_failed)
        if turn.answer["meta"]["challenger"].get("refused"):
            return []  # the audit keeps it out of final/, whatever anyone says
        if self.in_band(score):
            missing = self.missing(turn, SECOND_LOOK, retry_failed)
            if missing or "score_confirmed" not in score:
                return missing
        if bucket({**score, "held_back": ""})[0] == "final":
            return self.missing(turn, READING, retry_failed)
        return []

    def score_record(self, turn: Turn) -> dict:
        """Return the content of score/<stem>.json."""
        counted = self.counted(turn, FIRST_LOOK)
        points = points_of(turn.identical, counted, self.names)
        bounds = score_bounds(points)
        asked = len(self.questions[FIRST_LOOK])
        status = Status.UNFINISHED
        if turn.identical:
            status = Status.PARSED
        elif len(counted) == asked:
            status = Status.PARSED if all(map(is_read, counted.values())) else Status.PARSE_FAIL
        elif counted and self.may_stop(turn.stem) and bounds[1] < self.edge:
            status = Status.STOPPED
        flags = []
        for side in ("challenger", OPPONENT[turn.mode]):
            flags += [f"{SIDES[side]}: {flag}" for flag in reply_flags(turn.answer[side])]
        score = {
            "stem": turn.stem,
            "instance_id": turn.answer["instance_id"],
            "repo": str(turn.answer["meta"].get("repo") or ""),
            "mode": turn.mode,
            **turn_score(points, self.names, scored=status in (Status.PARSED, Status.STOPPED)),
            "bounds": bounds,
            "parsed": status is Status.PARSED,
            "status": status.value,
            "reason": "",
            "held_back": "",
            "flags": flags,
            "sha": turn.sha,
            "counted": [verdict["key"] for verdict in counted.values()],
            "verdicts": turn.verdicts,
        }
        before = turn.saved or {"status": None}
        if status is Status.UNFINISHED:
            if before["status"] == Status.STOPPED or "reopened" in before:
                score["reopened"] = True  # it was stopped and must now be judged further
        elif status is Status.STOPPED:
            many = f"{len(counted)} of {asked} verdicts"
            score["reason"] = f"Stopped after {many}: it could reach {bounds[1]:.1f} at most."
        elif turn.identical:
            score["reason"] = "Both replies are the same text: a draw without a call."
        elif status is Status.PARSED:
            by_judge = score["by_judge"]
            nearest = min(by_judge, key=lambda name: abs(by_judge[name] - score["score"]))
            reason = counted[nearest, "challenger-first"]["reason"]
            score["reason"] = f"{nearest} (reply 1 = challenger): {reason}"
            self._look_again(score, turn)
        return score

    def _look_again(self, score: dict, turn: Turn) -> None:
        """Add what the second look and the reader's test say of a parsed turn."""
        again = self.counted(turn, SECOND_LOOK)
        if self.in_band(score) and len(again) == len(self.questions[SECOND_LOOK]):
            score["counted_confirmed"] = [verdict["key"] for verdict in again.values()]
            if all(map(is_read, again.values())):
                names = [call.model for call in self.confirm]
                second = turn_score(panel_points(again, names), names)
                points = score["points"] + second["points"]
                most = score["max_points"] + second["max_points"]
                score["points_confirmed"] = points
                score["max_points_confirmed"] = most
                score["score_confirmed"] = 100 * (points / most)
            else:
                score["held_back"] = "a verdict of the second look could not be read"
        findings = {}
        for (_, order), verdict in self.counted(turn, READING).items():
            if is_read(verdict):
                findings[order] = verdict["calls"]
        if len(findings) == len(ORDERS):
            score["reader"] = named_sides(findings, turn.answer, turn.mode)
            if "challenger" in score["reader"] and bucket(score)[0] == "final":
                quote = " ".join(score["reader"]["challenger"].split())[:200]
                score["held_back"] = f"the reader's test: the chat does not explain {quote!r}"


def is_full(stem: str, full_share: float) -> bool:
    """Tell whether a turn belongs to the share that is always judged in full, by a hash."""
    return int(digest("full", stem)[:8], 16) < full_share * 2**32


def is_read(verdict: dict) -> bool:
    """Tell whether a judge's answer could be read."""
    return verdict["calls"] is not None
