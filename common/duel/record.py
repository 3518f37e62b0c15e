"""score/_duel.json: the whole duel, made from all turns and the gate's verdicts."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timezone

import numpy as np

from common.config import Config
from common.duel.rows import (
    Rows,
    contrasts,
    final_mask,
    judge_figures,
    percent_of,
    spending,
    stopping_saves,
)
from common.duel.statistics import at_equal_length, kept_again
from common.duel.verdicts import SCORE, Panel
from common.files import BadFile, read_json, write_json
from common.turns import METRICS, OPPONENT, SIDES, Status


def make_duel(
    rows: Rows, base: Rows, verdicts: dict[str, dict], panel: Panel, config: Config, mode: int
) -> dict:
    """Return the content of score/_duel.json.

    rows: all turns; base: those that gate, judges and agreement rest on; verdicts: the gate's, of
    the whole panel by "", of the panel without a judge by that judge's name.
    """
    names = panel.names
    statuses = Counter(rows.statuses)
    verdict = dict(verdicts[""])
    without = {name: found for name, found in verdicts.items() if name}
    if statuses[Status.UNFINISHED]:
        verdict["why"] += f"; {statuses[Status.UNFINISHED]} turns are unfinished"

    duel = config.duel
    settings = {"alpha": duel.alpha, "resamples": duel.resamples, "seed": duel.seed}
    habits, agreement = judge_figures(base.points[~base.identical], names)
    leanings = contrasts(base, names, settings)
    judges = {}
    for place, name in enumerate(names):
        score = percent_of(base.points[:, place])
        own = {"contrast": leanings.get(name)}
        judges[name] = {"score": score, **habits[name], **own, **spending(rows.bills[name])}
    metrics = {name: percent_of(base.points[..., place]) for place, name in enumerate(METRICS)}
    parsed = base.taken(base.statuses == Status.PARSED)
    asked = parsed.points[~parsed.identical]
    return {
        "mode": mode,
        "opponent": SIDES[OPPONENT[mode]],
        **verdict,
        "win_margin": duel.win_margin,
        "alpha": duel.alpha,
        "turns": {
            "answered": len(rows.statuses),
            "parsed": statuses[Status.PARSED],
            "stopped": statuses[Status.STOPPED],
            "parse_fail": statuses[Status.PARSE_FAIL],
            "unfinished": statuses[Status.UNFINISHED],
            "identical": int(rows.identical.sum()),
        },
        "metrics": metrics if metrics[METRICS[0]] is not None else None,
        "judges": judges,
        "agreement": agreement,
        "leave_one_out": without,
        "without_generator": without.get(config.generate.model),
        "kept_again": kept_again(parsed.points, final_mask(parsed.points)),
        "equal_length": equal_length(parsed),
        "stop_early": {
            "on": panel.stop_early,
            "edge": panel.edge,
            "full_share": panel.full_share,
            "saves": stopping_saves(asked, rows.bills, panel.edge, panel.full_share),
        },
        "second_look": second_look(rows, panel),
        "looks": {name: spending(bill) for name, bill in rows.looks.items() if bill},
        "flags": dict(rows.flags),
        **spending(sum(rows.bills.values(), Counter())),
        "config": {
            "judges": {call.model: call.sampling() for call in panel.judges},
            "duel": vars(duel),
            "generator": config.generate.model,
        },
        "made_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def equal_length(parsed: Rows) -> dict | None:
    """Return the mean score at equal length of the turns whose lengths are known."""
    if not len(parsed.points):
        return None
    scores = 100 * parsed.points.mean(axis=(1, 2, 3)) / 2
    return at_equal_length(scores, parsed.length_ratios, parsed.instances)


def second_look(rows: Rows, panel: Panel) -> dict | None:
    """Return what the second look and the reader's test have found; None without one."""
    if not panel.confirm:
        return None
    scores = np.array(rows.confirmed).reshape(-1, 2)
    named = {}
    for side in ("challenger", "king", "assistant"):
        named[side] = sum(side in reading for reading in rows.readings)
    return {
        "models": [call.model for call in panel.confirm],
        "band": panel.band,
        "turns": len(scores),
        "mean_first": float(scores[:, 0].mean()) if len(scores) else None,
        "mean_confirmed": float(scores[:, 1].mean()) if len(scores) else None,
        "reader": panel.reader.model if panel.reader else None,
        "read": len(rows.readings),
        "named": named,
    }


def write_duel(duel: dict) -> None:
    """Write score/_duel.json; its date is that of the last change, so that a report stays true."""
    path = SCORE / "_duel.json"
    try:
        before = read_json(path, ("made_at",))
    except (FileNotFoundError, BadFile):
        before = {}
    if {**before, "made_at": None} != {**json.loads(json.dumps(duel)), "made_at": None}:
        write_json(path, duel)


def summary(duel: dict) -> list[str]:
    """Return the duel in a few lines, for the tally."""
    turns = duel["turns"]
    lines = [f"duel    challenger against {duel['opponent']}: {duel['why']}"]
    if duel["interval"]:
        low, high = duel["interval"]
        level = f"{1 - 2 * duel['alpha']:.0%} interval {low:.2f} to {high:.2f}"
        mean = f"{duel['mean_score']:.2f}"
        lines.append(f"score   {mean}, {level}, over {duel['instances']} instances")
    stopped = f"{turns['stopped']} stopped early, " if turns["stopped"] else ""
    lines.append(
        f"turns   {turns['parsed']} parsed ({turns['identical']} identical), {stopped}"
        f"{turns['parse_fail']} parse-fail, {turns['unfinished']} unfinished"
    )
    if duel["stop_early"]["on"]:
        rests = f"{duel['turns_counted']} of {turns['answered']} turns, judged in full"
        lines.append(f"        the duel rests on {rests}")
    for name, judge in duel["judges"].items():
        if judge["position_consistency"] is not None and judge["score"] is not None:
            lines.append(
                f"judge   {name}: score {judge['score']:.1f}, same call in both orders "
                f"{judge['position_consistency']:.0%}, position bias {judge['pull']:+.2f}"
            )
    again = duel["second_look"]
    if again and again["turns"]:
        change = f"{again['mean_first']:.1f} -> {again['mean_confirmed']:.1f}"
        lines.append(f"second  {again['turns']} turns looked at again: mean score {change}")
    if again and again["read"]:
        named = ", ".join(f"{count} {side}s" for side, count in again["named"].items() if count)
        lines.append(f"reader  of {again['read']} turns read: {named or 'no reply'} named")
    if turns["parse_fail"]:
        lines.append("        --retry-failed asks the parse-fails again")
    if duel["flags"]:
        named = ", ".join(f"{count} {flag}" for flag, count in duel["flags"].items())
        lines.append(f"flags   {named}")
    return lines
