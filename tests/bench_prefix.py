"""What share of all prompt text a provider's prefix cache could serve.

    python -m tests.bench_prefix [--answers DIR]

For each model, in the order in which the stages ask: the length of the longest prefix that a prompt
shares with an earlier one of the same turn, over the length of all prompts. DIR holds answer_*/ and
commit/ of a finished run; without it the demo's run is made and measured. The floor is 0, no two
prompts alike; a turn's first prompt to a model is never cached.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ch import challenger_messages
from common.config import check_config
from common.turns import answer_files, read_answer, read_record
from validate import judge_messages

REPO = Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--answers", metavar="DIR")
    folder = flags.parse_args(argv).answers
    if folder is not None:
        measure(Path(folder).resolve())
        return
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run(
            [sys.executable, "-m", "common.demo"],
            cwd=temporary,
            env={**os.environ, "PYTHONPATH": str(REPO)},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        measure(Path(temporary, "demo"))


def measure(folder: Path) -> None:
    """Print the shares over the answers in `folder`."""
    max_patch_chars = check_config({}, None).generate.max_patch_chars
    cached = {}
    whole = {}
    here = Path.cwd()
    os.chdir(folder)
    for path in answer_files().values():
        answer = read_answer(path)
        if not answer["challenger"]:
            continue
        record = read_record(answer["instance_id"])
        for asked, prompts in prompts_of(answer, record, max_patch_chars).items():
            texts = [as_text(prompt) for prompt in prompts]
            for number, text in enumerate(texts):
                shared = 0
                for earlier in texts[:number]:
                    shared = max(shared, len(os.path.commonprefix([text, earlier])))
                cached[asked] = cached.get(asked, 0) + shared
                whole[asked] = whole.get(asked, 0) + len(text)
    os.chdir(here)
    print(f"{'prompts to one model':40}{'characters':>12}{'cacheable':>12}{'share':>8}")
    for asked, chars in whole.items():
        print(f"{asked:40}{chars:12,}{cached[asked]:12,}{cached[asked] / chars:8.1%}")


def prompts_of(answer: dict, record: dict, max_patch_chars: int) -> dict[str, list]:
    """Return the prompts of one turn to one model, by what the model is."""
    messages = answer["messages"]
    challenger = answer["challenger"]
    both_orders = {}
    for side in ("king", "assistant"):
        both_orders[side] = [
            judge_messages(messages, challenger, answer[side]),
            judge_messages(messages, answer[side], challenger),
        ]
    return {
        "writer: king, then challenger": [
            messages,
            challenger_messages(messages, record, max_patch_chars),
        ],
        "one judge: both orders": both_orders["king"],
        "one judge: both orders, both modes": both_orders["king"] + both_orders["assistant"],
    }


def as_text(prompt: list[dict]) -> str:
    return "\n".join(f"{message['role']}\n{message['content']}" for message in prompt)


if __name__ == "__main__":
    main()
