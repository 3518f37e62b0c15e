"""Stage 3 by its contract: the blind-agent prompt, the audit in the loop, audits of stored replies,
what it passes over, the prompt without the record."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from common.config import METRICS
from common.demo.server import Server
from makers import REPLY, answers, get, make_record, make_sample, put, write_settings
from runner import KEY, QUICK, REPO, stage

GOOD = (
    "THOUGHT: The issue speaks of a widget count, so I search for it.\n\n"
    '```bash\ngrep -rn "widget" . --include=*.py\n```'
)
LEAK = (
    "THOUGHT: The count forgets zebra_offset_{number}.\n\n"
    "```bash\nsed -i 's/len(parts)/zebra_offset_{number}/' gears/ratio.py\n```"
)
EVEN = json.dumps({**dict.fromkeys(METRICS, 0), "reason": "equal"})


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Three turns with their kings, and the same with good challengers, made once."""
    folder = tmp_path_factory.mktemp("runs")
    kings = folder / "kings"
    make_sample(kings, 3)
    write_settings(kings, generate={**QUICK, "bad_reply_tries": 3})
    with Server(reply=lambda body: REPLY, key=KEY) as server:
        assert stage("king.py", cwd=kings, server=server).returncode == 0
    shutil.copytree(kings, folder / "filled")
    assert run(folder / "filled")[0].returncode == 0
    return folder


@pytest.fixture
def turns(runs, tmp_path) -> Path:
    """Three turns with their kings."""
    return shutil.copytree(runs / "kings", tmp_path, dirs_exist_ok=True)


@pytest.fixture
def filled(runs, tmp_path) -> Path:
    """The same with their challengers, all of them good."""
    return shutil.copytree(runs / "filled", tmp_path, dirs_exist_ok=True)


def run(cwd: Path, reply=lambda body: GOOD, *flags: str, script: str = "ch.py"):
    """Run a stage against a server of its own; returns its result and the chats that were asked."""
    with Server(reply=reply, key=KEY) as server:
        result = stage(script, *flags, cwd=cwd, server=server)
    assert "Traceback" not in result.stderr, result.stderr
    return result, [request["body"]["messages"] for request in server.chats]


def is_of(number: int, messages: list[dict]) -> bool:
    """Tell whether this is the chat of turn `number`."""
    return messages[1]["content"].startswith(f"Issue {number}:")


def leak_once(number: int):
    """Return a rule: a leak when turn `number` is first asked for, else GOOD."""
    left = [LEAK.format(number=number)]
    return lambda body: left.pop() if left and is_of(number, body["messages"]) else GOOD


def edit(cwd: Path, number: int, **fields) -> Path:
    """Replace keys of the answer to turn `number`, as a user's editor would."""
    path = cwd / f"answer_0/prompts_3_1_{number + 1}.json"
    put(path, {**get(path), **fields})
    return path


def failures(cwd: Path) -> dict[str, str]:
    """Return the reason of each failed item."""
    lines = (cwd / "answer_0/_failed.jsonl").read_text().splitlines()
    return {row["item"]: row["reason"] for row in map(json.loads, lines)}


# ---------------------------------------------------------------------------------------- asking


def test_the_prompt_is_the_kings_chat_then_the_record_and_the_rule(turns):
    result, asked = run(turns)
    assert result.returncode == 0, result.stderr
    assert "next    python validate.py" in result.stdout
    for number in range(3):
        king = answers(turns)[f"prompts_3_1_{number + 1}"]["messages"]
        (messages,) = [chat for chat in asked if is_of(number, chat)]
        assert messages[:-1] == king[:-1]
        assert messages[-1]["content"].startswith(king[-1]["content"])
        briefing = messages[-1]["content"][len(king[-1]["content"]) :]
        record = make_record(number)
        in_order = [
            "HIDDEN PR RECORD",
            record["issue"],
            record["description"],
            record["files"][0],
            f"zebra_offset_{number}",
            "END OF HIDDEN PR RECORD",
            "THE BLIND-AGENT RULE",
            "YOUR NEXT MOVE",
        ]
        places = [briefing.index(text) for text in in_order]
        assert places == sorted(places), "the record, then the rule, then what a good move is now"


def test_the_challenger_is_filled_in_place_and_asked_once(filled, runs):
    before = answers(runs / "kings")
    after = answers(filled)
    for stem, answer in after.items():
        assert answer["challenger"] == GOOD
        for key in ("instance_id", "king", "assistant", "messages"):
            assert answer[key] == before[stem][key]
        meta = answer["meta"]
        assert meta["challenger"]["rejected"] == {} and meta["challenger"]["refused"] == ""
        for side in ("king", "challenger"):
            assert meta[side]["leaks"] == {"version": meta["audit"]["version"], "hits": []}
            assert meta[side]["usage"]
    again, asked = run(filled)
    assert again.returncode == 0
    assert asked == [] and answers(filled) == after


def test_a_leak_is_asked_for_again_with_its_kind_and_never_with_the_hidden_text(turns):
    edit(turns, 0, king=LEAK.format(number=0))
    result, asked = run(turns, leak_once(0))
    assert result.returncode == 0, "a king is never refused"
    assert len(asked) == 4
    first, second = (chat[-1]["content"] for chat in asked if is_of(0, chat))
    assert second.startswith(first), "the same briefing, so that its prefix stays cached"
    told = second[len(first) :]
    assert "refused" in told and "has not shown" in told
    assert "zebra" not in told and "ratio.py" not in told and "len(parts)" not in told
    meta = answers(turns)["prompts_3_1_1"]["meta"]
    rejected = meta["challenger"]["rejected"]
    assert rejected["identifier"] == 1 and rejected["path"] == 1
    kings = {hit["kind"] for hit in meta["king"]["leaks"]["hits"]}
    assert {"path", "identifier"} <= kings, "the audit's false alarms are kept"


def test_a_turn_that_keeps_leaking_stays_pending_with_its_reason(turns):
    def reply(body):
        return LEAK.format(number=0) if is_of(0, body["messages"]) else GOOD

    result, asked = run(turns, reply)
    assert result.returncode == 1
    assert len(asked) == 2 + 3
    assert answers(turns)["prompts_3_1_1"]["challenger"] == ""
    failed = failures(turns)
    assert list(failed) == ["prompts_3_1_1"]
    assert "leak (identifier" in failed["prompts_3_1_1"] and "leak (" in result.stdout
    result, asked = run(turns)
    assert result.returncode == 0 and len(asked) == 1
    assert not (turns / "answer_0/_failed.jsonl").exists()


def test_a_reply_that_breaks_the_protocol_is_asked_for_again(turns):
    bad = [
        "```bash\nls\n```",  # no THOUGHT
        "THOUGHT: I look around.",  # no block
        "THOUGHT: two\n\n```bash\nls\n```\n\n```bash\npwd\n```",
        "THOUGHT: empty\n\n```bash\n\n```",
        "THOUGHT: a fence inside\n\n```bash\ncat <<'EOF' > a.md\n```\ncode\n```\nEOF\n```",
    ]
    to_come = {"Issue 0:": bad[:2], "Issue 1:": bad[2:4], "Issue 2:": bad[4:]}

    def reply(body: dict) -> str:
        left = to_come[body["messages"][1]["content"][:8]]
        return left.pop() if left else GOOD

    result, asked = run(turns, reply)
    assert result.returncode == 0 and len(asked) == 3 + 5
    for answer, count in zip(answers(turns).values(), (2, 2, 1)):
        assert answer["challenger"] == GOOD
        assert answer["meta"]["challenger"]["rejected"] == {"protocol": count}


def test_a_patch_over_the_budget_is_cut_and_said_to_be(turns):
    write_settings(turns, generate={**QUICK, "max_patch_chars": 1000})
    for number in range(3):
        record = make_record(number)
        record["patch"] += "+filler\n" * 1000 + "+the_end_of_the_patch"
        put(turns / f"commit/acme__widgets-{number}.json", record)
    _, asked = run(turns)
    assert len(asked) == 3
    for messages in asked:
        assert "the patch is cut here: 1,000 of" in messages[-1]["content"]
        assert "the_end_of_the_patch" not in messages[-1]["content"]


# ----------------------------------------------------------------------- audits of stored replies


def test_an_older_audit_is_done_again_for_free_and_holds_back_what_fails(filled):
    stale = edit(filled, 0)
    leaking = edit(filled, 1, challenger=LEAK.format(number=1))
    for path in (stale, leaking):
        answer = get(path)
        answer["meta"]["audit"] = "0"  # as older versions wrote it
        put(path, answer)
    untouched = (filled / "answer_0/prompts_3_1_3.json").read_bytes()
    result, asked = run(filled)
    assert result.returncode == 0 and asked == []
    assert "1  held back, the audit refuses the reply: --redo-refused" in result.stdout
    marks = [answer["meta"]["audit"] for answer in answers(filled).values()]
    assert [mark["version"] for mark in marks] == [marks[2]["version"]] * 3
    assert get(stale)["meta"]["challenger"]["refused"] == ""
    held = get(leaking)
    assert held["challenger"] == LEAK.format(number=1), "a paid reply stays"
    assert held["meta"]["challenger"]["refused"].startswith("leak (identifier")
    assert (filled / "answer_0/prompts_3_1_3.json").read_bytes() == untouched


def test_only_redo_refused_asks_again_and_a_dry_run_prices_it(filled):
    leaking = edit(filled, 1, challenger=LEAK.format(number=1))
    before = leaking.read_bytes()
    assert "nothing to ask" in run(filled, lambda body: GOOD, "--dry-run")[0].stdout
    dry, asked = run(filled, lambda body: GOOD, "--redo-refused", "--dry-run")
    assert "1 calls" in dry.stdout and "about $" in dry.stdout and asked == []
    assert leaking.read_bytes() == before, "a dry run changes nothing"
    result, asked = run(filled, lambda body: LEAK.format(number=1), "--redo-refused")
    assert result.returncode == 1 and len(asked) == 3
    held = get(leaking)
    assert held["challenger"] == LEAK.format(number=1), "a redo that fails keeps the reply"
    assert held["meta"]["challenger"]["refused"]
    result, asked = run(filled, lambda body: GOOD, "--redo-refused")
    assert result.returncode == 0, result.stderr
    assert len(asked) == 1 and is_of(1, asked[0])
    answer = get(leaking)
    assert answer["challenger"] == GOOD and answer["meta"]["challenger"]["refused"] == ""
    (retired,) = answer["meta"]["retired"]
    assert retired["challenger"] == LEAK.format(number=1), "a paid reply is kept beside"
    assert run(filled, lambda body: GOOD, "--redo-refused")[1] == []


def test_replies_edited_by_hand_are_audited_and_judged_again(filled):
    settings = {"models": ["a/judge", "b/judge"]}
    write_settings(filled, generate=QUICK, judge=settings)
    result, asked = run(filled, lambda body: EVEN, script="validate.py")
    assert result.returncode == 0 and len(asked) == 3 * 4
    edit(filled, 0, king="THOUGHT: mine.\n\n```bash\nls gears\n```")
    edit(filled, 2, challenger=LEAK.format(number=2))
    marks = {stem: answer["meta"]["audit"] for stem, answer in answers(filled).items()}
    result, asked = run(filled)
    assert result.returncode == 0 and asked == []
    after = answers(filled)
    changed = [stem for stem in after if after[stem]["meta"]["audit"] != marks[stem]]
    assert changed == ["prompts_3_1_1", "prompts_3_1_3"]
    refused = [answer["meta"]["challenger"]["refused"] for answer in after.values()]
    assert [bool(reason) for reason in refused] == [False, False, True]
    result, asked = run(filled, lambda body: EVEN, script="validate.py")
    assert result.returncode == 0 and len(asked) == 2 * 4
    assert all("ls gears" in chat[1]["content"] for chat in asked if "Issue 0:" in str(chat))


# ------------------------------------------------------------------------- what it is run against


def test_shards_by_stem_part_the_turns(turns):
    counts = []
    for number in range(2):
        counts.append(len(run(turns, lambda body: GOOD, "--shard", f"{number}/2")[1]))
    assert sum(counts) == 3
    assert all(answer["challenger"] == GOOD for answer in answers(turns).values())
    assert run(turns)[1] == []


def test_a_turn_that_lies_in_two_folders_is_paid_once(filled):
    """A reply that is there counts, wherever it lies."""
    (filled / "answer_3").mkdir()
    twin = filled / "answer_3/prompts_3_1_1.json"
    twin.write_bytes((filled / "answer_0/prompts_3_1_1.json").read_bytes())
    edit(filled, 0, challenger="")
    assert run(filled)[1] == []
    put(twin, {**get(twin), "challenger": ""})
    result, asked = run(filled)
    assert result.returncode == 0 and len(asked) == 1
    assert run(filled)[1] == []
    with Server(reply=lambda body: EVEN, key=KEY) as server:
        assert stage("king.py", cwd=filled, server=server).returncode == 0
        assert server.chats == []
        assert stage("validate.py", cwd=filled, server=server).returncode == 0
        assert len(server.chats) == 3 * 6


def test_torn_and_foreign_answers_and_missing_records_are_named(turns):
    torn = turns / "answer_0/prompts_3_1_1.json"
    torn.write_bytes(torn.read_bytes()[:300])
    foreign = turns / "answer_0/prompts_3_1_4.json"
    put(foreign, {"instance_id": "x", "foo": 1})
    (turns / "commit/acme__widgets-1.json").unlink()
    bare = edit(turns, 2, meta={}, challenger=None)
    result, asked = run(turns)
    assert result.returncode == 1 and len(asked) == 1
    for path in (torn, foreign):
        assert not path.exists() and path.with_name(path.name + ".bad").exists()
    assert "king.py" in result.stdout
    assert "commit/acme__widgets-1.json is missing" in failures(turns)["prompts_3_1_2"]
    assert get(bare)["challenger"] == GOOD, "a meta without sides gets them"


def test_without_answers_the_stage_that_makes_them_is_named(tmp_path):
    for _ in range(2):
        result, _ = run(tmp_path)
        assert result.returncode == 2 and "king.py" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        (tmp_path / "answer_0").mkdir(exist_ok=True)


def test_the_rule_stands_in_one_place():
    holders = []
    for path in REPO.rglob("*.py"):
        inside = path.relative_to(REPO).parts
        if inside[0] != "tests" and "THE BLIND-AGENT RULE" in path.read_text():
            holders.append(path)
    assert holders == [REPO / "ch.py"]


# ----------------------------------------------------------------------------- without the record

PLAIN = "THOUGHT: I search for the count.\n\n```bash\ngrep -rn count .\n```"


def test_show_record_false_is_the_same_prompt_without_the_record(turns):
    """A copy of the folder that is run so tells what the record is worth."""
    briefings = {}
    for shown in (True, False):
        write_settings(turns, generate={**QUICK, "show_record": shown})
        for number in range(3):
            edit(turns, number, challenger="")
        chats = run(turns)[1]
        texts = sorted(chat[-1]["content"] for chat in chats)
        briefings[shown] = [re.sub(r"\[[0-9a-f]{12}\]", "[mark]", text) for text in texts]
    record = r"\[mark\] HIDDEN PR RECORD\n.*\[mark\] END OF HIDDEN PR RECORD\n\n"
    for with_record, without in zip(briefings[True], briefings[False], strict=True):
        assert "zebra_offset" in with_record
        assert without == re.sub(record, "", with_record, flags=re.DOTALL)


def test_a_challenger_that_saw_no_record_is_refused_for_the_protocol_alone(turns):
    write_settings(turns, generate={**QUICK, "show_record": False})
    replies = [LEAK.format(number=0), "THOUGHT: no command"]
    result, asked = run(turns, lambda body: replies.pop() if replies else PLAIN)
    assert result.returncode == 0 and len(asked) == 4
    by_reply = {answer["challenger"]: answer["meta"] for answer in answers(turns).values()}
    meta = by_reply[LEAK.format(number=0)]
    assert "without the record" in meta["challenger"]["prompt_version"]
    assert meta["challenger"]["leaks"]["hits"] and meta["challenger"]["refused"] == ""
    write_settings(turns, generate=QUICK)
    assert run(turns)[1] == [], "a challenger that is there stays, whatever the setting"
