"""No text costs an audit much: twice the text costs about twice the time, whatever it holds."""

import time

import pytest

from common.replies.history import shows_fix
from common.replies.leaks import find_leaks
from common.replies.protocol import action_style, protocol_problem
from tests.leak_cases import FENCE, RECORD, TASK, reply

SMALL = 6_000  # characters; the large text has four times as many
LIMIT = 9  # a quadratic text costs 16 times as much
NOISE_SECONDS = 0.05  # of the clock and the first call


def numbered(unit: str) -> str:
    """Return a text of distinct units: `PR 1000 PR 1001 ...`."""
    return " ".join(unit.replace("N", str(number)) for number in range(1000, 9000))


TEXTS = [
    "${", "sudo ", "`", "`a", "'", '"', "a 'b' ", "\\", "$((", "$(echo ", "(", "<<",
    "cat <<A\nA\n", ";", "ls|",
    "! ", "\n", " ", " \n", "-\n", "#", "{a,", "{a,b}", "{a,b} ", "$A", "A=$A$A;", "[a]", "--x=",
    "%2F",
    f"{FENCE}\n", f"{FENCE}bash\n", f"{FENCE}bash\nls\n{FENCE}\n", "a", "ab_cd", "a.", "a/", "/./",
    "a/../", "a-",
    "open(", "from store import ", "store module ", "I have the ", "the PR ", "the hidden patch ",
    "deadbeef ",
    "line 12 ", "x.py(1", "window_index.py:", "sed -n 1,2p a; ", "git log HEAD..origin/x; ",
    "github.com/acme/",
    "ls wi*w ", "'a' + ", "x = 'ab'\n", "{x}", "├── a\n", "é漢", "\0", "THOUGHT",
    "self._rows[position:] ",
    *map(numbered, ["PR N", "fixed by #N.", "commit abN0123", "nameN_x", "a/bN/c.py", "line N",
    "x.py:N",
                    "The hidden patch N shows.", "I was given the wN fix.",
                    "sed -n 'N,+9p' window_index.py;", "wiN*",
                    "'f(a, bN) + c'"]),
]  # fmt: skip


def seconds(text: str) -> float:
    """Return what one reply of this text, in a chat that holds it as well, costs."""
    chat = [*TASK, {"role": "assistant", "content": reply(text)}, {"role": "user", "content": text}]
    start = time.process_time()
    find_leaks(reply(text, text[:2000]), chat, RECORD)
    find_leaks(text, TASK, RECORD)
    return time.process_time() - start


@pytest.mark.parametrize("unit", TEXTS, ids=lambda unit: repr(unit[:20]))
def test_time_grows_with_the_text(unit):
    small, large = (unit * (size // len(unit) + 1) for size in (SMALL, 4 * SMALL))
    first, second = seconds(small[:SMALL]), seconds(large[: 4 * SMALL])
    assert second <= LIMIT * first + NOISE_SECONDS


def test_a_long_record_costs_little():
    added = "+    self.move_{0}(window, floor_{0}, 'text of {0}')"
    hunk = "@@ -{0},2 +{0},3 @@ class Store{0}:\n     keep_{0}()\n" + added + "\n     b\n"
    times = []
    for hunks in (500, 2000):
        patch = "--- a/x/y.py\n+++ b/x/y.py\n" + "".join(hunk.format(n) for n in range(hunks))
        start = time.process_time()
        find_leaks(reply(f"cat > a.txt <<'EOF'\n{patch}\nEOF"), TASK, {**RECORD, "patch": patch})
        times.append(time.process_time() - start)
    assert times[1] <= LIMIT * times[0] + NOISE_SECONDS


@pytest.mark.parametrize(
    "unit", ["${", "sudo ", "open(", f"{FENCE}bash\n", "`", "\\", "git log --all;"]
)
def test_the_other_readers_are_linear_too(unit):
    times = []
    for size in (SMALL, 4 * SMALL):
        text = unit * (size // len(unit))
        chat = [
            *TASK,
            {"role": "assistant", "content": reply(text)},
            {"role": "user", "content": text},
        ]
        start = time.process_time()
        protocol_problem(reply(text), chat)
        action_style(reply(text))
        shows_fix(chat, RECORD)
        times.append(time.process_time() - start)
    assert times[1] <= LIMIT * times[0] + NOISE_SECONDS
