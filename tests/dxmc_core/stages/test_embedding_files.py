"""Arrays that users bring: every kind reads the same, and nothing is unpickled."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.user_tables import matrix_of_lists
from dxmc_core.errors import InputError
from dxmc_core.stages.embedding_files import embedding_file_shape, read_embedding_file

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
    with pytest.raises(InputError, match=r"source\.uri: there is no file"):
        read_embedding_file(str(tmp_path / "gone.npz"))


MISSING_LABELS = [
    ([0, 1, None, 2, 0], ["0", "1", None, "2", "0"]),
    ([0.0, 1.0, float("nan"), 2.5, None], ["0", "1", None, "2.5", None]),
    (["a", None, "", "b", " "], ["a", None, None, "b", None]),
]


@pytest.mark.parametrize(("labels", "expected"), MISSING_LABELS)
def test_missing_labels_of_parquet_are_none_and_whole_numbers_stay_whole(tmp_path, labels, expected):
    pq.write_table(pa.table({"embedding": EMBEDDINGS.tolist(), "labels": labels}), tmp_path / "x.parquet")
    assert read_embedding_file(str(tmp_path / "x.parquet")).labels == expected
    dictionary = pa.table({"embedding": EMBEDDINGS.tolist(), "labels": pa.array(labels).dictionary_encode()})
    pq.write_table(dictionary, tmp_path / "x.parquet")
    assert read_embedding_file(str(tmp_path / "x.parquet")).labels == expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([0, 1, np.nan, 2, 0]), ["0", "1", None, "2", "0"]),
        (np.array(["a", "nan", "", "b", "NaT"]), ["a", None, None, "b", None]),
        (np.array([b"a", b"", b"b", b"c", b"d"]), ["a", None, "b", "c", "d"]),
        (np.array(["2026-01-01", "NaT", "NaT", "NaT", "NaT"], "M8[D]"), ["2026-01-01", None, None, None, None]),
    ],
)
def test_missing_labels_of_npz(tmp_path, labels, expected):
    np.savez(tmp_path / "x.npz", embeddings=EMBEDDINGS, labels=labels)
    assert read_embedding_file(str(tmp_path / "x.npz")).labels == expected


def test_ids_that_are_missing_are_file_and_row(tmp_path):
    pq.write_table(
        pa.table({"embedding": EMBEDDINGS.tolist(), "image_ids": [7, 8, None, 9, None]}), tmp_path / "x.parquet"
    )
    file = read_embedding_file(str(tmp_path / "x.parquet"))
    assert file.image_ids == ["7", "8", "x.parquet#2", "9", "x.parquet#4"]


def test_only_what_is_asked_for_is_read(tmp_path):
    columns = {"embedding": EMBEDDINGS.tolist(), "words": [["a"], [], None, ["b", "c"], []]}
    twice = pa.Table.from_arrays([*map(pa.array, columns.values()), *[pa.array(range(5))] * 2], [*columns, "n", "n"])
    pq.write_table(twice, tmp_path / "x.parquet")
    assert read_embedding_file(str(tmp_path / "x.parquet")).embeddings.shape == (5, 3)
    with pytest.raises(InputError, match="2 columns called 'n'; expected one"):
        read_embedding_file(str(tmp_path / "x.parquet"), label_from="n")
    np.savez(tmp_path / "x.npz", embeddings=EMBEDDINGS, notes=np.array([{}], dtype=object))
    assert read_embedding_file(str(tmp_path / "x.npz")).embeddings.shape == (5, 3)


LIST_TYPES = [
    pa.list_(pa.float32()),
    pa.list_(pa.float64(), 3),
    pa.large_list(pa.float32()),
    pa.list_view(pa.float16()),
    pa.large_list_view(pa.float32()),
]


@pytest.mark.parametrize("kind", LIST_TYPES)
def test_rows_and_numbers_that_are_missing_are_nan(tmp_path, kind):
    rows = [[1.0, 2.0, 3.0], None, [4.0, None, 6.0], [7.0, 8.0, 9.0]]
    pq.write_table(pa.table({"embedding": pa.array(rows, kind)}), tmp_path / "x.parquet", row_group_size=3)
    found = read_embedding_file(str(tmp_path / "x.parquet")).embeddings
    nan = np.nan
    np.testing.assert_array_equal(found, [[1, 2, 3], [nan, nan, nan], [4, nan, 6], [7, 8, 9]])
    assert embedding_file_shape(str(tmp_path / "x.parquet")) == (4, 3)


def test_a_column_in_many_chunks_is_one_matrix():
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    chunks = [pa.array(rows[at].tolist(), pa.list_(pa.float32())) for at in (slice(0, 3), slice(3, 3), slice(3, 8))]
    np.testing.assert_array_equal(matrix_of_lists(pa.chunked_array(chunks)), rows)
    np.testing.assert_array_equal(matrix_of_lists(pa.chunked_array(chunks).slice(2, 4)), rows[2:6])


def test_places_that_are_no_file(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "empty.npy").touch()
    (tmp_path / "empty.parquet").touch()
    os.mkfifo(tmp_path / "pipe.npy")
    for name, message in {
        "folder.npz": "folder.npz is a folder, expected a file",
        "empty.npy": "empty.npy is not a readable file of arrays",
        "empty.parquet": "empty.parquet is not readable Parquet",
        "pipe.npy": "pipe.npy is a named pipe, expected a file",
        "x" * 300 + ".npy": "cannot read .*: File name too long",
    }.items():
        with pytest.raises(InputError, match=message):
            read_embedding_file(str(tmp_path / name))
    with pytest.raises(InputError, match=r"source\.uri: cannot use 'gs://bucket/x\.npy': .*gcsfs"):
        read_embedding_file("gs://bucket/x.npy")


def test_pictures_beside_embeddings(tmp_path):
    uris = np.array(["a.jpg", "", "s3://bucket/c.jpg", "/far/d.jpg", "https://example.com/e.jpg"])
    np.savez(tmp_path / "x.npz", embeddings=EMBEDDINGS, uris=uris)
    expected = [f"{tmp_path}/a.jpg", None, "s3://bucket/c.jpg", "/far/d.jpg", "https://example.com/e.jpg"]
    assert read_embedding_file(str(tmp_path / "x.npz")).uris == expected
    table = pa.table({"embedding": EMBEDDINGS.tolist(), "uri": [text or None for text in uris.tolist()]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read_embedding_file(str(tmp_path / "x.parquet")).uris == expected
    np.savez(tmp_path / "x.npz", embeddings=EMBEDDINGS, uris=uris[:2])
    with pytest.raises(InputError, match=r"'uris' has shape \(2,\), expected \(5,\)"):
        read_embedding_file(str(tmp_path / "x.npz"))
