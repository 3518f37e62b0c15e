"""How long each stage takes to see that nothing is left to do: whole processes, import included.

    python -m tests.bench_resume [--turns 20000]

The floor is `python -c "import openai"`, which every calling stage pays, and reading every byte once.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import rmtree

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]

from bench_calls import timed  # noqa: E402
from helpers import REPLY, clean_environment, make_prompt, make_record  # noqa: E402
from common import io  # noqa: E402
from common.demo.server import Server  # noqa: E402
from common.leaks import AUDIT_VERSION  # noqa: E402

DISTINCT = 4000
VERDICT = ('{"correctness": %d, "grounding": 1, "progress": 2, "protocol": 0, "efficiency": 0, '
           '"reason": "A sentence or two on why, as judges write them; some write more than that."}')


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--turns", type=int, default=20_000)
    turns = flags.parse_args(argv).turns
    folder = Path(tempfile.mkdtemp(prefix="bench_resume_"))
    try:
        make_finished_turns(folder, turns)
        print(f"{turns:,} turns of 36 KB, all finished")
        print(f"{'what':44}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}")
        environment = clean_environment() | {"CHUTES_BASE_URL": "http://127.0.0.1:9/v1"}
        read_all = "import glob\nfor path in glob.glob('answer_0/*.json'): open(path, 'rb').read()"
        for what, command in (("floor: import openai", [sys.executable, "-c", "import openai"]),
                              ("floor: read every answer's bytes", [sys.executable, "-c", read_all]),
                              ("king.py, nothing to ask", [sys.executable, str(REPO / "king.py")]),
                              ("ch.py, nothing to ask", [sys.executable, str(REPO / "ch.py")])):
            show(what, timed(command, folder, environment))
        with Server(reply=lambda body: VERDICT % (len(body["messages"][1]["content"]) % 3), keep=False) as server:
            judging = clean_environment() | {"CHUTES_BASE_URL": server.url}
            command = [sys.executable, str(REPO / "validate.py"), "--concurrency", "32"]
            subprocess.run(command, cwd=folder, env=judging, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        show("validate.py, nothing to ask, 6 verdicts each", timed(command, folder, environment))
    finally:
        rmtree(folder)


def show(what: str, figures: tuple[float, float, float]) -> None:
    print(f"{what:44}{figures[0]:8.2f}{figures[1]:8.2f}{figures[2]:9.0f}", flush=True)


def make_finished_turns(folder: Path, count: int) -> None:
    """prompt/, commit/ and answer_0/ with `count` turns that have both replies."""
    for name in ("prompt", "commit", "answer_0"):
        Path(folder, name).mkdir()
    sync, os.fsync = os.fsync, lambda _: None  # the benchmark's own files need not outlive a crash
    prompts = []
    for number in range(count):
        prompt = make_prompt(number % DISTINCT)
        for turn in range(6):
            prompt["messages"] += [{"role": "assistant", "content": f"THOUGHT: step {turn}\n\n```bash\nls {turn}\n```"},
                                   {"role": "user", "content": f"line {number}: src/module.py, nothing to see\n" * 130}]
        prompts.append(prompt)
        side = {"prompt_version": "bench", "model": "m", "usage": {}, "leaks": {"version": AUDIT_VERSION, "hits": []}}
        io.write_json(folder / f"answer_0/prompts_{count}_{number // 200 + 1}_{number % 200 + 1}.json", {
            "instance_id": prompt["instance_id"], "king": f"{REPLY}\n{number}", "challenger": REPLY,
            "assistant": prompt["assistant"], "messages": prompt["messages"],
            "meta": {"repo": prompt["repo"], "source": prompt["source"], "king": side, "challenger": side,
                     "audit": AUDIT_VERSION}})
        if len(prompts) == 200 or number == count - 1:
            Path(folder, f"prompt/prompts_{count}_{number // 200 + 1}.json").write_text(json.dumps(prompts))
            prompts = []
    for number in range(min(count, DISTINCT)):
        Path(folder, f"commit/acme__widgets-{number}.json").write_text(json.dumps(make_record(number)))
    os.fsync = sync


if __name__ == "__main__":
    main()
