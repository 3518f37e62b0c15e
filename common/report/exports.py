"""The training files of export/: which turns they hold, in which split, in which columns.

In each configuration every row has the same keys and types, in nested objects too: `datasets` takes
the schema from the first rows alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from pydantic_core import PydanticSerializationError, to_json

from common.audit.protocol import bash_blocks, fence_of, jaccard, prose_parts, word_triples
from common.files import BadFile, UserError, clean_text
from common.report.markdown import Markdown, fill
from common.report.outputs import in_processes, written_anew
from common.report.rows import CHARS_PER_TOKEN, Row
from common.turns import FINAL_MIN, OPPONENT, SIDES, hidden_record, read_answer, read_record

# Of these distill is written by flag, for it shows the patch.
CONFIGS = ("sft", "dpo", "chat", "tools", "distill")
SPLITS = ("train", "validation")
VALIDATION_PERCENT = 10  # of the repos, by a hash of their names
NEAR_DUPLICATE_JACCARD = 0.8  # of the sets of word triples of two completions

# Room for a tokenizer that cuts finer than the writer's: longer rows would lose their completion.
LENGTH_MARGIN = 1.25
LENGTH_STEP = 1024  # tokens
MAX_LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768)  # tokens, that report and card speak of
SMALL_SPLIT = 30  # rows

# What a row says beside its texts: as columns, and in the column `meta` as JSON.
COLUMNS = (
    "instance_id", "repo", "license", "stem", "score", "prompt_chars", "prompt_tokens",
    "candidates_distinct",
)  # fmt: skip
META = (
    "bucket", "score_confirmed", "style", "step", "tokens_from", "points", "max_points", "metrics",
    "by_judge",
)  # fmt: skip

# The tool of mini-swe-agent 2, word for word: what its student is shown.
_COMMAND = {"command": {"type": "string", "description": "The bash command to execute"}}
_TAKES = {"type": "object", "properties": _COMMAND, "required": ["command"]}
_BASH = {"name": "bash", "description": "Execute a bash command", "parameters": _TAKES}
BASH_TOOL = {"type": "function", "function": _BASH}


@dataclass
class Export:
    """What is asked of export/, and what went into it."""

    kept_from: int  # score points: final/ alone, or refined/ too
    max_tokens: int | None  # longer rows are left out
    max_patch_chars: int | None  # what distill shows of a patch; None: no distill
    rows: list[Row] = field(default_factory=list)
    fates: dict[str, str] = field(default_factory=dict)  # by stem its split, or why it has none
    left_out: Counter = field(default_factory=Counter)  # turns by kind of reason
    teacher_tokens: int = 0  # the longest row of distill with its record

    @property
    def fitting_length(self) -> int:
        """The max_length, in tokens, that no row of any configuration should pass."""
        return with_margin(max((row.total_tokens for row in self.rows), default=0))

    @property
    def lost(self) -> dict[int, int]:
        """By max_length the rows of which nothing but the prompt is left."""
        tokens = [row.prompt_tokens for row in self.rows]
        return {length: sum(n >= length for n in tokens) for length in MAX_LENGTHS}


def with_margin(tokens: int) -> int:
    """Return a length to give a trainer, in whole steps."""
    return LENGTH_STEP * -int(-tokens * LENGTH_MARGIN // LENGTH_STEP)


def export_training(rows: list[Row], export: Export) -> None:
    """Write the training files, and note in `export` what they hold.

    Turns of one instance stand together, best first: of near-duplicates the first is taken. A split
    without rows has no files, for none could be loaded.
    """
    fit = fit_rows(rows, export)
    held_out = validation_repos({row.repo for row in fit})
    by_instance = {}
    for row in fit:
        by_instance.setdefault(row.instance_id, []).append(row)
    for turns in by_instance.values():
        turns.sort(key=lambda row: -row.deciding_score)
    instances = list(by_instance.values())
    work = partial(instance_lines, max_patch_chars=export.max_patch_chars)
    with ExitStack() as stack:
        training_files = {}
        for split in SPLITS:
            for config in CONFIGS:  # what is not asked for is removed
                name = f"{config}-{split}.jsonl"
                training_files[name] = stack.enter_context(written_anew(Path("export", name)))
        made = stack.enter_context(in_processes(work, instances, len(fit)))
        for turns, (record_chars, lines_of_turns) in zip(instances, made):
            for row, lines in zip(turns, lines_of_turns):
                if not lines:
                    export.left_out["duplicate"] += 1
                    export.fates[row.stem] = "not exported: near-duplicate"
                    continue
                split = "validation" if row.repo in held_out else "train"
                export.fates[row.stem] = split
                export.rows.append(row)
                for config, line in lines.items():
                    training_files[f"{config}-{split}.jsonl"].write(line)
                if record_chars:
                    tokens = row.total_tokens + round(record_chars / CHARS_PER_TOKEN)
                    export.teacher_tokens = max(export.teacher_tokens, tokens)
                elif export.max_patch_chars is not None:
                    export.left_out["no_record"] += 1


def fit_rows(rows: list[Row], export: Export) -> list[Row]:
    """Return the turns that may be exported; count the others, and note why they are not."""
    buckets = ("final",) if export.kept_from == FINAL_MIN else ("final", "refined")
    fit = []
    for row in rows:
        if row.bucket not in buckets and not row.held_back:
            continue
        if row.unfit:
            export.left_out["excluded" if row.excluded else "held_back"] += 1
            export.fates[row.stem] = f"not exported: {row.unfit}"
        elif export.max_tokens and row.total_tokens > export.max_tokens:
            export.left_out["too_long"] += 1
            export.fates[row.stem] = f"not exported: longer than {export.max_tokens} tokens"
        else:
            fit.append(row)
    return fit


def validation_repos(repos: set[str]) -> set[str]:
    """Return the repos whose turns are validation's, by a hash of the repo's name alone.

    So growing the data never moves a turn across. Where that would be all repos, it is none.
    """
    held_out = set()
    for repo in repos:
        digest = hashlib.sha256(repo.lower().encode()).digest()
        if 100 * int.from_bytes(digest[:8], "big") < VALIDATION_PERCENT * 2**64:
            held_out.add(repo)
    return held_out if held_out != repos else set()


def instance_lines(rows: list[Row], max_patch_chars: int | None) -> tuple[int, list[dict]]:
    """Return the size of the record of these rows' instance, and each row's lines by configuration.

    A near-duplicate of a row before it has none.
    """
    record = ""  # as ch.py shows it
    if max_patch_chars is not None:
        with suppress(UserError, BadFile):  # hugePR.md names it
            record = hidden_record(read_record(rows[0].instance_id), max_patch_chars)
    taken = []
    lines = []
    for row in rows:
        answer = read_answer(row.path)
        triples = word_triples(answer["challenger"])
        if any(jaccard(triples, other) >= NEAR_DUPLICATE_JACCARD for other in taken):
            lines.append({})
            continue
        taken.append(triples)
        values = training_rows(answer, row, record)
        lines.append({config: json_line(value) for config, value in values.items()})
    return len(record), lines


def training_rows(answer: dict, row: Row, record: str) -> dict[str, dict]:
    """Return the row of each configuration for one turn; of distill only with a `record`.

    The challenger is preferred to the reply that it was judged against, which won the rest of 100
    points. LLaMA-Factory wants the two as messages, TRL as lists of one.
    """
    opponent = OPPONENT[row.mode]
    meta = {
        **{name: getattr(row, name) for name in META},
        "judged_against": SIDES[opponent],
        "model": row.models.get("challenger"),
        "source": answer["meta"].get("source"),
    }
    about = {name: getattr(row, name) for name in COLUMNS}
    about["meta"] = json.dumps(meta, ensure_ascii=False, sort_keys=True)
    chat = [{"role": said["role"], "content": said["content"]} for said in answer["messages"]]
    chosen = {"role": "assistant", "content": answer["challenger"]}
    rejected = {"role": "assistant", "content": answer[opponent]}
    pair = {"chosen": [chosen], "rejected": [rejected]}
    pair |= {"chosen_message": chosen, "rejected_message": rejected}
    pair["margin"] = (2 * row.deciding_score - 100) / 100
    weighted = [*({**said, "weight": 0} for said in chat), {**chosen, "weight": 1}]
    *history, reply = with_tool_calls([*chat, chosen])
    rows = {
        "sft": {"prompt": chat, "completion": [chosen], **about},
        "dpo": {"prompt": chat, **pair, **about},
        "chat": {"messages": weighted, **about},
        "tools": {"prompt": history, "completion": [reply], "tools": [BASH_TOOL], **about},
    }
    if record:
        rows["distill"] = {"prompt": chat, "privileged_context": record, **about}
    return rows


def with_tool_calls(chat: list[dict]) -> list[dict]:
    """Return a chat as a student with BASH_TOOL would have had it; its texts stay as they are.

    An assistant's message with exactly one block becomes what it said and a call of the command,
    and the user's message after it the output of that call.
    """
    messages = []
    fence = fence_of(chat)
    call_id = ""  # of the call just made
    next_roles = [said["role"] for said in chat[1:]] + ["user"]
    for said, next_role in zip(chat, next_roles):
        role = "tool" if call_id else said["role"]
        content = said["content"]
        calls = []
        answered_id = call_id
        call_id = ""
        is_answered = role == "assistant" and next_role == "user"
        blocks = bash_blocks(content, fence) if is_answered else []
        if len(blocks) == 1:
            call_id = f"call{len(messages):05}"  # nine letters and digits, as Mistral's want it
            # An object: as JSON text most chat templates refuse it.
            call = {"name": "bash", "arguments": {"command": blocks[0]}}
            calls = [{"id": call_id, "type": "function", "function": call}]
            prose = [part.strip() for part in prose_parts(content, fence)]
            content = "\n\n".join(filter(None, prose))
        message = {"role": role, "content": content, "tool_calls": calls}
        messages.append({**message, "tool_call_id": answered_id})
    return messages


def json_line(value: dict) -> bytes:
    """Return `value` as one line of JSON in UTF-8."""
    try:
        line = to_json(value)
    except PydanticSerializationError:  # a lone surrogate
        line = clean_text(json.dumps(value, ensure_ascii=False)).encode()
    return line + b"\n"


def export_text(export: Export) -> Markdown:
    """Return in a few sentences what export/ holds, for report, card and tally."""
    rows = export.rows
    splits = {split: [row for row in rows if export.fates[row.stem] == split] for split in SPLITS}
    lengths = [row.prompt_tokens for row in rows] or [0]
    return fill(
        "export.md",
        export=export,
        splits=splits,
        small_split=SMALL_SPLIT,
        lengths=np.percentile(lengths, (50, 90, 100), method="nearest").tolist(),
        chars_per_token=CHARS_PER_TOKEN,
    )
