"""The dataset card of export/: front matter by huggingface_hub, text from the template card.md."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from common.exports import (
    CONFIGS,
    MIN_REPOS_TO_VALIDATE,
    NEAR_DUPLICATE_JACCARD,
    SPLITS,
    VALIDATION_PERCENT,
    Export,
    file_name,
)
from common.files import BadFile
from common.page import figures
from common.page.figures import Facts
from common.page.left_out import dicts
from common.page.markdown import Markdown, fill, table, written
from common.page.rows import CHARS_PER_TOKEN
from common.turns import DEFEAT_MIN, FINAL_MIN, METRICS

CARD = Path("export", "README.md")
MAX_LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768)  # tokens
SMALL_SPLIT = 30  # rows
_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))  # of the Hub


def dataset_card(facts: Facts) -> str:
    """Return the card of what facts.export says. Raises BadFile if the card there is torn."""
    return f"---\n{front_matter(facts.export)}\n---\n\n{card_text(facts)}\n"


# ------------------------------------------------------------------------------------ front matter


def front_matter(export: Export) -> str:
    """Return the card's YAML; a licence that the user stated in the card there is kept."""
    rows = len(export.all_rows)
    configs = []
    for config in CONFIGS if rows else ():
        files = []
        for split in SPLITS:
            if export.rows[split]:
                files.append({"split": split, "path": file_name(config, split)})
        default = {"default": True} if config == "sft" else {}
        configs.append({"config_name": config, **default, "data_files": files})
    data = DatasetCardData(
        **stated_licence(),
        pretty_name="Preferred single turns of a coding agent",
        task_categories=["text-generation"],
        tags=["code", "agent", "software-engineering", "sft", "dpo"],
        size_categories=[next((name for most, name in _SIZES if rows < most), "100K<n<1M")],
        configs=configs or None,
    )
    return data.to_yaml()


def stated_licence() -> dict:
    """Return what the card there says under license, license_name and license_link."""
    stated = {"license": "unknown"}
    text = card_there()
    if not text.lstrip().startswith("---"):
        return stated
    try:
        front = DatasetCard(text).data.to_dict()
    except Exception as error:  # of the YAML parser, which this project does not import
        first_line = str(error).split("\n")[0]
        raise BadFile(CARD, f"cannot read its front matter ({first_line})") from None
    for key, value in front.items():
        if key.startswith("license") and value:
            stated[key] = value
    return stated


def card_there() -> str:
    """Return the card that lies in export/; "" without one."""
    try:
        return CARD.read_text(encoding="utf-8-sig", errors="replace")
    except FileNotFoundError:
        return ""


def card_flags() -> tuple[bool, int | None]:
    """Return --with-refined and --max-tokens of the run that wrote the card in export/."""
    found = re.search(
        r"`python report\.py( --with-refined)?(?: --max-tokens (\d+))?`", card_there()
    )
    if not found:
        return False, None
    return bool(found[1]), int(found[2]) if found[2] else None


# -------------------------------------------------------------------------------------------- text


def card_text(facts: Facts) -> str:
    """Return the card below its front matter."""
    export = facts.export
    duel = facts.duel
    look = duel.get("second_look") or {}
    command = "python report.py"
    if export.with_refined:
        command += " --with-refined"
    if export.max_tokens:
        command += f" --max-tokens {export.max_tokens}"
    benchmarks = facts.plan.get("benchmarks")
    lists = dicts(benchmarks.get("lists")) if isinstance(benchmarks, dict) else []
    checked = []
    unchecked = []
    for entry in lists:
        if entry.get("state") == "checked":
            overlaps = entry.get("overlaps")
            passed_over = len(overlaps) if isinstance(overlaps, list) else 0
            names = (entry.get("name"), entry.get("commit"), entry.get("instances"))
            checked.append((*names, passed_over, entry.get("repos_shared")))
        else:
            why = f" ({entry['why']})" if entry.get("why") else ""
            unchecked.append(f"{entry.get('name')}{why}")
    licences = Counter(row.license for row in export.all_rows)
    by_licence = [(name or "not known", n) for name, n in licences.most_common()]
    return fill(
        "card.md",
        facts=facts,
        export=export,
        rows=len(export.all_rows),
        train=train_text(export) if export.all_rows else None,
        command=Markdown(command),
        dataset=figures.dataset(facts.plan),
        opponent_words="the king"
        if facts.mode == 2
        else "the source data's own next turn (the reference)",
        metrics=list(METRICS),
        look=look if look.get("turns") else None,
        jaccard=NEAR_DUPLICATE_JACCARD,
        validation_percent=VALIDATION_PERCENT,
        export_text=export_text(export),
        king=figures.writers(facts.rows, "king"),
        challenger=figures.writers(facts.rows, "challenger"),
        judged=len(facts.parsed),
        interval=duel.get("interval") or [None],
        verdict=figures.verdict_word(duel),
        final_min=FINAL_MIN,
        defeat_min=DEFEAT_MIN,
        benchmarks=lists,
        checked=table(
            "list | commit | instances # | passed over # | repos shared with this data #", checked
        ),
        unchecked=unchecked,
        challenger_audit=figures.leak_audit(facts.rows, "challenger"),
        king_audit=figures.leak_audit(facts.rows, "king"),
        reader=figures.readers_test(facts),
        unknown_licences=licences[""],
        licences=table("licence | rows #", by_licence),
    )


def train_text(export: Export) -> Markdown:
    """Return what the files are, what their columns hold and how to train on them."""
    rows = len(export.all_rows)
    lost = [export.lost_at(length) for length in MAX_LENGTHS]
    cells = [f"{n:,} ({written(n / rows, '%')})" for n in lost]
    headers = " | ".join(["max_length", *(f"{length:,} #" for length in MAX_LENGTHS)])
    files = [f"- `{name}`: {written(n, 'row')}" for name, n in export.files.items()]
    return fill(
        "train.md",
        files=Markdown("\n".join(files)),
        rows=rows,
        lost=table(headers, [("rows that keep no completion", *cells)]),
        lost_default=lost[0],
        fit=export.fitting_length,
    )


def export_text(export: Export) -> Markdown:
    """Return in a few sentences what export/ holds, for report, card and tally."""
    rows = export.all_rows
    lengths = sorted(row.prompt_tokens for row in rows)
    last = len(lengths) - 1
    splits = []
    small = {}
    for split in SPLITS:
        repos = {row.repo for row in export.rows[split]}
        size = len(export.rows[split])
        splits.append(f"{split} {written(size, 'row')} of {written(len(repos), 'repo')}")
        small[split] = 0 < size < SMALL_SPLIT or len(repos) == 1
    return fill(
        "export.md",
        export=export,
        rows=len(rows),
        splits=splits if rows else None,
        held_back=export.held_back or None,
        too_long=export.too_long if export.max_tokens else None,
        empty=[split for split in SPLITS if rows and not export.rows[split]],
        least_repos=MIN_REPOS_TO_VALIDATE,
        train_is_small=small["train"],
        validation_is_small=small["validation"],
        median=lengths[round(0.5 * last)] if rows else None,
        ninetieth=lengths[round(0.9 * last)] if rows else None,
        most=lengths[-1] if rows else None,
        guessed=sum(row.tokens_from == "guess" for row in rows) or None,
        chars_per_token=CHARS_PER_TOKEN,
        lost={f"{length:,}:": export.lost_at(length) for length in MAX_LENGTHS} if rows else None,
    )
