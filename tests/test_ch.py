"""Stage 3 by its contract: the blind-agent prompt, the leak audit in the loop, re-auditing, what it passes over."""
from __future__ import annotations

import json
from collections import Counter

import pytest

from helpers import KEY, QUICK, REPLY, REPO, answers, make_record, make_sample, stage, write_settings
from common.demo.server import Server

GOOD = "THOUGHT: The issue speaks of a widget count, so I search for it.\n\n```bash\ngrep -rn \"widget\" . --include=*.py\n```"
LEAK = "THOUGHT: The count forgets zebra_offset_0.\n\n```bash\nsed -i 's/len(parts)/zebra_offset_0/' gears/ratio.py\n```"


@pytest.fixture
def turns(tmp_path):
    """Three turns with their kings."""
    make_sample(tmp_path, 3)
    write_settings(tmp_path, generate={**QUICK, "bad_reply_tries": 3})
    with Server(reply=lambda body: REPLY, key=KEY) as server:
        assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    return tmp_path


def run(cwd, reply=lambda body: GOOD, *flags):
    with Server(reply=reply, key=KEY) as server:
        result = stage("ch.py", *flags, cwd=cwd, server=server)
    return result, [request["body"]["messages"] for request in server.chats]


def test_the_prompt_is_the_kings_chat_then_the_record_and_the_rule(turns):
    result, asked = run(turns)
    assert result.returncode == 0 and "next    python validate.py" in result.stdout
    for answer in answers(turns).values():
        number = int(answer["instance_id"].rsplit("-", 1)[1])
        messages = next(m for m in asked if m[1]["content"].startswith(f"Issue {number}:"))
        king = answer["messages"]
        assert messages[:-1] == king[:-1] and messages[-1]["content"].startswith(king[-1]["content"])
        briefing = messages[-1]["content"][len(king[-1]["content"]):]
        record = make_record(number)
        order = [briefing.index(text) for text in ("HIDDEN PR RECORD", record["issue"], record["description"],
                                                   record["files"][0], f"zebra_offset_{number}",
                                                   "END OF HIDDEN PR RECORD", "THE BLIND-AGENT RULE", "YOUR NEXT MOVE")]
        assert order == sorted(order), "the record first, then the rule, then what a good move is now"


def test_the_challenger_is_filled_in_place_and_asked_once(turns):
    before = answers(turns)
    result, _ = run(turns)
    after = answers(turns)
    for stem, answer in after.items():
        assert answer["challenger"] == GOOD
        assert {key: answer[key] for key in ("instance_id", "king", "assistant", "messages")} == \
               {key: before[stem][key] for key in ("instance_id", "king", "assistant", "messages")}
        meta = answer["meta"]["challenger"]
        assert meta["leaks"] == {"version": answer["meta"]["audit"], "hits": []} and meta["rejected"] == {}
        assert answer["meta"]["king"]["leaks"]["hits"] == [] and answer["meta"]["king"]["usage"]
    again, asked = run(turns)
    assert again.returncode == 0 and asked == [] and answers(turns) == after


def test_a_leak_is_asked_for_again_with_its_kind_and_never_with_the_hidden_text(turns):
    tries = Counter()

    def reply(body):
        chat = body["messages"][1]["content"][:8]
        tries[chat] += 1
        return LEAK if chat == "Issue 0:" and tries[chat] == 1 else GOOD

    result, asked = run(turns, reply)
    assert result.returncode == 0 and len(asked) == 4
    first, second = (m[-1]["content"] for m in asked if m[1]["content"].startswith("Issue 0:"))
    assert second.startswith(first), "the same briefing, so that its prefix stays cached"
    told = second[len(first):]
    assert "refused" in told and "has not shown" in told
    assert "zebra" not in told and "ratio.py" not in told and "len(parts)" not in told
    rejected = answers(turns)["prompts_3_1_1"]["meta"]["challenger"]["rejected"]
    assert rejected["identifier"] == 1 and rejected["path"] == 1


def test_a_turn_that_keeps_leaking_stays_pending_with_its_reason(turns):
    result, asked = run(turns, lambda body: LEAK if body["messages"][1]["content"].startswith("Issue 0:") else GOOD)
    assert result.returncode == 1 and len(asked) == 2 + 3
    assert answers(turns)["prompts_3_1_1"]["challenger"] is None
    (failed,) = map(json.loads, open(turns / "answer_0/_failed.jsonl"))
    assert failed["item"] == "prompts_3_1_1" and "leak (identifier" in failed["reason"] and "leak (" in result.stdout
    result, asked = run(turns)
    assert result.returncode == 0 and len(asked) == 1 and not (turns / "answer_0/_failed.jsonl").exists()


@pytest.mark.parametrize("bad", [
    "```bash\nls\n```",  # no THOUGHT
    "THOUGHT: I look around.",  # no block
    "THOUGHT: two\n\n```bash\nls\n```\n\n```bash\npwd\n```",
    "THOUGHT: empty\n\n```bash\n\n```",
    "THOUGHT: a fence inside\n\n```bash\ncat <<'EOF' > a.md\n```\ncode\n```\nEOF\n```",
])
def test_a_reply_that_breaks_the_protocol_is_asked_for_again(turns, bad):
    tries = Counter()

    def reply(body):
        tries[body["messages"][1]["content"][:8]] += 1
        return bad if tries[body["messages"][1]["content"][:8]] == 1 else GOOD

    result, asked = run(turns, reply)
    assert result.returncode == 0 and len(asked) == 6
    assert all(answer["meta"]["challenger"]["rejected"] == {"protocol": 1} for answer in answers(turns).values())


def test_an_older_audit_is_done_again_for_free_and_reopens_what_fails(turns):
    run(turns)
    stale, leaking = turns / "answer_0/prompts_3_1_1.json", turns / "answer_0/prompts_3_1_2.json"
    for path, reply in ((stale, GOOD), (leaking, LEAK.replace("_0", "_1"))):
        answer = json.loads(path.read_text())
        answer["challenger"], answer["meta"]["audit"] = reply, "0"
        path.write_text(json.dumps(answer))
    result, asked = run(turns)
    assert result.returncode == 0 and len(asked) == 1
    assert asked[0][1]["content"].startswith("Issue 1:"), "only the one that the new audit refuses is asked for"
    assert json.loads(stale.read_text())["challenger"] == GOOD
    answer = json.loads(leaking.read_text())
    assert answer["challenger"] == GOOD
    assert answer["meta"]["retired"][0]["challenger"] == LEAK.replace("_0", "_1"), "a paid reply is kept beside"


def test_the_kings_own_hits_are_kept_as_the_audits_floor(turns):
    path = turns / "answer_0/prompts_3_1_1.json"
    answer = json.loads(path.read_text())
    answer["king"] = LEAK
    path.write_text(json.dumps(answer))
    run(turns)
    hits = answers(turns)["prompts_3_1_1"]["meta"]["king"]["leaks"]["hits"]
    assert {"path", "identifier"} <= {hit["kind"] for hit in hits}


def test_a_patch_over_the_budget_is_cut_and_said_to_be(turns):
    write_settings(turns, generate={**QUICK, "max_patch_chars": 1000})
    for number in range(3):
        record = make_record(number)
        record["patch"] += "+filler\n" * 1000 + "+the_end_of_the_patch"
        (turns / f"commit/acme__widgets-{number}.json").write_text(json.dumps(record))
    _, asked = run(turns)
    for messages in asked:
        assert "the patch is cut here: 1,000 of" in messages[-1]["content"]
        assert "the_end_of_the_patch" not in messages[-1]["content"]


def test_shards_by_stem_part_the_turns(turns):
    counts = [len(run(turns, lambda body: GOOD, "--shard", f"{number}/2")[1]) for number in range(2)]
    assert sum(counts) == 3 and all(answer["challenger"] == GOOD for answer in answers(turns).values())
    assert run(turns)[1] == []


def test_torn_answers_and_missing_records_are_named(turns):
    torn = turns / "answer_0/prompts_3_1_1.json"
    torn.write_bytes(torn.read_bytes()[:300])
    (turns / "commit/acme__widgets-1.json").unlink()
    result, asked = run(turns)
    assert result.returncode == 1 and len(asked) == 1
    assert torn.with_name(torn.name + ".bad").exists() and "king.py" in result.stdout
    failed = {row["item"]: row["reason"] for row in map(json.loads, open(turns / "answer_0/_failed.jsonl"))}
    assert "commit/acme__widgets-1.json is missing" in failed["prompts_3_1_2"]


def test_answers_of_another_tools_making(turns):
    bare, foreign = turns / "answer_0/prompts_3_1_1.json", turns / "answer_0/prompts_3_1_2.json"
    bare.write_text(json.dumps({**json.loads(bare.read_text()), "meta": {}}))
    foreign.write_text(json.dumps({"instance_id": "x", "foo": 1}, indent=1) + "\n")
    result, asked = run(turns)
    assert result.returncode == 1 and len(asked) == 2 and "Traceback" not in result.stderr
    assert json.loads(bare.read_text())["challenger"] == GOOD, "a meta without sides gets them"
    assert not foreign.exists() and foreign.with_name(foreign.name + ".bad").exists() and "king.py" in result.stdout


def test_without_answers_the_stage_that_makes_them_is_named(tmp_path):
    result, _ = run(tmp_path)
    assert result.returncode == 2 and "king.py" in result.stderr and len(result.stderr.strip().splitlines()) == 1
    (tmp_path / "answer_0").mkdir()
    result, _ = run(tmp_path)
    assert result.returncode == 2 and "king.py" in result.stderr


def test_the_rule_stands_in_one_place():
    holders = [path for path in REPO.rglob("*.py") if "THE BLIND-AGENT RULE" in path.read_text() and "tests" not in path.parts]
    assert holders == [REPO / "ch.py"]
