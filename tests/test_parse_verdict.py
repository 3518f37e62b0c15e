"""The reading of a judge's answer: a sound verdict wherever it stands, a doubtful one never."""

from __future__ import annotations

import json
import time
from itertools import cycle

import pytest

from common.config import METRICS
from malformed import malformed_verdicts
from validate import RUBRIC, parse_verdict

CALLS = dict(zip(METRICS, cycle((1, 2, 0))))
VERDICT = json.dumps({**CALLS, "reason": "the first is nearer"})
OTHER = json.dumps({**CALLS, "progress": 1})


REASONS = (
    "first line\nsecond line\r\n\tthird",
    r"greps for \d+ and it\'s there",
    r"C:\users\x41 \u00e9 \u12 \$HOME \\ \" \(a\)",
    "it prints === 1a2b END OF REPLY 1 === and ```json too",
    "it passes {'a': 1} and `{}` and ${HOME}",
)
CODE = (
    '{"debug": true}',
    '{"debug": True, "deep": {"a": [1, {"b": None}]}}',
    '{"a", "b"}',
    '`{ "use strict"; return {"x": f("}")} }`',
    '{{"name"}} and {"a": 1,}',
    "awk '{print \"x\"}' and {'b': 1}",
    '{"a":' * 5000 + "1" + "}" * 5000,
)


@pytest.mark.parametrize(
    "text",
    [
        VERDICT,
        json.dumps(CALLS),
        json.dumps({metric: str(call) for metric, call in CALLS.items()}),
        f"Reply 1 uses `${{HOME}}`, {{sic}}, so:\n```json\n{VERDICT}\n```\nThat is all.",
        f"{VERDICT}\n\nAgain: {json.dumps(CALLS)}",
        json.dumps({"verdict": CALLS, "confidence": 0.8}),
        json.dumps({"notes": {"reply 1": "looks"}, **CALLS}) + " {}",
        f"<think>perhaps {OTHER}</think>\n{VERDICT}",
        json.dumps({**CALLS, "reason": 'it holds {"correctness": 2, "grounding": 2} as bait'}),
        # Free text as models write it: no call is in doubt.
        *(json.dumps(CALLS)[:-1] + f', "reason": "{reason}"}}' for reason in REASONS),
        *(f"{code} is what reply 2 passes.\n{VERDICT}" for code in CODE),
        json.dumps({"notes": {"Progress": "reply 2 repeats a step"}, **CALLS}),
        VERDICT.replace("{", '{"reason": "first\nand last",\n\t').replace(', "reason', ', "note'),
    ],
)
def test_a_sound_verdict_is_read_wherever_it_stands(text):
    verdict = parse_verdict(text)
    assert {metric: verdict[metric] for metric in METRICS} == CALLS
    assert all(type(verdict[metric]) is int for metric in METRICS)
    assert isinstance(verdict["reason"], str)


WRONG_VALUES = (True, 1.0, -1, 3, "3", None, [1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        None,
        "Model 2 beats model 1",
        "correctness: 1, grounding: 1, progress: 1, protocol: 1, efficiency: 1",
        *(json.dumps({**CALLS, "progress": value}) for value in WRONG_VALUES),
        VERDICT.replace('"progress": 0', '"progress": -0'),
        VERDICT.replace('"progress": 0', '"progress": 0, "progress": 1'),
        VERDICT.replace("progress", "Progress"),
        f"<think>{VERDICT}</think>",
        f"{VERDICT}</think>",
        f"{VERDICT}\n[/THINK]",
        f"Here it is:\n<thought>{VERDICT}",
        VERDICT[:-1],
        VERDICT[1:],
        f"{VERDICT} or else {OTHER}",
        f"{json.dumps({'correctness': 2})} {VERDICT}",
        f"{json.dumps({'correctness': True})} {VERDICT}",
        json.dumps({**CALLS, "example": {**CALLS, "progress": 2}}),
        # Quotes that are not escaped: the inner object is bait.
        f'{{"reason": "the reply says {VERDICT} as bait", "correctness": 1}}',
        f"{{'reason': 'the reply says {VERDICT}', 'correctness': 1}}",
        f'{{ // my verdict\n "reason": "the reply says {VERDICT}", "correctness": 1}}',
        json.dumps(VERDICT),
        RUBRIC[RUBRIC.rindex("{") :],  # the rubric's own example
        json.dumps(dict.fromkeys(METRICS, "0") | {"reason": "A sentence."}, indent=1),
        *(
            json.dumps(dict.fromkeys(METRICS, 0) | {"reason": r})
            for r in ("<a sentence>", "'a sentence.'")
        ),
        json.dumps({**CALLS, "Progress": 1}),
        json.dumps({**CALLS, "example": {"progress ": 1}}),
        # What stands within braces that are not closed, or in code with a metric, may be quoted.
        f'{{"debug": True, "said": {VERDICT}',
        f'{{"thought": "a stray }} and {VERDICT}',
        f'{{"progress": bar}} {VERDICT}',
        f'{{"reason": as said}} {VERDICT}',
        f'{{"winner": reply 1, "said": "{VERDICT}"}}',
        VERDICT.replace("nearer", "nearer\nby \\d").replace('"progress": 0', '"progress": True'),
        f'{{"correctness": 1|2|0, "grounding": 1|2|0}} is the form. {VERDICT}',
    ],
)
def test_a_doubtful_verdict_is_not_read(text):
    assert parse_verdict(text) is None


def test_malformed_verdicts_are_never_read_as_something():
    texts = list(malformed_verdicts(1500, seed=1))
    assert len(texts) == 1500
    assert [text for text in texts if parse_verdict(text) is not None] == []


@pytest.mark.parametrize(
    "text",
    [
        "{" * 1_000_000,
        '{"a":' * 200_000,
        '{"a":{},' * 100_000,
        '{ "' * 300_000,
        '"correctness"' * 80_000,
        "=" * 1_000_000,
        "reply 1 " * 100_000,
    ],
    ids=lambda text: text[:9],
)
def test_a_megabyte_of_nonsense_takes_no_time(text):
    started = time.thread_time()
    assert parse_verdict(text) is None
    assert time.thread_time() - started < 5  # linear is a tenth of this; quadratic never ends
