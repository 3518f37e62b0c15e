"""What the pages speak of: all that a run has left, and the figures that are computed from it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.config import Config
from common.duel.statistics import bootstrap_bounds, cluster_sums
from common.duel.verdicts import is_full
from common.exports import Export
from common.page.labels import Agreement
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
    labels: Agreement | None = None  # of the panel with a person; None without labels

    def __post_init__(self):
        self.parsed = [row for row in self.rows if row.status == Status.PARSED]
        self.scored = [row for row in self.rows if row.bucket]  # the stopped ones, too
        self.statuses = Counter(row.status for row in self.rows)
        self.buckets = Counter(row.bucket for row in self.scored)
        self.stops_early = bool((self.duel.get("stop_early") or {}).get("on"))
        # The turns that means rest on: stopping some by their score would lift the others' mean.
        self.base = self.parsed
        if self.stops_early:
            share = self.config.judge.full_share
            self.base = [row for row in self.parsed if is_full(row.stem, share)]
        if self.parsed:
            self.mode = self.parsed[0].mode
        else:
            self.mode = 1 if self.duel.get("mode") == 1 else 2
        self.opponent = SIDES[OPPONENT[self.mode]]
        self.generator = (self.duel.get("config") or {}).get("generator")
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
    turns = duel["turns"] or {}
    for status, key in ((Status.PARSED, "parsed"), (Status.STOPPED, "stopped")):
        counted = turns.get(key) or 0
        if counted != facts.statuses[status]:
            return f"it counts {counted} {status} turns, here are {facts.statuses[status]}"
    told = duel.get("mean_score")
    mean = mean_score(facts.base)
    # A parse-fail's readable verdicts are in its mean, and not in ours.
    if told is not None and abs(told - mean) > 0.01 and not facts.statuses[Status.PARSE_FAIL]:
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
    """What calls took, as far as it was told."""

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

    @property
    def cells(self) -> tuple[int | None, int | None, str]:
        """Tokens in, tokens out and cost; None where the provider told no tokens."""
        return self.tokens_in or None, self.tokens_out or None, self.cost


def spent(metas: Iterable[dict]) -> Spent:
    """Add up what a list of objects with `usage` and `cost_usd` tells, of all tries."""
    total = Spent()
    for meta in metas:
        usage = meta.get("usage_all_tries") or meta.get("usage")
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


def answered_for(rows: list[Row]) -> dict[str, set[str]]:
    """Return, by judge, which other models answered in its name."""
    others = defaultdict(set)
    for row in rows:
        for judge, other in row.answered.items():
            others[judge].add(other)
    return others


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


# ------------------------------------------------------------------------------------------ scores

# Score ranges of the histogram, best first: (from, up to but without). 100 falls into the first.
SCORE_RANGES = (
    (90, 101), (FINAL_MIN, 90), (70, FINAL_MIN), (DEFEAT_MIN, 70), (60, DEFEAT_MIN), (50, 60),
    (40, 50), (30, 40), (20, 30), (10, 20), (0, 10),
)  # fmt: skip
RESAMPLES = 2000  # enough for an interval that decides nothing


def score_histogram(rows: list[Row]) -> list[int]:
    """Count the scored rows in each of SCORE_RANGES, by the score that decides their bucket."""
    scores = [round(row.deciding_score, 9) for row in rows]  # 57.99999999999999 is 58
    return [sum(low <= score < high for score in scores) for low, high in SCORE_RANGES]


@dataclass
class Mean:
    """A mean with its interval; bounds are None where there are too few instances for any."""

    value: float
    bounds: list[float] | None
    turns: int


def means(columns: dict[str, list[float | None]], rows: list[Row], config: Config) -> dict:
    """Return the Mean of each column of values (one a row, or None), clustered by instance."""
    if not rows:
        return {}
    values = np.array(list(columns.values()), float).T
    counts = (~np.isnan(values)).astype(np.int64)
    instances = np.array([row.instance_id for row in rows])
    sums, sizes = cluster_sums(np.nan_to_num(values), counts, instances)
    duel = config.duel
    alpha = max(duel.alpha, 1 / RESAMPLES)
    lower, upper = bootstrap_bounds(sums, sizes, alpha=alpha, resamples=RESAMPLES, seed=duel.seed)
    found = {}
    for place, name in enumerate(columns):
        turns = int(sizes[:, place].sum())
        if turns:
            bounds = [float(lower[place]), float(upper[place])]
            known = all(np.isfinite(bounds))
            value = float(sums[:, place].sum()) / turns
            found[name] = Mean(value, bounds if known else None, turns)
    return found


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
