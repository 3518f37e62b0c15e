"""prompt.py as a user runs it: from local parquet and from a Hub on loopback that misbehaves on order."""
from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers import stage, start
from tests.hub import TRAJECTORIES, FakeHub, pull_request, trajectory, write_datasets

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import prompt as prompt_stage  # noqa: E402
from common.files import UserError  # noqa: E402
from common.turns import RECORD_KEYS  # noqa: E402
from prompt import changed_files, usable_turns, why_passed_over  # noqa: E402

BOTH = ("--dataset", "acme/trajectories", "--prs", "acme/prs")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 instances of 10 rollouts in 3 files; row groups of 45 rows, so that instances lie across two of them."""
    folder = tmp_path_factory.mktemp("hub")
    write_datasets(folder, instances=60, group_rows=45)
    return folder


@pytest.fixture()
def hub(data):
    with FakeHub(data) as running:
        yield running


def local(data: Path, *flags: str, cwd: Path, **extra):
    return stage("prompt.py", "--dataset", str(data / "acme" / "trajectories"), "--prs", str(data / "acme" / "prs"),
                 *flags, cwd=cwd, **extra)


def remote(hub: FakeHub, *flags: str, cwd: Path, **extra):
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(cwd / "hf_home"), **extra}
    return stage("prompt.py", *BOTH, *flags, cwd=cwd, **environment)


def contents(cwd: Path) -> dict[str, bytes]:
    """Every file that the stage made, by name, but for its locks."""
    return {path.relative_to(cwd).as_posix(): path.read_bytes() for folder in ("prompt", "commit")
            for path in Path(cwd, folder).rglob("*") if path.is_file() and not path.name.startswith("_lock")}


def samples(cwd: Path) -> dict[str, bytes]:
    """The prompts and the records."""
    return {name: data for name, data in contents(cwd).items() if not name.startswith("prompt/_")}


def prompts(cwd: Path) -> list[dict]:
    files = sorted(Path(cwd, "prompt").glob("prompts_*.json"), key=lambda path: int(path.stem.split("_")[2]))
    return [prompt for path in files for prompt in json.loads(path.read_text())]


def plan(cwd: Path) -> dict:
    return json.loads(Path(cwd, "prompt", "_plan.json").read_text())


def write_rows(folder: Path, rows: list[tuple], schema: pa.Schema = TRAJECTORIES) -> None:
    """A trajectories file of (instance id, messages) rows, and their PR records beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    table = [{"instance_id": name, "repo": "acme/rows", "messages": messages} for name, messages in rows]
    pq.write_table(pa.Table.from_pylist(table, schema), folder / "trajectories.parquet")
    records = [{**pull_request(number), "instance_id": name} for number, (name, _) in enumerate(rows) if name]
    pq.write_table(pa.Table.from_pylist(records), folder / "prs.parquet")


def from_rows(folder: Path, *flags: str):
    return stage("prompt.py", "--dataset", str(folder / "trajectories.parquet"), "--prs", str(folder / "prs.parquet"),
                 *flags, cwd=folder)


# --------------------------------------------------------------------------------------------------------- the files

def test_prompts_and_records_hold_what_the_datasets_hold(data, tmp_path):
    run = local(data, "--count", "250", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert [len(json.loads(Path(tmp_path, "prompt", f"prompts_250_{k}.json").read_text())) for k in (1, 2)] == [200, 50]
    taken = prompts(tmp_path)
    assert len({json.dumps([prompt["instance_id"], prompt["messages"]]) for prompt in taken}) == 250
    assert [window["pass"] for window in plan(tmp_path)["offsets"]][-1] == 2  # the second takes all that is missing
    tables = {}
    for prompt in taken:
        assert list(prompt) == ["instance_id", "repo", "messages", "assistant", "source"]
        source = prompt["source"]
        if source["file"] not in tables:
            tables[source["file"]] = pq.read_table(data / "acme" / "trajectories" / source["file"]).to_pylist()
        row = tables[source["file"]][source["row"]]
        assert (prompt["instance_id"], prompt["repo"]) == (row["instance_id"], row["repo"])
        assert prompt["messages"] == row["messages"][:source["turn"]] and prompt["messages"][-1]["role"] == "user"
        assert row["messages"][source["turn"]] == {"role": "assistant", "content": prompt["assistant"]}
    for instance_id in {prompt["instance_id"] for prompt in taken}:
        record = json.loads(Path(tmp_path, "commit", f"{instance_id}.json").read_text())
        pr = pull_request(int(instance_id.rpartition("-")[2]))
        assert tuple(record) == RECORD_KEYS
        assert record == {**{key: pr[key] for key in RECORD_KEYS if key in pr}, "issue": pr["problem_statement"],
                          "description": pr["pr_description"], "files": [pr["patch"].split()[2].removeprefix("a/")]}


def test_every_instance_once_before_any_twice_and_all_thirds_of_a_chat(data, tmp_path):
    run = local(data, "--count", "60", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert set(Counter(prompt["instance_id"] for prompt in prompts(tmp_path)).values()) == {1}
    summary = plan(tmp_path)["summary"]
    assert summary["instances"] == 60 and min(summary["thirds"].values()) > 8
    assert len({prompt["source"]["turn"] for prompt in prompts(tmp_path)}) == 6  # any of the six assistant turns
    assert len({prompt["source"]["row"] % 10 for prompt in prompts(tmp_path)}) > 7  # and any of the ten rollouts


def test_a_cap_per_instance_that_is_asked_for_holds(data, tmp_path):
    run = local(data, "--count", "200", "--per-instance", "2", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert set(Counter(prompt["instance_id"] for prompt in prompts(tmp_path)).values()) == {2}
    assert len(prompts(tmp_path)) == 120 and "no more turns to give: 120 of 200" in run.stdout
    assert remade(tmp_path, local, data, "--count", "200", "--per-instance", "2") == []


def test_a_small_dataset_gives_every_turn_once_and_then_says_so(tmp_path):
    write_rows(tmp_path, [("a-1", trajectory(1, 0)), ("a-1", trajectory(1, 0)[:7]), ("b-2", trajectory(2, 0))])
    run = from_rows(tmp_path, "--count", "50")
    assert run.returncode == 0, run.stderr
    chats = {(prompt["instance_id"], len(prompt["messages"])) for prompt in prompts(tmp_path)}
    assert chats == {(name, 2 * turn) for name in ("a-1", "b-2") for turn in range(1, 7)}  # both rows of a-1 agree
    assert len(prompts(tmp_path)) == 12 and "12 of 50 were found" in run.stdout


def remade(cwd: Path, how, *args, **extra) -> list[str]:
    """Names of the files that a rerun changed."""
    before, times = contents(cwd), {path: path.stat().st_mtime_ns for path in Path(cwd, "prompt").glob("prompts*")}
    run = how(*args, cwd=cwd, **extra)
    assert run.returncode == 0, run.stderr
    after = contents(cwd)
    return ([name for name in {*before, *after} if before.get(name) != after.get(name)]
            + [path.name for path, when in times.items() if path.stat().st_mtime_ns != when])


def test_the_hub_and_a_folder_give_the_same_and_a_rerun_asks_nothing(data, hub, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    assert local(data, "--count", "230", cwd=here).returncode == 0
    run = remote(hub, "--count", "230", cwd=there)
    assert run.returncode == 0, run.stderr
    assert samples(here) == samples(there)
    assert plan(there)["revision"] == hub.commit("acme/trajectories") and plan(there)["seed"] == 0
    hub.requests.clear()
    assert remade(there, remote, hub, "--count", "230") == [] and hub.requests == []


def test_a_trial_is_the_beginning_of_the_whole(data, tmp_path):
    whole, trial = tmp_path / "whole", tmp_path / "trial"
    whole.mkdir(), trial.mkdir()
    assert local(data, "--count", "215", cwd=whole).returncode == 0
    for flags, length in (("--limit", "3"), 3), (("--limit", "3"), 3), (("--limit", "205"), 205), ((), 215):
        run = local(data, "--count", "215", *flags, cwd=trial)
        assert run.returncode == 0, run.stderr
        assert prompts(trial) == prompts(whole)[:length]
        assert len(list(Path(trial, "commit").glob("*.json"))) == len({p["instance_id"] for p in prompts(trial)})
    assert contents(trial) == contents(whole)
    assert remade(trial, local, data, "--count", "215", "--limit", "4") == []


def test_other_flags_on_the_same_folder_stop_with_the_flag_named(data, tmp_path):
    assert local(data, "--count", "5", cwd=tmp_path).returncode == 0
    before = contents(tmp_path)
    for flags, name in ((("--count", "5", "--seed", "1"), "--seed 0"), (("--count", "6"), "--count 5")):
        run = local(data, *flags, cwd=tmp_path)
        assert run.returncode == 2 and name in run.stderr and "another folder" in run.stderr
    assert contents(tmp_path) == before


def test_another_seed_gives_other_turns(data, tmp_path):
    chosen = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        assert local(data, "--count", "20", "--seed", seed, cwd=folder).returncode == 0
        chosen.append({json.dumps(prompt["source"]) for prompt in prompts(folder)})
    assert len(chosen[0] & chosen[1]) < 10


def test_a_hurt_file_is_set_aside_and_made_again_as_it_was(data, tmp_path):
    assert local(data, "--count", "410", cwd=tmp_path).returncode == 0
    before = samples(tmp_path)
    first, second, third = (Path(tmp_path, "prompt", f"prompts_410_{k}.json") for k in (1, 2, 3))
    torn, foreign, gone = sorted(Path(tmp_path, "commit").glob("acme*"))[:3]
    for path in first, torn:
        path.write_text(path.read_text()[:500])
    second.write_text(second.read_text().replace("step 3", "step 4"))
    foreign.write_text("[1, 2]")
    third.unlink(), gone.unlink()
    run = local(data, "--count", "410", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    after = samples(tmp_path)
    for path in first, second, torn, foreign:
        assert path.name in run.stderr and after.pop(f"{path.parent.name}/{path.name}.bad")
    assert after == before


# ------------------------------------------------------------------------------------------------- what is left out

def test_rows_without_a_usable_turn_are_passed_over_and_counted(tmp_path):
    good = trajectory(1, 0)
    tool = [*good[:2], {"role": "tool", "content": "ls"}, *good[2:]]
    hollow = [*good[:2], {"role": "assistant", "content": None}, *good[3:]]
    unclosed = [*good[:2], {"role": "assistant", "content": "THOUGHT: cut\n\n```bash\nsed -n"}]
    write_rows(tmp_path, [("good-1", good), ("null-2", None), ("empty-3", []), ("early-4", good[:2]), ("tool-5", tool),
                          ("hollow-6", hollow), ("unclosed-7", unclosed), ("starts-8", good[2:3])])
    run = from_rows(tmp_path, "--count", "3")
    assert run.returncode == 0, run.stderr
    assert {prompt["instance_id"] for prompt in prompts(tmp_path)} == {"good-1"}
    assert {reason.split(":")[0]: count for reason, count in plan(tmp_path)["summary"]["rows_passed_over"].items()} == {
        "malformed": 1, "cut": 2, "no usable turn": 4}


def test_messages_as_json_text(tmp_path):
    text = pa.schema([("instance_id", pa.string()), ("repo", pa.string()), ("messages", pa.string())])
    rows = [("a-1", json.dumps(trajectory(1, 0))), ("b-2", json.dumps(trajectory(2, 0))[:-9]),
            ("c-3", '{"role": "user"}'),
            ("d-4", json.dumps([*trajectory(4, 0)[:2], {"role": "assistant", "content": "lone \ud800 half"}]))]
    write_rows(tmp_path, rows, text)
    run = from_rows(tmp_path, "--count", "2")
    assert run.returncode == 0, run.stderr
    assert {prompt["instance_id"]: prompt["messages"] for prompt in prompts(tmp_path)}["d-4"] == trajectory(4, 0)[:2]
    assert "lone \ufffd half" in [prompt["assistant"] for prompt in prompts(tmp_path)]
    assert sum(plan(tmp_path)["summary"]["rows_passed_over"].values()) == 2


def test_unsafe_ids_missing_records_and_exclusions_are_named_and_replaced(refusal, tmp_path):
    rows = [("../evil", trajectory(90, 0)), (None, trajectory(91, 0)), ("lost-1", trajectory(92, 0)),
            ("out-2", trajectory(93, 0)), ("in-3", trajectory(94, 0)), ("in-4", trajectory(95, 0))]
    write_rows(tmp_path, rows)
    prs = [row for row in pq.read_table(tmp_path / "prs.parquet").to_pylist() if row["instance_id"] != "lost-1"]
    pq.write_table(pa.Table.from_pylist(prs), tmp_path / "prs.parquet")
    (tmp_path / "leave.txt").write_text("# benchmark\nout-2  # this one\n\nother/repo\n")
    run = from_rows(tmp_path, "--count", "2", "--exclude", "leave.txt")
    assert run.returncode == 0, run.stderr
    assert {prompt["instance_id"] for prompt in prompts(tmp_path)} == {"in-3", "in-4"}
    assert sorted(path.stem for path in Path(tmp_path, "commit").glob("*.json")) == ["in-3", "in-4"]
    made = plan(tmp_path)
    assert made["excluded"] == [{"instance_id": "out-2", "repo": "acme/rows", "reason": "out-2 is listed in leave.txt"}]
    assert [entry["instance_id"] for entry in made["without_record"]] == ["lost-1"]
    assert sorted(entry["instance_id"] for entry in made["refused"]) == ["../evil", "None"]
    assert "lost-1" in run.stdout and "../evil" in run.stdout
    (tmp_path / "leave.txt").write_text("acme/rows\n")
    shutil.rmtree(tmp_path / "prompt")
    assert "acme/rows is listed in" in refusal("--dataset", "trajectories.parquet", "--prs", "prs.parquet", "--exclude",
                                               "leave.txt")


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


# ------------------------------------------------------------------------------------------------------------ the Hub

def test_only_the_drawn_columns_are_read_and_the_records_only_once(data, tmp_path):
    with FakeHub(data) as hub:
        assert remote(hub, "--count", "60", cwd=tmp_path).returncode == 0
        summary = plan(tmp_path)["summary"]
        allowed = summary["trajectory_bytes"] + summary["record_bytes"]
        footers = sum(min(65536, path.stat().st_size) for name in ("trajectories", "prs")
                      for path in hub.files(f"acme/{name}"))
        assert hub.sent() <= 1.02 * allowed + footers
        assert summary["trajectory_bytes"] < 0.98 * sum(path.stat().st_size for path in hub.files("acme/trajectories"))
        assert [path for _, path, *_ in hub.requests if "/tree/" in path and "trajectories" in path].__len__() == 1
        hub.requests.clear()
        second = make(tmp_path / "second")
        run = remote(hub, "--count", "60", "--seed", "5", cwd=second, HF_HOME=str(tmp_path / "hf_home"))
        assert run.returncode == 0, run.stderr
        assert hub.sent("/blob/acme/prs") == 0 and len(list(Path(second, "commit").glob("*.json"))) == 60


def test_windows_are_read_as_they_are_needed(data, hub, tmp_path):
    assert remote(hub, "--count", "60", "--limit", "4", cwd=tmp_path).returncode == 0
    assert len({path for path, *_ in hub.ranges() if "trajectories" in path}) == 1


@pytest.mark.parametrize("faults", [{"503": 0.05, "429": 0.05}, {"cut": 0.07, "short": 0.07, "whole": 0.03}])
def test_faults_change_nothing(data, hub, tmp_path, faults, clean):
    hub.faults = faults
    run = remote(hub, "--count", "60", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert contents(tmp_path) == clean


@pytest.fixture(scope="module")
def clean(data, tmp_path_factory):
    """What a run without faults makes."""
    cwd = tmp_path_factory.mktemp("clean")
    with FakeHub(data) as hub:
        assert remote(hub, "--count", "60", cwd=cwd).returncode == 0
    return contents(cwd)


def test_a_stalled_body_is_given_up_and_gone_on_with(data, hub, tmp_path, clean):
    hub.faults = {"stall": 0.03}
    run = remote(hub, "--count", "60", cwd=tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert run.returncode == 0, run.stderr
    assert contents(tmp_path) == clean


def test_kills_at_any_moment_then_the_same_files(data, tmp_path, clean):
    with FakeHub(data, latency_s=0.02) as hub:
        kills = 0
        for wait_s in (1.2, 1.7, 2.2):
            process = start("prompt.py", *BOTH, "--count", "60", cwd=tmp_path, HF_ENDPOINT=hub.url,
                            HF_HOME=str(tmp_path / "hf_home"))
            time.sleep(wait_s)
            kills += process.poll() is None
            process.kill()
            process.communicate()
        assert kills
        run = remote(hub, "--count", "60", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert contents(tmp_path) == clean


def test_a_term_signal_ends_with_130_and_the_next_run_goes_on(data, tmp_path, clean):
    with FakeHub(data, latency_s=0.2) as hub:
        process = start("prompt.py", *BOTH, "--count", "60", cwd=tmp_path, HF_ENDPOINT=hub.url,
                        HF_HOME=str(tmp_path / "hf_home"))
        deadline = time.monotonic() + 20
        while not hub.ranges() and time.monotonic() < deadline:
            time.sleep(0.05)
        sent = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 130 and "Traceback" not in errors
        assert time.monotonic() - sent < 5
        hub.latency_s = 0
        assert remote(hub, "--count", "60", cwd=tmp_path).returncode == 0
    assert contents(tmp_path) == clean


def test_an_outage_ends_with_1_and_loses_nothing(data, hub, tmp_path, clean):
    hub.dies_after = 30
    run = stage("prompt.py", *BOTH, "--count", "60", cwd=tmp_path, HF_ENDPOINT=hub.url,
                HF_HOME=str(tmp_path / "hf_home"), timeout_s=90)
    assert run.returncode == 1 and "does not answer well" in run.stdout and "Traceback" not in run.stderr
    assert "does not answer well" in Path(tmp_path, "prompt", "_failed.jsonl").read_text()
    hub.dies_after = float("inf")
    assert remote(hub, "--count", "60", cwd=tmp_path).returncode == 0
    assert contents(tmp_path) == clean


@pytest.fixture()
def refusal(monkeypatch, tmp_path):
    """Run main() here with flags that it refuses; returns the one or two lines that run() would print, with code 2."""
    for name in ("HF_TOKEN", "HUGGINGFACE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def refused(*flags: str, **environment: str) -> str:
        monkeypatch.setattr(sys, "argv", ["prompt.py", *flags])
        with pytest.raises(UserError) as stopped, monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            prompt_stage.main()
        assert len(str(stopped.value).splitlines()) <= 2
        return str(stopped.value)

    return refused


def test_access_that_is_refused_is_told_in_plain_words(data, refusal, tmp_path):
    with FakeHub(data, token="hf_right", gated=("acme/prs",)) as hub:
        told = refusal(*BOTH, HF_ENDPOINT=hub.url)
        assert "--dataset acme/trajectories" in told and "HF_TOKEN" in told
        told = refusal(*BOTH, HF_ENDPOINT=hub.url, HF_TOKEN="hf_secret_wrong")
        assert "HF_TOKEN was refused" in told and "expired" in told and "hf_secret" not in told
        told = refusal(*BOTH, HF_ENDPOINT=hub.url, HUGGINGFACE_API_KEY="hf_wrong")
        assert "HUGGINGFACE_API_KEY was refused" in told
        told = refusal(*BOTH, HF_ENDPOINT=hub.url, HF_TOKEN="hf_right")
        assert "--prs acme/prs is gated" in told and "Accept its terms" in told
    with FakeHub(data) as hub:
        assert "no revision 'v9'" in refusal(*BOTH, "--revision", "v9", HF_ENDPOINT=hub.url)
        assert "no such dataset" in refusal("--dataset", "acme/none", HF_ENDPOINT=hub.url)
    assert "HF_ENDPOINT" in refusal(HF_ENDPOINT="huggingface.co")
    run = stage("prompt.py", *BOTH, cwd=tmp_path, HF_ENDPOINT=hub.url)  # nothing listens there any more
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 2
    assert "cannot be reached" in run.stderr and "local parquet" in run.stderr and not contents(tmp_path)


def test_a_token_from_dotenv_opens_a_private_dataset(data, tmp_path):
    (tmp_path / ".env").write_text("HUGGINGFACE_API_KEY=hf_right\n")
    with FakeHub(data, token="hf_right") as hub:
        run = remote(hub, "--count", "4", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert b"hf_right" not in b"".join(contents(tmp_path).values())


def test_bad_input_is_told_in_plain_words(data, refusal, tmp_path):
    prs, rows = str(data / "acme" / "prs"), str(data / "acme" / "trajectories")
    told = refusal("--dataset", "none/at/all", "--prs", prs)
    assert "--dataset none/at/all" in told and "no parquet file" in told
    told = refusal("--dataset", prs, "--prs", prs)
    assert "no column 'messages'" in told and "data/train-0000" in told
    told = refusal("--dataset", rows, "--prs", rows)
    assert "--prs" in told and "no column 'base_commit'" in told
    assert "--exclude none.txt" in refusal("--dataset", rows, "--prs", prs, "--exclude", "none.txt")
    (tmp_path / "torn.parquet").write_bytes(next((data / "acme" / "prs").rglob("*.parquet")).read_bytes()[:-100])
    assert "torn.parquet is not a whole parquet" in refusal("--dataset", "torn.parquet", "--prs", prs)
    write_rows(tmp_path / "other", [("x-1", trajectory(1, 0))])
    assert "no PR record" in refusal("--dataset", rows, "--prs", "other/prs.parquet")
    assert not contents(tmp_path)  # nothing that a run with the right flags would stumble over
    (tmp_path / "prompt" / "prompts_9_1.json").write_text("[]")
    assert "prompts_9_1.json" in refusal("--dataset", rows, "--prs", prs)


# ------------------------------------------------------------------------------------------------------ small functions

def test_changed_files():
    git = ('diff --git a/new.py b/new.py\nnew file mode 100644\n--- /dev/null\n+++ b/new.py\n'
           '@@ -0,0 +1,2 @@\n+++ b/not.py\n+x\n'
           'diff --git a/old.py b/old.py\ndeleted file mode 100644\n--- a/old.py\n+++ /dev/null\n'
           '@@ -1 +0,0 @@\n--- a/neither.py\n'
           'diff --git a/was it.py b/is it.py\nsimilarity index 100%\nrename from was it.py\nrename to is it.py\n'
           'diff --git "a/caf\\303\\251 \\"x\\".txt" "b/caf\\303\\251 \\"x\\".txt"\n--- "a/caf\\303\\251 \\"x\\".txt"\n'
           '+++ "b/caf\\303\\251 \\"x\\".txt"\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n'
           'diff --git a/run me.sh b/run me.sh\nold mode 100644\nnew mode 100755\n'
           'diff --git a/logo.png b/logo.png\nindex 1..2 100644\nBinary files a/logo.png and b/logo.png differ\n')
    assert changed_files(git) == ["new.py", "old.py", "was it.py", "is it.py", 'café "x".txt', "run me.sh", "logo.png"]
    assert changed_files("--- a/one.c\t2020-01-01\n+++ b/one.c\t2020-01-02\n@@ -1 +1 @@\n-a\n+b\n") == ["one.c"]
    assert changed_files("") == []


def test_usable_turns():
    user, good = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
    assert usable_turns([user, good, good, user, good]) == [1, 4]
    assert usable_turns([good, user, {"role": "assistant", "content": "  "}, user, good]) == [4]
    assert usable_turns([user, good, {"role": "tool", "content": "x"}, user, good]) == [1]
    assert why_passed_over([user, good]) is None and why_passed_over([]).startswith("cut")
