"""Peeking: at later commits, other branches, a copy of the project; and chats that show the fix."""

import pytest

from common.audit.history import shows_fix
from common.audit.leaks import find_leaks
from tests.leak_cases import PATCH, RECORD, TASK, after, kinds, reply

ADDED = "        floor = _midnight_floor(moment, tz=self._zone)\n"


@pytest.mark.parametrize("command", [
    "git log --all -p", "git log --oneline --graph --all | head", "git log --branches -3",
    "git log -p --remotes",
    "git log --tags -1", "git --no-pager log --all", "git -C harvest log --all -- cli/report.py",
    "cd x && git log -g",
    "git log origin/main -p", "git log HEAD..origin/main", "git log HEAD..main", "git log @{u}",
    "git log HEAD@{1}",
    "git diff HEAD origin/main", "git diff HEAD..origin/main -- harvest", "git diff main...HEAD",
    "git diff origin/main -- harvest/cli/report.py", "git show origin/main:harvest/cli/report.py",
    "git show main:harvest/cli/report.py", "git show refs/remotes/origin/HEAD", "git show v2.4",
    "git checkout main", "git checkout origin/main -- harvest", "git switch main",
    "git merge origin/main",
    "git restore --source=origin/main harvest", "git restore -s main harvest",
    "git cherry-pick origin/main",
    "git fetch origin", "git pull", "git fetch && git show FETCH_HEAD",
    "git reset --hard origin/main",
    "git reflog", "git fsck --lost-found", "git ls-remote", "git for-each-ref",
    "git rev-list --all | head",
    "git grep midnight origin/main", "git blame origin/main -- harvest/cli/report.py",
    "git worktree add ../later origin/main", "git archive main | tar x", "cat .git/packed-refs",
    "git show $(git rev-list --all -n 1)", "git rev-parse origin/main | xargs git show",
    "sudo git log --all", "bash -lc 'git log --all -p'", 'eval "git log --all"',
    "bash <<'E'\ngit log --all\nE",
    "B=origin/main; git show $B:harvest/cli/report.py",
])  # fmt: skip
def test_a_look_at_other_commits_is_a_hit(command):
    assert "history" in kinds(reply(command))


@pytest.mark.parametrize("command", [
    "pip download harvest", "pip download harvest==9.1 --no-deps -d /tmp/x",
    "python3 -m pip download harvest",
    "pip install -U harvest --target /tmp/new", "pip3 install 'harvest>=2'",
    "uv pip install harvest==9.1",
    "cat /usr/lib/python3/dist-packages/harvest/store/ledger.py",
    "diff -r harvest /opt/env/lib/python3.11/site-packages/harvest", "ls node_modules/harvest/dist",
    "git clone https://github.com/acme/harvest /tmp/new",
    "git clone git@github.com:acme/harvest.git",
    "curl -s https://github.com/acme/harvest/pull/4711.diff", "gh pr diff 4711",
    "wget https://raw.githubusercontent.com/acme/harvest/main/harvest/cli/report.py",
    "python -c \"import urllib.request as u; u.urlopen('https://api.github.com/repos/acme/harvest/pulls')\"",
    "npm pack harvest", "go get github.com/acme/harvest@latest", "cargo install harvest",
    "npm view @acme/harvest",
    "git remote add up https://github.com/acme/harvest.git",
    "ls ~/go/pkg/mod/github.com/acme/harvest@v2.0.0",
    "ls ~/.cargo/registry/src/index/harvest-1.2.0",
])  # fmt: skip
def test_a_copy_of_the_project_is_a_hit(command):
    assert "history" in kinds(reply(command))


@pytest.mark.parametrize("command", [
    "git status", "git log --oneline -10", "git log -p -2 -- harvest/cli/report.py",
    "git log -S'since' --oneline",
    "git log HEAD~5..HEAD", "git log --grep='origin/main'", "git log --author=main",
    "git log -- origin/main",
    "git log main -3", "git diff", "git diff HEAD", "git diff HEAD~1", "git diff main",
    "git diff --cached --stat",
    "git add -A && git diff --cached", "git add --all", "git commit -am 'see origin/main'",
    "git stash && git stash pop",
    "git show HEAD", "git show HEAD~2 --stat", "git show HEAD:harvest/cli/report.py",
    "git blame harvest/cli/report.py",
    "git checkout -- harvest/cli/report.py", "git checkout HEAD -- harvest",
    "git checkout -b attempt", "git branch",
    "git grep -n since", "git grep main HEAD", "git grep -n v2.4 HEAD",
    "git remote -v", "git ls-files | grep main",
    "git describe --tags",
    "git reset --hard HEAD", "git apply fix.patch", "git rev-parse HEAD",
    "git log --all-match --grep=a",
    "grep -rn 'git log --all' docs", "echo 'git show origin/main'", "pip install -e .",
    "pip install pytest",
    "pip show harvest", "pip list", "ls /opt/env/lib/python3.11/site-packages",
    "cat /opt/env/lib/python3.11/site-packages/dateutil/tz.py",
    "curl https://docs.python.org/3/library/bisect.html",
    "python -c 'import harvest; print(harvest.__file__)'", "cat package.json", "npm install",
    "cargo build",
])  # fmt: skip
def test_honest_looks_are_free(command):
    assert "history" not in kinds(reply(command))


@pytest.mark.parametrize("command", ["git checkout main", "git diff HEAD main"])
def test_the_branch_that_the_agent_is_on_is_its_own(command):
    for said in ("On branch main\nnothing to commit", "  attempt\n* main\n"):
        assert "history" not in kinds(reply(command), after(("git status", said)))
    assert "history" in kinds(reply(command))
    assert "history" in kinds(reply(command), after(("git status", "On branch maintenance\n")))


def test_a_record_without_a_repository_is_no_project():
    assert (
        find_leaks(
            reply("pip download x; curl https://github.com/a/b"), TASK, {**RECORD, "repo": None}
        )
        == []
    )


# ---- chats that show the fix ----


@pytest.mark.parametrize("command", [
    "git log --all -p", "git diff HEAD origin/main",
    "git show origin/main:harvest/store/window_index.py",
    "cat /opt/env/lib/python3.11/site-packages/harvest/store/window_index.py",
])  # fmt: skip
def test_a_peek_that_printed_added_lines_shows_the_fix(command):
    reason = shows_fix(after((command, "class WindowIndex:\n" + ADDED)), RECORD)
    assert command in reason and "_midnight_floor" in reason


@pytest.mark.parametrize("exchanges", [
    [],
    [("git log --all --oneline", "9be77d1 Open the window at midnight")],  # seen, but no line of it
    [("git diff", "+" + ADDED)],  # the agent's own edit
    [("cat harvest/store/window_index.py", ADDED)],
    [("cat > fix.py", ADDED), ("git log --all -p", ADDED)],  # known before the peek
    [("git log --all -p", "     def slice_from(self, moment):\n")],  # a context line
])  # fmt: skip
def test_other_chats_do_not(exchanges):
    assert shows_fix(after(*exchanges), RECORD) is None


@pytest.mark.parametrize(
    "messages", [[], None, [None, {}], [{"role": "assistant", "content": None}]]
)
def test_odd_chats_show_nothing(messages):
    assert shows_fix(messages, RECORD) is None
    assert shows_fix(after(("git log --all -p", PATCH)), {}) is None
