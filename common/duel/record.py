"""score/_duel.json: the whole duel, made from what lies in score/, and how it is told."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from common.config import METRICS
from common.duel import statistics
from common.duel.verdicts import FIRST_LOOK, READING, SCORE, SECOND_LOOK, Panel
from common.files import BadFile
from common.turns import OPPONENT, ORDERS, SIDES, Status, half_points, read_score

MISSING = -2  # half-points of a verdict whose call has not returned; -1 of one that cannot be read
USAGE = ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
LOOKS = {FIRST_LOOK: "first look", SECOND_LOOK: "second look", READING: "reader's test"}


# -------------------------------------------------------------------------------------- all turns


def new_table(turns: int, judges: int) -> np.ndarray:
    """Return a table with a row for each turn, none judged yet.

    may_stop: early, so that no mean may rest on it. reopened: was stopped, must be judged further,
    and is not yet. length_ratio: challenger's characters over the opponent's. score_confirmed: NaN
    without a second look. named: by the reader's test, a dict of sides, None without one.
    """
    columns = [(name, object) for name in ("stem", "instance", "repo", "status", "named")]
    columns += [(name, bool) for name in ("identical", "may_stop", "reopened")]
    columns += [(name, float) for name in ("length_ratio", "score", "score_confirmed")]
    columns.append(("points", np.int8, (judges, len(ORDERS), len(METRICS))))
    table = np.zeros(turns, columns)
    table[["instance", "repo", "status", "named"]] = ("", "", Status.UNFINISHED, None)
    table["score_confirmed"] = np.nan
    table["points"] = MISSING
    return table


def read_table(judged: dict[str, float], panel: Panel, mode: int) -> tuple[np.ndarray, dict]:
    """Return all turns with both replies (stem: length ratio) as a table, in the order of stems.

    With it comes what their verdicts that count have cost, by (look, judge), "" for all judges.
    """
    table = new_table(len(judged), len(panel.names))
    bills = defaultdict(Counter)
    for row, stem in zip(table, sorted(judged)):
        row["stem"] = stem
        row["length_ratio"] = judged[stem]
        row["may_stop"] = panel.may_stop(stem)
        try:
            score = read_score(SCORE / f"{stem}.json")
        except (FileNotFoundError, BadFile):
            continue
        if score["mode"] != mode:
            continue
        row["instance"] = score["instance_id"]
        row["repo"] = score["repo"] or score["instance_id"]
        row["status"] = score["status"]
        row["reopened"] = "reopened" in score
        row["identical"] = score["sha"]["challenger"] == score["sha"][OPPONENT[mode]]
        if row["identical"]:
            row["points"] = 1
        counted = {*score.get("counted", ()), *score.get("counted_confirmed", ())}
        for verdict in {verdict["key"]: verdict for verdict in score["verdicts"]}.values():
            look = verdict["look"]
            judge = verdict["judge"]
            if look == READING or verdict["key"] in counted:
                bills[look, judge].update(bill_of(verdict))
                bills[look, ""].update(bill_of(verdict))
                if look == FIRST_LOOK and judge in panel.names:
                    place = panel.names.index(judge), ORDERS.index(verdict["order"])
                    row["points"][place] = half_points(verdict)
        row["score"] = score["score"]
        row["score_confirmed"] = score.get("score_confirmed")
        row["named"] = score.get("reader")
    return table, bills


def bill_of(verdict: dict) -> dict[str, int]:
    """Return what one verdict cost, in whole numbers: nano-dollars, so that sums are exact."""
    cost_usd = verdict["cost_usd"]
    usage = verdict.get("usage_all_tries") or verdict["usage"] or {}
    return {
        "calls": 1,
        "readable": int(verdict["calls"] is not None),
        "priced": int(cost_usd is not None),
        "nano_usd": round((cost_usd or 0) * 1e9),
        **{name: usage.get(name) or 0 for name in USAGE},
    }


def spending(bill: Counter) -> dict:
    """Return calls, parse rate, usage and dollars; dollars are null when no price is known."""
    return {
        "calls": bill["calls"],
        "parse_rate": bill["readable"] / bill["calls"] if bill["calls"] else None,
        "usage": {name: bill[name] for name in USAGE},
        "cost_usd": bill["nano_usd"] / 1e9 if bill["priced"] else None,
    }


# --------------------------------------------------------------------------------------- the duel


def make_duel(table: np.ndarray, bills: dict, verdicts: dict, panel: Panel, mode: int) -> dict:
    """Return the content of score/_duel.json.

    verdicts: the gate's, of the whole panel by "", of that without a judge by the judge's name.
    """
    turns = {"answered": len(table)}
    for status in (Status.PARSED, Status.STOPPED, Status.PARSE_FAIL, Status.UNFINISHED):
        turns[status.name.lower()] = int((table["status"] == status).sum())
    turns["identical"] = int(table["identical"].sum())
    verdict = dict(verdicts[""])
    if turns["unfinished"]:
        verdict["why"] += f"; {turns['unfinished']} turns are unfinished"
    without = {name: found for name, found in verdicts.items() if name}
    duel = panel.config.duel
    settings = {"alpha": duel.alpha, "resamples": duel.resamples, "seed": duel.seed}

    base = table[~table["may_stop"]]
    asked = base[~base["identical"]]
    judges, agreement = statistics.judge_figures(
        asked["points"], asked["instance"], panel.names, settings
    )
    for place, name in enumerate(panel.names):
        score = statistics.percent_of(base["points"][:, place])
        judges[name] = {"score": score, **judges[name], **spending(bills[FIRST_LOOK, name])}
    looks = {what: spending(bills[look, ""]) for look, what in LOOKS.items()}
    of_metrics = [statistics.percent_of(points) for points in np.moveaxis(base["points"], -1, 0)]
    parsed = base[(base["points"] >= 0).all(axis=(1, 2, 3))]
    points = parsed["points"]
    scores = 50 * points.mean(axis=(1, 2, 3))
    again = table[~np.isnan(table["score_confirmed"])]
    readings = [named for named in table["named"] if named is not None]
    second_look = {
        "models": [call.model for call in panel.confirm],
        "band": panel.config.confirm.band,
        "turns": len(again),
        "mean_first": float(again["score"].mean()) if len(again) else None,
        "mean_confirmed": float(again["score_confirmed"].mean()) if len(again) else None,
        "reader": panel.reader.model if panel.reader else None,
        "read": len(readings),
        "named": {side: sum(side in reading for reading in readings) for side in SIDES},
    }
    length = statistics.at_equal_length(scores, parsed["length_ratio"], parsed["instance"])
    return {
        "mode": mode,
        "opponent": SIDES[OPPONENT[mode]],
        **verdict,
        "alpha": duel.alpha,
        "turns": turns,
        "metrics": dict(zip(METRICS, of_metrics)) if None not in of_metrics else None,
        "judges": judges,
        "agreement": agreement,
        "leave_one_out": without,
        "without_generator": without.get(panel.config.generate.model),
        "kept_again": statistics.kept_again(points, statistics.final_mask(points)),
        "equal_length": length,
        "stop_early": {
            "on": panel.config.judge.stop_early,
            "edge": panel.edge,
            "saves": statistics.stopping_saves(asked_in_full(table), panel.edge),
        },
        "second_look": second_look if panel.confirm else None,
        **looks[LOOKS[FIRST_LOOK]],
        "looks": {what: bill for what, bill in looks.items() if bill["calls"]},
        "config": {
            "judges": {call.model: call.sampling() for call in panel.judges},
            "duel": vars(duel),
            "generator": panel.config.generate.model,
        },
    }


def asked_in_full(table: np.ndarray) -> np.ndarray:
    """Return the half-points of the turns that the whole panel read, whatever they scored."""
    whole = (table["points"] >= 0).all(axis=(1, 2, 3))
    return table["points"][whole & ~table["identical"] & ~table["may_stop"]]


def summary(duel: dict) -> list[str]:
    """Return the duel in a few lines, for the tally."""
    turns = duel["turns"]
    lines = [f"duel    challenger against {duel['opponent']}: {duel['why']}"]
    if duel["interval"]:
        low, high = duel["interval"]
        level = f"{1 - 2 * duel['alpha']:.0%} interval {low:.2f} to {high:.2f}"
        rests = f"{duel['turns_counted']} of {turns['answered']} turns"
        lines.append(f"score   {duel['mean_score']:.2f}, {level}, by {rests}")
    counts = [f"{count} {name.replace('_', '-')}" for name, count in turns.items()]
    again = "; --retry-failed asks the parse-fails again" if turns["parse_fail"] else ""
    lines.append(f"turns   {', '.join(counts)}{again}")
    return lines


def outlook(table: np.ndarray, todo: list[str], panel: Panel) -> list[str]:
    """Return what a dry run says besides its calls; `todo` are the stems to ask for."""
    judge = panel.config.judge
    lines = []
    stopped = table["reopened"] | (table["status"] == Status.STOPPED)
    reopened = len(set(table["stem"][stopped]) & set(todo))
    if reopened:
        reach = f"they could still reach {panel.edge:g} points"
        why = reach if judge.stop_early else "stop_early is off"
        lines.append(f"{reopened} turns that had been stopped early are judged further: {why}.")
    points = asked_in_full(table)
    if len(points):
        told = "[judge] stop_early = true would save"
        if judge.stop_early:
            told = "These are the most: stop_early saves"
        saves = (1 - judge.full_share) * statistics.stopping_saves(points, panel.edge)
        rests = f"by the scores of the {len(points)} turns judged in full so far"
        lines.append(f"{told} about {saves:.0%} of a run's calls, {rests}.")
    return lines
