"""A turn as it is read, once, and the row of figures that is kept of it; turns.csv."""

from __future__ import annotations

import csv
import io
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common.audit.protocol import bash_blocks, fence_of, protocol_problem
from common.audit.styles import action_style, count_doubt
from common.cli import Tally
from common.config import METRICS
from common.files import BadFile, digest
from common.report.labels import label_sha
from common.report.left_out import LeftOut, fail_torn
from common.report.markdown import Markdown, shown, written
from common.turns import OPPONENT, SIDES, Status, bucket, chat_digest, read_answer, read_score

CHARS_PER_TOKEN = 3.6  # measured on chats of SWE-bench repos; a guess where no usage was told
COMMAND_CHARS = 200  # of the command that a row keeps


@dataclass(eq=False, slots=True)
class Row:
    """The figures of one turn; its texts and verdicts stay on disk."""

    stem: str
    path: Path | None = None  # its answer file
    status: Status = Status.NO_ANSWER
    bucket: str | None = None
    why: str = ""  # why it is in that bucket, or has that status
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
    command: str = ""  # what the challenger would run, cut
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
        """The score that its bucket rests on."""
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
    answer: dict | None  # None: there is none, or it is torn
    score: dict | None  # None: not judged, or before its texts changed
    verdicts: list[dict]  # all on file: of older texts, settings and panels, too


def read_turn(stem: str, path: Path | None, left_out: LeftOut, tally: Tally) -> Turn:
    """Read one turn; what is missing, torn or out of date is said in its row's status and why."""
    if path is None:
        why = f"score/{stem}.json has no answer in any answer_*/"
        return Turn(Row(stem, why=why), None, None, [])
    answer = None
    score = None
    verdicts = []
    status = Status.NOT_JUDGED
    why = ""
    fixed_by = "king.py"
    try:
        answer = read_answer(path)
        fixed_by = "validate.py"
        if answer["challenger"]:
            score = read_score(Path("score", f"{stem}.json"))
            verdicts = [*score["verdicts"], *score.get("on_other_metrics", [])]
        else:
            status = Status.NO_CHALLENGER
    except FileNotFoundError:
        pass
    except BadFile as bad:
        status = Status.BROKEN
        why = str(bad)
        fail_torn(tally, stem, fixed_by, bad)
    if answer is None:
        return Turn(Row(stem, path, status, why=why), None, None, [])
    figures = answer_figures(answer, left_out)
    if score:
        changed = changed_texts(answer, score)
        figures["mode"] = score["mode"]
        if changed:
            score = None
            status = Status.STALE
            why = f"judged before its {' and '.join(changed)} changed"
        else:
            status = Status(score["status"])
            unfit = figures["excluded"] or figures["protocol_problem"]
            figures |= score_figures(answer, score, unfit)
    if figures["excluded"] and status not in (Status.PARSED, Status.BROKEN):
        status = Status.EXCLUDED
        figures["why"] = figures["excluded"]
    row = Row(stem, path, **{"status": status, "why": why, **figures})
    return Turn(row, answer, score, verdicts)


def answer_figures(answer: dict, left_out: LeftOut) -> dict:
    """Return what a row has of an answer.

    The chat's tokens are the king's, whose prompt was the chat alone; the challenger's held the
    record too.
    """
    messages = answer["messages"]
    challenger = answer["challenger"]
    meta = answer["meta"]
    instance = answer["instance_id"]
    chars = sum(len(message["content"]) for message in messages)
    usage = meta["king"].get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    has_usage = type(tokens) is int and tokens > 0
    leaks = {}
    for side in ("king", "challenger"):
        hits = leak_hits(meta[side])
        if hits is not None:
            leaks[side] = [str(hit.get("kind")) for hit in hits]
    made = str(meta["challenger"].get("made") or "informed")
    if made == "chosen" and "challenger" in leaks:
        leaks["chosen"] = leaks.pop("challenger")
    figures = {
        "made": made,
        "candidates_distinct": meta["challenger"].get("candidates_distinct") or 0,
        "instance_id": instance,
        # An answer may not name its repo, though its prompt does.
        "repo": str(meta.get("repo") or "") or left_out.repos.get(instance) or instance,
        "license": left_out.licences.get(instance, ""),
        "excluded": left_out.why_excluded(instance),
        "challenger_chars": len(challenger),
        "prompt_chars": chars,
        "prompt_tokens": tokens if has_usage else round(chars / CHARS_PER_TOKEN),
        "tokens_from": "usage" if has_usage else "guess",
        "step": 1 + sum(message["role"] == "assistant" for message in messages),
        "leaks": leaks,
    }
    if challenger:
        figures["doubt"] = {side: count_doubt(answer[key]) for key, side in SIDES.items()}
        fence = fence_of(messages)
        figures["style"] = action_style(challenger, fence)
        figures["command"] = " ; ".join(bash_blocks(challenger, fence))[:COMMAND_CHARS]
        figures["protocol_problem"] = protocol_problem(challenger, messages) or ""
    return figures


def leak_hits(meta: dict) -> list[dict] | None:
    """Return what the audit found in one side's reply; None where it was not audited."""
    audit = meta.get("leaks")
    hits = audit.get("hits") if isinstance(audit, dict) else None
    if not isinstance(hits, list):
        return None
    return [hit for hit in hits if isinstance(hit, dict)]


def changed_texts(answer: dict, score: dict) -> list[str]:
    """Return which of the texts that were judged are not those of the answer."""
    sides = ("challenger", OPPONENT[score["mode"]])
    sha = {
        "chat": chat_digest(answer["messages"]),
        **{side: digest(answer[side]) for side in sides},
    }
    return [name for name in sha if score["sha"][name] != sha[name]]


def score_figures(answer: dict, score: dict, unfit: str) -> dict:
    """Return what a row has of the score of its present texts; `unfit` as in the row."""
    opponent = answer[OPPONENT[score["mode"]]]
    refused = answer["meta"]["challenger"].get("refused")
    audit = f"the audit refuses it: {refused}" if refused else ""
    unfit = unfit or audit or score.get("held_back") or ""
    if_fit, _ = bucket({**score, "held_back": ""})
    placed, why = bucket(score, unfit)
    return {
        "bucket": placed,
        "why": why,
        "unfit": unfit,
        "held_back": placed != if_fit,
        "score": score["score"] if placed else None,
        "score_confirmed": score.get("score_confirmed") if placed else None,
        "points": score["points"],
        "max_points": score["max_points"],
        "metrics": score["metrics"] or {},
        "by_judge": score["by_judge"],
        "reason": score["reason"] or "",
        "opponent_chars": len(opponent),
        "label_sha": label_sha(opponent, answer["challenger"]),
    }


# --------------------------------------------------------------------------------------------- csv

_COLUMNS = (
    "stem", "instance_id", "repo", "license", "status", "bucket", "score", "score_confirmed",
    "style", "step", "prompt_chars", "prompt_tokens", "tokens_from", "spread", "protocol_problem",
    "why", "points", "max_points", "reason", "made", "candidates_distinct",
)  # fmt: skip
_FORMULA_STARTS = tuple("=+-@\t\r\n")


def turns_csv(rows: list[Row], judges: list[str], fates: dict[str, str]) -> str:
    """Return turns.csv, a line for each row; `fates` say what export/ made of each."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = [f"judge {judge}" for judge in judges]
    names += [f"{side}_doubt" for side in SIDES.values()]
    last = ("leak_hits", "chosen_leak_hits", "king_leak_hits", "export")
    table.writerow(map(_csv_cell, (*_COLUMNS, "file", *METRICS, *names, *last)))
    for row in rows:
        cells = [getattr(row, name) for name in _COLUMNS]
        cells.append(row.path.as_posix() if row.path else "")
        cells += [row.metrics.get(metric) for metric in METRICS]
        cells += [row.by_judge.get(judge) for judge in judges]
        cells += [per_hundred(*row.doubt.get(side, (0, 0))) for side in SIDES.values()]
        cells += [len(row.leaks.get(side, [])) for side in ("challenger", "chosen", "king")]
        cells.append(fates.get(row.stem, ""))
        table.writerow(map(_csv_cell, cells))
    return text.getvalue()


def per_hundred(hedges: int, words: int) -> float | None:
    """Return words of hedging a hundred words; None where there is no word."""
    return 100 * hedges / words if words else None


def _csv_cell(value: object) -> object:
    """Return a cell. What a spreadsheet would run as a formula starts with an apostrophe."""
    if isinstance(value, float):
        return f"{value:.2f}"
    if not isinstance(value, str):
        return value
    text = str(value).replace("\0", "")
    first = unicodedata.normalize("NFKC", text[:1])  # a full-width = is one to some of them
    return "'" + text if first in _FORMULA_STARTS else text
