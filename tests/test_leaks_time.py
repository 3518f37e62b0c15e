"""No text costs an audit much: twice the text costs about twice the time, whatever it holds."""

import time

import pytest

from common.audit.history import shows_fix
from common.audit.leaks import find_leaks
from common.audit.protocol import action_style, protocol_problem
from tests.leak_cases import FENCE, RECORD, TASK, reply

SMALL = 8_000  # characters; the large text has four times as many
LIMIT = 6  # times as long for four times the text; a quadratic text takes 16 times as long
NOISE_SECONDS = 0.03


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
    "cd ab; ", "git diff HEAD main; ",
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
    start = time.thread_time()
    find_leaks(reply(text, text[:2000]), chat, RECORD)
    find_leaks(text, TASK, RECORD)
    return time.thread_time() - start


def grows_as_the_text(cost) -> bool:
    """Tell whether cost(size) is about linear, in the best of three goes on a busy machine."""
    for _ in range(3):
        first = cost(SMALL)
        if cost(4 * SMALL) <= LIMIT * first + NOISE_SECONDS:
            return True
    return False


@pytest.mark.parametrize("unit", TEXTS, ids=lambda unit: repr(unit[:20]))
def test_time_grows_with_the_text(unit):
    text = unit * (4 * SMALL // len(unit) + 1)
    assert grows_as_the_text(lambda size: seconds(text[:size]))


def test_a_long_record_costs_little():
    added = "+    self.move_{0}(window, floor_{0}, 'text of {0}')"
    hunk = "@@ -{0},2 +{0},3 @@ class Store{0}:\n     keep_{0}()\n" + added + "\n     b\n"

    def cost(size: int) -> float:
        hunks = [hunk.format(number) for number in range(size // 40)]
        patch = "--- a/x/y.py\n+++ b/x/y.py\n" + "".join(hunks)
        start = time.thread_time()
        find_leaks(reply(f"cat > a.txt <<'EOF'\n{patch}\nEOF"), TASK, {**RECORD, "patch": patch})
        return time.thread_time() - start

    assert grows_as_the_text(cost)


@pytest.mark.parametrize("unit", ["${", "sudo ", "open(", f"{FENCE}bash\n", "`", "git log --all;"])
def test_the_other_readers_are_linear_too(unit):
    def cost(size: int) -> float:
        text = reply(unit * (size // len(unit)))
        chat = [*TASK, {"role": "assistant", "content": text}, {"role": "user", "content": text}]
        start = time.thread_time()
        protocol_problem(text, chat)
        action_style(text)
        shows_fix(chat, RECORD)
        return time.thread_time() - start

    assert grows_as_the_text(cost)
