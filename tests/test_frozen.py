"""A folder of an older version keeps its worth: no call, the same verdict, the same prompts.

data/frozen_3805ada.tar.xz is ./demo as commit 3805ada left it, its data aside (these are made anew
by the same rules). The digests below are of the prompts that 3805ada made.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

import ch
import validate
from common.demo.build import write_parquet
from common.demo.server import Server
from common.turns import BUCKETS, SIDES
from makers import answers, get
from runner import KEY, stage

FROZEN = Path(__file__).with_name("data") / "frozen_3805ada.tar.xz"
PROMPT = ("--dataset", "data/trajectories", "--prs", "data/pull_requests", "--count", "40")


def unpack(folder: Path) -> Path:
    """Unpack the frozen run into `folder` and lay its data beside it."""
    with tarfile.open(FROZEN) as archive:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not in 3.11.2
        archive.extractall(folder, **safe)
    write_parquet(folder / "data")
    return folder


def contents(folder: Path, *patterns: str) -> dict[Path, bytes]:
    found = {}
    for pattern in patterns:
        found |= {path: path.read_bytes() for path in folder.glob(pattern) if path.is_file()}
    return found


def names_in_buckets(folder: Path) -> dict[str, set[str]]:
    found = {}
    for name in BUCKETS:
        found[name] = {path.name for path in (folder / name).glob("[!_]*.json")}
    return found


def without_order(value):
    """Return a JSON value with its sums rounded: a last bit may depend on the order of adding."""
    if isinstance(value, dict):
        return {key: without_order(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_order(item) for item in value]
    return round(value, 9) if isinstance(value, float) else value


@pytest.fixture(scope="module")
def rerun(tmp_path_factory):
    """The frozen run before and after all five scripts ran over it again, and the server."""
    before = unpack(tmp_path_factory.mktemp("before"))
    after = unpack(tmp_path_factory.mktemp("after"))
    with Server(key=KEY) as server:
        for script, flags in (
            ("prompt.py", PROMPT),
            ("king.py", ()),
            ("ch.py", ()),
            ("validate.py", ()),
            ("report.py", ()),
        ):
            result = stage(script, *flags, cwd=after, server=server)
            assert result.returncode == 0, (script, result.stdout, result.stderr)
    return before, after, server


def test_it_reruns_without_a_call(rerun):
    _, _, server = rerun
    assert server.chats == []


def test_prompt_takes_the_plan_for_complete(rerun):
    before, after, _ = rerun
    kept = ("prompt/[!_]*", "prompt/_plan.json", "commit/*")
    old = {path.name: data for path, data in contents(before, *kept).items()}
    assert old == {path.name: data for path, data in contents(after, *kept).items()}
    assert len(old) == 14 + 2  # records; prompts and plan
    assert not list(after.rglob("*.bad"))


def test_the_texts_stay_and_the_audit_is_of_today(rerun):
    before, after, _ = rerun
    old = answers(before)
    new = answers(after)
    assert old.keys() == new.keys() and len(new) == 36
    for stem, answer in new.items():
        for key in (*SIDES, "messages", "instance_id"):
            assert answer[key] == old[stem][key]
        assert answer["meta"]["audit"] == ch.audit_mark(answer)
        assert answer["meta"]["challenger"]["refused"] == ""


def test_the_verdict_is_the_same(rerun):
    before, after, _ = rerun
    old = get(before / "score/_duel.json")
    new = get(after / "score/_duel.json")
    for key in (
        "mode", "opponent", "accepted", "why", "margin", "mean_score", "lcb", "se", "interval",
        "parsed_frac", "instances", "metrics", "usage", "cost_usd",
    ):  # fmt: skip
        assert without_order(new[key]) == without_order(old[key]), key
    assert new["turns"].items() >= old["turns"].items()
    assert new["judges"].keys() == old["judges"].keys()
    for name, judge in old["judges"].items():
        for key in ("score", "position_consistency", "pull", "parse_rate", "calls", "cost_usd"):
            assert without_order(new["judges"][name][key]) == without_order(judge[key]), key
    for name, panel in old["leave_one_out"].items():
        for key in ("accepted", "why", "margin", "lcb"):
            assert without_order(new["leave_one_out"][name][key]) == without_order(panel[key]), key


def test_scores_and_buckets_are_the_same(rerun):
    before, after, _ = rerun
    assert names_in_buckets(before) == names_in_buckets(after)
    assert [len(names) for names in names_in_buckets(after).values()] == [10, 15, 11]
    for path in (before / "score").glob("[!_]*.json"):
        old = get(path)
        new = get(after / "score" / path.name)
        for key in ("score", "points", "max_points", "status", "metrics", "by_judge", "reason"):
            assert new[key] == old[key], (path.name, key)
        told = [{**verdict, "look": 1} for verdict in old["verdicts"]]
        assert [{**verdict, "look": 1} for verdict in new["verdicts"]] == told
        assert set(new["counted"]) == {verdict["key"] for verdict in old["verdicts"]}


def test_a_second_rerun_changes_nothing(rerun):
    _, after, server = rerun
    kept = ("prompt/*", "commit/*", "answer_0/*", "score/*", "final/*", "refined/*", "defeat/*")
    old = contents(after, *kept)
    for script, flags in (("king.py", ()), ("ch.py", ()), ("validate.py", ()), ("report.py", ())):
        result = stage(script, *flags, cwd=after, server=server)
        assert result.returncode == 0, (script, result.stdout, result.stderr)
    assert contents(after, *kept) == old
    assert server.chats == []


# -------------------------------------------------------------------------------- prompts, rubric

RECORD = {
    "instance_id": "acme__widgets-1",
    "repo": "acme/widgets",
    "base_commit": "0" * 40,
    "issue": "The count is wrong.",
    "description": "Counts each widget once.",
    "files": ["gears/ratio.py", "gears/é.py"],
    "patch": "--- a\n+++ b\n" + "+line\n" * 300,
    "test_patch": "+test",
    "interface": "tally(parts)",
    "language": "python",
    "created_at": "2024",
}


def chat(turns: int) -> list[dict]:
    messages = [
        {"role": "system", "content": "You fix issues.\nOne block."},
        {"role": "user", "content": "Issue: the count is wrong.\n\n- naïve “quotes” 🙂"},
    ]
    for turn in range(turns):
        reply = f"THOUGHT: step {turn}.\n\n```bash\nls dir_{turn}\n```"
        messages.append({"role": "assistant", "content": reply})
        messages.append({"role": "user", "content": f"Observation: out {turn}"})
    return messages


def sha(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return hashlib.sha256(text.encode()).hexdigest()


def made_prompts() -> dict[str, str]:
    """Return a digest of everything fixed that a model is told, and of whole prompts."""
    told = "it used line numbers"
    return {
        "the rule": sha(ch.BLIND_AGENT_RULE),
        "the form": sha(ch.FORM),
        "the moves": sha(json.dumps(ch.NEXT_MOVE, sort_keys=True)),
        "early, patch cut": sha(ch.challenger_messages(chat(0), RECORD, 1000)),
        "middle, patch cut": sha(ch.challenger_messages(chat(5), RECORD, 1000)),
        "late, patch cut": sha(ch.challenger_messages(chat(8), RECORD, 1000)),
        "refused": sha(ch.challenger_messages(chat(5), RECORD, 40000, told)),
        "the rubric": sha(validate.RUBRIC),
        "judge": sha(validate.judge_messages(chat(2), "first\nreply", "second 🙂")),
    }


OF_3805ADA = {
    "the rule": "92e56aa581905ebe53211e0e59091d683dd5121f572b8556ca7df81f126d62a1",
    "the form": "bb728144a07fc8d3a9232606cf6ac13361fc7590d62b3735005e4cf008a674aa",
    "the moves": "4888f9e925ca8f65e6696d714b49f08ecf3e5c8a7a88bebbe26c43edae4f98c7",
    "early, patch cut": "ed41f276f9f6e50a2d022f487d7d23695ecf2dec3b361d36f00b7351e64a970f",
    "middle, patch cut": "5081db75fffd8b09e73bbb4dbdaad3d8cba25cafb29ec7d504eb55414aeb69e0",
    "late, patch cut": "f18005a44f05978bd655a7492ac6877f5b3606b54e023adeefd52bab7ae7958d",
    "refused": "4e48b349e4715d3e443bde4298ebe05ca15a8048fef5d78e61eef71d5d088bdd",
    "the rubric": "811277706f8772742b6dee4787df83602379a7e75d3727ea8f032ae6a78bf074",
    "judge": "a450920481003e282b588fc8f87fade0b7bce90d8ea5a1a55de81a543de5a7d7",
}


def test_prompts_and_rubric_are_byte_for_byte_those_of_3805ada():
    assert made_prompts() == OF_3805ADA


@pytest.mark.parametrize(
    "module, name",
    [(ch, "BLIND_AGENT_RULE"), (ch, "FORM"), (validate, "RUBRIC"), (validate, "CLOSING")],
)
def test_a_changed_word_is_noticed(monkeypatch, module, name):
    text = getattr(module, name)
    monkeypatch.setattr(module, name, text.replace(" the ", " a ", 1))
    assert getattr(module, name) != text
    assert made_prompts() != OF_3805ADA


def test_a_changed_move_is_noticed(monkeypatch):
    for phase, words in ch.NEXT_MOVE.items():
        monkeypatch.setitem(ch.NEXT_MOVE, phase, words + ".")
        changed = [name for name, told in made_prompts().items() if told != OF_3805ADA[name]]
        assert "the moves" in changed and len(changed) >= 2
        monkeypatch.setitem(ch.NEXT_MOVE, phase, words)
