"""Parquet as others write it: each odd input is passed over and counted, or told in plain words."""

from __future__ import annotations

import datetime
import decimal
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import prompt
from common.files import UserError
from tests.hub import TRAJECTORIES, pull_request, trajectory

PROMPTS = 5  # good instances beside the odd one
ODD = pull_request(PROMPTS)["instance_id"]
TEXTS = ("instance_id", "repo", "messages")


def rows() -> list[dict]:
    """Return five good rows, and a sixth."""
    made = []
    for number in range(PROMPTS + 1):
        record = pull_request(number)
        row = {"instance_id": record["instance_id"], "repo": record["repo"]}
        made.append({**row, "messages": trajectory(number, 0)})
    return made


def records() -> list[dict]:
    made = [pull_request(number) for number in range(PROMPTS + 1)]
    for record in made:
        del record["FAIL_TO_PASS"], record["PASS_TO_PASS"]
    return made


def chats() -> pa.Table:
    return pa.Table.from_pylist(rows(), TRAJECTORIES)


def pull_requests() -> pa.Table:
    return pa.Table.from_pylist(records())


def with_column(table: pa.Table, name: str, column) -> pa.Table:
    """Return the table with another column in place of `name`."""
    return table.set_column(table.schema.get_field_index(name), name, column)


def with_value(table: pa.Table, name: str, value, kind: pa.DataType | None = None) -> pa.Table:
    """Return the table with another value in the last row of a column."""
    kind = kind or table.schema.field(name).type
    values = table[name].to_pylist()[:-1]
    return with_column(table, name, pa.array([*values, value], kind))


def invalid_text(table: pa.Table, name: str) -> pa.Table:
    """Return the table with bytes that are no UTF-8 in the last row of a text column."""
    values = [value.encode() for value in table[name].to_pylist()[:-1]]
    bad = pa.array([*values, b"bad \xff\xfe bytes"], pa.binary())
    return with_column(table, name, pa.Array.from_buffers(pa.string(), len(bad), bad.buffers()))


def as_kind(table: pa.Table, name: str, kind: pa.DataType) -> pa.Table:
    return with_column(table, name, table[name].combine_chunks().cast(kind))


def of(table: pa.Table, name: str, kind: pa.DataType, value) -> pa.Table:
    """Return the table with one value in all rows of a column."""
    return with_column(table, name, pa.array([value] * len(table), kind))


def as_json(value: object) -> pa.Table:
    """Return the trajectories with messages as JSON text, the last as given."""
    texts = [json.dumps(row["messages"]) for row in rows()[:-1]]
    last = value if isinstance(value, str) else json.dumps(value)
    return with_column(chats(), "messages", pa.array([*texts, last], pa.string()))


def last_messages(messages: list[dict] | None, kind: pa.DataType) -> pa.Table:
    return with_value(chats(), "messages", messages, kind)


def duplicate(table: pa.Table, name: str) -> pa.Table:
    return table.append_column(name, table[name])


DEEP = "[" * 50_000 + "]" * 50_000
NESTED = pa.list_(pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))
PARTS = pa.list_(
    pa.struct([("role", pa.string()), ("content", pa.list_(pa.struct([("text", pa.string())])))])
)
NUMBERS = pa.list_(pa.struct([("role", pa.int64()), ("content", pa.int64())]))
HUNK = "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -{0},{0} +{0},{0} @@\n-a\n+b\n"
BINARY = "diff --git a/x.png b/x.png\nGIT binary patch\nliteral 9\nQcmZQz\x00\x01zz\n"
FAR = datetime.datetime(9999, 12, 31, 23, 59, 59)
UTC = pa.timestamp("us", "UTC")

# What is odd, and how many prompts come of it; text instead: what is told, on exit code 2.
ODD_CHATS = {
    "no rows": (lambda: chats()[:0], "gave no prompt"),
    "ids no UTF-8": (lambda: invalid_text(chats(), "instance_id"), 5),
    "repo no UTF-8": (lambda: invalid_text(chats(), "repo"), 6),
    "ids null": (lambda: with_value(chats(), "instance_id", None), 5),
    "ids all null": (lambda: of(chats(), "instance_id", pa.null(), None), "cannot be a file name"),
    "ids with control characters": (lambda: with_value(chats(), "instance_id", "a\x1b[2Jb"), 5),
    "ids very long": (lambda: with_value(chats(), "instance_id", "a" * 9000), 5),
    "ids as lists": (
        lambda: of(chats(), "instance_id", pa.list_(pa.string()), ["a"]),
        "instance_id",
    ),
    "ids as numbers": (lambda: of(chats(), "instance_id", pa.int64(), 7), "no PR record"),
    "ids as bytes": (lambda: as_kind(chats(), "instance_id", pa.binary()), 6),
    "ids as large text": (lambda: as_kind(chats(), "instance_id", pa.large_string()), 6),
    "ids as a dictionary": (
        lambda: with_column(chats(), "instance_id", chats()["instance_id"].dictionary_encode()),
        6,
    ),
    "ids as dates": (
        lambda: of(chats(), "instance_id", pa.timestamp("s"), FAR),
        "cannot be a file name",
    ),
    "repo as a struct": (
        lambda: of(chats(), "repo", pa.struct([("a", pa.string())]), {"a": "b"}),
        "repo",
    ),
    "repo as a number": (lambda: of(chats(), "repo", pa.float64(), float("nan")), 6),
    "id twice": (lambda: duplicate(chats(), "instance_id"), "found instance_id, instance_id"),
    "messages twice": (lambda: duplicate(chats(), "messages"), "one column 'messages'"),
    "messages nested deep": (lambda: as_json(DEEP), 5),
    "messages of endless digits": (lambda: as_json("[" + "7" * 5000 + "]"), 5),
    "messages as an object": (lambda: as_json({"role": "user"}), 5),
    "messages NaN": (lambda: as_json("NaN"), 5),
    "messages as lists of lists": (
        lambda: of(chats(), "messages", NESTED, [[{"role": "user", "content": "a"}]]),
        "malformed",
    ),
    "messages as a map": (
        lambda: of(chats(), "messages", pa.map_(pa.string(), pa.string()), [("a", "b")]),
        "messages",
    ),
    "messages as numbers": (lambda: of(chats(), "messages", pa.int64(), 1), "malformed"),
    "messages as lists of text": (
        lambda: of(chats(), "messages", pa.list_(pa.string()), ["a"]),
        "messages",
    ),
    "messages of parts": (
        lambda: of(chats(), "messages", PARTS, [{"role": "user", "content": [{"text": "a"}]}]),
        "malformed",
    ),
    "messages of numbers": (
        lambda: of(chats(), "messages", NUMBERS, [{"role": 1, "content": 2}]),
        "malformed",
    ),
    "messages no UTF-8": (lambda: invalid_text(as_json("[]"), "messages"), 5),
    "columns in capitals": (
        lambda: chats().rename_columns([name.upper() for name in chats().schema.names]),
        "found none",
    ),
}
ODD_RECORDS = {
    "no rows": (lambda: pull_requests()[:0], "no PR record"),
    "ids no UTF-8": (lambda: invalid_text(pull_requests(), "instance_id"), 5),
    "ids as lists": (
        lambda: of(pull_requests(), "instance_id", pa.list_(pa.string()), ["a"]),
        "instance_id",
    ),
    "id twice": (
        lambda: duplicate(pull_requests(), "instance_id"),
        "found instance_id, instance_id",
    ),
    "patch twice": (lambda: duplicate(pull_requests(), "patch"), "column 'patch' of text"),
    "patch as bytes": (lambda: as_kind(pull_requests(), "patch", pa.binary()), 6),
    "patch as bytes that are no text": (
        lambda: with_value(as_kind(pull_requests(), "patch", pa.binary()), "patch", b"\xff\x00"),
        6,
    ),
    "patch no UTF-8": (lambda: invalid_text(pull_requests(), "patch"), 6),
    "patch of a binary file": (lambda: with_value(pull_requests(), "patch", BINARY), 6),
    "patch with endless digits": (
        lambda: with_value(pull_requests(), "patch", HUNK.format("9" * 5000)),
        6,
    ),
    "patch null": (lambda: with_value(pull_requests(), "patch", None), 6),
    "patch as a list": (
        lambda: of(pull_requests(), "patch", pa.list_(pa.string()), ["a"]),
        "patch",
    ),
    "issue no UTF-8": (lambda: invalid_text(pull_requests(), "problem_statement"), 6),
    "dates as decimals": (
        lambda: of(pull_requests(), "created_at", pa.decimal128(38, 9), decimal.Decimal("1.5")),
        6,
    ),
    "dates in a zone": (lambda: of(pull_requests(), "created_at", UTC, FAR), 6),
    "dates out of range": (
        lambda: with_column(
            pull_requests(),
            "created_at",
            pa.array([2**62] * 6, pa.int64()).cast(pa.timestamp("us")),
        ),
        6,
    ),
    "dates as days": (
        lambda: of(pull_requests(), "created_at", pa.date32(), datetime.date(2024, 1, 2)),
        6,
    ),
    "dates of nanoseconds": (
        lambda: with_column(
            pull_requests(), "created_at", pa.array([1] * 6, pa.int64()).cast(pa.timestamp("ns"))
        ),
        6,
    ),
    "dates not numbers": (lambda: of(pull_requests(), "created_at", pa.float64(), float("nan")), 6),
    "dates as durations": (
        lambda: of(pull_requests(), "created_at", pa.duration("s"), datetime.timedelta(1)),
        6,
    ),
    "language as a number": (lambda: of(pull_requests(), "language", pa.int64(), 3), 6),
    "licence as a list": (
        lambda: of(pull_requests(), "license", pa.list_(pa.string()), ["MIT"]),
        6,
    ),
    "licence no UTF-8": (lambda: invalid_text(pull_requests(), "license"), 6),
    "licence twice": (lambda: duplicate(pull_requests(), "license"), 6),
}


def outcome(folder: Path, capsys, monkeypatch) -> int | str:
    """Run prompt.py on the folder's files; return how many prompts it made, or what it told."""
    monkeypatch.chdir(folder)
    argv = ["prompt.py", "--dataset", "chats.parquet", "--prs", "prs.parquet", "--count", "6"]
    monkeypatch.setattr(sys, "argv", [*argv, "--per-instance", "1"])
    try:
        assert prompt.main() == 0
    except UserError as told:
        assert len(str(told).splitlines()) <= 3
        return str(told)
    made = json.loads(Path("prompt", "prompts_6_1.json").read_text())
    for item in made:
        record = json.loads(Path("commit", f"{item['instance_id']}.json").read_text())
        assert all(isinstance(record[key], str) for key in ("repo", "patch", "issue", "language"))
    return len(made)


@pytest.mark.parametrize("kind", ODD_CHATS)
def test_odd_trajectories(tmp_path, kind, capsys, monkeypatch):
    table, expected = ODD_CHATS[kind]
    pq.write_table(table(), tmp_path / "chats.parquet")
    pq.write_table(pull_requests(), tmp_path / "prs.parquet")
    found = outcome(tmp_path, capsys, monkeypatch)
    assert found == expected or isinstance(expected, str) and expected in str(found)


@pytest.mark.parametrize("kind", ODD_RECORDS)
def test_odd_records(tmp_path, kind, capsys, monkeypatch):
    table, expected = ODD_RECORDS[kind]
    pq.write_table(chats(), tmp_path / "chats.parquet")
    pq.write_table(table(), tmp_path / "prs.parquet")
    found = outcome(tmp_path, capsys, monkeypatch)
    assert found == expected or isinstance(expected, str) and expected in str(found)
