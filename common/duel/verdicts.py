"""Verdicts: which of those on file count for a panel, what is missing, and the score they make.

A verdict is cached by judge, sampling, rubric, both replies, chat and order. A score file holds
every verdict that was ever paid for; its `counted` names those that its score rests on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common import turns
from common.cli import Tally
from common.config import CallSettings, Config
from common.duel.reader import READER_RUBRIC, named_sides
from common.files import BadFile, digest
from common.turns import FINAL_MIN, OPPONENT, ORDERS, SIDES, Status

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

    @property
    def identical(self) -> bool:
        """Tell whether both replies are the same text: a draw without a call."""
        return self.replies[0] == self.replies[1]


def load_turn(stem: str, path: Path, mode: int, tally: Tally, write: bool) -> Turn | None:
    """Return a turn with the verdicts on file, None for one that cannot be judged yet.

    A torn answer fails in the tally; it and a torn score are set aside, with `write` off only told.
    """
    try:
        answer = turns.read_answer(path)
    except BadFile as bad:
        turns.set_aside(bad, "king.py asks for it again", write)
        tally.fail(stem, "torn answer: run king.py, then ch.py", str(bad))
        return None
    for side in ("challenger", OPPONENT[mode]):
        if not answer[side]:
            tally.skipped[f"no {SIDES[side]} yet"] += 1
            return None
    replies = (answer["challenger"], answer[OPPONENT[mode]])
    turn = Turn(stem, SCORE / f"{stem}.json", mode, answer, replies, turns.text_digests(answer))
    try:
        turn.saved = turns.read_score(turn.path)
        turn.verdicts = list(turn.saved["verdicts"])
    except FileNotFoundError:
        pass
    except BadFile as bad:
        turns.set_aside(bad, "its verdicts are asked for again", write)
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
        judge = self.config.judge
        return judge.stop_early and not is_full(stem, judge.full_share)

    def decided(self, turn: Turn, bounds: list[float]) -> bool:
        """Tell whether no verdict that is left could bring the turn to the edge."""
        return self.may_stop(turn.stem) and bounds[1] < self.edge

    def in_band(self, score: dict) -> bool:
        """Tell whether a turn's first score asks for a second look."""
        if not self.confirm or score["status"] != Status.PARSED:
            return False
        low, high = self.config.confirm.band
        return low * score["max_points"] <= 100 * score["points"] <= high * score["max_points"]

    def look_up(self, turn: Turn, look: int) -> list[dict | None]:
        """Return the verdict on file of each question of a look; of two with one key the later."""
        on_file = {verdict["key"]: verdict for verdict in turn.verdicts}
        return [on_file.get(question.key(turn)) for question in self.questions[look]]

    def missing(self, turn: Turn, look: int, retry_failed: bool) -> list[Question]:
        """List the questions of a look to ask, `retry_failed` also those that were not readable."""
        questions = []
        for question, verdict in zip(self.questions[look], self.look_up(turn, look)):
            if verdict is None or (retry_failed and verdict["calls"] is None):
                questions.append(question)
        return questions

    def pending(self, turn: Turn, score: dict, confirm: bool, retry_failed: bool) -> list[Question]:
        """List what to ask of a turn now: the first look, or with `confirm` what follows it.

        score: its `score_record`. Of a turn that may be stopped early ask the first question alone,
        then come again.
        """
        if turn.identical:
            return []
        if not confirm:
            decided = self.decided(turn, score["bounds"])
            return [] if decided else self.missing(turn, FIRST_LOOK, retry_failed)
        if turn.answer["meta"]["challenger"].get("refused"):
            return []  # the audit keeps it out of final/, whatever anyone says
        again = self.missing(turn, SECOND_LOOK, retry_failed) if self.in_band(score) else []
        if again or turns.bucket(score)[0] != "final":
            return again
        return self.missing(turn, READING, retry_failed)

    def score_record(self, turn: Turn) -> dict:
        """Return the content of score/<stem>.json."""
        verdicts = self.look_up(turn, FIRST_LOOK)
        counted = [verdict for verdict in verdicts if verdict is not None]
        figures = turns.turn_score(counted, self.names, turn.identical)
        status = Status.PARSED
        reason = ""
        if turn.identical:
            reason = "Both replies are the same text: a draw without a call."
        elif len(counted) < len(verdicts) and self.decided(turn, figures["bounds"]):
            status = Status.STOPPED
            many = f"{len(counted)} of {len(verdicts)} verdicts"
            reason = f"Stopped after {many}: it could reach {figures['bounds'][1]:.1f} at most."
        elif len(counted) < len(verdicts):
            status = Status.UNFINISHED
        elif any(verdict["calls"] is None for verdict in counted):
            status = Status.PARSE_FAIL
        else:
            by_judge = figures["by_judge"]
            nearest = min(by_judge, key=lambda name: abs(by_judge[name] - figures["score"]))
            firsts = [verdict for verdict in counted if verdict["order"] == ORDERS[0]]
            reasons = {verdict["judge"]: verdict["reason"] for verdict in firsts}
            reason = f"{nearest} (reply 1 = challenger): {reasons[nearest]}"
        if status in (Status.UNFINISHED, Status.PARSE_FAIL):
            figures |= dict.fromkeys(("points", "score", "metrics"))
            figures["max_points"] = turns.MOST_HALF_POINTS * len(verdicts)
        score = {
            "stem": turn.stem,
            "instance_id": turn.answer["instance_id"],
            "repo": str(turn.answer["meta"].get("repo") or ""),
            "mode": turn.mode,
            **figures,
            "parsed": status is Status.PARSED,
            "status": status.value,
            "reason": reason,
            "held_back": "",
            "sha": turn.sha,
            "counted": [verdict["key"] for verdict in counted],
            "verdicts": turn.verdicts,
        }
        before = turn.saved or {"status": None}
        stopped = before["status"] == Status.STOPPED or "reopened" in before
        if status is Status.UNFINISHED and stopped:
            score["reopened"] = True  # it must now be judged further
        if status is Status.PARSED and not turn.identical:
            self._look_again(score, turn)
        return score

    def _look_again(self, score: dict, turn: Turn) -> None:
        """Add what the second look and the reader's test say of a parsed turn."""
        found = self.look_up(turn, SECOND_LOOK)
        if self.in_band(score) and None not in found:
            score["counted_confirmed"] = [verdict["key"] for verdict in found]
            if any(verdict["calls"] is None for verdict in found):
                score["held_back"] = "a verdict of the second look could not be read"
            else:
                second = turns.turn_score(found, [call.model for call in self.confirm])
                points = score["points"] + second["points"]
                most = score["max_points"] + second["max_points"]
                score["points_confirmed"] = points
                score["max_points_confirmed"] = most
                score["score_confirmed"] = 100 * (points / most)
        findings = [verdict and verdict["calls"] for verdict in self.look_up(turn, READING)]
        if findings and None not in findings:
            score["reader"] = named_sides(findings, turn.answer, turn.mode)
            if "challenger" in score["reader"] and turns.bucket(score)[0] == "final":
                quote = " ".join(score["reader"]["challenger"].split())[:200]
                score["held_back"] = f"the reader's test: the chat does not explain {quote!r}"


def is_full(stem: str, full_share: float) -> bool:
    """Tell whether a turn belongs to the share that is always judged in full, by a hash."""
    return int(digest("full", stem)[:8], 16) < full_share * 2**32
