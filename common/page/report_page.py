"""report/report.md: its text is the template report.md, its figures and tables are made here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from common.files import natural_key
from common.page import figures
from common.page.card import export_text, stated_licence
from common.page.figures import NEXT_STEP, Facts, mean_score, verdict_word
from common.page.markdown import NOTHING, Markdown, fill, shown, table, written
from common.page.rows import Row
from common.page.turns_data import MOST_TURNS
from common.replies.protocol import bash_blocks
from common.turns import BUCKETS, DEFEAT_MIN, FINAL_MIN, METRICS, Status

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
MANY_IDENTICAL = 0.1  # of the parsed turns


def report_page(facts: Facts) -> str:
    """Return report.md, for a reader in a hurry."""
    export = export_text(facts.export) if facts.export else ""
    text = fill(
        "report.md",
        facts=facts,
        export=Markdown(export.replace("\n", "\n  ")),
        **first_screen(facts),
        **numbers(facts),
        **second_look_and_labels(facts),
        **judges_and_groups(facts),
        **unfinished(facts),
        **turns(facts),
    )
    return f"{text}\n"


# ------------------------------------------------------------------------------------ first screen


def first_screen(facts: Facts) -> dict:
    """Return what the verdict, the next steps and the results are told with."""
    duel = facts.duel
    verdict = verdict_word(duel)
    command = figures.next_command(facts)
    look = duel.get("second_look") or {}
    has_rows = facts.export is not None and bool(facts.export.all_rows)
    labels = facts.labels.labels if facts.labels else 0
    buckets = []
    for name in BUCKETS if facts.scored else ():
        share = written(facts.buckets[name] / len(facts.scored), "%")
        buckets.append(Markdown(f"[{name}/](../{name}) {facts.buckets[name]:,} ({share})"))
    return {
        "rows": len(facts.rows),
        "verdict": verdict,
        "word": verdict.capitalize(),
        "why": str(duel.get("why")).removeprefix(f"{verdict}: "),
        "turns_counted": duel.get("turns_counted") if facts.stops_early else None,
        "stale": figures.stale_reason(facts),
        "command": Markdown(command),
        "to_read": [row.link for row in figures.most_disputed(facts)[:TURNS_TO_READ]],
        "label": bool(facts.scored) and labels < ENOUGH_LABELS,
        "confirm": facts.buckets["final"] > 0 and not (look.get("turns") or look.get("read")),
        "state_licence": has_rows and stated_licence()["license"] == "unknown",
        "train_length": facts.export.fitting_length if has_rows and not command else None,
        "points": points(facts),
        "buckets": buckets,
        "final_min": FINAL_MIN,
        "defeat_min": DEFEAT_MIN,
        "histogram": histogram(facts.scored),
    }


def points(facts: Facts) -> Markdown:
    """Return whether to trust the run and what to change: only what its figures give reason for."""
    duel = facts.duel
    judges = duel.get("judges") or {}

    def figure(*keys: str) -> float:
        """Return a figure of the duel; NaN, which no comparison holds for, where there is none."""
        value = duel
        for key in keys:
            value = (value or {}).get(key)
        return math.nan if value is None else value

    def judges_with(key: str, is_odd: Callable[[float], bool]) -> dict[str, float]:
        values = {name: figure("judges", name, key) for name in judges}
        return {name: value for name, value in values.items() if is_odd(value)}

    def some(rows: list[Row]) -> dict | None:
        return {"turns": len(rows), "example": rows[0]} if rows else None

    deciding = {}
    for name, without in (duel.get("leave_one_out") or {}).items():
        if without.get("accepted") != duel.get("accepted"):
            deciding[name] = verdict_word(without)
    leaning = (judges.get(facts.generator) or {}).get("contrast") or {}
    low, high = leaning.get("interval") or (0, 0)
    slope = abs(figure("equal_length", "per_doubling"))
    instances = len({row.instance_id for row in facts.parsed})
    leaking = [row for row in facts.parsed if row.bucket == "final" and row.leaks.get("challenger")]
    return fill(
        "points.md",
        duel=duel,
        unreadable=judges_with("parse_rate", lambda rate: rate < LOW_PARSE_RATE),
        unsteady=judges_with("position_consistency", lambda rate: rate < LOW_CONSISTENCY),
        biased=judges_with("pull", lambda bias: abs(bias) > STRONG_POSITION_BIAS),
        deciding=deciding,
        generator=facts.generator,
        leaning=None if low <= 0 <= high else leaning,
        low_agreement=figure("agreement", "value") < LOW_AGREEMENT,
        least_agreement=LOW_AGREEMENT,
        fails_by_repo=bool(duel.get("accepted")) and figure("lcb_by_repo") <= 0,
        bound_by_repo=50 + figure("lcb_by_repo"),
        length_tells=slope > LENGTH_ERRORS * figure("equal_length", "per_doubling_se"),
        few_parsed=figure("parsed_frac") < LOW_PARSE_RATE,
        few_instances=0 < instances < FEW_INSTANCES,
        instances=instances,
        enough_instances=FEW_INSTANCES,
        many_identical=figure("turns", "identical") > MANY_IDENTICAL * len(facts.parsed),
        flagged=some([row for row in facts.rows if row.flags]),
        leaking=some(leaking),
        held_back=some([row for row in facts.rows if row.held_back]),
        apart=len(facts.labels.differences) or None if facts.labels else None,
    )


def histogram(rows: list[Row]) -> Markdown | None:
    """Return the number of turns by range of the score that decides, a line at each threshold."""
    if not rows:
        return None
    edges = [100, 90, FINAL_MIN, 70, DEFEAT_MIN, 60, 50, 40, 30, 20, 10, 0]
    ranges = list(zip(edges[1:], edges))
    scores = [round(row.deciding_score, 9) for row in rows]  # 57.99999999999999 is 58
    counts = {}
    for low, high in ranges:
        counts[low] = sum(low <= score < high or score == high == 100 for score in scores)
    marks = {FINAL_MIN: "final above", DEFEAT_MIN: "refined above, defeat below"}
    lines = ["```text", "score        turns"]
    for low, high in ranges:
        bar = "█" * round(30 * counts[low] / max(counts.values())) or ("▏" if counts[low] else "")
        lines.append(f"{low:>3} to {high:<3}  {counts[low]:>6}  {bar}".rstrip())
        if low in marks:
            lines.append(f"----- {low} --- {marks[low]} ".ljust(50, "-"))
    return Markdown("\n".join([*lines, "```"]))


# ------------------------------------------------------------------------------ scores and spending


def numbers(facts: Facts) -> dict:
    """Return the figures of the whole run."""
    duel = facts.duel
    alpha = duel.get("alpha")
    bound = duel.get("lcb_by_repo")
    saves = (duel.get("stop_early") or {}).get("saves")
    full_share = facts.config.judge.full_share
    others = [status for status in Status if status != Status.PARSED and facts.statuses[status]]
    return {
        "answered": sum(row.path is not None for row in facts.rows),
        "parsed": len(facts.parsed),
        "not_parsed": {str(status): facts.statuses[status] for status in others},
        "instances": len({row.instance_id for row in facts.parsed}),
        "repos": len({row.repo for row in facts.parsed}),
        "level": 100 - 200 * alpha if alpha else None,
        "interval": duel.get("interval") or [None],
        "bound_by_repo": None if bound is None else 50 + bound,
        "saves": None if saves is None else saves * (1 - full_share),
        "full_share": full_share,
        "dataset": figures.dataset(facts.plan),
        "spent": spent(facts),
    }


def spent(facts: Facts) -> Markdown | None:
    """Return replies, tokens and cost of each writer and judge, and of all together."""
    rows = []
    all_metas = []
    for side in ("king", "challenger"):
        metas = [row.meta[side] for row in facts.rows if row.meta.get(side)]
        if side == "challenger":
            metas += [old for row in facts.rows for old in row.meta.get("retired") or []]
        all_metas += metas
        names = ", ".join(figures.writers(facts.rows, side))
        rows.append((f"{side} by {names or NOTHING}", len(metas), *figures.bill(metas)))
    pairs = [pair for row in facts.rows for pair in row.answered.items()]
    bills = {}
    for judge, judged in (facts.duel.get("judges") or {}).items():
        (name,) = figures.model_names([(judge, ""), *(pair for pair in pairs if pair[0] == judge)])
        bills[f"judge {name}"] = judged
    bills |= facts.duel.get("looks") or {}
    bills.pop("first look", None)  # that is the judges
    for name, judged in bills.items():
        rows.append((name, judged.get("calls") or 0, *figures.bill([judged])))
    all_metas += bills.values()
    rows.append(("together", sum(row[1] for row in rows), *figures.bill(all_metas)))
    return table("model | replies # | tokens in # | tokens out # | cost #", rows)


def second_look_and_labels(facts: Facts) -> dict:
    """Return what the second look, the control and a person's labels say of the first look."""
    before = [row for row in facts.scored if row.score >= FINAL_MIN]
    after = [row for row in facts.scored if row.passes]
    cost = (facts.duel.get("looks") or {}).get("second look")
    labels = facts.labels
    links = {row.stem: row.link for row in facts.rows}
    apart = []
    for stem, preferred, score in labels.differences if labels else ():
        apart.append(f"- {links[stem]}: you {preferred}, the panel {written(score)}")
    return {
        "look": facts.duel.get("second_look"),
        "before": {"turns": len(before), "mean": mean_score(before)},
        "after": {"turns": len(after), "mean": mean_score(after, "deciding_score")},
        "look_cost": figures.bill([cost] if cost else [])[2],
        "reader": figures.readers_test(facts),
        "control": figures.control_split(facts),
        "correlations": {"the panel": labels.panel, **labels.judges} if labels else None,
        "not_worse": labels.not_worse / labels.final if labels and labels.final else math.nan,
        "apart": Markdown("\n".join(apart)),
    }


# --------------------------------------------------------------------------------- judges, metrics


def judges_and_groups(facts: Facts) -> dict:
    """Return the judges beside each other, the scores by metric and style, and the leak audit."""
    duel = facts.duel
    judges = []
    for judge, of in (duel.get("judges") or {}).items():
        without = (duel.get("leave_one_out") or {}).get(judge) or {}
        contrast = of.get("contrast") or {}
        above = f"{written(contrast.get('mean'), '+.1f')} ({written(contrast.get('interval'))})"
        rest = f"{written(without.get('mean_score'))}, {verdict_word(without)}"
        judges.append(
            (
                judge + (" (the writer)" if judge == facts.generator else ""),
                of.get("score"),
                Markdown(above if contrast else NOTHING),
                written(of.get("parse_rate"), "%"),
                written(of.get("position_consistency"), "%"),
                written(of.get("pull"), "+.2f"),
                written(of.get("agreement"), ".2f"),
                rest if without else NOTHING,
            )
        )
    columns = {name: [row.metrics.get(name) for row in facts.base] for name in METRICS}
    for style in sorted({row.style for row in facts.base}):
        scores = [row.score if row.style == style else None for row in facts.base]
        columns[f"style {style}"] = scores
    groups = []
    for name, of in figures.means(columns, facts.base, facts.config).items():
        bar = "█" * round(of["value"] / 5)
        groups.append((name, of["turns"], of["value"], written(of["interval"]), bar))
    refused: Counter = Counter()
    for row in facts.rows:
        counts = row.meta.get("challenger", {}).get("rejected")
        if isinstance(counts, dict):
            refused.update({kind: n for kind, n in counts.items() if isinstance(n, int) and n})
    refused.pop("protocol", None)  # no leak
    return {
        "judges": table(
            "judge | score # | above the others # | parsed # | same in both orders # | "
            "position bias # | agreement # | panel without it",
            judges,
        ),
        "interval_alpha": (duel.get("agreement") or {}).get("interval_alpha", math.nan),
        "groups": table("what | turns # | mean score # | interval # | of 100", groups),
        "challenger_audit": figures.leak_audit(facts.rows, "challenger"),
        "king_audit": figures.leak_audit(facts.rows, "king"),
        "refused": refused,
    }


# ---------------------------------------------------------------------- what is left, and the turns


def unfinished(facts: Facts) -> dict:
    """Return what is not done and what to run next."""
    rows = []
    out = facts.left_out.stems()
    settled = out | {row.stem for row in facts.rows if row.path}
    waiting = [stem for stem in facts.left_out.instances if stem not in settled]
    if waiting and not facts.limit:
        rows.append(("no king", len(waiting), waiting[0], Markdown("`python king.py`")))
    for status, command in NEXT_STEP.items():
        turns = [row for row in facts.rows if row.status == status]
        if turns:
            why = f": {shown(turns[0].why)}" if turns[0].why else ""
            step = Markdown(f"`{command}`") if command.startswith("python") else command
            rows.append((status, len(turns), Markdown(turns[0].link + why), step))
    failures = []
    for (stage, kind), items in figures.failed_items().items():
        example = f"{items[0].get('item')}: {items[0].get('reason')}"
        failures.append((stage, kind, len(items), shown(example, 160)))
    return {
        "not_done": table("turns | number # | such as | run", rows),
        "failures": table("stage | what | number # | such as", failures),
        "left_out": len(out),
        "passed_over": len(facts.left_out.sampling),
    }


def turns(facts: Facts) -> dict:
    """Return the best, the worst, the most disputed turns, and the table of all."""
    best_first = sorted(facts.scored, key=lambda row: (-row.deciding_score, natural_key(row.stem)))
    some = min(TURNS_SHOWN, len(best_first) // 3 or 1)
    listed = facts.rows[:MOST_TURNS]
    more = len(facts.rows) - len(listed)
    lines = []
    for row in sorted(listed, key=lambda row: -row.deciding_score if row.bucket else 1):
        metrics = [written(row.metrics.get(metric), ".0f") for metric in METRICS]
        lines.append((score_words(row), row.link, row.style or NOTHING, *metrics))
    headers = " | ".join(["score #", "file", "style", *(f"{metric} #" for metric in METRICS)])
    return {
        "disputed": reason_table(figures.most_disputed(facts)[:some]),
        "best": reason_table(best_first[:some]),
        "worst": reason_table(best_first[::-1][:some]),
        "listed": len(listed) if more else None,
        "more": more,
        "stopped": facts.statuses[Status.STOPPED] > 0,
        "all_turns": table(headers, lines),
    }


def score_words(row: Row) -> str:
    """Return a score with what the second look made of it, or what stopping it left open."""
    if not row.bucket:
        return str(row.status)
    words = written(row.score)
    if row.bounds:
        words += f" ({row.bounds[0]:.0f}–{row.bounds[1]:.0f})"
    if row.score_confirmed is not None:
        words += f" → {written(row.score_confirmed)}"
    return words


def reason_table(rows: list[Row]) -> Markdown | None:
    """Return the turns with the challenger's command and one judge's reason."""
    lines = []
    for row in rows:
        command = shown(" ; ".join(bash_blocks(row.challenger)), 90)
        apart = written(row.spread, ".0f")
        lines.append((score_words(row), row.link, apart, command, shown(row.reason, 160)))
    return table("score # | turn | judges apart # | challenger's command | a judge's reason", lines)
