"""Runs of other agents and records of other sets, through the real stages."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent_runs import FORMS, TOOL_SYSTEM, demo_rows, run_file, write_lines, write_runs
from ch import challenger_messages
from common.audit.history import may_peek, shows_fix
from common.audit.protocol import action_style, bash_blocks, fence_of, protocol_problem
from common.demo.server import Server
from common.sampling.chats import read_chat
from makers import answers, get, put
from runner import KEY, stage
from tests.leak_cases import RECORD

pytestmark = pytest.mark.background

PRS = ("--prs", "pull_requests")
ROLES = {"system", "user", "assistant"}
FENCES = {"v2-text": "mswea_bash_command", "jsonl-sh": "sh"}


def prompts(cwd: Path) -> list[dict]:
    return [item for path in sorted(cwd.glob("prompt/prompts_*")) for item in get(path)]


@pytest.mark.parametrize("form", FORMS)
def test_twenty_runs_of_each_form_through_all_stages(form, tmp_path):
    dataset = write_runs(form, tmp_path)
    with Server(key=KEY) as server:
        for line in (
            ("prompt.py", "--dataset", dataset, *PRS, "--count", "40", "--benchmarks", "none"),
            ("king.py",), ("ch.py",), ("validate.py",), ("report.py",),
        ):  # fmt: skip
            run = stage(*line, cwd=tmp_path, server=server)
            assert run.returncode == 0, (line, run.stdout, run.stderr)
    fence = FENCES.get(form, "bash")
    made = prompts(tmp_path)
    assert len(made) == 40
    for item in made:
        source = item["source"]
        assert Path(tmp_path, "" if "jsonl" in form else "runs", source["file"]).exists()
        assert source["form"] == ("tools" if "tools" in form else "text")
        assert source["fence"] == fence == fence_of(item["messages"]) and item["repo"]
        assert {message["role"] for message in item["messages"]} <= ROLES
        assert "SECRET" not in json.dumps(item)
        if "tools" in form:
            told = item["messages"][0]["content"]
            assert told.startswith(TOOL_SYSTEM) and "```bash" in told
            assert len(bash_blocks(item["assistant"])) == 1
    filled = answers(tmp_path)
    assert len(filled) > 20
    for answer in filled.values():
        assert len(bash_blocks(answer["challenger"], fence)) == 1
        assert answer["meta"]["challenger"]["rejected"].get("protocol", 0) == 0
    exported = [path.read_text() for path in tmp_path.glob("export/sft-*.jsonl")]
    assert len("".join(exported).splitlines()) > 3
    for path in tmp_path.glob("export/tools-*.jsonl"):
        for line in path.read_text().splitlines():
            assert json.loads(line)["completion"][0]["tool_calls"][0]["function"]["name"] == "bash"


# ------------------------------------------------------------------------------ odd files and rows


def record(name: str, **fields) -> dict:
    """Return a record in SWE-bench's columns."""
    texts = {"problem_statement": "It fails.", "hints_text": "See a.py.", "test_patch": ""}
    patch = "--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x\n+y\n"
    ids = {"instance_id": name, "repo": "acme/odd", "base_commit": "1" * 40}
    return {**ids, **texts, "patch": patch, "created_at": "2024-01-02", "version": "1", **fields}


def chat(number: int, turns: int = 2) -> list[dict]:
    messages = [{"role": "user", "content": f"Fix {number}. Reply with one ```bash block."}]
    for turn in range(turns):
        reply = f"THOUGHT: look.\n\n```bash\nls {number} {turn}\n```"
        messages.append({"role": "assistant", "content": reply})
        messages.append({"role": "user", "content": f"Observation: {turn}"})
    return messages


def sample(cwd: Path, *flags: str, dataset: str = "runs", prs: str = "prs.jsonl"):
    """Run prompt.py with --count 4."""
    given = ("--dataset", dataset, "--prs", prs, "--count", "4")
    return stage("prompt.py", *given, *flags, cwd=cwd)


def test_of_a_folder_of_runs_what_cannot_be_read_is_counted_and_named(tmp_path):
    runs = tmp_path / "runs"
    put(runs / "a/acme__odd-1.traj.json", run_file(chat(1), "1"))
    put(runs / "b/acme__odd-2.traj.json", chat(2))  # bare messages
    as_text = {"instance_id": "acme__odd-3", "trajectory": json.dumps(chat(3))}
    put(tmp_path / "elsewhere/x.traj.json", as_text)
    (runs / "linked").symlink_to(tmp_path / "elsewhere")
    (runs / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(runs)
    for name in ("_tmp/acme__odd-7", ".hidden/acme__odd-8", "a/.acme__odd-9", "a/_acme__odd-9"):
        put(runs / f"{name}.traj.json", run_file(chat(9), "1"))
    put(runs / "preds.json", {"no": "run"})
    (runs / "a/torn.traj.json").write_text('{"messages": [{"role"')
    (runs / "a/empty.traj.json").write_text("")
    (runs / "b/binary.traj.json").write_bytes(bytes(range(256)) * 9)
    (runs / "b/deep.traj.json").write_text("[" * 50_000 + "]" * 50_000)
    put(runs / "b/acme__odd-4.traj.json", {"messages": "no chat"})
    put(runs / "b/lost-5.traj.json", run_file(chat(5), "1.1"))
    write_lines(tmp_path / "more.jsonl", [])
    write_lines(tmp_path / "prs.jsonl", [record(f"acme__odd-{number}") for number in range(9)])
    run = sample(tmp_path)
    assert run.returncode == 0 and run.stderr == "", run.stderr
    assert {item["instance_id"][-1] for item in prompts(tmp_path)} == {"1", "2", "3"}
    assert {item["repo"] for item in prompts(tmp_path)} == {"acme/odd"}
    for words in (
        "4 rows: no JSON object, such as row 0 of ",
        "1 rows: malformed", "1 instances without a PR record: lost-5",
    ):  # fmt: skip
        assert words in run.stdout, run.stdout
    made = get(tmp_path / "commit/acme__odd-1.json")
    wanted = ("It fails.", "See a.py.", "2024-01-02", ["a.py"], "")
    keys = ("issue", "description", "created_at", "files", "interface")
    assert tuple(made[key] for key in keys) == wanted
    before = [path.read_bytes() for path in sorted(tmp_path.glob("prompt/*.json"))]
    (tmp_path / "prompt/prompts_4_1.json").unlink()
    assert sample(tmp_path).returncode == 0
    assert before == [path.read_bytes() for path in sorted(tmp_path.glob("prompt/*.json"))]


def test_of_jsonl_what_cannot_be_read_is_counted_and_named(tmp_path):
    rows = [{"instance_id": f"acme__odd-{n}", "repo": "", "messages": chat(n)} for n in range(600)]
    lines = [json.dumps(row).encode() for row in rows]
    lines[1:1] = [b"", b"{torn", b'["a list"]', b"\xff\xfe\x00", b"[" * 50_000, b"  "]
    lines[0] = b"\xef\xbb\xbf" + lines[0].replace(b"Fix 0", b"Fix \xff")
    (tmp_path / "runs.jsonl").write_bytes(b"\r\n".join(lines))
    write_lines(tmp_path / "prs.jsonl", [record(f"acme__odd-{n}") for n in (0, 599)])
    with open(tmp_path / "prs.jsonl", "a") as file:
        file.write("{torn\n")
    run = sample(tmp_path, dataset="runs.jsonl")
    assert run.returncode == 0, run.stderr
    assert {item["source"]["row"] for item in prompts(tmp_path)} == {0, 605}
    assert "4 rows: no JSON object, such as row 2 of runs.jsonl" in run.stdout
    assert "prs.jsonl: 1 lines are no JSON object, such as line 3" in run.stderr


def test_the_same_rows_as_parquet_and_as_jsonl_make_the_same_prompts(tmp_path):
    rows = demo_rows(tmp_path)
    for folder, suffix in (("p", "parquet"), ("j", "jsonl")):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / folder / "runs.parquet")
        if suffix == "jsonl":
            write_lines(tmp_path / folder / "runs.jsonl", rows)
        prs = pq.read_table(tmp_path / "pull_requests").to_pylist()
        write_lines(tmp_path / folder / "prs.jsonl", prs)
        pq.write_table(pa.Table.from_pylist(prs), tmp_path / folder / "prs.parquet")
        names = {"dataset": f"runs.{suffix}", "prs": f"prs.{suffix}"}
        assert sample(tmp_path / folder, "--count", "99", **names).returncode == 0
    texts = []
    for folder in (tmp_path / "p", tmp_path / "j"):
        made = prompts(folder)
        assert len(made) > 10
        texts.append({path.name: get(path) for path in folder.glob("commit/*.json")})
        assert all(item["source"]["form"] == "text" for item in made)
    assert texts[0] == texts[1]


def test_a_glob_ends_where_links_go_round_and_a_name_that_is_no_text_is_told(tmp_path):
    runs = tmp_path / "runs"
    for number in (1, 2):
        put(runs / f"{number}/acme__odd-{number}.traj.json", run_file(chat(number), "1"))
        (runs / f"{number}/up").symlink_to(runs)
    (tmp_path / "all").symlink_to(runs)
    write_lines(tmp_path / "prs.jsonl", [record(f"acme__odd-{number}") for number in range(9)])
    for pattern in ("all/**/*.traj.json", "r*s/**"):
        run = sample(tmp_path, "--count", "9", dataset=pattern)
        assert "sampled 4 turns of 2" in run.stdout, run.stdout
        shutil.rmtree(tmp_path / "prompt")
    Path(os.fsdecode(bytes(runs) + b"/\xff.traj.json")).write_text("{}")
    run = sample(tmp_path)
    assert run.returncode == 2 and "\\udcff.traj.json" in run.stderr and "UTF-8" in run.stderr


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(("dataset", "prs", "words"), [
    ("good.jsonl", "no-patch.jsonl", ("--prs", "no-patch.jsonl", "'patch'")),
    ("good.jsonl", "no-patch.parquet", ("--prs", "no-patch.parquet", "'patch'")),
    ("no-chat.jsonl", "prs.jsonl", ("--dataset", "no-chat.jsonl", "'messages'")),
    ("text.jsonl", "prs.jsonl", ("--dataset", "text.jsonl", "no JSON object in its first lines")),
    ("no-id.jsonl", "prs.jsonl", ("--dataset", "no-id.jsonl", "'instance_id'", "found none")),
    ("good.jsonl", "no-id-prs.jsonl", ("--prs", "no-id-prs.jsonl", "'instance_id'")),
    ("lfs.jsonl", "prs.jsonl", ("lfs.jsonl", "git lfs pull")),
    ("lfs.parquet", "prs.jsonl", ("lfs.parquet", "git lfs pull")),
    ("lfs.traj.json", "prs.jsonl", ("lfs.traj.json", "git lfs pull")),
    ("good.jsonl", "lfs.parquet", ("lfs.parquet", "git lfs pull")),
    ("mixed", "prs.jsonl", ("--dataset", "z.jsonl", "'messages'")),
    ("nothing", "prs.jsonl", ("--dataset", "*.traj.json", "*.jsonl")),
    ("good.jsonl", "nothing", ("--prs", "*.parquet *.jsonl, or")),
])  # fmt: skip
def test_what_is_missing_is_named_before_anything_is_drawn(tmp_path, dataset, prs, words):
    rows = [{"instance_id": "acme__odd-1", "messages": chat(1)}]
    write_lines(tmp_path / "good.jsonl", rows)
    write_lines(tmp_path / "prs.jsonl", [record(f"acme__odd-{n}") for n in range(300)])
    write_lines(tmp_path / "no-chat.jsonl", [{"instance_id": "acme__odd-1", "text": "x"}])
    write_lines(tmp_path / "no-id.jsonl", [{"id": "acme__odd-1", "messages": chat(1)}])
    write_lines(tmp_path / "no-id-prs.jsonl", [{**record("acme__odd-1"), "instance_id": None}])
    incomplete = record("acme__odd-1")
    del incomplete["patch"]
    write_lines(tmp_path / "no-patch.jsonl", [incomplete])
    pq.write_table(pa.Table.from_pylist([incomplete]), tmp_path / "no-patch.parquet")
    (tmp_path / "text.jsonl").write_text("no JSON\nat all\n")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "mixed").mkdir()
    several = [{"instance_id": f"acme__odd-{n}", "messages": chat(n)} for n in range(300)]
    write_lines(tmp_path / "mixed/a.jsonl", several)
    write_lines(tmp_path / "mixed/z.jsonl", [{"instance_id": "acme__odd-1", "text": "x"}])
    for name in ("lfs.jsonl", "lfs.parquet", "lfs.traj.json"):
        (tmp_path / name).write_text(LFS)
    run = sample(tmp_path, dataset=dataset, prs=prs)
    assert run.returncode == 2 and len(run.stderr.splitlines()) <= 3, run.stderr
    for word in words:
        assert word in run.stderr, run.stderr
    assert not [*tmp_path.glob("prompt/*.json"), *tmp_path.glob("commit/*.json")]


# ------------------------------------------------------------------------------------------ chats


def call(name: str = "bash", **arguments) -> dict:
    return {"function": {"name": name, "arguments": json.dumps(arguments)}}


LS = {"command": "ls"}


@pytest.mark.parametrize(("message", "content", "reason"), [
    ({"tool_calls": [call(**LS)]}, "```bash\nls\n```", None),
    ({"content": "Look.\n", "tool_calls": [call("Bash", **LS)]}, "Look.\n\n```bash\nls\n```", None),
    ({"tool_calls": [{"name": "shell", "arguments": LS}]}, "```bash\nls\n```", None),
    ({"tool_calls": json.dumps([call("terminal", **LS)])}, "```bash\nls\n```", None),
    ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"},
                  {"type": "tool_use", "name": "bash", "input": LS}]},
     "a\n\n```bash\nls\n```", None),
    ({"content": "Done."}, "Done.", "no tool"),
    ({"tool_calls": [call(**LS), call(command="pwd")]}, "```bash\nls\n```\n\n```bash\npwd\n```",
     "several"),
    ({"tool_calls": [call("edit", path="a.py")]}, 'Tool call: edit {"path": "a.py"}', "another"),
    ({"tool_calls": [call(command=["ls"])]}, 'Tool call: bash {"command": ["ls"]}', "another"),
    ({"tool_calls": [call(command="ls", input="y")]},
     'Tool call: bash {"command": "ls", "input": "y"}', "another"),
    ({"tool_calls": [call(command=" ")]}, 'Tool call: bash {"command": " "}', "another"),
    ({"tool_calls": [{"function": {"name": "bash", "arguments": "{torn"}}]},
     'Tool call: bash "{torn"', "another"),
    ({"tool_calls": [call(command="cat <<E\n```\nx\n```\nE")]}, None, "code fence"),
    ({"content": "As\n```bash\nls\n```", "tool_calls": [call(**LS)]}, None, "code fence"),
])  # fmt: skip
def test_a_call_becomes_text(message, content, reason):
    items = [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Fix it."}]
    items += [{"role": "assistant", "content": None, "thinking": "hm", **message}]
    items += [{"role": "tool", "content": [{"type": "text", "text": "a.py"}]}]
    items += [{"role": "assistant", "content": "", "tool_calls": [call(**LS)]}]
    read = read_chat(items)
    assert (read.form, read.fence) == ("tools", "bash") and 4 not in read.unfit
    assert content in (None, read.messages[2]["content"])
    assert reason is None and 2 not in read.unfit or reason in read.unfit[2]
    assert read.messages[3] == {"role": "user", "content": "Observation: a.py"}
    told = read.messages[0]["content"]
    assert (
        told.startswith("Use tools.\n\n") and told.count("```bash") == 1 and "\n" not in told[12:]
    )
    items[0]["content"] = "Reply with one ```sh block."
    read = read_chat(items)
    assert (read.fence, read.messages[0]["content"]) == ("sh", items[0]["content"])
    assert fence_of(read.messages) == "sh"
    assert fence_of(read_chat(items[1:]).messages) == "bash"
    items[0]["content"] = "As in\n```sh\nmake\n```"
    assert (
        read_chat(items).messages[0]["content"].endswith("one ```sh block that holds one command.")
    )


IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}
OUTPUT = {"type": "function_call_output", "output": "a.py"}


@pytest.mark.parametrize("message", [
    {"role": "user", "content": [{"type": "text", "text": "See:"}, IMAGE]},
    {"role": "user", "content": [OUTPUT]},
    {"role": "assistant", "content": [{"type": "text"}]},
])  # fmt: skip
def test_a_chat_with_a_part_that_is_no_text_is_malformed(message):
    assert read_chat([*chat(1), message]) is None


def test_a_function_call_is_a_call_and_no_rule_stands_in_the_agents_own_words():
    said = {"role": "assistant", "content": "Hi."}
    old = {**said, "function_call": call(**LS)["function"]}
    output = {"role": "function", "name": "bash", "content": "a.py"}
    read = read_chat([said, {"role": "user", "content": "Fix it."}, old, output])
    assert read.unfit == {0: "its own turn calls no tool"}
    assert read.messages[0] == said and "```bash" in read.messages[1]["content"]
    assert read.messages[2]["content"] == "Hi.\n\n```bash\nls\n```"
    assert read.messages[3] == {"role": "user", "content": "Observation: a.py"}


@pytest.mark.parametrize("arguments", [
    {}, {"timeout": 5}, {"security_risk": "LOW"},
    {"command": ["git", "log", "--all", "-p"]}, {"command": ["bash", "-lc", "git log --all -p"]},
])  # fmt: skip
def test_a_call_that_shows_the_fix_is_found_whatever_its_arguments(arguments):
    made = call("execute_bash", **{"command": "git log --all -p", **arguments})
    shown = [{"role": "tool", "content": "        floor = _midnight_floor(moment, tz=self._zone)"}]
    told = [{"role": "user", "content": "Fix it."}]
    peeked = {"role": "assistant", "content": "", "tool_calls": [made]}
    messages = read_chat([*told, peeked, *shown]).messages
    assert may_peek(messages) and "git log" in shows_fix(messages, RECORD)
    edited = {**peeked, "tool_calls": [call("edit", command="view", path="a.py")]}
    messages = read_chat([*told, edited, *shown]).messages
    assert not may_peek(messages) and not shows_fix(messages, RECORD)


@pytest.mark.parametrize("arguments", [
    "{torn", "[1]", "null", "[" * 50_000, '{"command": 5}', '{"command": {"a": "b c"}}',
    '{"command": ["bash", "-lc"]}', '{"command": ["ls", 1]}', '{"command": null}',
])  # fmt: skip
def test_odd_arguments_in_the_history_raise_nothing(arguments):
    said = {"role": "assistant", "content": f"Look.\n\nTool call: bash {arguments}"}
    messages = [{"role": "user", "content": "Fix."}, said, {"role": "user", "content": "a.py"}]
    assert not may_peek(messages) and not shows_fix(messages, RECORD)


@pytest.mark.parametrize(("system", "user", "fence"), [
    ("One ```bash block.", "```sh\nmake\n```", "bash"),
    ("Form:\n```mswea_bash_command\nx\n```", "```bash\nmake\n```", "mswea_bash_command"),
    ("One ```sh block, no ```bash.", "", "sh"),
    ("You help.", "```sh\nmake\n```\nRules:\n```bash\nyour_command\n```", "bash"),
    ("You help.", "```bash\nmake\n```\nRules:\n```sh\nyour_command\n```", "sh"),
    ("You help.", "Give one ```bash block.\nIssue:\n```sh\nmake\n```", "bash"),
    ("You help.", "```mswea_bash_command\nls\n```\n```bash\nx\n```", "mswea_bash_command"),
    ("You help.", "```python\nx\n```", "bash"),
    (None, None, "bash"),
])  # fmt: skip
def test_the_fence_is_the_one_that_the_rules_name(system, user, fence):
    chat = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    assert fence_of(chat) == fence
    reply = f"THOUGHT: look.\n\n```{fence}\ncat a.py\n```"
    assert protocol_problem(reply, chat) is None and action_style(reply, fence) == "read"
    other = "sh" if fence == "bash" else "bash"
    assert f"0 ```{fence} blocks" in protocol_problem(reply.replace(fence, other), chat)
    briefing = challenger_messages([*chat[:1], {"role": "user", "content": user or ""}], None, 9)
    assert f"exactly one ```{fence} block" in briefing[-1]["content"]
