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

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.cli import Progress, Tally, parser, run
from common.client.ask import LLM, run_turns
from common.client.costs import prompt_chars
from common.client.estimate import dry_run, own_replies
from common.config import load_config, load_environment
from common.files import (
    BadFile,
    UserError,
    is_safe_name,
    lock_folders,
    printable,
    quarantine,
    turn_files,
    write_json,
)
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
    read_record,
)

PROMPT_VERSION = "king-1: the chat as it is"
PLAN_KEYS = ("dataset", "revision", "seed", "count")  # what names a sample


def main() -> int:
    flags = parser(__doc__, calls=True).parse_args()
    config = load_config()
    environment = load_environment(config, [config.generator()])
    tally = Tally("king.py")
    shard = flags.shard or (0, 1)
    folder = Path(f"answer_{shard[0]}")
    if not turn_files("prompt"):
        raise UserError("prompt/ holds no prompts.\nRun python prompt.py first.")
    if not Path("commit").is_dir():
        raise UserError("commit/ with the PR records is missing.\nRun python prompt.py again.")

    # Shards share the lock of prompt/ and hold their own folder; a run of the whole holds all.
    ours = [folder] if flags.shard else sorted({folder, *answer_folders()})
    with lock_folders([Path("prompt")], "king", flags.shard), lock_folders(ours, "king"):
        check_same_plan(folder)
        answered = answered_stems(tally)
        pending = find_pending(answered, shard, config.generate.max_record_chars, tally)
        failed = tally.last_failed(folder)
        pending.sort(key=lambda turn: turn.stem in failed)  # others first
        pending = pending[: flags.limit]
        call = config.generator()
        if flags.dry_run:
            chats = (prompt_chars(prompt["messages"]) for _, prompt in load_prompts(pending))
            planned = ((call, chars, 1) for chars in chats)
            return dry_run(environment, planned, tally.skipped, own_replies("king"))

        note_plan(folder)
        llm = LLM(environment, concurrency=flags.concurrency, max_cost=flags.max_cost)

        async def answer(turn: tuple[str, dict]) -> None:
            stem, prompt = turn
            reply = await llm.ask(call, prompt["messages"], format_problem)
            await llm.save(folder / f"{stem}.json", new_answer(prompt, reply))
            answered[stem] = bool(bash_blocks(reply.text))

        code = run_turns(
            llm,
            load_prompts(pending),
            answer,
            name=lambda turn: turn[0],
            width=flags.concurrency or call.concurrency,
            progress=Progress(len(pending), "king"),
            tally=tally,
        )
        tally.write_failed(folder)
    lines = [*llm.usage_lines(), f"output  {folder}/"]
    without_block = sum(not has_block for has_block in answered.values())
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


class Pending(NamedTuple):
    """A prompt that still needs a king: its stem, and where it stands (order from 1)."""

    stem: str
    path: Path
    order: int


def answered_stems(tally: Tally) -> dict[str, bool]:
    """Return the stems in all answer_*/, each with whether its king holds a ```bash block.

    A torn or foreign file is reported, set aside and asked for again.
    """
    answered = {}
    for folder in answer_folders():
        for path in turn_files(folder):
            try:
                king = read_answer(path)["king"]
            except BadFile as bad:
                print(f"{bad}: set aside as {printable(quarantine(path).name)}, asked for again")
                tally.skipped["torn files set aside"] += 1
                continue
            answered[path.stem] = bool(bash_blocks(king))
    return answered


def find_pending(
    answered: dict[str, bool], shard: tuple[int, int], max_record_chars: int, tally: Tally
) -> list[Pending]:
    """List the prompts of this shard that need a king; what is passed over goes into `tally`."""
    index, shards = shard
    pending = []
    reasons: dict[str, tuple[str, str]] = {}
    for number, path in enumerate(turn_files("prompt")):
        for order, prompt in enumerate(read_prompts(path), 1):
            if (number * PROMPTS_PER_FILE + order - 1) % shards != index:
                continue
            stem = f"{path.stem}_{order}"
            if stem in answered:
                tally.skipped["already answered"] += 1
                continue
            instance_id = prompt["instance_id"]
            if instance_id not in reasons:
                reasons[instance_id] = check_record(instance_id, max_record_chars)
            excluded, failure = reasons[instance_id]
            if failure:
                tally.fail(stem, failure.split(":")[0], failure)
            elif excluded:
                tally.skipped[excluded] += 1
            else:
                pending.append(Pending(stem, path, order))
    return pending


def check_record(instance_id: str, max_record_chars: int) -> tuple[str, str]:
    """Return (why the instance is left out, why it fails), "" where it is not."""
    if not is_safe_name(instance_id):
        return "", f"instance id not fit for a file name: {instance_id!r}"
    try:
        record = read_record(instance_id)
    except (UserError, BadFile) as problem:
        return "", f"no usable PR record, run prompt.py again: {problem}"
    return exclusion_reason(record, max_record_chars, _EXCLUDE_IDS) or "", ""


def load_prompts(pending: list[Pending]) -> Iterator[tuple[str, dict]]:
    """Yield (stem, prompt) of each, with one prompts file in memory at a time."""
    path = None
    prompts = []
    for turn in pending:
        if turn.path != path:
            path = turn.path
            prompts = read_prompts(path)
        yield turn.stem, prompts[turn.order - 1]


# ----------------------------------------------------------------------------------- the sample


def check_same_plan(folder: Path) -> None:
    """Raise UserError when the answers belong to another sample under the same file names."""
    drawn = sample_of(Path("prompt"))
    for answers in {folder, *answer_folders()}:
        answered = sample_of(answers) if turn_files(answers) else None
        if drawn is None or answered is None:
            continue
        for key in PLAN_KEYS:
            if answered[key] != drawn[key]:
                raise UserError(
                    f"{answers}/ answers another sample: its {key} is {answered[key]!r}, "
                    f"prompt/ has {drawn[key]!r}.\n"
                    "Move the answer_*/ folders away, or bring that prompt/ back."
                )


def note_plan(folder: Path) -> None:
    """Note the sample that a folder answers in its _plan.json."""
    drawn = sample_of(Path("prompt"))
    if drawn is not None:
        write_json(folder / "_plan.json", drawn)


def sample_of(folder: Path) -> dict | None:
    """Return what names the sample of a folder's _plan.json; None when none can be read."""
    try:
        plan = read_plan(folder)
    except BadFile:
        return None
    return plan and {key: plan.get(key) for key in PLAN_KEYS}


if __name__ == "__main__":
    run(main)
