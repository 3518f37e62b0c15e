"""common/sampling/parquet.py: a dataset's row groups, here and on the Hub."""

from __future__ import annotations

import pyarrow as pa
import pytest

from common.files import UserError
from common.sampling.parquet import ParquetFiles
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
    files = ParquetFiles("--prs", str(data / "acme" / "prs"), COLUMNS)
    with pytest.raises(UserError, match="--prs .*train-00000.* column 'messages' .*found none"):
        files.footer(next(iter(files.files)))
    whole = next((data / "acme" / "prs").rglob("*.parquet")).read_bytes()
    (tmp_path / "torn.parquet").write_bytes(whole[:-100])
    files = ParquetFiles("--prs", str(tmp_path / "torn.parquet"), COLUMNS)
    with pytest.raises(UserError, match="torn.parquet is not a whole parquet file"):
        files.footer("torn.parquet")
    (tmp_path / "torn.parquet").write_bytes(whole[:100] + bytes(900) + whole[1000:])
    files = ParquetFiles("--prs", str(tmp_path / "torn.parquet"), ["patch"])
    with pytest.raises(UserError, match="torn.parquet is not a whole parquet file"):
        table_of(files.batches("torn.parquet", 0, ["instance_id", "repo", "base_commit"]))


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
            got = table_of(there.batches(file, 1, COLUMNS))
            assert got == table_of(here.batches(file, 1, COLUMNS))
            message = got.schema.field("messages").type.value_type
            assert [field.name for field in message] == ["role", "content"]
            assert fake.sent("/blob/") <= 1.001 * there.size(file, 1, COLUMNS)
            assert got.num_rows == here.footer(file).row_group(1).num_rows
            first = here.footer(file).row_group(0).num_rows
            assert next(here.rows(file, 1, COLUMNS))[0] == first
            [row] = there.rows(file, 1, COLUMNS, {first + 2})
            assert row == (first + 2, *got.slice(2, 1).to_pylist()[0].values())


def test_what_is_read_is_kept_where_asked_for(data, monkeypatch, tmp_path):
    monkeypatch.setattr("common.sampling.hub.constants.HF_HOME", str(tmp_path))
    columns = ("instance_id", "patch")
    with FakeHub(data) as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        read = []
        for keep in (False, True, True):
            fake.forget()
            files = ParquetFiles("--prs", "acme/prs", columns, keep=keep)
            assert fake.sent("/blob/") == 0
            read.append(table_of(files.batches(next(iter(files.files)), 1, columns)))
            assert bool(fake.sent("/blob/")) == (len(read) < 3)
            assert any(tmp_path.rglob("*-*")) == keep and not any(tmp_path.rglob("*.tmp"))
        assert read[0] == read[1] == read[2]
