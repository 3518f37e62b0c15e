"""report/report.md: its text is the template report.md, its figures are made here."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from common.config import METRICS
from common.files import natural_key
from common.report import figures
from common.report.card import stated_licence
from common.report.figures import NEXT_STEP, Facts, mean_score, verdict_word
from common.report.markdown import NOTHING, Markdown, fill
from common.report.rows import Row
from common.report.turns_page import MOST_TURNS
from common.turns import DEFEAT_MIN, FINAL_MIN, Status

ENOUGH_LABELS = 60  # the page's own batch: its share of final/ is then known to some 10 points
TURNS_TO_READ = 3
TURNS_SHOWN = 5  # of the best, the worst, the most disputed

# When a point is raised. Chosen to speak up early: a point asks for a look, no more.
FEW_INSTANCES = 20  # below, intervals over resampled instances are rough
LOW_PARSE_RATE = 0.95
LOW_CONSISTENCY = 0.5  # GPT-4 in MT-Bench: 0.65; a coin among three calls: 0.33
STRONG_POSITION_BIAS = 0.15  # in one order alone, this accepts most duels between equals
# Simulated panels of alpha 0.48, 0.31 and 0.15 keep 2, 4 and 9 % of turns that are not worth it.
LOW_AGREEMENT = 0.4
LENGTH_ERRORS = 2  # of the slope by length, from 0


def report_page(facts: Facts) -> str:
    """Return report.md, for a reader in a hurry."""
    text = fill(
        "report.md",
        facts=facts,
        final_min=FINAL_MIN,
        defeat_min=DEFEAT_MIN,
        **whole_run(facts),
        **points(facts),
        spent=spent(facts),
        control=figures.control_split(facts),
        **judges_and_groups(facts),
        **unfinished(facts),
        **turns(facts),
    )
    return f"{text}\n"


def whole_run(facts: Facts) -> dict:
    """Return what verdict, next steps, results, numbers and the second look are told with."""
    duel = facts.duel
    look = duel.get("second_look") or {}
    has_look = bool(look.get("turns") or look.get("read"))
    look_cost = (duel.get("looks") or {}).get("second look")
    before = [row for row in facts.scored if row.score >= FINAL_MIN]
    after = [row for row in facts.scored if row.bucket == "final" or row.held_back]
    bound = duel.get("lcb_by_repo")
    has_rows = facts.export is not None and bool(facts.export.all_rows)
    labels = facts.labels["labels"] if facts.labels else 0
    return {
        "word": facts.verdict.capitalize(),
        "why": str(duel["why"]).removeprefix(f"{facts.verdict}: ") if duel else None,
        "label": facts.scored and labels < ENOUGH_LABELS,
        "confirm": facts.buckets["final"] and not has_look,
        "state_licence": has_rows and stated_licence()["license"] == "unknown",
        "train_length": facts.export.fitting_length if has_rows and not facts.command else None,
        "export": figures.export_text(facts.export) if facts.export else None,
        "histogram": histogram(facts.scored),
        "answered": sum(row.path is not None for row in facts.rows),
        "parsed": len(facts.parsed),
        "others": Counter(str(row.status) for row in facts.rows if row.status != Status.PARSED),
        "level": 100 - 200 * duel["alpha"] if duel.get("alpha") else None,
        "bound_by_repo": None if bound is None else 50 + bound,
        "look": look if has_look else None,
        "before": {"turns": len(before), "mean": mean_score(before)},
        "after": {"turns": len(after), "mean": mean_score(after, "deciding_score")},
        "look_bill": figures.bill([look_cost] if look_cost else []),
    }


def points(facts: Facts) -> dict:
    """Return whether to trust the run and what to change: of each point what it is raised by."""
    duel = facts.duel
    judges = duel.get("judges") or {}

    def figure(*keys: str) -> float:
        """Return a figure of the duel; NaN, which no comparison holds for, where there is none."""
        value = duel
        for key in keys:
            value = (value or {}).get(key)
        return math.nan if value is None else value

    def some(rows: list[Row]) -> dict | None:
        return {"turns": len(rows), "example": rows[0]} if rows else None

    doubtful = []
    for name in judges:
        is_unreadable = figure("judges", name, "parse_rate") < LOW_PARSE_RATE
        is_unsteady = figure("judges", name, "position_consistency") < LOW_CONSISTENCY
        is_biased = abs(figure("judges", name, "pull")) > STRONG_POSITION_BIAS
        if is_unreadable or is_unsteady or is_biased:
            doubtful.append(name)
    deciding = {}
    for name, without in (duel.get("leave_one_out") or {}).items():
        if without.get("accepted") != duel.get("accepted"):
            deciding[name] = verdict_word(without)
    leaning = (judges.get(facts.generator) or {}).get("contrast") or {}
    low, high = leaning.get("interval") or (0, 0)
    slope = abs(figure("equal_length", "per_doubling"))
    instances = len({row.instance_id for row in facts.parsed})
    leaking = [row for row in facts.parsed if row.bucket == "final" and row.leaks.get("challenger")]
    raised = {
        "doubtful": doubtful,
        "deciding": deciding,
        "leaning": None if low <= 0 <= high else leaning,
        "low_agreement": figure("agreement", "value") < LOW_AGREEMENT,
        "fails_by_repo": bool(duel.get("accepted")) and figure("lcb_by_repo") <= 0,
        "length_tells": slope > LENGTH_ERRORS * figure("equal_length", "per_doubling_se"),
        "few_instances": instances if instances < FEW_INSTANCES else 0,
        "flagged": some([row for row in facts.rows if row.judged.get("flags")]),
        "leaking": some(leaking),
        "held_back": some([row for row in facts.rows if row.held_back]),
        "far_apart": facts.labels["differences"] if facts.labels else [],
    }
    return {**raised, "nothing_stands_out": not any(raised.values())}


def histogram(rows: list[Row]) -> Markdown | None:
    """Return the number of turns by range of the score that decides their bucket."""
    if not rows:
        return None
    scores = [round(row.deciding_score, 9) for row in rows]  # 57.99999999999999 is 58
    edges = [0, 10, 20, 30, 40, 50, 60, DEFEAT_MIN, 70, FINAL_MIN, 90, 100]
    counts, _ = np.histogram(scores, edges)  # the last range holds its upper end
    marks = {FINAL_MIN: "final from here up", DEFEAT_MIN: "refined from here up, defeat below"}
    lines = ["```text", "score        turns"]
    for low, high, n in reversed(list(zip(edges, edges[1:], counts))):
        bar = "█" * math.ceil(30 * n / max(counts))  # a single turn shows, too
        lines.append(f"{low:>3} to {high:<3}  {n:>6}  {bar:<30}  {marks.get(low, '')}".rstrip())
    return Markdown("\n".join([*lines, "```"]))


def spent(facts: Facts) -> list[dict]:
    """Return replies, tokens and cost of each writer and judge, and of all together."""
    bills = []
    everything = []

    def add(name: str, replies: int, metas: list[dict]) -> None:
        bills.append({"model": name, "replies": replies, **figures.bill(metas)})
        everything.extend(metas)

    for side in ("king", "challenger"):
        metas = [row.meta[side] for row in facts.rows if row.meta.get(side)]
        if side == "challenger":
            metas += [old for row in facts.rows for old in row.meta.get("retired") or []]
        names = ", ".join(figures.writers(facts.rows, side)) or NOTHING
        add(f"{side} by {names}", len(metas), metas)
    answered = defaultdict(set)
    for row in facts.rows:
        for verdict in row.judged.get("verdicts", []):
            answered[verdict["judge"]].add(str(verdict.get("model_answered") or ""))
    for judge, asked in (facts.duel.get("judges") or {}).items():
        name = judge + figures.who_answered(judge, answered[judge])
        add(f"judge {name}", asked.get("calls") or 0, [asked])
    for look, asked in (facts.duel.get("looks") or {}).items():
        if look != "first look":  # that is the judges, above
            add(look, asked.get("calls") or 0, [asked])
    add("together", sum(bill["replies"] for bill in bills), everything[:])
    return bills


def judges_and_groups(facts: Facts) -> dict:
    """Return what is known of each judge, and the mean scores by metric and by action style."""
    judges = []
    for name, judge in (facts.duel.get("judges") or {}).items():
        without = (facts.duel.get("leave_one_out") or {}).get(name) or {}
        writer = " (the writer)" if name == facts.generator else ""
        word = verdict_word(without) if without else None
        judges.append({**judge, "name": name + writer, "without": without, "word_without": word})
    columns = {name: [(row, row.metrics.get(name)) for row in facts.base] for name in METRICS}
    for style in sorted({row.style for row in facts.base}):
        columns[f"style {style}"] = [(row, row.score) for row in facts.base if row.style == style]
    groups = []
    for name, pairs in columns.items():
        mean = figures.mean_of(pairs, facts.config)
        if mean:
            groups.append({"name": name, **mean})
    return {"judges": judges, "groups": groups}


def unfinished(facts: Facts) -> dict:
    """Return what is not done, and what to run next."""
    out = facts.left_out.stems()
    settled = out | {row.stem for row in facts.rows if row.path}
    waiting = [stem for stem in facts.left_out.instances if stem not in settled]
    left = []
    if waiting and not facts.limit:
        no_king = {"status": "no king", "example": waiting[0], "step": "python king.py"}
        left.append({**no_king, "turns": waiting})
    for status, step in NEXT_STEP.items():
        rows = [row for row in facts.rows if row.status == status]
        if rows:
            example = {"example": rows[0].link, "why": rows[0].why}
            left.append({"status": status, "turns": rows, "step": step, **example})
    failures = defaultdict(list)
    for folder in ("prompt", "answer_*", "score"):
        for path in sorted(Path().glob(f"{folder}/_failed*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    item = json.loads(line)
                    failures[str(item["stage"]), str(item["kind"])].append(item)
                except (ValueError, KeyError, TypeError):
                    continue  # a list of another program
    failed = [{**items[0], "items": items} for _, items in sorted(failures.items())]
    return {"not_done": left, "failures": failed, "out": len(out)}


def turns(facts: Facts) -> dict:
    """Return the best, the worst, the most disputed turns, and the table of all."""
    best_first = sorted(facts.scored, key=lambda row: (-row.deciding_score, natural_key(row.stem)))
    apart = [row for row in facts.parsed if row.spread]
    disputed = sorted(apart, key=lambda row: (-row.spread, natural_key(row.stem)))
    some = min(TURNS_SHOWN, len(best_first) // 3 or 1)
    listed = facts.rows[:MOST_TURNS]
    return {
        "to_read": [row.link for row in disputed[:TURNS_TO_READ]],
        "disputed": disputed[:some],
        "best": best_first[:some],
        "worst": best_first[::-1][:some],
        "listed": sorted(listed, key=lambda row: -row.deciding_score if row.bucket else 1),
        "more": len(facts.rows) - len(listed),
    }
