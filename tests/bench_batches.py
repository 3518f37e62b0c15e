"""validate.py by batches: 2,000 turns, six verdicts each, in one folder.

    python -m tests.bench_batches [--turns 2000]

Each figure is of a whole process. "files": the requests are written (--batch-files). "send": these
are uploaded to a server on this machine, too, and started. "collect": fetched, read, scored, saved.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench_calls import PROMPT_CHARS
from tests.makers import make_answer, make_prompt, put, write_settings
from tests.measure import in_a_child, timed
from tests.runner import REPO, clean_environment

_JUDGES = ["a/one", "b/two", "c/three"]
_SERVER = """
import asyncio, json
from common.config import METRICS
from common.demo.server import Server
verdict = json.dumps({**dict.fromkeys(METRICS, 1), "reason": "x" * 300})
server = Server(lambda body: verdict, keep=False)
asyncio.run(server.serve(lambda: print(server.url, flush=True)))
"""


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--turns", type=int, default=2000)
    turns = flags.parse_args(argv).turns
    folder = Path(tempfile.mkdtemp(prefix="bench_batches_"))
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    try:
        in_a_child(make_answers, folder, turns)
        environment = clean_environment()
        environment.update(CHUTES_BASE_URL=server.stdout.readline().strip(), CHUTES_API_KEY="bench")
        line = [sys.executable, str(REPO / "validate.py")]
        print(f"{6 * turns:,} requests of {PROMPT_CHARS / 1000:.0f} KB")
        print(f"{'step':10}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}")
        for step in ("files", "send", "collect"):
            flag = "--batch-files" if step == "files" else "--batch"
            wall_s, cpu_s, peak_mb = timed([*line, flag], folder, environment)
            print(f"{step:10}{wall_s:8.1f}{cpu_s:8.1f}{peak_mb:9.0f}", flush=True)
            if step == "files":
                shutil.rmtree(folder / "batch")
        duel = json.loads((folder / "score/_duel.json").read_text())
        assert duel["turns"]["parsed"] == turns, duel["turns"]
    finally:
        server.kill()
        shutil.rmtree(folder)


def make_answers(folder: Path, turns: int) -> None:
    """Write answers as long as real ones, and settings."""
    write_settings(folder, judge={"models": _JUDGES})
    for number in range(turns):
        prompt = make_prompt(number, 4400, steps=6)
        put(folder / f"answer_0/prompts_{turns}_1_{number + 1}.json", make_answer(number, prompt))


if __name__ == "__main__":
    main()
