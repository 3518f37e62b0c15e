"""PR records (commit/<instance_id>.json), which instances are left out, and what a chat must be, for several stages."""
from __future__ import annotations

from pathlib import Path

from common.io import BadFile, Stop, read_json

# Instances that must never become training data, whatever the sample draws. prompt.py --exclude FILE adds a user's own.
_EXCLUDE_IDS: frozenset[str] = frozenset()

RECORD_KEYS = ("instance_id", "repo", "base_commit", "issue", "description", "files", "patch", "test_patch",
               "interface", "language", "created_at")


def read_record(instance_id: str, folder: Path | str = "commit") -> dict:
    """The PR record of an instance, keys as in RECORD_KEYS. Raises Stop when there is none, BadFile when it is torn."""
    path = Path(folder, f"{instance_id}.json")
    try:
        record = read_json(path, RECORD_KEYS)
    except FileNotFoundError:
        raise Stop(f"{path} is missing. prompt.py writes it: run prompt.py again.") from None
    if record["instance_id"] != instance_id:
        raise BadFile(path, f"holds the record of {record['instance_id']!r}")
    return record


def record_chars(record: dict) -> int:
    """Size of what the challenger's prompt would show of a record, in characters."""
    return sum(len(record[key] or "") for key in ("issue", "description", "patch", "interface"))


def why_left_out(record: dict, max_record_chars: int) -> str | None:
    """Why an instance gets no king and no challenger, in plain words; None when it does.

    `max_record_chars` is chain.toml's [generate] max_record_chars.
    """
    if record["instance_id"] in _EXCLUDE_IDS:
        return "on the list of excluded instances"
    if record_chars(record) > max_record_chars:
        return f"PR record too large for the challenger's prompt (over {max_record_chars:,} characters)"
    return None


def is_chat(messages: object) -> bool:
    """Whether this is a chat: a list, not empty, of objects with role and content as text."""
    return isinstance(messages, list) and bool(messages) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str) for message in messages)


def prompt_problem(prompt: object) -> str | None:
    """What is wrong with the chat of a prompt or an answer, in words; None when nothing is."""
    if not isinstance(prompt, dict):
        return "expected an object"
    for key in ("instance_id", "messages", "assistant"):
        if key not in prompt:
            return f"key {key!r} is missing"
    messages = prompt["messages"]
    if not is_chat(messages):
        return "key 'messages': expected a list of {role, content} texts"
    return None if messages[-1]["role"] == "user" else "key 'messages': expected a chat that ends with a user message"
