"""What the PR record is worth: control/ holds the same turns, the challenger without the record."""

from __future__ import annotations

from pathlib import Path

from common.files import BadFile, turn_files
from common.page.figures import Facts, Mean, means
from common.turns import Status, read_score

SCORE = Path("control", "score")


def control_split(facts: Facts) -> dict[str, Mean]:
    """Return the margin of the turns that control/ holds too: `whole` = `prompt` + `record`.

    `prompt` is the margin of a challenger that had the rule and the advice, yet no record; {}
    where control/ is not judged. A turn counts where one panel has judged both against one king.
    """
    if not (SCORE / "_duel.json").exists():
        return {}
    paths = {path.stem: path for path in turn_files(SCORE)}
    rows = []
    columns: dict[str, list] = {"whole": [], "prompt": [], "record": []}
    for row in facts.base:
        score = read_control(paths.get(row.stem))
        if not score or score["mode"] != row.mode or list(score["by_judge"]) != list(row.by_judge):
            continue
        if (score["sha"]["chat"], score["sha"][row.opponent]) != row.judged_against:
            continue
        rows.append(row)
        whole = 2 * row.score - 100
        prompt = 2 * score["score"] - 100
        columns["whole"].append(whole)
        columns["prompt"].append(prompt)
        columns["record"].append(whole - prompt)
    return means(columns, rows, facts.config)


def read_control(path: Path | None) -> dict | None:
    """Return a score of control/; None for one that is not there, torn, or of no full panel."""
    try:
        score = read_score(path) if path else None
    except BadFile:
        return None  # validate.py, run in control/, mends it
    return score if score and score["status"] == Status.PARSED else None
