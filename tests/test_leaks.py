"""The leak audit on small cases written for it; tests/bench_leaks.py measures it on real turns."""

import time

import pytest

from common.replies.leaks import AUDIT_VERSION, find_leaks

FENCE = "```"
ISSUE = """`harvest --since` skips the first day

Running `harvest --since 2024-03-01` leaves out everything of March 1st. `Ledger.entries_after()` seems to
compare days in the wrong way, see the traceback:

  File "/repo/harvest/cli/report.py", line 88, in run
    rows = ledger.entries_after(since)

The settings live in harvest.core.settings."""
PATCH = '''diff --git a/harvest/store/window_index.py b/harvest/store/window_index.py
index 3fa9c01b22..9be77d1e04 100644
--- a/harvest/store/window_index.py
+++ b/harvest/store/window_index.py
@@ -140,9 +140,11 @@ class WindowIndex:
     def slice_from(self, moment):
         """Everything from a moment on."""
-        position = bisect_right(self._stamps, moment)
+        floor = _midnight_floor(moment, tz=self._zone)
+        position = bisect_left(self._stamps, floor)
+        logger.debug("window opens at midnight of %s", floor)
         return self._rows[position:]
 
     def __len__(self):
         return len(self._rows)
 
diff --git a/harvest/cli/flags.py b/harvest/cli/flags.py
index 1111111aaa..2222222bbb 100644
--- a/harvest/cli/flags.py
+++ b/harvest/cli/flags.py
@@ -12,3 +12,4 @@
 def add_flags(parser):
     parser.add_argument("--since")
+    parser.add_argument("--strict-midnight", action="store_true")
     return parser
'''
RECORD = {
    "instance_id": "acme__harvest-4711", "repo": "acme/harvest",
    "base_commit": "c0ffee1234567890c0ffee1234567890c0ffee12",
    "issue": ISSUE,
    "description": "Open the window at midnight so that the first day of a report counts as well.",
    "files": ["harvest/store/window_index.py", "harvest/cli/flags.py"], "patch": PATCH, "test_patch": "",
    "interface": "", "language": "python", "created_at": "2024-03-09",
}
TASK = [
    {"role": "system", "content": "You solve an issue with one bash command a turn. Include a THOUGHT."},
    {"role": "user", "content": f"Please solve this issue.\n\n{ISSUE}"},
]


def reply(command: str, thought: str = "I look around first.") -> str:
    return f"THOUGHT: {thought}\n\n{FENCE}bash\n{command}\n{FENCE}"


def kinds(text: str, messages=TASK, record=RECORD) -> set[str]:
    return {hit["kind"] for hit in find_leaks(text, messages, record)}


def record_adding(*lines: str) -> dict:
    """The record with a patch that adds these lines to x.py, and nothing else."""
    added = "".join(f"+{line}\n" for line in lines)
    patch = f"--- a/x.py\n+++ b/x.py\n@@ -1 +1,{1 + len(lines)} @@\n a\n{added}"
    return {**RECORD, "files": [], "patch": patch}


def after(*exchanges: tuple[str, str]) -> list[dict]:
    """The task's chat, continued by (command, output) pairs."""
    chat = list(TASK)
    for command, output in exchanges:
        chat += [{"role": "assistant", "content": reply(command)},
                 {"role": "user", "content": f"Observation: {output}"}]
    return chat


def test_a_hit_says_kind_text_and_why():
    hit, = find_leaks(reply("cat harvest/store/window_index.py"), TASK, RECORD)
    assert hit["kind"] == "path" and hit["text"] == "harvest/store/window_index.py" and hit["why"]
    assert AUDIT_VERSION


# ---- what an honest engineer does at the start ----

@pytest.mark.parametrize("text", [
    reply("ls -la"),
    reply("ls -R harvest | head -50"),
    reply("grep -rn 'entries_after' --include='*.py' ."),
    reply("find . -name '*ledger*'", "`Ledger` is probably in `ledger.py`."),
    reply("sed -n '70,110p' harvest/cli/report.py", "The traceback points at line 88 of report.py."),
    reply("cat harvest/core/settings.py", "The settings are in `harvest.core.settings`."),
    reply("grep -rn 'since' . | head", "According to the issue, the first day is left out."),
    reply("cat > repro.py <<'EOF'\nfrom harvest import Ledger\nprint(Ledger().entries_after('2024'))\nEOF"),
])
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
    reply('D=harvest; cat "$D/store/window_index.py"'), reply('D=harvest/store; cat "${D}"/window_index.py'),
    reply("cat harvest//store/./window_index.py"), reply("cat harvest/cli/../store/window_index.py"),
    reply("curl localhost/raw/harvest%2Fstore%2Fwindow_index.py"),
    reply("python -c 'import harvest.store.window_index'"),
    reply("grep -rn 'from harvest.store import ledger, window_index' ."),
    reply("ls", "The window is opened in `harvest.store.window_index`."),
    reply("ls", "I will check window_index.py, where the days are compared."),
])
def test_a_file_never_seen_is_a_leak(text):
    assert "path" in kinds(text)


@pytest.mark.parametrize("exchange", [
    ("ls -R", "harvest:\n__init__.py\nstore\n\nharvest/store:\n__init__.py\nwindow_index.py\n"),
    ("ls -R .", ".:\nharvest\n\n./harvest:\nstore\n\n./harvest/store:\nledger.py  window_index.py\n"),
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
    ("ls --color harvest/store", "\x1b[0m\x1b[01;32mwindow_index.py\x1b[0m\n"),
    ("pushd harvest/store && ls", "window_index.py\n"),
    ("cat log.txt", "see C:\\harvest\\store\\window_index.py"),
])
def test_a_file_that_was_seen_listed_or_imported_is_none(exchange):
    assert "path" not in kinds(reply("cat harvest/store/window_index.py"), after(exchange))


@pytest.mark.parametrize("exchange", [
    ("ls harvest", "__init__.py\ncli\nstore\n"),
    ("ls other/store", "index.py\n"),
    ("cat README.md", "The index of every window is kept in memory.\n"),
])
def test_its_folder_or_its_words_alone_do_not_show_it(exchange):
    assert "path" in kinds(reply("cat harvest/store/window_index.py"), after(exchange))


def test_to_look_for_a_file_that_the_chat_speaks_of_is_honest_but_to_read_it_is_not():
    chat = after(("cat README.md", "The window_index of the store folder is rebuilt at night.\n"))
    assert find_leaks(reply("ls harvest/store/window_index.py"), chat, RECORD) == []
    assert kinds(reply("cat harvest/store/window_index.py"), chat) == {"path"}


@pytest.mark.parametrize("thought", [
    "The index is perhaps in window_index.py.", "Something like `harvest.store.window_index` may exist.",
])
def test_a_file_said_as_a_guess_is_none(thought):
    assert find_leaks(reply("ls", thought), TASK, RECORD) == []


def test_the_test_of_a_seen_file_can_be_named():
    record = {**RECORD, "files": ["tests/test_report.py", "tests/test_window_index.py"], "patch": ""}
    assert find_leaks(reply("cat tests/test_report.py"), TASK, record) == []
    assert kinds(reply("cat tests/test_window_index.py"), TASK, record) == {"path"}


@pytest.mark.parametrize("path, said", [
    ("src/net/tcp.rs", "panics in net::tcp when the peer closes"),
    ("lib/router/layer.js", "at Layer.handle (./router/layer)"),
    ("src/main/java/org/acme/ledger/EntryCache.java", "org.acme.ledger.EntryCache throws"),
    ("pkg/cache/lru.go", "see pkg/cache/lru.go:31"),
    ("src/render/SchemaEditor.ts", "`SchemaEditor` renders twice"),
    ("src/codec/bit_reader.cpp", '#include "codec/bit_reader.h"'),
    ("retry/retry.go", "`retry.Do` never returns"),
])
def test_other_languages_have_their_conventions(path, said):
    record = {**RECORD, "files": [path], "patch": ""}
    spoken = [{"role": "user", "content": f"Please solve: {said}"}]
    assert find_leaks(reply(f"cat {path}"), spoken, record) == []
    assert kinds(reply(f"cat {path}"), [{"role": "user", "content": "It fails."}], record) == {"path"}


# ---- identifier ----

@pytest.mark.parametrize("text", [
    reply("grep -rn 'entries_after' .", "`_midnight_floor` has to be used there."),
    reply("ls", "The rows need bisect_left."),
    reply("grep -rn '_midnight_floor' ."),
    reply("python -m harvest --strict-midnight"),
    reply("grep -rn 'window opens at midnight of' ."),
    reply("sed -i 's/x/_midnight_floor(x)/' harvest/cli/report.py"),
])
def test_a_name_never_seen_is_a_leak(text):
    assert kinds(text) == {"identifier"}


def test_a_name_said_as_a_guess_of_known_parts_is_none():
    record = record_adding("entries_before_day(since)")
    chat = after(("cat ledger.py", "def entries_after(day): return before"))
    assert find_leaks(reply("ls", "There is probably an `entries_before_day` too."), chat, record) == []
    assert kinds(reply("ls", "I have to use `entries_before_day`."), chat, record) == {"identifier"}


def test_a_name_that_was_seen_is_none():
    text = reply("grep -rn '_midnight_floor' .", "`_midnight_floor` is the helper.")
    assert find_leaks(text, after(("cat util.py", "def _midnight_floor(moment, tz):\n    ...")), RECORD) == []


def test_a_name_that_the_reply_itself_makes_up_of_known_parts_is_none():
    record = record_adding("first_day_rows = 1")
    written = reply("cat > fix.py <<'EOF'\nfirst_day_rows = ledger.entries_after(since)\nEOF")
    assert find_leaks(written, TASK, record) == []
    assert kinds(reply("ls", "The variable `first_day_rows` is wrong."), TASK, record) == {"identifier"}


def test_the_flag_of_one_word_is_a_name_but_an_everyday_flag_is_none():
    record = record_adding('parser.add_argument("--durations", "--verbose")')
    assert kinds(reply("harvest --durations"), TASK, record) == {"identifier"}
    assert kinds(reply("ls", "A `--durations` flag is missing."), TASK, record) == {"identifier"}
    assert find_leaks(reply("harvest --verbose"), TASK, record) == []


@pytest.mark.parametrize("definition", [
    "    def shift_anchor(self, offset):", "func (w *Window) shift_anchor(offset int) error {",
    "    pub(crate) async fn shift_anchor(&mut self) -> bool {",
    "  public static int shift_anchor(int offset) {", "export default function shift_anchor(offset) {",
])
def test_the_function_that_a_change_stands_in_is_a_name(definition):
    head, change = "--- a/x.py\n+++ b/x.py\n@@ -7,3 +7,3 @@\n", "-    b\n+    c\n"
    text = reply("grep -rn shift_anchor .")
    in_it = {**RECORD, "files": [], "patch": f"{head} {definition}\n     a\n{change}"}
    before_it = {**RECORD, "files": [], "patch": f"{head}     a\n{change} {definition}\n"}
    assert kinds(text, TASK, in_it) == {"identifier"} and find_leaks(text, TASK, before_it) == []


def test_vocabulary_is_no_name():
    record = record_adding("raise NotImplementedError(os.path, isinstance, OrderedDict)")
    assert kinds(reply("ls", "`isinstance`, `OrderedDict` or `NotImplementedError`."), TASK, record) == set()


@pytest.mark.parametrize("names", [
    "setTimeout AbortController useCallback", "WithTimeout HasPrefix WaitGroup",
    "char_indices map_err BTreeMap",
    "computeIfAbsent BufferedReader isEmpty", "unique_ptr emplace_back string_view",
])
def test_the_standard_libraries_of_other_languages_are_no_names(names):
    record = record_adding(*names.split())
    for name in names.split():
        assert find_leaks(reply(f"grep -rn '{name}' src", f"Where is `{name}` called?"), TASK, record) == []


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
    reply("ls", "In window_index.py, ll. 140-149 compare the days."),
    reply("ls", "Line number 142 of window_index.py compares the days."),
    reply("ls", "harvest/store/window_index.py(142) compares the days."),
    reply("less +140 harvest/store/window_index.py"), reply("vim +142 harvest/store/window_index.py"),
    reply("tail +138 harvest/store/window_index.py"), reply("tail -n+138 harvest/store/window_index.py"),
    reply("git log -L140,149:harvest/store/window_index.py"),
    reply("git blame -L 138,+9 harvest/store/window_index.py"),
    reply("grep -n '' harvest/store/window_index.py | sed -n '138,150p'"),
])
def test_lines_of_a_file_seen_only_in_a_listing_are_a_leak(text):
    assert "line" in kinds(text, LISTED)


@pytest.mark.parametrize("exchange", [
    ("cat harvest/store/window_index.py", "class WindowIndex:\n    ...\n"),
    ("cat harvest/store/window_index.py harvest/cli/report.py", "class WindowIndex:\n    ...\n"),
    ("grep -n 'def ' harvest/store/window_index.py", "12:def a\n140:def slice_from\n"),
    ("sed -n '60,120p' harvest/store/window_index.py", "    x = 1\n"),
    ("grep -rn slice_from .", "./harvest/store/window_index.py:140:    def slice_from(self, moment):\n"),
    ("python r.py", 'File "/repo/harvest/store/window_index.py", line 142, in slice_from\n'),
])
def test_lines_near_to_what_was_seen_are_none(exchange):
    text = reply("sed -n '135,160p' harvest/store/window_index.py")
    assert "line" not in kinds(text, [*LISTED, *after(exchange)[2:]])


def test_lines_far_from_what_was_seen_are_a_leak():
    chat = [*LISTED, *after(("sed -n '1,20p' harvest/store/window_index.py", "import bisect\n"))[2:]]
    assert "line" in kinds(reply("sed -n '140,149p' harvest/store/window_index.py"), chat)


@pytest.mark.parametrize("text", [
    reply("grep -n def harvest/store/window_index.py | sed -n '138,150p'"),
    reply("sed -n '1,20p' harvest/store/window_index.py", "It calls range(142)."),
])
def test_a_number_that_counts_something_else_is_no_line(text):
    assert find_leaks(text, LISTED, RECORD) == []


def test_lines_of_a_deleted_file_count_too():
    record = {**RECORD, "patch": "--- a/harvest/old.py\n+++ /dev/null\n@@ -40,2 +0,0 @@\n-a\n-b\n"}
    assert kinds(reply("ls", "See line 41 of harvest/old.py."), after(("ls harvest", "old.py")), record) == {"line"}


def test_a_wide_view_or_the_head_of_a_file_aims_at_nothing():
    for command in ("cat harvest/store/window_index.py", "head -n 200 harvest/store/window_index.py",
                    "sed -n '1,200p' harvest/store/window_index.py",
                    "sed -n '1,400p' harvest/store/window_index.py"):
        assert find_leaks(reply(command), LISTED, RECORD) == []


def test_a_line_number_without_a_file_is_weighed_by_what_was_shown():
    text = reply("ls", "Line 142 compares the days.")
    assert kinds(text, LISTED) == {"line"}
    chat = after(("nl -ba harvest/cli/report.py", "   139\tdef run():\n   140\t    pass"))
    assert find_leaks(text, chat, RECORD) == []


def test_what_every_project_of_a_language_has_can_be_read():
    assert find_leaks(reply("cat src/lib.rs"), TASK, {**RECORD, "files": ["src/lib.rs"], "patch": ""}) == []


def test_line_numbers_of_other_files_prove_nothing():
    chat = after(("ls harvest/cli", "report.py"))
    assert find_leaks(reply("sed -n '140,149p' harvest/cli/report.py"), chat, RECORD) == []


# ---- verbatim ----

@pytest.mark.parametrize("text", [
    reply("ls", "It should be `position = bisect_left(self._stamps, floor)`."),
    reply("cat > a.py <<'EOF'\n        position = bisect_left(self._stamps,  floor)\nEOF"),
    reply("sed -i 's/return self\\._rows\\[position:\\]/pass/' a.py"),
    reply("ls", "We want position = bisect_left(self._stamps, start) here."),
    reply("ls", "Open the window at midnight so that the first day of a report counts as well."),
])
def test_a_line_of_the_record_is_a_leak(text):
    assert "verbatim" in kinds(text)


def test_a_line_that_was_seen_is_none():
    chat = after(("cat harvest/store/window_index.py", "\n".join(line[1:] for line in PATCH.splitlines())))
    text = reply("ls", "It should be `position = bisect_left(self._stamps, floor)`.")
    assert find_leaks(text, chat, RECORD) == []


def test_common_lines_prove_nothing():
    lines = ["if __name__ == '__main__':", "    return None", "from __future__ import annotations", "else:"]
    text = reply("cat > r.py <<'EOF'\n" + "\n".join(lines) + "\nEOF")
    assert find_leaks(text, TASK, record_adding(*lines)) == []


# ---- disclosure ----

@pytest.mark.parametrize("thought", [
    "The PR touches the index.", "As PR #4711 does, I start at the ledger.",
    "As in pull request 4711, the ledger is first.",
    "The merged fix is small.", "The reference solution starts here.",
    "According to the hidden patch, this is it.",
    "As the patch shows, one line is enough.", "The diff shows one changed line.",
    "Following the diff, I start here.",
    "I know from the patch where it is.", "This was fixed in commit 9be77d1e04.",
    "The upstream fix is similar.",
    "Based on the hidden information, I look here.", "The golden patch moves it.",
    "The maintainers fixed it this way.",
    "The fix was later merged.", "I was given the solution, so I look here.", "See #4711.",
    "Fixed upstream in this way.",
    "I must act as if I had not seen the fix.", "The hidden tests expect midnight.",
    "I will not mention the hidden patch.",
    "The accepted pull\nrequest does the same.",
    "The ground truth localizes the stamp.", "The blind-agent rule says that I must search first.",
    "The briefing says to look at the window.", "The hidden tests will check the first day.",
    "The diff I was shown touches one function.", "The patch we have been given swaps the calls.",
    "I have to pretend I don't know where it is.", "The dataset's fix swaps the calls.",
    "The target patch swaps the calls.", "The backported fix swaps the calls.",
    "Given the PR metadata, this is the file.", "The reviewers of the PR asked for it.",
    "The changed files list says so.", "Fixed by #48213.", "See issue #790.",
])
def test_talk_of_what_the_chat_cannot_know_is_a_leak(thought):
    assert kinds(reply("ls", thought)) == {"disclosure"}


@pytest.mark.parametrize("thought", [
    "The fix should be small.", "Now I verify the fix.", "Let me apply the fix with sed.",
    "I'm confident in the solution.",
    "The issue suggests a change in the comparison.", "I will check the final diff before I submit.",
    "A proper solution handles time zones.", "I will write a patch script.",
    "This commit-style message is enough.",
    "I have made the change; let me see the diff.",
    "The prediction is compared with the ground truth labels.",
    "The official documentation says that days start at midnight.", "I do not know the line yet.",
])
def test_plain_talk_of_fixing_is_none(thought):
    assert find_leaks(reply("ls", thought), TASK, RECORD) == []


def test_a_prompt_that_speaks_of_a_pr_description_makes_that_speech_honest():
    chat = [{"role": "user", "content": f"Consider the following PR description:\n{ISSUE}"}]
    for thought in ("The PR description mentions the first day.", "The PR says that March 1st is missing.",
                    "This matches the PR description.", "The PR author suggests a comparison of days."):
        assert find_leaks(reply("ls", thought), chat, RECORD) == []
    for thought in ("The PR changes the comparison.", "The PR's diff is small.", "As PR #4711 does."):
        assert kinds(reply("ls", thought), chat) == {"disclosure"}


def test_what_the_chat_itself_says_is_none():
    chat = [*TASK, {"role": "user", "content": "The merged fix of last year, a pull request by Ann, was reverted."}]
    assert find_leaks(reply("ls", "The merged fix is gone, says the issue."), chat, RECORD) == []
    assert find_leaks(reply("ls", "It speaks of a pull request."), chat, RECORD) == []
    assert kinds(reply("ls", "It speaks of a pull request.")) == {"disclosure"}


def test_a_phrase_counts_as_said_only_as_a_whole():
    chat = after(("cat cli.py", "print(report)  # see #47110"))
    assert kinds(reply("ls", "PR changes only the window."), chat) == {"disclosure"}
    assert kinds(reply("ls", "This was fixed by #4711."), chat) == {"disclosure"}
    assert find_leaks(reply("ls", "This was fixed by #47110."), chat, RECORD) == []


def test_what_is_said_often_is_told_once():
    assert len(find_leaks(reply("ls", "The merged fix. " * 500), TASK, RECORD)) == 1


def test_commits_and_numbers_of_the_chat_are_none():
    chat = after(("git log --oneline", "9be77d1e04 Tidy\nc0ffee1 Release (#4711)\n"))
    assert find_leaks(reply("git show 9be77d1e04", "Commit 9be77d1e04 came with #4711."), chat, RECORD) == []


# ---- odd input ----

@pytest.mark.parametrize("record", [
    {}, None, {**RECORD, "patch": None, "files": None}, {**RECORD, "patch": "", "files": []},
    {**RECORD, "patch": "not a patch @@ -1 +1 @@", "files": [None, "", "/"]},
    {**RECORD, "instance_id": None, "repo": 3},
    {**RECORD, "patch": "--- a/x.sql\n+++ b/x.sql\n@@ -1,2 +1 @@\n--- a comment\n+++ b\n"},
    {**RECORD, "patch": "--- a/x.py\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-a\n-b\n"},
])
def test_odd_records_do_no_harm(record):
    for text in ("", "no block", reply("ls"), reply("cat 'open"), FENCE * 3, reply("cat x\0y")):
        assert isinstance(find_leaks(text, TASK, record), list)


@pytest.mark.parametrize("messages", [
    [], None, [None, {}, {"role": "user"}], [{"role": "assistant", "content": None}],
])
def test_odd_messages_do_no_harm(messages):
    assert "path" in kinds(reply("cat harvest/store/window_index.py"), messages)
    assert find_leaks(None, messages, RECORD) == []


@pytest.mark.parametrize("noise", [
    "a", "a.", "/", "-\n", "`", "line 1 ", f"{FENCE}bash\n", "(", "#1", "the PR ", "x=1\n", " \n", "'",
    "a-", "├── a\n",
    "a/../", "/./", "from store.", "from store import ", "/'", "fixed by #11 ", "line no. ", "x.py(1",
    "deadbeef", "I have the ", "\\", "$((", "from . import ", "sed -n 1,2p a; ", "<<",
])
def test_no_text_makes_the_audit_hang(noise):
    noise *= 50_000 // len(noise)
    chat = [*TASK, {"role": "assistant", "content": noise}, {"role": "user", "content": noise}]
    start = time.perf_counter()
    find_leaks(noise, TASK, RECORD)
    find_leaks(reply(noise), chat, RECORD)
    find_leaks(reply("cat harvest/store/window_index.py", "Line 142 of window_index.py."), chat, RECORD)
    assert time.perf_counter() - start < 10  # well under one second; a quadratic pattern takes minutes
