"""How long the stages take to see that nothing is left to ask, on many finished turns.

    python -m tests.bench_resume [--turns 20000]

The floor is `import openai`, which every calling stage pays, and reading every byte once. For
validate.py there is a closer one: each answer and each score file parsed once by json.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from shutil import rmtree

from ch import audit
from common.audit.texts import Chat
from common.cli import Tally
from common.config import METRICS, check_config
from common.duel.verdicts import FIRST_LOOK, Panel, load_turn
from common.turns import answer_files
from tests.makers import (
    REPLY,
    make_answer,
    make_prompt,
    make_record,
    make_verdict,
    put,
    write_prompts,
)
from tests.measure import in_a_child, timed
from tests.runner import REPO, clean_environment
from validate import fixed_prompt

DISTINCT = 4000  # instances
MESSAGE_CHARS = 6000
REASON = "A sentence or two on why the one is better, as judges write them; some write more. "
JUDGED = 10_000  # turns of the second table
SHORT_CHARS = 1800  # of a message: answers of 14 KB
VERDICT_CHARS = 1500  # of a judge's answer
PARSE_ALL = """
import glob, json
for path in glob.glob("answer_0/*.json") + glob.glob("score/*.json"):
    with open(path, encoding="utf-8") as file:
        json.load(file)
"""
FLOORS = {
    "floor: import openai": "import openai",
    "floor: read every answer's bytes": (
        "import glob\nfor path in glob.glob('answer_0/*.json'): open(path, 'rb').read()"
    ),
}


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--turns", type=int, default=20_000)
    turns = flags.parse_args(argv).turns
    folder = Path(tempfile.mkdtemp(prefix="bench_resume_"))
    environment = clean_environment()
    environment["CHUTES_BASE_URL"] = "http://127.0.0.1:9/v1"  # a call would fail the run
    try:
        in_a_child(make_finished_turns, folder, turns, MESSAGE_CHARS)
        print(f"{turns:,} turns of 36 KB, all finished")
        print(f"{'what':44}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}")
        for what, code in FLOORS.items():
            show(what, timed([sys.executable, "-c", code], folder, environment))
        for script in ("king.py", "ch.py", "validate.py"):
            command = [sys.executable, str(REPO / script)]
            show(f"{script}, nothing to ask", timed(command, folder, environment))
        rmtree(folder)
        judged = min(turns, JUDGED)
        folder.mkdir()
        in_a_child(make_finished_turns, folder, judged, SHORT_CHARS, VERDICT_CHARS)
        print(f"\n{judged:,} turns of 14 KB with six verdicts each, the least of three runs")
        parse_all = [sys.executable, "-c", PARSE_ALL]
        validate = [sys.executable, str(REPO / "validate.py")]
        floors = [timed(parse_all, folder, environment) for _ in range(3)]
        reruns = [timed(validate, folder, environment) for _ in range(3)]
        show("floor: json over every answer and score", min(floors))
        show("validate.py, nothing to ask", min(reruns))
        cpu_s = min(rerun[1] for rerun in reruns)
        print(f"CPU: {cpu_s / min(floor[1] for floor in floors):.1f} times the floor")
    finally:
        rmtree(folder)


def show(what: str, figures: tuple[float, float, float]) -> None:
    wall_s, cpu_s, peak_mb = figures
    print(f"{what:44}{wall_s:8.2f}{cpu_s:8.2f}{peak_mb:9.0f}", flush=True)


def make_finished_turns(
    folder: Path, count: int, message_chars: int, verdict_chars: int = 100
) -> None:
    """Write prompt/, commit/, answer_0/ and score/ with `count` turns that are all judged."""
    os.chdir(folder)
    prompts = [make_prompt(number % DISTINCT, message_chars, steps=5) for number in range(count)]
    for number in range(min(count, DISTINCT)):
        put(Path("commit", f"acme__widgets-{number}.json"), make_record(number))
    for number, stem in enumerate(write_prompts(folder, prompts)):
        prompt = prompts[number]
        answer = make_answer(number, prompt, king=f"{REPLY}\n{number}", challenger=REPLY)
        audit(answer, Chat(answer["messages"]), make_record(number % DISTINCT))
        put(Path("answer_0", f"{stem}.json"), answer)
    panel = Panel(check_config({}, None), fixed_prompt())
    for number, (stem, path) in enumerate(answer_files().items()):
        turn = load_turn(stem, path, 2, Tally("bench"), write=False)
        points = [(number + place) % 3 for place in range(len(METRICS))]
        for question in panel.questions[FIRST_LOOK]:
            model = question.call.model
            verdict = make_verdict(model, question.order, points, key=question.key(turn))
            verdict["reason"] = REASON
            verdict["text"] = (REASON * 20)[:verdict_chars]
            turn.verdicts.append(verdict)
        put(turn.path, panel.score_record(turn))


if __name__ == "__main__":
    main()
