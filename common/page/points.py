"""report.md, the points to look at: whether to trust the run and what to change.

What they say stands in sentences.md beside this file.
"""

from __future__ import annotations

from collections.abc import Iterator

from common.page.figures import Facts, verdict_word
from common.page.markdown import count, number, percent, report_block, say, shown, span

# When a point is raised. Chosen to speak up early: a point asks for a look, no more.
FEW_INSTANCES = 20  # below, intervals over resampled instances are rough
LOW_PARSE_RATE = 0.95
LOW_CONSISTENCY = 0.5  # GPT-4 in MT-Bench: 0.65; a coin among three calls: 0.33
STRONG_POSITION_BIAS = 0.15  # in one order alone, this accepts most duels between equals
# Simulated panels of alpha 0.48, 0.31 and 0.15 keep 2, 4 and 9 % of turns that are not worth it.
LOW_AGREEMENT = 0.4
LENGTH_ERRORS = 2  # of the slope by length, from 0
MANY_IDENTICAL = 0.1  # of the parsed turns


def points_to_look_at(facts: Facts) -> str:
    """Say whether to trust the run and what to change: only what its figures give reason for."""
    points = [
        *points_of_the_panel(facts.duel, facts.generator),
        *points_of_the_score(facts.duel),
        *points_of_the_turns(facts),
    ]
    listed = "\n".join(f"- {point}" for point in points)
    return report_block("points", points=listed or "Nothing in these figures stands out.")


def points_of_the_panel(duel: dict, generator: str | None) -> Iterator[str]:
    """Yield what stands out in the figures of the judges."""
    for judge, row in (duel.get("judges") or {}).items():
        name = shown(judge)
        rate = row.get("parse_rate")
        if rate is not None and rate < LOW_PARSE_RATE:
            yield say("unreadable_judge", judge=name, rate=percent(rate))
        steady = row.get("position_consistency")
        if steady is not None and steady < LOW_CONSISTENCY:
            yield say("unsteady_judge", judge=name, rate=percent(steady))
        bias = row.get("pull") or 0
        if abs(bias) > STRONG_POSITION_BIAS:
            side = "second" if bias > 0 else "first"
            yield say("biased_judge", judge=name, side=side, bias=f"{bias:+.2f}")
    for judge, without in (duel.get("leave_one_out") or {}).items():
        if without.get("accepted") != duel.get("accepted"):
            yield say("deciding_judge", judge=shown(judge), word=verdict_word(without))
    alone = duel.get("without_generator")
    if alone and alone.get("accepted") != duel.get("accepted"):
        yield say("deciding_generator", word=verdict_word(alone))
    own = ((duel.get("judges") or {}).get(generator) or {}).get("contrast") or {}
    interval = own.get("interval")
    if interval and not interval[0] <= 0 <= interval[1]:
        gap = f"{own['mean']:+.1f} ({span(interval)})"
        yield say("leaning_generator", judge=shown(generator), gap=gap)
    alpha = (duel.get("agreement") or {}).get("value")
    if alpha is not None and alpha < LOW_AGREEMENT:
        yield say("low_agreement", alpha=number(alpha, 2), least=LOW_AGREEMENT)


def points_of_the_score(duel: dict) -> Iterator[str]:
    """Yield what stands out in the score and what it rests on."""
    bound = duel.get("lcb_by_repo")
    if duel.get("accepted") and bound is not None and bound <= 0:
        yield say("bound_by_repo", bound=number(50 + bound))
    equal = duel.get("equal_length")
    if equal and abs(equal["per_doubling"]) > LENGTH_ERRORS * equal["per_doubling_se"]:
        slope = f"{equal['per_doubling']:+.1f}"
        yield say("length", slope=slope, score=number(equal["mean_score"]))
    fraction = duel.get("parsed_frac")
    if fraction is not None and fraction < LOW_PARSE_RATE:
        yield say("few_parsed", share=percent(fraction))


def points_of_the_turns(facts: Facts) -> Iterator[str]:
    """Yield what stands out in the turns, with one to look at."""
    parsed = facts.parsed
    instances = len({row.instance_id for row in parsed})
    if 0 < instances < FEW_INSTANCES:
        yield say("few_instances", instances=count(instances, "instance"), few=FEW_INSTANCES)
    identical = (facts.duel.get("turns") or {}).get("identical") or 0
    if parsed and identical > MANY_IDENTICAL * len(parsed):
        yield say("identical", turns=count(identical, "turn"))
    flagged = [row for row in facts.rows if row.flags]
    if flagged:
        flags = shown(", ".join(map(str, flagged[0].flags)))
        yield say(
            "flagged", turns=count(len(flagged), "turn"), example=flagged[0].link, flags=flags
        )
    leaking = [row for row in parsed if row.bucket == "final" and row.leaks["challenger"]]
    if leaking:
        yield say("leaks_in_final", turns=count(len(leaking), "turn"), example=leaking[0].link)
    held_back = [row for row in facts.rows if row.held_back]
    if held_back:
        turns = count(len(held_back), "turn")
        why = shown(held_back[0].unfit)
        yield say("held_back_turns", turns=turns, example=held_back[0].link, why=why)
    if facts.labels and facts.labels.differences:
        yield say("labels_apart", turns=count(len(facts.labels.differences), "labelled turn"))
