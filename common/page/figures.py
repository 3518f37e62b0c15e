"""What the pages speak of: all that a run has left, and the figures that are computed from it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from common.config import Config
from common.exports import Export
from common.page.left_out import LeftOut
from common.page.rows import Row
from common.turns import DEFEAT_MIN, FINAL_MIN, OPPONENT, SIDES, Status

# What fixes a turn of each status, in the order in which the stages are to be run.
NEXT_STEP = {
    Status.NO_ANSWER: "put the answer back, or delete its score",
    Status.BROKEN: "the stage of its folder: king.py or validate.py",
    Status.NO_CHALLENGER: "python ch.py",
    Status.NOT_JUDGED: "python validate.py",
    Status.UNFINISHED: "python validate.py",
    Status.STALE: "python validate.py",
    Status.PARSE_FAIL: "python validate.py --retry-failed",
}


@dataclass
class Facts:
    """All that the report and the card speak of."""

    rows: list[Row]
    left_out: LeftOut
    duel: dict  # score/_duel.json, empty without one
    plan: dict  # prompt/_plan.json, empty without one
    config: Config
    limit: int | None = None
    export: Export | None = None

    def __post_init__(self):
        self.parsed = [row for row in self.rows if row.status == Status.PARSED]
        self.statuses = Counter(row.status for row in self.rows)
        self.buckets = Counter(row.bucket for row in self.parsed)
        if self.parsed:
            self.mode = self.parsed[0].mode
        else:
            self.mode = 1 if self.duel.get("mode") == 1 else 2
        self.opponent = SIDES[OPPONENT[self.mode]]
        self.judges = list(self.duel.get("judges") or {})
        if not self.judges:
            self.judges = list(dict.fromkeys(name for row in self.parsed for name in row.by_judge))


def verdict_word(figures: dict) -> str:
    """Return the verdict of a duel, or of a part of its panel, in words."""
    if not figures:
        return "no verdict yet"
    words = {True: "accepted", False: "not accepted"}
    return words.get(figures.get("accepted"), "too few to tell")


def stale_reason(facts: Facts) -> str:
    """Return why score/_duel.json is of other scores, or settings, than lie here; or ""."""
    duel = facts.duel
    if not duel or facts.limit:
        return ""
    stale = facts.statuses[Status.STALE]
    if stale:
        return f"{stale} of its turns have changed since they were judged"
    others = sum(row.mode != duel["mode"] for row in facts.parsed)
    if others:
        return f"it is of DUEL_MODE={duel['mode']}, {others} of the scores are of the other one"
    counted = (duel["turns"] or {}).get("parsed")
    if counted != len(facts.parsed):
        return f"it counts {counted} parsed turns, here are {len(facts.parsed)}"
    told = duel.get("mean_score")
    mean = mean_score(facts.parsed)
    if told is not None and abs(told - mean) > 0.01:
        return f"it gives a mean score of {told:.2f}, here it is {mean:.2f}"
    then = duel.get("config") or {}
    sampling = {}
    for model in facts.config.judge.models:
        sampling[model] = facts.config.judge_call(model).sampling()
    if then.get("judges", sampling) != sampling:
        return "the judges in chain.toml, or their sampling, are not those that were asked"
    if then.get("duel", vars(facts.config.duel)) != vars(facts.config.duel):
        return "[duel] in chain.toml has changed since"
    return ""


def next_command(facts: Facts) -> str:
    """Return what to run next; "" when all is done."""
    for status, command in NEXT_STEP.items():
        if facts.statuses[status] and command.startswith("python"):
            return f"{command}, then python report.py"
    if stale_reason(facts) or not facts.duel:
        return "python validate.py, then python report.py"
    return ""


def mean(values: Iterable[float]) -> float:
    """Return the mean; 0 of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def mean_score(rows: list[Row]) -> float:
    """Return the mean score of parsed rows."""
    return mean(row.score for row in rows)


def dataset_name(plan: dict) -> str:
    """Return the dataset as one may publish it: a Hub id, or of a local path only its last part."""
    name = str(plan.get("dataset") or "not known")
    local = name.startswith((".", "/", "~")) or name.count("/") > 1 or "*" in name
    if local or Path(name).exists():
        return f"local files {Path(name).name}"
    return name


# ----------------------------------------------------------------------------------------- models


@dataclass
class Spent:
    """What calls took."""

    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    priced: int = 0  # sums of which the price is known
    unpriced: int = 0

    @property
    def cost(self) -> str:
        """The cost in words, as far as the prices are known."""
        if not self.priced:
            return "not known"
        at_least = "at least " if self.unpriced else ""
        return f"{at_least}{self.cost_usd:,.2f} USD"


def spent(metas: Iterable[dict]) -> Spent:
    """Add up what a list of objects with `usage` and `cost_usd` tells."""
    total = Spent()
    for meta in metas:
        usage = meta.get("usage")
        if isinstance(usage, dict):
            total.tokens_in += _whole(usage.get("prompt_tokens"))
            total.tokens_out += _whole(usage.get("completion_tokens"))
        cost = meta.get("cost_usd")
        if isinstance(cost, (int, float)):
            total.cost_usd += cost
            total.priced += 1
        else:
            total.unpriced += 1
    return total


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def side_metas(rows: list[Row], side: str) -> list[dict]:
    """Return what the answers say of how one side was written."""
    return [row.meta[side] for row in rows if row.meta.get(side)]


def models_of(metas: list[dict]) -> list[tuple[str, str]]:
    """Return the models that were asked, each with who answered in its name ("" if itself)."""
    found = {}
    for meta in metas:
        asked = str(meta.get("model"))
        answered = str(meta.get("model_answered") or "")
        found[asked, "" if answered == asked else answered] = True
    return list(found)


# ------------------------------------------------------------------------------------- leak audit


@dataclass
class Audit:
    """One side's leak audit, in turns."""

    audited: int = 0
    hit: int = 0
    kinds: Counter = field(default_factory=Counter)


def audit_of(rows: list[Row], side: str) -> Audit:
    """Count the turns whose reply was audited, those with a hit, and these by kind of leak."""
    audit = Audit()
    for row in rows:
        hits = row.leaks.get(side)
        if hits is None:
            continue
        audit.audited += 1
        if hits:
            audit.hit += 1
            audit.kinds.update({str(hit.get("kind")) for hit in hits})
    return audit


def refused_replies(rows: list[Row]) -> Counter:
    """Count the challenger's replies that were refused, by kind."""
    refused: Counter = Counter()
    for row in rows:
        counts = row.meta.get("challenger", {}).get("rejected")
        if isinstance(counts, dict):
            for kind, number in counts.items():
                refused[kind] += _whole(number)
    return refused


# ----------------------------------------------------------------------------------------- groups

# Score ranges of the histogram, best first: (from, up to but without). 100 falls into the first.
SCORE_RANGES = (
    (90, 101), (FINAL_MIN, 90), (70, FINAL_MIN), (DEFEAT_MIN, 70), (60, DEFEAT_MIN), (50, 60),
    (40, 50), (30, 40), (20, 30), (10, 20), (0, 10),
)  # fmt: skip


def score_histogram(rows: list[Row]) -> list[int]:
    """Count the parsed rows in each of SCORE_RANGES, in whole numbers."""
    counts = []
    for low, high in SCORE_RANGES:
        inside = [low * row.max_points <= 100 * row.points < high * row.max_points for row in rows]
        counts.append(sum(inside))
    return counts


_STEPS = (
    ("reply 1", 1, 1),
    ("replies 2 to 3", 2, 3),
    ("replies 4 to 6", 4, 6),
    ("replies 7 to 10", 7, 10),
    ("reply 11 and later", 11, 10**9),
)


def by_step(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows by their place in the trajectory."""
    return {name: [row for row in rows if low <= row.step <= high] for name, low, high in _STEPS}


LENGTHS = ("longer by over a tenth", "shorter by over a tenth", "about as long")


def by_length(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows by the challenger's length against the king's, as in LENGTHS."""
    longer, shorter, alike = LENGTHS
    found = {longer: [], shorter: [], alike: []}
    for row in rows:
        own = len(row.challenger)
        if own > 1.1 * row.king_chars:
            found[longer].append(row)
        elif row.king_chars > 1.1 * own:
            found[shorter].append(row)
        else:
            found[alike].append(row)
    return found


def grouped(rows: list[Row], attribute: str) -> dict[str, list[Row]]:
    """Return the rows by an attribute, the largest group first."""
    found = defaultdict(list)
    for row in rows:
        found[getattr(row, attribute)].append(row)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


# --------------------------------------------------------------------------------------- failures


def failed_items() -> dict[tuple[str, str], list[dict]]:
    """Return what the last run of each stage says it could not do, by stage and kind."""
    found = defaultdict(list)
    for folder in ("prompt", "answer_*", "score"):
        for path in sorted(Path().glob(f"{folder}/_failed*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    kind = row.get("kind") or row.get("reason") or ""
                    found[str(row.get("stage") or ""), str(kind)].append(row)
    return dict(sorted(found.items()))
