"""What share of all prompt text a provider's prefix cache could serve.

    python -m tests.bench_prefix [--answers DIR]

For each model, in the order in which the stages ask: the length of the longest prefix that a prompt shares with an earlier
one of the same turn, over the length of all prompts. DIR holds answer_*/ and commit/ of a finished run; without it the
demo's run is made and measured. The floor is 0: no two prompts alike; a turn's first prompt to a model is never cached.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]

from ch import challenger_messages  # noqa: E402
from common.config import check_config  # noqa: E402
from common.files import answer_folders, read_json, turn_files  # noqa: E402
from common.turns import read_record  # noqa: E402
from validate import judge_messages  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--answers", metavar="DIR")
    folder = flags.parse_args(argv).answers
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            environment = {**os.environ, "PYTHONPATH": str(REPO)}
            subprocess.run([sys.executable, "-m", "common.demo"], cwd=temporary, env=environment, check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            folder = Path(temporary, "demo")
        measure(Path(folder).resolve())


def measure(folder: Path) -> None:
    config, here = check_config({}, None), Path.cwd()
    sums = {"writer: king, then challenger": [0, 0], "one judge: both orders": [0, 0],
            "one judge: both orders, both modes": [0, 0]}
    os.chdir(folder)
    for path in (path for answers in answer_folders() for path in turn_files(answers)):
        answer = read_json(path)
        messages, king, challenger = answer["messages"], answer["king"], answer["challenger"]
        if not challenger:
            continue
        record = read_record(answer["instance_id"])
        duel = [judge_messages(messages, challenger, king), judge_messages(messages, king, challenger)]
        reference = [judge_messages(messages, challenger, answer["assistant"]),
                     judge_messages(messages, answer["assistant"], challenger)]
        asked = [[messages, challenger_messages(messages, record, config.generate.max_patch_chars)], duel, duel + reference]
        for sizes, prompts in zip(sums.values(), asked):
            texts = ["\n".join(f"{m['role']}\n{m['content']}" for m in prompt) for prompt in prompts]
            for number, text in enumerate(texts):
                sizes[0] += max((len(os.path.commonprefix([text, before])) for before in texts[:number]), default=0)
                sizes[1] += len(text)
    os.chdir(here)
    print(f"{'prompts to one model':40}{'characters':>12}{'cacheable':>12}{'share':>8}")
    for what, (cached, total) in sums.items():
        print(f"{what:40}{total:12,}{cached:12,}{cached / total:8.1%}")


if __name__ == "__main__":
    main()
