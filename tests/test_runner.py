"""A forked stage is as one started afresh: the tests of all stages rest on that."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from common.config import find_setting_file
from common.demo.server import Server
from makers import REPLY, make_sample, write_settings
from runner import KEY, stage, start

pytestmark = pytest.mark.background


@pytest.mark.parametrize(
    "flags, code, fresh",
    [(["--help"], 0, False), (["--nonsense"], 2, False), ([], 2, False), ([], 2, True)],
)
def test_exit_code_and_output(tmp_path, flags, code, fresh):
    result = stage("king.py", *flags, cwd=tmp_path, fresh=fresh, CHUTES_API_KEY=KEY, COLUMNS="80")
    assert result.returncode == code
    told = result.stdout if code == 0 else result.stderr
    assert told.startswith("usage: king.py" if flags else "king.py: prompt/ holds no prompts.")
    assert (result.stderr if code == 0 else result.stdout) == ""


@pytest.mark.parametrize(
    "number, code, fresh",
    [(signal.SIGINT, 130, False), (signal.SIGINT, 130, True), (signal.SIGKILL, -9, False)],
)
def test_signals_reach_the_stage_itself(tmp_path, number, code, fresh):
    make_sample(tmp_path, 3)
    with Server(reply=lambda body: REPLY, key=KEY, latency_s=0.5) as server:
        process = start("king.py", cwd=tmp_path, server=server, fresh=fresh)
        deadline = time.monotonic() + 30
        while not server.chats and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == process.poll() == process.wait() == code


def test_no_env_of_the_users_own_is_found(tmp_path, monkeypatch):
    folder = tmp_path / "below"
    folder.mkdir()
    stage("king.py", "--help", cwd=folder)
    for here in (Path(), tmp_path, folder):
        monkeypatch.chdir(here)
        assert find_setting_file(".env").read_text() == ""


def test_each_stage_has_its_own_directory_environment_and_modules(tmp_path, server):
    for name, chars in (("one", 5), ("two", 1000)):
        folder = tmp_path / name
        folder.mkdir()
        make_sample(folder, 2)
        write_settings(folder, generate={"max_tokens": chars})
    processes = [start("king.py", cwd=tmp_path / name, server=server) for name in ("one", "two")]
    assert [process.communicate() and process.returncode for process in processes] == [0, 0]
    assert sorted(chat["body"]["max_tokens"] for chat in server.chats) == [5, 5, 1000, 1000]
    assert processes[0].pid != processes[1].pid
    result = stage("king.py", cwd=tmp_path / "one", CHUTES_API_KEY="")
    assert result.returncode == 2 and "CHUTES_API_KEY" in result.stderr
