"""Read the labels that a person gave on turns.html, and compare the panel with them.

report/labels*.csv: stem, preferred, seconds, sha. `preferred` is the side that the person, who saw
neither names nor scores, held for the better next step; `sha` is that of the two replies, so that a
label of replies that have changed since is known as stale.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from common.files import UserError, digest, natural_key

HEADER = "stem,preferred,seconds,sha"
# With DUEL_MODE=1 the reference stands in the king's place.
LABEL_SCORE = {"challenger": 100, "level": 50, "king": 0, "reference": 0}
PREFERRED = [*LABEL_SCORE, "skip"]
SHA_CHARS = 16
LABEL = re.compile(
    rf"(?P<stem>[A-Za-z0-9_-][A-Za-z0-9._-]*),(?P<preferred>{'|'.join(PREFERRED)})"
    rf",\d+(\.\d*)?,(?P<sha>[0-9a-f]{{{SHA_CHARS}}})"
)
Z_90 = 1.6449  # standard errors from the middle to each end of a 90 % interval
MOST_DIFFERENCES = 5  # turns that are named


def label_sha(opponent: str, challenger: str) -> str:
    """Return what stands in the column `sha` of a label of these two replies."""
    return digest(opponent, challenger)[:SHA_CHARS]


def read_labels(folder: Path | str = "report") -> dict[str, tuple[str, str]]:
    """Return (preferred, sha) by stem of all report/labels*.csv; the last of a turn counts.

    Raises UserError that names the file, the line and what was expected.
    """
    found = {}
    for path in sorted(Path(folder).glob("labels*.csv"), key=lambda path: natural_key(path.stem)):
        try:
            text = re.sub(r"[ \t]*,[ \t]*", ",", path.read_text(encoding="utf-8-sig"))
        except (UnicodeDecodeError, OSError) as error:
            raise UserError(f"{path}: expected a text file in UTF-8 ({error}).") from None
        header, *lines = [line.strip() for line in text.splitlines()] or [""]
        if header != HEADER:
            raise UserError(
                f"{path}, line 1: expected the columns {HEADER}, found {header[:100]!r}.\n"
                "Save the labels again from report/turns.html, or move the file out of report/."
            )
        for number, line in enumerate(lines, 2):
            label = LABEL.fullmatch(line)
            if label:
                found[label["stem"]] = (label["preferred"], label["sha"])
            elif line.strip(","):
                raise UserError(
                    f"{path}, line {number}: found {line[:100]!r}; expected a turn's name, one of "
                    f"{', '.join(PREFERRED)}, a number from 0, and {SHA_CHARS} hex digits."
                )
    return found


def compare_labels(labels: dict[str, tuple[str, str]], rows: list) -> dict:
    """Return how far the panel and the person agree, as report.md names it.

    Labels of replies that have changed since, or whose turn is gone, are `stale`. `correlations`
    are Spearman's, NaN for fewer than three turns or where one side never varies; `differences` are
    the turns on which the two are furthest apart.
    """
    import pandas  # takes half a second, and most runs have no label

    said = {}  # by row what the person said, as a score
    skipped = 0
    for row in rows:
        preferred, sha = labels.get(row.stem, ("", ""))
        if not row.bucket or sha != row.label_sha:
            continue
        if preferred == "skip":
            skipped += 1
        else:
            said[row] = LABEL_SCORE[preferred]
    final = [score for row, score in said.items() if row.bucket == "final"]
    not_worse = sum(score >= 50 for score in final)
    scores = [{"said": said[row], "the panel": row.score, **row.by_judge} for row in said]
    table = pandas.DataFrame(scores, columns=None if scores else ["said"], dtype=float)
    apart = []
    for row, score in said.items():
        if abs(row.score - score) > 50:  # further than level is from either side
            apart.append({"row": row, "preferred": labels[row.stem][0]})
    apart.sort(key=lambda turn: -abs(turn["row"].score - said[turn["row"]]))
    return {
        "labels": len(said),
        "skipped": skipped,
        "stale": len(labels) - len(said) - skipped,
        "final": len(final),  # labelled turns in final/
        "not_worse": not_worse,  # of these, the challenger's reply is better or level
        "share": not_worse / len(final) if final else math.nan,
        "interval": wilson(not_worse, len(final)),
        "correlations": table.corr("spearman", min_periods=3)["said"].drop("said").to_dict(),
        "differences": apart[:MOST_DIFFERENCES],
    }


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return Wilson's 90 % interval of a share: `hits` of `count`; (0, 1) when count is 0."""
    if not count:
        return 0.0, 1.0
    share = hits / count
    spread = Z_90**2 / count
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4)
    middle = share + spread / 2
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)
