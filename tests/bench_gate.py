"""How often the gate errs, and what a second look finds; all simulated.

    python -m tests.bench_gate [--duels N]

panel.py says how judges are simulated. Every table has its baseline: a plain gate (each turn judged
once in one order, turns counted as independent, percentile bootstrap), the readable turns alone,
no second look.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np

from common.config import METRICS, check_config
from common.duel.statistics import agreement, habits
from common.turns import FINAL_MIN
from tests import panel
from tests.malformed import malformed_verdicts
from validate import gate, parse_verdict

DESIGNS = ((60, 1), (60, 10), (20, 20), (10, 10))  # instances, turns of each
BAND = (73, 90)
LOST = 0.1  # of the turns
ALPHA = 0.05


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--duels", type=int, default=1000, help="simulated duels per cell")
    flags.add_argument("--resamples", type=int, default=400)
    chosen = flags.parse_args(argv)
    config = check_config({"duel": {"resamples": chosen.resamples, "alpha": ALPHA}})
    random = np.random.default_rng(20240901)
    started = time.monotonic()
    judges(random)
    equals(random, chosen.duels, config)
    skewed(random, chosen.duels, config)
    true_wins(random, chosen.duels // 2, config)
    second_looks(random)
    speed(random)
    wrong = sum(parse_verdict(text) is not None for text in malformed_verdicts(10_000))
    print(f"\n10,000 malformed verdicts: {wrong} read as something.")
    print(f"({time.monotonic() - started:.0f} s in all)")


# ------------------------------------------------------------------------------------------ judges


def judges(random: np.random.Generator) -> None:
    """Print what the simulated judges are like, over 4,000 turns."""
    print("The judges: calls that are the same in both orders, Krippendorff's alpha, sd of scores")
    print(f"{'':>8} {'same':>6} {'alpha':>7} {'turn sd':>8}")
    for name, kind in panel.KINDS.items():
        turns = panel.make_turns(random, [10] * 400)
        points = panel.judged(random, turns, kind)
        same = np.mean([habits(points[:, judge])["position_consistency"] for judge in range(3)])
        alpha = agreement(points)
        print(
            f"{name:>8} {same:>6.2f} {alpha:>7.2f} {panel.scores(points).std():>8.1f}", flush=True
        )


# -------------------------------------------------------------------------------------------- gate


def verdict(points: np.ndarray, instances: np.ndarray, config) -> dict:
    """Return the gate's verdict by the whole panel."""
    return gate(panel.table_of(points, instances), list("abc"), config)[""]


def lose_worst(random: np.random.Generator, points: np.ndarray, where: str) -> np.ndarray:
    """Return the half-points with a verdict of LOST of the turns unread.

    "worst turns": any verdict of those that score least; "worst verdicts": of any turns the one
    that is worst for the challenger.
    """
    count = len(points)
    lost = points.copy().reshape(count, -1, points.shape[3])
    each = lost.sum(axis=2, dtype=int)
    number = round(LOST * count)
    if where == "worst turns":
        turns = np.argsort(each.sum(axis=1) + 1e-3 * random.random(count))[:number]
        places = random.integers(0, each.shape[1], number)
    else:
        turns = random.permutation(count)[:number]
        places = (each[turns] + 1e-3 * random.random(each[turns].shape)).argmin(axis=1)
    lost[turns, places] = -1
    return lost.reshape(points.shape)


def variants(random: np.random.Generator, turns: panel.Turns, points: np.ndarray) -> dict:
    """Return (half-points, instances) of the same duel as the gate gets it in each situation."""
    groups = turns.instances
    worst_turns = lose_worst(random, points, "worst turns")
    worst_verdicts = lose_worst(random, points, "worst verdicts")
    complete = (worst_turns >= 0).all(axis=(1, 2, 3))
    return {
        "all": (points, groups),
        "lost": (worst_turns, groups),
        "lost*": (worst_verdicts, groups),
        "left out": (points[complete], groups[complete]),
    }


def plain_gate(random: np.random.Generator, points: np.ndarray, resamples: int) -> bool:
    """Tell whether a plain gate accepts: one judge, challenger second, turns as if independent."""
    scores = panel.scores(points[:, :1, 1:])
    drawn = scores[random.integers(0, len(scores), (resamples, len(scores)))].mean(axis=1)
    return bool(np.quantile(drawn, ALPHA) > 50 and 2 * (scores.mean() - 50) >= 2)


def equals(random: np.random.Generator, duels: int, config) -> None:
    """Print how often a challenger that is no better is accepted."""
    noise = 100 * 1.96 * np.sqrt(ALPHA * (1 - ALPHA) / duels)
    print(f"\nEquals accepted, % of {duels} duels (alpha {ALPHA:.0%}; own error +-{noise:.1f})")
    print("lost: the worst tenth of the turns lose a verdict; lost*: any tenth the worst verdict;")
    print("left out: such turns are left out, as they were once; plain: a plain gate")
    names = ("all", "lost", "lost*", "left out", "plain")
    print(f"{'':>18}" + "".join(f"{name:>14}" for name in names))
    for kind in ("typical", "noisy"):
        for instances, size in DESIGNS:
            accepted = dict.fromkeys(names, 0)
            for _ in range(duels):
                turns = panel.make_turns(random, [size] * instances)
                points = panel.judged(random, turns, panel.KINDS[kind])
                for name, (kept, groups) in variants(random, turns, points).items():
                    accepted[name] += verdict(kept, groups, config)["accepted"] is True
                accepted["plain"] += plain_gate(random, points, 200)
            print_shares(f"{kind} {instances} x {size}", accepted, duels)


def skewed(random: np.random.Generator, duels: int, config) -> None:
    """Print what the bound does not hold against: rare large losses, unequal sizes."""
    print(f"\nEquals by mean with rare large losses of instances, % of {duels} duels (no claim)")
    base = panel.make_turns(np.random.default_rng(1), [1] * 60_000, 0.0, skewed=True)
    wide = panel.TYPICAL
    low, high = -0.5, 0.5
    for _ in range(25):  # the lead at which such turns are even by their mean
        middle = (low + high) / 2
        moved = panel.Turns(base.instances, base.worth + middle * panel.WEIGHTS)
        if panel.quality(moved, wide).mean() < 50:
            low = middle
        else:
            high = middle
    zipf = [max(1, round(120 / rank)) for rank in range(1, 61)]
    for name, sizes in (("60 x 10", [10] * 60), ("60, Zipf", zipf)):
        accepted = 0
        for _ in range(duels):
            turns = panel.make_turns(random, sizes, low, skewed=True)
            points = panel.judged(random, turns, wide)
            accepted += verdict(points, turns.instances, config)["accepted"] is True
        print_shares(f"typical {name}", {"all": accepted}, duels)


def true_wins(random: np.random.Generator, duels: int, config) -> None:
    """Print how often a challenger that scores 53 is accepted."""
    print(f"\nA true 53 over 60 x 10 accepted, % of {duels} duels")
    print("(best: a z test at 5 % that knew the standard error of all)")
    names = ("all", "lost", "left out")
    print(f"{'':>18}" + "".join(f"{name:>14}" for name in (*names, "best")))
    for kind in ("typical", "noisy"):
        lead = panel.lead_for(53, panel.KINDS[kind])
        accepted = dict.fromkeys(names, 0)
        error = 0.0
        for _ in range(duels):
            turns = panel.make_turns(random, [10] * 60, lead)
            points = panel.judged(random, turns, panel.KINDS[kind])
            found = variants(random, turns, points)
            for name in names:
                result = verdict(*found[name], config)
                accepted[name] += result["accepted"] is True
                if name == "all":
                    error += result["se"] / duels
        best = 0.5 * (1 + math.erf((3 / error - 1.645) / math.sqrt(2)))
        print_shares(kind, {**accepted, "best": best * duels}, duels)


def print_shares(label: str, counts: dict, of: int) -> None:
    print(f"{label:>18}" + "".join(f"{100 * n / of:>14.1f}" for n in counts.values()), flush=True)


# ----------------------------------------------------------------------------------- second looks


def second_looks(random: np.random.Generator) -> None:
    """Print what lands in final/ by each policy, 40,000 turns at a mean of 58."""
    print(f"\nWhat lands in final/ at mean 58; a second look at scores of {BAND[0]} to {BAND[1]}")
    print("(quality: what a judge of this kind not met yet would score on average)")
    print(f"{'':>46} {'calls':>6} {'kept':>6} {'under 60':>9} {'under 50':>9} {'quality':>8}")
    for kind in ("typical", "noisy"):
        judges_of = panel.KINDS[kind]
        turns = panel.make_turns(random, [10] * 4000, panel.lead_for(58, judges_of))
        seen = panel.views(random, turns, judges_of)
        first = panel.ask(random, seen, judges_of)
        same = panel.ask(random, seen, judges_of)
        others = panel.judged(random, turns, judges_of)
        quality = panel.quality(turns, judges_of)
        band = in_band(first)
        again = 6 * band.mean()
        policies = {
            "six verdicts": (6.0, is_kept(first)),
            "band again, same panel": (6 + again, confirmed(first, same, band)),
            "band again, three others": (6 + again, confirmed(first, others, band)),
        }
        for name, (calls, kept) in policies.items():
            print(
                f"{kind + ': ' + name:>46} {calls:>6.2f} {kept.mean():>6.1%} "
                f"{(quality[kept] < 60).mean():>9.2%} {(quality[kept] < 50).mean():>9.2%} "
                f"{quality[kept].mean():>8.1f}",
                flush=True,
            )


def in_band(points: np.ndarray) -> np.ndarray:
    won = 100 * points.sum(axis=(1, 2, 3), dtype=int)
    most = 2 * points[0].size
    return (BAND[0] * most <= won) & (won <= BAND[1] * most)


def confirmed(first: np.ndarray, again: np.ndarray, band: np.ndarray) -> np.ndarray:
    """Tell which turns are kept: those in the band by all half-points, the others by the first."""
    both = np.concatenate([first, again], axis=1)
    return np.where(band, is_kept(both), is_kept(first))


def is_kept(points: np.ndarray) -> np.ndarray:
    """Tell which turns reach final/, in whole half-points."""
    return 100 * points.sum(axis=(1, 2, 3), dtype=int) >= FINAL_MIN * 2 * points[0].size


def speed(random: np.random.Generator) -> None:
    """Print what the gate takes at its largest: four panels from one draw."""
    points = random.integers(0, 3, (20_000, 3, 2, len(METRICS))).astype(np.int8)
    table = panel.table_of(points)
    started = time.process_time()
    gate(table, list("abc"), check_config({}))
    took_s = time.process_time() - started
    print(f"\nThe gate over 20,000 instances, four panels, 10,000 resamples: {took_s:.1f} s of CPU")


if __name__ == "__main__":
    main()
