"""report.md, its first screen: the verdict, what to do next, what came out.

What the sections say stands in report.md and sentences.md beside this file.
"""

from __future__ import annotations

from common.files import natural_key
from common.page import figures
from common.page.card import stated_licence
from common.page.export_words import length_words, split_words, too_long_words
from common.page.figures import Facts, verdict_word
from common.page.markdown import count, number, percent, report_block, say, shown
from common.page.rows import Row
from common.turns import BUCKETS, DEFEAT_MIN, FINAL_MIN

MOST_STEPS = 5
ENOUGH_LABELS = 60  # the page's own batch: its share of final/ is then known to some 10 points
TURNS_TO_READ = 3


def verdict(facts: Facts) -> str:
    """Say the verdict, and whether it is of this run."""
    duel = facts.duel
    word = verdict_word(duel)
    stale = figures.stale_reason(facts)
    return report_block(
        "verdict",
        opponent=facts.opponent,
        word=word,
        trial=say("trial", turns=count(len(facts.rows), "scored turn")) if facts.limit else "",
        verdict=verdict_words(facts) if duel else say("no_duel"),
        stale=say("stale", why=shown(stale)) if stale else "",
    )


def verdict_words(facts: Facts) -> str:
    """Return the verdict in a sentence or two, with the turns that it rests on."""
    duel = facts.duel
    word = verdict_word(duel)
    rests = ""
    if facts.stops_early:
        answered = (duel["turns"] or {}).get("answered")
        rests = say("rests_on", turns=number(duel.get("turns_counted")), all=number(answered))
    return say(
        "duel",
        word=word.capitalize(),
        score=number(duel.get("mean_score")),
        opponent=facts.opponent,
        why=shown(str(duel["why"]).removeprefix(f"{word}: "), 600),
        rests=rests,
    )


# ------------------------------------------------------------------------------------ what is next


def next_steps(facts: Facts) -> str:
    """List what to do next, the first thing first."""
    steps = []
    command = figures.next_command(facts)
    if command:
        steps.append(say("next_unfinished", command=command))
    disputed = most_disputed(facts)[:TURNS_TO_READ]
    if disputed:
        steps.append(say("next_read", turns=", ".join(row.link for row in disputed)))
    if facts.scored and (not facts.labels or facts.labels.labels < ENOUGH_LABELS):
        steps.append(say("next_label"))
    look = facts.duel.get("second_look") or {}
    if facts.buckets["final"] and not (look.get("turns") or look.get("read")):
        steps.append(say("next_confirm_run" if facts.config.confirm.models else "next_confirm"))
    if facts.export and facts.export.all_rows:
        if stated_licence()["license"] == "unknown":
            steps.append(say("next_licence"))
        steps.append(say("next_train", length=facts.export.fitting_length))
    listed = [f"{place}. {step}" for place, step in enumerate(steps[:MOST_STEPS], 1)]
    return report_block("next", steps="\n".join(listed)) if steps else ""


def most_disputed(facts: Facts) -> list[Row]:
    """Return the turns on which the judges are apart, the furthest first."""
    apart = [row for row in facts.parsed if row.spread]
    return sorted(apart, key=lambda row: (-row.spread, natural_key(row.stem)))


# -------------------------------------------------------------------------------------- what it is


def results(facts: Facts) -> str:
    """Say in a line each what lies in the buckets and in export/, and how long its rows are."""
    if not facts.scored:
        return report_block("no_scores")
    buckets = []
    for name in BUCKETS:
        share = percent(facts.buckets[name], len(facts.scored))
        buckets.append(f"[{name}/](../{name}) {facts.buckets[name]:,} ({share})")
    lines = [say("buckets", buckets=", ".join(buckets), final=FINAL_MIN, defeat=DEFEAT_MIN)]
    export = facts.export
    if export:
        exported = say(
            "exported",
            rows=count(len(export.all_rows), "row"),
            duplicates=count(export.duplicates, "near-duplicate"),
            held_back=say("held_back", turns=f"{export.held_back:,}") if export.held_back else "",
            too_long=too_long_words(export),
        )
        lines.append(f"{exported} {split_words(export)}")
    if export and export.all_rows:
        lines.append(say("row_lengths", lengths=length_words(export)))
    listed = "\n".join(f"- {line.strip()}" for line in lines)
    return report_block("results", lines=listed, histogram=histogram(facts.scored))


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
