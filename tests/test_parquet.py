"""common/parquet.py: a dataset's row groups, here and on the Hub."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.files import UserError
from common.parquet import ParquetFiles
from tests.hub import FakeHub, write_datasets

COLUMNS = ("instance_id", "repo", "messages")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    write_datasets(folder, instances=30, files=2, characters=2000)
    return folder


def table_of(batches) -> pa.Table:
    return pa.Table.from_batches(list(batches)).combine_chunks()


def test_a_folder_a_file_and_a_glob(data, tmp_path):
    folder = data / "acme" / "trajectories"
    names = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    whole = ParquetFiles("--dataset", str(folder), COLUMNS)
    assert list(whole.files) == names
    assert whole.revision.startswith("local-")
    one = ParquetFiles("--dataset", str(folder / names[0]), COLUMNS)
    assert list(one.files) == ["train-00000-of-00002.parquet"]
    some = ParquetFiles("--dataset", str(folder / "*" / "train-00001*"), COLUMNS)
    assert list(some.files) == names[1:]
    assert len({whole.revision, one.revision, some.revision}) == 3
    for name in ("a/1.parquet", "a-b/1.parquet"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"PAR1")
    order = list(ParquetFiles("--dataset", str(tmp_path), COLUMNS).files)
    assert order == ["a-b/1.parquet", "a/1.parquet"]  # as text: the draw goes by it


def test_bad_input_is_told_with_its_flag(data, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("none/at/all", str(tmp_path / "empty"), str(tmp_path / "*.parquet")):
        with pytest.raises(UserError, match="no parquet file there"):
            ParquetFiles("--prs", name, COLUMNS)
    (tmp_path / "empty" / "zero.parquet").touch()
    with pytest.raises(UserError, match="all of its parquet files are empty"):
        ParquetFiles("--prs", str(tmp_path / "empty"), COLUMNS)
    files = ParquetFiles("--prs", str(data / "acme" / "prs"), COLUMNS)
    with pytest.raises(UserError, match="--prs .*train-00000.* has no column 'messages'"):
        files.footer(next(iter(files.files)))
    whole = next((data / "acme" / "prs").rglob("*.parquet")).read_bytes()
    (tmp_path / "torn.parquet").write_bytes(whole[:-100])
    files = ParquetFiles("--prs", str(tmp_path / "torn.parquet"), COLUMNS)
    with pytest.raises(UserError, match="torn.parquet is not a whole parquet file"):
        files.footer("torn.parquet")
    (tmp_path / "torn.parquet").write_bytes(whole[:100] + bytes(900) + whole[1000:])
    files = ParquetFiles("--prs", str(tmp_path / "torn.parquet"), ["patch"])
    with pytest.raises(UserError, match="torn.parquet is not a whole parquet file"):
        table_of(files.batches("torn.parquet", 0, ["instance_id", "repo", "base_commit"], 64))


def test_the_hub_gives_what_a_folder_gives_and_only_its_bytes(data, monkeypatch, tmp_path):
    here = ParquetFiles("--dataset", str(data / "acme" / "trajectories"), COLUMNS)
    with FakeHub(data) as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        there = ParquetFiles("--dataset", "acme/trajectories", COLUMNS)
        assert there.files == here.files
        assert there.revision == fake.commit("acme/trajectories")
        for file in there.files:
            assert there.footer(file).num_row_groups == here.footer(file).num_row_groups > 2
            fake.forget()
            got = table_of(there.batches(file, 1, COLUMNS, 7))
            assert got == table_of(here.batches(file, 1, COLUMNS, 64))
            message = got.schema.field("messages").type.value_type
            assert [field.name for field in message] == ["role", "content"]
            assert fake.sent("/blob/") <= 1.001 * there.size(file, 1, COLUMNS)
            assert got.num_rows == here.footer(file).row_group(1).num_rows
            assert here.first_row(file, 1) == here.footer(file).row_group(0).num_rows


def test_a_copy_of_a_row_group_is_kept(data, monkeypatch, tmp_path):
    monkeypatch.setattr("common.parquet.constants.HF_HOME", str(tmp_path))
    columns = ("instance_id", "patch")
    here = ParquetFiles("--prs", str(data / "acme" / "prs"), columns)
    file = next(iter(here.files))
    with FakeHub(data) as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        there = ParquetFiles("--prs", "acme/prs", columns)
        wanted = table_of(here.clean_batches(file, 1, columns))
        assert table_of(there.clean_batches(file, 1, columns)) == wanted
        [copy] = tmp_path.rglob("*.parquet")
        assert pq.read_table(copy).num_rows == wanted.num_rows
        assert os.listdir(copy.parent) == [copy.name]
        fake.forget()
        assert table_of(there.clean_batches(file, 1, columns)) == wanted
        assert fake.requests == []
        assert table_of(there.clean_batches(file, 1, ("patch",))) == wanted.select(["patch"])
