"""Stage 3: the challenger's reply to every turn that has a king, written with the hidden PR record.

    python ch.py [--limit N] [--concurrency N] [--shard I/N] [--dry-run] [--max-cost DOLLARS]
    python ch.py --batch          at half the price: send as batches, and collect when run again
    python ch.py --redo-refused   ask again where today's audit refuses a stored reply

The model of chain.toml's [generate] sees the chat, then the PR record and the blind-agent rule: it
may use the record to choose a good next move, and must not show knowledge that the chat could not
have given. Every reply is audited (find_leaks) and asked for again when it fails. Stored replies
are audited again, for free, when the audit or a text has changed; one that then fails is held back
from final/ and stays until --redo-refused. With [generate] show_record = false the prompt is the
same without the record: a copy of the folder without challengers, run so, tells its worth.

With [generate] challenger = "chosen" the model writes several replies blind, as the king, and is
then shown them with the record: the one that helps most is the challenger. The audit refuses none.

Reads   answer_*/*.json, commit/<instance_id>.json
Writes  `challenger` and its `meta` into answer_*/*.json in place (--shard I/N: every N-th turn by
        a hash of its name), _failed.jsonl beside them, batch/ with --batch
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take a second
    from common.start import begin

    begin()

from collections import Counter
from functools import partial
from pathlib import Path

from common import turns
from common.audit.leaks import AUDIT_VERSION, find_leaks
from common.audit.protocol import fence_of, protocol_problem
from common.audit.texts import Chat
from common.cli import Progress, Tally, parser, run, steps_from
from common.client.ask import LLM, run_turns
from common.client.estimate import dry_run, own_replies
from common.config import Generate, load_config, load_environment
from common.duel import choice
from common.files import BadFile, ItemFailed, UserError, digest, lock_folders, write_json

PROMPT_VERSION = "challenger-1"
WITHOUT_RECORD = "challenger-1 without the record"  # [generate] show_record = false
BLIND = (WITHOUT_RECORD, choice.PROMPT_VERSION)

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
"""  # noqa: E501

NEXT_MOVE = {
    "early": "The chat has barely begun. Look where an honest engineer would look first: search "
    "for the names that the issue gives, or list the part of the tree that they point to. Do not "
    "jump to the file or the line.",
    "middle": "The search is under way. Follow the best lead that the chat has shown so far: read "
    "the code around it, or search for what would confirm or rule out its cause. Do not repeat a "
    "command whose output is there.",
    "late": "Much has been seen. If the chat shows the cause, make the change in the code that was "
    "shown; if the change stands, check it; if all is done, submit in the way the task asks for.",
}
EARLY_TURNS = 2  # fewer turns of the agent so far are early,
LATE_TURNS = 8  # as many are late; real trajectories hold 2 to 16

FORM = """\
Reply with the agent's next turn alone, in the form that the task above asks for: a THOUGHT in a few sentences that
reasons from what the chat shows, then exactly one ```bash block with exactly one command (parts joined with && or ||
count as one), and nothing after it. Keep every rule of the task about commands."""  # noqa: E501

# What a refused reply is told: the kind of problem and the rule, never the hidden text.
TOLD = {
    "path": "it read, edited or took for granted a path that the chat has not shown. "
    "Search for it first",
    "identifier": "it named something from the code that the chat has not shown. "
    "Name only what was seen, or search",
    "line": "it used line numbers of a file whose lines the chat has not shown. "
    "Print the lines first",
    "verbatim": "it repeated hidden text word for word. "
    "Write from what the chat shows, in your own way",
    "disclosure": "it spoke of a source that the agent does not have. "
    "Reason only from the task and the outputs",
    "history": "it looked at commits, branches or copies of the project that hold its future. "
    "Work from the code as it is checked out",
}


def challenger_messages(
    messages: list[dict], record: dict | None, max_patch_chars: int, refused: str = ""
) -> list[dict]:
    """Return the chat as the king saw it, for the provider's cache, then the briefing.

    `record` is None where it is not to be seen; `refused`: what was wrong with the reply before.
    """
    agent_turns = sum(message["role"] == "assistant" for message in messages)
    phase = "early" if agent_turns < EARLY_TURNS else "middle"
    phase = "late" if agent_turns >= LATE_TURNS else phase
    last = messages[-1]
    shown = turns.hidden_record(record, max_patch_chars) if record else ""
    mark = f"[{digest(shown, last['content'])[:12]}]"
    no_output = "What follows is no output and no part of the task's chat"
    parts = [last["content"], f"{mark} {no_output}: it is a briefing for you alone."]
    if record:
        parts.append(f"{mark} HIDDEN PR RECORD\n{shown}\n{mark} END OF HIDDEN PR RECORD")
    parts += [BLIND_AGENT_RULE, "YOUR NEXT MOVE\n" + NEXT_MOVE[phase]]
    parts.append(FORM.replace("```bash", "```" + fence_of(messages)))
    if refused:
        parts.append(f"An earlier reply of yours was refused: {refused}. Write another one.")
    return [*messages[:-1], {"role": last["role"], "content": "\n\n".join(parts)}]


async def fill(llm: LLM, generate: Generate, files: dict[str, Path], stem: str) -> None:
    """Ask for the challenger of one turn until one passes, and write it. Raises ItemFailed."""
    path = files[stem]
    answer = turns.read_answer(path)
    messages = answer["messages"]
    meta = answer["meta"]
    record = turns.record_of(answer["instance_id"])
    shown = record if generate.show_record else None
    chat = Chat(messages)
    rejected: Counter = Counter()
    refused = ""

    def problem(text: str) -> str | None:
        nonlocal refused
        refused = protocol_problem(text, messages) or ""
        if refused:
            rejected["protocol"] += 1
            return f"protocol: {refused}"
        hits = find_leaks(text, chat, record) if shown else []
        kinds = sorted({hit["kind"] for hit in hits})
        rejected.update(kinds)
        refused = "; ".join(TOLD[kind] for kind in kinds)
        return f"leak ({', '.join(kinds)})" if kinds else None

    def prompt(*_) -> list[dict]:
        return challenger_messages(messages, shown, generate.max_patch_chars, refused)

    if generate.challenger == "chosen":
        hidden = turns.hidden_record(record, generate.max_patch_chars)
        text, how = await choice.choose_reply(path, answer, hidden, llm, generate)
    else:
        who = f"{stem} {len(meta.get('retired', []))} {bool(answer['challenger'])}"
        text, how = await llm.ask(generate, prompt(), problem, again=prompt, who=who)
        version = PROMPT_VERSION if shown else WITHOUT_RECORD
        how = {"prompt_version": version, **how, "rejected": dict(rejected)}
    if answer["challenger"]:  # a refused reply was paid for, too
        old = {"challenger": answer["challenger"], **meta["challenger"]}
        meta.setdefault("retired", []).append(old)
    answer["challenger"] = text
    meta["challenger"] = how
    audit(answer, chat, record)
    await llm.save(path, answer)


def audit(answer: dict, chat: Chat, record: dict) -> None:
    """Audit both replies and note in `meta` what was found and for which texts.

    The king cannot have peeked: his hits are the audit's false-alarm rate on this very data. Nor
    can a challenger that was written blind, who is refused for the protocol alone.
    """
    meta = answer["meta"]
    for side in ("king", "challenger"):
        hits = find_leaks(answer[side], chat, record)
        meta[side]["leaks"] = {"version": AUDIT_VERSION, "hits": hits}
    refused = protocol_problem(answer["challenger"], answer["messages"]) or ""
    kinds = sorted({hit["kind"] for hit in hits})  # of the challenger's
    if kinds and meta["challenger"].get("prompt_version") not in BLIND:
        refused = f"leak ({', '.join(kinds)})"
    meta["challenger"]["refused"] = refused
    meta["audit"] = audit_mark(answer)


def audit_mark(answer: dict) -> dict:
    """Return what an audit rests on: its version and the texts."""
    sha = turns.text_digests(answer)
    return {"version": AUDIT_VERSION, "sha": digest(sha["chat"], sha["king"], sha["challenger"])}


def find_pending(files: dict[str, Path], generate: Generate, flags, tally: Tally) -> list[str]:
    """List the turns that need a challenger; audit again those whose audit is out of date."""
    pending = []
    for stem, path in files.items():
        try:
            answer = turns.read_answer(path)
            if answer["challenger"] and answer["meta"].get("audit") != audit_mark(answer):
                audit(answer, Chat(answer["messages"]), turns.record_of(answer["instance_id"]))
                if not flags.dry_run:
                    write_json(path, answer)
            refused = answer["meta"]["challenger"].get("refused")
            reason = "already filled"
            if not answer["challenger"] or (refused and flags.redo_refused):
                record = turns.record_of(answer["instance_id"])  # without one the turn fails here
                reason = turns.exclusion_reason(record, generate.max_record_chars)
            elif refused:
                reason = "held back, the audit refuses the reply: --redo-refused asks again"
            if reason:
                tally.skipped[reason] += 1
            else:
                pending.append(stem)
        except BadFile as bad:
            turns.set_aside(bad, "king.py asks for it again", not flags.dry_run)
            tally.fail(stem, "torn answer file: run king.py again", str(bad))
        except ItemFailed as failure:
            tally.fail(stem, failure.kind, failure.detail)
    return pending


def prompts_ahead(path: Path, generate: Generate) -> list[list[dict]]:
    """Return what is asked for the challenger of an answer file at first. Raises ItemFailed."""
    answer = turns.read_answer(path)
    messages = answer["messages"]
    record = turns.record_of(answer["instance_id"]) if generate.show_record else None
    briefed = challenger_messages(messages, record, generate.max_patch_chars)
    if generate.challenger == "informed":
        return [briefed]
    blind = [messages] * len(choice.missing_samples(answer["meta"], generate.candidates))
    replies = {"role": "user", "content": answer["king"] * generate.candidates}
    return [*blind, [*briefed, replies]]  # the choice's prompt is as long as these


def main() -> int:
    flags = parser(__doc__, calls=True)
    flags.add_argument("--redo-refused", action="store_true", help="ask again for refused replies")
    flags = flags.parse_args()
    config = load_config()
    generate = config.generate
    environment = load_environment(config, [generate])
    tally = Tally("ch.py")
    held = turns.answer_folders()
    files = turns.answer_files(flags.shard)
    if not held or not (files or flags.shard):
        raise UserError("no answers here: answer_*/ hold no turn. Run king.py first.")

    with lock_folders([] if flags.dry_run else held, "ch", flags.shard):
        pending = find_pending(files, generate, flags, tally)[: flags.limit]
        if flags.dry_run:
            prompts = (p for stem in pending for p in prompts_ahead(files[stem], generate))
            calls = ((generate, prompt) for prompt in prompts)
            # Blind replies are as long as kings.
            replies = own_replies("king" if generate.challenger == "chosen" else "challenger")
            return dry_run(environment, calls, tally.skipped, replies, flags.batch)

        llm = LLM(environment, flags, "ch", tally.failed_before(held[0]))
        work = partial(fill, llm, generate, files)
        width = flags.concurrency or generate.concurrency
        progress = Progress(len(pending), "challenger")
        code = run_turns(llm, pending, work, width=width, progress=progress, tally=tally)
        tally.write_failed(held[0], flags.shard)
    lines = [*llm.usage_lines(), "output  answer_*/, key challenger"]
    return tally.show(*lines, next_command=steps_from("validate.py", flags.shard), code=code)


if __name__ == "__main__":
    run(main)
