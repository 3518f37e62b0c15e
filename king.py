"""Stage 2: the king's reply to every prompt, written blind.

    python king.py [--limit N] [--concurrency N] [--shard I/N] [--dry-run] [--max-cost DOLLARS]

The model of chain.toml's [generate] sees the chat of each prompt and nothing else. Prompts of
excluded instances and of PR records too large for the challenger's prompt are left out. A turn
answered in any answer_*/ is never asked again.

Reads   prompt/*.json, commit/<instance_id>.json
Writes  answer_0/<source>_<order>.json (answer_I/ with --shard I/N: every N-th prompt),
        _failed.jsonl beside them
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take a second
    from common.signals import exit_on_signals

    exit_on_signals()

from functools import cache, lru_cache
from pathlib import Path

from common.cli import Progress, Tally, parser, run
from common.client.ask import LLM, ItemFailed, run_turns
from common.client.costs import prompt_chars
from common.client.estimate import dry_run, own_replies
from common.config import load_config
from common.environment import load_environment
from common.files import BadFile, UserError, lock_folders, turn_files, write_json
from common.replies.protocol import bash_blocks, format_problem
from common.replies.protocol import format_ok as format_ok  # this stage's check by its own name
from common.turns import EXCLUDED_IDS as _EXCLUDE_IDS
from common.turns import (
    PROMPTS_PER_FILE,
    answer_folders,
    exclusion_reason,
    read_answer,
    read_plan,
    read_prompts,
    record_of,
    set_aside,
)

PROMPT_VERSION = "king-1: the chat as it is"
PLAN_KEYS = ("dataset", "revision", "seed", "count")  # what names a sample


def main() -> int:
    flags = parser(__doc__, calls=True).parse_args()
    config = load_config()
    call = config.generator()
    environment = load_environment(config, [call])
    tally = Tally("king.py")
    shard = flags.shard or (0, 1)
    folder = Path(f"answer_{shard[0]}")
    folders = sorted({folder, *answer_folders()})
    if not turn_files("prompt"):
        raise UserError("prompt/ holds no prompts.\nRun python prompt.py first.")

    # Shards share the lock of prompt/ and hold their own folder; a run of the whole holds all.
    ours = [folder] if flags.shard else folders
    with lock_folders([Path("prompt")], "king", flags.shard), lock_folders(ours, "king"):
        drawn = check_sample(folders)
        answered = find_answered(folders, tally)
        pending = find_pending(answered, shard, config.generate.max_record_chars, tally)
        failed = tally.last_failed(folder)
        pending.sort(key=lambda stem: stem in failed)  # others first
        pending = pending[: flags.limit]
        if flags.dry_run:
            sizes = (prompt_chars(prompt_of(stem)["messages"]) for stem in pending)
            calls = ((call, size, 1) for size in sizes)
            return dry_run(environment, calls, tally.skipped, own_replies("king"))

        if drawn:
            write_json(folder / "_plan.json", drawn)
        llm = LLM(environment, concurrency=flags.concurrency, max_cost=flags.max_cost)

        async def answer(stem: str) -> None:
            prompt = prompt_of(stem)
            reply = await llm.ask(call, prompt["messages"], format_problem)
            await llm.save(folder / f"{stem}.json", new_answer(prompt, reply))
            answered[stem] = bool(bash_blocks(reply.text))

        code = run_turns(
            llm,
            pending,
            answer,
            name=str,
            width=flags.concurrency or call.concurrency,
            progress=Progress(len(pending), "king"),
            tally=tally,
        )
        tally.write_failed(folder)
    lines = [*llm.usage_lines(), f"output  {folder}/"]
    without_block = list(answered.values()).count(False)
    if without_block:
        lines.append(f"note    {without_block} of {len(answered)} kings hold no ```bash block")
    shown = tally.show(*lines, next_command="python ch.py")
    return code or shown


def new_answer(prompt: dict, reply) -> dict:
    """Return the answer file of a turn that has its king and waits for its challenger."""
    return {
        "instance_id": prompt["instance_id"],
        "king": reply.text,
        "challenger": "",
        "assistant": prompt["assistant"],
        "messages": prompt["messages"],
        "meta": {
            "repo": prompt.get("repo"),
            "source": prompt.get("source"),
            "king": {"prompt_version": PROMPT_VERSION, **reply.meta()},
            "challenger": {},
        },
    }


# ---------------------------------------------------------------------------------- what is ahead


def find_answered(folders: list[Path], tally: Tally) -> dict[str, bool]:
    """Return the stems in all answer_*/, each with whether its king holds a ```bash block."""
    answered = {}
    for folder in folders:
        for path in turn_files(folder):
            try:
                answered[path.stem] = bool(bash_blocks(read_answer(path)["king"]))
            except BadFile as bad:
                set_aside(bad, "asked for again")
                tally.skipped["torn files set aside"] += 1
    return answered


def find_pending(
    answered: dict[str, bool], shard: tuple[int, int], max_record_chars: int, tally: Tally
) -> list[str]:
    """List the stems of this shard that need a king; what is passed over goes into `tally`."""

    @cache
    def excluded(instance_id: str) -> str | None:
        return exclusion_reason(record_of(instance_id), max_record_chars, _EXCLUDE_IDS)

    index, shards = shard
    pending = []
    for number, path in enumerate(turn_files("prompt")):
        for order, prompt in enumerate(read_prompts(path), 1):
            stem = f"{path.stem}_{order}"
            if (number * PROMPTS_PER_FILE + order - 1) % shards != index:
                continue
            if stem in answered:
                tally.skipped["already answered"] += 1
                continue
            try:
                reason = excluded(prompt["instance_id"])
            except ItemFailed as failure:
                tally.fail(stem, failure.kind, failure.detail)
                continue
            if reason:
                tally.skipped[reason] += 1
            else:
                pending.append(stem)
    return pending


def prompt_of(stem: str) -> dict:
    """Return a turn's prompt; one prompts file is kept in memory at a time."""
    source, order = stem.rsplit("_", 1)
    return last_prompts(Path("prompt", f"{source}.json"))[int(order) - 1]


last_prompts = lru_cache(maxsize=1)(read_prompts)


def check_sample(folders: list[Path]) -> dict | None:
    """Return what names the sample of prompt/; raise UserError when answers are of another."""
    samples = {}
    for folder in [Path("prompt"), *folders]:
        try:
            plan = read_plan(folder)
        except BadFile:
            continue
        if plan and turn_files(folder):
            samples[folder] = {key: plan.get(key) for key in PLAN_KEYS}
    drawn = samples.pop(Path("prompt"), None)
    for folder, answered in samples.items():
        if drawn and answered != drawn:
            raise UserError(
                f"{folder}/ answers another sample, of {answered}; prompt/ holds {drawn}.\n"
                "Move the answer_*/ folders away, or bring that prompt/ back."
            )
    return drawn


if __name__ == "__main__":
    run(main)
