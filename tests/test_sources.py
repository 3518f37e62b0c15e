"""common/sampling/chats.py and records.py: rows of trajectories, PR records."""

from __future__ import annotations

import datetime
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.files import UserError
from common.sampling.chats import read_chat
from common.sampling.dataset import Dataset
from common.sampling.records import PR_COLUMNS, Records
from common.turns import RECORD_KEYS
from tests.hub import pull_request

USER = {"role": "user", "content": "u"}


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ([USER], [USER]),
        (json.dumps([USER]), [USER]),
        ([{**USER, "tool_calls": [], "thinking": "hm"}], [USER]),
        ([{**USER, "content": [{"type": "text", "text": "u"}]}], [USER]),
        ([{"role": "user", "content": None}], [{"role": "user", "content": None}]),
        ([{"role": "user", "content": "a\ud800"}], [{"role": "user", "content": "a\ufffd"}]),
        ([], []),
        (None, None),
        ("{", None),
        ('{"role": "user"}', None),
        ([1], None),
        ([{"content": "u"}], None),
        ([{"role": "user", "content": 3}], None),
    ],
)
def test_messages(value, messages):
    chat = read_chat(value)
    assert (chat and chat.messages) == messages


def test_records_of_wanted_instances_the_first_of_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    created = datetime.datetime(2024, 1, 2, 3, 4, 5)
    rows = [{**pull_request(number), "created_at": created} for number in range(9)]
    rows[3] |= {"instance_id": rows[0]["instance_id"], "pr_description": "a second one"}
    rows[4] |= {"patch": None, "language": None}
    pq.write_table(pa.Table.from_pylist(rows), "prs.parquet", row_group_size=2)
    prs = Dataset("--prs", "prs.parquet", PR_COLUMNS)
    records = Records(prs, ThreadPoolExecutor(2))
    locations = records.locations
    assert locations[rows[0]["instance_id"]][:2] == ("prs.parquet", 0)
    assert locations[rows[7]["instance_id"]][:2] == ("prs.parquet", 3)
    wanted = {rows[0]["instance_id"], rows[4]["instance_id"]}
    first, other = records.read(wanted)
    assert tuple(first) == (*RECORD_KEYS, "license") and first["license"] == "MIT"
    assert first["description"] == "Fix 0" and first["files"] == ["src/part0.py"]
    assert first["created_at"] == "2024-01-02T03:04:05"
    assert (other["patch"], other["language"], other["files"]) == ("", "", [])
    assert list(records.read(set())) == []


def test_records_of_files_that_differ_in_a_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [pull_request(number) for number in range(4)]
    for row in rows[:2]:
        row["interface"] = None
    for number in (0, 2):
        table = pa.Table.from_pylist(rows[number : number + 2])
        pq.write_table(table, f"prs-{number}.parquet")
    prs = Dataset("--prs", "prs-*.parquet", PR_COLUMNS)
    wanted = {row["instance_id"] for row in rows}
    records = list(Records(prs, ThreadPoolExecutor(2)).read(wanted))
    assert {record["instance_id"] for record in records} == wanted
    assert {record["interface"] for record in records} == {""}


@pytest.mark.parametrize("names", [[True], [7, 7.5], ["7", 7.5], [2**70, None]])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_record_is_found_by_an_id_that_is_no_text(tmp_path, names, kind):
    rows = [{**pull_request(1), "instance_id": name, "language": name} for name in names]
    try:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "prs.parquet")
    except (pa.ArrowException, OverflowError):
        kind = "jsonl"
    (tmp_path / "prs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = Records(Dataset("--prs", f"{tmp_path}/prs.{kind}", PR_COLUMNS), ThreadPoolExecutor(2))
    for name in filter(None, records.locations):
        assert records.read_one(name)["language"] == name


def test_a_record_in_a_torn_file_is_told_in_plain_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = pa.Table.from_pylist([pull_request(number, 3000) for number in range(300)])
    options = {
        "compression": "none",
        "use_dictionary": False,
        "data_page_size": 20_000,
        "write_batch_size": 9,
    }
    pq.write_table(table, "prs.parquet", **options)
    data = bytearray(Path("prs.parquet").read_bytes())
    middle = data.index(table["patch"][150].as_py().encode())
    data[middle : middle + 200_000] = bytes(200_000)
    Path("prs.parquet").write_bytes(data)
    records = Records(Dataset("--prs", "prs.parquet", PR_COLUMNS), ThreadPoolExecutor(2))
    with pytest.raises(UserError, match="prs.parquet is not a whole parquet file"):
        list(records.read({table["instance_id"][250].as_py()}))
