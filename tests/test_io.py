"""Files: whole or absent, names checked, one run per folder."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import REPO
from common import files
from common.files import BadFile, UserError, check_whole, clean_text, digest, lock_folders, read_json, is_safe_name, quarantine


@pytest.mark.parametrize("name, safe", [
    ("django__django-11001", True), ("a.b_c-d", True), ("x" * 200, True), ("-rf", True),
    ("", False), (".hidden", False), ("..", False), ("a/b", False), ("a\\b", False), ("a b", False), ("a\n", False),
    ("x" * 201, False), ("naïve", False), (None, False), (7, False),
])
def test_names_from_outside(name, safe):
    assert is_safe_name(name) is safe


def test_a_file_is_whole_or_absent_when_the_writer_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": True})
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        files.write_json(path, {"new": True})
    assert read_json(path) == {"old": True} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_any_text_survives_the_way_to_disk_and_back(tmp_path):
    value = {"text": "naïve \u2028 \x00 \x7f 🙂 \ud83d lone \r\n}\n"}
    files.write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert clean_text(value["text"]).encode() and "\ud83d" not in clean_text(value["text"])


def test_the_quick_look_at_a_file_sees_every_cut(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"instance_id": "x", "king": "}\n}\n", "messages": [{"role": "user", "content": "\n}\n"}]})
    whole = path.read_bytes()
    check_whole(path, ("king",))
    for size in range(len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(BadFile):
            check_whole(path, ("king",))
    path.write_text(json.dumps({"king": 1}))  # another writer's layout is fine when it is whole
    check_whole(path, ("king",))
    with pytest.raises(BadFile, match="'messages' is missing"):
        check_whole(path, ("king", "messages"))


def test_set_aside_never_overwrites(tmp_path):
    for text in ("1", "2", "3"):
        (tmp_path / "a.json").write_text(text)
        quarantine(tmp_path / "a.json")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "a.json.bad": "1", "a.json.bad2": "2", "a.json.bad3": "3"}


def test_natural_order_and_names_that_are_no_turns(tmp_path):
    for name in ("p_10.json", "p_9.json", "_duel.json", ".p_1.json.x.1.tmp", "p_1.json.bad", "notes.txt"):
        (tmp_path / name).write_text("{}")
    assert [p.name for p in files.turn_files(tmp_path)] == ["p_9.json", "p_10.json"]
    assert files.turn_files(tmp_path / "absent") == []


def test_a_digest_keeps_texts_apart():
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")


def test_the_lock_is_dropped_when_its_holder_is_killed(tmp_path):
    code = ("import sys, time; sys.path.insert(0, sys.argv[1])\n"
            "from common.files import lock_folders\nfrom pathlib import Path\n"
            "with lock_folders([Path(sys.argv[2])], 'king'):\n    print('held', flush=True); time.sleep(60)")
    holder = subprocess.Popen([sys.executable, "-c", code, str(REPO), str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
        with lock_folders([tmp_path], "king"):
            pass
    with lock_folders([tmp_path], "ch"):
        pass  # another stage may work on other files of the folder
    holder.kill()
    holder.wait()
    left = tmp_path / f".a.json.{Path(sys.argv[0]).stem}.{holder.pid}.tmp"
    left.write_text("half")
    with lock_folders([tmp_path], "king"):
        assert not left.exists(), "what a killed run left half written is swept"


def test_shards_run_side_by_side_but_not_with_a_whole_run(tmp_path):
    def held(shard):
        """Whether another process may run with this shard now."""
        code = ("import sys; sys.path.insert(0, sys.argv[1])\nfrom common.files import lock_folders\nfrom pathlib import Path\n"
                "with lock_folders([Path(sys.argv[2])], 'ch', eval(sys.argv[3])): pass")
        return subprocess.run([sys.executable, "-c", code, str(REPO), str(tmp_path), repr(shard)],
                              stderr=subprocess.DEVNULL).returncode != 0

    with lock_folders([tmp_path], "ch", (0, 2)):
        assert not held((1, 2)) and held((0, 2)) and held(None)
    with lock_folders([tmp_path], "ch"):
        assert held((1, 2)) and held(None)
    assert not held(None)
