"""report.py as its user runs it, in a folder that holds what the earlier stages write."""

from __future__ import annotations

import csv
import json
import random
import re
import time
from pathlib import Path

import pytest

from common.config import METRICS, check_config
from common.demo.server import Server
from common.turns import BUCKETS, ORDERS
from judges import by_merit, mixed, validate, write_panel, write_turns
from judges import verdict as call
from makers import (
    JUDGES,
    MOST,
    get,
    make_answer,
    make_prompt,
    make_record,
    make_reply,
    make_run,
    make_score,
    make_verdict,
    put,
    write_settings,
)
from reports import (
    DEFEAT,
    FINAL,
    REFINED,
    edit,
    exported,
    json_lines,
    read,
    read_csv,
    redo_duel,
    rejudge,
    report,
    rewrite,
    state,
    where,
)
from runner import REPO, stage, start

pytestmark = pytest.mark.background

# ---------------------------------------------------------------------------------------- buckets


def test_buckets_are_exact_at_the_thresholds(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 6)
    judges = [f"judge-{number}" for number in range(25)]  # 100 half-points a metric
    for stem, percent in zip(stems, [80, 79, 66, 65]):
        rejudge(tmp_path, stem, percent * len(METRICS), judges)
    rejudge(tmp_path, stems[4], MOST * 80 // 100)
    rejudge(tmp_path, stems[5], 0)
    answers = {stem: (tmp_path / f"answer_0/{stem}.json").read_bytes() for stem in stems}
    report(tmp_path)
    assert [where(tmp_path)[stem] for stem in stems] == [
        ["final"], ["refined"], ["refined"], ["defeat"], ["final"], ["defeat"],
    ]  # fmt: skip
    why = {row["stem"]: row["why"] for row in read_csv(tmp_path)}
    assert [why[stem] for stem in stems[:4]] == [
        "80 points or more", "below 80 points", "below 80 points", "below 66 points",
    ]  # fmt: skip
    score = get(tmp_path / f"score/{stems[0]}.json")
    assert get(tmp_path / f"final/{stems[0]}.json") == {
        **json.loads(answers[stems[0]]),
        "score": 80.0,
        "metrics": score["metrics"],
        "reason": score["reason"],
    }
    for stem in stems:
        assert (tmp_path / f"answer_0/{stem}.json").read_bytes() == answers[stem]


def test_flipped_verdicts_leave_each_turn_in_exactly_one_bucket(tmp_path):
    chance = random.Random(3)
    points = [chance.randrange(MOST + 1) for _ in range(40)]
    stems = make_run(tmp_path, points)
    report(tmp_path)
    before = where(tmp_path)
    for stem, won in zip(stems, points):
        rejudge(tmp_path, stem, MOST - won)
    redo_duel(tmp_path)
    report(tmp_path)
    after = where(tmp_path)
    assert set(after) == set(stems) and after != before
    assert all(len(buckets) == 1 for buckets in after.values())


def test_a_killed_report_loses_nothing_and_the_next_one_repairs_it(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 100, chars=200)
    report(tmp_path)
    chance = random.Random(5)
    cut_short = 0
    for round_number in range(4):
        points, bucket = [(DEFEAT, "defeat"), (FINAL, "final")][round_number % 2]
        for stem in stems:
            rejudge(tmp_path, stem, points)
        process = start("report.py", cwd=tmp_path)
        wanted = chance.randrange(1, 90)
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            if len(list((tmp_path / bucket).glob("[!_]*.json"))) >= wanted:
                break
            time.sleep(0.001)
        process.kill()
        process.communicate()
        found = where(tmp_path)
        assert set(found) == set(stems)
        cut_short += len({tuple(buckets) for buckets in found.values()}) > 1
        for name in BUCKETS:
            for path in (tmp_path / name).glob("[!_]*.json"):
                assert get(path)["score"] in (10.0, 90.0)
    assert cut_short >= 2, "no run was killed midway: the test shows nothing"
    redo_duel(tmp_path)
    report(tmp_path)
    assert all(len(buckets) == 1 for buckets in where(tmp_path).values())
    for name in (*BUCKETS, "export", "report"):
        assert not list((tmp_path / name).glob("*.tmp*"))


def test_files_that_are_not_ours_are_left_alone(tmp_path):
    stems = make_run(tmp_path, [FINAL, FINAL, DEFEAT])
    report(tmp_path)
    mine = {"note": "mine"}
    put(tmp_path / f"defeat/{stems[0]}.json", mine)  # the name of a turn that belongs elsewhere
    put(tmp_path / f"final/{stems[1]}.json", mine)  # in the way
    put(tmp_path / "final/notes.json", mine)
    (tmp_path / "refined/readme.txt").write_text("mine")
    # Copies whose answers are gone may be the last that there are, with a score or without.
    (tmp_path / f"answer_0/{stems[2]}.json").unlink()
    last_copy = {**make_answer(99), "score": 99.0, "metrics": {}, "reason": ""}
    put(tmp_path / "final/prompts_9_1_1.json", last_copy)
    done = report(tmp_path)
    assert get(tmp_path / f"defeat/{stems[0]}.json") == mine
    assert get(tmp_path / f"final/{stems[1]}.json.bad") == mine and ".bad" in done.stdout
    assert get(tmp_path / f"final/{stems[1]}.json")["score"] == 90.0
    assert get(tmp_path / "final/notes.json") == mine
    assert (tmp_path / "refined/readme.txt").read_text() == "mine"
    assert where(tmp_path)[stems[2]] == ["defeat"]
    assert get(tmp_path / "final/prompts_9_1_1.json") == last_copy
    assert {row["stem"] for row in exported(tmp_path)} == set(stems[:2])


def test_turns_without_a_verdict_of_their_present_text_are_in_no_bucket(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 6)
    report(tmp_path)
    no_score = {"parsed": False, "points": None, "score": None, "metrics": None}
    edit(tmp_path / f"answer_0/{stems[0]}.json", challenger=make_reply(random.Random(77)))
    edit(tmp_path / f"score/{stems[1]}.json", status="parse-fail", **no_score)
    edit(tmp_path / f"score/{stems[2]}.json", status="unfinished", **no_score)
    edit(tmp_path / f"answer_0/{stems[3]}.json", challenger="")
    (tmp_path / f"score/{stems[4]}.json").write_text('{"stem": ')
    done = report(tmp_path, code=1)
    assert where(tmp_path) == {stems[5]: ["final"]}
    assert len(exported(tmp_path)) == 1
    text = read(tmp_path / "report/report.md")
    assert "parse-fail 1" in text and "stale 1" in text
    for command in ("python ch.py", "python validate.py", "python validate.py --retry-failed"):
        assert command in text and command in done.stdout
    assert [row["item"] for row in json_lines(tmp_path / "report/_failed.jsonl")] == [stems[4]]
    assert [row["status"] for row in read_csv(tmp_path)] == [
        "stale", "parse-fail", "unfinished", "no challenger", "broken", "parsed",
    ]  # fmt: skip
    edit(tmp_path / f"answer_0/{stems[3]}.json", challenger=None)  # as older versions wrote it
    report(tmp_path, code=1)
    assert read_csv(tmp_path)[3]["status"] == "no challenger"


def test_a_reply_that_breaks_the_protocol_never_reaches_final_or_the_exports(tmp_path):
    stems = make_run(tmp_path, [FINAL, FINAL, REFINED])
    two_blocks = "THOUGHT: Both.\n\n```bash\nls\n```\n\n```bash\npwd\n```"
    rewrite(tmp_path, stems[0], challenger=two_blocks)
    rewrite(tmp_path, stems[2], challenger=two_blocks)
    report(tmp_path, "--with-refined")
    assert where(tmp_path) == {stems[0]: ["refined"], stems[1]: ["final"], stems[2]: ["refined"]}
    reason = get(tmp_path / f"refined/{stems[0]}.json")["reason"]
    assert reason.startswith("Held back from final/: the reply holds 2")
    assert [row["stem"] for row in exported(tmp_path)] == [stems[1]]
    assert "2 turns held back" in read(tmp_path / "report/report.md")
    row = read_csv(tmp_path)[0]
    assert row["protocol_problem"].startswith("the reply holds 2") and float(row["protocol"]) > 0


def test_an_unchanged_run_rewrites_nothing(tmp_path):
    make_run(tmp_path, [FINAL, REFINED, DEFEAT] * 4)
    report(tmp_path)
    before = state(tmp_path)
    report(tmp_path)
    assert state(tmp_path) == before
    assert len(before) == 12 + 4 + len(list((tmp_path / "export").iterdir()))


# -------------------------------------------------------------------------------------- report.md

HOSTILE = (
    "=1+1 | a `b` <script>alert(1)</script> [x](http://evil.example) ![i](javascript:1) @everyone "
    "$x$ **b** _i_ ~~s~~\n\n# head\n| a | b |\n\u202e www.evil.example \\ <!-- &amp;"
)
RAW = (
    "<script", "http://evil", "www.evil", "@everyone", "$x", " `b`", "\n# head", "\u202e", "[x](",
    "<!--", " **b",
)  # fmt: skip


def test_text_from_data_stays_text(tmp_path):
    stems = make_run(tmp_path, [FINAL, REFINED, DEFEAT] * 2)
    leak = {"kind": HOSTILE, "text": HOSTILE, "why": HOSTILE}
    for stem in stems:
        by_judge = {JUDGES[0]: 100.0, JUDGES[1]: 0.0}
        edit(tmp_path / f"score/{stem}.json", reason=HOSTILE, by_judge=by_judge)
        meta = get(tmp_path / f"answer_0/{stem}.json")["meta"]
        meta["repo"] = HOSTILE + "\ud800"  # half a character
        meta["challenger"]["model"] = HOSTILE
        meta["challenger"]["leaks"] = {"version": 0, "hits": [leak]}
        rewrite(tmp_path, stem, instance_id=HOSTILE, meta=meta)
    edit(tmp_path / "score/_duel.json", why=HOSTILE)
    passed_over = {"instance_id": HOSTILE, "repo": HOSTILE, "reason": HOSTILE}
    plan = {"dataset": HOSTILE, "revision": HOSTILE, "excluded": [passed_over]}
    edit(tmp_path / "prompt/_plan.json", **plan)
    report(tmp_path)
    for name in ("report/report.md", "report/hugePR.md", "export/README.md"):
        text = read(tmp_path / name)
        assert "evil" in text
        for raw in RAW:
            assert raw not in text, (name, raw)
        width = None
        for line in text.splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line))
            assert not line.startswith("|") or width in (None, cells), line
            width = cells if line.startswith("|") else None
    with open(tmp_path / "report/turns.csv", newline="") as file:
        for row in csv.reader(file):
            assert len(row) > 20
            assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)


def test_the_report_says_what_a_reader_in_a_hurry_needs(tmp_path):
    make_run(tmp_path, [FINAL, REFINED, DEFEAT, 40] * 6)
    report(tmp_path)
    text = read(tmp_path / "report/report.md")
    mean_score = get(tmp_path / "score/_duel.json")["mean_score"]
    lines = text.splitlines()
    assert lines[0] == "# Challenger against king: accepted"
    assert lines[2].startswith(f"**Accepted.** The challenger scores **{mean_score:.1f}** of 100")
    assert [line for line in lines if line.startswith("## ")][:5] == [
        "## Next", "## Points to look at", "## What came out", "## The numbers", "## What it took",
    ]  # fmt: skip
    for said in (
        "| turns | 24: parsed 24 |",
        "90 % interval",
        "by metric, 50 is level | correctness",
        f"**{mean_score:.1f}** of 100, 90 % interval",
        "[final/](../final) 6 (25 %)",
        "revision abc123, seed 7",
        "king by maker-a/writer",
        f"judge {JUDGES[0]} | 48 | 43,200 | 3,840 | 0.10 USD |",
        "80 to 90",
        "position bias",
        "Krippendorff",
        "0 (0 %)",
        "3 of 24 (12 %), by kind: path 3",
        "[prompts_24_1_1](turns.html#prompts_24_1_1)",
    ):
        assert said in text, said
    assert text.count("margin +") == 1, "the margin is said once"


@pytest.mark.parametrize(("defeat_min", "final_min"), [(50, 92), (5, 7), (70, 90), (0, 100)])
def test_any_two_thresholds_work(tmp_path, defeat_min, final_min):
    """They are edited in common/turns.py; here the interpreter does it as it starts."""
    run = tmp_path / "run"
    make_run(run, [0, 3, 4, 30, 42, 54, 55, MOST])
    thresholds = f"turns.DEFEAT_MIN, turns.FINAL_MIN = {defeat_min}, {final_min}"
    code = f"import sys\nsys.path.append({str(REPO)!r})\nfrom common import turns\n{thresholds}"
    (tmp_path / "sitecustomize.py").write_text(code)
    done = stage("report.py", cwd=run, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    scores = [get(path)["score"] for path in (run / "score").glob("[!_]*.json")]
    kept = sum(score >= final_min for score in scores)
    assert len(list((run / "final").glob("[!_]*.json"))) == kept
    lines = read(run / "report/report.md").split("score        turns\n")[1].split("```")[0]
    counts = {}
    for line in lines.splitlines():
        low, _, _, turns = line.split()[:4]
        counts[int(low)] = counts.get(int(low), 0) + int(turns)
    assert sum(counts.values()) == len(scores)
    assert sum(turns for low, turns in counts.items() if low >= final_min) == kept
    assert lines.count("final from here up") == lines.count("refined from here up") == 1


def all_turns(folder: Path) -> list[list[str]]:
    """Return the cells of each row of the table of all turns."""
    rows = read(folder / "report/report.md").split("## All turns")[1].splitlines()
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if "turns.html#" in row]


def test_every_turn_stands_in_the_table_and_links_to_the_page(tmp_path):
    stems = make_run(tmp_path, [number % (MOST + 1) for number in range(150)], chars=100)
    report(tmp_path)
    listed = all_turns(tmp_path)
    assert {row[1] for row in listed} == {f"[{stem}](turns.html#{stem})" for stem in stems}
    scores = [float(row[0]) for row in listed]
    assert scores == sorted(scores, reverse=True) and len(listed[0]) == 3 + len(METRICS)
    rows = read_csv(tmp_path)
    assert [row["stem"] for row in rows] == stems
    assert {row["bucket"] for row in rows} == set(BUCKETS)


def page_facts(folder: Path) -> dict:
    """Return the list of turns.html, as its script reads it."""
    page = read(folder / "report/turns.html")
    return json.loads(re.search(r'id="facts">([^<]*)<', page)[1])


def test_the_page_holds_every_turn_that_has_both_replies(tmp_path):
    stems = make_run(tmp_path, [FINAL, REFINED, DEFEAT, FINAL, FINAL])
    edit(tmp_path / f"answer_0/{stems[3]}.json", challenger="")
    edit(tmp_path / f"answer_0/{stems[4]}.json", king=make_reply(random.Random(8)))
    quote = get(tmp_path / f"answer_0/{stems[0]}.json")["challenger"][9:40]
    held_back = f"the reader's test: the chat does not explain {quote!r}"
    edit(tmp_path / f"score/{stems[0]}.json", reader={"challenger": quote}, held_back=held_back)
    report(tmp_path)
    turns = {turn["stem"]: turn for turn in page_facts(tmp_path)["turns"]}
    assert list(turns) == [*stems[:3], stems[4]]
    assert [turns[stem]["bucket"] for stem in stems[:3]] == ["refined", "refined", "defeat"]
    assert held_back in turns[stems[0]]["why"]
    assert "challenger: leak audit" in turns[stems[0]]["marks"]
    assert turns[stems[4]]["status"] == "stale" and turns[stems[4]]["score"] is None
    assert "1 turn held back from final/" in read(tmp_path / "report/report.md")


def test_a_large_run_says_where_the_rest_is(tmp_path, monkeypatch):
    import report as script

    make_run(tmp_path, [FINAL] * 4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script.turns_page, "MOST_TURNS", 3)
    monkeypatch.setattr("sys.argv", ["report.py"])
    assert script.main() == 0
    assert len(page_facts(tmp_path)["turns"]) == 3
    page = read(tmp_path / "report/turns.html")
    assert "Here are the first 3 turns; turns.csv lists 1 more." in page
    text = read(tmp_path / "report/report.md")
    assert "Here are the first 3 turns; [turns.csv](turns.csv) has 1 more." in text


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_writes_the_same(tmp_path, monkeypatch, processes):
    import report as script
    from common.report import outputs

    chance = random.Random(4)
    stems = make_run(tmp_path, [chance.randrange(MOST + 1) for _ in range(40)], chars=100)
    (tmp_path / f"answer_0/{stems[8]}.json").write_text("{")
    (tmp_path / f"score/{stems[21]}.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["report.py"])
    monkeypatch.setattr(script, "TURNS_A_PART", 3)
    monkeypatch.setattr(outputs, "TURNS_A_PROCESS", 3)
    made = []
    for count in (1, processes):
        monkeypatch.setattr(script.os, "cpu_count", lambda count=count: count)
        for name in BUCKETS:
            put(tmp_path / f"{name}/{stems[0]}.json", {"note": "mine"})
        assert script.main() == 1
        made.append({path: path.read_bytes() for path in map(Path, state(tmp_path))})
        for path in made[-1]:
            path.unlink()
    assert made[0] == made[1] and len(made[0]) > 40
    assert sum(path.name.endswith(".bad") for path in made[0]) == 1


# ------------------------------------------------------------------------------ the duel's figures

KEPT = {"kept": 6, "kept_mean": 88.0, "reliability": 0.9, "kept_again": 84.5}


def section(folder: Path, title: str) -> str:
    """Return one section of report.md."""
    return read(folder / "report/report.md").split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_duels_figures_stand_in_the_report(tmp_path):
    make_run(tmp_path, [FINAL, REFINED, DEFEAT] * 4)
    edit(
        tmp_path / "score/_duel.json",
        kept_again=KEPT,
        agreement={"name": "alpha", "value": 0.2},
        config={"generator": JUDGES[0]},
    )
    report(tmp_path)
    numbers = section(tmp_path, "The numbers")
    assert "about **84.5** on average; these 6 turns have 88.0 now" in numbers
    judges = section(tmp_path, "Judges")
    assert f"{JUDGES[0]} (the writer) | 56.7 | 100 % | 80 % | +0.05 | 56.7, accepted |" in judges
    assert "judges agree little**: alpha 0.20" in section(tmp_path, "Points to look at")


def test_the_second_look_stands_beside_the_first(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 4 + [REFINED] * 4)
    confirmed = {"points_confirmed": 72, "max_points_confirmed": 120, "score_confirmed": 60.0}
    edit(tmp_path / f"score/{stems[0]}.json", **confirmed)
    look = {
        "models": ["x/other"], "band": [73, 90], "turns": 1, "mean_first": 90.0,
        "mean_confirmed": 60.0, "reader": "x/other", "read": 20,
        "named": {"challenger": 3, "king": 1, "assistant": 0},
    }  # fmt: skip
    again = make_verdict("x/other", ORDERS[0], 1, look=2, usage=None, cost_usd=0.25)
    verdicts = get(tmp_path / f"score/{stems[0]}.json")["verdicts"]
    edit(tmp_path / f"score/{stems[0]}.json", verdicts=[*verdicts, again])
    edit(tmp_path / "score/_duel.json", second_look=look)
    report(tmp_path)
    told = section(tmp_path, "The second look")
    for said in (
        "1 turn of 73 to 90 points were judged again by x/other",
        "from 90.0 to 60.0. Of 80 points and more were 4 turns before; in final/ are 3 now.",
    ):
        assert said in told, (said, told)
    leaks = section(tmp_path, "Leaks")
    assert "in 3 (15 %, 6 % to 32 %) and the king in 1 (5 %, 1 % to 20 %)" in leaks
    assert where(tmp_path)[stems[0]] == ["defeat"]
    assert "| second look | 1 | – | – | 0.25 USD |" in section(tmp_path, "What it took")
    assert "--confirm" not in section(tmp_path, "Next")
    assert "90.0 → 60.0" in [row[0] for row in all_turns(tmp_path)]


def test_labels_are_read_and_a_mistyped_file_is_told(tmp_path):
    stems = make_run(tmp_path, [FINAL, FINAL, DEFEAT, DEFEAT])
    lines = ["stem,preferred,seconds,sha"]
    report(tmp_path)
    shas = {turn["stem"]: turn["sha"] for turn in page_facts(tmp_path)["turns"]}
    for stem, preferred in zip(stems, ("challenger", "king", "king", "skip")):
        lines.append(f"{stem},{preferred},3.5,{shas[stem]}")
    labels = tmp_path / "report/labels.csv"
    labels.write_text("\n".join(lines) + "\n")
    report(tmp_path)
    told = section(tmp_path, "Your labels")
    assert "3 labels count (1 skipped, 0 of replies" in told
    assert "Of 2 in final/ you find **1 (50 %)** not worse" in told
    assert f"[{stems[1]}](turns.html#{stems[1]}): you king, the panel 90.0" in told
    labels.write_text("\n".join([*lines, "nonsense"]) + "\n")
    stopped = report(tmp_path, code=2).stderr
    assert "labels.csv, line 6" in stopped and len(stopped.splitlines()) <= 2


def test_costs_are_of_all_tries(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 2)
    tries = {"prompt_tokens": 5000, "completion_tokens": 70}
    for stem in stems:
        meta = get(tmp_path / f"answer_0/{stem}.json")["meta"]
        meta["king"] |= {"usage": {}, "usage_all_tries": {}, "cost_usd": None}
        meta["challenger"] |= {"usage_all_tries": tries, "cost_usd": 0.5}
        older = {"challenger": "an older one", "usage_all_tries": tries, "cost_usd": 1}
        meta["retired"] = [older, "odd"]
        edit(tmp_path / f"answer_0/{stem}.json", meta=meta)
    report(tmp_path)
    took = section(tmp_path, "What it took")
    assert f"judge {JUDGES[0]} |" in took
    assert "| king by maker-a/writer | 2 | – | – | not known |" in took
    assert "| challenger by maker-a/writer | 4 | 20,000 | 280 | 3.00 USD |" in took


def test_points_to_look_at_are_raised_by_the_figures_alone(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 30, instances=30, chars=100)
    report(tmp_path)
    points = section(tmp_path, "Points to look at")
    assert "Overlap with benchmarks was not checked" in points
    lists = [{"name": "swe", "state": "not checked", "why": "no network"}]
    edit(tmp_path / "prompt/_plan.json", benchmarks={"lists": lists})
    report(tmp_path)
    points = section(tmp_path, "Points to look at")
    assert points.strip().startswith("- **Overlap with swe was not checked** (no network)")
    edit(tmp_path / "prompt/_plan.json", benchmarks={"lists": [{"state": "checked"}]})
    report(tmp_path)
    assert "Nothing in these figures stands out." in read(tmp_path / "report/report.md")
    duel = get(tmp_path / "score/_duel.json")
    odd = {
        **duel["judges"][JUDGES[0]],
        "parse_rate": 0.51,
        "position_consistency": 0.3,
        "pull": 0.4,
    }
    duel["judges"][JUDGES[0]] = odd
    duel["leave_one_out"][JUDGES[1]] = {**duel["without_generator"], "accepted": False}
    put(tmp_path / "score/_duel.json", duel)
    for stem in stems[:12]:
        rewrite(tmp_path, stem, king="x")
        rejudge(tmp_path, stem, MOST)
    for stem in stems[12:]:
        rewrite(tmp_path, stem, king="x" * 9000)
        rejudge(tmp_path, stem, REFINED)
    report(tmp_path)
    points = read(tmp_path / "report/report.md").split("## Points to look at")[1].split("\n## ")[0]
    for said in (
        f"- {JUDGES[0]}: unreadable: 51% of its answers could be read; unsteady: 30% of its calls "
        "were the same in both orders; drawn to the reply shown second: position bias +0.40.",
        f"hangs on a judge**; what it would be without: {JUDGES[1]} not accepted.",
    ):
        assert said in points, (said, points)


def test_a_missing_or_outdated_verdict_is_said(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 4)
    rejudge(tmp_path, stems[0], DEFEAT)
    assert "stale" in report(tmp_path).stdout
    assert "out of date" in read(tmp_path / "report/report.md")
    redo_duel(tmp_path)
    defaults = check_config({}, None)
    panel = {model: defaults.judge_call(model).sampling() for model in defaults.judge.models}
    edit(tmp_path / "score/_duel.json", config={"judges": panel, "duel": vars(defaults.duel)})
    report(tmp_path)
    assert "out of date" not in read(tmp_path / "report/report.md")
    for section in ({"judge": {"temperature": 0.1}}, {"duel": {"win_margin": 9.0}}):
        write_settings(tmp_path, **section)
        assert "chain.toml" in report(tmp_path).stdout
    edit(tmp_path / "score/_duel.json", mean_score=None, accepted=None, why="no turn is judged")
    report(tmp_path)
    assert "**Too few to tell.** no turn is judged." in read(tmp_path / "report/report.md")
    (tmp_path / "score/_duel.json").unlink()
    report(tmp_path)
    assert "no verdict yet" in read(tmp_path / "report/report.md").splitlines()[0]


def test_what_was_left_out_is_named_with_its_size(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 6, instances=6)
    large, missing = [get(tmp_path / f"answer_0/{stem}.json")["instance_id"] for stem in stems[:2]]
    record = make_record(0, patch="+" * 250_000, issue="", description="", instance_id=large)
    put(tmp_path / f"commit/{large}.json", record)
    (tmp_path / f"commit/{missing}.json").unlink()
    report(tmp_path)
    text = read(tmp_path / "report/hugePR.md")
    assert re.search(rf"{large}.*too large.*\| 250,000 \| 250,000 \| 1 \|", text), text
    assert f"commit/{missing}.json is missing" in text
    assert "x__y-1" in text and "benchmark" in text


# ------------------------------------------------------------- what was excluded after the fact


def test_an_instance_that_is_excluded_later_is_asked_and_exported_no_more(tmp_path):
    """Of four turns the second is judged, the third has a challenger, the fourth a king alone."""
    stems = write_turns(tmp_path, 4)
    edit(tmp_path / f"answer_0/{stems[3]}.json", challenger="")
    held = get(tmp_path / f"answer_0/{stems[2]}.json")["challenger"]
    edit(tmp_path / f"answer_0/{stems[2]}.json", challenger="")
    prompts = [make_prompt(number, chars=40) for number in range(1, 5)]
    put(tmp_path / "prompt/prompts_40_1.json", prompts)
    with Server(by_merit) as server:
        write_panel(tmp_path)
        validate(tmp_path, server)
        edit(tmp_path / f"answer_0/{stems[2]}.json", challenger=held)
        report(tmp_path)
        assert where(tmp_path) == {stems[0]: ["final"], stems[1]: ["final"]}
        for number in (2, 3, 4):
            large = make_record(number, description="x" * 9000)
            put(tmp_path / f"commit/acme__widgets-{number}.json", large)
        settings = read(tmp_path / "chain.toml")
        limit = "[generate]\nmax_record_chars = 5000"
        (tmp_path / "chain.toml").write_text(settings.replace("[generate]", limit))
        asked = len(server.chats)
        too_large = "PR record too large for the challenger's prompt (over 5,000 characters)"
        for script, count in (("ch.py", 1), ("validate.py", 2)):
            done = stage(script, cwd=tmp_path, server=server)
            assert done.returncode == 0 and f"skipped {count:>6}  {too_large}" in done.stdout
        assert len(server.chats) == asked, "nothing is asked for an excluded instance"
    assert get(tmp_path / "score/_duel.json")["turns"]["answered"] == 1
    told = report(tmp_path, "--with-refined").stdout
    assert "next" not in told, "nothing is missing"
    assert where(tmp_path) == {stems[0]: ["final"], stems[1]: ["refined"]}
    assert {row["stem"] for row in exported(tmp_path)} == {stems[0]}
    copy = get(tmp_path / f"refined/{stems[1]}.json")
    assert copy["reason"].startswith(f"Held back from final/: {too_large}")
    assert [row["status"] for row in read_csv(tmp_path)] == [
        "parsed", "parsed", "excluded", "excluded",
    ]  # fmt: skip
    assert "is judged, but for 2 of instances" in section(tmp_path, "What is not done")
    for text in (told, read(tmp_path / "report/report.md"), read(tmp_path / "export/README.md")):
        assert "1 turn left out, of instances that were excluded later" in text
        assert "turn held back" not in text, "an audit has refused none"
    assert "for want of a PR record: 0 prompts" in section(tmp_path, "What is not done")
    page = read(tmp_path / "report/hugePR.md")
    assert "excluded after they had been answered there are 3 turns, 1 of them judged" in page
    assert "Of 4 prompts, 0 got no king and no challenger." in page


# ------------------------------------------------------------------- judges that cannot be read


def test_a_judge_that_cannot_be_read_is_to_be_dropped_and_what_it_took_stays(tmp_path):
    write_turns(tmp_path, 14)
    prose = lambda body: "I prefer the first reply."  # noqa: E731
    with Server(mixed(third=prose, second=lambda body: call(0))) as server:
        write_panel(tmp_path)
        stage("validate.py", cwd=tmp_path, server=server)
        told = report(tmp_path)
        steps = section(tmp_path, "Next")
        assert steps.strip().startswith("1. **Drop a judge**") and "c/third 0 % could be" in steps
        assert "It costs nothing" in steps and "--retry-failed" not in steps + told.stdout
        points = section(tmp_path, "Points to look at")
        assert "c/third: unreadable: 0% of its answers" in points
        assert 'b/second: nearly always undecided: 100% of its calls are "equal"' in points
        write_panel(tmp_path, ["a/steady", "b/second"])
        asked = len(server.chats)
        validate(tmp_path, server)
        assert len(server.chats) == asked
    report(tmp_path)
    took = section(tmp_path, "What it took")
    assert re.search(r"judge c/third, no longer in the panel \| [1-9]", took)
    assert "Drop" not in section(tmp_path, "Next")


def test_a_panel_of_which_nothing_can_be_read_decides_nothing(tmp_path):
    make_run(tmp_path, [FINAL] * 3)
    duel = get(tmp_path / "score/_duel.json")
    for name in JUDGES:
        duel["judges"][name] = {**duel["judges"][name], "parse_rate": 0.0}
    why = "not decided: no verdict could be read; 3 turns are unfinished"
    of_today = {"accepted": None, "mean_score": None, "interval": None, "why": why}
    put(tmp_path / "score/_duel.json", {**duel, **of_today})
    report(tmp_path)
    text = read(tmp_path / "report/report.md")
    assert text.startswith(
        "# Challenger against king: not decided\n\n**Not decided.** no verdict could be read; "
    )
    steps = section(tmp_path, "Next")
    assert steps.strip().startswith("1. **Change the judges**")
    assert "Train" not in steps and "--retry-failed" not in steps


def test_what_is_next_fits_the_verdict_and_is_a_line_a_step(tmp_path):
    stems = make_run(tmp_path, [DEFEAT] * 8 + [FINAL] * 2)
    report(tmp_path)
    steps = section(tmp_path, "Next")
    assert "**See where the challenger falls short**: [by metric](#the-numbers)" in steps
    assert "Train" not in steps and "State the licence" not in steps
    edit(tmp_path / "score/_duel.json", accepted=None, why="too few to tell: 5 instances")
    report(tmp_path)
    assert "**Judge more instances**: `python prompt.py --count N`" in section(tmp_path, "Next")
    edit(tmp_path / f"answer_0/{stems[0]}.json", challenger="")
    (tmp_path / f"score/{stems[0]}.json").unlink()
    (tmp_path / f"score/{stems[1]}.json").unlink()
    told = report(tmp_path).stdout
    lines = ["python ch.py", "python validate.py", "python report.py"]
    assert "```bash\n   " + "\n   ".join(lines) + "\n   ```" in section(tmp_path, "Next")
    assert told.endswith("  next    " + "\n          ".join(lines) + "\n")


# ---------------------------------------------------------------------------------- flags, input


def test_torn_files_are_named_with_the_stage_that_mends_them(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 4)
    torn = {
        f"answer_0/{stems[0]}.json": "king.py",
        f"score/{stems[1]}.json": "validate.py",
        "prompt/prompts_4_1.json": "prompt.py",
        "prompt/_plan.json": "prompt.py",
        "score/_duel.json": "validate.py",
    }
    for name in torn:
        (tmp_path / name).write_text('{"stem": ')
    edit(tmp_path / f"score/{stems[2]}.json", parsed=False)
    report(tmp_path, code=1)
    failed = json_lines(tmp_path / "report/_failed.jsonl")
    for name, script in {**torn, f"score/{stems[2]}.json": "validate.py"}.items():
        (row,) = [row for row in failed if row["reason"].startswith(f"{name}: ")]
        assert row["kind"] == f"torn or foreign file, mended by python {script}"
    assert where(tmp_path) == {stems[3]: ["final"]}


def test_identical_replies_and_scores_of_older_versions_are_taken(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 3)
    path = tmp_path / f"answer_0/{stems[0]}.json"
    answer = edit(path, challenger=get(path)["king"])
    halves = {"metrics": dict.fromkeys(METRICS, 50.0), "by_judge": dict.fromkeys(JUDGES, 50.0)}
    score = make_score(stems[0], answer, MOST // 2)
    put(tmp_path / f"score/{stems[0]}.json", {**score, **halves, "counted": [], "verdicts": []})
    score = get(tmp_path / f"score/{stems[1]}.json")
    del score["counted"]
    for verdict in score["verdicts"]:
        del verdict["look"]
    put(tmp_path / f"score/{stems[1]}.json", score)
    redo_duel(tmp_path)
    report(tmp_path)
    assert [where(tmp_path)[stem] for stem in stems] == [["defeat"], ["final"], ["final"]]


def test_limit_is_a_trial_that_touches_no_bucket(tmp_path):
    make_run(tmp_path, [FINAL] * 12)
    report(tmp_path, "--limit", "5")
    assert not any((tmp_path / folder).exists() for folder in (*BUCKETS, "export"))
    page = read(tmp_path / "report/report.md")
    assert "first 5 scored turns" in page
    assert "the scores rest on 12 instances" in page, "the verdict is of the whole run"
    assert len(read_csv(tmp_path)) == 5


def test_missing_input_names_the_stage_that_makes_it(tmp_path):
    done = report(tmp_path, code=2)
    assert "validate.py" in done.stderr and len(done.stderr.splitlines()) <= 2
    make_run(tmp_path, [FINAL])
    for path in (tmp_path / "answer_0").iterdir():
        path.unlink()
    last_copy = {**make_answer(0), "score": 90.0, "metrics": {}, "reason": ""}
    put(tmp_path / "final/prompts_1_1_1.json", last_copy)
    assert "king.py" in report(tmp_path, code=2).stderr
    assert where(tmp_path) == {"prompts_1_1_1": ["final"]}


def test_an_answer_in_any_answer_folder_counts(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 3)
    (tmp_path / "answer_2").mkdir()
    (tmp_path / f"answer_0/{stems[1]}.json").rename(tmp_path / f"answer_2/{stems[1]}.json")
    report(tmp_path)
    assert len(where(tmp_path)) == 3
    assert page_facts(tmp_path)["turns"][1]["file"] == f"answer_2/{stems[1]}.json"
