"""The command line of all stages: progress in a log, the tally's last lines and lists."""

from __future__ import annotations

import json
import time
from argparse import ArgumentTypeError

import pytest

from common.cli import Progress, Tally, dollars


def test_a_log_gets_a_plain_line_now_and_then(capsys, monkeypatch):
    progress = Progress(100, "king")
    progress.update(1, failed=0)
    assert capsys.readouterr().err == "", "a short run says nothing"
    now = time.monotonic()
    monkeypatch.setattr("common.cli.time.monotonic", lambda: now + 20)
    progress.update(9, failed=2, at_once=16)
    progress.update(1, failed=2, at_once=16)
    line = capsys.readouterr().err
    assert line.startswith("king: 10/100 turns, ") and line.count("\n") == 1 and "\r" not in line
    assert "ETA 0:03:00" in line and "failed=2, at_once=16" in line
    progress.say("a word\x1b[31m")
    assert capsys.readouterr().err == "a word\\x1b[31m\n"


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for total in (0, 3):
        progress = Progress(total, "king")
        for _ in range(total):
            progress.update(failed=2)
            progress.say("a word\x1b[31m")
        progress.close()
        assert progress.n == progress.total == total
    bar = capsys.readouterr().err
    assert "king: 100%" in bar and "3/3" in bar and "failed=2" in bar and "a word\\x1b[31m" in bar


@pytest.mark.parametrize(
    "failed, left, stopped, next_line",
    [
        ([], 0, False, "python ch.py"),
        ([False], 0, False, "the same line again"),
        ([True, False], 0, False, "the same line again"),
        ([True], 0, False, "python ch.py"),  # once more would fail alike
        ([True], 2, False, "the same line again"),
        ([], 2, True, "change what is said above"),
    ],
)
def test_the_tally_says_what_to_run_next(capsys, failed, left, stopped, next_line):
    tally = Tally("king.py")
    tally.left = left
    tally.stopped = stopped
    for number, lasting in enumerate(failed):
        tally.fail(f"turn_{number}", "too long", "1,000 tokens\x1b[31m", lasting)
    assert tally.show(next_command="python ch.py") == (1 if failed else 0)
    assert tally.show(code=130) == 130
    out = capsys.readouterr().out
    assert f"  next    {next_line}" in out and "\x1b" not in out


def test_each_stage_and_each_shard_keeps_its_own_list_of_failed_items(tmp_path):
    king, ch, shard = Tally("king.py"), Tally("ch.py"), Tally("ch.py")
    for tally, item in ((king, "a"), (ch, "b"), (shard, "c")):
        tally.fail(item, "too long")
    king.write_failed(tmp_path)
    ch.write_failed(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "_failed.jsonl").read_text().splitlines()]
    assert [(row["item"], row["stage"]) for row in rows] == [("a", "king.py"), ("b", "ch.py")]
    shard.write_failed(tmp_path, (1, 2))
    assert len(list(tmp_path.iterdir())) == 2
    Tally("ch.py").write_failed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["_failed.jsonl"]
    Tally("king.py").write_failed(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_dollars_are_any_finite_number_above_0():
    assert [dollars(text) for text in ("1e1", "5.", ".5", "2")] == [10.0, 5.0, 0.5, 2.0]
    for text in ("0", "-1", "nan", "inf", "1e999", "x", ""):
        with pytest.raises(ArgumentTypeError):
            dollars(text)
