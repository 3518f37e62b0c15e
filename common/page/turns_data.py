"""What report/turns.html is made from: every turn with its texts and verdicts, read by file."""

from __future__ import annotations

from pathlib import Path

from common.cli import Progress
from common.page.figures import Facts, verdict_word
from common.page.rows import Row
from common.page.turns_page import task_and_observation
from common.replies.protocol import protocol_problem
from common.turns import BUCKETS, METRICS, SIDES, read_answer, read_score

MOST_TURNS = 5000  # of a page: some 12 MB, and a list that a browser still scrolls with ease


def turns_on_page(facts: Facts) -> list[Row]:
    """Return the turns that turns.html shows: those with both replies, the first MOST_TURNS."""
    return [row for row in facts.rows if row.challenger][:MOST_TURNS]


def turns_data(facts: Facts) -> dict:
    """Return what `turns_page` makes the page from."""
    rows = turns_on_page(facts)
    progress = Progress(len(rows), "turns.html")
    tasks: dict[str, str] = {}  # turns of one task share its text
    turns = []
    for row in rows:
        turn = turn_data(row)
        turn["task"] = tasks.setdefault(turn["task"], turn["task"])
        turns.append(turn)
        progress.update()
    progress.close()
    return {
        "title": f"Challenger against {facts.opponent}: {verdict_word(facts.duel)}",
        "facts": about(facts, len(rows)),
        "judges": facts.judges,
        "metrics": list(METRICS),
        "turns": turns,
    }


def about(facts: Facts, count: int) -> list[str]:
    """Return what the page says of the whole run, a line each."""
    lines = [str(facts.duel["why"])] if facts.duel else []
    lines.append(", ".join(f"{name}/ {facts.buckets[name]:,}" for name in BUCKETS))
    others = sum(bool(row.challenger) for row in facts.rows) - count
    if others:
        lines.append(f"Here are the first {count:,} turns; turns.csv lists {others:,} more.")
    return lines


def turn_data(row: Row) -> dict:
    """Return one turn, with what the page shows of its answer and score files."""
    answer = read_answer(row.path)
    opponent = SIDES[row.opponent]
    task, observation = task_and_observation(answer["messages"])
    replies = {opponent: answer[row.opponent], "challenger": answer["challenger"]}
    problems = {opponent: protocol_problem(answer[row.opponent], answer["messages"])}
    turn = {
        "stem": row.stem,
        "file": row.path.as_posix(),
        "instance_id": row.instance_id,
        "repo": row.repo,
        "status": str(row.status),
        "bucket": row.bucket,
        "why": row.why,
        "score": row.score,
        "score_confirmed": row.score_confirmed,
        "style": row.style,
        "step": row.step,
        "metrics": row.metrics,
        "by_judge": row.by_judge,
        "spread": row.spread,
        "flags": row.flags,
        "export": row.exported,
        "opponent": opponent,
        "task": task,
        "observation": observation,
        "replies": replies,
        "leaks": {side: list(hits or []) for side, hits in row.leaks.items()},
        "protocol_problem": {**problems, "challenger": row.protocol_problem},
        "verdicts": [],
    }
    if row.bucket or row.by_judge:
        score = read_score(Path("score", f"{row.stem}.json"))
        turn["verdicts"] = counted_verdicts(score)
        for side, quote in (score.get("reader") or {}).items():
            found = {"kind": "reader's test", "text": quote, "why": "the chat does not explain it"}
            turn["leaks"].setdefault(SIDES[side], []).append(found)
    return turn


def counted_verdicts(score: dict) -> list[dict]:
    """Return the verdicts that the turn's scores rest on; older versions did not name them."""
    keys = {*score.get("counted", []), *score.get("counted_confirmed", [])}
    found = []
    for verdict in score["verdicts"]:
        if verdict["look"] > 2 or ("counted" in score and verdict["key"] not in keys):
            continue
        names = ("judge", "order", "calls", "reason", "look")
        found.append({name: verdict[name] for name in names})
    return found
