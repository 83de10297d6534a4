"""Arrays that users bring: every kind reads the same, and nothing is unpickled."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.errors import InputError
from dxmc_core.stages.embedding_files import read_embedding_file

EMBEDDINGS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
IDS = ["a", "b", "c", "d", "e"]
LABELS = np.array([0, 1, 1, 0, 2])


def test_npz(tmp_path):
    np.savez(tmp_path / "x.npz", embeddings=EMBEDDINGS, image_ids=np.array(IDS), labels=LABELS)
    file = read_embedding_file(str(tmp_path / "x.npz"))
    np.testing.assert_array_equal(file.embeddings, EMBEDDINGS)
    assert file.image_ids == IDS
    assert file.labels == ["0", "1", "1", "0", "2"]


def test_npy_numbers_its_rows(tmp_path):
    np.save(tmp_path / "x.npy", EMBEDDINGS)
    file = read_embedding_file(str(tmp_path / "x.npy"))
    assert file.image_ids == ["0", "1", "2", "3", "4"]
    assert file.labels is None


@pytest.mark.parametrize("column", ["list", "fixed"])
def test_parquet(tmp_path, column):
    values = embedding_column(EMBEDDINGS) if column == "fixed" else EMBEDDINGS.tolist()
    table = pa.table({"embedding": values, "image_ids": IDS, "kind": ["x", "y", "x", "y", "x"]})
    pq.write_table(table, tmp_path / "x.parquet")
    file = read_embedding_file(str(tmp_path / "x.parquet"), label_from="kind")
    np.testing.assert_allclose(file.embeddings, EMBEDDINGS, rtol=1e-6)
    assert file.image_ids == IDS
    assert file.labels == ["x", "y", "x", "y", "x"]


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("x.npz", {"features": EMBEDDINGS}, "no array 'embeddings'; it has \\['features'\\]"),
        ("x.npz", {"embeddings": EMBEDDINGS[0]}, "shape \\(3,\\)"),
        ("x.npz", {"embeddings": EMBEDDINGS.astype(int)}, "type int64"),
        ("x.npz", {"embeddings": EMBEDDINGS, "labels": LABELS[:2]}, "'labels' has shape \\(2,\\)"),
        ("x.npz", {"embeddings": EMBEDDINGS, "image_ids": np.array(list("aabcd"))}, "same id twice"),
        ("x.npz", {"embeddings": np.array([[{}]], dtype=object)}, "allow_pickle"),
    ],
)
def test_unusable_arrays_are_one_clear_error(tmp_path, name, arrays, message):
    np.savez(tmp_path / name, **arrays)
    with pytest.raises(InputError, match=message):
        read_embedding_file(str(tmp_path / name))


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.parquet", "x.pt"])
def test_files_of_another_kind(tmp_path, name):
    (tmp_path / name).write_bytes(b"not an array")
    with pytest.raises(InputError, match="x\\."):
        read_embedding_file(str(tmp_path / name))


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_embedding_file(str(tmp_path / "gone.npz"))
