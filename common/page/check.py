"""report.py --check: what is torn, stale or out of place, and which stage fixes it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from common.cli import EXIT_DONE, EXIT_SOME_FAILED, Tally
from common.files import natural_key
from common.outputs import Outputs
from common.page.figures import NEXT_STEP, Facts, stale_reason
from common.page.markdown import written
from common.turns import BUCKETS, OPPONENT, Status, points_of, read_score, turn_score

FAULTS_SHOWN = 20  # of each kind


def show_check(facts: Facts, outputs: Outputs, tally: Tally) -> int:
    """Print what is torn, stale or out of place and which stage fixes it; return the exit code."""
    faults = find_faults(facts, tally)
    if not any(Path(folder).is_dir() for folder in ("report", "export", *BUCKETS)):
        print("note: report.py has not run here yet")
    elif outputs.stale:
        kind = "stale bucket, export or report, mended by: python report.py"
        faults[kind] = sorted(outputs.stale, key=natural_key)
    for kind, found in faults.items():
        print(f"{kind}: {len(found):,}")
        for line in found[:FAULTS_SHOWN]:
            print(f"  {line}")
        if len(found) > FAULTS_SHOWN:
            print(f"  and {len(found) - FAULTS_SHOWN:,} more")
    for status in (Status.NO_CHALLENGER, Status.NOT_JUDGED, Status.UNFINISHED, Status.PARSE_FAIL):
        if facts.statuses[status]:
            print(f"note: {written(facts.statuses[status], 'turn')} {status}: {NEXT_STEP[status]}")
    if faults:
        return EXIT_SOME_FAILED
    turns = written(len(facts.rows), "turn")
    print(f"report.py --check: {turns}, all that is here is whole and consistent.")
    return EXIT_DONE


def find_faults(facts: Facts, tally: Tally) -> dict[str, list[str]]:
    """Return what is wrong in answers, scores and the duel, by kind."""
    faults = defaultdict(list)
    for failed in tally.failed:
        faults[failed["kind"]].append(failed["reason"])
    for row in facts.rows:
        path = Path("score", f"{row.stem}.json")
        if row.status in (Status.NO_ANSWER, Status.STALE):
            kind = f"{row.status}, mended by: {NEXT_STEP[row.status]}"
            faults[kind].append(f"{path}: {row.why}")
        elif row.bucket and not follows_from_verdicts(read_score(path)):
            kind = "points that do not follow from the verdicts, mended by: python validate.py"
            faults[kind].append(f"{path}: {row.points} of {row.max_points}")
    kind = "prompt gone or changed since its king, mended by: bring it back"
    for row in facts.rows if facts.left_out.chats else ():
        if row.sha and row.stem not in facts.left_out.chats:
            faults[kind].append(f"{row.path}: prompt/ has no such prompt")
        elif row.sha and facts.left_out.chats[row.stem] != row.sha["chat"]:
            faults[kind].append(f"{row.path}: its prompt has another chat now")
    stale = stale_reason(facts)
    if stale:
        faults["stale verdict, mended by: python validate.py"] = [f"score/_duel.json: {stale}"]
    return faults


def follows_from_verdicts(score: dict) -> bool:
    """Tell whether points and scores are those of the verdicts that `counted` names.

    Older versions did not name them: there is nothing to compare with.
    """
    if "counted" not in score:
        return True
    judges = list(score["by_judge"])
    if not judges or not isinstance(score["counted"], list):
        return False
    identical = score["sha"]["challenger"] == score["sha"][OPPONENT[score["mode"]]]
    counted = {}
    for verdict in score["verdicts"]:
        if verdict["key"] in score["counted"]:
            counted[verdict["judge"], verdict["order"]] = verdict
    points = points_of(identical, counted, judges)
    expected = turn_score(points, judges)
    return all(score[key] == expected[key] for key in expected)
