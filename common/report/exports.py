"""The training files of export/: which turns they hold, in which split, in which columns.

Three configurations of the same turns: sft and dpo in TRL's conversational formats, chat in the
form of fine-tuning services. In each every row has the same keys and types, in nested objects too:
`datasets` takes the schema from the first rows alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common.audit.similarity import jaccard, word_triples
from common.files import clean_text, natural_key
from common.report.outputs import Outputs
from common.report.rows import Row
from common.turns import SIDES, read_answer

CONFIGS = ("sft", "dpo", "chat")
SPLITS = ("train", "validation")
VALIDATION_PERCENT = 10  # of the repos, by a hash of their names
MIN_REPOS_TO_VALIDATE = 5  # from here on the repo with the lowest hash is in validation
NEAR_DUPLICATE_JACCARD = 0.8  # of the sets of word triples of two completions

# Room for a tokenizer that cuts finer than the writer's: longer rows would lose their completion.
LENGTH_MARGIN = 1.25
LENGTH_STEP = 1024  # tokens

# What a row says beside its texts: as columns, and in the column `meta` as JSON.
COLUMNS = (
    "instance_id", "repo", "license", "stem", "score", "prompt_chars", "prompt_tokens",
)  # fmt: skip
META = ("bucket", "score_confirmed", "style", "step", "tokens_from")
JUDGED = ("points", "max_points", "metrics", "by_judge")


@dataclass
class Export:
    """What is asked of export/, and what went into it."""

    with_refined: bool
    kept_from: int  # score points
    max_tokens: int | None  # longer rows are left out
    rows: dict[str, list[Row]] = field(default_factory=dict)  # by split
    moved_repo: str = ""  # into validation, which its hash alone would have left empty
    held_back: int = 0
    duplicates: int = 0
    too_long: int = 0

    @property
    def all_rows(self) -> list[Row]:
        return [row for part in self.rows.values() for row in part]

    @property
    def fitting_length(self) -> int:
        """The max_length, in tokens, that no row of any configuration should pass."""
        longest = max((row.total_tokens for row in self.all_rows), default=0)
        return LENGTH_STEP * -int(-longest * LENGTH_MARGIN // LENGTH_STEP)

    def lost_at(self, max_length: int) -> int:
        """Count the rows of which nothing but the prompt is left at this length."""
        return sum(row.prompt_tokens >= max_length for row in self.all_rows)


def file_name(config: str, split: str) -> str:
    """Return the name of a training file in export/."""
    return f"{config}-{split}.jsonl"


def export_training(rows: list[Row], export: Export, outputs: Outputs) -> None:
    """Write the training files, and fill in what they hold. The card is left to its own room.

    A split without rows has no files, for none could be loaded.
    """
    split_rows(choose(rows, export), export)
    for split, part in export.rows.items():
        for row in part:
            row.exported = split
        for config in CONFIGS:
            path = Path("export", file_name(config, split))
            if part:
                outputs.put_lines(path, training_lines(config, part))
            else:
                outputs.remove(path, "holds rows that are no longer chosen")


def choose(rows: list[Row], export: Export) -> list[Row]:
    """Return the turns to export; count the others, and note in each why it is not.

    Of completions of one instance that nearly repeat each other the best-scored is taken.
    """
    buckets = ("final", "refined") if export.with_refined else ("final",)
    fit = []
    for row in rows:
        if row.bucket not in buckets and not row.held_back:
            continue
        if row.unfit:
            export.held_back += 1
            row.exported = f"not exported: {row.unfit}"
        elif export.max_tokens and row.total_tokens > export.max_tokens:
            export.too_long += 1
            row.exported = f"not exported: longer than {export.max_tokens} tokens"
        else:
            fit.append(row)
    seen = defaultdict(list)  # by instance the word triples of what is chosen
    chosen = set()
    for row in sorted(fit, key=lambda row: (-row.deciding_score, natural_key(row.stem))):
        triples = word_triples(row.challenger)
        others = seen[row.instance_id]
        if any(jaccard(triples, other) >= NEAR_DUPLICATE_JACCARD for other in others):
            export.duplicates += 1
            row.exported = "not exported: near-duplicate"
        else:
            others.append(triples)
            chosen.add(row.stem)
    return [row for row in fit if row.stem in chosen]


def split_rows(rows: list[Row], export: Export) -> None:
    """Divide the rows into train and validation, by a hash of the repo's name alone.

    So growing the data never moves a turn across, but for one repo: where validation would stay
    empty it gets the repo with the lowest hash, until another's hash is lower.
    """
    repos = sorted({row.repo for row in rows}, key=repo_hash)
    held_out = {repo for repo in repos if 100 * repo_hash(repo) < VALIDATION_PERCENT}
    if not held_out and len(repos) >= MIN_REPOS_TO_VALIDATE:
        export.moved_repo = repos[0]
        held_out = {repos[0]}
    export.rows = {
        "train": [row for row in rows if row.repo not in held_out],
        "validation": [row for row in rows if row.repo in held_out],
    }


def repo_hash(repo: str) -> float:
    """Return a number from 0 to 1 that the repo's name alone decides."""
    return int.from_bytes(hashlib.sha256(repo.lower().encode()).digest()[:8], "big") / 2**64


def training_lines(config: str, rows: list[Row]) -> Iterator[str]:
    """Give the lines of a training file, in JSON.

    The challenger is preferred to the reply that it was judged against. LLaMA-Factory wants the
    two as messages, TRL as lists of one.
    """
    for row in rows:
        answer = read_answer(row.path)
        meta = {
            **{name: getattr(row, name) for name in META},
            **{name: row.judged[name] for name in JUDGED},
            "judged_against": SIDES[row.opponent],
            "model": row.meta["challenger"].get("model"),
            "source": row.meta.get("source"),
        }
        chat = [{"role": said["role"], "content": said["content"]} for said in answer["messages"]]
        chosen = {"role": "assistant", "content": answer["challenger"]}
        rejected = {"role": "assistant", "content": answer[row.opponent]}
        if config == "sft":
            line = {"prompt": chat, "completion": [chosen]}
        elif config == "dpo":
            line = {
                "prompt": chat, "chosen": [chosen], "rejected": [rejected],
                "chosen_message": chosen, "rejected_message": rejected,
            }  # fmt: skip
        else:
            weighted = [{**said, "weight": 0} for said in chat]
            line = {"messages": [*weighted, {**chosen, "weight": 1}]}
        line |= {name: getattr(row, name) for name in COLUMNS}
        line["meta"] = json.dumps(meta, ensure_ascii=False, sort_keys=True)
        yield clean_text(json.dumps(line, ensure_ascii=False)) + "\n"
