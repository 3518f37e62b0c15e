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
    from common.cli import exit_on_signals

    exit_on_signals()

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from common import turns
from common.audit.protocol import bash_blocks, format_problem
from common.audit.protocol import format_ok as format_ok  # this stage's check by its own name
from common.cli import Progress, Tally, parser, run
from common.client.ask import LLM, run_turns
from common.client.costs import prompt_chars
from common.client.estimate import dry_run, own_replies
from common.config import load_config, load_environment
from common.files import BadFile, ItemFailed, UserError, lock_folders, turn_files
from common.turns import EXCLUDED_IDS as _EXCLUDE_IDS

PROMPT_VERSION = "king-1: the chat as it is"


def main() -> int:
    flags = parser(__doc__, calls=True).parse_args()
    config = load_config()
    call = config.generate
    environment = load_environment(config, [call])
    tally = Tally("king.py")
    shard = flags.shard or (0, 1)
    folder = Path(f"answer_{shard[0]}")
    for source, what in (("prompt", "prompts"), ("commit", "PR records")):
        if not turn_files(source):
            raise UserError(f"{source}/ holds no {what}.\nRun python prompt.py first.")

    # Shards share the lock of prompt/ and hold their own folder; a run of the whole holds all.
    ours = [folder] if flags.shard else sorted({folder, *turns.answer_folders()})
    with lock_folders([Path("prompt")], "king", flags.shard), lock_folders(ours, "king"):
        answered = find_answered(tally)
        pending = find_pending(answered, shard, config.generate.max_record_chars, tally)
        pending = tally.others_first(pending, folder)[: flags.limit]
        if flags.dry_run:
            sizes = (prompt_chars(prompt_of(stem)["messages"]) for stem in pending)
            calls = ((call, size) for size in sizes)
            return dry_run(environment, calls, tally.skipped, own_replies("king"))

        llm = LLM(environment, concurrency=flags.concurrency, max_cost=flags.max_cost)

        async def write_king(stem: str) -> None:
            prompt = prompt_of(stem)
            reply = await llm.ask(call, prompt["messages"], format_problem)
            answer = {
                "instance_id": prompt["instance_id"],
                "king": reply.text,
                "challenger": "",  # until ch.py fills it
                "assistant": prompt["assistant"],
                "messages": prompt["messages"],
                "meta": {
                    "repo": prompt.get("repo"),
                    "source": prompt.get("source"),
                    "king": {"prompt_version": PROMPT_VERSION, **reply.meta},
                    "challenger": {},
                },
            }
            await llm.save(folder / f"{stem}.json", answer)
            answered[stem] = in_short(answer)

        code = run_turns(
            llm,
            pending,
            write_king,
            name=str,
            width=flags.concurrency or call.concurrency,
            progress=Progress(len(pending), "king"),
            tally=tally,
        )
        tally.write_failed(folder)
    lines = [*llm.usage_lines(), f"output  {folder}/"]
    without_block = sum(not turn.has_block for turn in answered.values())
    if without_block:
        lines.append(f"note    {without_block} of {len(answered)} kings hold no ```bash block")
    return tally.show(*lines, next_command="python ch.py", code=code)


# ---------------------------------------------------------------------------------- what is ahead


class Answered(NamedTuple):
    """What is kept in mind of an answered turn."""

    instance_id: str
    source: dict | None  # where the prompt stands in the dataset
    has_block: bool  # the king's reply holds a ```bash block


def in_short(answer: dict) -> Answered:
    has_block = bool(bash_blocks(answer["king"]))
    return Answered(answer["instance_id"], answer["meta"].get("source"), has_block)


def find_answered(tally: Tally) -> dict[str, Answered]:
    """Return by stem what lies in all answer_*/; a torn file is set aside and asked for again."""
    answered = {}
    for folder in turns.answer_folders():
        for path in turn_files(folder):
            try:
                answered[path.stem] = in_short(turns.read_answer(path))
            except BadFile as bad:
                turns.set_aside(bad, "asked for again")
                tally.skipped["torn files set aside"] += 1
    return answered


def find_pending(
    answered: dict[str, Answered], shard: tuple[int, int], max_record_chars: int, tally: Tally
) -> list[str]:
    """List the stems of this shard that need a king; what is passed over goes into `tally`.

    Raises UserError when the answers belong to another sample under the same file names.
    """
    pending = []
    foreign = dict(answered)  # until its prompt is seen
    for number, path in enumerate(turn_files("prompt")):
        for order, prompt in enumerate(turns.read_prompts(path), 1):
            stem = f"{path.stem}_{order}"
            turn = answered.get(stem)
            same_instance = turn and turn.instance_id == prompt["instance_id"]
            if same_instance and turn.source in (None, prompt.get("source")):
                del foreign[stem]
            if (number * turns.PROMPTS_PER_FILE + order - 1) % shard[1] != shard[0]:
                continue
            if turn:
                tally.skipped["already answered"] += 1
                continue
            try:
                record = turns.record_of(prompt["instance_id"])
            except ItemFailed as failure:
                tally.fail(stem, failure.kind, failure.detail)
                continue
            reason = turns.exclusion_reason(record, max_record_chars, _EXCLUDE_IDS)
            if reason:
                tally.skipped[reason] += 1
            else:
                pending.append(stem)
    if foreign:
        stem = min(foreign)
        raise UserError(
            f"answer_*/{stem}.json answers a prompt of {foreign[stem].instance_id} that prompt/ "
            "does not hold.\nMove the answers of another sample away, or bring its prompt/ back."
        )
    return pending


@lru_cache(maxsize=1)
def prompts_of(source: str) -> list[dict]:
    return turns.read_prompts(Path("prompt", f"{source}.json"))


def prompt_of(stem: str) -> dict:
    """Return a turn's prompt; one prompts file is kept in memory at a time."""
    source, order = stem.rsplit("_", 1)
    return prompts_of(source)[int(order) - 1]


if __name__ == "__main__":
    run(main)
