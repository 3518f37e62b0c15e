"""report.py as its user runs it, in a folder that holds what the earlier stages write."""

from __future__ import annotations

import csv
import json
import random
import re
import time
from pathlib import Path

import pytest

from common.config import check_config
from common.turns import BUCKETS, METRICS
from makers import (
    JUDGES,
    MOST,
    get,
    make_answer,
    make_record,
    make_reply,
    make_run,
    make_score,
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
from runner import start

pytestmark = pytest.mark.background

# ---------------------------------------------------------------------------------------- buckets


def test_buckets_are_exact_at_the_thresholds(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 6)
    five_judges = [f"judge-{number}" for number in range(5)]  # 100 half-points
    for stem, points in zip(stems, [80, 79, 66, 65]):
        rejudge(tmp_path, stem, points, five_judges)
    rejudge(tmp_path, stems[4], 48)  # of 60
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
    report(tmp_path, "--check", code=1)
    redo_duel(tmp_path)
    report(tmp_path)
    after = where(tmp_path)
    assert set(after) == set(stems) and after != before
    assert all(len(buckets) == 1 for buckets in after.values())
    report(tmp_path, "--check")


def test_a_killed_report_loses_nothing_and_the_next_one_repairs_it(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 150, chars=200)
    report(tmp_path)
    chance = random.Random(5)
    cut_short = 0
    for round_number in range(6):
        points, bucket = [(DEFEAT, "defeat"), (FINAL, "final")][round_number % 2]
        for stem in stems:
            rejudge(tmp_path, stem, points)
        process = start("report.py", cwd=tmp_path)
        wanted = chance.randrange(1, 140)
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
    report(tmp_path, "--check")
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
    assert "1 parse-fail" in text and "1 stale" in text
    for command in ("python ch.py", "python validate.py", "python validate.py --retry-failed"):
        assert command in text and command in done.stdout
    assert [row["item"] for row in json_lines(tmp_path / "report/_failed.jsonl")] == [stems[4]]
    assert [row["status"] for row in read_csv(tmp_path)] == [
        "stale", "parse-fail", "unfinished", "no challenger", "broken", "parsed",
    ]  # fmt: skip
    checked = report(tmp_path, "--check", code=1).stdout
    assert f"stale, mended by: python validate.py: 1\n  score/{stems[0]}.json" in checked
    assert f"score/{stems[4]}.json: not a whole JSON document" in checked
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
    assert "2 held back" in read(tmp_path / "report/report.md")
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
        edit(tmp_path / f"score/{stem}.json", reason=HOSTILE, by_judge=by_judge, flags=[HOSTILE])
        meta = get(tmp_path / f"answer_0/{stem}.json")["meta"]
        meta["repo"] = HOSTILE
        meta["challenger"]["model"] = HOSTILE
        meta["challenger"]["leaks"] = {"version": 0, "hits": [leak]}
        rewrite(tmp_path, stem, instance_id=HOSTILE, meta=meta)
    edit(tmp_path / "score/_duel.json", why=HOSTILE)
    passed_over = {"instance_id": HOSTILE, "repo": HOSTILE, "reason": HOSTILE}
    plan = {"dataset": HOSTILE, "revision": HOSTILE, "excluded": [passed_over]}
    edit(tmp_path / "prompt/_plan.json", **plan)
    failed = {"item": HOSTILE, "stage": "king.py", "kind": HOSTILE, "reason": HOSTILE}
    (tmp_path / "answer_0/_failed.jsonl").write_text(json.dumps(failed) + "\nnot json\n")
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
    failed = {"item": "prompts_24_1_9", "stage": "ch.py", "kind": "leak (path)", "reason": "x"}
    put(tmp_path / "answer_0/_failed.jsonl", failed)
    report(tmp_path)
    text = read(tmp_path / "report/report.md")
    first = text.splitlines()[:3]
    assert first[0] == "# Challenger against king: accepted"
    assert first[2].startswith("**Accepted.** margin")
    mean_score = get(tmp_path / "score/_duel.json")["mean_score"]
    for said in (
        "24 answered, **24 parsed**",
        f"**{mean_score:.1f}** of 100, 90 % interval",
        "[final/](../final) 6 (25 %)",
        "revision abc123, seed 7",
        "2026-01-02T04:00:00",
        "king by maker-a/writer",
        "0.50 USD",
        "xychart-beta",
        "line [80, 80",
        "line [66, 66",
        "80 to 90",
        "position bias",
        "Krippendorff",
        "| path | 0 | 3 | 24 |",
        "*few*",
        "leak (path)",
        "[prompts_24_1_1](../answer_0/prompts_24_1_1.json)",
    ):
        assert said in text, said
    listed = [line for line in text.split("## All turns")[1].splitlines() if "answer_0" in line]
    assert len(listed) == 24
    scores = [float(line.split("|")[1]) for line in listed]
    assert scores == sorted(scores, reverse=True)


def test_a_large_run_shows_the_ends_and_keeps_the_rest_in_the_table(tmp_path):
    stems = make_run(tmp_path, [number % (MOST + 1) for number in range(150)], chars=100)
    apart = {JUDGES[0]: 100.0, JUDGES[1]: 0.0, JUDGES[2]: 50.0}
    edit(tmp_path / f"score/{stems[7]}.json", by_judge=apart)
    report(tmp_path)
    text = read(tmp_path / "report/report.md")
    assert "## All turns" not in text and len(text) < 60_000
    assert text.count("../answer_0/") < 120
    disputed = text.split("### Most disputed")[1].split("../answer_0/")
    assert disputed[1].startswith(f"{stems[7]}.json")
    rows = read_csv(tmp_path)
    assert [row["stem"] for row in rows] == stems
    assert {row["bucket"] for row in rows} == set(BUCKETS)


def test_points_to_look_at_are_raised_by_the_figures_alone(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 30, instances=30, chars=100)
    report(tmp_path)
    assert "Nothing in these figures stands out." in read(tmp_path / "report/report.md")
    duel = get(tmp_path / "score/_duel.json")
    odd = {**duel["judges"][JUDGES[0]], "parse_rate": 0.5, "position_consistency": 0.3, "pull": 0.4}
    duel["judges"][JUDGES[0]] = odd
    duel["leave_one_out"][JUDGES[1]] = {**duel["without_generator"], "accepted": False}
    duel["without_generator"] = {**duel["without_generator"], "accepted": None}
    duel["turns"]["identical"] = 9
    put(tmp_path / "score/_duel.json", {**duel, "parsed_frac": 0.5})
    for stem in stems[:12]:
        rewrite(tmp_path, stem, king="x")
        rejudge(tmp_path, stem, 60)
    edit(tmp_path / f"score/{stems[3]}.json", flags=["challenger: speaks to the judges"])
    for stem in stems[12:]:
        rewrite(tmp_path, stem, king="x" * 9000)
        rejudge(tmp_path, stem, REFINED)
    report(tmp_path)
    points = read(tmp_path / "report/report.md").split("## Points to look at")[1].split("\n## ")[0]
    for said in (
        f"{JUDGES[0]} is often unreadable** (50 %",
        f"{JUDGES[0]} is unsteady**: the same call in both orders in only 30 %",
        f"{JUDGES[0]} has a position bias toward the second reply** (+0.40",
        f"hangs on {JUDGES[1]}**: without it the run would be: not accepted",
        "own model decides**: the panel without it says: too few to tell",
        "Turns without a full verdict**: 50 %",
        "9 turns with identical replies",
        "longer challengers score +30 points",
        "1 turn with text aimed at the judges**, such as [prompts_30_1_4]",
    ):
        assert said in points, (said, points)


def test_a_missing_or_outdated_verdict_is_said(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 4)
    rejudge(tmp_path, stems[0], DEFEAT)
    assert "stale" in report(tmp_path).stdout
    assert "out of date" in read(tmp_path / "report/report.md")
    checked = report(tmp_path, "--check", code=1).stdout
    assert "stale verdict, mended by: python validate.py" in checked
    redo_duel(tmp_path)
    edit(tmp_path / "score/_duel.json", config={"duel": {"win_margin": 9.0}})
    report(tmp_path)
    assert "chain.toml" in read(tmp_path / "report/report.md").split("##")[0]
    (tmp_path / "score/_duel.json").unlink()
    report(tmp_path)
    assert "no verdict yet" in read(tmp_path / "report/report.md").splitlines()[0]


def test_check_sees_that_chain_toml_asks_for_another_panel_now(tmp_path):
    make_run(tmp_path, [FINAL] * 6)
    defaults = check_config({}, None)
    panel = {model: defaults.judge_call(model).sampling() for model in defaults.judge.models}
    edit(tmp_path / "score/_duel.json", config={"judges": panel})
    report(tmp_path)
    report(tmp_path, "--check")
    write_settings(tmp_path, judge={"temperature": 0.1})
    assert "python validate.py" in report(tmp_path, "--check", code=1).stdout


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


# --------------------------------------------------------------------------- --check, flags, input


@pytest.fixture
def checked_run(tmp_path):
    """A run of six turns that --check finds nothing in."""
    make_run(tmp_path, [FINAL, REFINED, DEFEAT] * 2)
    report(tmp_path)
    report(tmp_path, "--check")
    return tmp_path


STEM = "prompts_6_1_1"  # in final/


# A file, what becomes of it (None: removed; a text: that; keys: replaced), and what --check says.
HARMS = [
    (f"final/{STEM}.json", None, "is missing"),
    (f"final/{STEM}.json", {"score": 99.0}, "is out of date"),
    ("export/dpo-train.jsonl", "{}\n", "is out of date"),
    ("report/turns.csv", None, "is missing"),
    (f"answer_0/{STEM}.json", "{", "not a whole JSON document"),
    (f"answer_0/{STEM}.json", None, "has no answer"),
    (f"score/{STEM}.json", {"score": 12.0}, "is not 100 * points / max_points"),
    (f"score/{STEM}.json", {"parsed": False}, "'parsed' and 'status' contradict each other"),
    (f"score/{STEM}.json", {"counted": []}, "points that do not follow from the verdicts"),
    ("prompt/prompts_6_1.json", "[{", "mended by python prompt.py"),
    ("prompt/_plan.json", "[]", "mended by python prompt.py"),
    ("score/_duel.json", "", "mended by python validate.py"),
]


def check_finds(folder: Path, *said: str) -> None:
    """Check that --check says all this, and writes nothing."""
    before = state(folder)
    printed = report(folder, "--check", code=1).stdout
    for words in said:
        assert words in printed, printed
    assert state(folder) == before


@pytest.mark.parametrize("name, harm, said", HARMS)
def test_check_finds_what_is_wrong(checked_run, name, harm, said):
    path = checked_run / name
    if harm is None:
        path.unlink()
    elif isinstance(harm, str):
        path.write_text(harm)
    else:
        edit(path, **harm)
    check_finds(checked_run, said, path.name)


@pytest.mark.parametrize(
    "source, target, said",
    [
        (f"final/{STEM}.json", f"defeat/{STEM}.json", "lies in the wrong bucket"),
        (f"answer_0/{STEM}.json", f"answer_1/{STEM}.json", "answered twice"),
    ],
)
def test_check_finds_a_file_too_many(checked_run, source, target, said):
    put(checked_run / target, get(checked_run / source))
    check_finds(checked_run, said, target)


def test_check_finds_buckets_that_are_not_of_the_present_scores(checked_run):
    rejudge(checked_run, STEM, DEFEAT)
    check_finds(checked_run, "mended by: python report.py", f"defeat/{STEM}.json is missing")


def test_check_counts_the_points_again(checked_run):
    path = checked_run / f"score/{STEM}.json"
    score = get(path)
    calls = score["verdicts"][0]["calls"]
    calls["correctness"] = 3 - calls["correctness"]  # the opposite, the points left as they are
    put(path, score)
    check_finds(checked_run, "points that do not follow from the verdicts", "54 of 60")


def test_check_takes_identical_replies_and_scores_of_older_versions(checked_run):
    path = checked_run / f"answer_0/{STEM}.json"
    answer = edit(path, challenger=get(path)["king"])
    score = make_score(STEM, answer, MOST // 2)
    halves = {"metrics": dict.fromkeys(METRICS, 50.0), "by_judge": dict.fromkeys(JUDGES, 50.0)}
    put(checked_run / f"score/{STEM}.json", {**score, **halves, "counted": [], "verdicts": []})
    for stem in ("prompts_6_1_2", "prompts_6_1_3"):
        score = get(checked_run / f"score/{stem}.json")
        del score["counted"]
        for verdict in score["verdicts"]:
            del verdict["look"]
        score["verdicts"].pop()  # with no list of those that count nothing can be said
        put(checked_run / f"score/{stem}.json", score)
    redo_duel(checked_run)
    report(checked_run)
    report(checked_run, "--check")
    assert where(checked_run)[STEM] == ["defeat"]


def test_limit_is_a_trial_that_touches_no_bucket(tmp_path):
    make_run(tmp_path, [FINAL] * 12)
    report(tmp_path, "--limit", "5")
    assert not any((tmp_path / folder).exists() for folder in (*BUCKETS, "export"))
    assert "first 5 scored turns" in read(tmp_path / "report/report.md")
    assert len(read_csv(tmp_path)) == 5
    report(tmp_path, "--limit", "5", "--check", code=2)


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
    assert f"../answer_2/{stems[1]}.json" in read(tmp_path / "report/report.md")
