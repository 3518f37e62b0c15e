"""A turn as it is read, once, and the row of figures that is kept of it; turns.csv."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common import turns
from common.audit.protocol import action_style, count_doubt, fence_of, protocol_problem
from common.config import METRICS
from common.duel.record import LOOKS
from common.duel.verdicts import FIRST_LOOK, READING
from common.files import BadFile, clean_text, digest
from common.report.left_out import LeftOut, dicts
from common.report.markdown import Markdown, shown
from common.turns import OPPONENT, SIDES, Status, bucket, read_answer, read_score, text_digests

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
    models: dict[str, str] = field(default_factory=dict)  # by side, who was asked
    made: str = "informed"  # how the challenger was: with the record, or "chosen" of blind replies
    candidates_distinct: int = 0  # different commands among these replies
    doubt: dict[str, tuple[int, int]] = field(default_factory=dict)  # by side: hedges, words
    # Of the score, where it is of the texts in the answer:
    mode: int = 2  # 2: judged against the king, 1: against the dataset's own reply
    unfit: str = ""  # why it must be in neither final/ nor export/, whatever its score
    held_back: bool = False  # from final/, for that reason
    score: float | None = None
    score_confirmed: float | None = None  # with the second look's verdicts
    deciding_score: float | None = None  # the one of these that decides
    spread: float = 0.0  # how far the judges are apart, in score points
    points: int | None = None
    max_points: int | None = None
    metrics: dict = field(default_factory=dict)
    by_judge: dict = field(default_factory=dict)
    reason: str = ""
    total_tokens: int = 0  # the prompt with the longer reply, by the more cautious of two counts
    label_sha: str = ""  # of both replies, as labels name them; of alike ones there are none
    # For turns.html: its flags, each a side and what it did, and its texts as JSON.
    marks: list[str] = field(default_factory=list)
    texts: bytes = b""

    @property
    def link(self) -> Markdown:
        """The stem as a Markdown link to the page, which shows the turns that have both replies."""
        name = shown(self.stem)
        return Markdown(f"[{name}](turns.html#{self.stem})") if self.challenger_chars else name


class Turn(NamedTuple):
    """One turn as it was read. Its answer and its score are kept no longer than needed."""

    row: Row
    answer: dict | None = None  # None: there is none, or it is torn
    score: dict | None = None  # None: not judged; of older texts where the row is stale


def read_turn(stem: str, path: Path | None, left_out: LeftOut) -> Turn:
    """Read one turn; what is missing, torn or out of date is said in its row's status and why."""
    if path is None:
        return Turn(Row(stem, why=f"score/{stem}.json has no answer in any answer_*/"))
    row = Row(stem, path, Status.NOT_JUDGED)
    answer = None
    score = None
    try:
        answer = read_answer(path)
        enter_answer(row, answer, left_out)
        if answer["challenger"]:
            score = read_score(Path("score", f"{stem}.json"))
            enter_score(row, answer, score)
        else:
            row.status = Status.NO_CHALLENGER
    except FileNotFoundError:
        pass
    except BadFile as bad:
        row.status = Status.BROKEN
        row.why = str(bad)
        row.mended_by = "validate.py" if answer else "king.py"
    if row.excluded and row.status not in (Status.PARSED, Status.BROKEN):
        row.status = Status.EXCLUDED
        row.why = row.excluded
    return Turn(row, answer, score)


def enter_answer(row: Row, answer: dict, left_out: LeftOut) -> None:
    """Enter what a row has of an answer."""
    messages = answer["messages"]
    challenger = answer["challenger"]
    meta = answer["meta"]
    row.instance_id = answer["instance_id"]
    row.repo = clean_text(str(meta.get("repo") or row.instance_id))
    instance = left_out.look_up(row.instance_id)
    row.license = instance["license"]
    row.excluded = instance["excluded"]
    row.challenger_chars = len(challenger)
    row.prompt_chars = sum(len(message["content"]) for message in messages)
    usage = meta["king"].get("usage")  # his prompt was the chat alone
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    has_usage = type(tokens) is int and tokens > 0
    row.prompt_tokens = tokens if has_usage else round(row.prompt_chars / CHARS_PER_TOKEN)
    row.tokens_from = "usage" if has_usage else "guess"
    row.step = 1 + sum(message["role"] == "assistant" for message in messages)
    row.made = str(meta["challenger"].get("made") or "informed")
    row.candidates_distinct = meta["challenger"].get("candidates_distinct") or 0
    kind = "chosen" if row.made == "chosen" else "challenger"
    for side, name in (("king", "king"), ("challenger", kind)):
        if meta[side].get("model"):
            row.models[side] = str(meta[side]["model"])
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
    return dicts(audit.get("hits")) if isinstance(audit, dict) else None


def enter_score(row: Row, answer: dict, score: dict) -> None:
    """Enter what a row has of a score; of one of older texts, which of them have changed."""
    row.mode = score["mode"]
    side = OPPONENT[row.mode]
    sha = text_digests(answer)
    changed = [name for name in ("chat", "challenger", side) if score["sha"][name] != sha[name]]
    if changed:
        row.status = Status.STALE
        row.why = f"judged before its {' and '.join(changed)} changed"
        return
    refused = answer["meta"]["challenger"].get("refused")
    audit = f"the audit refuses it: {refused}" if refused else ""
    row.unfit = row.excluded or row.protocol_problem or audit or score.get("held_back") or ""
    row.status = Status(score["status"])
    row.bucket, row.why = bucket(score, row.unfit)
    if row.bucket:
        row.score = row.deciding_score = score["score"]
        if score.get("score_confirmed") is not None:
            row.score_confirmed = row.deciding_score = score["score_confirmed"]
        row.held_back = row.bucket != bucket({**score, "held_back": ""})[0]
    row.points = score["points"]
    row.max_points = score["max_points"]
    row.metrics = score["metrics"] or {}
    row.by_judge = score["by_judge"]
    scores = [of for of in row.by_judge.values() if of is not None]
    row.spread = max(scores) - min(scores) if scores else 0.0
    row.reason = score["reason"] or ""
    if row.bucket and answer[side] != answer["challenger"]:
        row.label_sha = label_sha(answer[side], answer["challenger"])
    reply_chars = max(row.challenger_chars, len(answer[side]))
    prompt_tokens = max(row.prompt_tokens, round(row.prompt_chars / CHARS_PER_TOKEN))
    row.total_tokens = prompt_tokens + round(reply_chars / CHARS_PER_TOKEN)


def label_sha(opponent: str, challenger: str) -> str:
    """Return what stands in the column `sha` of a label of these two replies."""
    return digest(opponent, challenger)[:16]


def count_verdicts_and_costs(counts: Counter, turn: Turn) -> None:
    """Add what a turn took of all tries, with what was replaced, and how its judges called it.

    Keys: (side, "judge" or a further look; the judge, or ""; what). `what`: replies,
    prompt_tokens, completion_tokens, usd, priced (the replies of which usd is); and of the judges
    of the first look the order with "win", "draw" or "loss" of the challenger.
    """
    meta = turn.answer["meta"] if turn.answer else {}
    score = turn.score or {}
    paid = [(side, "", meta[side]) for side in ("king", "challenger") if meta.get(side)]
    for older in dicts([*dicts(meta.get("retired")), meta.get("choosing")]):
        paid.append(("challenger", "", older))
    for verdict in [*score.get("verdicts", ()), *score.get("on_other_metrics", ())]:
        if verdict["look"] == FIRST_LOOK:
            paid.append(("judge", verdict["judge"], verdict))
        else:
            paid.append((LOOKS.get(verdict["look"], "another look"), "", verdict))
    for role, judge, reply in paid:
        counts[role, judge, "replies"] += 1
        usage = reply.get("usage_all_tries") or reply.get("usage")
        for kind in ("prompt_tokens", "completion_tokens"):
            if isinstance(usage, dict) and isinstance(usage.get(kind), int):
                counts[role, judge, kind] += usage[kind]
        if isinstance(reply.get("cost_usd"), (int, float)):
            counts[role, judge, "usd"] += reply["cost_usd"]
            counts[role, judge, "priced"] += 1
    for verdict in counted_verdicts(turn):
        if verdict["look"] == FIRST_LOOK and verdict["calls"]:
            half_points = turns.half_points(verdict)
            for half, word in enumerate(("loss", "draw", "win")):
                key = ("judge", verdict["judge"], f"{verdict['order']} {word}")
                counts[key] += half_points.count(half)


def counted_verdicts(turn: Turn) -> list[dict]:
    """Return the verdicts of both looks on which the turn's scores rest."""
    score = turn.score or {}
    if turn.row.status == Status.STALE:
        return []
    looks = [verdict for verdict in score.get("verdicts", ()) if verdict["look"] != READING]
    if "counted" not in score:  # validate.py has not made it anew
        return looks
    keys = {*score["counted"], *score.get("counted_confirmed", ())}
    return [verdict for verdict in looks if verdict["key"] in keys]


# What a spreadsheet runs as a formula; to some of them these signs of other widths are the same.
FORMULA_STARTS = tuple("=+-@\t\r\n⁺₊⁼₌﬩﹢﹣﹦﹫＋－＝＠")
COLUMNS = (
    "stem", "instance_id", "repo", "license", "status", "bucket", "score", "score_confirmed",
    "style", "step", "prompt_chars", "prompt_tokens", "spread", "protocol_problem", "why", "points",
    "max_points", "reason", "made", "candidates_distinct",
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
        cells["leak_hits"] = len(row.leaks.get("challenger", ()))
        cells["king_leak_hits"] = len(row.leaks.get("king", ()))
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
