"""A turn as it is read, once, and the row of figures that is kept of it; turns.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common.audit.protocol import action_style, count_doubt, fence_of, protocol_problem
from common.config import METRICS
from common.files import BadFile, digest
from common.report.labels import label_sha
from common.report.left_out import LeftOut
from common.report.markdown import Markdown, shown, written
from common.turns import OPPONENT, SIDES, Status, bucket, chat_digest, read_answer, read_score

CHARS_PER_TOKEN = 3.6  # measured on chats of SWE-bench repos; a guess where no usage was told


@dataclass(eq=False, slots=True)
class Row:
    """The figures of one turn; its texts and verdicts stay on disk."""

    stem: str
    path: Path | None = None  # its answer file
    status: Status = Status.NO_ANSWER
    bucket: str | None = None
    why: str = ""  # why it is in that bucket, or has that status
    mended_by: str = ""  # the stage that makes its torn file again
    aside: Path | None = None  # where a foreign file lies that stood in its bucket's way
    # Of the answer:
    instance_id: str = ""
    repo: str = ""
    license: str = ""  # of the repo, as the PR record has it
    excluded: str = ""  # why its instance must not be exported, found after it was answered
    challenger_chars: int = 0
    prompt_chars: int = 0
    prompt_tokens: int = 0
    tokens_from: str = ""  # "usage": what the provider said; "guess": CHARS_PER_TOKEN
    style: str = ""  # what kind of action the challenger takes
    step: int = 0  # 1 = the first reply of its trajectory
    # By audited side each hit's kind; those of a "chosen" challenger, which are no leaks, apart.
    leaks: dict[str, list[str]] = field(default_factory=dict)
    protocol_problem: str = ""  # what the challenger breaks of its chat's protocol
    made: str = "informed"  # how the challenger was: with the record, or "chosen" of blind replies
    candidates_distinct: int = 0  # different commands among these replies
    doubt: dict[str, tuple[int, int]] = field(default_factory=dict)  # by side: hedges, words
    # Of the score, where it is of the texts in the answer:
    mode: int = 2  # 2: judged against the king, 1: against the dataset's own reply
    unfit: str = ""  # why it must be in neither final/ nor export/, whatever its score
    held_back: bool = False  # from final/, for that reason
    score: float | None = None
    score_confirmed: float | None = None  # with the second look's verdicts; it then decides
    points: int | None = None
    max_points: int | None = None
    metrics: dict = field(default_factory=dict)
    by_judge: dict = field(default_factory=dict)
    reason: str = ""
    opponent_chars: int = 0
    label_sha: str = ""  # of both replies, as labels name them

    @property
    def deciding_score(self) -> float:
        return self.score if self.score_confirmed is None else self.score_confirmed

    @property
    def spread(self) -> float:
        """How far the judges are apart, in score points."""
        scores = [score for score in self.by_judge.values() if score is not None]
        return max(scores) - min(scores) if scores else 0.0

    @property
    def total_tokens(self) -> int:
        """The prompt with the longer reply, by the more cautious of two counts."""
        prompt = max(self.prompt_tokens, round(self.prompt_chars / CHARS_PER_TOKEN))
        reply = max(self.challenger_chars, self.opponent_chars)
        return prompt + round(reply / CHARS_PER_TOKEN)

    @property
    def score_words(self) -> str:
        """The score, and what the second look made of it."""
        if not self.bucket:
            return str(self.status)
        if self.score_confirmed is None:
            return written(self.score)
        return f"{written(self.score)} → {written(self.score_confirmed)}"

    @property
    def link(self) -> Markdown:
        """The stem as a Markdown link to the page, which shows the turns that have both replies."""
        name = shown(self.stem)
        return Markdown(f"[{name}](turns.html#{self.stem})") if self.challenger_chars else name


class Turn(NamedTuple):
    """One turn as it was read. Its answer and its score are kept no longer than needed."""

    row: Row
    answer: dict | None = None  # None: there is none, or it is torn
    score: dict | None = None  # None: not judged, or before its texts changed
    verdicts: Sequence[dict] = ()  # all on file: of older texts, settings and panels, too


def read_turn(stem: str, path: Path | None, left_out: LeftOut) -> Turn:
    """Read one turn; what is missing, torn or out of date is said in its row's status and why."""
    if path is None:
        return Turn(Row(stem, why=f"score/{stem}.json has no answer in any answer_*/"))
    row = Row(stem, path, Status.NOT_JUDGED)
    answer = None
    score = None
    verdicts = []
    try:
        answer = read_answer(path)
        if answer["challenger"]:
            score = read_score(Path("score", f"{stem}.json"))
            verdicts = [*score["verdicts"], *score.get("on_other_metrics", [])]
        else:
            row.status = Status.NO_CHALLENGER
    except FileNotFoundError:
        pass
    except BadFile as bad:
        row.status = Status.BROKEN
        row.why = str(bad)
        row.mended_by = "validate.py" if answer else "king.py"
    if answer:
        enter_answer(row, answer, left_out)
    if score:
        row.mode = score["mode"]
        sha = {"chat": chat_digest(answer["messages"])}
        for side in ("challenger", OPPONENT[row.mode]):
            sha[side] = digest(answer[side])
        changed = [name for name in sha if score["sha"][name] != sha[name]]
        if changed:
            score = None
            row.status = Status.STALE
            row.why = f"judged before its {' and '.join(changed)} changed"
        else:
            enter_score(row, answer, score)
    if row.excluded and row.status not in (Status.PARSED, Status.BROKEN):
        row.status = Status.EXCLUDED
        row.why = row.excluded
    return Turn(row, answer, score, verdicts)


def enter_answer(row: Row, answer: dict, left_out: LeftOut) -> None:
    """Enter what a row has of an answer.

    The chat's tokens are the king's, whose prompt was the chat alone; the challenger's held the
    record too.
    """
    messages = answer["messages"]
    challenger = answer["challenger"]
    meta = answer["meta"]
    row.instance_id = answer["instance_id"]
    # An answer may not name its repo, though its prompt does.
    row.repo = str(meta.get("repo") or left_out.repos.get(row.instance_id) or row.instance_id)
    row.license = left_out.licences.get(row.instance_id, "")
    row.excluded = left_out.why_excluded(row.instance_id)
    row.challenger_chars = len(challenger)
    row.prompt_chars = sum(len(message["content"]) for message in messages)
    usage = meta["king"].get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    has_usage = type(tokens) is int and tokens > 0
    row.prompt_tokens = tokens if has_usage else round(row.prompt_chars / CHARS_PER_TOKEN)
    row.tokens_from = "usage" if has_usage else "guess"
    row.step = 1 + sum(message["role"] == "assistant" for message in messages)
    row.made = str(meta["challenger"].get("made") or "informed")
    row.candidates_distinct = meta["challenger"].get("candidates_distinct") or 0
    kind = "chosen" if row.made == "chosen" else "challenger"
    for side, name in (("king", "king"), ("challenger", kind)):
        hits = leak_hits(meta[side])
        if hits is not None:
            row.leaks[name] = [str(hit.get("kind")) for hit in hits]
    if challenger:
        row.doubt = {side: count_doubt(answer[key]) for key, side in SIDES.items()}
        row.style = action_style(challenger, fence_of(messages))
        row.protocol_problem = protocol_problem(challenger, messages) or ""


def leak_hits(meta: dict) -> list[dict] | None:
    """Return what the audit found in one side's reply; None where it was not audited."""
    audit = meta.get("leaks")
    hits = audit.get("hits") if isinstance(audit, dict) else None
    if not isinstance(hits, list):
        return None
    return [hit for hit in hits if isinstance(hit, dict)]


def enter_score(row: Row, answer: dict, score: dict) -> None:
    """Enter what a row has of the score of its present texts."""
    opponent = answer[OPPONENT[row.mode]]
    refused = answer["meta"]["challenger"].get("refused")
    audit = f"the audit refuses it: {refused}" if refused else ""
    row.unfit = row.excluded or row.protocol_problem or audit or score.get("held_back") or ""
    row.status = Status(score["status"])
    row.bucket, row.why = bucket(score, row.unfit)
    if row.bucket:
        row.score = score["score"]
        row.score_confirmed = score.get("score_confirmed")
        row.held_back = row.bucket != bucket({**score, "held_back": ""})[0]
    row.points = score["points"]
    row.max_points = score["max_points"]
    row.metrics = score["metrics"] or {}
    row.by_judge = score["by_judge"]
    row.reason = score["reason"] or ""
    row.opponent_chars = len(opponent)
    row.label_sha = label_sha(opponent, answer["challenger"])


# What a spreadsheet runs as a formula; to some of them these signs of other widths are the same.
FORMULA_STARTS = tuple("=+-@\t\r\n⁺₊⁼₌﬩﹢﹣﹦﹫＋－＝＠")
COLUMNS = (
    "stem", "instance_id", "repo", "license", "status", "bucket", "score", "score_confirmed",
    "style", "step", "prompt_chars", "prompt_tokens", "tokens_from", "spread", "protocol_problem",
    "why", "points", "max_points", "reason", "made", "candidates_distinct",
)  # fmt: skip


def turns_csv(rows: list[Row], judges: list[str], fates: dict[str, str]) -> str:
    """Return turns.csv, a line for each row; `fates` say what export/ made of each."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    for row in rows:
        cells = {name: getattr(row, name) for name in COLUMNS}
        cells["file"] = row.path.as_posix() if row.path else ""
        cells |= {metric: row.metrics.get(metric) for metric in METRICS}
        cells |= {f"judge {judge}": row.by_judge.get(judge) for judge in judges}
        for side in SIDES.values():
            cells[f"{side}_doubt"] = per_hundred(*row.doubt.get(side, (0, 0)))
        for side, name in (("challenger", ""), ("chosen", "chosen_"), ("king", "king_")):
            cells[f"{name}leak_hits"] = len(row.leaks.get(side, ()))
        cells["export"] = fates.get(row.stem, "")
        if row is rows[0]:
            table.writerow(map(csv_cell, cells))
        table.writerow(map(csv_cell, cells.values()))
    return text.getvalue()


def per_hundred(hedges: int, words: int) -> float | None:
    """Return words of hedging a hundred words; None where there is no word."""
    return 100 * hedges / words if words else None


def csv_cell(value: object) -> object:
    """Return a cell; what would be run as a formula starts with an apostrophe."""
    if isinstance(value, float):
        return f"{value:.2f}"
    if not isinstance(value, str):
        return value
    text = str(value).replace("\0", "")
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
