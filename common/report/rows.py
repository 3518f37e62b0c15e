"""One row for each turn: what report.md, turns.csv, export/ and the reading page know of it."""

from __future__ import annotations

import csv
import io
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from common.audit.protocol import bash_blocks, protocol_problem
from common.audit.styles import action_style
from common.cli import Tally
from common.config import METRICS
from common.files import BadFile
from common.report.labels import label_sha
from common.report.markdown import Markdown, shown, written
from common.turns import OPPONENT, Status, bucket, read_answer, read_score, text_digests

CHARS_PER_TOKEN = 3.6  # measured on chats of SWE-bench repos; a guess where no usage was told
# What pages and --check need of a verdict: 10,000 turns hold 60,000 of them in memory.
_OF_VERDICT = ("key", "judge", "model_answered", "order", "look", "calls", "reason")


@dataclass(eq=False)
class Row:
    """One turn; its chat and its king stay on disk."""

    stem: str
    path: Path | None = None  # its answer file
    status: Status = Status.NO_ANSWER
    bucket: str | None = None
    why: str = ""  # why it is in that bucket, or has that status
    instance_id: str = ""
    repo: str = ""
    license: str = ""  # of the repo, as the PR record has it
    meta: dict = field(default_factory=dict)  # the answer's
    sha: dict = field(default_factory=dict)  # digests of the chat and of each reply
    challenger: str = ""
    opponent_chars: int = 0
    prompt_chars: int = 0
    prompt_tokens: int = 0
    tokens_from: str = ""  # "usage": what the provider told; "guess": CHARS_PER_TOKEN
    style: str = ""  # what kind of action the challenger takes
    step: int = 0  # 1 = the first reply of its trajectory
    leaks: dict = field(default_factory=dict)  # the audit's hits by side, of those audited
    protocol_problem: str | None = None  # what the challenger breaks of its chat's protocol
    unfit: str = ""  # why it must be in neither final/ nor export/, whatever its score
    held_back: bool = False  # from final/, for that reason
    mode: int = 2  # 2: judged against the king, 1: against the dataset's own reply
    judged: dict = field(default_factory=dict)  # the score file, where it is of the texts here
    score: float | None = None
    score_confirmed: float | None = None  # with the second look's verdicts; it then decides
    metrics: dict = field(default_factory=dict)
    by_judge: dict = field(default_factory=dict)
    label_sha: str = ""  # of both replies, as labels name them
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
    def score_words(self) -> str:
        """The score with what stopping it left open, or what the second look made of it."""
        if not self.bucket:
            return str(self.status)
        words = written(self.score)
        if self.score_confirmed is not None:
            words += f" → {written(self.score_confirmed)}"
        return words

    @property
    def total_tokens(self) -> int:
        """The prompt with the longer reply, by the more cautious of two counts."""
        prompt = max(self.prompt_tokens, round(self.prompt_chars / CHARS_PER_TOKEN))
        return prompt + round(max(len(self.challenger), self.opponent_chars) / CHARS_PER_TOKEN)

    @property
    def command(self) -> str:
        """What the challenger would run."""
        return " ; ".join(bash_blocks(self.challenger))

    @property
    def link(self) -> Markdown:
        """The stem as a Markdown link to the page, which shows the turns that have both replies."""
        name = shown(self.stem)
        return Markdown(f"[{name}](turns.html#{self.stem})") if self.challenger else name


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
    """Fill in what the answer says of the turn.

    The chat's tokens are the king's, whose prompt was the chat alone; the challenger's held the
    record too.
    """
    messages = answer["messages"]
    row.instance_id = answer["instance_id"]
    row.meta = answer["meta"]
    row.sha = text_digests(answer)
    row.repo = str(row.meta.get("repo") or "")
    row.step = 1 + sum(message["role"] == "assistant" for message in messages)
    row.prompt_chars = sum(len(message["content"]) for message in messages)
    usage = row.meta["king"].get("usage")
    told = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    is_told = type(told) is int and told > 0
    row.prompt_tokens = told if is_told else round(row.prompt_chars / CHARS_PER_TOKEN)
    row.tokens_from = "usage" if is_told else "guess"
    for side in ("king", "challenger"):
        audit = row.meta[side].get("leaks")
        hits = audit.get("hits") if isinstance(audit, dict) else None
        if isinstance(hits, list):
            row.leaks[side] = [hit for hit in hits if isinstance(hit, dict)]
    if answer["challenger"]:
        row.challenger = answer["challenger"]
        row.style = action_style(answer["challenger"])
        row.protocol_problem = protocol_problem(answer["challenger"], messages)


def take_score(row: Row, answer: dict, score: dict) -> None:
    """Fill in what the judges said, unless they judged other texts than the answer holds now."""
    row.mode = score["mode"]
    judged = ("chat", "challenger", row.opponent)
    changed = [name for name in judged if score["sha"][name] != row.sha[name]]
    if changed:
        row.status = Status.STALE
        row.why = f"judged before its {' and '.join(changed)} changed"
        return
    verdicts = score["verdicts"]
    score["verdicts"] = [{name: verdict.get(name) for name in _OF_VERDICT} for verdict in verdicts]
    row.judged = score
    row.status = Status(score["status"])
    refused = row.meta["challenger"].get("refused")
    audit = f"the audit refuses it: {refused}" if refused else ""
    row.unfit = row.protocol_problem or audit or score.get("held_back") or ""
    row.bucket, row.why = bucket(score, row.unfit)
    row.held_back = row.bucket == "refined" and row.why.startswith("held back")
    if row.bucket:
        row.score = score["score"]
        row.score_confirmed = score.get("score_confirmed")
    row.metrics = score["metrics"] or {}
    row.by_judge = score["by_judge"]
    row.opponent_chars = len(answer[row.opponent])
    row.label_sha = label_sha(answer[row.opponent], answer["challenger"])


# --------------------------------------------------------------------------------------------- csv

_OF_ROW = (
    "stem", "instance_id", "repo", "license", "status", "bucket", "score", "score_confirmed",
    "style", "step", "prompt_chars", "prompt_tokens", "tokens_from", "spread", "protocol_problem",
    "why",
)  # fmt: skip
_FORMULA_STARTS = tuple("=+-@\t\r\n")


def turns_csv(rows: list[Row], judges: list[str]) -> str:
    """Return turns.csv, a line for each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for place, row in enumerate(rows):
        cells = {name: getattr(row, name) for name in _OF_ROW}
        cells |= {name: row.judged.get(name) for name in ("points", "max_points", "reason")}
        cells["file"] = row.path.as_posix() if row.path else ""
        cells |= {metric: row.metrics.get(metric) for metric in METRICS}
        cells |= {f"judge {judge}": row.by_judge.get(judge) for judge in judges}
        cells["leak_hits"] = len(row.leaks.get("challenger", []))
        cells["king_leak_hits"] = len(row.leaks.get("king", []))
        cells["flags"] = ", ".join(map(str, row.judged.get("flags", [])))
        cells["export"] = row.exported
        if place == 0:
            writer.writerow([_csv_cell(name) for name in cells])
        writer.writerow([_csv_cell(value) for value in cells.values()])
    return text.getvalue()


def _csv_cell(value: object) -> str:
    """Return a cell's text. What a spreadsheet would run as a formula starts with an apostrophe."""
    if value is None:
        return ""
    text = f"{value:.2f}" if isinstance(value, float) else str(value).replace("\0", "")
    first = unicodedata.normalize("NFKC", text[:1])  # a full-width = is one to some of them
    return "'" + text if first in _FORMULA_STARTS else text
