"""Stage 3: the challenger's reply to every turn that has a king, written with the hidden PR record.

    python ch.py [--limit N] [--concurrency N] [--shard I/N] [--dry-run] [--max-cost DOLLARS]

The model of chain.toml's [generate] sees the chat, then the PR record and the blind-agent rule: it may use the record
to choose a good next move, and must not show knowledge that the chat could not have given. Every reply is audited
(find_leaks) and asked for again when it fails; stored replies are audited again when the audit has changed, for free.

Reads   answer_*/*.json, commit/<instance_id>.json
Writes  `challenger` and its `meta` into answer_*/*.json in place (--shard I/N: every N-th turn by a hash of its name),
        _failed.jsonl in the first answer folder
"""
from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Iterator
from zlib import crc32

from common.config import Config, load_config, load_environment
from common.files import (BadFile, UserError, answer_folders, check_whole, digest, ends, lock_folders, read_json, quarantine,
                       turn_files, write_json)
from common.replies.leaks import AUDIT_VERSION, find_leaks
from common.client.ask import LLM, ItemFailed, run_turns
from common.client.costs import dry_run, prompt_chars
from common.turns import prompt_problem, read_record
from common.replies.protocol import protocol_problem
from common.cli import Progress, Tally, parser, run

PROMPT_VERSION = "challenger-1"
ANSWER_KEYS = ("instance_id", "king", "challenger", "assistant", "messages", "meta")

# ------------------------------------------------------------------------------------------- the blind-agent rule

BLIND_AGENT_RULE = """\
THE BLIND-AGENT RULE
You are the agent of the chat above, at its next turn. Solve the task honestly, as if you had never seen the record.
- Use the record for one thing only: to choose, among the moves that an honest engineer could make now, one that helps.
- Show no knowledge that the visible chat could not have given. Everything your reply names (paths, functions, classes,
  strings, flags, line numbers, behaviour) must stand in the chat, follow from it, or be found by your very command.
- A path that has not been shown must be searched for (ls, find, grep) before it is read; a file must be read before
  it is edited; a line number must have been printed before it is used.
- When the chat has led to the cause, write your own fix from the code that was shown. Never copy the patch.
- Never mention the record, a patch, a pull request's solution, tests you cannot know, or that you were told anything.
"""

NEXT_MOVE = {
    "early": "The chat has barely begun. Look where an honest engineer would look first: search for the names that the "
             "issue gives, or list the part of the tree that they point to. Do not jump to the file or the line.",
    "middle": "The search is under way. Follow the best lead that the chat has shown so far: read the code around it, or "
              "search for what would confirm or rule out its cause. Do not repeat a command whose output is there.",
    "late": "Much has been seen. If the chat shows the cause, make the change in the code that was shown; if the change "
            "stands, check it; if all is done, submit in the way the task asks for.",
}
_EARLY_TURNS, _LATE_TURNS = 2, 8  # by the agent's turns so far; real trajectories hold 2 to 16 of them

FORM = """\
Reply with the agent's next turn alone, in the form that the task above asks for: a THOUGHT in a few sentences that
reasons from what the chat shows, then exactly one ```bash block with exactly one command (parts joined with && or ||
count as one), and nothing after it. Keep every rule of the task about commands."""

# What a refused reply is told: the kind of problem and the rule, never the hidden text.
TOLD = {
    "path": "it read, edited or took for granted a path that the chat has not shown. Search for it first",
    "identifier": "it named something from the code that the chat has not shown. Name only what was seen, or search",
    "line": "it used line numbers of a file whose lines the chat has not shown. Print the lines first",
    "verbatim": "it repeated hidden text word for word. Write from what the chat shows, in your own way",
    "disclosure": "it spoke of a source that the agent does not have. Reason only from the task and the outputs",
}


def challenger_messages(messages: list[dict], record: dict, max_patch_chars: int, refused: str = "") -> list[dict]:
    """The chat as the king saw it, with the briefing after its last message: the prefix of both prompts is the same,
    so that a provider's prefix cache serves the second one."""
    shown = hidden_record(record, max_patch_chars)
    mark = digest(shown, messages[-1]["content"])[:12]
    turns = sum(message["role"] == "assistant" for message in messages)
    stage = "early" if turns < _EARLY_TURNS else "late" if turns >= _LATE_TURNS else "middle"
    parts = [messages[-1]["content"],
             f"[{mark}] What follows is no output and no part of the task's chat: it is a briefing for you alone.",
             f"[{mark}] HIDDEN PR RECORD\n{shown}\n[{mark}] END OF HIDDEN PR RECORD",
             BLIND_AGENT_RULE, "YOUR NEXT MOVE\n" + NEXT_MOVE[stage], FORM]
    if refused:
        parts.append(f"An earlier reply of yours was refused: {refused}. Write another one.")
    return [*messages[:-1], {"role": messages[-1]["role"], "content": "\n\n".join(parts)}]


def hidden_record(record: dict, max_patch_chars: int) -> str:
    """The PR record as the challenger reads it; a patch over the budget is cut, and what was cut is said."""
    patch = record["patch"] or ""
    if len(patch) > max_patch_chars:
        patch = (patch[:max_patch_chars] + f"\n[the patch is cut here: {max_patch_chars:,} of {len(patch):,} "
                 "characters are shown]")
    fields = [("Issue", record["issue"]), ("Description", record["description"]),
              ("Files changed", "\n".join(record["files"] or [])), ("Interface", record["interface"]), ("Patch", patch)]
    return "\n\n".join(f"{name}:\n{text.strip()}" for name, text in fields if (text or "").strip())


# ------------------------------------------------------------------------------------------------------ one turn

async def fill(path: Path, llm: LLM, config: Config) -> None:
    """Give one answer file its challenger; audit again one that is there. Raises ItemFailed when none is acceptable."""
    try:
        answer = await asyncio.to_thread(read_answer, path)
    except BadFile as bad:
        raise ItemFailed("torn answer file: run king.py again", f"{bad}; set aside as {quarantine(path).name}") from None
    messages, meta = answer["messages"], answer["meta"]
    try:
        record = read_record(answer["instance_id"])
    except (UserError, BadFile) as problem:
        raise ItemFailed("no usable PR record: run prompt.py again", str(problem)) from None
    meta.pop("audit", None)
    if answer["challenger"]:
        hits = find_leaks(answer["challenger"], messages, record)
        if hits or protocol_problem(answer["challenger"], messages):
            meta.setdefault("retired", []).append({"challenger": answer["challenger"], **meta["challenger"], "leaks": hits})
            answer["challenger"], meta["challenger"] = None, {}
            await asyncio.to_thread(write_json, path, answer)
    if not answer["challenger"]:
        reply, rejected = await ask_challenger(llm, config, messages, record)
        answer["challenger"] = reply.text
        meta["challenger"] = {"prompt_version": PROMPT_VERSION, **reply.meta(), "rejected": dict(rejected)}
    meta["challenger"]["leaks"] = {"version": AUDIT_VERSION, "hits": []}
    # The king cannot have peeked: what the audit finds in his replies is its false-alarm rate on this very data.
    meta["king"]["leaks"] = {"version": AUDIT_VERSION, "hits": find_leaks(answer["king"], messages, record)}
    meta["audit"] = AUDIT_VERSION  # the last key: find_pending reads it from the file's end
    await asyncio.to_thread(write_json, path, answer)


def read_answer(path: Path) -> dict:
    """An answer with a king; a `meta` of another tool's making gets the places that this stage fills. Raises BadFile."""
    answer = read_json(path, ANSWER_KEYS)
    problem = prompt_problem(answer) or (None if answer["king"] and isinstance(answer["king"], str) else "no king in it")
    if problem:
        raise BadFile(path, problem)
    meta = answer["meta"] = answer["meta"] if isinstance(answer["meta"], dict) else {}
    for side in ("king", "challenger"):
        meta[side] = meta[side] if isinstance(meta.get(side), dict) else {}
    return answer


async def ask_challenger(llm: LLM, config: Config, messages: list[dict], record: dict):
    """A challenger's reply that keeps the protocol and leaks nothing: (reply, what was rejected before, by kind)."""
    rejected: Counter = Counter()
    told = ""

    def problem(text: str) -> str | None:
        nonlocal told
        wrong = protocol_problem(text, messages)
        if wrong:
            rejected["protocol"] += 1
            told = wrong
            return f"protocol: {wrong}"
        kinds = sorted({hit["kind"] for hit in find_leaks(text, messages, record)})
        rejected.update(kinds)
        told = "; ".join(TOLD[kind] for kind in kinds)
        return f"leak ({', '.join(kinds)})" if kinds else None

    def prompt(*_) -> list[dict]:
        return challenger_messages(messages, record, config.generate.max_patch_chars, told)

    return await llm.ask(config.generator(), prompt(), problem, again=prompt), rejected


# --------------------------------------------------------------------------------------------------- what is ahead

def find_pending(shard: tuple[int, int] | None, tally: Tally) -> list[Path]:
    """Answers without a challenger, or with one that an older audit passed; torn files are set aside."""
    folders = answer_folders()
    if not folders:
        raise UserError("there is no answer_*/ folder. king.py makes it: run king.py first.")
    pending = []
    audited = f'\n  "audit": "{AUDIT_VERSION}"\n }}\n}}\n'.encode()
    for path in (path for folder in folders for path in turn_files(folder)):
        if shard and crc32(path.stem.encode()) % shard[1] != shard[0]:
            continue
        if ends(path, 0, len(audited))[1] == audited:
            tally.skipped["already filled"] += 1
            continue
        try:
            check_whole(path, ANSWER_KEYS)
            pending.append(path)
        except BadFile as bad:
            print(f"{bad}: set aside as {quarantine(path).name}; king.py asks for it again")
            tally.fail(path.stem, "torn answer file: run king.py again", str(bad))
    if not pending and not tally.skipped and not tally.failed and not shard:
        raise UserError(f"{folders[0]}/ holds no answers. king.py writes them: run king.py first.")
    return pending


def planned(pending: list[Path], config: Config) -> Iterator[tuple]:
    """For the dry run: the prompt of each turn that needs a reply."""
    for path in pending:
        try:
            answer = read_answer(path)
            record = read_record(answer["instance_id"])
        except (UserError, BadFile):
            continue  # the run itself fails this turn and says why
        if not answer["challenger"]:
            messages = challenger_messages(answer["messages"], record, config.generate.max_patch_chars)
            yield config.generator(), prompt_chars(messages), 1


def main() -> int:
    flags = parser(__doc__, calls=True).parse_args()
    config, environment = load_config(), load_environment()
    tally = Tally("ch.py")
    with lock_folders(answer_folders(), "ch", flags.shard):
        pending = find_pending(flags.shard, tally)[:flags.limit]
        if flags.dry_run:
            dry_run(environment, planned(pending, config))
            return 0
        llm = LLM(environment, concurrency=flags.concurrency, max_cost=flags.max_cost)
        code = run_turns(llm, pending, lambda path: fill(path, llm, config), name=lambda path: path.stem,
                         width=flags.concurrency or config.generate.concurrency,
                         progress=Progress(len(pending), "challenger"), tally=tally)
        tally.write_failed(answer_folders()[0], flags.shard)
    done = tally.show(*llm.usage_lines(), "output  answer_*/, key challenger", next_command="python validate.py")
    return code or done


if __name__ == "__main__":
    run(main)
