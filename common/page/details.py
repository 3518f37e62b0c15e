"""report.md, the rest: judges, metrics, leaks, what is not done, the turns.

What the sections say stands in report.md and sentences.md beside this file.
"""

from __future__ import annotations

from common.files import natural_key
from common.page import figures
from common.page.figures import NEXT_STEP, Facts, means, verdict_word
from common.page.markdown import (
    NOTHING,
    count,
    number,
    percent,
    report_block,
    say,
    shown,
    span,
    table,
)
from common.page.overview import most_disputed
from common.page.rows import Row
from common.page.turns_data import MOST_TURNS
from common.replies.protocol import bash_blocks
from common.turns import METRICS, Status

TURNS_SHOWN = 5  # of the best, the worst, the most disputed
COMMAND_CHARS = 90
REASON_CHARS = 160


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
        contrast = row.get("contrast") or {}
        gap = contrast.get("mean")
        own = " (the writer)" if judge == facts.generator else ""
        rows.append(
            (
                shown(judge) + own,
                row.get("score"),
                NOTHING if gap is None else f"{gap:+.1f} ({span(contrast.get('interval'))})",
                percent(row.get("parse_rate")),
                percent(row.get("position_consistency")),
                NOTHING if bias is None else f"{bias:+.2f}",
                number(row.get("agreement"), 2),
                rest,
            )
        )
    headers = (
        "judge | score # | above the others # | parsed # | same in both orders # | "
        "position bias # | agreement # | panel without it"
    )
    agreement = duel.get("agreement") or {}
    return report_block(
        "judges",
        judges=table(headers, rows),
        agreement=shown(agreement.get("name") or "not named"),
        alpha=number(agreement.get("value"), 2),
        interval_alpha=number(agreement.get("interval_alpha"), 2),
    )


def groups(facts: Facts) -> str:
    """Give the mean scores by metric and by action style, with their intervals."""
    base = facts.base
    if not base:
        return ""
    columns = {name: [row.metrics.get(name) for row in base] for name in METRICS}
    for style in sorted({row.style for row in base}):
        columns[style] = [row.score if row.style == style else None for row in base]
    lines = []
    for name, of in means(columns, base, facts.config).items():
        what = name if name in METRICS else f"style {shown(name)}"
        bar = "█" * round(of.value / 5)
        lines.append((what, of.turns, of.value, span(of.bounds), bar))
    return report_block(
        "groups", groups=table("what | turns # | mean score # | interval # | of 100", lines)
    )


# ------------------------------------------------------------------- leaks, what is left, the turns


def leak_audit(facts: Facts) -> str:
    """Set the challengers' hits beside the kings', which cannot have seen the record."""
    challenger = figures.audit_of(facts.rows, "challenger")
    king = figures.audit_of(facts.rows, "king")
    if not challenger.audited:
        return report_block("no_audit")
    refused = figures.refused_replies(facts.rows)
    refused.pop("protocol", None)  # no leak
    kinds = ", ".join(f"{shown(kind)} {n:,}" for kind, n in refused.most_common())
    return report_block(
        "audit",
        challengers=count(challenger.audited, "challenger"),
        hit=audit_words(challenger),
        kings=count(king.audited, "king"),
        floor=audit_words(king),
        refused=f"{sum(refused.values()):,}",
        kinds=f" ({kinds})" if kinds else "",
    )


def audit_words(audit: figures.Audit) -> str:
    """Return how many of a side's replies have a hit, and of which kinds."""
    kinds = ", ".join(f"{shown(kind)} {n:,}" for kind, n in audit.kinds.most_common())
    return f"{audit.hit:,} ({percent(audit.hit, audit.audited)}{': ' + kinds if kinds else ''})"


def unfinished(facts: Facts) -> str:
    """Say what is not done and what to run next."""
    rows = []
    out = facts.left_out.stems()
    settled = out | {row.stem for row in facts.rows if row.path}
    waiting = [stem for stem in facts.left_out.instances if stem not in settled]
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
        rows.append((shown(stage), shown(kind), len(items), shown(example, 160)))
    if not rows:
        return ""
    return say("failures") + "\n\n" + table("stage | what | number # | such as", rows)


def turns_to_read(facts: Facts) -> str:
    """List the best, the worst and the most disputed turns, each with its command and a reason."""
    best_first = sorted(facts.scored, key=lambda row: (-row.deciding_score, natural_key(row.stem)))
    if not best_first:
        return ""
    some = min(TURNS_SHOWN, len(best_first) // 3 or 1)
    disputed = most_disputed(facts)[:some]
    return report_block(
        "turns",
        best=reason_table(best_first[:some]),
        worst=reason_table(best_first[::-1][:some]),
        disputed=report_block("disputed", disputed=reason_table(disputed)) if disputed else "",
    )


def reason_table(rows: list[Row]) -> str:
    """Return the turns with the challenger's command and one judge's reason."""
    lines = []
    for row in rows:
        command = " ; ".join(bash_blocks(row.challenger))
        apart = number(row.spread, 0)
        reason = shown(row.reason, REASON_CHARS)
        lines.append((row.score_words, row.link, apart, shown(command, COMMAND_CHARS), reason))
    return table("score # | turn | judges apart # | challenger's command | a judge's reason", lines)


def all_turns(facts: Facts) -> str:
    """List every turn with action style and the score by metric, the best first."""
    rows = facts.rows[:MOST_TURNS]
    lines = []
    for row in sorted(rows, key=lambda row: -row.deciding_score if row.bucket else 1):
        by_metric = [number(row.metrics.get(metric), 0) for metric in METRICS]
        lines.append((row.score_words, row.link, row.style or NOTHING, *by_metric))
    headers = " | ".join(["score #", "file", "style", *(f"{metric} #" for metric in METRICS)])
    more = len(facts.rows) - len(rows)
    signs = []
    if facts.statuses[Status.STOPPED]:
        signs.append(say("sign_stopped"))
    if facts.duel.get("second_look"):
        signs.append(say("sign_confirmed"))
    return report_block(
        "all_turns",
        more=say("more_turns", shown=f"{len(rows):,}", more=f"{more:,}") if more else "",
        signs=" ".join(signs),
        turns=table(headers, lines),
    )
