"""Useless models, refusals of one item, failed tries' money, odd machines, by the scripts."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from common.config import METRICS
from common.demo.server import Reply, Server
from makers import REPLY, answers, get, make_run, make_sample, write_settings
from runner import KEY, QUICK, REPO, clean_environment, stage, start
from test_night import GOOD, Raw, failed_rows, number_of, say

pytestmark = pytest.mark.background

VERDICT = json.dumps({**dict.fromkeys(METRICS, 0), "correctness": 1, "reason": "x"})
PROSE = "Both replies are fine, I would say."

# -------------------------------------------------------------------------- a model of no use


@pytest.mark.parametrize("script", ["king.py", "ch.py"])
@pytest.mark.parametrize("at_once, most", [(1, 40), (32, 32)])
def test_a_useless_writer_is_left_soon_and_named(tmp_path, script, at_once, most):
    make_sample(tmp_path, 60)
    write_settings(tmp_path, generate={**QUICK, "concurrency": at_once})
    tools = "<|tool_calls_section_begin|>" + "x" * 1000
    with Server(reply=lambda body: REPLY, key=KEY) as server:
        if script == "ch.py":
            assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
        before = len(server.chats)
        server.reply = lambda body: tools
        result = stage(script, cwd=tmp_path, server=server)
        asked = len(server.chats) - before
        assert result.returncode == 1 and asked <= most, asked
        assert "Kimi-K2.6-TEE" in result.stderr and "gives nothing usable" in result.stderr
        assert "<|tool_calls_section" in result.stderr and len(result.stderr) < 1000
        assert "next    change what is said above" in result.stdout
        rows = failed_rows(tmp_path)
        kept = [reply for row in rows for reply in row.get("replies", [])]
        assert kept and all(0 < len(reply["text"]) <= 400 for reply in kept)
        # The same line again: it is left sooner, and goes on where it was mended.
        before = len(server.chats)
        assert stage(script, cwd=tmp_path, server=server).returncode == 1
        assert len(server.chats) - before <= 10
        server.reply = lambda body: REPLY.replace("-la", "-l")
        assert stage(script, cwd=tmp_path, server=server).returncode == 0
    assert not failed_rows(tmp_path)


def test_a_good_reply_in_time_leaves_no_model(tmp_path):
    make_sample(tmp_path, 14)
    write_settings(tmp_path, generate={**QUICK, "concurrency": 1})
    reply = lambda body: "" if number_of(body) < 9 else REPLY  # noqa: E731
    with Server(reply=reply, key=KEY) as server:
        result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 1 and len(answers(tmp_path)) == 5 and result.stderr == ""
    assert "same line again" in result.stdout


def test_a_useless_judge_is_left_and_the_others_go_on(tmp_path):
    make_sample(tmp_path, 30)
    models = ["a/well", "b/prose"]
    write_settings(tmp_path, generate=QUICK, judge={**QUICK, "models": models})
    replies = {"king.py": REPLY, "ch.py": REPLY.replace("-la", "-l"), "validate.py": VERDICT}
    for script, reply in replies.items():
        with Server(
            lambda body, reply=reply: PROSE if body["model"] == "b/prose" else reply, key=KEY
        ) as server:
            result = stage(script, cwd=tmp_path, server=server)
    asked = Counter(chat["body"]["model"] for chat in server.chats)
    assert result.returncode == 1 and asked["a/well"] == 60 and asked["b/prose"] <= 32
    assert "b/prose" in result.stderr and "Both replies are fine" in result.stderr
    assert "The other models go on" in result.stderr
    assert "judge b/prose: a model gives nothing usable" in result.stdout
    assert "next    change what is said above" in result.stdout
    scores = [get(path) for path in tmp_path.glob("score/prompts*.json")]
    assert len(scores) == 30 and all(score["status"] == "unfinished" for score in scores)


# ------------------------------------------------------------------------- refusals of one item

WALL = (403, b"<html><title>Attention</title>blocked</html>", "Content-Type: text/html")
ECHO = b'{"error": {"message": "input: the authentication view, invalid token, context window"}}'
TOKENS = b'{"error": {"message": "Stop spamming. exceeded your current quota. model not found"}}'


POLICY = b'{"error": {"code": "content_policy_violation", "message": "no"}}'
REFUSALS = [WALL, (400, ECHO), (400, TOKENS), (422, ECHO), (403, TOKENS), (200, POLICY)]
LATER = [(401, ECHO), (404, TOKENS), (405, ECHO), (302, b"", "Location: /captcha")]


@pytest.mark.parametrize(
    "refused, at", [(one, at) for one in REFUSALS for at in (0, 5)] + [(one, 5) for one in LATER]
)
def test_a_refusal_of_one_prompt_is_of_that_item(tmp_path, refused, at):
    make_sample(tmp_path, 8)
    write_settings(tmp_path, generate={**QUICK, "concurrency": 1})
    asked = []

    def answer(handler):
        asked.append(number_of(json.loads(handler.body)))
        say(*(refused if asked[-1] == at else (200, GOOD)))(handler)

    with Raw(answer) as server:
        for _ in range(2):
            result = stage("king.py", cwd=tmp_path, CHUTES_BASE_URL=server.url)
            assert result.returncode == 1, result.stderr
            assert len(answers(tmp_path)) == 7 and len(failed_rows(tmp_path)) == 1
        assert len(asked) <= 8 + 1 + 2, "the one-word chat was asked at most once a run"


def test_a_provider_that_begins_to_refuse_everything_ends_the_run(tmp_path):
    make_sample(tmp_path, 30)
    write_settings(tmp_path, generate={**QUICK, "concurrency": 1})
    # The first item is refused, the one-word chat passes, three more items do, then nothing.
    fault = lambda n, body: None if 1 < n < 6 else "400-param"  # noqa: E731
    with Server(lambda body: REPLY, key=KEY, faults=fault) as server:
        result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 2 and len(server.chats) == 5 + 4 + 1, result.stdout


def test_a_429_of_any_words_is_waited_for(tmp_path):
    make_sample(tmp_path, 3)
    words = b'{"error": {"code": "insufficient_quota", "message": "exceeded your current quota"}}'
    turns = iter([say(429, words), say(200, GOOD), say(429, words)])
    with Raw(lambda handler: next(turns, say(200, GOOD))(handler)) as server:
        result = stage("king.py", cwd=tmp_path, CHUTES_BASE_URL=server.url)
    assert result.returncode == 0 and len(answers(tmp_path)) == 3


# --------------------------------------------------------------------------------------- money


@pytest.mark.parametrize("fault", ["stall", "cut-stream", "no-finish", "error-event"])
def test_failed_tries_count_against_max_cost(tmp_path, fault):
    make_sample(tmp_path, 20)
    write_settings(tmp_path, generate={**QUICK, "stall_s": 0.3, "concurrency": 2})
    long = Reply(REPLY + "x" * 40_000, chunks=400)
    with Server(lambda body: long, key=KEY, faults=lambda n, body: fault, stall_s=5) as server:
        result = stage("king.py", "--max-cost", "0.02", cwd=tmp_path, server=server)
    worst = 2000 * 2.85e-6
    assert result.returncode == 1 and len(server.chats) <= 0.02 / worst + 1
    assert "--max-cost: $0.01" in result.stderr and "for this run is spent" in result.stderr


def test_refused_tries_are_free_under_max_cost(tmp_path):
    make_sample(tmp_path, 10)
    fault = lambda n, body: "429-retry-after" if n % 2 else None  # noqa: E731
    reply = Reply(REPLY, usage={"prompt_tokens": 100, "completion_tokens": 100})
    with Server(lambda body: reply, key=KEY, faults=fault) as server:
        result = stage("king.py", "--limit", "4", "--max-cost", "0.05", cwd=tmp_path, server=server)
    assert result.returncode == 0, result.stderr


def test_a_price_list_that_comes_late_is_asked_again(tmp_path):
    make_sample(tmp_path, 3)
    lists = []

    class Slow(Server):
        def _information(self, path):
            lists.append(path)
            return (503, {"detail": "busy"}) if len(lists) < 3 else super()._information(path)

    with Slow(lambda body: REPLY, key=KEY) as server:
        result = stage("king.py", "--max-cost", "1", cwd=tmp_path, server=server)
    assert result.returncode == 0, result.stderr
    assert len(lists) == 3 and "unknown price" not in result.stdout


# ------------------------------------------------------------------------------------ machines


@pytest.mark.parametrize(
    "name, value",
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("all_proxy", "socks://127.0.0.1:9"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:9"),
        ("SSL_CERT_FILE", "/nowhere/certificates.pem"),
        ("SSL_CERT_FILE", str(REPO / "README.md")),
    ],
)
def test_what_python_cannot_use_is_named(tmp_path, name, value):
    make_sample(tmp_path, 1)
    more = {name: value, "NO_PROXY": ""}
    result = stage("king.py", cwd=tmp_path, CHUTES_API_KEY=KEY, **more)
    assert result.returncode == 2 and result.stderr.startswith(f"king.py: {name} = ")
    assert len(result.stderr.splitlines()) <= 2 and "output folder" not in result.stderr


def test_a_socks_proxy_that_is_passed_by_stops_nothing(tmp_path):
    make_sample(tmp_path, 1)
    with Server(lambda body: REPLY, key=KEY) as server:
        proxies = {"ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
        assert stage("king.py", cwd=tmp_path, server=server, **proxies).returncode == 0


@pytest.mark.parametrize("number", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_a_warning(tmp_path, number):
    make_sample(tmp_path, 2)
    (tmp_path / "sitecustomize.py").write_text(
        f"import errno, fcntl\ndef flock(*_):\n    raise OSError(errno.{number}, 'no locks')\n"
        "fcntl.flock = flock\n"
    )
    paths = f"{tmp_path}{os.pathsep}{REPO}"
    with Server(lambda body: REPLY, key=KEY) as server:
        result = stage("king.py", cwd=tmp_path, server=server, PYTHONPATH=paths)
    assert result.returncode == 0 and len(answers(tmp_path)) == 2
    assert "no locks" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("package, counts", [("pydantic", ""), ("aiohttp", "4 not reached")])
def test_a_missing_package_is_named_with_what_installs_it(tmp_path, package, counts):
    make_sample(tmp_path, 4)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules['{package}'] = None\n")
    paths = f"{tmp_path}{os.pathsep}{REPO}"
    with Server(lambda body: REPLY, key=KEY) as server:
        result = stage("king.py", cwd=tmp_path, server=server, PYTHONPATH=paths)
    assert result.returncode == 2 and "Traceback" not in result.stderr and not server.chats
    assert f"king.py: the package {package} is not installed. Run: " in result.stderr
    assert "-m pip install -r" in result.stderr and counts in result.stdout


def test_a_terminal_that_cannot_show_a_letter_gets_its_escape(tmp_path):
    make_sample(tmp_path, 3)
    odd = "naïve – 你好"
    with Server(lambda body: odd + "<|tool_calls_section_begin|>", key=KEY) as server:
        server.faults = lambda n, body: None
        more = {"PYTHONIOENCODING": "ascii", "LANG": "C", "LC_ALL": "C"}
        (tmp_path / "prompt/prompts_3_1.json").rename(tmp_path / "prompt/é_1.json")
        result = stage("king.py", cwd=tmp_path, server=server, **more)
    assert result.returncode == 1 and "3 failed" in result.stdout
    assert "\\xe9_1_" in result.stdout and "Traceback" not in result.stderr
    assert "next    the same line again" in result.stdout


@pytest.mark.parametrize("script, code", [("king.py", 0), ("ch.py", 0), ("prompt.py", 2)])
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_end_nothing(tmp_path, script, code, closed):
    make_sample(tmp_path, 2)
    with Server(lambda body: REPLY, key=KEY) as server:
        if script == "ch.py":
            assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
            server.reply = lambda body: REPLY.replace("-la", "-l")
        flags = "--dataset /nowhere --prs /nowhere" if script == "prompt.py" else ""
        result = subprocess.run(
            ["sh", "-c", f"{sys.executable} {REPO / script} {flags} {closed}"],
            cwd=tmp_path,
            env=clean_environment(server),
            capture_output=True,
            text=True,
        )
    assert result.returncode == code and "Traceback" not in result.stderr + result.stdout
    assert len(server.chats) == {"king.py": 2, "ch.py": 4, "prompt.py": 0}[script]


def in_a_terminal(tmp_path, server, columns: int, **extra: str) -> str:
    """Run king.py in a terminal of so many columns; return what that shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, 0x5414, columns.to_bytes(4, "big")[::-1])  # TIOCSWINSZ
    subprocess.run(["stty", "cols", str(columns), "rows", "40"], stdin=theirs, check=True)
    process = subprocess.Popen(
        [sys.executable, REPO / "king.py"],
        cwd=tmp_path,
        env=clean_environment(server, TERM="xterm", **extra),
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # the other end is closed
        pass
    process.wait(20)
    os.close(ours)
    return shown.decode()


def test_a_narrow_terminal_shows_dollars_first(tmp_path):
    make_sample(tmp_path, 6)
    dear = Reply(REPLY, usage={"prompt_tokens": 10**6, "completion_tokens": 10**6})
    with Server(lambda body: dear, key=KEY, latency_s=0.2) as server:
        shown = in_a_terminal(tmp_path, server, 80)
    bars = [line for line in shown.replace("\n", "\r").split("\r") if "6/6 [" in line]
    assert bars and len(bars[-1]) <= 80 and "spent=$20.10" in bars[-1]
    assert bars[-1].index("spent=") < bars[-1].find("failed=") or "failed=" not in bars[-1]


@pytest.mark.parametrize("name, value", [("TQDM_DISABLE", "1"), ("PYTHONIOENCODING", "ascii")])
def test_a_bar_that_is_switched_off_or_plain_changes_no_count(tmp_path, name, value):
    make_sample(tmp_path, 5)
    with Server(
        lambda body: REPLY, key=KEY, faults=lambda n, b: "401" if n > 3 else None
    ) as server:
        shown = in_a_terminal(tmp_path, server, 80, **{name: value})
    assert "3 done, 0 skipped, 0 failed, 2 not reached" in shown and "Traceback" not in shown


def test_what_is_for_another_provider_goes_to_none(tmp_path):
    make_sample(tmp_path, 1)
    names = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY", "OPENAI_ADMIN_KEY")
    with Server(lambda body: REPLY, key=KEY) as server:
        more = dict.fromkeys(names, "of-another-provider")
        assert stage("king.py", cwd=tmp_path, server=server, **more).returncode == 0
    assert server.requests
    assert "of-another-provider" not in json.dumps([chat["headers"] for chat in server.requests])


@pytest.mark.parametrize("script", ["prompt.py", "king.py", "ch.py", "validate.py", "report.py"])
def test_each_script_stands_its_first_second(tmp_path, script):
    # Without site-packages nothing is installed.
    bare = subprocess.run(
        [sys.executable, "-S", REPO / script], cwd=tmp_path, capture_output=True, text=True
    )
    assert bare.returncode == 2 and bare.stdout == ""
    assert bare.stderr.startswith(f"{script}: the package ") and bare.stderr.count("\n") == 1
    assert "-m pip install -r" in bare.stderr
    # A signal amid the imports.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, os, signal\n"
        "class Kill:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'common.files':\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Kill())\n"
    )
    early = stage(script, cwd=tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{REPO}")
    assert early.returncode == 130 and early.stderr == "interrupted\n"


@pytest.mark.parametrize("script", ["king.py", "ch.py", "validate.py"])
def test_a_dry_run_changes_nothing_and_takes_no_lock(tmp_path, script):
    make_run(tmp_path, [0] * 3)
    if script == "king.py":
        (tmp_path / "answer_0" / "torn.json").write_text("{")
    torn = next(iter(sorted(tmp_path.glob("answer_0/prompts*.json"))))
    torn.write_bytes(torn.read_bytes()[:50])

    def state() -> dict:
        paths = [path for path in tmp_path.rglob("*") if path.is_file()]
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}

    before = state()
    folders = [path for path in tmp_path.iterdir() if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    with Server(lambda body: REPLY, key=KEY) as server:
        result = stage(script, "--dry-run", cwd=tmp_path, server=server)
    for folder in folders:
        folder.chmod(0o755)
    assert result.returncode in (0, 1), result.stderr
    assert state() == before and server.chats == []


# -------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_amid_slow_calls_is_clean_and_counts_them(tmp_path, number):
    make_run(tmp_path, [0] * 8)
    for path in tmp_path.glob("score/*"):
        path.unlink()
    patient = {**QUICK, "stall_s": 60.0, "timeout_s": 60.0}
    write_settings(tmp_path, judge={**patient, "models": ["a/x", "b/y"]})
    with Server(lambda body: VERDICT, key=KEY, faults=lambda n, b: "silent", stall_s=90) as server:
        process = start("validate.py", cwd=tmp_path, server=server)
        while len(server.chats) < 2:
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.strip() == "validate.py: interrupted; what was finished is saved, " + (
        "the same line goes on from here"
    )
    assert "left    2 calls in flight when the run ended" in out


def test_a_shard_says_to_wait_for_the_others(tmp_path):
    make_sample(tmp_path, 2)
    with Server(lambda body: REPLY, key=KEY) as server:
        whole = stage("king.py", "--shard", "0/2", cwd=tmp_path, server=server)
        assert "next    python ch.py  # once all shards are through\n" in whole.stdout
        (tmp_path / "commit").rename(tmp_path / "elsewhere")
        (tmp_path / "commit").mkdir()
        (tmp_path / "commit/x.json").write_text("{}")
        lacking = stage("king.py", cwd=tmp_path, server=server)
    assert "next    python prompt.py\n          the same line again" in lacking.stdout
