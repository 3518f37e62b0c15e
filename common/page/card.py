"""The dataset card of export/: front matter by huggingface_hub, sentences from card.md."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from common.files import BadFile
from common.page import figures
from common.page.figures import Export, Facts
from common.page.markdown import NOTHING, blocks, count, fill, number, shown
from common.page.overview import mean_score_words, model_words
from common.turns import DEFEAT_MIN, FINAL_MIN, METRICS

CARD = Path("export", "README.md")

_OPPONENT_WORDS = {1: "the source data's own next turn (the reference)", 2: "the king"}
_REFINED_WORDS = " (the refined turns included)"
_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))  # of the Hub


def dataset_card(facts: Facts) -> str:
    """Return the card of what facts.export says. Raises BadFile if the card there is torn."""
    return f"---\n{front_matter(facts.export)}\n---\n\n{card_text(facts)}\n"


def front_matter(export: Export) -> str:
    """Return the card's YAML; a licence that the user stated in the card there is kept."""
    data = DatasetCardData(
        **stated_licence(),
        pretty_name="Preferred single turns of a coding agent",
        task_categories=["text-generation"],
        tags=["code", "agent", "software-engineering", "sft", "dpo"],
        size_categories=[size_category(export)],
        configs=configs(export) or None,
    )
    return data.to_yaml()


def stated_licence() -> dict:
    """Return what the card there says under license, license_name and license_link."""
    try:
        text = CARD.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        text = ""
    if not text.startswith("---"):
        return {"license": "unknown"}
    try:
        front = DatasetCard(text).data.to_dict()
    except Exception as error:  # of the YAML parser, which this project does not import
        first_line = str(error).split("\n")[0]
        raise BadFile(CARD, f"cannot read its front matter ({first_line})") from None
    stated = {key: value for key, value in front.items() if key.startswith("license")}
    return {"license": "unknown", **stated}


def size_category(export: Export) -> str:
    """Return the Hub's name for the number of rows."""
    rows = export.rows["sft-train.jsonl"] + export.rows["sft-validation.jsonl"]
    for limit, name in _SIZES:
        if rows < limit:
            return name
    return "100K<n<1M"


def configs(export: Export) -> list[dict]:
    """Return which files make which configuration and split."""
    found = []
    for kind in ("sft", "dpo"):
        files = []
        for split in ("train", "validation"):
            name = f"{kind}-{split}.jsonl"
            if export.rows[name]:
                files.append({"split": split, "path": name})
        if files:
            default = {"default": True} if kind == "sft" else {}
            found.append({"config_name": kind, **default, "data_files": files})
    return found


def card_text(facts: Facts) -> str:
    """Return the card below its front matter."""
    export = facts.export
    files = [f"- `{name}`: {count(n, 'row')}" for name, n in export.rows.items()]
    if not files:
        files = ["No turn has reached the threshold yet: there is no data file."]
    return fill(
        blocks("card.md")["card"],
        files="\n".join(files),
        dataset=shown(figures.dataset_name(facts.plan)),
        revision=shown(facts.plan.get("revision") or "not known"),
        seed=shown(facts.plan.get("seed", "not known")),
        opponent=_OPPONENT_WORDS[facts.mode],
        metrics=", ".join(METRICS),
        kept_from=export.kept_from,
        refined=_REFINED_WORDS if export.with_refined else "",
        held_back=f"{export.held_back:,}",
        jaccard=f"{export.jaccard:g}",
        duplicates=f"{export.duplicates:,}",
        validation=export.validation_percent,
        train_repos=f"{export.repos['train']:,}",
        validation_repos=f"{export.repos['validation']:,}",
        king=model_words(figures.side_metas(facts.rows, "king")),
        challenger=model_words(figures.side_metas(facts.rows, "challenger")),
        judges=", ".join(map(shown, facts.judges)),
        judged=f"{len(facts.parsed):,}",
        mean_score=mean_score_words(facts.duel),
        verdict=figures.verdict_word(facts.duel),
        agreement=agreement_words(facts.duel.get("agreement") or {}),
        final_min=FINAL_MIN,
        defeat_min=DEFEAT_MIN,
        challenger_hits=hit_words(facts, "challenger"),
        king_hits=hit_words(facts, "king"),
    )


def agreement_words(agreement: dict) -> str:
    """Return the judges' agreement with its name."""
    return f"{shown(agreement.get('name') or NOTHING)} {number(agreement.get('value'), 2)}"


def hit_words(facts: Facts, side: str) -> str:
    """Return how many of a side's audited replies have a hit."""
    audit = figures.audit_of(facts.rows, side)
    return f"{audit.hit:,} of {audit.audited:,}"


def card_includes_refined() -> bool:
    """Tell whether the card that lies in export/ speaks of refined turns too."""
    try:
        return _REFINED_WORDS in CARD.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
