"""Runs of other agents and records of other sets, through the real stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent_runs import FORMS, TOOL_SYSTEM, write_runs
from common.audit.protocol import bash_blocks, fence_of
from common.demo.server import Server
from makers import answers, get
from runner import KEY, stage

PRS = ("--prs", "pull_requests")
ROLES = {"system", "user", "assistant"}
FENCES = {"v2-text": "mswea_bash_command", "jsonl-sh": "sh"}


def prompts(cwd: Path) -> list[dict]:
    return [item for path in sorted(cwd.glob("prompt/prompts_*")) for item in get(path)]


@pytest.mark.background
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
