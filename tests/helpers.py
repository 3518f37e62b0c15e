"""What the tests of several stages share: a small sample on disk, and the real scripts run as a user runs them."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

KEY = "cpk_test-secret-0123456789"
REPLY = "THOUGHT: I list the files to see what there is.\n\n```bash\nls -la\n```"

# Short patience for servers that misbehave on order; everything else stays as users have it.
QUICK = {"stall_s": 1.0, "timeout_s": 6.0, "retry_budget_s": 60.0, "max_tokens": 2000, "max_tokens_cap": 32000}


def clean_environment(server=None, **extra: str) -> dict[str, str]:
    """The environment of a stage: nothing of the user's own, the local server as the provider."""
    values = {name: value for name, value in os.environ.items()
              if not name.startswith(("CHUTES", "OPENAI", "HF_", "HUGGINGFACE", "DUEL"))}
    if server is not None:
        values |= {"CHUTES_BASE_URL": server.url, "CHUTES_API_KEY": KEY}
    return {**values, **extra}


def start(script: str, *flags: str, cwd: Path, server=None, **extra: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(REPO / script), *flags], cwd=cwd, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=clean_environment(server, **extra))


def stage(script: str, *flags: str, cwd: Path, server=None, timeout_s: float = 90, **extra: str):
    """Run a stage to its end; .returncode, .stdout, .stderr as subprocess gives them."""
    process = start(script, *flags, cwd=cwd, server=server, **extra)
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def write_settings(cwd: Path, **sections: dict) -> None:
    """./chain.toml with the sections given, each key as TOML writes it."""
    lines = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    Path(cwd, "chain.toml").write_text("\n".join(lines) + "\n")


def make_prompt(number: int, chars: int = 400) -> dict:
    """One prompt record; no two have the same chat."""
    instance_id = f"acme__widgets-{number}"
    messages = [{"role": "system", "content": "You fix issues in a repository. One ```bash block with one command, after a THOUGHT."},
                {"role": "user", "content": f"Issue {number}: the widget count is wrong. " + "Details follow. " * (chars // 17)}]
    return {"instance_id": instance_id, "repo": "acme/widgets", "messages": messages,
            "assistant": f"THOUGHT: I look around ({number}).\n\n```bash\nls\n```",
            "source": {"file": "data/train-0.parquet", "row": number, "turn": 2}}


def make_record(number: int, patch: str | None = None) -> dict:
    patch = patch or ("diff --git a/gears/ratio.py b/gears/ratio.py\n--- a/gears/ratio.py\n+++ b/gears/ratio.py\n"
                      f"@@ -10,3 +10,3 @@ def tally(parts):\n-    return len(parts)\n+    return len(set(parts)) + zebra_offset_{number}\n")
    return {"instance_id": f"acme__widgets-{number}", "repo": "acme/widgets", "base_commit": "0" * 40,
            "issue": f"Issue {number}: the widget count is wrong.", "description": "Counts each widget once.",
            "files": ["gears/ratio.py"], "patch": patch, "test_patch": "", "interface": "", "language": "python",
            "created_at": "2024-01-01"}


def make_sample(cwd: Path, count: int, per_file: int = 200) -> None:
    """prompt/ and commit/ with `count` turns, as prompt.py writes them."""
    for folder in ("prompt", "commit"):
        Path(cwd, folder).mkdir(exist_ok=True)
    prompts = [make_prompt(number) for number in range(count)]
    for first in range(0, count, per_file):
        name = f"prompts_{count}_{first // per_file + 1}.json"
        Path(cwd, "prompt", name).write_text(json.dumps(prompts[first:first + per_file]))
    for number in range(count):
        Path(cwd, "commit", f"acme__widgets-{number}.json").write_text(json.dumps(make_record(number)))


def answers(cwd: Path) -> dict[str, dict]:
    """All answers by stem; every file of the answer folders must be whole JSON and no temporary may lie there."""
    found = {}
    for path in sorted(Path(cwd).glob("answer_*/*")) + sorted(Path(cwd).glob("answer_*/.*")):
        assert not path.name.endswith(".tmp"), f"left behind: {path}"
        if path.suffix == ".json" and not path.name.startswith("_"):
            found[path.stem] = json.loads(path.read_text())
    return found


def assert_no_key(cwd: Path, *printed: str) -> None:
    """The key stands in nothing that was printed and in no file."""
    for text in printed:
        assert KEY not in text
    for path in Path(cwd).rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path
