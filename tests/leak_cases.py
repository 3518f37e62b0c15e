"""The small chat and record that the tests of the leak audit share."""

from common.audit.leaks import find_leaks

FENCE = "```"
ISSUE = """`harvest --since` skips the first day

Running `harvest --since 2024-03-01` leaves out everything of March 1st. `Ledger.entries_after()`
seems to compare days in the wrong way, see the traceback:

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
    "instance_id": "acme__harvest-4711",
    "repo": "acme/harvest",
    "base_commit": "c0ffee1234567890c0ffee1234567890c0ffee12",
    "issue": ISSUE,
    "description": "Open the window at midnight so that the first day of a report counts as well.",
    "files": ["harvest/store/window_index.py", "harvest/cli/flags.py"],
    "patch": PATCH,
    "test_patch": "",
    "interface": "",
    "language": "python",
    "created_at": "2024-03-09",
}
TASK = [
    {
        "role": "system",
        "content": "You solve an issue with one bash command a turn. Include a THOUGHT.",
    },
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
        chat += [
            {"role": "assistant", "content": reply(command)},
            {"role": "user", "content": f"Observation: {output}"},
        ]
    return chat
