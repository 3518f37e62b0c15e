"""How often the gate is wrong: duels between equals, a true win, and 10,000 malformed verdicts.

    python -m tests.bench_gate [--duels N]

duels.py says how a duel is simulated; the power is listed for smaller and larger spreads too. The
baseline is a plain gate: each turn judged once in fixed order, turns counted as independent,
percentile bootstrap.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np

from tests.duels import malformed_verdicts, simulated_duel
from validate import bootstrap_lcb, parse_verdict

DESIGNS = ((60, 1), (60, 10), (20, 20), (10, 10), (5, 10))  # instances, turns of each
INSTANCE_EFFECT = 0.6  # against a turn effect of 0.8: a third of what varies between turns
SPREADS = ((0.2, 0.0), (0.4, 0.0), (0.6, 0.0), (0.8, 0.0), (1.2, 0.0), (0.4, 0.3), (0.8, 0.6))
ALPHA = 0.05
WIN_MARGIN = 2.0
PULL = 0.15


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--duels", type=int, default=2000, help="simulated duels per cell")
    flags.add_argument("--resamples", type=int, default=1000)
    chosen = flags.parse_args(argv)
    started = time.monotonic()
    random = np.random.default_rng(20240901)
    equals(random, chosen.duels, chosen.resamples)
    true_wins(random, chosen.duels // 2, chosen.resamples)
    wrong = sum(parse_verdict(text) is not None for text in malformed_verdicts(10_000))
    print(f"\n10,000 malformed verdicts: {wrong} read as something.")
    print(f"({time.monotonic() - started:.0f} s in all)")


def equals(random: np.random.Generator, duels: int, resamples: int) -> None:
    """Print how often a challenger that is no better is accepted."""
    noise = 100 * 1.96 * np.sqrt(ALPHA * (1 - ALPHA) / duels)
    print(f"Equals accepted, % of {duels} duels (alpha {ALPHA:.0%}; the simulation's own error is")
    print(f"+-{noise:.1f})")
    print(
        f"{'instances x turns':>18} {'effect':>7} {'turn sd':>8} {'bound > 0':>10} "
        f"{'whole gate':>11} {'baseline':>9} {'baseline, 15 % pull':>20}"
    )
    for instances, turns in DESIGNS:
        for effect in (0.0, INSTANCE_EFFECT):
            bounds = 0
            gates = 0
            baseline = {0.0: 0, PULL: 0}
            sd = 0.0
            for seed in range(duels):
                deltas, groups = simulated_duel(random, instances, turns, effect, 50.0)
                bound, gate = accepted(deltas, groups, seed, resamples)
                bounds += bound
                gates += gate
                sd += 100 * deltas.std() / duels
                if seed % 4:  # a quarter is enough for the baseline
                    continue
                for pull in baseline:
                    deltas, _ = simulated_duel(
                        random, instances, turns, effect, 50.0, both_orders=False, pull=pull
                    )
                    baseline[pull] += 4 * baseline_accepted(deltas, random, 400)
            share = 100 / duels
            print(
                f"{f'{instances} x {turns}':>18} {effect:>7} {sd:>8.1f} {share * bounds:>10.1f} "
                f"{share * gates:>11.1f} {share * baseline[0.0]:>9.1f} "
                f"{share * baseline[PULL]:>20.1f}",
                flush=True,
            )


def true_wins(random: np.random.Generator, duels: int, resamples: int) -> None:
    """Print how often a challenger that wins 53 % is accepted."""
    print(f"\nA true 53 % over 60 x 10 accepted, % of {duels} duels")
    print("(best possible: a z test at 5 % that knew the standard error)")
    print(
        f"{'turn sd':>18} {'effect':>7} {'se of mean':>11} {'whole gate':>11} {'best possible':>14}"
    )
    for turn_effect, effect in SPREADS:
        won = 0
        sd = 0.0
        error = 0.0
        for seed in range(duels):
            deltas, groups = simulated_duel(random, 60, 10, effect, 53.0, turn_effect=turn_effect)
            won += accepted(deltas, groups, seed, resamples)[1]
            sd += 100 * deltas.std() / duels
            _, _, se = bootstrap_lcb(deltas, groups, alpha=ALPHA, resamples=1, seed=0)
            error += 100 * se / duels
        best = 50 * (1 + math.erf((3 / error - 1.645) / math.sqrt(2)))
        print(
            f"{sd:>18.1f} {effect:>7} {error:>11.2f} {100 * won / duels:>11.1f} {best:>14.1f}",
            flush=True,
        )


def accepted(
    deltas: np.ndarray, groups: np.ndarray, seed: int, resamples: int
) -> tuple[bool, bool]:
    """Tell whether the lower bound is above 0, and whether the margin is reached as well."""
    mean, lcb, _ = bootstrap_lcb(deltas, groups, alpha=ALPHA, resamples=resamples, seed=seed)
    return lcb > 0, lcb > 0 and 200 * mean >= WIN_MARGIN


def baseline_accepted(deltas: np.ndarray, random: np.random.Generator, resamples: int) -> bool:
    """Tell whether a plain gate accepts: percentile bootstrap over turns, and the margin."""
    means = deltas[random.integers(0, len(deltas), (resamples, len(deltas)))].mean(axis=1)
    return bool(np.quantile(means, ALPHA) > 0 and 200 * deltas.mean() >= WIN_MARGIN)


if __name__ == "__main__":
    main()
