"""[judge] stop_early through validate.py: what is asked, what is written, what the gate sees."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import panel
from common.config import METRICS
from common.demo.server import Server
from common.duel.verdicts import is_full
from common.turns import bucket
from judges import (
    JUDGES,
    calls,
    challenger_is_first,
    duel,
    mixed,
    planted,
    score,
    turn_of,
    validate,
    verdict,
    write_panel,
    write_turn,
    write_turns,
)

COUNT = 24
# $ per million tokens: the second judge is the cheapest, the first the dearest.
PRICES = {"a/steady": (9.0, 9.0), "b/second": (0.1, 0.1), "c/third": (1.0, 1.0)}
MODELS = {name: (100_000, 50_000, *prices) for name, prices in PRICES.items()}
CHEAPEST_FIRST = ["b/second", "c/third", "a/steady"]


def for_challenger(body: dict) -> str:
    return verdict(1 if challenger_is_first(body) else 2)


def against(body: dict) -> str:
    """The challenger is worse by every metric."""
    return verdict(2 if challenger_is_first(body) else 1)


def stop_early(cwd: Path, on: bool = True, **sections) -> None:
    judge = {"stop_early": on, **sections.pop("judge", {})}
    write_panel(cwd, judge=judge, **sections)


def never_stopped(stems: list[str], full_share: float = 0.25) -> list[str]:
    return [stem for stem in stems if is_full(stem, full_share)]


@pytest.fixture
def simulated(tmp_path):
    """Turns, and half-points of a typical panel whose mean lies near 58."""
    random = np.random.default_rng(12)
    turns = panel.make_turns(random, [1] * COUNT, 0.35)
    return tmp_path, write_turns(tmp_path, COUNT), panel.judged(random, turns, panel.TYPICAL)


# -------------------------------------------------------------------------------------- one by one


def test_a_turn_stops_as_soon_as_no_verdict_could_bring_it_to_final(tmp_path):
    stems = write_turns(tmp_path, COUNT)
    stop_early(tmp_path)
    with Server(reply=against, models=MODELS) as server:
        result = validate(tmp_path, server)
    full = never_stopped(stems)
    assert 1 < len(full) < COUNT
    models = Counter(chat["body"]["model"] for chat in server.chats)
    # Two lost verdicts of six leave 66.7 of 100 at most; the cheapest judge gives both.
    assert models["b/second"] == 2 * COUNT
    assert models["c/third"] == models["a/steady"] == 2 * len(full)
    for stem in stems:
        record = score(tmp_path, stem)
        if stem in full:
            assert record["status"] == "parsed" and record["bounds"] == [0, 0]
            continue
        assert record["status"] == "stopped" and record["parsed"] is False
        assert (record["score"], record["points"], record["max_points"]) == (0, 0, 20)
        assert record["bounds"] == [0, pytest.approx(200 / 3)]
        assert record["metrics"] == dict.fromkeys(METRICS, 0)
        assert record["by_judge"] == {"a/steady": None, "b/second": 0, "c/third": None}
        assert "Stopped after 2 of 6 verdicts" in record["reason"]
        assert bucket(record)[0] == "defeat"
    for name, judge in duel(tmp_path)["judges"].items():
        assert judge["calls"] == models[name], "what was paid is told in full"
        assert judge["score"] == judge["contrast"]["mean"] == 0, "of the others' turns, too"
    turns = duel(tmp_path)["turns"]
    assert (turns["stopped"], turns["parsed"]) == (COUNT - len(full), len(full))
    assert f"{COUNT - len(full)} stopped" in result.stdout
    assert f"by {len(full)} of {COUNT} turns" in result.stdout


def test_the_check_is_made_after_every_single_verdict(tmp_path):
    """A first verdict that is lost leaves 83 of 100; half of the next one lost leaves 75."""
    stems = write_turns(tmp_path, COUNT)
    stop_early(tmp_path, judge={"full_share": 0.01})

    def half_lost(body):
        first = challenger_is_first(body)
        lost = 2 if first else 1
        if first:
            return verdict(lost)
        return verdict(0)

    with Server(reply=mixed(second=half_lost), models=MODELS) as server:
        validate(tmp_path, server)
    stopped = [stem for stem in stems if score(tmp_path, stem)["status"] == "stopped"]
    assert len(stopped) >= COUNT - 2
    for stem in stopped:
        verdicts = score(tmp_path, stem)["verdicts"]
        assert [found["judge"] for found in verdicts] == ["b/second"] * 2
        assert score(tmp_path, stem)["score"] == 25
        assert bucket(score(tmp_path, stem))[0] == "defeat"


def test_without_prices_the_order_is_that_of_chain_toml(tmp_path):
    write_turns(tmp_path, 4)
    stop_early(tmp_path, judge={"full_share": 0.01})
    with Server(reply=against) as server:
        validate(tmp_path, server)
    assert {chat["body"]["model"] for chat in server.chats} == {JUDGES[0]}


def test_a_turn_that_reaches_final_is_asked_in_full(tmp_path):
    stems = write_turns(tmp_path, 6)
    stop_early(tmp_path, judge={"full_share": 0.01})
    with Server(reply=for_challenger, models=MODELS) as server:
        validate(tmp_path, server)
    assert len(server.chats) == 6 * 6
    for stem in stems:
        assert score(tmp_path, stem)["status"] == "parsed"
        judged_by = [found["judge"] for found in score(tmp_path, stem)["verdicts"]]
        if not is_full(stem, 0.01):
            assert judged_by == [name for name in CHEAPEST_FIRST for _ in range(2)]


def test_a_judge_that_does_not_answer_does_not_hold_up_the_others(tmp_path):
    stems = write_turns(tmp_path, 6)
    stop_early(tmp_path, judge={"full_share": 0.01})

    def refused(n, body):
        struck = body["model"] == "b/second" and len(body["messages"]) == 2  # no one-word probe
        return "400-context" if struck and turn_of(body) < 4 else None

    with Server(reply=against, models=MODELS, faults=refused) as server:
        validate(tmp_path, server)
        for stem in stems[:3]:
            record = score(tmp_path, stem)
            assert record["status"] == "stopped"
            assert {found["judge"] for found in record["verdicts"]} == {"c/third"}
        server.reply = for_challenger
        write_turn(tmp_path, 1, challenger="GOOD and new.")
        validate(tmp_path, server, code=1)
        assert score(tmp_path, stems[0])["status"] == "unfinished"
        assert len(score(tmp_path, stems[0])["verdicts"]) == 2 + 4
        server.faults = None
        assert calls(tmp_path, server) == 2
        assert score(tmp_path, stems[0])["status"] == "parsed"


# ------------------------------------------------------------------------------- gate and finals


def test_finals_are_identical_and_the_gate_sees_the_full_share_alone(simulated):
    cwd, stems, points = simulated
    rule = planted(points, JUDGES)
    stop_early(cwd, on=False)
    with Server(reply=rule, models=MODELS) as server:
        assert calls(cwd, server) == 6 * COUNT
    whole = duel(cwd)
    complete = {stem: score(cwd, stem) for stem in stems}
    final = {stem for stem in stems if bucket(complete[stem])[0] == "final"}
    assert 2 < len(final) < COUNT
    for path in (cwd / "score").glob("*.json"):
        path.unlink()

    stop_early(cwd)
    with Server(reply=rule, models=MODELS) as server:
        asked = calls(cwd, server)
        assert asked < 6 * COUNT
        full = set(never_stopped(stems))
        for number, stem in enumerate(stems):
            record = score(cwd, stem)
            assert (bucket(record)[0] == "final") == (stem in final)
            if stem in full or stem in final:
                assert record["status"] == "parsed"
                assert record["score"] == complete[stem]["score"]
            else:
                low, high = record["bounds"]
                assert low <= panel.scores(points)[number] <= high
        stopped = duel(cwd)
        assert stopped["turns_counted"] == len(full)
        rows = [number for number, stem in enumerate(stems) if stem in full]
        assert stopped["mean_score"] == pytest.approx(panel.scores(points)[rows].mean())
        assert stopped["judges"]["b/second"]["score"] == pytest.approx(50 * points[rows, 1].mean())
        assert stopped["stop_early"]["on"] is True and stopped["stop_early"]["edge"] == 80
        assert calls(cwd, server) == 0

        # Off again: exactly what is missing, then the same as if it had never been on.
        stop_early(cwd, on=False)
        dry = validate(cwd, server, "--dry-run")
        missing = sum(map(int, re.findall(r": (\d+) calls, about [\d,]+ tokens", dry.stdout)))
        assert missing == 6 * COUNT - asked
        assert "turns that had been stopped early are judged further" in dry.stdout
        assert calls(cwd, server) == missing
        again = duel(cwd)
        for key in ("mean_score", "lcb", "interval", "accepted", "why", "turns", "metrics"):
            assert again[key] == whole[key], key
        asked_pairs = Counter()
        for chat in server.chats:
            body = chat["body"]
            asked_pairs[turn_of(body), body["model"], challenger_is_first(body)] += 1
        assert set(asked_pairs.values()) == {1}, "no verdict was paid for twice"


def test_reopened_turns_decide_nothing_until_they_are_judged(simulated):
    """Only poor turns are stopped: half of a rerun must not decide on the others alone."""
    cwd, stems, points = simulated
    stop_early(cwd)
    with Server(reply=planted(points, JUDGES), models=MODELS) as server:
        validate(cwd, server)
        stopped = duel(cwd)["turns"]["stopped"]
        assert stopped > 4 and duel(cwd)["accepted"] is not None
        stop_early(cwd, on=False)
        validate(cwd, server, "--limit", "2")
        half = duel(cwd)
        assert half["accepted"] is None
        left = f"{stopped - 2} turns that had been stopped early are not judged in full yet"
        assert left in half["why"]
        validate(cwd, server)
        assert duel(cwd)["accepted"] is not None
        assert not any("reopened" in score(cwd, stem) for stem in stems)


# ------------------------------------------------------------------------------ edges, dry runs


def test_the_lower_edge_of_a_second_look_reopens_turns(simulated):
    cwd, stems, points = simulated
    stop_early(cwd)
    with Server(reply=planted(points, JUDGES), models=MODELS) as server:
        validate(cwd, server)
        before = {stem: score(cwd, stem) for stem in stems}
        reach = [
            stem
            for stem in stems
            if before[stem]["status"] == "stopped" and before[stem]["bounds"][1] >= 60
        ]
        assert reach
        stop_early(cwd, confirm={"models": ["x/other"], "band": [60, 90]})
        dry = validate(cwd, server, "--dry-run")
        assert (
            f"{len(reach)} turns that had been stopped early are judged further: "
            "they could still reach 60 points" in dry.stdout
        )
        assert len(server.chats) == sum(len(record["verdicts"]) for record in before.values())
        assert calls(cwd, server) > 0
        assert duel(cwd)["stop_early"]["edge"] == 60
        for stem in stems:
            record = score(cwd, stem)
            assert record["status"] == "parsed" or record["bounds"][1] < 60
            if stem not in reach:
                assert record["verdicts"] == before[stem]["verdicts"]


def test_a_dry_run_says_what_stopping_would_save(simulated):
    cwd, _, points = simulated
    stop_early(cwd, on=False)
    with Server(reply=planted(points, JUDGES), models=MODELS) as server:
        dry = validate(cwd, server, "--dry-run")
        assert "would save" not in dry.stdout, "nothing is known yet"
        validate(cwd, server, "--limit", "20")
        saves = 0.75 * duel(cwd)["stop_early"]["saves"]  # full_share is 0.25
        assert 0.1 < saves < 0.5
        dry = validate(cwd, server, "--dry-run")
        assert f"stop_early = true would save about {saves:.0%} of a run's calls" in dry.stdout
        assert "of the 20 turns judged in full so far" in dry.stdout
        stop_early(cwd)
        dry = validate(cwd, server, "--dry-run")
        assert "These are the most: stop_early saves about" in dry.stdout
