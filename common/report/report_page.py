"""What report.md, the card and the tally say of a run: every figure is made here."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from common.config import METRICS, Config
from common.duel.record import LOOKS
from common.duel.verdicts import READING
from common.files import natural_key
from common.report.advice import (
    NEXT_STEP,
    NOT_DECIDED,
    lengths_differ,
    next_steps,
    points,
    useless_judges,
    verdict_words,
    waiting_prompts,
)
from common.report.exports import Export, export_text
from common.report.kinds import LITTLE_DOUBT, compare_kinds, doubt
from common.report.labels import wilson
from common.report.left_out import LeftOut, dicts
from common.report.markdown import Markdown, fill
from common.report.rows import Row
from common.report.turns_page import MOST_TURNS
from common.report.writers import Writers
from common.turns import BUCKETS, DEFEAT_MIN, FINAL_MIN, OPPONENT, SIDES, Status

ENOUGH_LABELS = 60  # the page's own batch: its share of final/ is then known to some 10 points
TURNS_TO_READ = 3
TURNS_SHOWN = 5  # of the most disputed

# What is read of score/_duel.json here. Older versions lack some.
DUEL_KEYS = (
    "accepted", "why", "mean_score", "interval", "alpha", "lcb_by_repo", "instances", "turns",
    "agreement", "kept_again", "equal_length", "second_look",
)  # fmt: skip
DUEL_TABLES = ("judges", "leave_one_out", "config")


@dataclass
class Facts:
    """All that the report and the card speak of."""

    rows: list[Row]
    writers: Writers
    left_out: LeftOut
    duel: dict  # score/_duel.json, empty without one
    plan: dict  # prompt/_plan.json, empty without one
    config: Config
    limit: int | None
    labels: dict | None  # how far panel and person agree; None without labels
    torn: set[str]  # the stages that make torn files again
    export: Export | None = None

    def __post_init__(self):
        self.parsed = [row for row in self.rows if row.bucket]
        self.judged = [row for row in self.parsed if not row.excluded]  # what the verdict is of
        self.statuses = Counter(row.status for row in self.rows)
        buckets = Counter(row.bucket for row in self.parsed)
        self.buckets = {name: buckets[name] for name in BUCKETS}
        self.shares = {name: buckets[name] / (len(self.parsed) or 1) for name in BUCKETS}
        self.mode = (self.parsed or self.rows)[0].mode
        self.opponent = SIDES[OPPONENT[self.mode]]
        self.has_duel = bool(self.duel)
        self.stale = stale_reason(self) if self.has_duel and not self.limit else ""
        known = {key: value for key, value in self.duel.items() if value is not None}
        self.duel = {**dict.fromkeys(DUEL_KEYS), **dict.fromkeys(DUEL_TABLES, {}), **known}
        self.generator = self.duel["config"].get("generator")
        self.verdict = verdict_words(self.duel) if self.has_duel else "no verdict yet"
        if self.verdict == NOT_DECIDED:  # what older versions made of it are no figures
            self.duel["why"] = f"{NOT_DECIDED}: no verdict could be read"
            self.duel |= dict.fromkeys(("accepted", "mean_score", "interval", "lcb_by_repo"))
            self.duel["leave_one_out"] = {}
        self.drop = useless_judges(self)
        self.next_step = dict(NEXT_STEP)
        if self.drop:
            self.next_step[Status.PARSE_FAIL] = "change the panel, then python validate.py"
        self.waiting = waiting_prompts(self)
        self.steps = next_steps(self)
        self.sample = {}
        for name in ("dataset", "revision", "seed"):
            value = self.plan.get(name)
            self.sample[name] = "not known" if value in (None, "") else str(value)
        path = self.sample["dataset"]
        local = path.startswith((".", "/", "~")) or path.count("/") > 1 or "*" in path
        if local or Path(path).exists():  # its folders are nobody's business
            self.sample["dataset"] = f"local files {Path(path).name}"
        benchmarks = self.plan.get("benchmarks")
        self.benchmarks = dicts(benchmarks.get("lists")) if isinstance(benchmarks, dict) else []
        self.unchecked = [of for of in self.benchmarks if of.get("state") != "checked"]
        sides = ("challenger", "chosen", "king")
        self.audits = {side: leak_audit(self.rows, side) for side in sides}
        self.kinds = Counter(row.made for row in self.rows if row.challenger_chars)
        self.compared = compare_kinds(self.rows, self.config.duel)
        self.doubt = doubt(self.rows, self.config.duel.alpha)
        to_king = (self.doubt or {}).get("to_king") or {}
        self.little_doubt = to_king if to_king.get("ratio", 1) < LITTLE_DOUBT else None
        self.reader = readers_test(self)
        # Calls of the reader's test, whether or not its answers could be read.
        self.reader_calls = self.writers.bills[LOOKS[READING], ""]["replies"]


def stale_reason(facts: Facts) -> str:
    """Return why score/_duel.json is of other scores, or settings, than lie here; or ""."""
    duel = facts.duel
    turns = duel["turns"] or {}
    then = duel.get("config") or {}
    panel = facts.config.judge.models
    sampling = {model: facts.config.judge_call(model).sampling() for model in panel}
    for what, of_duel, here in (
        ("DUEL_MODE", True, all(row.mode == duel["mode"] for row in facts.judged)),
        ("number of parsed turns", turns.get("parsed", 0), len(facts.judged)),
        ("panel in chain.toml", then.get("judges"), sampling),
        ("[duel] in chain.toml", then.get("duel"), vars(facts.config.duel)),
    ):
        if of_duel is not None and of_duel != here:
            return f"it is of another {what}"
    # A parse-fail's readable verdicts are in its mean, and not in ours.
    mean = duel.get("mean_score")
    here = mean_score([row.score for row in facts.judged])
    if mean is not None and not facts.statuses[Status.PARSE_FAIL] and abs(mean - here) > 0.01:
        return f"it gives a mean score of {mean:.2f}, here it is {here:.2f}"
    return ""


def mean_score(scores: list[float]) -> float:
    return fmean(scores) if scores else math.nan


def metric_mean(rows: list[Row], metric: str) -> float:
    return mean_score([row.metrics[metric] for row in rows if row.metrics.get(metric) is not None])


def leak_audit(rows: list[Row], side: str) -> dict | None:
    """Count one side's replies that were audited, those with a hit, and these by kind of leak."""
    audited = [set(row.leaks[side]) for row in rows if side in row.leaks]
    if not audited:
        return None
    kinds = Counter(kind for hits in audited for kind in sorted(hits))
    hit = sum(bool(hits) for hits in audited)
    return {"audited": len(audited), "hit": hit, "share": hit / len(audited), "kinds": kinds}


def readers_test(facts: Facts) -> dict | None:
    """Return whom the reader's test named, with 90 % intervals; None where it was not run.

    The opponent cannot have leaked: his rate is the test's false alarm.
    """
    look = facts.duel["second_look"] or {}
    read = look.get("read")
    if not read:
        return None
    found = {"model": look["reader"], "turns": read}
    for name, side in (("challenger", "challenger"), ("opponent", OPPONENT[facts.mode])):
        named = look["named"].get(side) or 0
        found[name] = {"named": named, "share": named / read, "interval": wilson(named, read)}
    return found


def page_lines(facts: Facts, turns_left_out: int) -> list[str]:
    """Return what turns.html says of the run."""
    lines = [str(facts.duel["why"])] if facts.has_duel else []
    lines.append(", ".join(f"{name}/ {facts.buckets[name]:,}" for name in BUCKETS))
    if turns_left_out:
        more = f"turns.csv lists {turns_left_out:,} more"
        lines.append(f"Here are the first {MOST_TURNS:,} turns; {more}.")
    return lines


# -------------------------------------------------------------------------------------- report.md


def report_page(facts: Facts, licence_is_stated: bool) -> str:
    """Return report.md, for a reader in a hurry."""
    export = facts.export if facts.export and facts.export.all_rows else None
    labels = facts.labels["labels"] if facts.labels else 0
    apart = [row for row in facts.parsed if row.spread]
    disputed = sorted(apart, key=lambda row: (-row.spread, natural_key(row.stem)))
    worst = sorted(facts.judged, key=lambda row: row.deciding_score)
    listed = facts.rows[:MOST_TURNS]
    is_usable = facts.duel["accepted"] is not False and facts.verdict != NOT_DECIDED
    not_done = []
    if facts.waiting:
        no_king = {"status": "no king", "turns": len(facts.waiting), "example": facts.waiting[0]}
        not_done.append({**no_king, "why": None, "step": "python king.py"})
    for status, step in facts.next_step.items():
        rows = [row for row in facts.rows if row.status == status]
        if rows:
            first = {"example": rows[0].link, "why": rows[0].why or None}
            not_done.append({"status": status, "turns": len(rows), "step": step, **first})
    text = fill(
        "report.md",
        facts=facts,
        duel=facts.duel,
        statuses=Status,
        final_min=FINAL_MIN,
        defeat_min=DEFEAT_MIN,
        metrics=METRICS,
        verdict_words=verdict_words,
        why=str(facts.duel["why"] or "").removeprefix(f"{facts.verdict}: "),
        is_usable=is_usable,
        to_label=bool(facts.parsed) and labels < ENOUGH_LABELS,
        to_license=bool(export) and not licence_is_stated,
        train_length=export.fitting_length if export and not facts.steps else None,
        export=export_text(facts.export) if facts.export else "",
        histogram=histogram([row.deciding_score for row in facts.parsed]),
        answered=sum(row.path is not None for row in facts.rows),
        others=Counter(str(row.status) for row in facts.rows if row.status != Status.PARSED),
        look=second_look(facts),
        points=points(facts),
        by_length=facts.duel["equal_length"] if lengths_differ(facts) else None,
        spent=facts.writers.spent(list(facts.duel["judges"]) or facts.config.judge.models),
        metric_means={metric: metric_mean(facts.parsed, metric) for metric in METRICS},
        disputed=disputed[:TURNS_SHOWN],
        to_read=[row.link for row in disputed[:TURNS_TO_READ]],
        worst=[row.link for row in worst[:TURNS_TO_READ]],
        listed=sorted(listed, key=lambda row: -row.deciding_score if row.bucket else 1),
        more=len(facts.rows) - len(listed),
        not_done=not_done,
        failures=stage_failures(),
        out=facts.left_out.unanswered(facts.rows),
    )
    return f"{text}\n"


def second_look(facts: Facts) -> dict | None:
    """Return what the second look changed of what is kept; None without one."""
    look = facts.duel["second_look"] or {}
    if not look.get("turns") and not look.get("read"):
        return None
    before = [row.score for row in facts.parsed if row.score >= FINAL_MIN]
    fit = [row for row in facts.parsed if row.bucket == "final" or row.held_back]
    after = [row.deciding_score for row in fit]
    return {
        **look,
        "before": {"turns": len(before), "mean": mean_score(before)},
        "after": {"turns": len(after), "mean": mean_score(after)},
    }


def histogram(scores: list[float]) -> Markdown:
    """Return the number of turns by range of the score that decides their bucket."""
    scores = [round(score, 9) for score in scores]  # 57.99999999999999 is 58
    edges = [*sorted({*range(0, 100, 10), DEFEAT_MIN, FINAL_MIN}), 100]
    counts, _ = np.histogram(scores, edges)  # the last range holds its upper end
    marks = {FINAL_MIN: "final from here up", DEFEAT_MIN: "refined from here up, defeat below"}
    lines = ["```text", "score        turns"]
    for low, high, n in reversed(list(zip(edges, edges[1:], counts))):
        bar = "█" * math.ceil(30 * n / max(1, *counts))  # a single turn shows, too
        lines.append(f"{low:>3} to {high:<3}  {n:>6}  {bar:<30}  {marks.get(low, '')}".rstrip())
    return Markdown("\n".join([*lines, "```"]))


def stage_failures() -> list[dict]:
    """Return what each earlier stage's last run failed at, by kind, with an example."""
    failures = defaultdict(list)
    for folder in ("prompt", "answer_*", "score"):
        for path in sorted(Path().glob(f"{folder}/_failed*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    item = json.loads(line)
                    names = {name: str(item[name]) for name in ("stage", "kind", "item", "reason")}
                except (ValueError, KeyError, TypeError):
                    continue  # a list of another program
                failures[names["stage"], names["kind"]].append(names)
    return [{**items[0], "count": len(items)} for _, items in sorted(failures.items())]
