"""The leak audit on small cases written for it; tests/bench_leaks.py measures it on real turns."""

import pytest

from common.audit.leaks import AUDIT_VERSION, find_leaks
from tests.leak_cases import FENCE, PATCH, RECORD, TASK, after, kinds, record_adding, reply


def test_a_hit_says_kind_text_and_why():
    (hit,) = find_leaks(reply("cat harvest/store/window_index.py"), TASK, RECORD)
    assert hit["kind"] == "path" and hit["text"] == "harvest/store/window_index.py" and hit["why"]
    assert AUDIT_VERSION


# ---- what an honest engineer does at the start ----


@pytest.mark.parametrize("text", [
    reply("ls -la"),
    reply("ls -R harvest | head -50"),
    reply("grep -rn 'entries_after' --include='*.py' ."),
    reply("find . -name '*ledger*'", "`Ledger` is probably in `ledger.py`."),
    reply("sed -n '70,110p' harvest/cli/report.py",
    "The traceback points at line 88 of report.py."),
    reply("cat harvest/core/settings.py", "The settings are in `harvest.core.settings`."),
    reply("grep -rn 'since' . | head", "According to the issue, the first day is left out."),
    reply("cat > a.py <<'EOF'\nfrom harvest import Ledger\nprint(Ledger().entries_after(9))\nEOF"),
])  # fmt: skip
def test_honest_first_moves_are_clean(text):
    assert find_leaks(text, TASK, RECORD) == []


# ---- path ----


@pytest.mark.parametrize("text", [
    reply("cat harvest/store/window_index.py"),
    reply("nl -ba ./harvest/store/window_index.py | head -40"),
    reply("sed -i 's/bisect/bisect/' /testbed/harvest/store/window_index.py"),
    reply("grep -n 'def ' harvest/store/window_index.py"),
    reply("ls", "The fault is in `harvest/store/window_index.py`."),
    reply("ls", "The fault is in store/window_index.py, I am sure."),
    reply("find . -name window_index.py"),
    reply("head -40 < harvest/store/window_index.py"),
    reply("cat > harvest/store/window_index.py <<'EOF'\nx\nEOF"),
    reply("git log -p -- harvest/store/window_index.py"),
    reply('D=harvest; cat "$D/store/window_index.py"'),
    reply("python -c 'import harvest.store.window_index'"),
    reply("grep -rn 'from harvest.store import ledger, window_index' ."),
    reply("ls", "I will check window_index.py, where the days are compared."),
    *map(reply, [
        "cd harvest/store && cat window_index.py", "cat harvest//store/./cli/../window_index.py",
        "cat harvest/store/'window'_index.py",
        "F=window_index; sed -n '1,80p' harvest/store/$F.py",
        "cat harvest/store/{ledger,window_index}.py",
        "python - <<'EOF'\nimport os\nopen(os.path.join('harvest/store', 'window_index.py'))\nEOF",
        "echo window_index.py | xargs -I N cat harvest/store/N", "cat harvest/store/window*",
        "find . -name 'window_*'", "cat harvest/store/windo?_index.py",
        "git show HEAD:harvest/store/window_index.py",
        "grep -rn midnight --include=window_index.py .", "python -m harvest.store.window_index",
        "python -c 'from harvest.store import window_index'", "git ls-files | grep window_index.py",
    ]),
    *[reply("ls", thought) for thought in [
        "It is in harvest/store/window_index.", "The `window_index` module is at fault.",
        "I look at the module window_index of harvest.store.",
        "I'd say `store.window_index` does this.",
    ]],
])  # fmt: skip
def test_a_file_never_seen_is_a_leak(text):
    assert "path" in kinds(text)


@pytest.mark.parametrize("exchange", [
    ("ls -R", "harvest:\n__init__.py\nstore\n\nharvest/store:\n__init__.py\nwindow_index.py\n"),
    ("ls -R .",
    ".:\nharvest\n\n./harvest:\nstore\n\n./harvest/store:\nledger.py  window_index.py\n"),
    ("find . -name '*.py'", "./harvest/store/window_index.py\n"),
    ("ls harvest/store", "ledger.py\nwindow_index.py\n"),
    ("ls -la harvest/store/", "-rw-r--r-- 1 root root 900 Mar 1 10:00 window_index.py\n"),
    ("cd harvest/store && ls", "window_index.py\n"),
    ("tree harvest", "harvest\n├── store\n│   ├── ledger.py\n│   └── window_index.py\n"),
    ("grep -rln midnight /repo", "/repo/harvest/store/window_index.py\n"),
    ("grep -n import harvest/store/ledger.py", "3:from .window_index import WindowIndex\n"),
    ("cat harvest/a.py", "from harvest.store.window_index import WindowIndex\n"),
    ("ls harvest/store", "'ledger old.py'  'window_index.py'\n"),
    ("ls -m harvest/store", "ledger.py, window_index.py, x.py\n"),
    ("pushd harvest/store && ls", "window_index.py\n"),
])  # fmt: skip
def test_a_file_that_was_seen_listed_or_imported_is_none(exchange):
    assert "path" not in kinds(reply("cat harvest/store/window_index.py"), after(exchange))


@pytest.mark.parametrize("exchange", [
    ("ls harvest", "__init__.py\ncli\nstore\n"),
    ("ls other/store", "index.py\n"),
    ("cat README.md", "The index of every window is kept in memory.\n"),
])  # fmt: skip
def test_its_folder_or_its_words_alone_do_not_show_it(exchange):
    assert "path" in kinds(reply("cat harvest/store/window_index.py"), after(exchange))


def test_a_file_whose_name_and_folder_the_chat_speaks_of_is_a_fair_guess():
    chat = after(("cat README.md", "The window_index of the store folder is rebuilt at night.\n"))
    assert find_leaks(reply("cat harvest/store/window_index.py"), chat, RECORD) == []


@pytest.mark.parametrize("thought", [
    "The index is perhaps in window_index.py.",
    "Something like `harvest.store.window_index` may exist.",
])  # fmt: skip
def test_a_file_said_as_a_guess_is_none(thought):
    assert find_leaks(reply("ls", thought), TASK, RECORD) == []


def test_a_guess_at_a_path_needs_a_reason_that_the_chat_gives():
    guess = "I'd look into `harvest/store/window_index.py`, likely where {} is defined."
    assert find_leaks(reply("ls", guess.format("`entries_after`")), TASK, RECORD) == []
    assert kinds(reply("ls", guess.format("the order")), TASK) == {"path"}
    assert kinds(reply("cat harvest/store/window_index.py", guess.format("`Ledger`"))) == {"path"}


@pytest.mark.parametrize("path, said", [
    ("src/net/tcp.rs", "panics in net::tcp when the peer closes"),
    ("lib/router/layer.js", "at Layer.handle (./router/layer)"),
    ("src/main/java/org/acme/ledger/EntryCache.java", "org.acme.ledger.EntryCache throws"),
    ("pkg/cache/lru.go", "see pkg/cache/lru.go:31"),
    ("src/render/SchemaEditor.ts", "`SchemaEditor` renders twice"),
    ("src/codec/bit_reader.cpp", '#include "codec/bit_reader.h"'),
    ("retry/retry.go", "`retry.Do` never returns"),
    ("harvest/ext/autodoc/__init__.py", "harvest.ext.autodoc loses members"),
])  # fmt: skip
def test_other_languages_have_their_conventions(path, said):
    record = {**RECORD, "files": [path], "patch": ""}
    spoken = [{"role": "user", "content": f"Please solve: {said}"}]
    assert find_leaks(reply(f"cat {path}"), spoken, record) == []
    assert kinds(reply(f"cat {path}"), [{"role": "user", "content": "It fails."}], record) == {
        "path"
    }


@pytest.mark.parametrize("path, text, said", [
    ("acme/store/fields/__init__.py", reply("cat acme/store/fields/__init__.py"),
     "Two fields are lost in `def __init__(self)`."),
    ("acme/internals/api/run.py", reply("cat acme/internals/api/run.py"), "A rapid run is lost."),
    ("api/run.py", reply("cat api/run.py"), "A rapid run is lost."),
    ("acme/api/run.py", reply("cd acme/api && cat run.py"), "A rapid run is lost."),
    ("acme/quick/parsing.py", reply("cat acme/quick/parsing.py"), "Parsing goes quicker there."),
    *[(f"acme/quirks/{name}", reply("ls", "The cause is in acme.quirks."), "Totals are wrong.")
      for name in ("__init__.py", "index.js", "mod.rs")],
])  # fmt: skip
def test_a_common_stem_or_part_of_a_word_does_not_show_a_file(path, text, said):
    record = {**RECORD, "files": [path], "patch": ""}
    assert kinds(text, [{"role": "user", "content": said}], record) == {"path"}


# ---- identifier ----


@pytest.mark.parametrize("text", [
    reply("grep -rn 'entries_after' .", "`_midnight_floor` has to be used there."),
    reply("ls", "The rows need bisect_left."),
    reply("grep -rn '_midnight_floor' ."),
    reply("python -m harvest --strict-midnight"),
    reply("sed -i 's/x/_midnight_floor(x)/' harvest/cli/report.py"),
])  # fmt: skip
def test_a_name_never_seen_is_a_leak(text):
    assert "identifier" in kinds(text)


CODE_SEEN = after(("cat ledger.py", "def entries_after(day): return before"))
GUESSED = record_adding("entries_before_day(since)")
FLAGS = record_adding('parser.add_argument("--durations", "--verbose")')
MADE_UP = record_adding("first_day_rows = 1")
HEADER = {**RECORD, "files": [], "patch": "--- a/x\n+++ b/x\n@@ -1 +1 @@ class that is\n-a\n+b\n"}
SPOKEN_CLASS = "`entries_after` may end in `WindowIndex` of harvest/store/window_index.py."


@pytest.mark.parametrize("text, chat, record", [
    (reply("ls", "I have to use `entries_before_day`."), CODE_SEEN, GUESSED),
    (reply("ls", "The variable `first_day_rows` is wrong."), TASK, MADE_UP),
    (reply("harvest --durations"), TASK, FLAGS),
    (reply("ls", "A `--durations` flag is missing."), TASK, FLAGS),
    (reply("ls", "It ends in `WindowIndex`."), TASK, RECORD),
    (reply("ls", "It should fail with cannot combine frobs with green gadgets there."), TASK,
     record_adding('    raise ValueError("%s: cannot combine frobs with green gadgets" % name)')),
])  # fmt: skip
def test_a_name_that_is_no_guess_is_a_leak(text, chat, record):
    assert kinds(text, chat, record) == {"identifier"}


@pytest.mark.parametrize("text, chat, record", [
    # said as a guess of known parts, made up of known parts, seen, of everyday use
    (reply("ls", "There is probably an `entries_before_day` too."), CODE_SEEN, GUESSED),
    (reply("cat > fix.py <<'EOF'\nfirst_day_rows = ledger.entries_after(since)\nEOF"), TASK,
     MADE_UP),
    (reply("grep -rn '_midnight_floor' .", "`_midnight_floor` is the helper."),
     after(("cat util.py", "def _midnight_floor(moment, tz):\n    ...")), RECORD),
    (reply("harvest --verbose"), TASK, FLAGS),
    # a name of the task behind a small word
    (reply("grep -rn get_settings ."), TASK, record_adding("rows = get_settings(config)")),
    (reply("grep -rn getSettings ."), TASK, record_adding("rows = getSettings(config)")),
    # what stands between two literals; the class of a file that was shown and is spoken of
    (reply("ls", "I look if there is no cache."), TASK,
     record_adding("pick('first' if there is no 'second' or 'third')")),
    (reply("ls", SPOKEN_CLASS),
     after(("ls harvest/store", "harvest/store/window_index.py")), RECORD),
    # only in a comment; a word of prose in a header; vocabulary
    (reply("ls", "Where is `first_of_rows`?"), TASK,
     record_adding("pick(1)  # unlike first_of_rows, this keeps the order")),
    (reply("ls", "I know that it fails."), TASK, HEADER),
    (reply("ls", "`isinstance`, `OrderedDict` or `NotImplementedError`."), TASK,
     record_adding("raise NotImplementedError(os.path, isinstance, OrderedDict)")),
])  # fmt: skip
def test_a_name_that_needs_no_record_is_none(text, chat, record):
    assert find_leaks(text, chat, record) == []


@pytest.mark.parametrize("definition", [
    "    def shift_anchor(self, offset):", "func (w *Window) shift_anchor(offset int) error {",
    "    pub(crate) async fn shift_anchor(&mut self) -> bool {",
    "  public static int shift_anchor(int offset) {",
    "export default function shift_anchor(offset) {",
])  # fmt: skip
def test_the_function_that_a_change_stands_in_or_near_is_a_name(definition):
    head, change = "--- a/x.py\n+++ b/x.py\n@@ -7,3 +7,3 @@\n", "-    b\n+    c\n"
    text = reply("grep -rn shift_anchor .")
    in_it = {**RECORD, "files": [], "patch": f"{head} {definition}\n     a\n{change}"}
    before_it = {**RECORD, "files": [], "patch": f"{head}     a\n{change} {definition}\n"}
    assert kinds(text, TASK, in_it) == kinds(text, TASK, before_it) == {"identifier"}


@pytest.mark.parametrize("names", [
    "setTimeout AbortController useCallback", "WithTimeout HasPrefix WaitGroup",
    "char_indices map_err BTreeMap",
    "computeIfAbsent BufferedReader isEmpty", "unique_ptr emplace_back string_view",
])  # fmt: skip
def test_the_standard_libraries_of_other_languages_are_no_names(names):
    record = record_adding(*names.split())
    for name in names.split():
        assert (
            find_leaks(reply(f"grep -rn '{name}' src", f"Where is `{name}` called?"), TASK, record)
            == []
        )


# ---- line ----

LISTED = after(("find harvest", "harvest/store/window_index.py\nharvest/store/ledger.py\n"))


@pytest.mark.parametrize("text", [
    reply("sed -n '140,149p' harvest/store/window_index.py"),
    reply("nl -ba harvest/store/window_index.py | sed -n '138,150p'"),
    reply("head -n 149 harvest/store/window_index.py | tail -n 10"),
    reply("awk 'NR>=140 && NR<=149' harvest/store/window_index.py"),
    reply("sed -i '142s/right/left/' harvest/store/window_index.py"),
    reply("ls", "The fault is on line 142 of `harvest/store/window_index.py`."),
    reply("ls", "See harvest/store/window_index.py:142."),
    reply("ls", "In window_index.py, lines 140-149 compare the days."),
    reply("ls", "Line number 142 of window_index.py compares the days."),
    reply("ls", "harvest/store/window_index.py(142) compares the days."),
    reply("less +140 harvest/store/window_index.py"),
    reply("vim +142 harvest/store/window_index.py"),
    reply("tail +138 harvest/store/window_index.py"),
    reply("tail -n+138 harvest/store/window_index.py"),
    reply("git log -L140,149:harvest/store/window_index.py"),
    reply("git blame -L 138,+9 harvest/store/window_index.py"),
    reply("grep -n '' harvest/store/window_index.py | sed -n '138,150p'"),
])  # fmt: skip
def test_lines_of_a_file_seen_only_in_a_listing_are_a_leak(text):
    assert "line" in kinds(text, LISTED)


@pytest.mark.parametrize("exchange", [
    ("cat harvest/store/window_index.py", "class WindowIndex:\n    ...\n"),
    ("cat harvest/store/window_index.py harvest/cli/report.py", "class WindowIndex:\n    ...\n"),
    ("grep -n 'def ' harvest/store/window_index.py", "12:def a\n140:def slice_from\n"),
    ("sed -n '60,120p' harvest/store/window_index.py", "    x = 1\n"),
    ("grep -rn slice_from .",
    "./harvest/store/window_index.py:140:    def slice_from(self, moment):\n"),
    ("python r.py", 'File "/repo/harvest/store/window_index.py", line 142, in slice_from\n'),
])  # fmt: skip
def test_lines_near_to_what_was_seen_are_none(exchange):
    text = reply("sed -n '135,160p' harvest/store/window_index.py")
    assert "line" not in kinds(text, [*LISTED, *after(exchange)[2:]])


def test_lines_far_from_what_was_seen_are_a_leak():
    chat = [
        *LISTED,
        *after(("sed -n '1,20p' harvest/store/window_index.py", "import bisect\n"))[2:],
    ]
    assert "line" in kinds(reply("sed -n '140,149p' harvest/store/window_index.py"), chat)


@pytest.mark.parametrize("text", [
    reply("grep -n def harvest/store/window_index.py | sed -n '138,150p'"),
    reply("sed -n '1,20p' harvest/store/window_index.py", "It calls range(142)."),
])  # fmt: skip
def test_a_number_that_counts_something_else_is_no_line(text):
    assert find_leaks(text, LISTED, RECORD) == []


def test_lines_of_a_deleted_file_count_too():
    record = {**RECORD, "patch": "--- a/harvest/old.py\n+++ /dev/null\n@@ -40,2 +0,0 @@\n-a\n-b\n"}
    assert kinds(
        reply("ls", "See line 41 of harvest/old.py."), after(("ls harvest", "old.py")), record
    ) == {"line"}


def test_a_wide_view_or_the_head_of_a_file_aims_at_nothing():
    for command in (
        "cat harvest/store/window_index.py",
        "head -n 200 harvest/store/window_index.py",
        "sed -n '1,200p' harvest/store/window_index.py",
        "sed -n '1,400p' harvest/store/window_index.py",
    ):
        assert find_leaks(reply(command), LISTED, RECORD) == []


def test_a_line_number_without_a_file_is_weighed_by_what_was_shown():
    text = reply("ls", "Line 142 compares the days.")
    assert kinds(text, LISTED) == {"line"}
    chat = after(("nl -ba harvest/cli/report.py", "   139\tdef run():\n   140\t    pass"))
    assert find_leaks(text, chat, RECORD) == []


def test_what_every_project_of_a_language_has_can_be_read():
    assert (
        find_leaks(reply("cat src/lib.rs"), TASK, {**RECORD, "files": ["src/lib.rs"], "patch": ""})
        == []
    )


def test_line_numbers_of_other_files_prove_nothing():
    chat = after(("ls harvest/cli", "report.py"))
    assert find_leaks(reply("sed -n '140,149p' harvest/cli/report.py"), chat, RECORD) == []
    thought = "In report.py, which I have just read as a whole, line 142 is wrong."
    assert find_leaks(reply("ls", thought), chat, RECORD) == []
    assert kinds(reply("ls", thought.replace("report", "window_index")), LISTED) == {"line"}


# ---- verbatim ----


@pytest.mark.parametrize("text", [
    reply("ls", "It should be `position = bisect_left(self._stamps, floor)`."),
    reply("cat > a.py <<'EOF'\n        position = bisect_left(self._stamps,  floor)\nEOF"),
    reply("sed -i 's/return self\\._rows\\[position:\\]/pass/' a.py"),
    reply("ls", "We want position = bisect_left(self._stamps, start) here."),
    reply("ls", "Open the window at midnight so that the first day of a report counts as well."),
])  # fmt: skip
def test_a_line_of_the_record_is_a_leak(text):
    assert "verbatim" in kinds(text)


def test_a_line_that_was_seen_is_none():
    chat = after(
        ("cat harvest/store/window_index.py", "\n".join(line[1:] for line in PATCH.splitlines()))
    )
    text = reply("ls", "It should be `position = bisect_left(self._stamps, floor)`.")
    assert find_leaks(text, chat, RECORD) == []


def test_common_lines_prove_nothing():
    lines = [
        "if __name__ == '__main__':",
        "    return None",
        "from __future__ import annotations",
        "else:",
        "for k in keys:",
        "class Base:",
    ]
    text = reply("cat > r.py <<'EOF'\n" + "\n".join(lines) + "\nEOF")
    assert find_leaks(text, TASK, record_adding(*lines)) == []

    record = {
        **RECORD,
        "description": "Each widget counts once, also one that stands\nin the parser.",
    }
    assert find_leaks(reply("ls", "The bug is in the parser."), TASK, record) == []


# ---- odd input ----


@pytest.mark.parametrize("record", [
    {}, None, {**RECORD, "patch": None, "files": None}, {**RECORD, "patch": "", "files": []},
    {**RECORD, "patch": "not a patch @@ -1 +1 @@", "files": [None, "", "/"]},
    {**RECORD, "instance_id": None, "repo": 3},
    {**RECORD, "patch": "--- a/x.sql\n+++ b/x.sql\n@@ -1,2 +1 @@\n--- a comment\n+++ b\n"},
    {**RECORD, "patch": "--- a/x.py\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-a\n-b\n"},
])  # fmt: skip
def test_odd_records_do_no_harm(record):
    for text in ("", "no block", reply("ls"), reply("cat 'open"), FENCE * 3, reply("cat x\0y")):
        assert isinstance(find_leaks(text, TASK, record), list)


@pytest.mark.parametrize("messages", [
    [], None, [None, {}, {"role": "user"}], [{"role": "assistant", "content": None}],
])  # fmt: skip
def test_odd_messages_do_no_harm(messages):
    assert "path" in kinds(reply("cat harvest/store/window_index.py"), messages)
    assert find_leaks(None, messages, RECORD) == []


# ---- words in full, context lines, edits ----


def test_a_pattern_of_words_that_the_chat_holds_is_none():
    for pattern in ("*report*", "*settings*", "ledger*", "*.py", "*i*"):
        assert find_leaks(reply(f"find . -name '{pattern}'"), TASK, RECORD) == []


def test_a_word_of_the_chat_in_a_folder_that_was_shown_is_a_fair_guess():
    chat = after(
        ("find . -type d", "./harvest\n./harvest/store"), ("cat README", "A window_index is kept.")
    )
    assert find_leaks(reply("cat harvest/store/window_index.py"), chat, RECORD) == []


@pytest.mark.parametrize("text", [
    reply("grep -rn slice_from ."), reply("ls", "The class `WindowIndex` does it."),
    reply("git log -Sslice_from --oneline"), reply("git log -G'slice_from'"),
    reply("grep -rn 'slice''_from' ."),
])  # fmt: skip
def test_names_around_a_change_count_too(text):
    assert "identifier" in kinds(text)


@pytest.mark.parametrize("text", [
    reply("grep -rn 'bisect_right(self._stamps, moment)' ."),
    reply("git grep -nF 'self._rows[position:]'"),
    reply("grep -rn 'window opens at midnight of' ."),
    reply("grep -rn 'bisect_right(self\\._stamps, mom' ."),
])  # fmt: skip
def test_to_search_for_hidden_code_is_a_leak(text):
    assert "verbatim" in kinds(text)


@pytest.mark.parametrize("command", [
    "sed -n '128,136p' harvest/store/window_index.py",
    "awk 'NR==130' harvest/store/window_index.py",
    "perl -ne 'print if 126..134' harvest/store/window_index.py",
    "git show HEAD:harvest/store/window_index.py | sed -n '140,149p'",
])  # fmt: skip
def test_the_lines_that_lead_to_a_hunk_count_too(command):
    assert "line" in kinds(
        reply(command), [*TASK, *after(("ls harvest/store", "window_index.py"))[2:]]
    )


NAMED = [{"role": "user", "content": "harvest/store/window_index.py is slow on long windows."}]


@pytest.mark.parametrize("command", [
    "sed -i 's/a/b/' harvest/store/window_index.py",
    "cd harvest/store && sed -i 's/a/b/' window_index.py",
    "cat > harvest/store/window_index.py <<'EOF'\nx\nEOF",
    "echo x | tee -a harvest/store/window_index.py",
    "python - <<'EOF'\np = 'harvest/store/window_index.py'\nopen(p, 'w').write('x')\nEOF",
])  # fmt: skip
def test_to_edit_a_file_that_only_the_task_named_is_a_leak(command):
    assert "path" in kinds(reply(command), NAMED)
    seen = {"role": "assistant", "content": reply("cat harvest/store/window_index.py")}
    shown = {"role": "user", "content": "class A:\n"}
    assert "path" not in kinds(reply(command), [*NAMED, seen, shown])
