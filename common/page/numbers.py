"""report.md, the numbers: the scores and what they hide, a second look, control, labels, costs.

What the sections say stands in report.md and sentences.md beside this file.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.page import figures
from common.page.control import control_split
from common.page.figures import NEXT_STEP, Facts, Mean, mean, spent
from common.page.labels import clopper_pearson
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
from common.turns import FINAL_MIN, OPPONENT, Status


def numbers(facts: Facts) -> str:
    """Give the figures of the whole run."""
    duel = facts.duel
    rest = [
        f", {facts.statuses[status]:,} {status}" for status in NEXT_STEP if facts.statuses[status]
    ]
    stopped = facts.statuses[Status.STOPPED]
    if stopped:
        rest.insert(0, f", {stopped:,} stopped early")
    answered = sum(row.path is not None for row in facts.rows)
    rows = [
        ("turns", f"{answered:,} answered, **{len(facts.parsed):,} parsed**{''.join(rest)}"),
        ("spread over", spread_words(facts)),
        ("mean score", mean_score_words(duel)),
        ("the same, repos resampled", by_repo_words(duel)),
        (f"at equal length to the {facts.opponent}", equal_length_words(duel)),
        ("what was kept, judged again", kept_again_words(duel)),
        ("stopping early", stop_early_words(facts)),
        ("dataset", dataset_words(facts.plan)),
        ("sample", sample_words(facts.plan.get("summary"))),
        ("judged at", shown(duel.get("made_at") or NOTHING)),
    ]
    told = [(what, words) for what, words in rows if words and words != NOTHING]
    return report_block("numbers", numbers=table("what | figure", told), spent=spent_table(facts))


def spread_words(facts: Facts) -> str:
    """Return over how many instances and repos the parsed turns are spread."""
    instances = count(len({row.instance_id for row in facts.parsed}), "instance")
    repos = count(len({row.repo for row in facts.parsed}), "repo")
    return f"{instances} in {repos} (parsed turns)"


def mean_score_words(duel: dict) -> str:
    """Return the duel's mean score with its interval."""
    if duel.get("mean_score") is None:
        return NOTHING
    level = f"{100 - 200 * duel['alpha']:g} % " if duel.get("alpha") else ""
    interval = span(duel.get("interval"))
    return say("mean_score", score=number(duel["mean_score"]), level=level, interval=interval)


def by_repo_words(duel: dict) -> str:
    """Return the bound that allows for turns of one repo being alike."""
    bound = duel.get("lcb_by_repo")
    return "" if bound is None else say("by_repo", bound=number(50 + bound))


def equal_length_words(duel: dict) -> str:
    """Return the score at equal length, with what length is worth."""
    equal = duel.get("equal_length")
    if not equal:
        return ""
    return say(
        "equal_length",
        score=number(equal.get("mean_score")),
        slope=f"{equal['per_doubling']:+.1f}",
        error=number(equal.get("per_doubling_se")),
    )


def kept_again_words(duel: dict) -> str:
    """Return what the kept turns would score without the luck that helped to keep them."""
    kept = duel.get("kept_again")
    if not kept:
        return ""
    return say(
        "kept_again",
        kept=count(kept["kept"], "turn"),
        first=number(kept["kept_mean"]),
        again=number(kept["kept_again"]),
    )


def stop_early_words(facts: Facts) -> str:
    """Return what stopping early saves, or would."""
    early = facts.duel.get("stop_early") or {}
    if early.get("saves") is None:
        return ""
    full_share = facts.config.judge.full_share
    saves = percent(early["saves"] * (1 - full_share))
    name = "stop_early_on" if facts.stops_early else "stop_early_off"
    return say(name, saves=saves, full_share=f"{full_share:g}")


def dataset_words(plan: dict) -> str:
    """Return where the turns were sampled from."""
    if not plan:
        return say("no_plan")
    name = figures.dataset_name(plan)
    revision = plan.get("revision") or "not known"
    seed = plan.get("seed", "not known")
    return shown(say("dataset", name=name, revision=revision, seed=seed))


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


# ------------------------------------------------------------------------------------------- costs


def spent_table(facts: Facts) -> str:
    """Return replies, tokens and cost of each writer and judge, and of all together."""
    rows = []
    metas = []
    replies = 0
    for side in ("king", "challenger"):
        written = figures.side_metas(facts.rows, side)
        retired = []
        if side == "challenger":
            retired = [old for row in facts.rows for old in row.meta.get("retired") or []]
        metas += [*written, *retired]
        n = len(written) + len(retired)
        replies += n
        rows.append((f"{side} by {model_words(written)}", n, *spent([*written, *retired]).cells))
    others = figures.answered_for(facts.rows)
    bills = {}
    for judge, bill in (facts.duel.get("judges") or {}).items():
        bills[f"judge {shown(judge)}{answered_words(others[judge])}"] = bill
    for name, bill in (facts.duel.get("looks") or {}).items():
        if name != "first look":  # that is the judges, above
            bills[name] = bill
    for name, bill in bills.items():
        calls = bill.get("calls") or 0
        replies += calls
        metas.append(bill)
        rows.append((name, calls, *spent([bill]).cells))
    rows.append(("together", replies, *spent(metas).cells))
    return table("model | replies # | tokens in # | tokens out # | cost #", rows)


def model_words(metas: list[dict]) -> str:
    """Return the models that were asked, and who answered in their name where it was another."""
    words = []
    for asked, answered in figures.models_of(metas):
        words.append(shown(asked) + answered_words([answered] if answered else []))
    return ", ".join(words) or NOTHING


def answered_words(others: Iterable[str]) -> str:
    """Return who answered in a model's name; "" when it was the model itself."""
    names = ", ".join(map(shown, sorted(others)))
    return f" (answered by: {names})" if names else ""


# --------------------------------------------------------------------- second look, control, labels


def second_look(facts: Facts) -> str:
    """Say what the second look changed, and what the reader's test found."""
    look = facts.duel.get("second_look")
    if not look:
        return ""
    before = [row.score for row in facts.scored if row.score >= FINAL_MIN]
    after = [row.deciding_score for row in facts.scored if row.passes]
    cost = (facts.duel.get("looks") or {}).get("second look")
    return report_block(
        "second_look",
        reader=reader_words(facts, look),
        models=", ".join(map(shown, look["models"])),
        low=number(look["band"][0]),
        high=number(look["band"][1]),
        turns=count(look["turns"], "turn"),
        first=number(look["mean_first"]),
        confirmed=number(look["mean_confirmed"]),
        before=f"{len(before):,}",
        before_mean=number(mean(before)),
        after=f"{len(after):,}",
        after_mean=number(mean(after)),
        cost=spent([cost]).cost if cost else NOTHING,
    )


def reader_words(facts: Facts, look: dict) -> str:
    """Set both sides' rates of the reader's test beside each other."""
    read = look.get("read")
    if not read:
        return ""
    rates = []
    for side in ("challenger", OPPONENT[facts.mode]):
        n = look["named"].get(side) or 0
        low, high = clopper_pearson(n, read)
        rates.append(f"{n:,} ({percent(n, read)}, {percent(low)} to {percent(high)})")
    return say(
        "reader",
        model=shown(look["reader"]),
        turns=count(read, "turn"),
        challenger=rates[0],
        opponent=facts.opponent,
        king=rates[1],
    )


def control(facts: Facts) -> str:
    """Split the margin: so much by the better prompt, so much by the record."""
    found = control_split(facts)
    if not found:
        return ""
    words = {name: mean_words(of) for name, of in found.items()}
    return report_block("control", turns=count(found["whole"].turns, "turn"), **words)


def mean_words(of: Mean) -> str:
    """Return a difference with its sign and its interval."""
    return f"{of.value:+.1f} ({span(of.bounds)})"


def labels(facts: Facts) -> str:
    """Compare the panel with the person who labelled some turns."""
    found = facts.labels
    if not found:
        return ""
    low, high = found.interval
    correlations = [("the panel", number(found.panel, 2))]
    correlations += [(shown(name), number(value, 2)) for name, value in found.judges.items()]
    rows = {row.stem: row for row in facts.rows}
    apart = []
    for stem, preferred, score in found.differences:
        apart.append(
            say("label_apart", turn=rows[stem].link, preferred=preferred, score=number(score))
        )
    return report_block(
        "labels",
        labels=count(found.labels, "label"),
        skipped=f"{found.skipped:,}",
        stale=f"{found.stale:,}",
        final=f"{found.final:,}",
        not_worse=f"{found.not_worse:,} ({percent(found.not_worse, found.final)})",
        interval=f"{percent(low)} to {percent(high)}",
        correlations=", ".join(f"{name} {value}" for name, value in correlations),
        apart="\n".join(f"- {line}" for line in apart),
    )
