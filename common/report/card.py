"""The dataset card of export/: front matter in YAML, text from the template card.md."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import yaml

from common.config import METRICS
from common.files import BadFile
from common.report import exports
from common.report.markdown import fill
from common.report.report_page import Facts
from common.report.rows import CHARS_PER_TOKEN
from common.turns import DEFEAT_MIN, FINAL_MIN

CARD = Path("export", "README.md")


def dataset_card(facts: Facts) -> str:
    """Return the card of what facts.export says. Raises BadFile if the card there is torn."""
    export = facts.export
    rows = export.all_rows
    front = {
        **stated_licence(),
        "pretty_name": "Preferred single turns of a coding agent",
        "task_categories": ["text-generation"],
        "tags": ["code", "agent", "software-engineering", "sft", "dpo"],
    }
    if rows:
        front["configs"] = []
    for config in export.configs if rows else ():
        names = sorted(name for name in export.lines if name.startswith(f"{config}-"))
        files = [{"split": name[len(config) + 1 : -len(".jsonl")], "path": name} for name in names]
        default = {"default": True} if config == "sft" else {}
        front["configs"].append({"config_name": config, **default, "data_files": files})
    longest_reply = max((row.challenger_chars for row in rows), default=0)
    text = fill(
        "card.md",
        facts=facts,
        duel=facts.duel,
        export=export,
        rows=len(rows),
        final_min=FINAL_MIN,
        defeat_min=DEFEAT_MIN,
        export_text=exports.export_text(export),
        metrics=METRICS,
        jaccard=exports.NEAR_DUPLICATE_JACCARD,
        validation_percent=exports.VALIDATION_PERCENT,
        licences=Counter(row.license for row in rows),
        lost={length: export.lost_at(length) for length in exports.MAX_LENGTHS},
        teacher_fit=exports.with_margin(export.teacher_tokens),
        reply_fit=exports.with_margin(round(longest_reply / CHARS_PER_TOKEN)),
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{text}\n"


def stated_licence() -> dict:
    """Return what the user wrote into the card there under license, license_name, license_link."""
    text = CARD.read_text(encoding="utf-8-sig", errors="replace") if CARD.exists() else ""
    try:
        front = yaml.safe_load(text.split("\n---")[0]) if text.startswith("---") else {}
    except (yaml.YAMLError, ValueError) as error:  # the latter of an impossible date
        problem = f"cannot read its front matter ({str(error).splitlines()[0]})"
        raise BadFile(CARD, f"{problem}: mend its first lines, or delete the file") from None
    front = front if isinstance(front, dict) else {}
    stated = {key: front[key] for key in front if str(key).startswith("license") and front[key]}
    return {"license": "unknown", **stated}
