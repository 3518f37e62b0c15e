"""The dataset card of export/: front matter by huggingface_hub, sentences from card.md."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from common.exports import (
    CONFIGS,
    NEAR_DUPLICATE_JACCARD,
    SPLITS,
    VALIDATION_PERCENT,
    Export,
    file_name,
)
from common.files import BadFile
from common.page import figures
from common.page.export_words import (
    MAX_LENGTHS,
    lost_cells,
    prompt_lengths,
    split_words,
    too_long_words,
)
from common.page.figures import Facts
from common.page.left_out import dicts
from common.page.markdown import NOTHING, blocks, count, fill, number, percent, shown, span, table
from common.page.numbers import mean_score_words, model_words
from common.turns import DEFEAT_MIN, FINAL_MIN, METRICS

CARD = Path("export", "README.md")

_OPPONENT_WORDS = {1: "the source data's own next turn (the reference)", 2: "the king"}
_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))  # of the Hub


def dataset_card(facts: Facts) -> str:
    """Return the card of what facts.export says. Raises BadFile if the card there is torn."""
    return f"---\n{front_matter(facts.export)}\n---\n\n{card_text(facts)}\n"


# ------------------------------------------------------------------------------------ front matter


def front_matter(export: Export) -> str:
    """Return the card's YAML; a licence that the user stated in the card there is kept."""
    data = DatasetCardData(
        **stated_licence(),
        pretty_name="Preferred single turns of a coding agent",
        task_categories=["text-generation"],
        tags=["code", "agent", "software-engineering", "sft", "dpo"],
        size_categories=[size_category(len(export.all_rows))],
        configs=configs(export) or None,
    )
    return data.to_yaml()


def stated_licence() -> dict:
    """Return what the card there says under license, license_name and license_link."""
    text = card_there()
    if not text.lstrip().startswith("---"):
        return {"license": "unknown"}
    try:
        front = DatasetCard(text).data.to_dict()
    except Exception as error:  # of the YAML parser, which this project does not import
        first_line = str(error).split("\n")[0]
        raise BadFile(CARD, f"cannot read its front matter ({first_line})") from None
    stated = {"license": "unknown"}
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


def size_category(rows: int) -> str:
    """Return the Hub's name for the number of rows."""
    for limit, name in _SIZES:
        if rows < limit:
            return name
    return "100K<n<1M"


def configs(export: Export) -> list[dict]:
    """Return which files make which configuration and split."""
    found = []
    for config in CONFIGS:
        files = []
        for split in SPLITS:
            if export.rows[split]:
                files.append({"split": split, "path": file_name(config, split)})
        if files:
            default = {"default": True} if config == "sft" else {}
            found.append({"config_name": config, **default, "data_files": files})
    return found


# ---------------------------------------------------------------------------------- what made them


def card_command(export: Export) -> str:
    """Return the command line that makes this export."""
    words = ["python report.py"]
    if export.with_refined:
        words.append("--with-refined")
    if export.max_tokens:
        words.append(f"--max-tokens {export.max_tokens}")
    return " ".join(words)


def card_flags() -> tuple[bool, int | None]:
    """Return --with-refined and --max-tokens of the run that wrote the card in export/."""
    found = re.search(
        r"`python report\.py( --with-refined)?(?: --max-tokens (\d+))?`", card_there()
    )
    if not found:
        return False, None
    return bool(found[1]), int(found[2]) if found[2] else None


# -------------------------------------------------------------------------------------------- text


def block(name: str, /, **values: object) -> str:
    """Return a block of card.md, filled in."""
    return fill(blocks("card.md")[name], **values)


def card_text(facts: Facts) -> str:
    """Return the card below its front matter."""
    export = facts.export
    return block(
        "card",
        rows=rows_text(export) if export.all_rows else block("no_rows"),
        command=card_command(export),
        dataset=shown(figures.dataset_name(facts.plan)),
        revision=shown(facts.plan.get("revision") or "not known"),
        seed=shown(facts.plan.get("seed", "not known")),
        opponent=_OPPONENT_WORDS[facts.mode],
        metrics=", ".join(METRICS),
        kept_from=export.kept_from,
        refined=" (the refined turns included)" if export.with_refined else "",
        deciding=deciding_text(facts.duel.get("second_look")),
        held_back=count(export.held_back, "turn"),
        duplicates=count(export.duplicates, "near-duplicate"),
        jaccard=f"{NEAR_DUPLICATE_JACCARD:g}",
        too_long=too_long_words(export),
        validation=VALIDATION_PERCENT,
        splits=split_words(export),
        king=model_words(figures.side_metas(facts.rows, "king")),
        challenger=model_words(figures.side_metas(facts.rows, "challenger")),
        judges=", ".join(map(shown, facts.judges)),
        judged=f"{len(facts.parsed):,}",
        mean_score=mean_score_words(facts.duel),
        verdict=figures.verdict_word(facts.duel),
        agreement=agreement_words(facts.duel.get("agreement") or {}),
        final_min=FINAL_MIN,
        defeat_min=DEFEAT_MIN,
        benchmarks=benchmarks_text(facts.plan.get("benchmarks")),
        audit=audit_text(facts),
        reader=reader_text(facts),
        kept_again=kept_again_text(facts.duel.get("kept_again")),
        licences=licences_text(export),
    )


def rows_text(export: Export) -> str:
    """Return what the files are, what their columns hold and how to train on them."""
    fit = export.fitting_length
    return block(
        "rows",
        files="\n".join(f"- `{name}`: {count(n, 'row')}" for name, n in export.files.items()),
        lengths=block("lengths", **prompt_lengths(export)),
        columns=" | ".join(f"{length:,}" for length in MAX_LENGTHS),
        rules=" ---: |" * len(MAX_LENGTHS),
        lost=" | ".join(lost_cells(export)),
        lost_default=f"{export.lost_at(1024):,} of {count(len(export.all_rows), 'row')}",
        fit=fit,
    )


def deciding_text(second: dict | None) -> str:
    """Say by which score the rows were kept."""
    if not second or not second.get("turns"):
        return block("first_score")
    return block(
        "second_score",
        band=span(second.get("band"), 0),
        turns=count(second["turns"], "turn"),
        models=", ".join(map(shown, second["models"])),
        first=number(second["mean_first"]),
        confirmed=number(second["mean_confirmed"]),
    )


def audit_text(facts: Facts) -> str:
    """Say what the rules found in challengers, and in kings, who had nothing to leak."""
    challengers = figures.audit_of(facts.rows, "challenger")
    kings = figures.audit_of(facts.rows, "king")
    if not challengers.audited:
        return block("no_audit")
    return block(
        "audit",
        challengers=count(challengers.audited, "challenger"),
        hit=f"{challengers.hit:,} ({percent(challengers.hit, challengers.audited)})",
        floor=f"{kings.hit:,} of {kings.audited:,} ({percent(kings.hit, kings.audited)})",
    )


def reader_text(facts: Facts) -> str:
    """Say what the reader's test named on either side."""
    second = facts.duel.get("second_look") or {}
    read = second.get("read")
    if not read:
        return block("no_reader")
    named = second.get("named") or {}
    opponent = "assistant" if facts.mode == 1 else "king"
    found = {}
    for side in ("challenger", opponent):
        n = named.get(side) or 0
        found[side] = f"{n:,} ({percent(n, read)})"
    return block(
        "reader",
        model=shown(second.get("reader") or "a judge"),
        turns=count(read, "turn"),
        opponent=facts.opponent,
        challenger=found["challenger"],
        other=found[opponent],
    )


def kept_again_text(again: dict | None) -> str:
    """Say what the kept turns would score if they were judged again."""
    if not again:
        return block("kept_unknown")
    kept_mean = number(again.get("kept_mean"))
    return block("kept_again", kept_mean=kept_mean, again=number(again.get("kept_again")))


def agreement_words(agreement: dict) -> str:
    """Return the judges' agreement with its name."""
    return f"{shown(agreement.get('name') or NOTHING)} {number(agreement.get('value'), 2)}"


def benchmarks_text(plan: object) -> str:
    """Say which benchmarks were kept out, and which could not be compared with."""
    lists = dicts(plan.get("lists")) if isinstance(plan, dict) else []
    if not lists:
        return block("no_benchmarks")
    rows = []
    unchecked = []
    for entry in lists:
        name = shown(entry.get("name"))
        if entry.get("state") == "checked":
            overlaps = entry.get("overlaps")
            passed_over = len(overlaps) if isinstance(overlaps, list) else 0
            commit = shown(entry.get("commit") or NOTHING)
            shared = entry.get("repos_shared")
            rows.append((name, commit, entry.get("instances"), passed_over, shared))
        else:
            why = entry.get("why")
            unchecked.append(f"{name} ({shown(why)})" if why else name)
    headers = "list | commit | instances # | passed over # | repos shared with this data #"
    return block(
        "benchmarks",
        table=table(headers, rows) if rows else "",
        unchecked=block("unchecked", names=", ".join(unchecked)) if unchecked else "",
    )


def licences_text(export: Export) -> str:
    """Return the rows by the licence of their repository."""
    counts = Counter(row.license for row in export.all_rows)
    if not counts:
        return ""
    rows = []
    for name, n in counts.most_common():
        rows.append((shown(name) if name else "not known", n))
    unknown = f"{counts['']:,} of {count(len(export.all_rows), 'row')}"
    return block("licences", unknown=unknown, table=table("licence | rows #", rows))
