"""The files, hunks and lines of a diff."""

from __future__ import annotations

import subprocess

import pytest

from common.audit.texts import changed_files, hunk_lines, parse_patch

pytestmark = pytest.mark.filterwarnings("ignore:invalid")  # escapes that git never writes
GIT = r"""diff --git a/new.py b/new.py
new file mode 100644
--- /dev/null
+++ b/new.py
@@ -0,0 +1,2 @@
+++ b/not.py
+x
diff --git a/old.py b/old.py
deleted file mode 100644
--- a/old.py
+++ /dev/null
@@ -1 +0,0 @@
--- a/neither.py
diff --git a/was it.py b/is it.py
similarity index 100%
rename from was it.py
rename to is it.py
diff --git "a/caf\303\251 \"x\".txt" "b/caf\303\251 \"x\".txt"
--- "a/caf\303\251 \"x\".txt"
+++ "b/caf\303\251 \"x\".txt"
@@ -1,2 +1,2 @@ def tally(parts):
 a
-b
+c
\ No newline at end of file
diff --git a/run me.sh b/run me.sh
old mode 100644
new mode 100755
diff --git a/logo.png b/logo.png
index 1..2 100644
Binary files a/logo.png and b/logo.png differ
"""


def test_files_and_hunks_of_a_git_diff():
    files = parse_patch(GIT)
    assert [(file.old_path, file.path) for file in files] == [
        (None, "new.py"),
        ("old.py", "old.py"),
        ("was it.py", "is it.py"),
        ('café "x".txt', 'café "x".txt'),
        ("run me.sh", "run me.sh"),
        ("logo.png", "logo.png"),
    ]
    assert [len(file.hunks) for file in files] == [1, 1, 0, 1, 0, 0]
    assert hunk_lines(files[0].hunks[0]) == ["+++ b/not.py", "+x"]
    assert hunk_lines(files[1].hunks[0]) == ["--- a/neither.py"]
    hunk = files[3].hunks[0]
    assert (hunk.source_start, hunk.source_length) == (1, 2)
    assert (hunk.target_start, hunk.target_length) == (1, 2)
    assert hunk.section_header == "def tally(parts):"
    assert hunk_lines(hunk) == [" a", "-b", "+c"]


def test_changed_files():
    named = ["new.py", "old.py", "was it.py", "is it.py", 'café "x".txt', "run me.sh", "logo.png"]
    assert changed_files(GIT) == named
    assert changed_files(GIT.replace("\n", "\r\n")) == named
    plain = "--- one.c.orig\t2020-01-01\n+++ one.c\t2020-01-02\n@@ -1 +1 @@\n-a\n+b\n"
    assert changed_files(plain + plain.replace("one", "two")) == ["one.c", "two.c"]
    copied = "diff --git a/x.py b/y.py\nsimilarity index 90%\ncopy from x.py\ncopy to y.py\n"
    assert changed_files(copied) == ["y.py"]
    assert changed_files(GIT + GIT) == named


@pytest.mark.parametrize(
    "text", ["", "\n", "no diff at all", "+++ b/x", '+++ "', "--- a", "@@ -1 +1 @@", 'diff --git "']
)
def test_what_is_no_diff_raises_nothing(text):
    assert changed_files(text + "\n") == []
    for length in range(0, len(GIT), 7):  # cut off anywhere
        parse_patch(GIT[:length] + text)


def test_a_path_with_odd_escapes_raises_nothing():
    for name in ("\\q", "\\777", "\\", "\\x"):
        assert len(parse_patch(f'--- a\n+++ "b/{name}"\n@@ -1 +1 @@\n-a\n+b\n')) == 1


def test_a_hunk_whose_last_empty_lines_are_lost_ends_at_the_next_header():
    short = "--- a/x\n+++ b/x\n@@ -1,4 +1,3 @@\n a\n-b\ndiff --git a/y b/y\n@@ -3 +3 @@\n-c\n+d\n"
    first, second = parse_patch(short)
    assert hunk_lines(first.hunks[0]) == [" a", "-b", " ", " "]
    assert second.path == "y"
    assert hunk_lines(second.hunks[0]) == ["-c", "+d"]


def test_lines_hold_form_feeds_and_empty_context():
    text = "--- a/x\n+++ b/x\n@@ -1,4 +1,4 @@\n a\x0cb\u2028c\n\n-\x1cd\n+e\n f\n"
    lines = hunk_lines(parse_patch(text)[0].hunks[0])
    assert lines == [" a\x0cb\u2028c", " ", "-\x1cd", "+e", " f"]


def test_a_diff_that_git_makes(tmp_path):
    def git(*words: str) -> str:
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        run = subprocess.run(["git", *name, *words], cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout

    git("init", "-q")
    lines = [f"line {number} of a file\n" for number in range(40)]
    (tmp_path / "gone.py").write_text("another text\n")
    for name in ("kept.py", "moved.py", "with space.py", "tab\there.py"):
        (tmp_path / name).write_text("".join(lines))
    git("add", "-A")
    git("commit", "-qm", "first")
    (tmp_path / "moved.py").rename(tmp_path / "b.py")
    (tmp_path / "gone.py").unlink()
    for name in ("kept.py", "b.py", "with space.py", "tab\there.py"):
        (tmp_path / name).write_text("".join(["-- first\n", *lines[:20], "middle\n", *lines[21:]]))
    (tmp_path / "empty.py").touch()
    git("add", "-A")
    patch = git("diff", "--cached", "-M50%")
    told = git("diff", "--cached", "-M50%", "--name-only", "-z").strip("\0").split("\0")
    assert [file.path for file in parse_patch(patch)] == told
    assert sorted(changed_files(patch)) == sorted([*told, "moved.py"])
    kept = next(file for file in parse_patch(patch) if file.path == "kept.py")
    assert [hunk.target_start for hunk in kept.hunks] == [1, 19]
    reverse = parse_patch(git("diff", "--cached", "-R", "-M50%"))
    kept = next(file for file in reverse if file.path.endswith("kept.py"))
    assert hunk_lines(kept.hunks[0])[0] == "--- first"
