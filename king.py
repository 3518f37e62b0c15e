"""Stage 2: the king's reply to every prompt, written blind.

    python king.py [--limit N] [--concurrency N] [--shard I/N] [--dry-run] [--max-cost DOLLARS]

The model of chain.toml's [generate] sees the chat of each prompt and nothing else. Prompts of excluded instances and of
PR records too large for the challenger's prompt are left out. A turn answered in any answer_*/ is never asked again.

Reads   prompt/*.json, commit/<instance_id>.json
Writes  answer_0/<source>_<order>.json (answer_I/ with --shard I/N: every N-th prompt), answer_*/_failed.jsonl
"""
from __future__ import annotations

import asyncio
from itertools import islice
from pathlib import Path
from typing import Iterator

from common.config import Config, load_config, load_environment
from common.files import (BadFile, UserError, answer_folders, check_whole, lock_folders, read_json, is_safe_name, quarantine,
                       turn_files, write_json)
from common.client.ask import LLM, run_turns
from common.client.costs import dry_run, prompt_chars
from common.turns import _EXCLUDE_IDS, prompt_problem, read_record, exclusion_reason  # noqa: F401 (the one list of ids)
from common.replies.protocol import format_ok, format_problem  # noqa: F401 (format_ok is this stage's word for the check)
from common.cli import Progress, Tally, parser, run

PROMPT_VERSION = "king-1: the chat as it is"
PROMPTS_PER_FILE = 200  # prompt.py's limit; fixes which shard a prompt falls to without reading the files before it
_PLAN_KEYS = ("dataset", "revision", "seed", "count")


def main() -> int:
    flags = parser(__doc__, calls=True).parse_args()
    config, environment = load_config(), load_environment()
    folder = Path(f"answer_{flags.shard[0] if flags.shard else 0}")
    tally = Tally("king.py")
    if not turn_files("prompt"):
        raise UserError("prompt/ holds no prompts. prompt.py writes them: run prompt.py first.")
    # Shards share the lock of prompt/ and hold their own folder; a run of the whole holds all.
    with lock_folders([Path("prompt")], "king", flags.shard), lock_folders(
            [folder] if flags.shard else sorted({folder, *answer_folders()}), "king"):
        check_same_plan(folder, note_it=not flags.dry_run)
        ahead, most = find_pending(answered_stems(tally), flags.shard or (0, 1), config, tally)
        pending, call = islice(ahead, flags.limit), config.generator()
        if flags.dry_run:
            dry_run(environment, ((call, prompt_chars(prompt["messages"]), 1) for _, prompt in pending))
            return 0
        llm = LLM(environment, concurrency=flags.concurrency, max_cost=flags.max_cost)

        async def answer(turn: tuple[str, dict]) -> None:
            stem, prompt = turn
            reply = await llm.ask(call, prompt["messages"], format_problem)
            await asyncio.to_thread(write_json, folder / f"{stem}.json", new_answer(prompt, reply))

        code = run_turns(llm, pending, answer, name=lambda turn: turn[0], width=flags.concurrency or call.concurrency,
                         progress=Progress(min(most, flags.limit or most), "king"), tally=tally)
        tally.write_failed(folder)
    done = tally.show(*llm.usage_lines(), f"output  {folder}/", next_command="python ch.py")
    return code or done


def new_answer(prompt: dict, reply) -> dict:
    """The answer file of a turn that has its king and waits for its challenger."""
    return {"instance_id": prompt["instance_id"], "king": reply.text, "challenger": None,
            "assistant": prompt["assistant"], "messages": prompt["messages"],
            "meta": {"repo": prompt.get("repo"), "source": prompt.get("source"),
                     "king": {"prompt_version": PROMPT_VERSION, **reply.meta()}, "challenger": None}}


# --------------------------------------------------------------------------------------------------- what is ahead

def find_pending(answered: set[str], shard: tuple[int, int], config: Config,
                 tally: Tally) -> tuple[Iterator[tuple[str, dict]], int]:
    """The prompts that still need a king, (stem, prompt), one prompts file in memory at a time, and how many there are
    at most: what is passed over is counted in `tally` as it is met."""
    if not Path("commit").is_dir():
        raise UserError("commit/ is missing. prompt.py writes the PR records there: run prompt.py first.")
    unfinished, most = [], 0
    for number, path in enumerate(turn_files("prompt")):
        ours = range(1 + (shard[0] - number * PROMPTS_PER_FILE) % shard[1], PROMPTS_PER_FILE + 1, shard[1])
        open_orders = [order for order in ours if f"{path.stem}_{order}" not in answered]
        size = PROMPTS_PER_FILE
        if open_orders:  # only then is the file read; a key's closing quote cannot stand unescaped within a text
            size = path.read_bytes().count(b'"instance_id":')
        still_open = sum(order <= size for order in open_orders)
        tally.skipped["already answered"] += sum(order <= size for order in ours) - still_open
        most += still_open
        if still_open or not size:
            unfinished.append((path, open_orders))
    return (turn for path, orders in unfinished for turn in usable(path, orders, config, tally)), most


def usable(path: Path, orders: list[int], config: Config, tally: Tally) -> Iterator[tuple[str, dict]]:
    """The prompts of one file that may be asked; a reason to leave one out or to fail it goes into `tally`."""
    prompts, verdicts = read_prompts(path), {}
    for order in (order for order in orders if order <= len(prompts)):
        prompt, stem = prompts[order - 1], f"{path.stem}_{order}"
        instance_id = prompt["instance_id"]
        if instance_id not in verdicts:
            verdicts[instance_id] = judge_record(instance_id, config.generate.max_record_chars)
        left_out, failure = verdicts[instance_id]
        if failure:
            tally.fail(stem, failure.split(":")[0], failure)
        elif left_out:
            tally.skipped[left_out] += 1
        else:
            yield stem, prompt


def judge_record(instance_id: str, max_record_chars: int) -> tuple[str | None, str | None]:
    """(why the instance is left out, why it fails), at most one of them."""
    if not is_safe_name(instance_id):
        return None, f"instance id not fit for a file name: {instance_id!r}"
    try:
        return exclusion_reason(read_record(instance_id), max_record_chars), None
    except (UserError, BadFile) as problem:
        return None, f"no usable PR record, run prompt.py again: {problem}"


def answered_stems(tally: Tally) -> set[str]:
    """Stems of the whole answers in all answer_*/; a torn or foreign file is reported and set aside."""
    stems = set()
    for folder in answer_folders():
        for path in turn_files(folder):
            try:
                check_whole(path, ("instance_id", "king", "messages"))
                stems.add(path.stem)
            except BadFile as bad:
                print(f"{bad}: set aside as {quarantine(path).name}, asked for again")
                tally.skipped["torn files set aside"] += 1
    return stems


def read_prompts(path: Path) -> list[dict]:
    """A prompts file. Raises UserError naming the file and the record that is not as prompt.py writes it."""
    try:
        prompts = read_json(path)
    except BadFile as bad:
        raise UserError(f"{bad}\nprompt.py writes it: run prompt.py again, it mends what is torn.") from None
    if not isinstance(prompts, list):
        raise UserError(f"{path}: expected a list of prompts, found a {type(prompts).__name__}. Run prompt.py again.")
    for order, prompt in enumerate(prompts, 1):
        problem = prompt_problem(prompt)
        if problem:
            raise UserError(f"{path}, record {order}: {problem}.\nprompt.py writes it: remove the file and run prompt.py again.")
    if len(prompts) > PROMPTS_PER_FILE:
        raise UserError(f"{path}: {len(prompts)} prompts, expected at most {PROMPTS_PER_FILE}. Split it, or run prompt.py again.")
    return prompts


def check_same_plan(folder: Path, note_it: bool) -> None:
    """Answers belong to one sample: stop when prompt/ has since been drawn anew under the same file names.

    The sample that a folder answers is noted in its _plan.json.
    """
    drawn = plan_in(Path("prompt"))
    if drawn is None:
        return
    for answers in {folder, *answer_folders()}:
        answered = plan_in(answers) if turn_files(answers) else None
        for key in _PLAN_KEYS:
            if answered is not None and answered[key] != drawn[key]:
                raise UserError(f"{answers}/ answers another sample: its {key} is {answered[key]!r}, prompt/ has "
                           f"{drawn[key]!r}.\nMove the answer_*/ folders away, or bring that prompt/ back.")
    if note_it:
        write_json(folder / "_plan.json", drawn)


def plan_in(folder: Path) -> dict | None:
    """What names the sample in a folder's _plan.json; None when there is none that can be read."""
    try:
        plan = read_json(folder / "_plan.json", ("seed",))
    except (FileNotFoundError, BadFile):
        return None
    return {key: plan.get(key) for key in _PLAN_KEYS}


if __name__ == "__main__":
    run(main)
