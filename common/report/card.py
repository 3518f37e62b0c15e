"""The dataset card of export/: front matter in YAML, text from the template card.md."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import yaml

from common.config import METRICS
from common.files import BadFile
from common.report import exports
from common.report.exports import MAX_LENGTHS, SPLITS, Export, export_text, with_margin
from common.report.markdown import Markdown, fill
from common.report.report_page import Facts, second_look
from common.report.rows import CHARS_PER_TOKEN
from common.turns import DEFEAT_MIN, FINAL_MIN

CARD = Path("export", "README.md")
_OPPONENT_WORDS = {1: "the source data's own next turn (the reference)", 2: "the king"}
_HUB_SIZES = {1000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", math.inf: "100K<n<1M"}


def dataset_card(facts: Facts) -> str:
    """Return the card of what facts.export says. Raises BadFile if the card there is torn."""
    export = facts.export
    rows = export.all_rows
    command = "python report.py"
    if export.with_refined:
        command += " --with-refined"
    if export.max_tokens:
        command += f" --max-tokens {export.max_tokens}"
    if export.max_patch_chars is not None:
        command += " --distill"
    longest_reply = max((row.challenger_chars for row in rows), default=0)
    text = fill(
        "card.md",
        facts=facts,
        duel=facts.duel,
        export=export,
        rows=len(rows),
        final_min=FINAL_MIN,
        defeat_min=DEFEAT_MIN,
        export_text=export_text(export),
        command=Markdown(command),
        judged_against=_OPPONENT_WORDS[facts.mode],
        metrics=METRICS,
        look=second_look(facts),
        jaccard=exports.NEAR_DUPLICATE_JACCARD,
        validation_percent=exports.VALIDATION_PERCENT,
        checked=[entry for entry in facts.benchmarks if entry not in facts.unchecked],
        licences=Counter(row.license for row in rows),
        lost={length: export.lost_at(length) for length in MAX_LENGTHS},
        # Without a comma, for they stand in code.
        fit=Markdown(export.fitting_length),
        teacher_fit=Markdown(with_margin(export.teacher_tokens)),
        reply_fit=Markdown(with_margin(round(longest_reply / CHARS_PER_TOKEN))),
    )
    return f"---\n{front_matter(export)}---\n\n{text}\n"


def front_matter(export: Export) -> str:
    """Return the card's YAML; a licence that the user stated in the card there is kept."""
    rows = len(export.all_rows)
    front = {
        **stated_licence(),
        "pretty_name": "Preferred single turns of a coding agent",
        "task_categories": ["text-generation"],
        "tags": ["code", "agent", "software-engineering", "sft", "dpo"],
        "size_categories": [next(name for most, name in _HUB_SIZES.items() if rows < most)],
    }
    configs = []
    for config in export.configs:
        names = {split: exports.file_name(config, split) for split in SPLITS}
        paths = [{"split": split, "path": name} for split, name in names.items()]
        paths = [place for place in paths if export.lines[place["path"]]]
        default = {"default": True} if config == "sft" else {}
        if paths:
            configs.append({"config_name": config, **default, "data_files": paths})
    if configs:
        front["configs"] = configs
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True)


def stated_licence() -> dict:
    """Return what the card there says under license, license_name and license_link."""
    text = CARD.read_text(encoding="utf-8-sig", errors="replace") if CARD.exists() else ""
    stated = {"license": "unknown"}
    if text.lstrip().startswith("---"):
        try:
            front = yaml.safe_load(text.lstrip()[3:].split("\n---")[0])
        except yaml.YAMLError as error:
            first_line = str(error).split("\n")[0]
            problem = f"cannot read its front matter ({first_line}): mend its first lines"
            raise BadFile(CARD, f"{problem}, or delete the file") from None
        for key, value in front.items() if isinstance(front, dict) else ():
            if str(key).startswith("license") and value:
                stated[key] = value
    return stated
