"""Read the labels that a person gave on turns.html, and compare the panel with them.

report/labels*.csv: `preferred` is the side that the person, who saw neither names nor scores, held
for the better next step; `sha` is of the two replies: it tells when they have changed since.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from common.files import UserError, digest, natural_key

HEADER = "stem,preferred,seconds,sha"
# With DUEL_MODE=1 the reference stands in the king's place.
LABEL_SCORE = {"challenger": 100, "level": 50, "king": 0, "reference": 0}
CHOICES = "|".join([*LABEL_SCORE, "skip"])
LABEL = re.compile(rf"([\w-][\w.-]*),({CHOICES}),\d+(?:\.\d*)?,([0-9a-f]{{16}})", re.ASCII)
A_LABEL = f"a turn's name, one of {CHOICES.replace('|', ', ')}, a number from 0, and 16 hex digits"
Z_90 = 1.6449  # standard errors from the middle to each end of a 90 % interval
MOST_DIFFERENCES = 5  # turns that are named


def label_sha(opponent: str, challenger: str) -> str:
    """Return what stands in the column `sha` of a label of these two replies."""
    return digest(opponent, challenger)[:16]


def read_labels(folder: Path | str = "report") -> dict[str, tuple[str, str]]:
    """Return (preferred, sha) by stem of all report/labels*.csv; the last of a turn counts."""
    found = {}
    for path in sorted(Path(folder).glob("labels*.csv"), key=lambda path: natural_key(path.stem)):
        text = path.read_text(encoding="utf-8-sig", errors="replace") or "\n"
        for number, line in enumerate(text.splitlines(), 1):
            line = re.sub(r"\s*,\s*", ",", line.strip())
            label = LABEL.fullmatch(line)
            if label:
                found[label[1]] = (label[2], label[3])
            elif line != HEADER and (number == 1 or line.strip(",")):
                expected = A_LABEL if number > 1 else f"the columns {HEADER}"
                raise UserError(
                    f"{path}, line {number}: expected {expected}, found {line[:100]!r}.\n"
                    "Save the labels again from report/turns.html, or move the file out of report/."
                )
    return found


def compare_labels(labels: dict[str, tuple[str, str]], rows: list) -> dict:
    """Return how far the panel and the person agree; `stale` are labels of other texts."""
    found = {"given": len(labels), "labels": 0, "skipped": 0, "final": 0, "not_worse": 0}
    apart = []
    for row in rows:
        preferred, sha = labels.get(row.stem, ("", None))
        if not row.bucket or sha != row.label_sha:
            continue
        if preferred == "skip":
            found["skipped"] += 1
            continue
        said = LABEL_SCORE[preferred]
        found["labels"] += 1
        if row.bucket == "final":
            found["final"] += 1
            found["not_worse"] += said >= 50  # the challenger's reply is better or level
        gap = abs(row.score - said)
        if gap > 50:  # further than level is from either side
            apart.append({"row": row, "preferred": preferred, "gap": gap})
    apart.sort(key=lambda turn: -turn["gap"])
    found["stale"] = len(labels) - found["labels"] - found["skipped"]
    found["differences"] = apart[:MOST_DIFFERENCES]
    return {**found, **share_of(found["not_worse"], found["final"])}


def share_of(hits: int, count: int) -> dict:
    """Return a share, `hits` of `count`, with Wilson's 90 % interval; NaN of 0 to 1 for none."""
    if not count:
        return {"hits": 0, "share": math.nan, "interval": (0.0, 1.0)}
    share = hits / count
    spread = Z_90**2 / count
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4)
    middle = share + spread / 2
    interval = ((middle - half) / (1 + spread), (middle + half) / (1 + spread))
    return {"hits": hits, "share": share, "interval": interval}
