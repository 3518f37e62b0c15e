"""Read the labels that a person gave on turns.html, and compare the panel with them.

report/labels*.csv: stem, preferred, seconds, sha. `preferred` is the side that the person, who saw
neither names nor scores, held for the better next step; `sha` is that of the two replies, so that a
label of replies that have changed since is known as stale.
"""

from __future__ import annotations

import csv
import re
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.files import UserError, digest, is_safe_name, natural_key

COLUMNS = ["stem", "preferred", "seconds", "sha"]
# With DUEL_MODE=1 the reference stands in the king's place.
LABEL_SCORE = {"challenger": 100, "level": 50, "king": 0, "reference": 0}
PREFERRED = [*LABEL_SCORE, "skip"]
SHA_CHARS = 16
LEVEL = 0.9  # of the interval
SHARES = 10**10  # among which the interval's ends are looked for
MOST_DIFFERENCES = 5  # turns that are named


class Label(NamedTuple):
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
    differences: list[tuple[str, str, float]]  # stem, preferred, score


def label_sha(opponent: str, challenger: str) -> str:
    """Return what stands in the column `sha` of a label of these two replies."""
    return digest(opponent, challenger)[:SHA_CHARS]


def read_labels(folder: Path | str = "report") -> dict[str, Label]:
    """Return the labels of all report/labels*.csv by stem; of a turn labelled twice the last.

    Raises UserError that names the file, the line and what was expected.
    """
    found = {}
    for path in sorted(Path(folder).glob("labels*.csv"), key=lambda path: natural_key(path.stem)):
        try:
            rows = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
            header = [name.strip() for name in next(rows, [])]
            if header != COLUMNS:
                raise UserError(
                    f"{path}, line 1: expected the columns {','.join(COLUMNS)}, found "
                    f"{','.join(header)[:100]!r}.\n"
                    "Save the labels again from report/turns.html, or move the file out of report/."
                )
            for row in rows:
                cells = [cell.strip() for cell in row]
                if any(cells):
                    label = read_label(f"{path}, line {rows.line_num}", cells)
                    found[label.stem] = label
        except (UnicodeDecodeError, OSError) as error:
            raise UserError(f"{path}: expected a text file in UTF-8 ({error}).") from None
        except csv.Error as error:
            raise UserError(f"{path}, line {rows.line_num}: {error}.") from None
    return found


def read_label(place: str, cells: list[str]) -> Label:
    """Return the label of one row. Raises UserError."""
    if len(cells) != len(COLUMNS):
        raise UserError(f"{place}: expected {len(COLUMNS)} values ({','.join(COLUMNS)}).")
    stem, preferred, seconds, sha = cells
    for name, value, is_right, expected in (
        ("stem", stem, is_safe_name(stem), "the name of a turn"),
        ("preferred", preferred, preferred in PREFERRED, f"one of {', '.join(PREFERRED)}"),
        ("seconds", seconds, re.fullmatch(r"\d{1,15}(\.\d*)?", seconds), "a number from 0"),
        ("sha", sha, re.fullmatch(f"[0-9a-f]{{{SHA_CHARS}}}", sha), f"{SHA_CHARS} hex digits"),
    ):
        if not is_right:
            raise UserError(f"{place}: {name} is {value[:60]!r}; expected {expected}.")
    return Label(stem, preferred, float(seconds), sha)


def compare_labels(labels: dict[str, Label], turns: dict[str, dict]) -> Agreement:
    """Compare the panel with the labels.

    `turns` holds, by stem, every scored turn as {"sha", "bucket", "score", "by_judge"}.
    """
    now = [label for label in labels.values() if turns.get(label.stem, {}).get("sha") == label.sha]
    told = [label for label in now if label.preferred != "skip"]
    of_turn = [turns[label.stem] for label in told]
    said = [LABEL_SCORE[label.preferred] for label in told]
    final = [score for score, turn in zip(said, of_turn) if turn["bucket"] == "final"]
    not_worse = sum(score >= 50 for score in final)
    judges = {}
    for name in dict.fromkeys(name for turn in of_turn for name in turn["by_judge"]):
        judges[name] = correlation(said, [turn["by_judge"].get(name) for turn in of_turn])
    apart = []
    for label, score, turn in zip(told, said, of_turn):
        gap = abs(turn["score"] - score)
        if gap > 50:  # further than level is from either side
            difference = (label.stem, label.preferred, turn["score"])
            apart.append((-gap, natural_key(label.stem), difference))
    return Agreement(
        labels=len(told),
        skipped=len(now) - len(told),
        stale=len(labels) - len(now),
        final=len(final),
        not_worse=not_worse,
        interval=clopper_pearson(not_worse, len(final)),
        panel=correlation(said, [turn["score"] for turn in of_turn]),
        judges=judges,
        differences=[difference for *_, difference in sorted(apart)[:MOST_DIFFERENCES]],
    )


def correlation(said: list[float], scores: list[float | None]) -> float | None:
    """Return Spearman's rank correlation; pairs with None are passed over.

    None where fewer than three pairs are left, or one side never varies.
    """
    pairs = np.array([pair for pair in zip(said, scores) if pair[1] is not None], dtype=float)
    if len(pairs) < 3:
        return None
    # The sum of the signs against all others orders as ranks do, with equal values in the middle.
    ranks = np.sign(pairs[:, None] - pairs[None, :]).sum(axis=1)
    if not ranks.any(axis=0).all():
        return None
    return float(np.corrcoef(ranks[:, 0], ranks[:, 1])[0, 1])


def clopper_pearson(hits: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the exact interval of a share: `hits` of `count`; (0, 1) when count is 0."""
    tail = (1 - level) / 2
    shares = range(1, SHARES)
    draws = np.arange(1, count + 1)
    log_ways = np.cumsum([0, *np.log((count + 1 - draws) / draws)])  # logarithms: none overflows

    def at_most(most: int, share: int) -> float:
        """Return the chance of at most so many hits."""
        k = np.arange(most + 1)
        log_hit, log_miss = np.log([share / SHARES, 1 - share / SHARES])
        return np.exp(log_ways[: most + 1] + k * log_hit + (count - k) * log_miss).sum()

    low = 0
    if hits > 0:  # the share at which this many hits or more are as rare as the tail
        low = bisect_left(shares, tail, key=lambda share: 1 - at_most(hits - 1, share))
    high = SHARES
    if hits < count:  # the share at which this few hits or fewer are as rare as the tail
        high = bisect_left(shares, -tail, key=lambda share: -at_most(hits, share))
    return low / SHARES, high / SHARES
