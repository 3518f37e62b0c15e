"""How long each stage takes to see that nothing is left to do: whole processes, import included.

    python -m tests.bench_resume [--turns 20000]

The floor is `python -c "import openai"`, which every calling stage pays, and reading every byte once.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from shutil import rmtree

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]

import validate  # noqa: E402
from bench_calls import in_a_child, timed  # noqa: E402
from helpers import REPLY, clean_environment, make_prompt, make_record  # noqa: E402
from common import files  # noqa: E402
from common.config import check_config  # noqa: E402
from common.replies.leaks import AUDIT_VERSION  # noqa: E402
from common.cli import Tally  # noqa: E402

DISTINCT = 4000
REASON = "A sentence or two on why the one is better, as judges write them; some write more than that."


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--turns", type=int, default=20_000)
    turns = flags.parse_args(argv).turns
    folder = Path(tempfile.mkdtemp(prefix="bench_resume_"))
    try:
        in_a_child(make_finished_turns, folder, turns)
        print(f"{turns:,} turns of 36 KB, all finished")
        print(f"{'what':44}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}")
        environment = clean_environment() | {"CHUTES_BASE_URL": "http://127.0.0.1:9/v1"}
        read_all = "import glob\nfor path in glob.glob('answer_0/*.json'): open(path, 'rb').read()"
        for what, command in (("floor: import openai", [sys.executable, "-c", "import openai"]),
                              ("floor: read every answer's bytes", [sys.executable, "-c", read_all]),
                              ("king.py, nothing to ask", [sys.executable, str(REPO / "king.py")]),
                              ("ch.py, nothing to ask", [sys.executable, str(REPO / "ch.py")])):
            show(what, timed(command, folder, environment))
        command = [sys.executable, str(REPO / "validate.py")]
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
        files.write_json(folder / f"answer_0/prompts_{count}_{number // 200 + 1}_{number % 200 + 1}.json", {
            "instance_id": prompt["instance_id"], "king": f"{REPLY}\n{number}", "challenger": REPLY,
            "assistant": prompt["assistant"], "messages": prompt["messages"],
            "meta": {"repo": prompt["repo"], "source": prompt["source"], "king": side, "challenger": side,
                     "audit": AUDIT_VERSION}})
        if len(prompts) == 200 or number == count - 1:
            Path(folder, f"prompt/prompts_{count}_{number // 200 + 1}.json").write_text(json.dumps(prompts))
            prompts = []
    for number in range(min(count, DISTINCT)):
        Path(folder, f"commit/acme__widgets-{number}.json").write_text(json.dumps(make_record(number)))
    make_scores(folder)
    os.fsync = sync


def make_scores(folder: Path) -> None:
    """score/ with all verdicts of the default panel, as validate.py writes them, without asking for them."""
    panel = validate.Panel(check_config({}, None))
    answers = {path.stem: path for path in files.turn_files(folder / "answer_0")}
    for number, turn in enumerate(validate.read_turns(answers, folder / "score", 2, Tally("bench"), touch=False)):
        for call, order, key in panel.standing(turn).missing:
            calls = {metric: (number + place) % 3 for place, metric in enumerate(validate.METRICS)}
            turn.verdicts.append({
                "key": key, "judge": call.model, "mode": 2, "order": order, "calls": calls, "reason": REASON,
                "text": json.dumps({**calls, "reason": REASON}), "cost_usd": 0.004, "finish_reason": "stop",
                "usage": {"prompt_tokens": 9000, "completion_tokens": 900, "reasoning_tokens": 800, "cached_tokens": 0}})
        files.write_json(turn.score_path, validate.score_record(turn, panel.standing(turn), panel.names))


if __name__ == "__main__":
    main()
