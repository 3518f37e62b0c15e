"""The two source datasets as prompt.py reads them: rows of trajectories, and PR records."""

from __future__ import annotations

import json
from concurrent.futures import Executor
from pathlib import Path

import duckdb

from common.files import UserError, clean_text, write_json
from common.parquet import ParquetFiles
from common.replies.patch import changed_files
from common.turns import RECORD_KEYS

ROW_COLUMNS = ("instance_id", "repo", "messages")  # of the trajectories
RECORD_COLUMNS = {  # key of a record -> column of the PR dataset
    "instance_id": "instance_id", "repo": "repo", "base_commit": "base_commit",
    "issue": "problem_statement", "description": "pr_description", "patch": "patch",
    "test_patch": "test_patch", "interface": "interface", "language": "language",
    "created_at": "created_at",
}  # fmt: skip
PR_COLUMNS = tuple(RECORD_COLUMNS.values())


# ----------------------------------------------------------------------------------- trajectories


def read_instances(files: ParquetFiles, file: str, group: int) -> dict:
    """Return {instance id: (repo, its row numbers in the file)} of a row group."""
    instances = {}
    row = files.first_row(file, group)
    for batch in files.batches(file, group, ("instance_id", "repo"), 4096):
        for values in batch.to_pylist():
            repo = clean_text(str(values["repo"] or ""))
            rows = instances.setdefault(values["instance_id"], (repo, []))[1]
            rows.append(row)
            row += 1
    return instances


def read_chats(files: ParquetFiles, file: str, group: int, wanted: set[int]) -> dict:
    """Return {row number in the file: its messages}; the other rows pass by in small batches."""
    chats = {}
    row = files.first_row(file, group)
    batches = files.batches(file, group, ("messages",), 64)
    while len(chats) < len(wanted):
        batch = next(batches)
        for place in range(batch.num_rows):
            if row + place in wanted:
                try:
                    chats[row + place] = read_messages(batch["messages"][place].as_py())
                except UnicodeDecodeError:
                    chats[row + place] = None
        row += batch.num_rows
    return chats


def read_messages(value: object) -> list[dict] | None:
    """Return a row's messages, content None where the dataset has none; None when malformed."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if not isinstance(value, list):
        return None
    messages = []
    for item in value:
        if not isinstance(item, dict) or not isinstance(item.get("role"), str):
            return None
        content = item.get("content")
        if isinstance(content, str):
            content = clean_text(content)
        elif content is not None:
            return None
        messages.append({"role": clean_text(item["role"]), "content": content})
    return messages


# ------------------------------------------------------------------------------------- PR records


def find_records(prs: ParquetFiles, pool: Executor) -> dict[str, tuple[str, int]]:
    """Return {instance id: (file, row group)} of the PR dataset, of each id the first."""

    def ids_of(place: tuple[str, int]) -> list:
        ids = []
        for batch in prs.kept_batches(*place, ("instance_id",)):
            ids += batch["instance_id"].to_pylist()
        return ids

    groups = []
    for file in prs.files:
        groups += [(file, group) for group in range(prs.footer(file).num_row_groups)]
    places = {}
    for place, ids in zip(groups, pool.map(ids_of, groups)):
        for instance_id in ids:
            places.setdefault(instance_id, place)
    return places


def write_records(prs: ParquetFiles, places: dict, wanted: set[str], pool: Executor):
    """Write commit/<instance_id>.json for the wanted ids; yield each when it is written.

    Of a Hub dataset only the row groups and columns that hold them are read, and kept.
    """
    if not wanted:
        return
    groups = sorted({places[instance_id] for instance_id in wanted})
    paths = set(pool.map(lambda place: str(prs.local_path(*place, PR_COLUMNS)), groups))
    select = ", ".join(f'"{column}" AS "{key}"' for key, column in RECORD_COLUMNS.items())
    query = (
        f"SELECT {select} FROM read_parquet(?, union_by_name = true) "
        "WHERE instance_id IN (SELECT unnest(?))"
    )
    try:
        with duckdb.connect() as database:
            found = database.execute(query, [sorted(paths), sorted(wanted)])
            keys = [column[0] for column in found.description]
            written = set()
            while values := found.fetchone():
                record = dict(zip(keys, values))
                if record["instance_id"] not in written:
                    write_record(record)
                    written.add(record["instance_id"])
                    yield record["instance_id"]
    except duckdb.Error as error:
        problem = str(error).splitlines()[0][:150]
        raise UserError(f"{prs.flag} {prs.name} cannot be read ({problem}).") from None


def write_record(row: dict) -> None:
    """Write one PR record: clean texts, nothing null."""
    record = {}
    for key, value in row.items():
        if value is None:
            value = ""
        elif hasattr(value, "isoformat"):
            value = value.isoformat()
        record[key] = clean_text(value) if isinstance(value, str) else value
    record["files"] = changed_files(record["patch"])
    path = Path("commit", f"{record['instance_id']}.json")
    write_json(path, {key: record[key] for key in RECORD_KEYS})
