"""The demo's chats as other agents keep them: mini-swe-agent's two formats, tools, other fences.

`write_runs(form, folder)` writes `runs` runs into `folder`, whose path for --dataset it returns.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pyarrow.parquet as pq

from common.demo.build import write_parquet
from makers import put

FORMS = ("v1", "v2-text", "v2-tools", "jsonl-tools", "jsonl-sh")
TOOL_SYSTEM = "You fix issues through a shell. Reason first, then call the bash tool."


def demo_rows(folder: Path) -> list[dict]:
    """Return the demo's rows that hold a whole chat; its records lie in folder/pull_requests."""
    write_parquet(folder)
    rows = []
    for path in sorted((folder / "trajectories").glob("*.parquet")):
        rows += pq.read_table(path).to_pylist()
    return [row for row in rows if len(row["messages"] or []) > 4 and row["instance_id"]]


def with_fence(messages: list[dict], fence: str) -> list[dict]:
    text = json.dumps(messages).replace("```bash", f"```{fence}")
    return json.loads(text)


def with_tools(messages: list[dict], name: str = "bash", parts: bool = False) -> list[dict]:
    """Return a text chat as one with tool calls; with `parts` contents are typed parts.

    Then every third command is asked of an editor.
    """
    made = [{"role": "system", "content": TOOL_SYSTEM}, copy.deepcopy(messages[1])]
    for place, message in enumerate(messages[2:]):
        call_id = f"call_{place // 2}"
        if message["role"] == "user":
            output = message["content"].removeprefix("Observation: ")
            content = [{"type": "text", "text": output}] if parts else output
            made.append({"role": "tool", "content": content, "tool_call_id": call_id})
            continue
        said, _, rest = message["content"].partition("```bash\n")
        arguments = {"command": rest.rpartition("\n```")[0]}
        function = {"name": name, "arguments": json.dumps(arguments)}
        content = said
        if parts:
            thinking = {"type": "thinking", "thinking": "SECRET"}
            content = [thinking, {"type": "text", "text": said}]
        if parts and place % 6 == 2:
            view = {"command": "view", "path": "a"}
            function = {"name": "str_replace_editor", "arguments": json.dumps(view)}
        call = {"id": call_id, "type": "function", "function": function}
        reply = {"role": "assistant", "content": content, "tool_calls": [call]}
        made.append({**reply, "reasoning_content": "SECRET", "extra": {"cost": 0.1}})
    return made


def run_file(messages: list[dict], version: str, instance_id: str | None = None) -> dict:
    """Return a whole *.traj.json; with an instance id one that states it in `info`."""
    info = {"exit_status": "Submitted", "submission": "diff --git a/a b/a"}
    if instance_id:
        info["instance_id"] = instance_id
    end = {"role": "user", "content": "diff --git a/a b/a"}
    if version != "1":
        end = {"role": "exit", "content": None, "extra": info}
    chat = {"messages": [*messages, end], "trajectory_format": f"mini-swe-agent-{version}"}
    return {"info": info, **chat}


def write_runs(form: str, folder: Path, runs: int = 20) -> str:
    rows = demo_rows(folder)[:runs]
    lines = []
    for number, row in enumerate(rows):
        name = row["instance_id"]
        path = folder / "runs" / f"{number}" / name / f"{name}.traj.json"
        messages = row["messages"]
        if form == "v1":
            put(path, run_file(messages, "1"))
        elif form == "v2-text":
            messages = with_fence(messages, "mswea_bash_command")
            put(path.with_name("last.traj.json"), run_file(messages, "1.1", name))
        elif form == "v2-tools":
            put(path, run_file(with_tools(messages), "1.1"))
        elif form == "jsonl-tools":
            chat = json.dumps(with_tools(messages, "execute_bash", parts=True))
            lines.append({"instance_id": name, "repo": row["repo"], "trajectory": chat})
        else:
            chat = with_fence(messages, "sh")
            lines.append({"instance_id": name, "repo": row["repo"], "messages": chat})
    if not lines:
        return "runs"
    write_lines(folder / "runs.jsonl", lines)
    return "runs.jsonl"


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
