"""One row for each turn: what report.md, turns.csv and the reading page know of it."""

from __future__ import annotations

import csv
import io
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from common.cli import Tally
from common.files import BadFile
from common.page.labels import label_sha
from common.page.markdown import number, shown
from common.replies.protocol import protocol_problem
from common.replies.styles import action_style
from common.turns import METRICS, OPPONENT, Status, bucket, read_answer, read_score, text_digests

_FORMULA_STARTS = tuple("=+-@\t\r\n")
CHARS_PER_TOKEN = 3.6  # measured on chats of SWE-bench repos; a guess where no usage was told


@dataclass(eq=False)
class Row:
    """One turn; its chat and its king stay on disk."""

    stem: str
    path: Path | None = None  # its answer file
    instance_id: str = ""
    repo: str = ""
    license: str = ""  # of the repo, as the PR record has it
    status: Status = Status.NO_ANSWER
    bucket: str | None = None
    why: str = ""  # why it is in that bucket, or has that status
    mode: int = 2  # 2: judged against the king, 1: against the dataset's own reply
    score: float | None = None
    score_confirmed: float | None = None  # with the second look's verdicts; it then decides
    points: int = 0  # the challenger's half-points of max_points
    max_points: int = 0
    bounds: list | None = None  # of a stopped turn: what its score could still have become
    metrics: dict = field(default_factory=dict)
    by_judge: dict = field(default_factory=dict)
    reason: str = ""  # of one judge
    answered: dict = field(default_factory=dict)  # judge: the other model that answered for it
    label_sha: str = ""  # of both replies, as labels name them
    judged_against: tuple = ()  # digests of the chat and of the opponent's reply
    flags: list = field(default_factory=list)  # text aimed at the judges
    challenger: str = ""
    king_chars: int = 0
    opponent_chars: int = 0
    prompt_chars: int = 0
    prompt_tokens: int = 0
    tokens_from: str = ""  # "usage": what the provider told; "guess": CHARS_PER_TOKEN
    style: str = ""  # what kind of action the challenger takes
    step: int = 0  # 1 = the first reply of its trajectory
    protocol_problem: str | None = None  # what the challenger breaks of its chat's protocol
    unfit: str = ""  # why it must be in neither final/ nor export/, whatever its score
    held_back: bool = False  # from final/, for that reason
    leaks: dict = field(default_factory=dict)  # by side the audit's hits; None: never audited
    meta: dict = field(default_factory=dict)  # the answer's
    exported: str = ""  # train, validation, or why not

    @property
    def opponent(self) -> str:
        """The answer's key of the reply that the challenger was judged against."""
        return OPPONENT[self.mode]

    @property
    def deciding_score(self) -> float:
        """The score that its bucket rests on."""
        return self.score if self.score_confirmed is None else self.score_confirmed

    @property
    def spread(self) -> float:
        """How far the judges are apart, in score points."""
        scores = [score for score in self.by_judge.values() if score is not None]
        return max(scores) - min(scores) if scores else 0.0

    @property
    def passes(self) -> bool:
        """Whether its score is enough for final/, by the whole panel that decides it."""
        return self.bucket == "final" or self.held_back

    @property
    def score_words(self) -> str:
        """The score with what the second look made of it, or what stopping it left open."""
        if not self.bucket:
            return str(self.status)
        words = number(self.score)
        if self.bounds:
            words += f" ({number(self.bounds[0], 0)}–{number(self.bounds[1], 0)})"
        if self.score_confirmed is not None:
            words += f" → {number(self.score_confirmed)}"
        return words

    @property
    def link(self) -> str:
        """The stem as a Markdown link from report/ to the page, or to an answer not shown there."""
        if self.path is None:
            return shown(self.stem)
        target = f"turns.html#{self.stem}" if self.challenger else f"../{self.path.as_posix()}"
        return f"[{shown(self.stem)}]({quote(target, safe='/#')})"


# ------------------------------------------------------------------------------------------- read


def read_row(stem: str, path: Path | None, tally: Tally) -> Row:
    """Read one turn; what is missing, torn or out of date is said in its status and why."""
    row = Row(stem, path)
    if path is None:
        row.why = f"score/{stem}.json has no answer in any answer_*/"
        return row
    try:
        answer = read_answer(path)
        take_answer(row, answer)
        if not answer["challenger"]:
            row.status = Status.NO_CHALLENGER
            return row
        take_score(row, answer, read_score(Path("score", f"{stem}.json")))
    except FileNotFoundError:
        row.status = Status.NOT_JUDGED
    except BadFile as bad:
        row.status = Status.BROKEN
        row.why = str(bad)
        fixed_by = "validate.py" if bad.path.parent.name == "score" else "king.py, then ch.py"
        tally.fail(stem, f"torn or foreign file, mended by python {fixed_by}", str(bad))
    return row


def take_answer(row: Row, answer: dict) -> None:
    """Fill in what the answer says of the turn."""
    row.instance_id = answer["instance_id"]
    row.meta = answer["meta"]
    row.repo = str(row.meta.get("repo") or "")
    row.step = 1 + sum(message["role"] == "assistant" for message in answer["messages"])
    row.king_chars = len(answer["king"])
    take_length(row, answer["messages"])
    row.leaks = {side: leak_hits(row.meta[side]) for side in ("king", "challenger")}
    if answer["challenger"]:
        row.challenger = answer["challenger"]
        row.style = action_style(answer["challenger"])
        row.protocol_problem = protocol_problem(answer["challenger"], answer["messages"])


def take_length(row: Row, messages: list[dict]) -> None:
    """Fill in the length of the chat.

    Tokens are the king's, whose prompt was the chat alone; the challenger's held the record too.
    """
    row.prompt_chars = sum(len(message["content"]) for message in messages)
    usage = row.meta["king"].get("usage")
    told = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if type(told) is int and told > 0:
        row.prompt_tokens = told
        row.tokens_from = "usage"
    else:
        row.prompt_tokens = round(row.prompt_chars / CHARS_PER_TOKEN)
        row.tokens_from = "guess"


def take_score(row: Row, answer: dict, score: dict) -> None:
    """Fill in what the judges said, unless they judged other texts than the answer holds now."""
    row.mode = score["mode"]
    now = text_digests(answer)
    judged = ("chat", "challenger", row.opponent)
    changed = [name for name in judged if score["sha"][name] != now[name]]
    if changed:
        row.status = Status.STALE
        row.why = f"judged before its {' and '.join(changed)} changed"
        return
    row.status = Status(score["status"])
    row.unfit = unfit_reason(row, score)
    row.bucket, row.why = bucket(score, row.unfit)
    row.held_back = row.bucket == "refined" and row.why.startswith("held back")
    row.opponent_chars = len(answer[row.opponent])
    row.points = score["points"] or 0
    row.max_points = score["max_points"] or 0
    if row.bucket:
        row.score = 100 * row.points / row.max_points
        row.score_confirmed = score.get("score_confirmed")
    if row.status == Status.STOPPED:
        row.bounds = score["bounds"]
        row.why += f"; stopped early, {number(row.bounds[0])} to {number(row.bounds[1])} possible"
    row.metrics = score["metrics"] or {}
    row.by_judge = score["by_judge"] or {}
    row.reason = str(score["reason"] or "")
    row.flags = score["flags"]
    row.judged_against = (now["chat"], now[row.opponent])
    row.label_sha = label_sha(answer[row.opponent], answer["challenger"])
    for verdict in score["verdicts"]:
        other = verdict.get("model_answered")
        if other and other != verdict["judge"]:
            row.answered[verdict["judge"]] = str(other)


def unfit_reason(row: Row, score: dict) -> str:
    """Return why a turn must not be trained on whatever it scored; "" when it may."""
    if row.protocol_problem:
        return row.protocol_problem
    refused = row.meta["challenger"].get("refused")
    if refused:
        return f"the audit refuses it: {refused}"
    return score.get("held_back") or ""


def leak_hits(meta: dict) -> list[dict] | None:
    """Return the hits of one side's stored leak audit; None when it was never audited."""
    audit = meta.get("leaks")
    if not isinstance(audit, dict) or not isinstance(audit.get("hits"), list):
        return None
    return [hit for hit in audit["hits"] if isinstance(hit, dict)]


# ------------------------------------------------------------------------------------------ write


def turns_csv(rows: list[Row], judges: list[str]) -> str:
    """Return turns.csv, a line for each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for place, row in enumerate(rows):
        cells = csv_cells(row, judges)
        if place == 0:
            writer.writerow([csv_cell(name) for name in cells])
        writer.writerow([csv_cell(value) for value in cells.values()])
    return text.getvalue()


def csv_cells(row: Row, judges: list[str]) -> dict[str, object]:
    """Return a row's cells by column."""
    return {
        "stem": row.stem,
        "file": row.path.as_posix() if row.path else "",
        "instance_id": row.instance_id,
        "repo": row.repo,
        "license": row.license,
        "status": row.status,
        "bucket": row.bucket,
        "score": row.score,
        "score_confirmed": row.score_confirmed,
        "score_low": row.bounds[0] if row.bounds else row.score,
        "score_high": row.bounds[1] if row.bounds else row.score,
        "points": row.points,
        "max_points": row.max_points,
        "style": row.style,
        "step": row.step,
        "prompt_chars": row.prompt_chars,
        "prompt_tokens": row.prompt_tokens,
        "tokens_from": row.tokens_from,
        "king_chars": row.king_chars,
        "challenger_chars": len(row.challenger),
        **{metric: row.metrics.get(metric) for metric in METRICS},
        **{f"judge {judge}": row.by_judge.get(judge) for judge in judges},
        "spread": row.spread,
        "leak_hits": len(row.leaks.get("challenger") or []),
        "king_leak_hits": len(row.leaks.get("king") or []),
        "flags": ", ".join(map(str, row.flags)),
        "protocol_problem": row.protocol_problem,
        "export": row.exported,
        "reason": row.reason,
        "why": row.why,
    }


def csv_cell(value: object) -> str:
    """Return a cell's text. What a spreadsheet would run as a formula starts with an apostrophe."""
    if value is None:
        return ""
    text = f"{value:.2f}" if isinstance(value, float) else str(value).replace("\0", "")
    first = unicodedata.normalize("NFKC", text[:1])  # a full-width = is one to some of them
    return "'" + text if first in _FORMULA_STARTS else text
