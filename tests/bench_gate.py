"""How often the gate is wrong: duels between equals, a true win, and 10,000 malformed verdicts.

Run:  python -m tests.bench_gate [--duels N]

The simulated duel: every turn has a latent preference, normal around the panel's lean, made of an instance
effect and a turn effect; three judges add a leaning of their own; each gives five calls in both orders, with
noise; a call is a draw when the sum is near 0. That gives scores on the real grid of 60 half-points, with a
turn sd of 25 score points (28 with an instance effect); the power is listed for smaller and larger ones too.
The ancestor's gate: each turn judged once in fixed order, turns counted as independent, percentile bootstrap.
"""
from __future__ import annotations

import argparse
import json
import math
import random as stdlib_random
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from validate import METRICS, bootstrap_lcb, parse_verdict  # noqa: E402

DESIGNS = (60, 1), (60, 10), (20, 20), (10, 10), (5, 10)
INSTANCE_EFFECT = 0.6  # against a turn effect of 0.8: instances carry a third of what varies between turns
ALPHA, WIN_MARGIN = 0.05, 2.0
_TURN, _JUDGE, _CALL, _DRAW = 0.8, 0.5, 1.0, 0.4


def simulated_duel(random: np.random.Generator, instances: int, turns: int, instance_effect: float,
                   true_score: float, *, turn_effect: float = _TURN, pull: float = 0.0, both_orders: bool = True):
    """One duel's (deltas, groups), as the gate gets them.

    true_score: 0-100, the challenger's expected score; pull: share of calls that go to the reply shown
    second, whatever it says. One order: the king first.
    """
    groups = np.repeat(np.arange(instances), turns)
    count = len(groups)
    spread = np.sqrt(instance_effect**2 + turn_effect**2 + _JUDGE**2 + _CALL**2)
    latent = (_lean(true_score, spread) + instance_effect * random.standard_normal(instances)[groups]
              + turn_effect * random.standard_normal(count))
    judged = latent[:, None] + _JUDGE * random.standard_normal((count, 3))
    orders = 2 if both_orders else 1
    noise = _CALL * random.standard_normal((count, 3, orders, len(METRICS)))
    calls = judged[:, :, None, None] + noise
    points = np.where(calls > _DRAW, 2, np.where(calls < -_DRAW, 0, 1))
    if pull:
        pulled = random.random(points.shape) < pull
        toward = np.array([2, 0][:orders]).reshape(1, 1, orders, 1)  # challenger second, then first
        points = np.where(pulled, toward, points)
    return points.sum(axis=(1, 2, 3)) / (2 * points[0].size) - 0.5, groups


def _lean(true_score: float, spread: float) -> float:
    """The latent mean at which a call's expected worth is `true_score`: by bisection over the normal's cdf."""
    def worth(lean: float) -> float:
        above, below = (0.5 * (1 + math.erf((sign * lean - _DRAW) / spread / math.sqrt(2))) for sign in (1, -1))
        return 50 * (1 + above - below)

    low, high = -5.0, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if worth(middle) < true_score else (low, middle)
    return low


def accepted(deltas: np.ndarray, groups: np.ndarray, seed: int, resamples: int) -> tuple[bool, bool]:
    """(lower bound above 0, and the margin reached as well)."""
    mean, lcb, _ = bootstrap_lcb(deltas, groups, alpha=ALPHA, resamples=resamples, seed=seed)
    return lcb > 0, lcb > 0 and 200 * mean >= WIN_MARGIN


def ancestor_accepted(deltas: np.ndarray, random: np.random.Generator, resamples: int) -> bool:
    """The ancestor's gate: percentile bootstrap over turns, and the margin."""
    means = deltas[random.integers(0, len(deltas), (resamples, len(deltas)))].mean(axis=1)
    return bool(np.quantile(means, ALPHA) > 0 and 200 * deltas.mean() >= WIN_MARGIN)


# ----------------------------------------------------------------------------------------- malformed verdicts

def malformed_verdicts(count: int, seed: int = 0):
    """(text, what parse_verdict may return) `count` times: answers with something wrong, by twenty recipes.

    None is always allowed; nothing else is, except where a recipe leaves the verdict itself whole.
    """
    random = stdlib_random.Random(seed)
    recipes = [recipe for name, recipe in sorted(globals().items()) if name.startswith("_bad_")]
    for number in range(count):
        calls = {metric: random.choice((0, 1, 2)) for metric in METRICS}
        text = recipes[number % len(recipes)](random, calls)
        before, after = random.choice(("", "Here it is:\n", "```json\n")), random.choice(("", "\n```", "\nDone."))
        yield before + text + after, (None,)


def _other_calls(random, calls: dict) -> dict:
    metric = random.choice(METRICS)
    return {**calls, metric: random.choice([call for call in (0, 1, 2) if call != calls[metric]])}


def _bad_value(random, calls):
    value = random.choice((True, False, None, -1, 3, 10, 0.0, 1.0, 2.5, 1e0, "3", "-1", "", " 1", "one", "reply 1",
                           "1.0", [1], {"winner": 1}, "1|2|0", "0 or 1", 12345678901234567890))
    return json.dumps({**calls, random.choice(METRICS): value, "reason": "x"})


def _bad_missing_key(random, calls):
    gone = random.choice(METRICS)
    return json.dumps({metric: call for metric, call in calls.items() if metric != gone})


def _bad_key_name(random, calls):
    name = random.choice(METRICS)
    wrong = random.choice((name.title(), name.upper(), name + " ", name[:-1], "reply_" + name))
    return json.dumps({wrong if metric == name else metric: call for metric, call in calls.items()})


def _bad_duplicate_key(random, calls):
    metric, other = random.choice(METRICS), _other_calls(random, calls)
    metric = next(m for m in METRICS if other[m] != calls[m])
    return json.dumps(calls)[:-1] + f', "{metric}": {other[metric]}}}'


def _bad_two_verdicts(random, calls):
    return json.dumps(calls) + random.choice((" ", "\nWait, no:\n", "\n---\n")) + json.dumps(_other_calls(random, calls))


def _bad_nested_verdict(random, calls):
    return json.dumps({**calls, random.choice(("example", "reply_1_says")): _other_calls(random, calls)})


def _bad_partial_second(random, calls):
    other = _other_calls(random, calls)
    metric = next(m for m in METRICS if other[m] != calls[m])
    part = json.dumps({metric: other[metric]})
    return random.choice((f"{part} {json.dumps(calls)}", f"{json.dumps(calls)} {part}"))


def _bad_cut(random, calls):
    text = json.dumps({**calls, "reason": "the first reply reads the right file"})
    return text[:random.randrange(1, len(text))].rstrip("`")


def _bad_head_cut(random, calls):
    text = json.dumps(calls)
    return text[random.randrange(1, len(text)):]


def _bad_unescaped_quote(random, calls):
    bait = json.dumps({metric: 2 for metric in METRICS})
    keys = ", ".join(f'"{metric}": {call}' for metric, call in calls.items())
    return random.choice((f'{{{keys}, "reason": "reply 2 says {bait} itself"}}',
                          f'{{"reason": "it says {bait}", {keys}}}', f'{{"reason": "it says {bait}'))


def _bad_single_quotes(random, calls):
    bait = json.dumps({metric: 1 for metric in METRICS})
    return random.choice((str(calls), str({"reason": bait, **calls}), f"{{'reason': '{bait}'}}"))


def _bad_bare_keys(random, calls):
    bait = json.dumps({metric: 1 for metric in METRICS})
    keys = ", ".join(f"{metric}: {call}" for metric, call in calls.items())
    return random.choice((f"{{{keys}}}", f"{{{keys}, reason: '{bait}'}}"))


def _bad_comment(random, calls):
    return json.dumps(calls).replace(", ", ", // see above\n", 1)


def _bad_trailing_comma(random, calls):
    return json.dumps(calls)[:-1] + random.choice((",}", ",,}", ";}", "]"))


def _bad_prose(random, calls):
    one, two = random.choice(((1, 2), (2, 1)))
    return random.choice((f"Model {one} beats model {two}.", f"Reply {one} is better in all five metrics.",
                          "1", "[1, 2, 0, 1, 1]", "I cannot judge this.",
                          "\n".join(f"{metric}: {call}" for metric, call in calls.items()),
                          "\n".join(f"**{metric}**: reply {call}" for metric, call in calls.items())))


def _bad_reasoning_only(random, calls):
    text = json.dumps(calls)
    return random.choice((f"<think>{text}</think>", f"{text}</think>", f"<think>{text}",
                          f"<think>{text}</think>\nSee above."))


def _bad_schema_echo(random, calls):
    kind = random.choice(("1|2|0", "<0, 1 or 2>", "..."))
    echo = "{" + ", ".join(f'"{metric}": {kind}' for metric in METRICS) + "}"
    return random.choice((echo, echo + "\n" + json.dumps(calls), json.dumps(calls) + "\nin the form " + echo))


def _bad_string_of_json(random, calls):
    return json.dumps(json.dumps(calls))


def _bad_split(random, calls):
    half = random.randrange(1, len(METRICS))
    items = list(calls.items())
    return json.dumps(dict(items[:half])) + "\n" + json.dumps(dict(items[half:]))


def _bad_deep(random, calls):
    return random.choice(('{"a":' * 5000, '{ "' * 5000, '{"a":[' * 3000)) + json.dumps(calls)


# ------------------------------------------------------------------------------------------------------- main

def main(argv=None) -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--duels", type=int, default=2000, help="simulated duels per cell")
    flags.add_argument("--resamples", type=int, default=1000)
    chosen = flags.parse_args(argv)
    duels, resamples = chosen.duels, chosen.resamples
    noise = 100 * 1.96 * np.sqrt(ALPHA * (1 - ALPHA) / duels)
    print(f"Equals accepted, % of {duels} duels (alpha {ALPHA:.0%}; the simulation's own error is +-{noise:.1f})")
    print(f"{'instances x turns':>18} {'effect':>7} {'turn sd':>8} {'bound > 0':>10} {'whole gate':>11} "
          f"{'ancestor':>9} {'ancestor, 15 % pull':>20}")
    started = time.monotonic()
    random = np.random.default_rng(20240901)
    for instances, turns in DESIGNS:
        for effect in (0.0, INSTANCE_EFFECT):
            counts, sd = np.zeros(4), 0.0
            for seed in range(duels):
                deltas, groups = simulated_duel(random, instances, turns, effect, 50.0)
                counts[:2] += accepted(deltas, groups, seed, resamples)
                sd += 100 * deltas.std() / duels
                if seed % 4 == 0:  # a quarter is enough for the comparison
                    one_order = [simulated_duel(random, instances, turns, effect, 50.0, both_orders=False, pull=pull)[0]
                                 for pull in (0.0, 0.15)]
                    counts[2:] += [4 * ancestor_accepted(deltas, random, 400) for deltas in one_order]
            share = 100 * counts / duels
            print(f"{f'{instances} x {turns}':>18} {effect:>7} {sd:>8.1f} {share[0]:>10.1f} {share[1]:>11.1f} "
                  f"{share[2]:>9.1f} {share[3]:>20.1f}", flush=True)
    print(f"\nA true 53 % over 60 x 10 accepted, % of {duels // 2} duels")
    print("(best possible: a z test at 5 % that knew the standard error)")
    print(f"{'turn sd':>18} {'effect':>7} {'se of mean':>11} {'whole gate':>11} {'best possible':>14}")
    for turn_effect, effect in ((0.2, 0.0), (0.4, 0.0), (0.6, 0.0), (0.8, 0.0), (1.2, 0.0), (0.4, 0.3),
                                (0.8, INSTANCE_EFFECT)):
        won, sd, error = 0, 0.0, 0.0
        for seed in range(duels // 2):
            deltas, groups = simulated_duel(random, 60, 10, effect, 53.0, turn_effect=turn_effect)
            won += accepted(deltas, groups, seed, resamples)[1]
            sd += 200 * deltas.std() / duels
            error += 200 * bootstrap_lcb(deltas, groups, alpha=ALPHA, resamples=1, seed=0)[2] / duels
        best = 50 * (1 + math.erf((3 / error - 1.645) / math.sqrt(2)))
        print(f"{sd:>18.1f} {effect:>7} {error:>11.2f} {200 * won / duels:>11.1f} {best:>14.1f}", flush=True)
    wrong = sum(parse_verdict(text) not in allowed for text, allowed in malformed_verdicts(10_000))
    print(f"\n10,000 malformed verdicts: {wrong} read as something.   ({time.monotonic() - started:.0f} s in all)")


if __name__ == "__main__":
    main()
