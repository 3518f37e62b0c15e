"""prompt.py as a user runs it: from local parquet, and from a Hub that misbehaves on order."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import prompt
from common.audit.history import may_peek
from common.sampling.chats import ROW_COLUMNS
from common.sampling.records import PR_COLUMNS
from common.turns import RECORD_KEYS
from prompt import next_turns, reply_problem, row_group_order
from runner import stage, start
from tests.hub import TRAJECTORIES, FakeHub, column_bytes, pull_request, trajectory, write_datasets

BOTH = ("--dataset", "acme/trajectories", "--prs", "acme/prs", "--benchmarks", "none")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 instances of 10 rollouts in 3 files; row groups of 45 rows: some instances lie in two."""
    folder = tmp_path_factory.mktemp("hub")
    write_datasets(folder, instances=60, group_rows=45)
    return folder


@pytest.fixture
def hub(data):
    with FakeHub(data) as running:
        yield running


@pytest.fixture(scope="module")
def clean(data, tmp_path_factory):
    """What a run without faults makes."""
    cwd = tmp_path_factory.mktemp("clean")
    with FakeHub(data) as hub:
        assert remote(hub, "--count", "60", cwd=cwd).returncode == 0
    return contents(cwd)


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def local(data: Path, *flags: str, cwd: Path):
    both = ("--dataset", str(data / "acme" / "trajectories"), "--prs", str(data / "acme" / "prs"))
    return stage("prompt.py", *both, *flags, cwd=cwd)


def hub_environment(hub: FakeHub, cwd: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(cwd / "hf_home")}


def remote(hub: FakeHub, *flags: str, cwd: Path, **extra: str):
    return stage("prompt.py", *BOTH, *flags, cwd=cwd, **{**hub_environment(hub, cwd), **extra})


def contents(cwd: Path) -> dict[str, bytes]:
    """Return every file that the stage made, by name, but for its locks."""
    found = {}
    for folder in ("prompt", "commit"):
        for path in Path(cwd, folder).rglob("*"):
            if path.is_file() and not path.name.startswith("_lock"):
                found[path.relative_to(cwd).as_posix()] = path.read_bytes()
    return found


def samples(cwd: Path) -> dict[str, bytes]:
    """Return the prompts and the records."""
    return {name: body for name, body in contents(cwd).items() if not name.startswith("prompt/_")}


def prompts(cwd: Path) -> list[dict]:
    files = Path(cwd, "prompt").glob("prompts_*.json")
    found = []
    for path in sorted(files, key=lambda path: int(path.stem.split("_")[2])):
        found += json.loads(path.read_text())
    return found


def plan(cwd: Path) -> dict:
    return json.loads(Path(cwd, "prompt", "_plan.json").read_text())


def write_rows(folder: Path, rows: list[tuple], schema: pa.Schema = TRAJECTORIES) -> None:
    """Write a trajectories file of (instance id, messages) rows, and their PR records beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    table = []
    records = []
    for number, (name, messages) in enumerate(rows):
        table.append({"instance_id": name, "repo": "acme/rows", "messages": messages})
        if name:
            records.append({**pull_request(number), "instance_id": name})
    pq.write_table(pa.Table.from_pylist(table, schema), folder / "trajectories.parquet")
    pq.write_table(pa.Table.from_pylist(records), folder / "prs.parquet")


def from_rows(folder: Path, *flags: str):
    both = ("--dataset", "trajectories.parquet", "--prs", "prs.parquet")
    return stage("prompt.py", *both, *flags, cwd=folder)


# --------------------------------------------------------------------------------------- the files


def test_prompts_and_records_hold_what_the_datasets_hold(data, tmp_path):
    run = local(data, "--count", "250", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    sizes = {path.name: len(json.loads(path.read_text())) for path in tmp_path.glob("prompt/p*")}
    assert sizes == {"prompts_250_1.json": 200, "prompts_250_2.json": 50}
    taken = prompts(tmp_path)
    assert len({json.dumps([item["instance_id"], item["messages"]]) for item in taken}) == 250
    rounds = {tuple(window["rounds"]) for window in plan(tmp_path)["offsets"]}
    assert rounds == {(1, 1), (2, 4), (5, 5)}  # a reading serves as many rounds as are sure
    assert set(Counter(item["instance_id"] for item in taken).values()) == {4, 5}
    tables = {}
    for item in taken:
        assert list(item) == ["instance_id", "repo", "messages", "assistant", "source"]
        source = item["source"]
        if source["file"] not in tables:
            path = data / "acme" / "trajectories" / source["file"]
            tables[source["file"]] = pq.read_table(path).to_pylist()
        row = tables[source["file"]][source["row"]]
        assert (item["instance_id"], item["repo"]) == (row["instance_id"], row["repo"])
        assert item["messages"] == row["messages"][: source["turn"]]
        assert item["messages"][-1]["role"] == "user"
        reply = {"role": "assistant", "content": item["assistant"]}
        assert row["messages"][source["turn"]] == reply
    for instance_id in {item["instance_id"] for item in taken}:
        record = json.loads(Path(tmp_path, "commit", f"{instance_id}.json").read_text())
        pr = pull_request(int(instance_id.rpartition("-")[2]))
        same = {key: pr[key] for key in RECORD_KEYS if key in pr}
        texts = {"issue": pr["problem_statement"], "description": pr["pr_description"]}
        files = {"files": [pr["patch"].split()[2].removeprefix("a/")], "license": "MIT"}
        assert record == {**same, **texts, **files}
        assert tuple(record) == (*RECORD_KEYS, "license")


def test_every_instance_once_before_any_twice_and_all_thirds_of_a_chat(data, tmp_path):
    run = local(data, "--count", "60", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    taken = prompts(tmp_path)
    assert set(Counter(item["instance_id"] for item in taken).values()) == {1}
    windows = plan(tmp_path)["offsets"]
    turns = Counter(item["source"]["turn"] for item in taken)
    assert len(turns) == 6 and min(turns.values()) > 3  # any of the six assistant turns
    assert len({item["source"]["row"] % 10 for item in taken}) > 7  # and any of the ten rollouts
    assert (
        len({window["file"] for window in windows[:3]}) == 3
    )  # spread over the split from the beginning


def test_a_large_row_group_is_drawn_in_part(tmp_path):
    rows = [(f"in-{number}", trajectory(number, 0, turns=2, characters=20)) for number in range(90)]
    write_rows(tmp_path, rows)
    run = from_rows(tmp_path, "--count", "40")
    assert run.returncode == 0, run.stderr
    assert [len(window["turns"]) for window in plan(tmp_path)["offsets"]] == [12, 24, 4]
    assert len({item["instance_id"] for item in prompts(tmp_path)}) == 40


def test_a_small_dataset_gives_every_turn_once_and_then_says_so(tmp_path):
    short = trajectory(1, 0)[:7]  # both rows of a-1 agree as far as they go
    rows = [("a-1", trajectory(1, 0)), ("a-1", short), ("b-2", trajectory(2, 0))]
    write_rows(tmp_path, rows)
    most = "9" * 18
    run = from_rows(tmp_path, "--count", most)
    assert run.returncode == 0, run.stderr
    chats = {(item["instance_id"], len(item["messages"])) for item in prompts(tmp_path)}
    assert chats == {(name, 2 * turn) for name in ("a-1", "b-2") for turn in range(1, 7)}
    assert len(prompts(tmp_path)) == 12 and f"12 of {most}" in run.stdout


def remade(cwd: Path, how, *args) -> list[str]:
    """Run again; return the names of the files that the run changed."""
    before = contents(cwd)
    times = {path: path.stat().st_mtime_ns for path in Path(cwd, "prompt").glob("*.json")}
    run = how(*args, cwd=cwd)
    assert run.returncode == 0, run.stderr
    after = contents(cwd)
    changed = [name for name in {*before, *after} if before.get(name) != after.get(name)]
    return changed + [path.name for path, when in times.items() if path.stat().st_mtime_ns != when]


def test_the_hub_and_a_folder_give_the_same_and_a_rerun_asks_nothing(data, hub, tmp_path):
    here = make(tmp_path / "here")
    there = make(tmp_path / "there")
    assert local(data, "--count", "230", cwd=here).returncode == 0
    run = remote(hub, "--count", "230", cwd=there)
    assert run.returncode == 0, run.stderr
    assert samples(here) == samples(there)
    assert plan(there)["revision"] == hub.commit("acme/trajectories")
    assert plan(there)["seed"] == 0
    hub.forget()
    assert remade(there, remote, hub, "--count", "230") == []
    assert hub.requests == []


def test_a_trial_is_the_beginning_of_the_whole(data, tmp_path):
    whole = make(tmp_path / "whole")
    trial = make(tmp_path / "trial")
    assert local(data, "--count", "215", cwd=whole).returncode == 0
    for flags, length in (("--limit", "3"), 3), (("--limit", "205"), 205), ((), 215):
        run = local(data, "--count", "215", *flags, cwd=trial)
        assert run.returncode == 0, run.stderr
        assert prompts(trial) == prompts(whole)[:length]
        records = [path.stem for path in Path(trial, "commit").glob("*.json")]
        assert sorted(records) == sorted({item["instance_id"] for item in prompts(trial)})
    assert contents(trial) == contents(whole)
    assert remade(trial, local, data, "--count", "215", "--limit", "4") == []
    Path(trial, "commit", f"{prompts(trial)[0]['instance_id']}.json").unlink()
    assert local(data, "--count", "215", "--limit", "4", cwd=trial).returncode == 0
    assert samples(trial) == samples(whole)  # a trial afterwards cuts nothing short


def test_another_seed_and_other_flags(data, tmp_path):
    other = make(tmp_path / "other")
    assert local(data, "--count", "20", cwd=tmp_path).returncode == 0
    assert local(data, "--count", "20", "--seed", "1", cwd=other).returncode == 0
    mine = [json.dumps(item["source"]) for item in prompts(tmp_path)]
    assert len({*mine} & {json.dumps(item["source"]) for item in prompts(other)}) < 10
    before = contents(tmp_path)
    for flags, name in ((("--count", "20", "--seed", "1"), "--seed 0"), (("--count", "6"), "20")):
        run = local(data, *flags, cwd=tmp_path)
        assert run.returncode == 2 and name in run.stderr and "another folder" in run.stderr
    assert contents(tmp_path) == before


def test_what_is_missing_is_made_again_as_it_was(data, tmp_path):
    assert local(data, "--count", "410", cwd=tmp_path).returncode == 0
    before = samples(tmp_path)
    torn, foreign, gone = sorted(Path(tmp_path, "commit").glob("acme*"))[:3]
    torn.write_text(torn.read_text()[:500])
    foreign.write_text("[1, 2]")
    for path in gone, *Path(tmp_path, "prompt").glob("prompts_410_[13].json"):
        path.unlink()
    run = local(data, "--count", "410", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    after = samples(tmp_path)
    for path in torn, foreign:
        assert path.name in run.stdout
        assert after.pop(f"commit/{path.name}.bad")
    assert after == before
    made = Path(tmp_path, "prompt", "prompts_410_2.json")
    text = made.read_text()
    for hurt in text[:500], text.replace("step 3", "step 4"), "[1, 2]":
        made.write_text(hurt)
        run = local(data, "--count", "410", cwd=tmp_path)
        assert run.returncode == 2 and "prompts_410_2.json: " in run.stderr
        assert "Remove it and run prompt.py again." in run.stderr
    made.unlink()
    assert local(data, "--count", "410", cwd=tmp_path).returncode == 0
    assert made.read_text() == text


def test_a_dataset_that_changed_is_told_and_nothing_is_made_of_it(tmp_path):
    write_rows(tmp_path, [(name, trajectory(1, 0)) for name in ("in-3", "in-4")])
    path = tmp_path / "trajectories.parquet"
    pq.write_table(pq.read_table(path), path, compression="none")
    assert from_rows(tmp_path, "--count", "2").returncode == 0
    made = tmp_path / "prompt" / "prompts_2_1.json"
    made.unlink()
    for old, new in ((b"in-3", b"in-9"), (b"assistant", b"assistent")):  # the size stays
        path.write_bytes(path.read_bytes().replace(old, new))
        run = from_rows(tmp_path, "--count", "2")
        assert run.returncode == 2 and "no longer holds what" in run.stderr
        assert "Traceback" not in run.stderr and not made.exists()


# ------------------------------------------------------------------------- samples of 3805ada


def as_3805ada(made: dict) -> dict:
    """Return a plan as version 3805ada wrote it."""
    for window in made["offsets"]:
        window |= {
            "bytes": 1,
            "pass": 1,
            "laps": window.pop("rounds")[1],
            "deck": [0, len(window["turns"])],
        }
        for turn in window["turns"]:
            turn["lap"] = 0
    made["summary"] = {"prompts": 1, "record_bytes": 1, "left_out": {}}
    made["flags"]["--windows"] = None
    return made


def test_a_whole_sample_of_an_older_version_stays_as_it_is(data, tmp_path):
    assert local(data, "--count", "230", cwd=tmp_path).returncode == 0
    path = tmp_path / "prompt" / "_plan.json"
    path.write_text(json.dumps(as_3805ada(plan(tmp_path))))
    hidden = tmp_path / "none"  # nothing is read: the datasets are gone
    run = local(hidden, "--count", "230", cwd=tmp_path)
    assert run.returncode == 2 and "--dataset" in run.stderr
    flags = {"--dataset": str(hidden / "acme/trajectories"), "--prs": str(hidden / "acme/prs")}
    made = plan(tmp_path)
    made["flags"] |= flags
    path.write_text(json.dumps(made))
    assert remade(tmp_path, local, hidden, "--count", "230") == []


def test_an_unfinished_sample_of_an_older_version_is_gone_on_with(data, tmp_path):
    assert local(data, "--count", "70", "--limit", "30", cwd=tmp_path).returncode == 0
    path = tmp_path / "prompt" / "_plan.json"
    path.write_text(json.dumps(as_3805ada(plan(tmp_path))))
    begun = prompts(tmp_path)
    run = local(data, "--count", "70", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    taken = prompts(tmp_path)
    assert len(taken) == 70 and taken[:30] == begun
    counts = Counter(item["instance_id"] for item in taken)
    assert len(counts) == 60 and max(counts.values()) == 2
    assert len({json.dumps([item["instance_id"], item["messages"]]) for item in taken}) == 70


# -------------------------------------------------------------------------------- what is left out


def test_rows_without_a_usable_turn_are_passed_over_and_counted(tmp_path):
    good = trajectory(1, 0)
    tool = [*good[:2], {"role": "tool", "content": "ls"}, *good[2:]]
    hollow = [*good[:2], {"role": "assistant", "content": None}, *good[3:]]
    unclosed = [*good[:2], {"role": "assistant", "content": "THOUGHT: cut\n\n```bash\nsed -n"}]
    rows = [("good-1", good), ("null-2", None), ("empty-3", []), ("early-4", good[:2])]
    rows += [("tool-5", tool), ("hollow-6", hollow), ("open-7", unclosed), ("starts-8", good[2:3])]
    write_rows(tmp_path, rows)
    run = from_rows(tmp_path, "--count", "3")
    assert run.returncode == 0, run.stderr
    assert {item["instance_id"] for item in prompts(tmp_path)} == {"good-1"}
    for words in (
        "1 rows: malformed", "4 rows: no assistant message", "1 rows: reply cut off",
        "1 rows: its own turn calls no tool",
    ):  # fmt: skip
        assert f"passed over {words}" in run.stdout


def test_unsafe_ids_and_missing_records_are_named_and_replaced(tmp_path):
    rows = [
        ("../evil", trajectory(90, 0)),
        (None, trajectory(91, 0)),
        ("lost-1", trajectory(92, 0)),
        ("a\x1b[2Jb", trajectory(96, 0)),
    ]
    rows += [("in-3", trajectory(94, 0)), ("in-4", trajectory(95, 0))]
    write_rows(tmp_path, rows)
    records = pq.read_table(tmp_path / "prs.parquet").to_pylist()
    kept = [row for row in records if row["instance_id"] != "lost-1"]
    pq.write_table(pa.Table.from_pylist(kept), tmp_path / "prs.parquet")
    run = from_rows(tmp_path, "--count", "2")
    assert run.returncode == 0, run.stderr
    assert {item["instance_id"] for item in prompts(tmp_path)} == {"in-3", "in-4"}
    records = Path(tmp_path, "commit").glob("*.json")
    assert sorted(path.stem for path in records) == ["in-3", "in-4"]
    made = plan(tmp_path)
    assert [entry["instance_id"] for entry in made["without_record"]] == ["lost-1"]
    refused = sorted(entry["instance_id"] for entry in made["refused"])
    assert refused == ["", "../evil", "a\x1b[2Jb"]
    assert "lost-1" in run.stdout and "../evil" in run.stdout
    assert r"a\x1b[2Jb" in run.stdout and "\x1b" not in run.stdout
    for flag, there, none in (("--exclude", ["in-3"], []), ("--per-instance", 1, None)):
        for value, code in ((there, 2), (none, 0)):
            made["flags"][flag] = value  # of a version that had this flag
            Path(tmp_path, "prompt", "_plan.json").write_text(json.dumps(made))
            run = from_rows(tmp_path, "--count", "2")
            assert run.returncode == code and (f"{flag} {there}" in run.stderr) == (code == 2)
            assert ("no such flag: sample into another folder" in run.stderr) == (code == 2)


FIX = "    return compute_total(items, start=offset)"
PATCH = (
    "diff --git a/src/sum.py b/src/sum.py\n--- a/src/sum.py\n+++ b/src/sum.py\n"
    f"@@ -1,1 +1,1 @@\n-    return 0\n+{FIX}\n"
)


def peeking_chat(number: int, command: str) -> list[dict]:
    """Return a chat whose third turn runs `command` and is shown the fix."""
    messages = trajectory(number, 0)
    messages[6]["content"] = f"THOUGHT: look.\n\n```bash\n{command}\n```"
    messages[7]["content"] = f"Observation: commit 1234567\n+{FIX}\n"
    return messages


def test_a_chat_that_shows_the_fix_by_a_peek_gives_no_turn_from_there_on(tmp_path):
    peek = "git log --all -p"
    rows = [("bad-1", peeking_chat(1, peek)), ("own-2", peeking_chat(2, "git diff"))]
    rows.append(("late-3", peeking_chat(3, "git show origin/main:src/sum.py")))
    write_rows(tmp_path, rows)
    records = pq.read_table(tmp_path / "prs.parquet").to_pylist()
    pq.write_table(
        pa.Table.from_pylist([{**row, "patch": PATCH} for row in records]), tmp_path / "prs.parquet"
    )
    run = from_rows(tmp_path, "--count", "20")
    assert run.returncode == 0, run.stderr
    taken = Counter()
    for item in prompts(tmp_path):
        taken[item["instance_id"], item["source"]["turn"]] += 1
    turns = {"bad-1": {2, 4, 6}, "late-3": {2, 4, 6}, "own-2": {2, 4, 6, 8, 10, 12}}
    for name, expected in turns.items():
        assert {turn for instance_id, turn in taken if instance_id == name} == expected
    made = plan(tmp_path)
    named = {entry["instance_id"]: entry["reason"] for entry in made["shows_fix"]}
    assert named.keys() == {"bad-1", "late-3"} and f"`{peek}`" in named["bad-1"]
    assert "passed over 2 rows: its chat shows the fix" in run.stdout
    assert "2 chats that show the fix: " in run.stdout


@pytest.mark.parametrize(
    "command",
    [
        "git log --all -p", "git fetch origin", "cat .git/packed-refs", "pip download pkg",
        "cat /usr/lib/python3/site-packages/pkg/a.py", "curl https://github.com/acme/rows",
        "go get example.com/pkg", "cat node_modules/pkg/a.js", "cat ~/.m2/repository/a/b.jar",
    ],
)  # fmt: skip
def test_every_kind_of_peek_is_looked_at(command):
    assert may_peek(peeking_chat(1, command))
    assert not may_peek(trajectory(1, 0))


# ----------------------------------------------------------------------------------------- the Hub


def drawn_groups(cwd: Path) -> set[tuple[str, int]]:
    windows = plan(cwd)["offsets"]
    return {(window["file"], window["row_group"]) for window in windows}


def groups_of(folder: Path, instance_ids: set[str]) -> set[tuple[str, int]]:
    """Return (file, row group) of the row groups that hold these instances."""
    found = set()
    for path in folder.rglob("*.parquet"):
        parquet = pq.ParquetFile(path)
        for group in range(parquet.num_row_groups):
            ids = parquet.read_row_group(group, columns=["instance_id"])["instance_id"].to_pylist()
            if instance_ids & {*ids}:
                found.add((path.relative_to(folder).as_posix(), group))
    return found


def test_only_the_drawn_columns_are_read(data, hub, tmp_path):
    assert remote(hub, "--count", "57", cwd=tmp_path).returncode == 0
    drawn = column_bytes(data / "acme/trajectories", ROW_COLUMNS, drawn_groups(tmp_path))
    held = {item["instance_id"] for item in prompts(tmp_path)}
    records = column_bytes(data / "acme/prs", PR_COLUMNS, groups_of(data / "acme/prs", held))
    known = column_bytes(data / "acme/prs", ("instance_id", "repo", "base_commit", "license"))
    footers = 0
    for name in ("trajectories", "prs"):
        footers += sum(min(65536, path.stat().st_size) for path in hub.files(f"acme/{name}"))
    assert hub.sent() <= 1.02 * (drawn + records + known) + footers
    assert drawn < 0.98 * sum(path.stat().st_size for path in hub.files("acme/trajectories"))
    listings = [path for _, path, *_ in hub.requests if "/tree/" in path]
    assert len(listings) <= 4  # of a dataset one, and one of its folder by HfFileSystem


def test_windows_are_read_as_they_are_needed(hub, tmp_path):
    assert remote(hub, "--count", "60", "--limit", "4", cwd=tmp_path).returncode == 0
    assert len({path for path in hub.ranges() if "trajectories" in path}) == 1


@pytest.mark.parametrize(
    "faults",
    [{"503": 0.03, "429": 0.02}, {"cut": 0.07, "short": 0.07, "whole": 0.03}, {"stall": 0.03}],
)
def test_faults_change_nothing(hub, tmp_path, faults, clean):
    hub.faults = faults
    run = remote(hub, "--count", "60", cwd=tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert run.returncode == 0, run.stderr
    assert "503" not in faults or any(status >= 400 for *_, status, _ in hub.requests)
    assert contents(tmp_path) == clean


def test_kills_at_any_moment_then_the_same_files(data, tmp_path, clean):
    with FakeHub(data, latency_s=0.01) as hub:
        kills = 0
        for requests in (20, 45, 60, 75):  # the whole takes about ninety
            hub.forget()
            environment = hub_environment(hub, tmp_path)
            process = start("prompt.py", *BOTH, "--count", "60", cwd=tmp_path, **environment)
            deadline = time.monotonic() + 20
            while len(hub.requests) < requests and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            kills += process.poll() is None
            process.kill()
            process.communicate()
        assert kills >= 2
        run = remote(hub, "--count", "60", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert contents(tmp_path) == clean


def test_a_term_signal_ends_with_130_and_the_next_run_goes_on(data, tmp_path, clean):
    with FakeHub(data, latency_s=0.1) as hub:
        environment = hub_environment(hub, tmp_path)
        process = start("prompt.py", *BOTH, "--count", "60", cwd=tmp_path, **environment)
        deadline = time.monotonic() + 20
        while not hub.ranges() and time.monotonic() < deadline:
            time.sleep(0.02)
        hub.latency_s = 9  # the threads that read must not hold up the way out
        time.sleep(0.2)
        sent = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 130 and "Traceback" not in errors
        assert time.monotonic() - sent < 4
        hub.latency_s = 0
        assert remote(hub, "--count", "60", cwd=tmp_path).returncode == 0
    assert contents(tmp_path) == clean


def test_an_outage_ends_with_1_and_loses_nothing(hub, tmp_path, clean, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr("sys.argv", ["prompt.py", *BOTH, "--count", "60"])
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # a minute of patience
    hub.dies_after = 60
    assert prompt.main() == 1
    told = capsys.readouterr()
    assert "does not answer well" in told.out and "Traceback" not in told.err
    assert "does not answer well" in Path("prompt", "_failed.jsonl").read_text()
    saved = len(prompts(tmp_path))
    assert f"prompt.py: {saved} done" in told.out and 0 < saved < 60
    hub.dies_after = float("inf")
    assert prompt.main() == 0
    assert contents(tmp_path) == clean


def test_a_token_from_dotenv_opens_a_private_dataset(data, tmp_path):
    (tmp_path / ".env").write_text("HUGGINGFACE_API_KEY=hf_right\n")
    with FakeHub(data, token="hf_right") as hub:
        run = remote(hub, "--count", "4", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert b"hf_right" not in b"".join(contents(tmp_path).values())


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"HF_HOME": "login"}, "the login saved in login/token may be expired"),
        ({"HF_TOKEN": "hf_old"}, "HF_TOKEN may be expired"),
        ({"HUGGING_FACE_HUB_TOKEN": "hf_old"}, "HUGGING_FACE_HUB_TOKEN may be expired"),
        ({"ALL_PROXY": "socks5://a:SECRET@127.0.0.1:9"}, "ALL_PROXY = socks5://...: such a proxy"),
        ({"https_proxy": "http://h:port"}, "Check the network, https_proxy and HF_ENDPOINT"),
        ({"SSL_CERT_FILE": "/none/ca.pem"}, "SSL_CERT_FILE = /none/ca.pem: No such file"),
        ({"HTTP_PROXY": "http://127.0.0.1:9"}, "Check the network, HTTP_PROXY and HF_ENDPOINT"),
        ({"HF_HOME": "/dev/null/none"}, None),
        ({"HF_HOME": "/proc/none"}, None),
    ],
)
def test_what_of_the_machine_stops_it_is_named(data, tmp_path, variables, words):
    """Public data; a saved login, a token, a proxy or certificates that are of no use."""
    (tmp_path / "login").mkdir()
    (tmp_path / "login" / "token").write_text("hf_expired")
    with FakeHub(data, token="hf_right") as hub:
        hub.public = True
        run = remote(hub, "--count", "4", cwd=tmp_path, fresh=True, **variables)
    if words is None:
        assert run.returncode == 0, run.stderr
        return
    assert run.returncode == 2 and words in run.stderr, run.stderr
    assert len(run.stderr.splitlines()) <= 2
    assert "hf_" not in run.stderr.replace("hf_home", "") and "SECRET" not in run.stderr


def test_errors_end_with_2_and_leave_nothing_behind(data, hub, tmp_path):
    rows = str(data / "acme" / "trajectories")
    write_rows(tmp_path / "other", [("x-1", trajectory(1, 0))])
    for flags, words in (
        (("--revision", "v9"), "no such revision"),
        (("--dataset", rows, "--prs", rows), "one column 'base_commit' of text"),
        (("--dataset", rows, "--prs", "other/prs.parquet"), "no PR record in other/prs.parquet"),
    ):
        run = remote(hub, *flags, cwd=tmp_path)
        assert run.returncode == 2 and words in run.stderr
        assert len(run.stderr.splitlines()) <= 2
    run = remote(hub, cwd=tmp_path, HF_ENDPOINT="http://127.0.0.1:9")  # nothing listens there
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 2
    assert "cannot be reached" in run.stderr and "local parquet" in run.stderr
    assert not contents(tmp_path)
    (tmp_path / "prompt" / "prompts_9_1.json").write_text("[]")
    run = remote(hub, cwd=tmp_path)
    assert run.returncode == 2 and "prompts_9_1.json" in run.stderr


# -------------------------------------------------------------------------------- small functions


def test_next_turns():
    user = {"role": "user", "content": "u"}
    good = {"role": "assistant", "content": "a"}
    assert next_turns([user, good, good, user, good]) == [1, 4]
    assert next_turns([good, user, good]) == [2]
    assert next_turns([user, good, {"role": "tool", "content": "x"}, user, good]) == [1]
    assert next_turns([user, {"role": "assistant", "content": None}, user, good]) == []
    assert next_turns([]) == []


def test_which_replies_are_no_reference():
    assert reply_problem(" \n") and reply_problem("```bash\nls")
    assert reply_problem("```bash\nls\n```") is None


@pytest.mark.parametrize("piece", ["\n", " ", "\t\n", "```", "``` \n", "\r"])
def test_no_reply_takes_long_to_read(piece):
    started = time.thread_time()
    reply_problem("THOUGHT" + piece * (300_000 // len(piece)) + "x")
    assert time.thread_time() - started < 0.5


def test_row_groups_come_in_proportion_to_a_files_bytes():
    class Files:
        files = {"small": 100, "large": 900, "none": 0}

        def open(self, file):
            return SimpleNamespace(sizes=[1] * {"small": 10, "large": 90}[file])

    for seed in range(5):
        order = list(row_group_order(Files(), seed))
        assert sorted(order) == [("large", n) for n in range(90)] + [
            ("small", n) for n in range(10)
        ]
        for first in range(0, 100, 20):
            small = sum(file == "small" for file, _ in order[first : first + 20])
            assert 1 <= small <= 3
    assert list(row_group_order(Files(), 1)) == list(row_group_order(Files(), 1))
