"""score/_duel.json: the whole duel, made from what lies in score/, and how it is told."""

from __future__ import annotations

from collections import Counter

import numpy as np

from common.config import METRICS
from common.duel import statistics
from common.duel.verdicts import FIRST_LOOK, READING, SECOND_LOOK, Panel
from common.turns import OPPONENT, ORDERS, SIDES, half_points

USAGE = ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
# Of a judge's answers; with fewer it would be asked again mostly in vain, and empties final/.
FEWEST_READABLE = 0.5
LOOKS = {FIRST_LOOK: "first look", SECOND_LOOK: "second look", READING: "reader's test"}


def new_table(turns: int, judges: int) -> np.ndarray:
    """Return a table with a row for each turn, none judged yet; `points` are half-points."""
    columns = [("instance", object), ("identical", bool), ("score", float)]
    columns += [("score_confirmed", float), ("named", object)]  # second look, reader's test
    columns.append(("points", np.int8, (judges, len(ORDERS), len(METRICS))))
    table = np.zeros(turns, columns)
    table["score_confirmed"] = np.nan
    table["named"] = None
    table["points"] = statistics.MISSING
    return table


def enter_score(row: np.void, score: dict, names: list[str], bills: dict[str, Counter]) -> None:
    """Enter a turn's score file into its row; each verdict that counts goes on a bill."""
    row["score"] = score["score"]
    row["score_confirmed"] = score.get("score_confirmed")
    row["named"] = score.get("reader")
    points = row["points"]
    if row["identical"]:
        points[:] = 1
    on_file = {verdict["key"]: verdict for verdict in score["verdicts"]}
    for key in score["counted"]:
        verdict = on_file[key]
        judge = verdict["judge"]
        points[names.index(judge), ORDERS.index(verdict["order"])] = half_points(verdict)
        bill = bills[judge]
        bill["calls"] += 1
        bill["readable"] += verdict["calls"] is not None
        if verdict["cost_usd"] is not None:
            bill["priced"] += 1
            bill["usd"] += verdict["cost_usd"]
        usage = verdict.get("usage_all_tries") or verdict["usage"] or {}
        for name, count in usage.items():
            bill[name] += count


def spending(bill: Counter) -> dict:
    """Return calls, parse rate, usage and dollars; dollars are null when no price is known."""
    return {
        "calls": bill["calls"],
        "parse_rate": bill["readable"] / bill["calls"] if bill["calls"] else None,
        "usage": {name: bill[name] for name in USAGE},
        # What a run judged is added last: without its last bits the sum is that of a rerun.
        "cost_usd": round(bill["usd"], 9) if bill["priced"] else None,
    }


def make_duel(table: np.ndarray, bills: dict, verdicts: dict, panel: Panel, mode: int) -> dict:
    """Return the content of score/_duel.json; `verdicts` are the gate's."""
    points = table["points"]
    asked = points[~table["identical"]]
    counted = points[(points != statistics.MISSING).all(axis=(1, 2, 3))]  # as in the gate
    parsed = points[(points >= 0).all(axis=(1, 2, 3))]
    whole = verdicts.pop("")
    if unfinished := len(table) - len(counted):
        whole["why"] += f"; {unfinished} turns are unfinished"
    metrics = {name: statistics.mean_score(counted[..., at]) for at, name in enumerate(METRICS)}
    judges = {}
    for place, name in enumerate(panel.names):
        score = statistics.mean_score(points[:, place])
        cost = spending(bills[name])
        judges[name] = {"score": score, **statistics.habits(asked[:, place]), **cost}
    second_look = None
    if panel.confirm:
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
            "named": {side: sum(side in named for named in readings) for side in SIDES},
        }
    return {
        "mode": mode,
        "opponent": SIDES[OPPONENT[mode]],
        **whole,
        "alpha": panel.config.duel.alpha,
        "turns": {
            "answered": len(table),
            "parsed": len(parsed),
            "parse_fail": len(counted) - len(parsed),
            "unfinished": unfinished,
            "identical": int(table["identical"].sum()),
        },
        "metrics": metrics if None not in metrics.values() else None,
        "judges": judges,
        "agreement": {
            "name": "Krippendorff's alpha (nominal, mean of the metrics' own)",
            "value": statistics.agreement(asked),
        },
        "leave_one_out": verdicts,
        "without_generator": verdicts.get(panel.config.generate.model),
        "kept_again": statistics.kept_again(parsed),
        "second_look": second_look,
        **spending(sum(bills.values(), Counter())),
        "config": {
            "judges": {call.model: call.sampling() for call in panel.judges},
            "duel": vars(panel.config.duel),
            "generator": panel.config.generate.model,
        },
    }


def summary(duel: dict) -> tuple[list[str], list[str]]:
    """Return the duel in a few lines, and a line on each judge who has to be changed first."""
    unreadable = []
    drop = "Drop it from [judge] models in chain.toml, which costs nothing"
    if not duel["parse_rate"]:  # of all judges
        drop = "Name another under [judge] models in chain.toml"
    for name, judge in duel["judges"].items():
        if judge["calls"] and judge["parse_rate"] < FEWEST_READABLE:
            read = round(judge["calls"] * judge["parse_rate"])
            words = f"{read} of {judge['calls']} answers could be read. {drop}"
            line = f"judge   {name}: {words}; or mend it, then --retry-failed asks it again"
            unreadable.append(line)
    turns = duel["turns"]
    lines = [f"duel    challenger against {duel['opponent']}: {duel['why']}"]
    if duel["interval"]:
        low, high = duel["interval"]
        level = f"{1 - 2 * duel['alpha']:.0%} interval {low:.2f} to {high:.2f}"
        rests = f"{duel['turns_counted']} of {turns['answered']} turns"
        lines.append(f"score   {duel['mean_score']:.2f}, {level}, by {rests}")
    counts = [f"{count} {name.replace('_', '-')}" for name, count in turns.items()]
    lines.append(f"turns   {', '.join(counts)}")
    return lines, unreadable
