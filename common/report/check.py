"""report.py --check: what is torn, stale or out of place, and which stage fixes it."""

from __future__ import annotations

from collections import defaultdict

from common.cli import EXIT_DONE, EXIT_SOME_FAILED, Tally
from common.files import natural_key
from common.report.figures import NEXT_STEP, Facts
from common.report.markdown import written
from common.turns import OPPONENT, Status, turn_score

FAULTS_SHOWN = 20  # of each kind


def show_check(facts: Facts, stale: list[str], tally: Tally) -> int:
    """Print what is wrong, and which stage fixes it; return the exit code."""
    faults = defaultdict(list)
    for failed in tally.failed:
        faults[failed["kind"]].append(failed["reason"])
    chats = facts.left_out.chats
    for row in facts.rows:
        if row.status in (Status.NO_ANSWER, Status.STALE):
            kind = f"{row.status}, mended by: {NEXT_STEP[row.status]}"
            faults[kind].append(f"score/{row.stem}.json: {row.why}")
        elif row.bucket and not follows_from_verdicts(row.judged):
            kind = "points that do not follow from the verdicts, mended by: python validate.py"
            points = f"{row.judged['points']} of {row.judged['max_points']}"
            faults[kind].append(f"score/{row.stem}.json: {points}")
        if chats and row.sha and chats.get(row.stem) != row.sha["chat"]:
            what = "its prompt has another chat now" if row.stem in chats else "has no prompt"
            kind = "prompt gone or changed since its king, mended by: bring it back"
            faults[kind].append(f"{row.path}: {what}")
    if facts.stale:
        kind = "stale verdict, mended by: python validate.py"
        faults[kind].append(f"score/_duel.json: {facts.stale}")
    if stale:
        kind = "stale bucket, export or report, mended by: python report.py"
        faults[kind] = sorted(stale, key=natural_key)
    for status in (Status.NO_CHALLENGER, Status.NOT_JUDGED, Status.UNFINISHED, Status.PARSE_FAIL):
        if facts.statuses[status]:
            print(f"note: {written(facts.statuses[status], 'turn')} {status}: {NEXT_STEP[status]}")
    for kind, found in faults.items():
        print(f"{kind}: {len(found):,}")
        for line in found[:FAULTS_SHOWN]:
            print(f"  {line}")
        if len(found) > FAULTS_SHOWN:
            print(f"  and {len(found) - FAULTS_SHOWN:,} more")
    if faults:
        return EXIT_SOME_FAILED
    turns = written(len(facts.rows), "turn")
    print(f"report.py --check: {turns}, all that is here is whole and consistent.")
    return EXIT_DONE


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
    counted = [verdict for verdict in score["verdicts"] if verdict["key"] in score["counted"]]
    expected = turn_score(counted, judges, identical)
    told = ("points", "max_points", "score", "metrics", "by_judge")
    return all(score[key] == expected[key] for key in told)
