"""common/sampling/dataset.py: a dataset's row groups, here and on the Hub."""

from __future__ import annotations

import pyarrow as pa
import pytest

from common.files import UserError
from common.sampling.dataset import Dataset
from tests.hub import FakeHub, column_bytes, write_datasets

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
    whole = Dataset("--dataset", str(folder), COLUMNS)
    assert list(whole.files) == names
    assert whole.revision.startswith("local-")
    one = Dataset("--dataset", str(folder / names[0]), COLUMNS)
    assert list(one.files) == ["train-00000-of-00002.parquet"]
    some = Dataset("--dataset", str(folder / "*" / "train-00001*"), COLUMNS)
    assert list(some.files) == names[1:]
    assert len({whole.revision, one.revision, some.revision}) == 3
    for name in ("a/1.parquet", "a-b/1.parquet", ".c/1.parquet", "_d/1.parquet", "a/_2.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"PAR1")
    order = list(Dataset("--dataset", str(tmp_path), COLUMNS).files)
    assert order == ["a-b/1.parquet", "a/1.parquet"]  # as text: the draw goes by it
    assert list(Dataset("--dataset", str(tmp_path / "**/*.parquet"), COLUMNS).files) == order
    assert list(Dataset("--dataset", str(tmp_path / "a/_2.parquet"), ()).files) == ["_2.parquet"]


def test_bad_input_is_told_with_its_flag(data, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("none/at/all", str(tmp_path / "empty"), str(tmp_path / "*.parquet")):
        with pytest.raises(UserError, match="no file there"):
            Dataset("--prs", name, COLUMNS)
        (tmp_path / "empty" / "zero.parquet").touch()
    with pytest.raises(UserError, match="no revision main.\nDrop --revision"):
        Dataset("--dataset", str(data / "acme" / "prs"), COLUMNS, "main")
    with pytest.raises(UserError, match="acme/gone: it no longer holds"):
        Dataset("--dataset", "acme/gone", COLUMNS, "local-0123456789abcdef")
    files = Dataset("--prs", str(data / "acme" / "prs"), COLUMNS)
    with pytest.raises(UserError, match="--prs .*train-00000.* column 'messages' .*found none"):
        files.open(next(iter(files.files)))
    whole = next((data / "acme" / "prs").rglob("*.parquet")).read_bytes()
    (tmp_path / "torn.parquet").write_bytes(whole[:-100])
    files = Dataset("--prs", str(tmp_path / "torn.parquet"), COLUMNS)
    with pytest.raises(UserError, match="torn.parquet is not a whole parquet file"):
        files.open("torn.parquet")
    (tmp_path / "torn.parquet").write_bytes(whole[:100] + bytes(900) + whole[1000:])
    files = Dataset("--prs", str(tmp_path / "torn.parquet"), ["patch"])
    with pytest.raises(UserError, match="torn.parquet is not a whole parquet file"):
        table_of(files.open("torn.parquet").batches(0, ["instance_id", "repo", "base_commit"]))


def test_the_hub_gives_what_a_folder_gives_and_only_its_bytes(data, monkeypatch, tmp_path):
    here = Dataset("--dataset", str(data / "acme" / "trajectories"), COLUMNS)
    with FakeHub(data) as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        there = Dataset("--dataset", "acme/trajectories", COLUMNS)
        assert there.files == here.files
        assert there.revision == fake.commit("acme/trajectories")
        for file in there.files:
            sizes = here.open(file).sizes
            assert there.open(file).sizes == sizes and len(sizes) > 2
            fake.forget()
            got = table_of(there.open(file).batches(1, COLUMNS))
            assert got == table_of(here.open(file).batches(1, COLUMNS))
            message = got.schema.field("messages").type.value_type
            assert [field.name for field in message] == ["role", "content"]
            assert fake.sent("/blob/") <= 1.001 * column_bytes(
                data / "acme/trajectories", COLUMNS, {(file, 1)}
            )
            first, second, *_ = sizes
            assert got.num_rows == second
            assert next(here.open(file).rows(1, COLUMNS))[0] == first
            [row] = there.open(file).rows(1, COLUMNS, {first + 2})
            assert row == (first + 2, list(got.slice(2, 1).to_pylist()[0].values()))
