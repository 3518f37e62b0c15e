"""Verdicts: which of those on file count for a panel, what is missing, and the score they make.

A verdict is cached by judge, sampling, rubric, both replies, chat and order. A score file holds
every verdict that was ever paid for; its `counted` names those that its score rests on.
"""

from __future__ import annotations

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


@dataclass
class Turn:
    """One turn as it is judged; `verdicts` are all on file, of other panels and modes too."""

    stem: str
    path: Path  # of its score file
    mode: int
    answer: dict
    replies: tuple[str, str]  # the challenger's, and the one that it is compared with
    sha: dict[str, str]  # digests of the chat and of each reply
    saved: dict | None = None  # the score file as it was found
    verdicts: list[dict] = field(default_factory=list)


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
    opponent = OPPONENT[mode]
    if not answer[opponent]:
        tally.skipped[f"no {SIDES[opponent]} to compare the challenger with"] += 1
        return None
    replies = (answer["challenger"], answer[opponent])
    turn = Turn(stem, SCORE / f"{stem}.json", mode, answer, replies, text_digests(answer))
    try:
        turn.saved = read_score(turn.path)
        turn.verdicts = list(turn.saved["verdicts"])
    except FileNotFoundError:
        pass
    except BadFile as bad:
        where = printable(f"; moved to {quarantine(bad.path)}") if write else ""
        print(f"{bad}{where}; its verdicts are asked for again", file=sys.stderr)
    return turn


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
        self.config = config
        self.names = config.judge.models
        self.stop_early = config.judge.stop_early
        self.judges = [config.judge_call(model) for model in self.names]
        self.confirm = [config.confirm_call(model) for model in config.confirm.models]
        readers = [call for call in self.confirm if call.model != config.generate.model]
        self.reader = readers[0] if readers and config.confirm.peek else None
        # Decided is a turn that can reach neither final/ nor the band of the second look.
        self.edge = min(config.confirm.band[0], FINAL_MIN) if self.confirm else FINAL_MIN
        self.questions: dict[int, list[Question]] = {}  # of each look, a judge's two side by side
        for look, calls, rubric in (
            (FIRST_LOOK, self.judges, told),
            (SECOND_LOOK, self.confirm, told),
            (READING, [self.reader] if self.reader else [], READER_RUBRIC),
        ):
            self.questions[look] = []
            for call in calls:
                sampling = json.dumps(call.sampling(), sort_keys=True)
                sha = digest(call.model, sampling, rubric)
                self.questions[look] += [Question(call, order, look, sha) for order in ORDERS]

    def may_stop(self, stem: str) -> bool:
        """Tell whether a turn may be stopped early: `full_share` of them never are."""
        return self.stop_early and not is_full(stem, self.config.judge.full_share)

    def in_band(self, score: dict) -> bool:
        """Tell whether a turn's first score asks for a second look."""
        if not self.confirm or score["status"] != Status.PARSED:
            return False
        low, high = self.config.confirm.band
        return low * score["max_points"] <= 100 * score["points"] <= high * score["max_points"]

    def look_up(
        self, turn: Turn, look: int, retry_failed: bool = False
    ) -> tuple[dict[tuple[str, str], dict], list[Question]]:
        """Return (the verdicts that count by (judge, order), the questions still to ask).

        Of two with one key the later counts. `retry_failed` asks again where an answer could not be
        read; identical replies are a draw without a call.
        """
        on_file = {verdict["key"]: verdict for verdict in turn.verdicts}
        found = {}
        missing = []
        for question in self.questions[look]:
            verdict = on_file.get(question.key(turn))
            if verdict is not None:
                found[question.call.model, question.order] = verdict
            if verdict is None or (retry_failed and verdict["calls"] is None):
                missing.append(question)
        identical = turn.replies[0] == turn.replies[1]
        return found, [] if identical else missing

    def pending(self, turn: Turn, score: dict, confirm: bool, retry_failed: bool) -> list[Question]:
        """List what to ask of a turn now: the first look, or with `confirm` what follows it.

        score: its `score_record`. Of a turn that may be stopped early ask the first question alone,
        then come again.
        """
        looks = [FIRST_LOOK]
        if confirm:
            looks = [SECOND_LOOK] if self.in_band(score) else []
            looks += [READING] if bucket(score)[0] == "final" else []
            if turn.answer["meta"]["challenger"].get("refused"):
                looks = []  # the audit keeps it out of final/, whatever anyone says
        elif self.may_stop(turn.stem) and score["bounds"][1] < self.edge:
            looks = []
        for look in looks:
            _, missing = self.look_up(turn, look, retry_failed)
            if missing:
                return missing
        return []

    def score_record(self, turn: Turn) -> dict:
        """Return the content of score/<stem>.json."""
        counted, missing = self.look_up(turn, FIRST_LOOK)
        unread = [verdict for verdict in counted.values() if verdict["calls"] is None]
        identical = turn.replies[0] == turn.replies[1]
        points = points_of(identical, counted, self.names)
        bounds = score_bounds(points)
        status = Status.PARSE_FAIL if unread else Status.PARSED
        reason = ""
        if identical:
            reason = "Both replies are the same text: a draw without a call."
        elif missing and counted and self.may_stop(turn.stem) and bounds[1] < self.edge:
            status = Status.STOPPED
            many = f"{len(counted)} of {len(self.questions[FIRST_LOOK])} verdicts"
            reason = f"Stopped after {many}: it could reach {bounds[1]:.1f} at most."
        elif missing:
            status = Status.UNFINISHED
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
            "reason": reason,
            "held_back": "",
            "flags": flags,
            "sha": turn.sha,
            "counted": [verdict["key"] for verdict in counted.values()],
            "verdicts": turn.verdicts,
        }
        before = turn.saved or {"status": None}
        stopped = before["status"] == Status.STOPPED or "reopened" in before
        if status is Status.UNFINISHED and stopped:
            score["reopened"] = True  # it must now be judged further
        if status is Status.PARSED and not identical:
            by_judge = score["by_judge"]
            nearest = min(by_judge, key=lambda name: abs(by_judge[name] - score["score"]))
            reason = counted[nearest, "challenger-first"]["reason"]
            score["reason"] = f"{nearest} (reply 1 = challenger): {reason}"
            self._look_again(score, turn)
        return score

    def _look_again(self, score: dict, turn: Turn) -> None:
        """Add what the second look and the reader's test say of a parsed turn."""
        found, missing = self.look_up(turn, SECOND_LOOK)
        if self.in_band(score) and not missing:
            score["counted_confirmed"] = [verdict["key"] for verdict in found.values()]
            names = [call.model for call in self.confirm]
            second = turn_score(panel_points(found, names), names)
            if any(verdict["calls"] is None for verdict in found.values()):
                score["held_back"] = "a verdict of the second look could not be read"
            else:
                points = score["points"] + second["points"]
                most = score["max_points"] + second["max_points"]
                score["points_confirmed"] = points
                score["max_points_confirmed"] = most
                score["score_confirmed"] = 100 * (points / most)
        found, missing = self.look_up(turn, READING)
        findings = {order: verdict["calls"] for (_, order), verdict in found.items()}
        if self.reader and not missing and None not in findings.values():
            score["reader"] = named_sides(findings, turn.answer, turn.mode)
            if "challenger" in score["reader"] and bucket(score)[0] == "final":
                quote = " ".join(score["reader"]["challenger"].split())[:200]
                score["held_back"] = f"the reader's test: the chat does not explain {quote!r}"


def is_full(stem: str, full_share: float) -> bool:
    """Tell whether a turn belongs to the share that is always judged in full, by a hash."""
    return int(digest("full", stem)[:8], 16) < full_share * 2**32
