"""score/_duel.json: the whole duel, made from what lies in score/, and how it is told."""

from __future__ import annotations

from collections import Counter

import numpy as np

from common.config import METRICS
from common.duel import statistics
from common.duel.verdicts import FIRST_LOOK, READING, SECOND_LOOK, Panel, Turn
from common.turns import OPPONENT, ORDERS, SIDES, Status, half_points

USAGE = ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
# Of a judge's answers; with fewer it would be asked again mostly in vain, and empties final/.
FEWEST_READABLE = 0.5
LOOKS = {FIRST_LOOK: "first look", SECOND_LOOK: "second look", READING: "reader's test"}


def new_table(turns: int, judges: int) -> np.ndarray:
    """Return a table with a row for each turn, none judged yet.

    waiting: something of it is still to be asked for. length_ratio: challenger's characters over
    the opponent's. score_confirmed: NaN without a second look. named: by the reader's test, a dict
    of sides, None without one. points: half-points, of each turn (judges, orders, metrics).
    """
    columns = [(name, object) for name in ("stem", "instance", "repo", "status", "named")]
    columns += [(name, bool) for name in ("identical", "waiting")]
    columns += [(name, float) for name in ("length_ratio", "score", "score_confirmed")]
    columns.append(("points", np.int8, (judges, len(ORDERS), len(METRICS))))
    table = np.zeros(turns, columns)
    table[["instance", "repo", "status", "named"]] = ("", "", Status.UNFINISHED, None)
    table["score_confirmed"] = np.nan
    table["points"] = statistics.MISSING
    return table


def enter_turn(row: np.void, turn: Turn) -> None:
    """Enter into its row of the table what a turn is, before its verdicts."""
    row["stem"] = turn.stem
    row["instance"] = turn.answer["instance_id"]
    row["repo"] = str(turn.answer["meta"].get("repo") or turn.answer["instance_id"])
    row["length_ratio"] = len(turn.replies[0]) / len(turn.replies[1])
    row["identical"] = turn.identical


def enter_score(row: np.void, score: dict, names: list[str], bills: dict[tuple, Counter]) -> None:
    """Enter a turn's score file into its row, and what its verdicts that count cost into `bills`.

    bills: by (look, judge), for each look and judge a Counter.
    """
    row["status"] = score["status"]
    row["score"] = score["score"]
    row["score_confirmed"] = score.get("score_confirmed")
    row["named"] = score.get("reader")
    points = row["points"]
    if row["identical"]:
        points[:] = 1
    counted = {*score["counted"], *score.get("counted_confirmed", ())}
    for verdict in {verdict["key"]: verdict for verdict in score["verdicts"]}.values():
        look = verdict["look"]
        judge = verdict["judge"]
        if look != READING and verdict["key"] not in counted:
            continue  # of other texts, settings or another panel
        add_to_bill(bills[look, judge], verdict)
        if look == FIRST_LOOK:
            points[names.index(judge), ORDERS.index(verdict["order"])] = half_points(verdict)


def add_to_bill(bill: Counter, verdict: dict) -> None:
    """Add what one verdict cost, in whole numbers: nano-dollars, so that sums are exact."""
    usage = verdict.get("usage_all_tries") or verdict["usage"] or {}
    bill["calls"] += 1
    bill["readable"] += verdict["calls"] is not None
    if verdict["cost_usd"] is not None:
        bill["priced"] += 1
        bill["nano_usd"] += round(verdict["cost_usd"] * 1e9)
    for name in USAGE:
        bill[name] += usage.get(name) or 0


def spending(bill: Counter) -> dict:
    """Return calls, parse rate, usage and dollars; dollars are null when no price is known."""
    return {
        "calls": bill["calls"],
        "parse_rate": bill["readable"] / bill["calls"] if bill["calls"] else None,
        "usage": {name: bill[name] for name in USAGE},
        "cost_usd": bill["nano_usd"] / 1e9 if bill["priced"] else None,
    }


def make_duel(table: np.ndarray, bills: dict, verdicts: dict, panel: Panel, mode: int) -> dict:
    """Return the content of score/_duel.json.

    verdicts: the gate's, of the whole panel by "", of that without a judge by the judge's name.
    """
    duel = panel.config.duel
    statuses = Counter(table["status"].tolist())
    turns = {"answered": len(table)}
    for status in (Status.PARSED, Status.PARSE_FAIL, Status.UNFINISHED):
        turns[status.value.replace("-", "_")] = statuses[status]
    turns["identical"] = int(table["identical"].sum())
    verdict = verdicts[""]
    unfinished = f"; {turns['unfinished']} turns are unfinished" if turns["unfinished"] else ""
    without = {name: found for name, found in verdicts.items() if name}

    points = table["points"]  # (turns, judges, orders, metrics)
    asked = points[~table["identical"]]
    parsed = table[(points >= 0).all(axis=(1, 2, 3))]
    scores = 50 * parsed["points"].mean(axis=(1, 2, 3))
    counted = points[statistics.all_returned(points)]  # as in the gate
    metrics = {name: statistics.mean_score(counted[..., at]) for at, name in enumerate(METRICS)}
    by_look = {look: Counter() for look in LOOKS}
    for (look, _), bill in bills.items():
        by_look[look].update(bill)
    return {
        "mode": mode,
        "opponent": SIDES[OPPONENT[mode]],
        **verdict,
        "why": verdict["why"] + unfinished,
        "alpha": duel.alpha,
        "turns": turns,
        "metrics": metrics if None not in metrics.values() else None,
        "judges": describe_judges(table, bills, panel),
        "agreement": {
            "name": "Krippendorff's alpha (nominal, mean of the metrics' own)",
            "value": statistics.agreement(asked, list(range(len(panel.names)))),
        },
        "leave_one_out": without,
        "without_generator": without.get(panel.config.generate.model),
        "kept_again": statistics.kept_again(
            parsed["points"], statistics.final_mask(parsed["points"])
        ),
        "equal_length": statistics.at_equal_length(
            scores, parsed["length_ratio"], parsed["instance"]
        ),
        "second_look": describe_second_look(table, panel) if panel.confirm else None,
        **spending(by_look[FIRST_LOOK]),
        "looks": {LOOKS[look]: spending(bill) for look, bill in by_look.items() if bill},
        "config": {
            "judges": {call.model: call.sampling() for call in panel.judges},
            "duel": vars(duel),
            "generator": panel.config.generate.model,
        },
    }


def describe_judges(table: np.ndarray, bills: dict, panel: Panel) -> dict[str, dict]:
    """Return what each judge says, is like (over the turns that were asked) and costs."""
    duel = panel.config.duel
    settings = {"alpha": duel.alpha, "resamples": duel.resamples, "seed": duel.seed}
    asked = table[~table["identical"]]
    points = asked["points"]
    contrasts = statistics.contrasts(points, asked["instance"], settings)
    judges = {}
    for place, name in enumerate(panel.names):
        others = [other for other in range(len(panel.names)) if other != place]
        pairs = [statistics.agreement(points, [place, other]) for other in others]
        judges[name] = {
            "score": statistics.mean_score(table["points"][:, place]),
            **statistics.habits(points[:, place]),
            "agreement": statistics.mean_of_known(pairs),
            "contrast": contrasts[place],
            **spending(bills[FIRST_LOOK, name]),
        }
    return judges


def describe_second_look(table: np.ndarray, panel: Panel) -> dict:
    """Return what the second look and the reader's test came to."""
    again = table[~np.isnan(table["score_confirmed"])]
    readings = [named for named in table["named"] if named is not None]
    return {
        "models": [call.model for call in panel.confirm],
        "band": panel.config.confirm.band,
        "turns": len(again),
        "mean_first": float(again["score"].mean()) if len(again) else None,
        "mean_confirmed": float(again["score_confirmed"].mean()) if len(again) else None,
        "reader": panel.reader.model if panel.reader else None,
        "read": len(readings),
        "named": {side: sum(side in named for named in readings) for side in SIDES},
    }


def summary(duel: dict) -> list[str]:
    """Return the duel in a few lines, for the tally."""
    turns = duel["turns"]
    unreadable = unreadable_judges(duel)
    lines = [f"duel    challenger against {duel['opponent']}: {duel['why']}"]
    if duel["interval"]:
        low, high = duel["interval"]
        level = f"{1 - 2 * duel['alpha']:.0%} interval {low:.2f} to {high:.2f}"
        rests = f"{duel['turns_counted']} of {turns['answered']} turns"
        lines.append(f"score   {duel['mean_score']:.2f}, {level}, by {rests}")
    counts = [f"{count} {name.replace('_', '-')}" for name, count in turns.items()]
    again = turns["parse_fail"] and not unreadable
    retry = "; --retry-failed asks the parse-fails again" if again else ""
    lines.append(f"turns   {', '.join(counts)}{retry}")
    return lines + unreadable


def unreadable_judges(duel: dict) -> list[str]:
    """Return a line for each judge of whose answers most cannot be read: what to do about it."""
    lines = []
    for name, judge in duel["judges"].items():
        calls = judge["calls"]
        read = round(calls * (judge["parse_rate"] or 0))
        if read >= calls * FEWEST_READABLE:
            continue
        drop = "Drop it from [judge] models in chain.toml, which costs nothing"
        if not duel["parse_rate"]:  # of all judges
            drop = "Name another under [judge] models in chain.toml"
        words = f"{read} of {calls} answers could be read. {drop}"
        lines.append(f"judge   {name}: {words}; or mend it, then --retry-failed asks it again")
    return lines
