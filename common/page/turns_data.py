"""What report/turns.html is made from: every turn with its texts and verdicts, read by file."""

from __future__ import annotations

from pathlib import Path

from common.cli import Progress
from common.page.figures import Facts, verdict_word
from common.page.rows import Row
from common.replies.protocol import protocol_problem
from common.turns import BUCKETS, METRICS, SIDES, read_answer, read_score

MOST_TURNS = 5000  # of a page: some 12 MB, and a list that a browser still scrolls with ease
# What the page's list has of a row, under the row's own names.
ENTRY = (
    "stem instance_id repo status bucket why score score_confirmed style step spread exported"
).split()


def turns_data(facts: Facts) -> dict:
    """Return what `turns_page` makes the page from: the first MOST_TURNS that have both replies."""
    rows = [row for row in facts.rows if row.challenger]
    lines = [str(facts.duel["why"])] if facts.duel else []
    lines.append(", ".join(f"{name}/ {facts.buckets[name]:,}" for name in BUCKETS))
    more = len(rows) - MOST_TURNS
    if more > 0:
        lines.append(f"Here are the first {MOST_TURNS:,} turns; turns.csv lists {more:,} more.")
    progress = Progress(min(len(rows), MOST_TURNS), "turns.html")
    turns = []
    for row in rows[:MOST_TURNS]:
        turns.append(turn_data(row))
        progress.update()
    progress.close()
    return {
        "title": f"Challenger against {facts.opponent}: {verdict_word(facts.duel)}",
        "facts": lines,
        "judges": facts.judges,
        "metrics": list(METRICS),
        "turns": turns,
    }


def turn_data(row: Row) -> dict:
    """Return what the page's list needs of a turn and, as "texts", what its reader sees of it."""
    answer = read_answer(row.path)
    opponent = SIDES[row.opponent]
    replies = {opponent: answer[row.opponent] or "", "challenger": answer["challenger"]}
    problems = {
        opponent: protocol_problem(replies[opponent], answer["messages"]) or "",
        "challenger": row.protocol_problem or "",
    }
    leaks = {side: list(row.leaks.get(side) or []) for side in replies}
    verdicts = []
    if row.bucket or row.by_judge:
        score = read_score(Path("score", f"{row.stem}.json"))
        counted = {*score.get("counted", []), *score.get("counted_confirmed", [])}
        for verdict in score["verdicts"]:
            # Older versions did not name the verdicts that a score rests on.
            if verdict["look"] <= 2 and ("counted" not in score or verdict["key"] in counted):
                names = ("judge", "order", "calls", "reason", "look")
                verdicts.append({name: verdict[name] for name in names})
        for side, quote in (score.get("reader") or {}).items():
            found = {"kind": "reader's test", "text": quote, "why": "the chat does not explain it"}
            leaks.setdefault(SIDES[side], []).append(found)
    marks = list(map(str, row.flags))
    for side in replies:
        if leaks[side]:
            marks.append(f"{side}: leak audit")
        if problems[side]:
            marks.append(f"{side}: protocol")
    said = [message["content"] for message in answer["messages"] if message["role"] == "user"]
    return {
        **{name: getattr(row, name) for name in ENTRY},
        "file": row.path.as_posix(),
        "opponent": opponent,
        "marks": marks,
        "length": len(replies["challenger"]),
        # Identical replies are not put before a person, nor those that were never judged.
        "sha": row.label_sha if row.bucket and len(set(replies.values())) == 2 else "",
        "texts": {
            "task": said[0],
            "observation": said[-1] if len(said) > 1 else "",
            "replies": replies,
            "leaks": leaks,
            "problems": problems,
            "metrics": row.metrics,
            "by_judge": row.by_judge,
            "verdicts": verdicts,
        },
    }
