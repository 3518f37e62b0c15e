"""python -m common.demo from end to end: what a newcomer sees first works, and says what it is."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from common.demo.__main__ import STAMP, prepare
from common.demo.build import version
from common.demo.rules import rule_reply
from common.turns import BUCKETS
from makers import get
from runner import REPO

REAL_KEY = "cpk_this_is_a_real_key"


def demo(folder):
    """Run the demo as a user would who has a real key and a dead proxy in the environment."""
    dead = "http://127.0.0.1:9"
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPO),
        "HOME": str(folder / "home"),
        "DUEL_MODE": "7",
        "CHUTES_API_KEY": REAL_KEY,
        "CHUTES_BASE_URL": dead,
        "HF_ENDPOINT": dead,
        "HTTP_PROXY": dead,
        "http_proxy": dead,
    }
    command = [sys.executable, "-m", "common.demo"]
    return subprocess.run(
        command, cwd=folder, env=environment, text=True, capture_output=True, timeout=120
    )


def calls(run):
    return int(re.search(r"answered (\d+) calls", run.stdout).group(1))


@cache
def demo_and_rerun() -> tuple:
    """Run the demo twice beside settings and a key of the user's own; return folder and run."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    (folder / "chain.toml").write_text(
        '[generate]\nprovider = "mine"\n[judge]\nmodels = ["a/users-own"]\n'
        '[provider.mine]\nbase_url = "http://127.0.0.1:9/v1"\n'
    )
    (folder / ".env").write_text(f"CHUTES_API_KEY={REAL_KEY}\n")
    run = demo(folder)
    assert run.returncode == 0, run.stdout + run.stderr
    answers = folder.joinpath("demo", "answer_0").glob("prompts_*.json")
    before = {path: path.read_bytes() for path in answers}
    again = demo(folder)
    assert again.returncode == 0 and calls(run) > 200 and calls(again) == 0
    assert before == {path: path.read_bytes() for path in before}
    return folder, run


_one_at_a_time = threading.Lock()


@pytest.mark.background
def test_a_rerun_asks_nothing(tmp_path):
    with _one_at_a_time:
        demo_and_rerun()


@pytest.fixture
def first():
    """The finished demo's folder and what it printed."""
    with _one_at_a_time:
        return demo_and_rerun()


def test_the_last_line_is_the_report_and_the_rules_are_named(first):
    folder, run = first
    lines = run.stdout.strip().splitlines()
    report = folder / lines[-1]
    assert report.name == "report.md" and report.stat().st_size > 1000
    page = folder / lines[-2].split()[-1]
    assert page.name == "turns.html" and page.stat().st_size > 10_000
    assert "made by rule" in lines[0] and "made by rule" in "\n".join(lines[-4:])
    assert sum('challenger = "chosen"' in line for line in lines) == 1, "one line on the other way"
    assert [line for line in lines if line.startswith("$ python ")] == [
        "$ python prompt.py --dataset data/trajectories --prs data/pull_requests --count 40",
        "$ python king.py",
        "$ python ch.py",
        "$ python validate.py",
        "$ python report.py",
    ]


def test_every_stage_has_done_its_part(first):
    folder = first[0] / "demo"
    answers = list((folder / "answer_0").glob("prompts_*.json"))
    assert len(answers) > 25
    assert all(get(path)["challenger"] for path in answers)
    buckets = [len(list((folder / name).glob("prompts_*.json"))) for name in BUCKETS]
    assert min(buckets) >= 3 and sum(buckets) == len(answers)
    duel = get(folder / "score" / "_duel.json")
    assert duel["turns"]["parse_fail"] == duel["turns"]["unfinished"] == 0
    assert len({judge["score"] for judge in duel["judges"].values()}) == 3  # their tastes differ
    assert 0 < duel["judges"]["deepseek-ai/DeepSeek-V3.2-TEE"]["pull"] < 1
    assert "placenames-77" in (folder / "report" / "hugePR.md").read_text()
    assert not (folder / "commit" / "driftwood__signpost-5.json").exists()


def test_nothing_outside_and_no_key_inside(first):
    folder, run = first
    assert sorted(path.name for path in folder.iterdir()) == [".env", "chain.toml", "demo"]
    assert REAL_KEY not in run.stdout + run.stderr
    for path in (folder / "demo").rglob("*"):
        assert path.is_dir() or REAL_KEY.encode() not in path.read_bytes(), path


def test_a_folder_of_another_version_is_made_anew_and_the_users_own_is_left_alone(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert prepare() is None and capsys.readouterr().out == ""
    left_over = tmp_path / "demo" / "left_over.json"
    left_over.write_text("{}")
    assert prepare() is None and left_over.exists()
    STAMP.write_text("older")
    assert prepare() is None and "made anew" in capsys.readouterr().out
    assert not left_over.exists() and STAMP.read_text() == version()

    (tmp_path / "demo" / ".env").write_text("CHUTES_API_KEY=" + REAL_KEY)
    STAMP.write_text("older")
    assert ".env" in prepare() and REAL_KEY not in prepare()
    STAMP.unlink()
    assert "not made by the demo" in prepare()
    assert (tmp_path / "demo" / ".env").exists()


@pytest.mark.background
def test_a_failed_stage_is_the_demos_failure(tmp_path):
    (tmp_path / "demo" / "data").mkdir(parents=True)
    # As if made, but the data are gone.
    (tmp_path / "demo" / "data" / "version.txt").write_text(version())
    run = demo(tmp_path)
    assert run.returncode == 2 and "prompt.py ended with exit code 2" in run.stderr
    assert "report.md" not in run.stdout


def test_the_patches_fit_their_hunk_headers(first):
    rows = pq.read_table(first[0] / "demo" / "data" / "pull_requests").to_pylist()
    assert max(len(row["patch"]) for row in rows) > 200_000
    for patch in (row[key] for row in rows for key in ("patch", "test_patch") if row[key]):
        header = r"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@.*\n"
        hunks = re.split(header, patch, flags=re.MULTILINE)
        for old, new, body in zip(hunks[1::3], hunks[2::3], hunks[3::3]):
            lines = body.split("\ndiff --git ")[0].rstrip("\n").split("\n")
            assert sum(line[:1] in (" ", "-", "") for line in lines) == int(old or 1), patch
            assert sum(line[:1] in (" ", "+", "") for line in lines) == int(new or 1), patch


def test_chats_are_like_the_data_set(first):
    rows = pq.read_table(first[0] / "demo" / "data" / "trajectories").to_pylist()
    lengths = [len(row["messages"]) for row in rows]
    assert max(lengths) == 32 and min(lengths) < 4
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles == (["system"] + ["user", "assistant"] * 16)[: len(roles)]
        for message in row["messages"][3::2]:
            assert message["content"].startswith("Observation: ")


def test_a_judge_by_rule_reads_both_replies():
    from validate import judge_messages, parse_verdict

    chat = [
        {"role": "system", "content": "One ```bash block."},
        {"role": "user", "content": "Mend `parse_tide`."},
        {"role": "assistant", "content": "THOUGHT: look\n\n```bash\nls src\n```"},
        {"role": "user", "content": "Observation: src/tide.py"},
    ]
    good = "THOUGHT: This is where `parse_tide` may be.\n\n```bash\ncat src/tide.py\n```"
    poor = "THOUGHT: again\n\n```bash\nls src\n```\n\n```bash\nls src\n```"
    for model in ("moonshotai/Kimi-K2.6-TEE", "Qwen/Qwen3-235B", "deepseek-ai/DeepSeek", "any"):
        for pair, better in (((good, poor), 1), ((poor, good), 2)):
            asked = {"model": model, "messages": judge_messages(chat, *pair)}
            answer = parse_verdict(rule_reply(asked))
            assert answer["correctness"] == answer["protocol"] == answer["progress"] == better
