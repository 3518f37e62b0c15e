"""Files: whole or absent, names checked, one run per folder."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from common import files
from common.files import (
    BadFile,
    ItemFailed,
    UserError,
    clean_text,
    digest,
    is_safe_name,
    lock_folders,
    quarantine,
    read_json,
    turn_files,
    write_json,
)
from common.turns import read_score
from runner import REPO


@pytest.mark.parametrize(
    "name, safe",
    [
        ("django__django-11001", True),
        ("a.b_c-d", True),
        ("x" * 200, True),
        ("-rf", True),
        ("", False),
        (".hidden", False),
        ("..", False),
        ("a/b", False),
        ("a\\b", False),
        ("a b", False),
        ("a\n", False),
        ("x" * 201, False),
        ("naïve", False),
        (None, False),
        (7, False),
    ],
)
def test_names_from_outside(name, safe):
    assert is_safe_name(name) is safe


def test_a_file_is_whole_or_absent_when_the_writer_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": True})

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full_disk)
    with pytest.raises(OSError):
        write_json(path, {"new": True})
    assert read_json(path) == {"old": True}
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def test_any_text_survives_the_way_to_disk_and_back(tmp_path):
    value = {"text": "naïve \u2028 \x00 \x7f 🙂 \ud83d lone \r\n}\n"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    cleaned = clean_text(value["text"])
    assert cleaned.encode() and "\ud83d" not in cleaned


def test_a_cut_file_is_never_taken_for_whole(tmp_path):
    path = tmp_path / "a.json"
    chat = [{"role": "user", "content": "\n}\n"}]
    write_json(path, {"instance_id": "x", "king": "}\n}\n", "messages": chat})
    whole = path.read_bytes()
    assert read_json(path, ("king",))["messages"] == chat
    for size in range(len(whole) - 1):  # the last byte is a line end
        path.write_bytes(whole[:size])
        with pytest.raises(BadFile, match="not a whole JSON document"):
            read_json(path, ("king",))


@pytest.mark.parametrize(
    "text, why",
    [
        ('{"king": 1}', "key 'messages' is missing"),
        ("[1]", "expected one JSON object, found a list"),
        ("[" * 100_000, "not a whole JSON document"),
        ("\xff", "not a whole JSON document"),
    ],
)
def test_a_foreign_file_is_named_with_what_is_wrong(tmp_path, text, why):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(BadFile, match=why) as bad:
        read_json(path, ("king", "messages"))
    assert bad.value.path == path


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, make):
    make(tmp_path / "a.json")
    for reader in (read_json, read_score):
        with pytest.raises(BadFile, match="a.json: a folder or a pipe where a file was expected"):
            reader(tmp_path / "a.json")


@pytest.mark.parametrize(
    "error", [BadFile("a.json", "torn \x1b"), UserError("no \x1b"), ItemFailed("kind", "detail")]
)
def test_an_error_comes_whole_through_a_pipe(error):
    received = pickle.loads(pickle.dumps(error))
    assert (type(received), str(received), vars(received)) == (type(error), str(error), vars(error))
    assert "\x1b" not in str(received)


def test_quarantine_never_overwrites(tmp_path):
    for text in ("1", "2", "3"):
        (tmp_path / "a.json").write_text(text)
        quarantine(tmp_path / "a.json")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.json.bad": "1",
        "a.json.bad2": "2",
        "a.json.bad3": "3",
    }


def test_natural_order_and_names_that_are_no_turns(tmp_path):
    names = "p_10.json p_9.json _duel.json .p_1.json.x.1.tmp p_1.json.bad notes.txt"
    for name in names.split():
        (tmp_path / name).write_text("{}")
    assert [path.name for path in turn_files(tmp_path)] == ["p_9.json", "p_10.json"]
    assert turn_files(tmp_path / "absent") == []


def test_a_digest_keeps_texts_apart():
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc")}) == 3


# ------------------------------------------------------------------------------------------ locks

HOLDER = """\
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from common.files import UserError, lock_folders
try:
    with lock_folders([Path(sys.argv[2])], sys.argv[3], eval(sys.argv[4])):
        print("held", flush=True)
        sys.stdin.read()
except UserError as refused:
    print(refused, flush=True)
"""


class Holder:
    """Another process that asks for the lock and holds it until it is told to go."""

    def __init__(self, folder: Path, stage: str, shard: tuple[int, int] | None):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(REPO), str(folder), stage, repr(shard)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.told = self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def is_free(folder: Path, shard: tuple[int, int] | None) -> bool:
    """Tell whether another process could run now as this shard."""
    with Holder(folder, "ch", shard) as holder:
        return holder.told == "held"


def test_the_lock_is_dropped_when_its_holder_is_killed(tmp_path):
    with Holder(tmp_path, "king", None) as holder:
        assert holder.told == "held"
        pid = holder.process.pid
        with (
            pytest.raises(UserError, match=f"in use by process {pid}"),
            lock_folders([tmp_path], "king"),
        ):
            pass
        with lock_folders([tmp_path], "ch"):
            pass  # another stage may work on other files of the folder
    left = tmp_path / f".a.json.king.{pid}.tmp"
    left.write_text("half")
    with lock_folders([tmp_path], "king"):
        assert not left.exists(), "what a killed run left half written is swept"


def test_shards_run_side_by_side_but_not_with_a_whole_run(tmp_path):
    with lock_folders([tmp_path], "ch", (0, 2)):
        assert is_free(tmp_path, (1, 2))
        assert not is_free(tmp_path, (0, 2))
        assert not is_free(tmp_path, None)
    with lock_folders([tmp_path], "ch"):
        assert not is_free(tmp_path, (1, 2))
        assert not is_free(tmp_path, None)
    assert is_free(tmp_path, None)


def test_shards_of_another_number_are_refused_while_one_runs(tmp_path):
    with Holder(tmp_path, "ch", (1, 2)) as first:
        assert first.told == "held"
        with Holder(tmp_path, "ch", (0, 3)) as other:
            assert f"shard 1/2 is at work (process {first.process.pid}" in other.told
        assert is_free(tmp_path, (0, 2)), "the one that was refused holds nothing"
    assert is_free(tmp_path, (0, 3)), "what ran once does not matter"
