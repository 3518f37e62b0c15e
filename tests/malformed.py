"""Judges' answers with something wrong in them, by two dozen recipes."""

from __future__ import annotations

import json
import random as stdlib_random

from common.config import METRICS


def malformed_verdicts(count: int, seed: int = 0):
    """Yield `count` answers with something wrong, by each recipe in turn; none is a verdict."""
    random = stdlib_random.Random(seed)
    recipes = [recipe for name, recipe in sorted(globals().items()) if name.startswith("_bad_")]
    for number in range(count):
        calls = {metric: random.choice((0, 1, 2)) for metric in METRICS}
        text = recipes[number % len(recipes)](random, calls)
        before = random.choice(("", "Here it is:\n", "```json\n"))
        after = random.choice(("", "\n```", "\nDone."))
        yield before + text + after


def _other_calls(random, calls: dict) -> dict:
    metric = random.choice(METRICS)
    return {**calls, metric: random.choice([call for call in (0, 1, 2) if call != calls[metric]])}


NO_CALLS = (
    True, False, None, -1, 3, 10, 0.0, 1.0, 2.5, "3", "-1", "", " 1", "one", "reply 1", "1.0", [1],
    {"winner": 1}, "1|2|0", "0 or 1", 12345678901234567890,
)  # fmt: skip


def _bad_value(random, calls):
    value = random.choice(NO_CALLS)
    return json.dumps({**calls, random.choice(METRICS): value, "reason": "x"})


def _bad_missing_key(random, calls):
    gone = random.choice(METRICS)
    return json.dumps({metric: call for metric, call in calls.items() if metric != gone})


def _bad_key_name(random, calls):
    name = random.choice(METRICS)
    wrong = random.choice((name.title(), name.upper(), name + " ", name[:-1], "reply_" + name))
    return json.dumps({wrong if metric == name else metric: call for metric, call in calls.items()})


def _bad_duplicate_key(random, calls):
    other = _other_calls(random, calls)
    metric = next(m for m in METRICS if other[m] != calls[m])
    return json.dumps(calls)[:-1] + f', "{metric}": {other[metric]}}}'


def _bad_two_verdicts(random, calls):
    return (
        json.dumps(calls)
        + random.choice((" ", "\nWait, no:\n", "\n---\n"))
        + json.dumps(_other_calls(random, calls))
    )


def _bad_nested_verdict(random, calls):
    return json.dumps(
        {**calls, random.choice(("example", "reply_1_says")): _other_calls(random, calls)}
    )


def _bad_partial_second(random, calls):
    other = _other_calls(random, calls)
    metric = next(m for m in METRICS if other[m] != calls[m])
    part = json.dumps({metric: other[metric]})
    return random.choice((f"{part} {json.dumps(calls)}", f"{json.dumps(calls)} {part}"))


def _bad_cut(random, calls):
    text = json.dumps({**calls, "reason": "the first reply reads the right file"})
    return text[: random.randrange(1, len(text))].rstrip("`")


def _bad_head_cut(random, calls):
    text = json.dumps(calls)
    return text[random.randrange(1, len(text)) :]


def _bad_unescaped_quote(random, calls):
    bait = json.dumps({metric: 2 for metric in METRICS})
    keys = ", ".join(f'"{metric}": {call}' for metric, call in calls.items())
    return random.choice(
        (
            f'{{{keys}, "reason": "reply 2 says {bait} itself"}}',
            f'{{"reason": "it says {bait}", {keys}}}',
            f'{{"reason": "it says {bait}',
        )
    )


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
    return random.choice(
        (
            f"Model {one} beats model {two}.",
            f"Reply {one} is better in all five metrics.",
            "1",
            "[1, 2, 0, 1, 1]",
            "I cannot judge this.",
            "\n".join(f"{metric}: {call}" for metric, call in calls.items()),
            "\n".join(f"**{metric}**: reply {call}" for metric, call in calls.items()),
        )
    )


def _bad_reasoning_only(random, calls):
    text = json.dumps(calls)
    return random.choice(
        (
            f"<think>{text}</think>",
            f"{text}</think>",
            f"<think>{text}",
            f"<think>{text}</think>\nSee above.",
        )
    )


def _bad_schema_echo(random, calls):
    kind = random.choice(("1|2|0", "<0, 1 or 2>", "..."))
    echo = "{" + ", ".join(f'"{metric}": {kind}' for metric in METRICS) + "}"
    return random.choice(
        (echo, echo + "\n" + json.dumps(calls), json.dumps(calls) + "\nin the form " + echo)
    )


def _bad_string_of_json(random, calls):
    return json.dumps(json.dumps(calls))


def _bad_split(random, calls):
    half = random.randrange(1, len(METRICS))
    items = list(calls.items())
    return json.dumps(dict(items[:half])) + "\n" + json.dumps(dict(items[half:]))


def _bad_deep(random, calls):
    return random.choice(('{"a":' * 5000, '{ "' * 5000, '{"a":[' * 3000)) + json.dumps(calls)


def _bad_example(random, calls):
    return json.dumps({**dict.fromkeys(calls, random.choice((0, "0"))), "reason": "a sentence"})


def _bad_around(random, calls):
    """What holds the verdict is broken, though it is closed."""
    text = json.dumps(calls)
    return random.choice(
        (
            f'{{"debug": True, "said": {text}}}',
            f'{{"said": "a stray }} and {text}',
            f'{{"winner": reply 2, "said": "{text}"}}',
            f'{{"{random.choice(METRICS)}": bar}} {text}',
        )
    )


def _bad_calls_in_sound_free_text(random, calls):
    """Faults that free text is forgiven do not make a call better."""
    text = _bad_value(random, calls)[:-1]
    return text.replace('"x"', '"so\n\\d"') + ', "note": "it\\\'s {\n}"}'


def _bad_code_and_two_verdicts(random, calls):
    return '{"debug": True} ' + _bad_two_verdicts(random, calls)
