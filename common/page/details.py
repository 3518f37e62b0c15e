"""report.md, the rest: judges, metrics, groups, leaks, what is not done, turns to read.

What the sections say stands in report.md and sentences.md beside this file.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.files import natural_key
from common.page import figures
from common.page.figures import NEXT_STEP, Facts, mean, mean_score, spent, verdict_word
from common.page.markdown import (
    NOTHING,
    count,
    number,
    percent,
    report_block,
    say,
    shown,
    table,
)
from common.page.rows import Row
from common.turns import METRICS

WHOLE_TABLE_TURNS = 100  # up to here every turn is listed; beyond, the best, worst, most disputed
FEW = 10  # a group of fewer turns is marked as few
REPOS_SHOWN = 15


def judges(facts: Facts) -> str:
    """Set the judges beside each other."""
    duel = facts.duel
    if not duel.get("judges"):
        return ""
    rows = []
    for judge, row in duel["judges"].items():
        without = (duel.get("leave_one_out") or {}).get(judge)
        rest = NOTHING
        if without:
            rest = f"{number(without.get('mean_score'))}, {verdict_word(without)}"
        bias = row.get("pull")
        rows.append(
            (
                shown(judge),
                row.get("score"),
                percent(row.get("parse_rate")),
                percent(row.get("position_consistency")),
                NOTHING if bias is None else f"{bias:+.2f}",
                number(row.get("agreement"), 2),
                rest,
                spent([row]).cost,
            )
        )
    headers = (
        "judge | score # | parsed # | same in both orders # | position bias # | agreement # | "
        "panel without it | cost #"
    )
    agreement = duel.get("agreement") or {}
    return report_block(
        "judges",
        judges=table(headers, rows),
        agreement=shown(agreement.get("name") or "not named"),
        alpha=number(agreement.get("value"), 2),
        without_generator=without_generator_words(duel.get("without_generator")),
    )


def without_generator_words(alone: dict | None) -> str:
    """Return the verdict of the panel without the model that wrote the replies."""
    if not alone:
        return ""
    return say(
        "without_generator",
        score=number(alone.get("mean_score")),
        margin=number(alone.get("margin")),
        word=verdict_word(alone),
    )


def metrics(facts: Facts) -> str:
    """Say on which metrics the challenger is ahead."""
    rows = []
    for name in METRICS:
        values = [row.metrics[name] for row in facts.parsed if row.metrics.get(name) is not None]
        ahead = sum(value > 50 for value in values)
        behind = sum(value < 50 for value in values)
        level = len(values) - ahead - behind
        average = (facts.duel.get("metrics") or {}).get(name)
        if average is None:
            average = mean(values)
        bar = "█" * round(average / 5)
        if values:
            rows.append((name, average, ahead, level, behind, bar))
    headers = "metric | mean score # | turns ahead # | level # | behind # | of 100"
    return report_block("metrics", metrics=table(headers, rows)) if rows else ""


def groups(facts: Facts) -> str:
    """Give the scores by kind of turn: they show where the challenger wins, not why."""
    parsed = facts.parsed
    if not parsed:
        return ""
    repos = list(figures.grouped(parsed, "repo").items())
    more = len(repos) - REPOS_SHOWN
    lengths = ""
    if facts.mode == 2:
        by_length = figures.by_length(parsed).items()
        lengths = report_block("lengths", lengths=group_table("challenger", by_length))
    return report_block(
        "groups",
        few=FEW,
        styles=group_table("style", figures.grouped(parsed, "style").items()),
        steps=group_table("position", figures.by_step(parsed).items()),
        repos=group_table("repo", repos[:REPOS_SHOWN]),
        more_repos=say("more_repos", n=f"{more:,}") if more > 0 else "",
        lengths=lengths,
    )


def group_table(what: str, named: Iterable[tuple[str, list[Row]]]) -> str:
    """Return the mean score and the share of final/ of each group that has turns."""
    lines = []
    for name, rows in named:
        if rows:
            final = sum(row.bucket == "final" for row in rows)
            kept = f"{final:,} ({percent(final, len(rows))})"
            few = "*few*" if len(rows) < FEW else ""
            lines.append((shown(name), len(rows), mean_score(rows), kept, few))
    return table(f"{what} | turns # | mean score # | final # |", lines)


# ------------------------------------------------------------------- leaks, what is left, the turns


def leak_audit(facts: Facts) -> str:
    """Set the challengers' hits beside the kings', which cannot have seen the record."""
    challenger = figures.audit_of(facts.rows, "challenger")
    king = figures.audit_of(facts.rows, "king")
    refused = figures.refused_replies(facts.rows)
    if not challenger.audited:
        return report_block("no_audit")
    floor = ""
    if king.audited:
        kings = count(king.audited, "king")
        floor = say(
            "audit_floor", kings=kings, hit=f"{king.hit:,}", share=percent(king.hit, king.audited)
        )
    kinds = []
    for kind in sorted({*challenger.kinds, *king.kinds, *refused}):
        kinds.append((shown(kind), challenger.kinds[kind], king.kinds[kind], refused[kind]))
    headers = (
        "kind | challengers with a hit # | kings with a hit # | challenger replies refused for it #"
    )
    return report_block(
        "audit",
        challengers=count(challenger.audited, "challenger"),
        hit=f"{challenger.hit:,}",
        share=percent(challenger.hit, challenger.audited),
        floor=floor,
        kinds=table(headers, kinds) if kinds else "",
    )


def unfinished(facts: Facts) -> str:
    """Say what is not done and what to run next."""
    rows = []
    out = facts.left_out.stems()
    answered = {row.stem for row in facts.rows if row.path}
    waiting = [stem for stem in facts.left_out.instances if stem not in answered | out]
    if waiting and not facts.limit:
        rows.append(("no king", len(waiting), shown(waiting[0]), "`python king.py`"))
    for status, command in NEXT_STEP.items():
        turns = [row for row in facts.rows if row.status == status]
        if turns:
            why = f": {shown(turns[0].why)}" if turns[0].why else ""
            step = f"`{command}`" if command.startswith("python") else command
            rows.append((status, len(turns), turns[0].link + why, step))
    return report_block(
        "unfinished",
        turns=table("turns | number # | such as | run", rows) if rows else say("all_judged"),
        failures=failures(),
        left_out=count(len(out), "prompt"),
        sampling=count(len(facts.left_out.sampling), "instance"),
    )


def failures() -> str:
    """Return what each stage's last run could not do."""
    rows = []
    for (stage, kind), items in figures.failed_items().items():
        example = f"{items[0].get('item')}: {items[0].get('reason')}"
        rows.append((shown(stage), shown(kind), len(items), shown(example, 240)))
    if not rows:
        return ""
    return say("failures") + "\n\n" + table("stage | what | number # | such as", rows)


def turns_to_read(facts: Facts) -> str:
    """List every turn of a small run; of a large one the best, the worst and the most disputed."""
    best_first = sorted(facts.parsed, key=lambda row: (-row.score, natural_key(row.stem)))
    if not best_first:
        return ""
    if len(best_first) <= WHOLE_TABLE_TURNS:
        some = min(5, len(best_first) // 3 or 1)
        listed = report_block("all_turns", turns=turn_table(best_first))
    else:
        some = 20
        ends = turn_table(best_first[:some] + best_first[-some:])
        listed = report_block("best_and_worst", some=some, turns=ends, all=f"{len(best_first):,}")
    by_spread = sorted(best_first, key=lambda row: -row.spread)
    disputed = [row for row in by_spread if row.spread][:some]
    return report_block(
        "turns",
        best=reason_table(best_first[:some]),
        worst=reason_table(best_first[::-1][:some]),
        disputed=report_block("disputed", disputed=reason_table(disputed)) if disputed else "",
        listed=listed,
    )


def reason_table(rows: list[Row]) -> str:
    """Return the turns with each judge's score and one judge's reason."""
    lines = []
    for row in rows:
        by_judge = "/".join(number(score, 0) for score in row.by_judge.values())
        lines.append((row.score, row.link, row.style, by_judge, shown(row.reason, 240)))
    return table("score # | turn | style | by judge # | one judge's reason", lines)


def turn_table(rows: list[Row]) -> str:
    """Return the turns with bucket, action style and the score by metric."""
    headers = ["score #", "bucket", "file", "instance", "action style"]
    headers += [f"{metric} #" for metric in METRICS]
    lines = []
    for row in rows:
        by_metric = [number(row.metrics.get(metric), 0) for metric in METRICS]
        instance = shown(row.instance_id)
        lines.append((row.score, row.bucket, row.link, instance, row.style, *by_metric))
    return table(" | ".join(headers), lines)
