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

ROWS = 6  # the last is the odd one, unless all are
TEXT = pa.string()
DEEP = "[" * 50_000 + "]" * 50_000
HUNK = "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -{0},{0} +{0},{0} @@\n-a\n+b\n"
BINARY = "diff --git a/x.png b/x.png\nGIT binary patch\nliteral 9\nQcmZQz\x00\x01zz\n"
FAR = datetime.datetime(9999, 12, 31, 23, 59, 59)
DAY = datetime.date(2024, 1, 2)


def message(role: pa.DataType, content: pa.DataType) -> pa.DataType:
    return pa.struct([("role", role), ("content", content)])


def chats() -> pa.Table:
    rows = []
    for number in range(ROWS):
        record = pull_request(number)
        ids = {"instance_id": record["instance_id"], "repo": record["repo"]}
        rows.append({**ids, "messages": trajectory(number, 0)})
    return pa.Table.from_pylist(rows, TRAJECTORIES)


def pull_requests() -> pa.Table:
    table = pa.Table.from_pylist([pull_request(number) for number in range(ROWS)])
    return table.drop_columns(["FAIL_TO_PASS", "PASS_TO_PASS"])


# ------------------------------------------------------------------------ what happens to a column


def every(kind: pa.DataType, value):
    """Return a change of a column: this value in all rows."""
    return lambda column: pa.array([value] * len(column), kind)


def last(value):
    """Return a change of a column: another value in its last row."""
    return lambda column: pa.array([*column.to_pylist()[:-1], value], column.type)


def last_text(text: str):
    """Return a change of a column: all as JSON text, the last row's as given."""
    return lambda column: pa.array([*map(json.dumps, column.to_pylist()[:-1]), text])


def as_kind(kind: pa.DataType):
    return lambda column: column.combine_chunks().cast(kind)


def numbers_as(number: int, kind: pa.DataType):
    """Return a change of a column: this number in all rows, read as another type."""
    return lambda column: pa.array([number] * len(column), pa.int64()).cast(kind)


def no_utf8(column):
    """Return the column with bytes that are no UTF-8 in its last row."""
    texts = [str(value).encode() for value in column.to_pylist()[:-1]]
    bad = pa.array([*texts, b"bad \xff\xfe bytes"], pa.binary())
    return pa.Array.from_buffers(TEXT, len(bad), bad.buffers())


def no_text(column):
    return pa.array([*[value.encode() for value in column.to_pylist()[:-1]], b"\xff\x00"])


TWICE = object()  # the column stands there twice

# Column, what happens to it, and how many prompts come of it; text: what is told, on exit code 2.
ODD_CHATS = [
    ("instance_id", no_utf8, 5),
    ("instance_id", last(None), 5),
    ("instance_id", last("a\x1b[2Jb"), 5),
    ("instance_id", last("a" * 9000), 5),
    ("instance_id", every(pa.null(), None), "cannot be a file name"),
    ("instance_id", every(pa.timestamp("s"), FAR), "cannot be a file name"),
    ("instance_id", every(pa.int64(), 7), "no PR record"),
    ("instance_id", every(pa.list_(TEXT), ["a"]), "instance_id"),
    ("instance_id", as_kind(pa.binary()), 6),
    ("instance_id", as_kind(pa.large_string()), 6),
    ("instance_id", lambda column: column.dictionary_encode(), 6),
    ("instance_id", TWICE, "found instance_id, instance_id"),
    ("repo", no_utf8, 6),
    ("repo", every(pa.float64(), float("nan")), 6),
    ("repo", every(pa.struct([("a", TEXT)]), {"a": "b"}), "repo"),
    ("messages", TWICE, "one column 'messages'"),
    ("messages", last_text(DEEP), 5),
    ("messages", last_text("[" + "7" * 5000 + "]"), 5),
    ("messages", last_text('{"role": "user"}'), 5),
    ("messages", last_text("NaN"), 5),
    ("messages", lambda column: no_utf8(last_text("")(column)), 5),
    ("messages", every(pa.int64(), 1), "malformed"),
    ("messages", every(pa.map_(TEXT, TEXT), [("a", "b")]), "messages"),
    ("messages", every(pa.list_(TEXT), ["a"]), "messages"),
    (
        "messages",
        every(pa.list_(pa.list_(message(TEXT, TEXT))), [[{"role": "user", "content": "a"}]]),
        "malformed",
    ),
    (
        "messages",
        every(pa.list_(message(TEXT, pa.list_(TEXT))), [{"role": "user", "content": ["a"]}]),
        "malformed",
    ),
    (
        "messages",
        every(pa.list_(message(pa.int64(), pa.int64())), [{"role": 1, "content": 2}]),
        "malformed",
    ),
]
ODD_RECORDS = [
    ("instance_id", no_utf8, 5),
    ("instance_id", every(pa.list_(TEXT), ["a"]), "instance_id"),
    ("instance_id", TWICE, "found instance_id, instance_id"),
    ("instance_id", as_kind(pa.binary()), 6),
    ("patch", TWICE, "column 'patch' of text"),
    ("patch", every(pa.list_(TEXT), ["a"]), "patch"),
    ("patch", as_kind(pa.binary()), 6),
    ("patch", no_text, 6),
    ("patch", no_utf8, 6),
    ("patch", last(BINARY), 6),
    ("patch", last(HUNK.format("9" * 5000)), 6),
    ("patch", last(None), 6),
    ("problem_statement", no_utf8, 6),
    ("created_at", every(pa.decimal128(38, 9), decimal.Decimal("1.5")), 6),
    ("created_at", every(pa.timestamp("us", "UTC"), FAR), 6),
    ("created_at", every(pa.date32(), DAY), 6),
    ("created_at", every(pa.float64(), float("nan")), 6),
    ("created_at", every(pa.duration("s"), datetime.timedelta(1)), 6),
    ("created_at", numbers_as(2**62, pa.timestamp("us")), 6),
    ("created_at", numbers_as(1, pa.timestamp("ns")), 6),
    ("language", every(pa.int64(), 3), 6),
    ("license", every(pa.list_(TEXT), ["MIT"]), 6),
    ("license", no_utf8, 6),
    ("license", TWICE, 6),
]


def changed(table: pa.Table, name: str, change) -> pa.Table:
    if change is TWICE:
        return table.append_column(name, table[name])
    return table.set_column(table.schema.get_field_index(name), name, change(table[name]))


def check(chats: pa.Table, records: pa.Table, expected: int | str, folder: Path, monkeypatch):
    """Run prompt.py on both tables: so many prompts come of it, or this is told."""
    pq.write_table(chats, folder / "chats.parquet")
    pq.write_table(records, folder / "prs.parquet")
    monkeypatch.chdir(folder)
    flags = ["--dataset", "chats.parquet", "--prs", "prs.parquet", "--count", "6"]
    monkeypatch.setattr(sys, "argv", ["prompt.py", *flags])
    if isinstance(expected, str):
        with pytest.raises(UserError) as told:
            prompt.main()
        assert expected in str(told.value) and len(str(told.value).splitlines()) <= 3
        return
    assert prompt.main() == 0
    made = json.loads(Path("prompt", "prompts_6_1.json").read_text())
    assert len({item["instance_id"] for item in made}) == expected
    for item in made:
        record = json.loads(Path("commit", f"{item['instance_id']}.json").read_text())
        assert all(isinstance(record[key], str) for key in ("repo", "patch", "issue", "language"))


@pytest.mark.parametrize(("name", "change", "expected"), ODD_CHATS)
def test_odd_trajectories(tmp_path, monkeypatch, name, change, expected):
    check(changed(chats(), name, change), pull_requests(), expected, tmp_path, monkeypatch)


@pytest.mark.parametrize(("name", "change", "expected"), ODD_RECORDS)
def test_odd_records(tmp_path, monkeypatch, name, change, expected):
    check(chats(), changed(pull_requests(), name, change), expected, tmp_path, monkeypatch)


def test_no_rows_and_other_names(tmp_path, monkeypatch):
    capitals = chats().rename_columns([name.upper() for name in chats().schema.names])
    check(chats()[:0], pull_requests(), "gave no prompt", tmp_path, monkeypatch)
    check(chats(), pull_requests()[:0], "no PR record", tmp_path, monkeypatch)
    check(capitals, pull_requests(), "found none", tmp_path, monkeypatch)
