"""What a dry run says besides the calls ahead: which turns reopen, what stopping early saves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from common.cli import Tally
from common.duel.rows import bill_of, stopping_saves
from common.duel.verdicts import FIRST_LOOK, Panel, load_turn, was_stopped
from common.turns import Status, panel_points


def outlook(
    todo: list[str], answers: dict[str, Path], panel: Panel, mode: int, confirm: bool
) -> list[str]:
    """Return the lines that follow the calls of a dry run; `todo` are the stems to ask for."""
    if confirm:
        return ["These are the most: the reader is asked only where a turn then reaches final/."]
    todo = set(todo)
    points = []
    reopened = 0
    bills = {name: Counter() for name in panel.names}
    for stem, path in answers.items():
        turn = load_turn(stem, path, mode, Tally(""), write=False)
        if turn is None or turn.identical:
            continue
        reopened += stem in todo and was_stopped(turn.saved)
        if panel.status(turn) is not Status.PARSED:
            continue
        counted = panel.counted(turn, FIRST_LOOK)
        for verdict in counted.values():
            bills[verdict["judge"]].update(bill_of(verdict))
        if not panel.may_stop(turn):
            points.append(panel_points(counted, panel.names))

    lines = []
    if reopened and panel.stop_early:
        why = f"they could still reach {panel.edge:g} points"
        lines.append(f"{reopened} turns that had been stopped early are reopened: {why}.")
    elif reopened:
        lines.append(f"{reopened} turns that had been stopped early are judged to the end.")
    saves = stopping_saves(np.array(points), bills, panel.edge, panel.full_share)
    if saves is not None:
        so_far = f"by the scores of the {len(points)} turns judged in full so far"
        if panel.stop_early:
            told = f"These are the most: stop_early saves about {saves:.0%} of a run's calls"
        else:
            told = f"[judge] stop_early = true would save about {saves:.0%} of a run's calls"
        lines.append(f"{told}, {so_far}.")
    return lines
