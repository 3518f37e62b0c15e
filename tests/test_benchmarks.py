"""common/sampling/records.py, and what prompt.py does with it: a benchmark's tasks stay out."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.cli import Tally
from common.config import Config
from common.files import UserError, digest
from common.report.left_out import huge_pr_page, read_left_out
from common.sampling.records import (
    DEFAULT_LISTS,
    LIST_COLUMNS,
    Location,
    marks_of,
    name_benchmarks,
    read_benchmarks,
    why_left_out,
)
from runner import stage
from tests.hub import FakeHub, pull_request, trajectory, write_datasets

LIST = "princeton-nlp/SWE-bench_Verified"
INSTANCES = 60


def task(number: int, **changes: str) -> dict:
    """Return a benchmark's row that is instance `number`."""
    row = pull_request(number)
    columns = ("instance_id", "repo", "base_commit", "problem_statement", "patch")
    return {**{column: row[column] for column in columns}, **changes}


def planted() -> list[dict]:
    """Return tasks that are instances 0 to 19, each known again by one thing alone."""
    rows = []
    for number in range(10):
        rows.append(task(number, base_commit="f" * 40))
    for number in range(10, 20):
        rows.append(task(number, instance_id=f"other-{number}"))
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    write_datasets(folder, instances=INSTANCES, rollouts=3, group_rows=45)
    place = folder / LIST / "data"
    place.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(planted()), place / "test-00000-of-00001.parquet")
    train = [task(number) for number in range(INSTANCES)]  # what a list trains on is no task of it
    pq.write_table(pa.Table.from_pylist(train), place / "train-00000-of-00001.parquet")
    return folder


def sampled(data: Path, cwd: Path, *flags: str):
    both = ("--dataset", str(data / "acme" / "trajectories"), "--prs", str(data / "acme" / "prs"))
    return stage("prompt.py", *both, "--count", "200", *flags, cwd=cwd)


def numbers(cwd: Path) -> set[int]:
    """Return the numbers of the instances that were sampled."""
    taken = set()
    for path in Path(cwd, "prompt").glob("prompts_*.json"):
        for prompt in json.loads(path.read_text()):
            taken.add(int(prompt["instance_id"].rpartition("-")[2]))
    return taken


def plan(cwd: Path) -> dict:
    return json.loads(Path(cwd, "prompt", "_plan.json").read_text())


def write_list(path: Path, rows: list[dict]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", ["list.parquet", "list.jsonl"])
def test_a_local_list_of_any_kind(tmp_path, name):
    write_list(tmp_path / name, planted())
    entries = name_benchmarks(str(tmp_path / name), False)
    marks = {mark for row in planted() for mark in marks_of(*map(row.get, LIST_COLUMNS))}
    assert read_benchmarks(entries) == {str(tmp_path / name): marks}
    assert entries[0]["commit"].startswith("local-") and entries[0]["instances"] == 20


def test_none_of_a_list_passes_by_id_by_commit(data, tmp_path):
    name = "list.jsonl"
    write_list(tmp_path / name, planted())
    run = sampled(data, tmp_path, "--benchmarks", name)
    assert run.returncode == 0, run.stderr
    assert numbers(tmp_path) == set(range(20, INSTANCES))
    made = plan(tmp_path)
    [entry] = made["benchmarks"]["lists"]
    assert (entry["state"], entry["instances"]) == ("checked", 20)
    passed_over = {row["instance_id"]: row["reason"] for row in made["in_benchmark"]}
    assert sorted(entry["overlaps"]) == sorted(passed_over) and len(passed_over) == 20
    same = {reason.partition(": the same ")[2] for reason in passed_over.values()}
    assert same == {"id", "base commit"}
    assert f"{name}: 20 of its 20 instances passed over" in run.stdout
    left_out = read_left_out(made, Config(), Tally("report"))
    page = huge_pr_page(left_out, [])
    for instance_id, reason in passed_over.items():
        assert instance_id in page and reason.partition(":")[2] in page


def test_a_local_dataset_asks_the_hub_for_nothing(data, tmp_path):
    with FakeHub(data) as hub:
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf_home")}
        both = ("--dataset", str(data / "acme/trajectories"), "--prs", str(data / "acme/prs"))
        run = stage("prompt.py", *both, "--count", "60", cwd=tmp_path, **variables)
        assert run.returncode == 0, run.stderr
        assert hub.requests == [] and plan(tmp_path)["benchmarks"] == {"lists": []}
        assert "overlap not checked: no list was named" in run.stdout


def test_lists_known_by_default_and_a_rerun_never_changes_the_draw(data, tmp_path):
    remote = ("--dataset", "acme/trajectories", "--prs", "acme/prs", "--count", "30")
    with FakeHub(data) as hub:
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf_home")}
        run = stage("prompt.py", *remote, "--limit", "5", cwd=tmp_path, **variables)
        assert run.returncode == 0, run.stderr
        lists = plan(tmp_path)["benchmarks"]["lists"]
        assert [entry["commit"] for entry in lists if entry["commit"]] == [hub.commit(LIST)]
        states = {entry["name"]: entry["state"] for entry in lists}
        assert states.pop(LIST) == "checked"
        assert set(states) == {*DEFAULT_LISTS} - {LIST}
        assert set(states.values()) == {"not checked"}
        for name in states:
            assert f"OVERLAP WITH {name} NOT CHECKED: " in run.stdout
            assert f"WARNING: overlap with {name} not checked" in run.stderr
        # A list that appears, or grows, later: what is pinned holds.
        other = Path(data, "SWE-bench", "SWE-bench_Multilingual")
        other.mkdir(parents=True)
        write_list(other / "test.parquet", [task(number) for number in range(20, 40)])
        hub.forget()
        run = stage("prompt.py", *remote, cwd=tmp_path, **variables)
        assert run.returncode == 0, run.stderr
        assert not any("Multilingual" in path for _, path, *_ in hub.requests)
        assert numbers(tmp_path) <= set(range(20, INSTANCES))
        assert numbers(tmp_path) & set(range(20, 40))
        lists = plan(tmp_path)["benchmarks"]["lists"]
        assert {entry["name"]: entry["state"] for entry in lists} == {**states, LIST: "checked"}
        hub.forget()
        run = stage("prompt.py", *remote, cwd=tmp_path, **variables)
        assert run.returncode == 0 and hub.requests == []
        assert "NOT CHECKED" in run.stdout


def test_lists_that_cannot_be_read_stop_nothing(data, tmp_path):
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    (tmp_path / "odd.jsonl").write_text("{")
    (tmp_path / "other.jsonl").write_text('{"a": 1}')
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\x00\xfe")
    (tmp_path / "folder.jsonl").mkdir()
    write_list(tmp_path / "good.jsonl", planted())
    bad = ["torn.parquet", "odd.jsonl", "other.jsonl", "binary.jsonl", "folder.jsonl", "none.jsonl"]
    run = sampled(data, tmp_path, "--benchmarks", ",".join([*bad, "good.jsonl"]))
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr and len(run.stderr.splitlines()) == len(bad)
    states = {entry["name"]: entry for entry in plan(tmp_path)["benchmarks"]["lists"]}
    assert [states[name]["state"] for name in bad] == ["not checked"] * len(bad)
    assert all(states[name]["why"] for name in bad)
    assert states["good.jsonl"]["state"] == "checked"
    assert numbers(tmp_path) == set(range(20, INSTANCES))


def test_a_sample_of_an_older_version_is_taken_as_it_is(data, tmp_path):
    assert sampled(data, tmp_path, "--limit", "3").returncode == 0
    path = tmp_path / "prompt" / "_plan.json"
    old = plan(tmp_path)
    for key in ("benchmarks", "in_benchmark", "other_license", "shows_fix"):
        del old[key]
    for flag in ("--benchmarks", "--license"):
        del old["flags"][flag]
    path.write_text(json.dumps(old))
    write_list(tmp_path / "list.jsonl", planted())
    run = sampled(data, tmp_path, "--license", "mit")
    assert run.returncode == 2 and "--license" in run.stderr
    run = sampled(data, tmp_path, "--benchmarks", "list.jsonl")
    assert run.returncode == 2 and "--benchmarks" in run.stderr
    run = sampled(data, tmp_path, "--limit", "3")
    assert run.returncode == 0 and "overlap not checked" in run.stdout
    assert json.loads(path.read_text()) == old
    run = sampled(data, tmp_path)
    assert run.returncode == 0, run.stderr
    assert len(numbers(tmp_path)) == INSTANCES
    assert plan(tmp_path)["benchmarks"] == {"lists": []}


# ------------------------------------------------------------------------------------- the licence


def write_licensed(folder: Path, column: str, names: list[str | None]) -> None:
    """Write a dataset of one instance for each licence."""
    rows = []
    records = []
    for number, name in enumerate(names):
        record = {**pull_request(number), "license": None}
        del record["license"]
        records.append({**record, column: name})
        row = {"instance_id": record["instance_id"], "repo": record["repo"]}
        rows.append({**row, "messages": trajectory(number, 0)})
    pq.write_table(pa.Table.from_pylist(rows), folder / "trajectories.parquet")
    pq.write_table(pa.Table.from_pylist(records), folder / "prs.parquet")


@pytest.mark.parametrize("column", ["license", "license_name"])
def test_only_records_under_the_licences_that_are_named(tmp_path, column):
    write_licensed(tmp_path, column, ["MIT", "mit", "Apache-2.0", "GPL-3.0", "", None])
    both = ("--dataset", "trajectories.parquet", "--prs", "prs.parquet")
    run = stage("prompt.py", *both, "--license", "mit, APACHE-2.0", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert numbers(tmp_path) == {0, 1, 2}
    records = {}
    for path in tmp_path.glob("commit/*.json"):
        records[path.stem] = json.loads(path.read_text())["license"]
    assert sorted(records.values()) == ["Apache-2.0", "MIT", "mit"]
    left_out = plan(tmp_path)["other_license"]
    assert sorted(row["instance_id"][-1] for row in left_out) == ["3", "4", "5"]
    assert any("GPL-3.0" in row["reason"] for row in left_out)
    run = stage("prompt.py", *both, "--license", "Apache-2.0,MIT", cwd=tmp_path)
    assert run.returncode == 0  # the same licences
    run = stage("prompt.py", *both, "--license", "bsd-3-clause", cwd=tmp_path)
    assert run.returncode == 2 and "--license" in run.stderr


def test_a_licence_is_named_as_the_records_call_it(tmp_path):
    write_licensed(tmp_path, "license", ["MIT License", "MIT", "Apache License 2.0"])
    both = ("--dataset", "trajectories.parquet", "--prs", "prs.parquet")
    run = stage("prompt.py", *both, "--license", "mit license, Apache License 2.0", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert numbers(tmp_path) == {0, 2}


def test_no_licence_fits_or_none_is_known(tmp_path):
    write_licensed(tmp_path, "stars", ["MIT"] * 3)
    both = ("--dataset", "trajectories.parquet", "--prs", "prs.parquet")
    run = stage("prompt.py", *both, "--license", "mit", cwd=tmp_path)
    assert run.returncode == 2 and "3 x its licence is unknown" in run.stderr
    assert stage("prompt.py", *both, cwd=tmp_path).returncode == 0
    for path in tmp_path.glob("commit/*.json"):
        assert "license" not in json.loads(path.read_text())


# -------------------------------------------------------------------------------- small functions


def test_marks():
    assert marks_of("A__b-1", "A/b", "0" * 40) == [("id", "a__b-1")]
    assert marks_of("", "A/b", "ABC1") == [("base commit", "a/b", "abc1")]
    assert marks_of("", "", "abc1") == []


def test_which_lists_hold_an_instance(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"instance_id": "a", "repo": "A/a", "base_commit": ""}
    write_list(tmp_path / "one.jsonl", [row])
    write_list(tmp_path / "two.jsonl", [row, {**row, "instance_id": "b", "base_commit": "C1"}])
    locations = {"a": Location("f", 0, "", ""), "b": Location("f", 0, "A/a", "c1")}
    marks = read_benchmarks(name_benchmarks("one.jsonl, two.jsonl", False))
    known = (SimpleNamespace(locations=locations), [], marks)
    lists = ["one.jsonl", "two.jsonl"]
    why = ("in_benchmark", "in one.jsonl, two.jsonl: the same id", lists)
    assert why_left_out("a", *known) == why
    same = "in two.jsonl: the same id and base commit"
    assert why_left_out("b", *known) == ("in_benchmark", same, lists[1:])


def test_a_list_that_is_gone_stops_the_rerun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_list(tmp_path / "list.jsonl", planted())
    lists = name_benchmarks("list.jsonl, NONE,", False)
    marks = read_benchmarks(lists)
    assert len(lists) == 1 and read_benchmarks(lists) == marks
    text = Path("list.jsonl").read_text()
    assert lists[0]["commit"] == "local-" + digest(text)[:16]  # as older versions have it
    for body in (text.replace("0", "9").encode(), b'{"instance_id": "a"}\n', b"\xff\x00,"):
        (tmp_path / "list.jsonl").write_bytes(body)
        with pytest.raises(UserError, match="no longer holds what the plan was made from"):
            read_benchmarks(lists)
    (tmp_path / "list.jsonl").unlink()
    with pytest.raises(UserError, match="list.jsonl: it no longer holds"):
        read_benchmarks(lists)
