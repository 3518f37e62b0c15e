"""Read the labels that a person gave on turns.html, and compare the panel with them.

report/labels*.csv: stem, preferred, seconds, sha. `preferred` is the side that the person, who saw
neither names nor scores, held for the better next step; `sha` is that of the two replies, so that a
label of replies that have changed since is known as stale.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.files import UserError, digest, is_safe_name, natural_key

COLUMNS = ("stem", "preferred", "seconds", "sha")
PREFERRED = (
    "challenger",
    "king",
    "reference",
    "level",
    "skip",
)  # reference: king, with DUEL_MODE=1
LABEL_SCORE = {"challenger": 100, "level": 50, "king": 0, "reference": 0}
SHA_CHARS = 16
LEVEL = 0.9  # of the interval
MOST_DIFFERENCES = 5  # turns that are named


@dataclass
class Label:
    """What a person said of one turn."""

    stem: str
    preferred: str
    seconds: float
    sha: str


@dataclass
class Agreement:
    """How far the panel and the person agree."""

    labels: int  # that speak of replies as they are now; skipped ones are not among them
    skipped: int
    stale: int  # the replies have changed since, or the turn is gone
    final: int  # labelled turns in final/
    not_worse: int  # of these, the challenger's reply is better or level
    interval: tuple[float, float]  # of the share not_worse / final
    panel: float | None  # correlation of the panel's score with the labels; None: cannot be told
    judges: dict[str, float | None]
    differences: list[tuple[str, str, float]] = field(
        default_factory=list
    )  # stem, preferred, score


def label_sha(opponent: str, challenger: str) -> str:
    """Return what stands in the column `sha` of a label of these two replies."""
    return digest(opponent, challenger)[:SHA_CHARS]


def read_labels(folder: Path | str = "report") -> dict[str, Label]:
    """Return the labels of all report/labels*.csv by stem; of a turn labelled twice the last.

    Raises UserError that names the file, the line and what was expected.
    """
    found = {}
    paths = Path(folder).glob("labels*.csv")
    for path in sorted(paths, key=lambda path: natural_key(path.stem)):
        for label in read_label_file(path):
            found[label.stem] = label
    return found


def read_label_file(path: Path) -> list[Label]:
    """Return the labels of one file."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: expected a text file in UTF-8 ({error}).") from None
    rows = csv.reader(lines)
    header = [name.strip() for name in next(rows, [])]
    if header != list(COLUMNS):
        raise UserError(
            f"{path}, line 1: expected the columns {','.join(COLUMNS)}, found "
            f"{','.join(header)[:100]!r}.\n"
            "Save the labels again from report/turns.html, or move the file out of report/."
        )
    labels = []
    try:
        for row in rows:
            if any(cell.strip() for cell in row):
                labels.append(read_label(path, rows.line_num, [cell.strip() for cell in row]))
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}.") from None
    return labels


def read_label(path: Path, line: int, row: list[str]) -> Label:
    """Return the label of one row."""
    place = f"{path}, line {line}"
    if len(row) != len(COLUMNS):
        raise UserError(
            f"{place}: expected {len(COLUMNS)} values ({','.join(COLUMNS)}), not {len(row)}."
        )
    stem, preferred, seconds_text, sha = row
    if not is_safe_name(stem):
        raise UserError(f"{place}: stem {stem[:60]!r} is no name of a turn.")
    if preferred not in PREFERRED:
        raise UserError(
            f"{place}: preferred is {preferred[:60]!r}; expected one of {', '.join(PREFERRED)}."
        )
    try:
        seconds = float(seconds_text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"{place}: seconds is {seconds_text[:60]!r}; expected a number from 0.")
    if len(sha) != SHA_CHARS or not set(sha) <= set("0123456789abcdef"):
        raise UserError(f"{place}: sha is {sha[:60]!r}; expected {SHA_CHARS} hex digits.")
    return Label(stem, preferred, seconds, sha)


# --------------------------------------------------------------------------------------- compare


def compare_labels(labels: dict[str, Label], turns: dict[str, dict]) -> Agreement:
    """Compare the panel with the labels.

    `turns` holds, by stem, every scored turn as {"sha", "bucket", "score", "by_judge"}.
    """
    current = []
    skipped = 0
    stale = 0
    for label in labels.values():
        turn = turns.get(label.stem)
        if turn is None or turn["sha"] != label.sha:
            stale += 1
        elif label.preferred == "skip":
            skipped += 1
        else:
            current.append((label, turn))

    in_final = [label for label, turn in current if turn["bucket"] == "final"]
    not_worse = sum(LABEL_SCORE[label.preferred] >= 50 for label in in_final)
    said = [LABEL_SCORE[label.preferred] for label, _ in current]
    judges = {}
    for name in dict.fromkeys(name for _, turn in current for name in turn["by_judge"]):
        judges[name] = correlation(said, [turn["by_judge"].get(name) for _, turn in current])

    def gap(pair: tuple[Label, dict]) -> float:
        label, turn = pair
        return abs(turn["score"] - LABEL_SCORE[label.preferred])

    apart = [pair for pair in current if gap(pair) > 50]  # further than level is from either side
    apart.sort(key=lambda pair: (-gap(pair), natural_key(pair[0].stem)))
    return Agreement(
        labels=len(current),
        skipped=skipped,
        stale=stale,
        final=len(in_final),
        not_worse=not_worse,
        interval=clopper_pearson(not_worse, len(in_final)),
        panel=correlation(said, [turn["score"] for _, turn in current]),
        judges=judges,
        differences=[
            (label.stem, label.preferred, turn["score"]) for label, turn in apart[:MOST_DIFFERENCES]
        ],
    )


def correlation(said: list[float], scores: list[float | None]) -> float | None:
    """Return Spearman's rank correlation; pairs with None are passed over.

    None where fewer than three pairs are left, or one side never varies.
    """
    pairs = [pair for pair in zip(said, scores, strict=True) if pair[1] is not None]
    if len(pairs) < 3:
        return None
    first, second = (ranks([pair[side] for pair in pairs]) for side in (0, 1))
    if first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def ranks(values: list[float]) -> np.ndarray:
    """Return each value's rank; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def clopper_pearson(hits: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the exact interval of a share: `hits` of `count`; (0, 1) when count is 0."""
    tail = (1 - level) / 2
    low = 0.0
    high = 1.0
    if hits > 0:  # the share at which this many hits or more are as rare as the tail
        low = find_share(lambda share: 1 - binomial_cdf(hits - 1, count, share) >= tail)
    if hits < count:  # the share at which this few hits or fewer are as rare as the tail
        high = find_share(lambda share: binomial_cdf(hits, count, share) <= tail)
    return low, high


def find_share(reached) -> float:
    """Return by bisection the least share from which on `reached(share)` is true."""
    low = 0.0
    high = 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if reached(middle):
            high = middle
        else:
            low = middle
    return high


def binomial_cdf(hits: int, count: int, share: float) -> float:
    """Return the chance of at most `hits` in `count` draws; logarithms, so that none overflows."""
    if share in (0.0, 1.0):
        return float(share == 0.0 or hits >= count)
    total = 0.0
    for k in range(hits + 1):
        ways = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        total += math.exp(ways + k * math.log(share) + (count - k) * math.log1p(-share))
    return min(total, 1.0)
