"""report.md, its first screen: the verdict, the numbers that matter, the scores.

What the sections say stands in report.md and sentences.md beside this file.
"""

from __future__ import annotations

from common.page import figures
from common.page.export_words import export_cell
from common.page.figures import NEXT_STEP, Facts, spent, verdict_word
from common.page.markdown import NOTHING, count, number, percent, report_block, say, shown, table
from common.page.rows import Row
from common.turns import BUCKETS, DEFEAT_MIN, FINAL_MIN

BARS_DRAWN = 50  # at most


def verdict(facts: Facts) -> str:
    """Say the verdict, and whether it is of this run."""
    duel = facts.duel
    word = verdict_word(duel)
    if duel:
        why = str(duel["why"]).removeprefix(f"{word}: ")
        said = say("duel", word=word.capitalize(), why=shown(why, 600))
    else:
        said = say("no_duel")
    stale = figures.stale_reason(facts)
    return report_block(
        "verdict",
        opponent=facts.opponent,
        word=word,
        trial=say("trial", turns=count(len(facts.rows), "scored turn")) if facts.limit else "",
        verdict=said,
        stale=say("stale", why=shown(stale)) if stale else "",
    )


# ---------------------------------------------------------------------------------------- numbers


def numbers(facts: Facts) -> str:
    """Give the figures of the whole run, and what each model took."""
    duel = facts.duel
    rest = [
        f", {facts.statuses[status]:,} {status}" for status in NEXT_STEP if facts.statuses[status]
    ]
    buckets = []
    for name in BUCKETS:
        share = percent(facts.buckets[name], len(facts.parsed))
        buckets.append(f"[{name}/](../{name}) {facts.buckets[name]:,} ({share})")
    return report_block(
        "numbers",
        answered=f"{sum(row.path is not None for row in facts.rows):,}",
        parsed=f"{len(facts.parsed):,}",
        rest="".join(rest),
        instances=count(len({row.instance_id for row in facts.parsed}), "instance"),
        repos=count(len({row.repo for row in facts.parsed}), "repo"),
        mean_score=mean_score_words(duel),
        opponent=facts.opponent,
        margin=margin_words(facts),
        buckets=", ".join(buckets),
        final_min=FINAL_MIN,
        defeat_min=DEFEAT_MIN,
        export=export_cell(facts.export),
        dataset=dataset_words(facts.plan),
        sample=sample_words(facts.plan.get("summary")),
        judged_at=shown(duel.get("made_at") or NOTHING),
        spent=spent_table(facts),
    )


def mean_score_words(duel: dict) -> str:
    """Return the duel's mean score with its interval."""
    if duel.get("mean_score") is None:
        return NOTHING
    interval = duel.get("interval") or [None, None]
    return say(
        "mean_score",
        score=number(duel["mean_score"]),
        level=f"{100 - 200 * duel['alpha']:g} % " if duel.get("alpha") else "",
        low=number(interval[0]),
        high=number(interval[1]),
    )


def margin_words(facts: Facts) -> str:
    """Return the duel's margin beside what was asked for."""
    duel = facts.duel
    if duel.get("margin") is None:
        return NOTHING
    return say(
        "margin",
        margin=number(duel["margin"]),
        opponent=facts.opponent,
        win_margin=number(duel.get("win_margin")),
        lcb=number(duel.get("lcb")),
    )


def dataset_words(plan: dict) -> str:
    """Return where the turns were sampled from."""
    if not plan:
        return say("no_plan")
    return shown(
        say(
            "dataset",
            name=figures.dataset_name(plan),
            revision=plan.get("revision") or "not known",
            seed=plan.get("seed", "not known"),
        )
    )


def sample_words(summary: object) -> str:
    """Return what prompt.py says of its sample."""
    if not isinstance(summary, dict):
        return NOTHING
    parts = []
    for what in ("prompt", "instance", "repo"):
        if isinstance(summary.get(f"{what}s"), int):
            parts.append(count(summary[f"{what}s"], what))
    for key in ("thirds", "languages"):
        if isinstance(summary.get(key), dict):
            largest = list(summary[key].items())[:8]
            parts.append(", ".join(f"{shown(name)} {number(n)}" for name, n in largest))
    return "; ".join(parts) or NOTHING


def spent_table(facts: Facts) -> str:
    """Return replies, tokens and cost of each writer and judge, and of all together."""
    rows = []
    metas = []
    replies = 0
    for side in ("king", "challenger"):
        written = figures.side_metas(facts.rows, side)
        took = spent(written)
        name = f"{side} by {model_words(written)}"
        rows.append((name, len(written), took.tokens_in, took.tokens_out, took.cost))
        replies += len(written)
        metas += written
    for judge, row in (facts.duel.get("judges") or {}).items():
        took = spent([row])
        calls = row.get("calls") or 0
        rows.append((f"judge {shown(judge)}", calls, took.tokens_in, took.tokens_out, took.cost))
        replies += calls
        metas.append(row)
    took = spent(metas)
    rows.append(("together", replies, took.tokens_in, took.tokens_out, took.cost))
    return table("model | replies # | tokens in # | tokens out # | cost #", rows)


def model_words(metas: list[dict]) -> str:
    """Return the models that were asked, and who answered in their name where it was another."""
    words = []
    for asked, answered in figures.models_of(metas):
        by = f" (answered by: {shown(answered)})" if answered else ""
        words.append(shown(asked) + by)
    return ", ".join(words) or NOTHING


# ----------------------------------------------------------------------------------------- scores


def scores(facts: Facts) -> str:
    """Draw the scores: a curve for viewers that know Mermaid, a histogram for all."""
    if not facts.parsed:
        return report_block("no_scores")
    return report_block("scores", curve=curve(facts.parsed), histogram=histogram(facts.parsed))


def curve(rows: list[Row]) -> str:
    """Return a bar for each turn of a small run, best first; quantiles of a large one."""
    drawn = min(len(rows), BARS_DRAWN)
    if drawn < 2:
        return ""
    best_first = sorted((row.score for row in rows), reverse=True)
    heights = [best_first[int((bar + 0.5) * len(rows) / drawn)] for bar in range(drawn)]
    return report_block(
        "curve",
        final_min=FINAL_MIN,
        defeat_min=DEFEAT_MIN,
        turns=f"{len(rows):,}",
        last=len(rows),
        heights=", ".join(f"{height:.1f}" for height in heights),
        final_line=", ".join([str(FINAL_MIN)] * drawn),
        defeat_line=", ".join([str(DEFEAT_MIN)] * drawn),
    )


def histogram(rows: list[Row]) -> str:
    """Return the number of turns by range of score, with a line at each threshold."""
    marks = {FINAL_MIN: "final above", DEFEAT_MIN: "refined above, defeat below"}
    counts = figures.score_histogram(rows)
    lines = []
    for (low, high), n in zip(figures.SCORE_RANGES, counts, strict=True):
        bar = "█" * round(30 * n / max(counts)) or ("▏" if n else "")
        lines.append(f"{low:>3} to {min(high, 100):<3}  {n:>6}  {bar}".rstrip())
        if low in marks:
            lines.append(f"----- {low} --- {marks[low]} ".ljust(50, "-"))
    return "\n".join(lines)
