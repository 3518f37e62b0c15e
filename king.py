"""Stage 2: the king's reply to every prompt, written blind.

    python king.py [--limit N] [--concurrency N] [--shard I/N] [--dry-run] [--max-cost DOLLARS]
    python king.py --batch    at half the price: send as batches, and collect when run again

The model of chain.toml's [generate] sees the chat of each prompt and nothing else. Prompts of
excluded instances and of PR records too large for the challenger's prompt are left out. A turn
answered in any answer_*/ is never asked again.

Reads   prompt/*.json, commit/<instance_id>.json
Writes  answer_0/<source>_<order>.json (answer_I/ with --shard I/N: every N-th prompt),
        _failed.jsonl beside them, batch/ with --batch
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take a second
    from common.start import begin

    begin()

from functools import lru_cache
from itertools import chain
from pathlib import Path

from common import turns
from common.audit.protocol import format_ok as format_ok  # this stage's check by its own name
from common.audit.protocol import format_problem
from common.cli import Progress, Tally, parser, run, steps_from
from common.client.ask import LLM, run_turns
from common.client.estimate import dry_run, own_replies
from common.config import load_config, load_environment
from common.files import BadFile, ItemFailed, UserError, lock_folders, turn_files
from common.turns import EXCLUDED_IDS as _EXCLUDE_IDS

PROMPT_VERSION = "king-1: the chat as it is"


def find_pending(
    shard: tuple[int, int], max_record_chars: int, tally: Tally, write: bool
) -> list[str]:
    """List the stems of this shard that need a king; what is passed over goes into `tally`.

    Raises UserError when the answers belong to another sample under the same file names.
    """
    answered = {}  # by stem: instance id, prompt's source
    for path in chain.from_iterable(map(turn_files, turns.answer_folders())):
        try:
            answer = turns.read_answer(path)
            answered[path.stem] = (answer["instance_id"], answer["meta"].get("source"))
        except BadFile as bad:
            turns.set_aside(bad, "asked for again", write)
            tally.skipped["torn files set aside"] += 1
    pending = []
    foreign = dict(answered)  # until its prompt is seen
    for number, path in enumerate(turn_files("prompt")):
        for order, prompt in enumerate(turns.read_prompts(path), 1):
            stem = f"{path.stem}_{order}"
            instance_id = prompt["instance_id"]
            if answered.get(stem) in ((instance_id, prompt.get("source")), (instance_id, None)):
                del foreign[stem]
            if (number * turns.PROMPTS_PER_FILE + order - 1) % shard[1] != shard[0]:
                continue
            if stem in answered:
                tally.skipped["already answered"] += 1
                continue
            try:
                record = turns.record_of(instance_id)
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
            f"answer_*/{stem}.json answers a prompt of {foreign[stem][0]} that prompt/ "
            "does not hold.\nMove the answers of another sample away, or bring its prompt/ back."
        )
    return pending


def prompt_of(stem: str) -> dict:
    source, order = stem.rsplit("_", 1)
    return prompts_of(Path("prompt", f"{source}.json"))[int(order) - 1]


prompts_of = lru_cache(maxsize=1)(turns.read_prompts)  # one file at a time is in memory


def main() -> int:
    flags = parser(__doc__, calls=True).parse_args()
    config = load_config()
    call = config.generate
    environment = load_environment(config, [call])
    tally = Tally("king.py")
    shard = flags.shard or (0, 1)
    folder = Path(f"answer_{shard[0]}")
    for source, content in (("prompt", "prompts"), ("commit", "PR records")):
        if not turn_files(source):
            raise UserError(f"{source}/ holds no {content}.\nRun python prompt.py first.")

    # Shards share the lock of prompt/ and hold their own folder; a run of the whole holds all.
    shared = [] if flags.dry_run else ["prompt"]
    ours = [] if flags.dry_run else [folder]
    if shared and not flags.shard:
        ours = sorted({folder, *turns.answer_folders()})
    with lock_folders(shared, "king", flags.shard), lock_folders(ours, "king"):
        pending = find_pending(shard, call.max_record_chars, tally, write=not flags.dry_run)
        pending = pending[: flags.limit]
        if flags.dry_run:
            calls = ((call, prompt_of(stem)["messages"]) for stem in pending)
            return dry_run(environment, calls, tally.skipped, own_replies("king"), flags.batch)

        llm = LLM(environment, flags, "king", tally.failed_before(folder))

        async def ask_king(stem: str) -> None:
            prompt = prompt_of(stem)
            reply = await llm.ask(call, prompt["messages"], format_problem, who=stem)
            meta = {"repo": prompt.get("repo"), "source": prompt.get("source")}
            meta["king"] = {"prompt_version": PROMPT_VERSION, **reply.meta}
            answer = {
                "instance_id": prompt["instance_id"],
                "king": reply.text,
                "challenger": "",  # ch.py fills it
                "assistant": prompt["assistant"],
                "messages": prompt["messages"],
                "meta": {**meta, "challenger": {}},
            }
            await llm.save(folder / f"{stem}.json", answer)

        width = flags.concurrency or call.concurrency
        progress = Progress(len(pending), "king")
        code = run_turns(llm, pending, ask_king, width=width, progress=progress, tally=tally)
        tally.write_failed(folder)
    lines = [*llm.usage_lines(), f"output  {folder}/"]
    return tally.show(*lines, next_command=steps_from("ch.py", flags.shard), code=code)


if __name__ == "__main__":
    run(main)
