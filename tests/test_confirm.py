"""validate.py --confirm: the second look near the edge of final/, and the reader's test."""

from __future__ import annotations

import json
import math
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.config import METRICS
from common.demo.server import Server
from common.duel.reader import READER_RUBRIC
from common.turns import bucket
from judges import (
    JUDGES,
    SECRET,
    by_merit,
    by_seat,
    calls,
    challenger_is_first,
    duel,
    planted,
    replies_of,
    score,
    turn_of,
    validate,
    write_panel,
    write_turn,
    write_turns,
)
from makers import get, make_record, put
from runner import KEY, assert_no_key, stage, start

OTHERS = ["x/one", "y/two", "z/three"]
MOST = 2 * len(METRICS) * 6  # half-points of a turn by three judges
EVEN = MOST // 2
# By the first look: below the band of 73 to 90, in it below 80 and above, over it.
BAND = (math.ceil(0.73 * MOST), math.floor(0.9 * MOST))
KEPT = math.ceil(0.8 * MOST)
FIRST = [EVEN, BAND[0] - 1, BAND[0], KEPT - 1, KEPT, BAND[1], BAND[1] + 1, MOST]
IN_BAND = [3, 4, 5, 6]  # numbers of turns


def half_points(total: int, judges: int = 3) -> np.ndarray:
    """Return (judges, orders, metrics) that sum to `total`, spread over all."""
    calls = judges * 2 * len(METRICS)
    flat = np.full(calls, total // calls, np.int8)
    flat[: total % calls] += 1
    return flat.reshape(2, len(METRICS), judges).transpose(2, 0, 1)


def is_reader(body: dict) -> bool:
    return body["messages"][0]["content"] == READER_RUBRIC


def finding(one: int = 0, two: int = 0, quote_one: str = "", quote_two: str = "") -> str:
    return json.dumps({"reply_1": one, "reply_2": two, "quote_1": quote_one, "quote_2": quote_two})


def rule(second=by_merit, reader=lambda body: finding()):
    """Return a rule: the first panel by the half-points of FIRST, the others by `second`."""
    by_panel = planted(np.stack([half_points(total) for total in FIRST]), JUDGES)

    def reply(body: dict) -> str:
        if is_reader(body):
            return reader(body)
        return by_panel(body) if body["model"] in JUDGES else second(body)

    return reply


@pytest.fixture(scope="module")
def first_look(tmp_path_factory):
    """Eight turns with the first look of FIRST, and settings for a second one, made once."""
    folder = tmp_path_factory.mktemp("first_look")
    stems = write_turns(folder, len(FIRST))
    write_panel(folder, confirm={"models": OTHERS})
    with Server(reply=rule()) as server:
        validate(folder, server)
    assert len(server.chats) == 6 * len(FIRST)
    return folder, stems


@pytest.fixture
def judged(first_look, tmp_path):
    folder, stems = first_look
    return shutil.copytree(folder, tmp_path, dirs_exist_ok=True), stems


def buckets(cwd: Path, stems: list[str]) -> list[str]:
    return [bucket(score(cwd, stem))[0] for stem in stems]


# ------------------------------------------------------------------------------- the second look


def test_the_band_is_judged_again_by_others_and_the_gate_never_sees_it(judged):
    """All three others see a draw; the reader names turn 8's challenger."""
    cwd, stems = judged
    first = duel(cwd)
    assert buckets(cwd, stems) == ["defeat"] + 3 * ["refined"] + 4 * ["final"]

    def reader(body):
        return names_challenger(body) if turn_of(body) == 8 else finding()

    with Server(reply=rule(second=by_seat, reader=reader)) as server:
        validate(cwd, server, "--confirm")
    looked = Counter()
    for chat in server.chats:
        if not is_reader(chat["body"]):
            looked[turn_of(chat["body"]), chat["body"]["model"]] += 1
    assert looked == {(number, name): 2 for number in IN_BAND for name in OTHERS}
    for number, stem in enumerate(stems, 1):
        record = score(cwd, stem)
        assert record["score"] == pytest.approx(100 * FIRST[number - 1] / MOST), "the first look's"
        looks = Counter(found["look"] for found in record["verdicts"])
        assert looks[1] == 6 and looks[2] == (6 if number in IN_BAND else 0)
        if number in IN_BAND:
            points = FIRST[number - 1] + EVEN
            assert record["points_confirmed"] == points
            assert record["max_points_confirmed"] == 2 * MOST
            assert record["score_confirmed"] == pytest.approx(50 * points / MOST)
        else:
            assert "score_confirmed" not in record
    now = ["defeat", "refined", "defeat", "defeat", "defeat", "refined", "final", "refined"]
    assert buckets(cwd, stems) == now

    second = duel(cwd)
    for key in (
        "accepted", "why", "margin", "mean_score", "lcb", "se", "interval", "parsed_frac",
        "metrics", "judges", "agreement", "leave_one_out", "kept_again", "turns", "cost_usd",
    ):  # fmt: skip
        assert second[key] == first[key], key
    look = second["second_look"]
    assert look["models"] == OTHERS and look["band"] == [73, 90]
    assert look["turns"] == len(IN_BAND)
    mean = 100 * np.mean([FIRST[number - 1] for number in IN_BAND]) / MOST
    assert look["mean_first"] == pytest.approx(mean)
    assert look["mean_confirmed"] == pytest.approx((mean + 50) / 2)
    assert second["calls"] == 6 * len(FIRST)

    # report.py stands on the confirmed scores and the reader's test.
    assert stage("report.py", cwd=cwd).returncode == 0
    for name in ("final", "refined", "defeat"):
        inside = sorted(path.stem for path in (cwd / name).glob("p*.json"))
        assert inside == [stem for stem, found in zip(stems, now) if found == name]


def test_the_second_look_is_cached_like_every_verdict(judged):
    cwd, stems = judged
    with Server(reply=rule()) as server:
        # Six turns are then final and read: in both orders by the first of the others.
        assert calls(cwd, server, "--confirm") == 6 * len(IN_BAND) + 2 * 6
        # (73 + 100) / 2 is 86.5: what the others all prefer comes up from refined/.
        assert buckets(cwd, stems) == ["defeat", "refined"] + 6 * ["final"]
        points = BAND[0] + MOST
        assert score(cwd, stems[2])["score_confirmed"] == pytest.approx(50 * points / MOST)
        files = {path: path.read_bytes() for path in (cwd / "score").glob("*.json")}
        assert calls(cwd, server, "--confirm") == calls(cwd, server) == 0
        assert files == {path: path.read_bytes() for path in files}
        write_turn(cwd, 4, challenger="GOOD and new.")
        assert calls(cwd, server) == 6
        assert "score_confirmed" not in score(cwd, stems[3]), "of other texts"
        write_panel(cwd, confirm={"models": [*OTHERS[:2], "w/four"]})
        assert calls(cwd, server, "--confirm") == 2 * 3 + 6 + 2
        write_panel(cwd, confirm={"models": OTHERS, "band": [70, 90]})
        # Turn 2 comes into the band, and then into final/.
        assert calls(cwd, server, "--confirm") == 2 + 6 + 2
        write_panel(cwd, confirm={"models": OTHERS, "band": [73, 74]})
        assert calls(cwd, server, "--confirm") == 0, "a narrower band costs nothing"
        assert "score_confirmed" not in score(cwd, stems[4])
        write_panel(cwd)
        assert calls(cwd, server) == 0
        assert all("score_confirmed" not in score(cwd, stem) for stem in stems)
        assert duel(cwd)["second_look"] is None


def test_a_kill_costs_no_more_than_the_calls_in_flight(judged):
    cwd, stems = judged
    needed = 6 * len(IN_BAND) + 2 * 6
    with Server(reply=rule(), latency_s=0.08) as server:
        process = start("validate.py", "--confirm", "--concurrency", "2", cwd=cwd, server=server)
        deadline = time.monotonic() + 30
        while len(server.chats) < 15 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        saved = 0
        for stem in stems:
            saved += sum(found["look"] > 1 for found in score(cwd, stem)["verdicts"])
        assert 0 < saved < needed
        validate(cwd, server, "--confirm")
        assert len(server.chats) <= needed + 2 * 3 + 3
    assert duel(cwd)["second_look"]["turns"] == len(IN_BAND)


def test_faults_and_unreadable_answers_of_the_second_look(judged):
    """What does not come is asked again; what cannot be read is a result, and holds back."""
    cwd, stems = judged

    def refused(n, body):
        return "400-context" if body["model"] == "y/two" and "Issue 4:" in str(body) else None

    def mute(body):
        return "No idea." if body["model"] == "y/two" and turn_of(body) == 5 else by_merit(body)

    with Server(reply=rule(second=mute), faults=refused) as server:
        validate(cwd, server, "--confirm", code=1)
        assert "score_confirmed" not in score(cwd, stems[3])
        assert score(cwd, stems[3])["status"] == "parsed"
        assert duel(cwd)["second_look"]["turns"] == len(IN_BAND) - 2
        assert "score_confirmed" not in score(cwd, stems[4])
        assert bucket(score(cwd, stems[4])) == (
            "refined",
            "held back from final/: a verdict of the second look could not be read",
        )
        server.faults = None
        before = len(server.chats)
        validate(cwd, server, "--confirm")
        assert len(server.chats) - before == 2 + 2  # y/two in both orders, then the reader
        assert "score_confirmed" in score(cwd, stems[3])
        server.reply = rule()
        validate(cwd, server, "--confirm", "--retry-failed")
        assert len(server.chats) - before == 4 + 2 + 2
        assert bucket(score(cwd, stems[4]))[0] == "final"


def test_confirm_without_models_says_what_to_write(judged):
    cwd, _ = judged
    write_panel(cwd)
    with Server(reply=rule()) as server:
        result = validate(cwd, server, "--confirm", code=2)
    assert "[confirm]" in result.stderr and "models = [" in result.stderr
    assert "chain.toml" in result.stderr and server.chats == []


def test_the_dry_run_prices_the_second_look_and_shards_share_it(judged):
    cwd, stems = judged
    files = {path: path.read_bytes() for path in (cwd / "score").glob("*.json")}
    with Server(reply=rule(), models=OTHERS) as server:
        dry = validate(cwd, server, "--confirm", "--dry-run")
        assert server.chats == []
        # The reader, the first of them, reads what may be final: the band's four and two above.
        assert f"x/one: {2 * 4 + 2 * 6} calls" in dry.stdout
        assert "y/two: 8 calls" in dry.stdout and "z/three: 8 calls" in dry.stdout
        assert "all: 36 calls, about $" in dry.stdout
        assert "These are the most" in dry.stdout
        assert files == {path: path.read_bytes() for path in files}
        for number in range(2):
            validate(cwd, server, "--confirm", "--shard", f"{number}/2")
        assert len(server.chats) == 36
        dry = validate(cwd, server, "--confirm", "--dry-run")
        assert "nothing to ask" in dry.stdout
        # The price is by today's settings: all turns are in this band.
        write_panel(cwd, JUDGES[:2], confirm={"models": OTHERS, "band": [0, 100]})
        dry = validate(cwd, server, "--confirm", "--dry-run")
        assert "z/three: 8 calls" in dry.stdout


def test_what_cannot_be_final_or_has_no_record_is_not_asked_for(judged):
    """A reply that the audit refuses cannot reach final/: what is found of it would help nobody."""
    cwd, stems = judged
    for stem in (stems[4], stems[7]):
        path = cwd / f"answer_0/{stem}.json"
        answer = get(path)
        answer["meta"]["challenger"]["refused"] = "leak (path)"
        put(path, answer)
    (cwd / "commit/acme__widgets-7.json").unlink()
    with Server(reply=rule()) as server:
        dry = validate(cwd, server, "--confirm", "--dry-run")
        assert "x/one: 12 calls" in dry.stdout
        result = validate(cwd, server, "--confirm", code=1)
        assert "run prompt.py again" in result.stdout
    assert {turn_of(chat["body"]) for chat in server.chats} == {3, 4, 6}
    assert "reader" in score(cwd, stems[5]) and "reader" not in score(cwd, stems[6])


# ----------------------------------------------------------------------------- the reader's test


def quote_of(reply: str) -> str:
    return reply.split("\n")[0]


def names_challenger(body: dict) -> str:
    """Name the challenger, whichever seat it has, with its first line as the words."""
    one, two = replies_of(body)
    first = challenger_is_first(body)
    if first:
        return finding(one=1, quote_one=quote_of(one))
    return finding(two=1, quote_two=quote_of(two))


def seat_of(body: dict) -> str:
    """Name the reply shown first, whichever it is."""
    return finding(one=1, quote_one=quote_of(replies_of(body)[0]))


LESS = {  # by number of a turn, what is not enough to hold its challenger back
    3: seat_of,
    4: lambda body: finding(one=1, two=1, quote_one="it knows the fix", quote_two="as it does"),
    5: lambda body: names_challenger(body) if challenger_is_first(body) else finding(),
    6: lambda body: names_challenger(body).replace("GOOD", "BETTER"),
    7: lambda body: "It looks fine to me.",
}


def test_a_challenger_is_held_back_when_both_orders_name_it_with_its_words(judged):
    cwd, stems = judged

    def reader(body):
        return LESS.get(turn_of(body), names_challenger)(body)

    with Server(reply=rule(reader=reader)) as server:
        result = validate(cwd, server, "--confirm")
        readings = [chat["body"] for chat in server.chats if is_reader(chat["body"])]
        assert {body["model"] for body in readings} == {"x/one"}, "no judge who wrote it"
        read = Counter((turn_of(body), challenger_is_first(body)) for body in readings)
        tries = {7: 2}  # bad_reply_tries
        numbers = range(3, 9)
        assert read == {
            (number, first): tries.get(number, 1) for number in numbers for first in (True, False)
        }
        for body in readings:
            user = body["messages"][1]["content"]
            assert f"{SECRET}_{turn_of(body)}" in user, "the record as the challenger had it"
            assert not {"king", "challenger"} & set(user.lower().replace(":", " ").split())
        for number in LESS:
            assert bucket(score(cwd, stems[number - 1]))[0] == "final"
            assert "challenger" not in score(cwd, stems[number - 1]).get("reader", {})
        assert score(cwd, stems[7])["reader"] == {"challenger": "THOUGHT: GOOD."}
        found, why = bucket(score(cwd, stems[7]))
        assert found == "refined" and "the chat does not explain 'THOUGHT: GOOD.'" in why
        assert duel(cwd)["second_look"]["named"] == {"challenger": 1, "king": 0, "assistant": 0}
        before = len(server.chats)
        validate(cwd, server, "--confirm")
        assert len(server.chats) == before
    assert_no_key(cwd, result.stdout, result.stderr)


POWER = 0.7  # of the turns whose challenger peeked, those that the reader names
ALARMS = 0.15  # of honest replies, those that it names
PEEKED = 0.4


def within(count: int, of: int, share: float) -> bool:
    """Tell whether a count lies within 3.3 standard errors of what is planted: 1 in 1,000."""
    return abs(count - of * share) <= 3.3 * math.sqrt(of * share * (1 - share))


def test_both_rates_come_out_as_planted(tmp_path):
    """A reader of known power and false alarms; who is named is drawn once for each turn."""
    count = 120
    draw = random.Random(7)
    peeked = {number: draw.random() < PEEKED for number in range(1, count + 1)}
    named = {}
    for number in peeked:
        power = POWER if peeked[number] else ALARMS
        named[number] = (draw.random() < power, draw.random() < ALARMS)  # challenger, king
    stems = []
    for number in peeked:
        words = f"GOOD, I know line {number}." if peeked[number] else "GOOD."
        stems.append(write_turn(tmp_path, number, challenger=words))
        put(tmp_path / f"commit/acme__widgets-{number}.json", make_record(number))
    write_panel(tmp_path, ["a/steady"], confirm={"models": ["x/one"], "band": [73, 90]})

    def reader(body: dict) -> str:
        one, two = replies_of(body)
        first = challenger_is_first(body)
        challenger, king = named[turn_of(body)]
        calls = (challenger, king) if first else (king, challenger)
        return finding(int(calls[0]), int(calls[1]), quote_of(one), quote_of(two))

    def reply(body: dict) -> str:
        return reader(body) if is_reader(body) else by_merit(body)

    with Server(reply=reply, key=KEY) as server:
        validate(tmp_path, server)
        validate(tmp_path, server, "--confirm")
    found = duel(tmp_path)["second_look"]
    assert found["read"] == count
    expected = POWER * PEEKED + ALARMS * (1 - PEEKED)
    assert within(found["named"]["challenger"], count, expected)
    assert within(found["named"]["king"], count, ALARMS)
    assert found["named"]["challenger"] == sum(pair[0] for pair in named.values())
    assert found["named"]["king"] == sum(pair[1] for pair in named.values())
    held = [
        number for number, stem in enumerate(stems, 1) if buckets(tmp_path, [stem]) != ["final"]
    ]
    assert held == [number for number in named if named[number][0]], "a king holds nothing back"
    caught = [number for number in held if peeked[number]]
    assert within(len(caught), sum(peeked.values()), POWER)
