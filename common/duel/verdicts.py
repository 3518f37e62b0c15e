"""Verdicts: which of those on file count for a panel, what is missing, and the score they make."""

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
from common.turns import OPPONENT, ORDERS, SIDES, Status

SCORE = Path("score")
FIRST_LOOK = 1
SECOND_LOOK = 2
READING = 3  # the reader's test: a finding, not a score
LOOKS_OF = {False: (FIRST_LOOK,), True: (SECOND_LOOK, READING)}  # of a run, by --confirm


@dataclass
class Turn:
    """One turn as it is judged; `verdicts` are all on file, of other panels and modes too."""

    stem: str
    path: Path  # of its score file
    mode: int
    answer: dict
    replies: tuple[str, str]  # the challenger's, and the one that it is compared with
    identical: bool  # both are the same text: a draw without a call
    sha: dict[str, str]  # digests of the chat and of each reply
    text_key: str  # the digests of what a judge reads, joined
    saved: dict | None = None  # the score file as it was found
    verdicts: list[dict] = field(default_factory=list)


def load_turn(stem: str, path: Path, mode: int, tally: Tally, write: bool = True) -> Turn | None:
    """Return a turn with the verdicts on file, None for one that cannot be judged yet."""
    try:
        answer = turns.read_answer(path)
    except BadFile as bad:
        turns.set_aside(bad, "king.py asks for it again", write)
        tally.fail(stem, "torn answer: run king.py, then ch.py", str(bad))
        return None
    sides = ("challenger", OPPONENT[mode])
    for side in sides:
        if not answer[side]:
            tally.skipped[f"no {SIDES[side]} yet"] += 1
            return None
    one, other = (answer[side] for side in sides)
    sha = turns.text_digests(answer)
    text_key = "".join(sha[part] for part in ("chat", *sides))
    path = SCORE / f"{stem}.json"
    turn = Turn(stem, path, mode, answer, (one, other), one == other, sha, text_key)
    try:
        turn.saved = turns.read_score(path)
        turn.verdicts = list(turn.saved["verdicts"])
    except FileNotFoundError:
        pass
    except BadFile as bad:
        turns.set_aside(bad, "its verdicts are asked for again", write)
    return turn


class Question(NamedTuple):
    """One call to make; `judge_digest` is of judge, sampling and rubric."""

    call: CallSettings
    order: str
    look: int
    judge_digest: str

    def key(self, turn: Turn) -> str:
        """Return the verdict's key: of judge, sampling, rubric, both replies, chat and order."""
        look = f" look {self.look}" if self.look > FIRST_LOOK else ""
        return digest(self.judge_digest + turn.text_key + self.order + look)


class Panel:
    """The judges of this run and, of each turn, what is still to ask and the score so far."""

    def __init__(self, config: Config, rubric: str):
        """`rubric` is all that is the same in every prompt of a judge, layout included."""
        self.config = config
        self.names = config.judge.models
        self.judges = [config.judge_call(model) for model in self.names]
        self.confirm = [config.confirm_call(model) for model in config.confirm.models]
        readers = [call for call in self.confirm if call.model != config.generate.model]
        self.reader = readers[0] if readers and config.confirm.peek else None
        self.questions = {}  # of each look, the two orders of a judge side by side
        for look, calls, prompt in (
            (FIRST_LOOK, self.judges, rubric),
            (SECOND_LOOK, self.confirm, rubric),
            (READING, [self.reader] if self.reader else [], READER_RUBRIC),
        ):
            questions = self.questions[look] = []
            for call in calls:
                sampling = json.dumps(call.sampling(), sort_keys=True)
                judge_digest = digest(call.model, sampling, prompt)
                questions += [Question(call, order, look, judge_digest) for order in ORDERS]

    def in_band(self, score: dict) -> bool:
        """Tell whether a turn's first score asks for a second look."""
        low, high = self.config.confirm.band
        most = score["max_points"]
        return score["parsed"] and low * most <= 100 * score["points"] <= high * most

    def look_up(self, turn: Turn, look: int) -> list[dict | None]:
        """Return the verdict on file of each question of a look; of two with one key the later."""
        on_file = {verdict["key"]: verdict for verdict in turn.verdicts}
        return [on_file.get(question.key(turn)) for question in self.questions[look]]

    def pending(self, turn: Turn, score: dict, look: int, retry_failed: bool) -> list[Question]:
        """List what to ask, `retry_failed` also what was not readable; score: `score_record`."""
        if look == FIRST_LOOK:
            settled = score["parsed"]
        elif turn.identical or turn.answer["meta"]["challenger"].get("refused"):
            settled = True  # what the audit refuses stays out of final/, whatever anyone says
        elif look == SECOND_LOOK:
            settled = not self.in_band(score)
        else:
            settled = turns.bucket(score)[0] != "final"
        if settled:
            return []
        wanted = "calls" if retry_failed else "key"  # calls are None where one was not readable
        found = zip(self.questions[look], self.look_up(turn, look))
        return [question for question, verdict in found if not (verdict and verdict[wanted])]

    def score_record(self, turn: Turn) -> dict:
        """Return the content of score/<stem>.json."""
        verdicts = self.look_up(turn, FIRST_LOOK)
        counted = [verdict for verdict in verdicts if verdict is not None]
        figures = turns.turn_score(counted, self.names, turn.identical)
        status = Status.PARSED
        reason = ""
        if turn.identical:
            reason = "Both replies are the same text: a draw without a call."
        elif len(counted) < len(verdicts):
            status = Status.UNFINISHED
        elif any(verdict["calls"] is None for verdict in counted):
            status = Status.PARSE_FAIL
        else:  # the words of the judge whose score lies nearest
            by_judge = figures["by_judge"]
            nearest = min(by_judge, key=lambda name: abs(by_judge[name] - figures["score"]))
            words = next(verdict["reason"] for verdict in counted if verdict["judge"] == nearest)
            reason = f"{nearest} (reply 1 = challenger): {words}"
        if status is not Status.PARSED:
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
        if turn.saved and "on_other_metrics" in turn.saved:
            score["on_other_metrics"] = turn.saved["on_other_metrics"]
        if not score["parsed"] or turn.identical:
            return score

        # Both looks together, and what the reader found, once each is complete.
        second = self.look_up(turn, SECOND_LOOK)
        if second and None not in second and self.in_band(score):
            score["counted_confirmed"] = [verdict["key"] for verdict in second]
            if any(verdict["calls"] is None for verdict in second):
                score["held_back"] = "a verdict of the second look could not be read"
            else:
                figures = turns.turn_score(second, [call.model for call in self.confirm])
                points = score["points"] + figures["points"]
                most = score["max_points"] + figures["max_points"]
                score |= {"points_confirmed": points, "max_points_confirmed": most}
                score["score_confirmed"] = 100 * (points / most)
        findings = [verdict and verdict["calls"] for verdict in self.look_up(turn, READING)]
        if findings and None not in findings:
            score["reader"] = named_sides(findings, turn.answer, turn.mode)
            if "challenger" in score["reader"] and turns.bucket(score)[0] == "final":
                quote = " ".join(score["reader"]["challenger"].split())[:200]
                score["held_back"] = f"the reader's test: the chat does not explain {quote!r}"
        return score
