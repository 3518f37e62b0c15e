"""Talk of a source that the agent does not have, and plain talk of fixing."""

import pytest

from common.audit.leaks import find_leaks
from tests.leak_cases import ISSUE, RECORD, TASK, after, kinds, reply


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
    "The changed files list says so.",
])  # fmt: skip
def test_talk_of_what_the_chat_cannot_know_is_a_leak(thought):
    assert kinds(reply("ls", thought)) == {"disclosure"}


@pytest.mark.parametrize("thought", [
    "The fix should be small.", "Now I verify the fix.", "Let me apply the fix with sed.",
    "I'm confident in the solution.",
    "The issue suggests a change in the comparison.",
    "I will check the final diff before I submit.",
    "A proper solution handles time zones.", "I will write a patch script.",
    "This commit-style message is enough.",
    "I have made the change; let me see the diff.",
    "The prediction is compared with the ground truth labels.",
    "The official documentation says that days start at midnight.", "I do not know the line yet.",
])  # fmt: skip
def test_plain_talk_of_fixing_is_none(thought):
    assert find_leaks(reply("ls", thought), TASK, RECORD) == []


def test_a_prompt_that_speaks_of_a_pr_description_makes_that_speech_honest():
    chat = [{"role": "user", "content": f"Consider the following PR description:\n{ISSUE}"}]
    for thought in (
        "The PR description mentions the first day.",
        "The PR says that March 1st is missing.",
        "This matches the PR description.",
        "The PR author suggests a comparison of days.",
    ):
        assert find_leaks(reply("ls", thought), chat, RECORD) == []
    for thought in (
        "The PR changes the comparison.",
        "The PR's diff is small.",
        "As PR #4711 does.",
    ):
        assert kinds(reply("ls", thought), chat) == {"disclosure"}


def test_what_the_chat_itself_says_is_none():
    chat = [
        *TASK,
        {
            "role": "user",
            "content": "The merged fix of last year, a pull request by Ann, was reverted.",
        },
    ]
    assert find_leaks(reply("ls", "The merged fix is gone, says the issue."), chat, RECORD) == []
    assert kinds(reply("ls", "The merged fix is gone, says the issue.")) == {"disclosure"}


def test_a_phrase_or_number_counts_as_said_only_as_a_whole():
    chat = after(("cat cli.py", "print(report)  # see #47110 and its unmerged fixture"))
    assert kinds(reply("ls", "This is PR #4711."), chat) == {"disclosure"}
    assert kinds(reply("ls", "This was fixed by #4711."), chat) == {"disclosure"}
    assert kinds(reply("ls", "I look for the merged fix."), chat) == {"disclosure"}
    assert find_leaks(reply("ls", "This is PR #47110, fixed by #47110."), chat, RECORD) == []


def test_what_is_said_often_is_told_once():
    assert len(find_leaks(reply("ls", "The merged fix. " * 500), TASK, RECORD)) == 1


def test_commits_and_numbers_of_the_chat_are_none():
    chat = after(("git log --oneline", "9be77d1e04 Tidy\nc0ffee1 Release (#4711)\n"))
    assert (
        find_leaks(reply("git show 9be77d1e04", "Commit 9be77d1e04 came with #4711."), chat, RECORD)
        == []
    )
