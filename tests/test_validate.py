"""validate.py as a user runs it, over HTTP, against judges with a known bias, noise or habit."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter

import numpy as np
import pytest

import panel
from common.config import METRICS
from common.demo.server import Server
from common.duel.statistics import agreement, habits, kept_again
from judges import (
    JUDGES,
    SECRET,
    by_merit,
    by_seat,
    calls,
    duel,
    mixed,
    planted,
    replies_of,
    score,
    validate,
    write_panel,
    write_turn,
    write_turns,
)
from makers import get, put
from runner import assert_no_key, paused, start

pytestmark = pytest.mark.background


def test_position_only_judges_decide_nothing(tmp_path):
    stems = write_turns(tmp_path, 8)
    write_panel(tmp_path)
    with Server(reply=by_seat) as server:
        validate(tmp_path, server)
    assert len(server.chats) == 8 * 3 * 2
    assert [score(tmp_path, stem)["score"] for stem in stems] == [50.0] * 8
    whole = duel(tmp_path)
    assert whole["accepted"] is False
    assert whole["margin"] == 0 and whole["lcb"] == 0
    for judge in whole["judges"].values():
        assert judge["pull"] == 1 and judge["position_consistency"] == 0


def test_merit_wins_and_the_whole_is_stated(tmp_path):
    stems = write_turns(tmp_path, 8)
    write_panel(tmp_path)
    with Server(reply=mixed(second=by_seat)) as server:
        result = validate(tmp_path, server)
    assert "python report.py" in result.stdout
    record = score(tmp_path, stems[0])
    most = 2 * len(METRICS) * 6  # of six verdicts; a third of them are draws or cancel out
    assert (record["points"], record["max_points"], record["parsed"]) == (most * 5 // 6, most, True)
    assert record["score"] == 100 * 5 / 6 and set(record["metrics"]) == set(METRICS)
    assert record["by_judge"] == {"a/steady": 100, "b/second": 50, "c/third": 100}
    assert len(record["verdicts"]) == len(record["counted"]) == 6
    orders = Counter(found["order"] for found in record["verdicts"])
    assert orders == {"challenger-first": 3, "challenger-second": 3}
    assert {found["look"] for found in record["verdicts"]} == {1}
    assert record["reason"].startswith("a/steady")
    whole = duel(tmp_path)
    assert whole["accepted"] is True
    assert whole["turns"]["parsed"] == 8 and whole["parsed_frac"] == 1
    assert whole["leave_one_out"]["b/second"]["mean_score"] == 100
    assert whole["without_generator"]["mean_score"] == 75
    assert whole["judges"]["a/steady"]["calls"] == 16
    assert whole["usage"]["prompt_tokens"] > 0
    check_blindness(server)
    assert_no_key(tmp_path, result.stdout, result.stderr)


def check_blindness(server: Server) -> None:
    """No judge sees the PR or who wrote what; the replies swap seats, all before them stays."""
    pairs_by_prefix: dict[str, set] = {}
    for chat in server.chats:
        messages = chat["body"]["messages"]
        assert len(messages) == 2
        system = messages[0]["content"]
        user = messages[1]["content"]
        assert SECRET not in user and "maker-a/writer" not in user
        words = r"\bking\b|challenger|\bassistant\b|reference"
        assert not re.search(words, user + system, re.IGNORECASE)
        one, two = replies_of(chat["body"])
        pairs_by_prefix.setdefault(user[: user.index(one)], set()).add((one, two))
    assert len(pairs_by_prefix) == 8  # one prefix per turn, for all judges and both orders
    for pairs in pairs_by_prefix.values():
        assert len(pairs) == 2 and {pair[::-1] for pair in pairs} == pairs


def test_only_what_an_edit_touches_is_asked_again(tmp_path):
    stems = write_turns(tmp_path, 40)
    with Server(reply=by_merit) as server:
        write_panel(tmp_path, JUDGES[:2])
        assert calls(tmp_path, server) == 160

        write_panel(tmp_path)
        dry = validate(tmp_path, server, "--dry-run")
        assert "c/third: 80 calls" in dry.stdout and "a/steady" not in dry.stdout
        assert len(server.chats) == 160
        assert calls(tmp_path, server) == 80  # a third judge over 40 turns

        write_panel(tmp_path, JUDGES[1:], duel={"win_margin": 100})
        assert calls(tmp_path, server) == 0
        assert duel(tmp_path)["accepted"] is True
        assert duel(tmp_path)["config"]["duel"]["win_margin"] == 100
        assert score(tmp_path, stems[0])["max_points"] == 2 * len(METRICS) * 4
        assert len(score(tmp_path, stems[0])["verdicts"]) == 6

        write_panel(tmp_path, **{"c/third": {"temperature": 0.9}})
        assert calls(tmp_path, server) == 80
        assert {chat["body"]["model"] for chat in server.chats[-80:]} == {"c/third"}

        write_turn(tmp_path, 7, challenger="GOOD and new.")
        assert calls(tmp_path, server) == 6
        for chat in server.chats[-6:]:
            assert "GOOD and new" in "".join(replies_of(chat["body"]))

        assert calls(tmp_path, server, "--limit", "5", DUEL_MODE="1") == 30
        one = score(tmp_path, stems[0])
        assert one["mode"] == 1
        assert len([found for found in one["verdicts"] if found["mode"] == 1]) == 6
        assert duel(tmp_path)["opponent"] == "reference"
        assert duel(tmp_path)["turns"] == {
            "answered": 40, "parsed": 5, "parse_fail": 0, "unfinished": 35, "identical": 0,
        }  # fmt: skip
        assert calls(tmp_path, server) == 0
        assert score(tmp_path, stems[0])["mode"] == 2
        assert duel(tmp_path)["turns"]["parsed"] == 40


def test_the_duel_says_what_its_own_verdicts_say(tmp_path):
    """Agreement and the fall of kept turns, from the files alone."""
    random = np.random.default_rng(21)
    turns = panel.make_turns(random, [2] * 15, 0.6)
    points = panel.judged(random, turns, panel.TYPICAL)
    for number in range(1, 31):
        write_turn(tmp_path, number, instance_id=f"i-{number % 15}")
    write_panel(tmp_path)
    with Server(reply=planted(points, JUDGES)) as server:
        validate(tmp_path, server)
    whole = duel(tmp_path)
    scores = panel.scores(points)
    assert whole["mean_score"] == pytest.approx(scores.mean())
    assert whole["instances"] == 15 and whole["turns_counted"] == 30
    told = kept_again(points)
    assert told["kept"] >= 3
    assert whole["kept_again"] == {key: pytest.approx(told[key]) for key in told}
    assert whole["agreement"]["value"] == pytest.approx(agreement(points))
    for place, name in enumerate(JUDGES):
        judge = whole["judges"][name]
        assert judge["score"] == pytest.approx(panel.scores(points[:, [place]]).mean())
        assert judge["pull"] == pytest.approx(habits(points[:, place])["pull"])


def test_a_kill_costs_no_more_than_the_calls_in_flight(tmp_path):
    stems = write_turns(tmp_path, 12)
    write_panel(tmp_path, judge={"concurrency": 3})
    with Server(reply=by_merit, latency_s=0.08) as server:
        process = start("validate.py", cwd=tmp_path, server=server)
        deadline = time.monotonic() + 30
        while len(server.chats) < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert 40 <= len(server.chats) < 72
        saved = 0
        for path in (tmp_path / "score").glob("p*.json"):
            saved += len(get(path)["verdicts"])  # every file is whole
        assert 0 < saved < 72
        validate(tmp_path, server)
        # Those in flight, and a reply per judge that was being written.
        assert len(server.chats) <= 72 + 9 + 3
        assert all(score(tmp_path, stem)["parsed"] for stem in stems)
        assert not list((tmp_path / "score").glob(".*.tmp"))


def test_shards_share_the_work_and_leave_the_aggregate(tmp_path):
    write_turns(tmp_path, 10)
    write_panel(tmp_path)
    with Server(reply=by_merit, latency_s=0.1) as server:
        shards = []
        for number in range(2):
            flags = ("--shard", f"{number}/2")
            shards.append(start("validate.py", *flags, cwd=tmp_path, server=server))
        while not server.chats:
            time.sleep(0.01)
        with paused(shards[0]), paused(shards[1]):
            overlapping = validate(tmp_path, server, "--shard", "1/3", code=2)
        assert "is at work" in overlapping.stderr
        for shard in shards:
            shard.communicate(timeout=60)
            assert shard.returncode == 0
        assert len(server.chats) == 60
        assert not (tmp_path / "score/_duel.json").exists()
        validate(tmp_path, server)
        assert len(server.chats) == 60 and duel(tmp_path)["turns"]["parsed"] == 10


def test_what_an_older_version_stopped_is_judged_on(tmp_path):
    stems = write_turns(tmp_path, 6)
    write_panel(tmp_path)
    with Server(reply=by_merit) as server:
        validate(tmp_path, server)
        before = duel(tmp_path)
        for stem in stems[:2]:
            stopped = score(tmp_path, stem)
            del stopped["verdicts"][2:]
            stopped |= {"status": "stopped", "parsed": False, "bounds": [0, 66.7], "flags": []}
            put(tmp_path / f"score/{stem}.json", stopped)
        assert calls(tmp_path, server, "--limit", "1") == 4
        assert duel(tmp_path)["turns"]["unfinished"] == 1
        assert calls(tmp_path, server) == 4
        assert duel(tmp_path) == before
        write_panel(tmp_path, judge={"stop_early": True})
        result = validate(tmp_path, server, code=2)
        assert "[judge] has no key 'stop_early'" in result.stderr


def test_a_rerun_changes_no_file(tmp_path):
    write_turns(tmp_path, 6)
    write_panel(tmp_path)
    with Server(reply=mixed(second=by_seat)) as server:
        validate(tmp_path, server)
        before = {path: path.read_bytes() for path in (tmp_path / "score").glob("*.json")}
        validate(tmp_path, server)
    assert before == {path: path.read_bytes() for path in (tmp_path / "score").glob("*.json")}


@pytest.mark.parametrize(
    "number, told", [(None, "king.py"), (1, "ch.py")], ids=["no answers", "no challengers"]
)
def test_bad_input_is_told_in_plain_words(tmp_path, number, told):
    if number:
        write_turn(tmp_path, number, challenger="")
    with Server(reply=by_merit) as server:
        result = validate(tmp_path, server, code=2)
    assert told in result.stderr and server.chats == []
