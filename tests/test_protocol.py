"""Reading one reply: what is whole, what keeps the chat's protocol, what kind of move it is."""

import time

import pytest

from common.audit.protocol import (
    STYLES,
    action_style,
    bash_blocks,
    format_ok,
    format_problem,
    protocol_problem,
)
from common.client.reasoning import visible_text
from runner import REPO

FENCE = "```"
PLAIN_CHAT = [
    {
        "role": "system",
        "content": "You are a helpful assistant that can interact with a computer shell.\n"
        "Include a THOUGHT section before your command.",
    },
    {
        "role": "user",
        "content": "Consider this PR description: the parser drops the last field.\n"
        "Directory changes are not "
        "persistent; you can prefix any action with `cd /path && ...`.",
    },
]
STRICT_CHAT = [
    {
        "role": "system",
        "content": """You solve issues in a repository.

Before the bash block, include a THOUGHT section. Do NOT prefix the command with `# comment` lines.
- Every command runs in a fresh subshell, so `cd` does NOT persist. NEVER use `cd`.
  Use relative paths.
- There are NO language interpreters and NO build tools. Do NOT try to invoke python, pytest, node,
  cargo, make or any test runner. You must reason from the source code alone.
- Do NOT use `bash -c`, `sh -c`, `eval`, `source`.
ALLOWED: cat, sed, grep, find, git diff, echo. Chain with `&&`, `||` or `|`.""",
    },
    {"role": "user", "content": "Please solve this issue."},
]


def reply(command: str, thought: str = "THOUGHT: I look first.") -> str:
    return f"{thought}\n\n{FENCE}bash\n{command}\n{FENCE}"


@pytest.mark.parametrize("content, answer", [
    ("<think>hm {\"correctness\": 1}</think>\nTHOUGHT: go", "THOUGHT: go"),
    ("hm, no opening tag</think>THOUGHT: go", "THOUGHT: go"),
    ("<think>one</think><think>two</think>b", "b"),
    ("[THINK]hm\n```bash\nls\n```\n[/THINK]\nTHOUGHT: go", "THOUGHT: go"),
    ("<seed:think>hm</seed:think>THOUGHT: go", "THOUGHT: go"),
    ("<|channel>thought\nhm\n<channel|>THOUGHT: go", "THOUGHT: go"),
    ("<|START_THINKING|>hm<|END_THINKING|>THOUGHT: go", "THOUGHT: go"),
    ("◁think▷hm◁/think▷\nTHOUGHT: go", "THOUGHT: go"),
    ("<think>the `</think>` ends it\n```\n</think>\n```\n</think>THOUGHT: go", "THOUGHT: go"),
    ("<think>a draft:\n```bash\nls\n</think>\n\nTHOUGHT: go", "THOUGHT: go"),
    ("<cot>hm</cot>\n{\"a\": 1}", '{"a": 1}'),  # any name, where what follows is whole
    ("hm.\n</thought>\n\nTHOUGHT: go", "THOUGHT: go"),
    ('<thought>hm</thought>\n```json\n{"a": 1}\n```', '```json\n{"a": 1}\n```'),
    ('<details type="reasoning" done="true">\nhm\n</details>\nTHOUGHT: go', "THOUGHT: go"),
    ('<think duration="3">hm</think>\nTHOUGHT: go', "THOUGHT: go"),
    ("<think/>\n\nTHOUGHT: go", "THOUGHT: go"),
    ("<think />THOUGHT: go", "THOUGHT: go"),
    ("<think>never closed", ""),
    ("[THINK]\nnever closed", ""),
    ("plain", "plain"),
])  # fmt: skip
def test_visible_text_drops_reasoning(content, answer):
    assert visible_text(content) == answer


@pytest.mark.parametrize("content", [
    reply("grep -n '<think>' .", "THOUGHT: I search for `<think>` in the reader."),
    reply("ls", "THOUGHT: The stray `</think>` stays.\nSo does \"<think>\"."),
    reply("ls", "THOUGHT: The tags <think> and </think> are cut here."),
    reply("ls", "THOUGHT: it drops <think></think>\nand more"),
    reply("ls", "THOUGHT: it drops the tag\n<think> in the reader, so I search."),
    reply("ls", "THOUGHT: it drops (</think>) and '</think>'\nand more"),
    reply("cat > a.md <<'EOF'\n<think>\nhm\n</think>\nEOF"),
    reply("ls", "<Widget> renders twice."),
    reply("grep -rn '</s>' .", 'THOUGHT: <a href="x">thinking</a> and <br/> stay, <|x|> too.'),
    reply("ls", "[Thoughts](https://a.b) says so."),
])  # fmt: skip
def test_a_mark_that_is_text_cuts_nothing(content):
    assert visible_text(content) == content and format_ok(content)


@pytest.mark.parametrize("content, mark", [
    ("<thought>I look.</thought>\n\n" + f"{FENCE}bash\nls\n{FENCE}", "<thought>"),
    ("<b>THOUGHT:</b> " + reply("ls", "I look."), "<b>"),
    ("THOUGHT: go\n<think>hm</think>\n" + reply("ls"), "<think>"),
    ("THOUGHT: go\n<think>never closed", "<think>"),
    ("hm</think>answer " + reply("ls"), "</think>"),
    ("I look\n</think>\n\n" + f"{FENCE}bash\nls\n{FENCE}", "</think>"),
])  # fmt: skip
def test_where_a_mark_leaves_doubt_the_reply_is_refused_by_its_name(content, mark):
    assert visible_text(content) == content, "nothing is lost silently"
    assert mark in format_problem(content)


@pytest.mark.parametrize("flood", ["<think></think>", "<think>", "</think> a ", "[a]`", '"<a> '])
def test_a_flood_of_marks_is_read_in_no_time(flood):
    started = time.monotonic()
    visible_text(flood * 20_000), format_problem(flood * 20_000)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("broken, why", [
    ("", "empty"),
    ("  \n", "empty"),
    ("<|tool_calls_section_begin|><|tool_call_begin|>functions.bash:0", "tokens"),
    (reply("ls") + "\n<|tool_calls_section_begin|>", "tokens"),
    (reply("ls") + "<|im_end|>", "tokens"),
    ("<|START_RESPONSE|>" + reply("ls"), "tokens"),
    (reply("ls") + "<|END_RESPONSE|>", "tokens"),
    (reply("ls") + "</s>\n", "tokens"),
    (reply("ls") + "<end_of_turn>", "tokens"),
    ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function", "tokens"),
    ("<tool_call>\n{\"name\": \"bash\"}\n</tool_call>", "tokens"),
    ("<think>" + reply("ls"), "think"),
    (f"THOUGHT: a\n\n{FENCE}bash\ncat x", "cut off"),
    (f"THOUGHT: a\n\n{FENCE}python\nx = 1\n{FENCE}\n\n{FENCE}bash\nsed -n '1,2", "cut off"),
])  # fmt: skip
def test_what_is_no_reply_is_told_why(broken, why):
    assert not format_ok(broken)
    assert why in format_problem(broken)


@pytest.mark.parametrize("good", [
    reply("ls -la"),
    reply("grep -rn '<|' src | head -5"),
    f"The code is\n\n{FENCE}python\nx = 1\n{FENCE}\n\n" + reply("ls"),
    "prose alone is a reply, if not a good one",
])  # fmt: skip
def test_whole_replies_pass(good):
    assert format_ok(good) and format_problem(good) is None


def test_blocks_are_found_as_mini_swe_agent_finds_them():
    assert bash_blocks(reply("ls -la") + "\nthen\n" + reply("pwd")) == ["ls -la", "pwd"]
    assert bash_blocks(f"{FENCE}sh\nls\n{FENCE}") == []
    inner = reply(f"cat > a.md <<'EOF'\n{FENCE}python\nx\n{FENCE}\nEOF")
    assert bash_blocks(inner) == ["cat > a.md <<'EOF'"]


def test_a_flood_of_openings_is_read_in_no_time():
    assert bash_blocks(f" {FENCE}bash\n x" * 40_000) == []


# ---- protocol ----


@pytest.mark.parametrize("command", [
    "ls -la", 'grep -rn "cd " src', "grep -rn 'python -c' docs | head",
    "echo 'make && pytest' >> notes.txt",
    "cat > run.txt <<'EOF'\npython x.py\ncd y\nEOF", "git diff", "sed -i 's/source /origin /' a.sh",
    "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT", "find . -name 'Makefile' -o -name go.mod",
])  # fmt: skip
def test_the_strict_chat_lets_honest_commands_pass(command):
    assert protocol_problem(reply(command), STRICT_CHAT) is None


@pytest.mark.parametrize("command, named", [
    ("cd src && ls", "cd"), ("ls && cd src", "cd"), ("(cd src; ls)", "cd"), ("A=1 python3 x.py",
    "python3"),
    ("cat a | python -", "python"), ("timeout 9 pytest -q", "pytest"), ("bash -c 'ls'", "bash"),
    ("eval ls",
    "eval"),
    ("source env.sh", "source"), ("find . -name x | xargs node", "node"), ("echo $(go version)",
    "go"),
    ("python3.11 x.py", "python3.11"), ("echo `python -V`", "python"),
    ("find . -exec python3 {} \\;", "python3"),
    ("cargo test", "cargo"), ("# first look\nls", "#"), ("/usr/bin/make", "make"),
])  # fmt: skip
def test_the_strict_chat_forbids_what_its_system_prompt_forbids(command, named):
    assert named in protocol_problem(reply(command), STRICT_CHAT)
    assert protocol_problem(reply(command), PLAIN_CHAT) is None


def test_the_bundled_chats_are_of_the_strict_kind():
    """The demo's data imitates SWE-ZERO, down to its rules."""
    system = (REPO / "common/demo/data/system.txt").read_text()
    assert protocol_problem(reply("cd src"), [{"role": "system", "content": system}])


@pytest.mark.parametrize("text, why", [
    ("THOUGHT: nothing to run", "0"),
    (reply("ls") + "\n\n" + reply("pwd"), "2"),
    (reply(f"cat > a.md <<'EOF'\n{FENCE}\nx\n{FENCE}\nEOF"), "cut short"),
    (reply(f"cat > a.md <<'EOF'\n{FENCE}python\nx\n{FENCE}\nEOF"), "cut short"),
    (reply(""), "no command"),
    (reply("# only a comment"), "no command"),
    (reply("ls", thought=""), "THOUGHT"),
    (reply("ls", thought="THOUGHT:"), "THOUGHT"),
    (f"{FENCE}bash\nls\n{FENCE}\nTHOUGHT: I looked", "THOUGHT"),
    (f"<think>{FENCE}bash\nls\n{FENCE}</think>" + reply("ls"), "think"),
    (reply("ls") + "<|im_end|>", "tokens"),
])  # fmt: skip
def test_broken_protocol_is_told_why(text, why):
    assert why in protocol_problem(text, PLAIN_CHAT)


def test_a_thought_needs_no_label():
    assert protocol_problem(reply("ls", thought="The parser is next."), STRICT_CHAT) is None


def test_odd_messages_do_no_harm():
    assert protocol_problem(reply("python x"), []) is None
    assert protocol_problem(reply("python x"), [{"role": "system", "content": None}]) is None


# ---- what kind of move ----


@pytest.mark.parametrize("command, style", [
    ("ls -R src", "look"), ("find . -type f", "search"), ("tree -L 2 && pwd", "look"),
    ("grep -rn foo src | head -20", "search"), ("find . -name '*.py'", "search"), ("rg foo",
    "search"),
    ("find . -name a | xargs grep b", "search"), ("git grep foo", "search"),
    ("cat a.py", "read"), ("nl -ba a.py | sed -n '10,20p'", "read"), ("head -50 a.py", "read"),
    ("sed -n '1,5p' a.py && grep -n x a.py", "read"), ("awk 'NR>3' a.py", "read"),
    ("cd a && cat b", "read"),
    ("git diff", "git"), ("git log -p a.py", "git"),
    ("sed -i 's/a/b/' a.py", "edit"), ("cat > a.py <<'EOF'\nx\nEOF", "edit"),
    ("cp a b && git diff", "edit"),
    ("python - <<'EOF'\nopen('a', 'w').write('x')\nEOF", "edit"), ("cat a > b; python b", "edit"),
    ("echo x | tee a", "edit"),
    ("python -m pytest -q", "run"), ("make test 2>&1 | tail -5", "run"), ("python -c 'print(1)'",
    "run"),
    ("python t.py > /dev/null 2>&1", "run"),
    ("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git add -A && git diff --cached", "submit"),
    ("sphinx-build --version", "other"), ("echo done", "other"),
])  # fmt: skip
def test_action_style(command, style):
    assert action_style(reply(command)) == style
    assert style in STYLES


def test_action_style_of_no_or_broken_command():
    assert action_style("no block") == action_style(reply("echo 'open")) == "other"
