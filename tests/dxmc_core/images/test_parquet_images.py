"""Images in Parquet columns: rows listed without their bytes, cells read in order, damage kept to its row group."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxmc_core.artifacts.tables import CATALOG
from dxmc_core.errors import InputError
from dxmc_core.images.catalog import catalog_tables, list_source
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.parquet_images import list_parquet, rows_taken
from dxmc_core.images.selection import Reason, Selection
from dxmc_core.images.sources import ParquetSource


def source_at(uri, **options):
    return ParquetSource(kind="parquet", uri=str(uri), **options)


def listed(source) -> pa.Table:
    return pa.concat_tables(list_parquet(source))


def fetched(source, rows=None):
    files = FetchImages(source)(listed(source) if rows is None else rows)
    return [file if isinstance(file, bytes) else str(file.reason) for file in files]


def hugging_face(numbers, **columns) -> pa.Table:
    """A table as Hugging Face's datasets write images."""
    images = [{"bytes": f"image {number}".encode(), "path": f"{number:04}.jpg"} for number in numbers]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({"image": pa.array(images, kind), "label": [number % 3 for number in numbers], **columns})


@pytest.fixture
def folder(tmp_path):
    pq.write_table(hugging_face(range(50)), tmp_path / "a.parquet", row_group_size=20)
    pq.write_table(hugging_face(range(50, 70)), tmp_path / "b.parquet", row_group_size=7)
    return tmp_path


def test_rows_of_a_folder(folder):
    source = source_at(folder, label_from="label", id_column="image.path")
    rows = listed(source)
    assert rows["image_id"].to_pylist() == [f"{number:04}.jpg" for number in range(70)]
    assert rows["label"].to_pylist()[:4] == ["0", "1", "2", "0"]
    assert rows["offset"].to_pylist() == [*range(50), *range(20)]
    assert fetched(source) == [f"image {number}".encode() for number in range(70)]


def test_ids_are_file_and_row_where_no_column_is_named(folder):
    rows = listed(source_at(folder / "*.parquet"))
    assert rows["image_id"].to_pylist()[48:52] == ["a.parquet#48", "a.parquet#49", "b.parquet#0", "b.parquet#1"]
    assert rows["source_label"].to_pylist()[:3] == [0, 1, 2]


def test_rows_in_any_order_and_some_left_out(folder):
    source = source_at(folder)
    rows = listed(source)
    chosen = [3, 4, 30, 47, 12, 12, 69, 51, 0]
    assert fetched(source, rows.take(chosen)) == [f"image {number}".encode() for number in chosen]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes_with_nulls_and_empty_cells(tmp_path, kind):
    table = pa.table({"key": ["x", "y", "z"], "jpeg": pa.array([b"a", None, b""], kind), "width": [1, 2, 3]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = source_at(tmp_path / "x.parquet", id_column="key")
    rows = listed(source)
    assert rows["image_id"].to_pylist() == ["x", "y", "z"]
    assert rows["width"].to_pylist() == [1, 2, 3]
    assert rows.column_names[-1] == "width"
    assert fetched(source) == [b"a", "missing", b""]


def test_struct_that_is_null_and_one_with_a_path_only(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([None, {"bytes": None, "path": "x"}, {"bytes": b"c", "path": None}], kind)
    pq.write_table(pa.table({"img": cells}), tmp_path / "x.parquet")
    source = source_at(tmp_path, id_column="img.path")
    assert listed(source)["image_id"].to_pylist() == ["x.parquet#0", "x", "x.parquet#2"]
    assert fetched(source) == ["missing", "missing", b"c"]


def test_damage_costs_its_row_group_and_no_other(folder):
    path = folder / "a.parquet"
    group = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = group.dictionary_page_offset or group.data_page_offset
    data[start : start + group.total_compressed_size] = b"\xff" * group.total_compressed_size
    path.write_bytes(data)
    found = fetched(source_at(folder))
    assert found[:20] == [f"image {number}".encode() for number in range(20)]
    assert set(found[20:40]) == {"unreadable"}
    assert found[40:] == [f"image {number}".encode() for number in range(40, 70)]


def test_file_that_is_no_parquet_is_one_row(folder):
    (folder / "0.parquet").write_bytes(b"PAR1 but not really")
    source = source_at(folder)
    rows = listed(source)
    assert rows.num_rows == 71
    assert rows["image_id"][0].as_py() == "0.parquet"
    assert fetched(source)[0] == "unreadable"
    assert fetched(source)[1:] == [f"image {number}".encode() for number in range(70)]


def test_file_that_is_gone(folder):
    source = source_at(folder)
    rows = listed(source)
    (folder / "a.parquet").unlink()
    assert fetched(source, rows) == ["missing"] * 50 + [f"image {number}".encode() for number in range(50, 70)]


def test_column_that_one_file_has_is_null_elsewhere(folder):
    pq.write_table(hugging_face(range(3), split=["x", "y", "z"]), folder / "c.parquet")
    assert listed(source_at(folder))["split"].to_pylist() == [None] * 70 + ["x", "y", "z"]


WIDENED = [
    ([None, None], pa.null(), ["a", None], pa.string(), pa.string()),
    ([1, 2], pa.int64(), [None, 0.5], pa.float64(), pa.float64()),
    ([1, 2], pa.int32(), [None, 2**40], pa.int64(), pa.int64()),
    ([[], []], pa.list_(pa.null()), [["a"], None], pa.list_(pa.string()), pa.list_(pa.string())),
    (["a", "b"], pa.dictionary(pa.int32(), pa.string()), ["c", None], pa.string(), pa.string()),
    (["a", "b"], pa.dictionary(pa.int8(), pa.string()), ["c", "d"], pa.large_string(), pa.large_string()),
    (["a", "b"], pa.string_view(), ["c", "d"], pa.string(), pa.string()),
    (["a", "b"], pa.string(), ["c", None], pa.large_string(), pa.large_string()),
    ([{"x": 1}, None], pa.struct([("x", pa.int64())]), [{"x": 0.5, "y": "b"}, None],
     pa.struct([("x", pa.float64()), ("y", pa.string())]), pa.struct([("x", pa.float64()), ("y", pa.string())])),
]  # fmt: skip


@pytest.mark.parametrize(("first", "first_type", "second", "second_type", "expected"), WIDENED)
@pytest.mark.parametrize("turned", [False, True])
def test_columns_of_several_types_are_widened(tmp_path, first, first_type, second, second_type, expected, turned):
    shards = [pa.array(first, first_type), pa.array(second, second_type)]
    for index, column in enumerate(shards[::-1] if turned else shards):
        pq.write_table(pa.table({"image": [b"1", b"2"], "extra": column}), tmp_path / f"{index}.parquet")
    rows = listed(source_at(tmp_path))
    assert rows["extra"].type == expected
    values = [pa.array(column.to_pylist(), expected).to_pylist() for column in shards]
    assert rows["extra"].to_pylist() == [*values[turned], *values[not turned]]
    assert fetched(source_at(tmp_path)) == [b"1", b"2", b"1", b"2"]


def test_column_that_no_type_holds_is_left_out_with_a_line(folder, caplog):
    pq.write_table(hugging_face(range(3)).set_column(1, "label", pa.array(["cat"] * 3)), folder / "c.parquet")
    rows = listed(source_at(folder))
    assert rows.num_rows == 73
    assert "source_label" not in rows.column_names
    assert "column 'label' is int64 in" in caplog.text
    assert f"string in {folder}/c.parquet; it is left out" in caplog.text
    assert listed(source_at(folder, label_from="label"))["label"].to_pylist()[-4:] == ["0", "cat", "cat", "cat"]


def test_numbers_that_the_common_type_does_not_hold_are_left_empty_with_a_line(tmp_path, caplog):
    for name, extra in (("0", pa.array([2**53 + 1])), ("1", pa.array([0.5]))):
        pq.write_table(pa.table({"image": [b"1"], "extra": extra}), tmp_path / f"{name}.parquet")
    assert listed(source_at(tmp_path))["extra"].to_pylist() == [None, 0.5]
    assert "0.parquet: column 'extra' cannot be carried as double" in caplog.text


def text_that_is_not_utf8(*values: bytes) -> pa.StringArray:
    column = pa.array(values, pa.binary())
    return pa.StringArray.from_buffers(len(column), column.buffers()[1], column.buffers()[2])


def test_text_that_is_not_utf8(tmp_path, caplog):
    extra = text_that_is_not_utf8(b"a", b"caf\xe9")
    pq.write_table(pa.table({"image": [b"1", b"2"], "extra": extra}), tmp_path / "x.parquet")
    assert listed(source_at(tmp_path))["extra"].to_pylist() == [None, None]
    assert "x.parquet: column 'extra' cannot be carried" in caplog.text
    for setting in ("id_column", "label_from"):
        with pytest.raises(InputError, match=r"x\.parquet: column 'extra' holds text that is not UTF-8"):
            listed(source_at(tmp_path, **{setting: "extra"}))


def test_column_whose_name_is_not_utf8(tmp_path):
    schema = pa.schema([pa.field(b"caf\xe9", pa.string()), pa.field("image", pa.binary())])
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array([b"1"])], schema=schema), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet: the name of a column is not UTF-8"):
        listed(source_at(tmp_path))


def test_columns_that_are_there_twice(tmp_path, caplog):
    columns = [pa.array([b"1"]), pa.array(["a"]), pa.array(["b"]), pa.array([7])]
    pq.write_table(pa.Table.from_arrays(columns, ["image", "text", "text", "width"]), tmp_path / "x.parquet")
    rows = listed(source_at(tmp_path))
    assert rows["width"].to_pylist() == [7]
    assert "text" not in rows.column_names
    assert "x.parquet has several columns called 'text'; they are left out" in caplog.text
    with pytest.raises(InputError, match="2 columns called 'text'; expected one"):
        listed(source_at(tmp_path, label_from="text"))


def test_columns_that_are_called_like_ours(tmp_path):
    names = [field.name for field in CATALOG.schema()]
    values = {name: [f"my {name}"] for name in [*names, "source_uri", "source_source_uri"]}
    pq.write_table(pa.table({"image": [b"1"], **values}), tmp_path / "x.parquet")
    source = source_at(tmp_path)
    (rows,) = catalog_tables([listed(source)])
    assert rows.column_names[: len(names)] == names
    assert rows.column_names.count("source_uri") == 1
    assert rows["image_id"].to_pylist() == ["x.parquet#0"]
    assert rows["source_row_id"].to_pylist() == ["my row_id"]
    assert rows["source_uri"].to_pylist() == ["my source_uri"]
    assert rows["source_source_source_uri"].to_pylist() == ["my uri"]
    assert fetched(source, rows) == [b"1"]


def test_shard_without_a_single_image(tmp_path):
    pq.write_table(pa.table({"image": pa.nulls(2), "n": [1, 2]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"image": [b"1"], "n": [3]}), tmp_path / "1.parquet")
    source = source_at(tmp_path)
    assert listed(source)["n"].to_pylist() == [1, 2, 3]
    assert fetched(source) == ["missing", "missing", b"1"]


def test_labels_that_are_missing(tmp_path):
    for index, labels in enumerate((pa.array([1, 2]), pa.array([3.0, None]), pa.array([float("nan"), 0.5]))):
        pq.write_table(pa.table({"image": [b"1", b"2"], "label": labels}), tmp_path / f"{index}.parquet")
    assert listed(source_at(tmp_path, label_from="label"))["label"].to_pylist() == ["1", "2", "3", None, None, "0.5"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "label"}, "holds no bytes, only .'image'. do"),
        ({"id_column": "key"}, "no column 'key' for source.id_column"),
        ({"label_from": "image.size"}, "no column 'image.size' for source.label_from"),
    ],
)
def test_columns_that_are_not_there(folder, options, message):
    with pytest.raises(InputError, match=message):
        listed(source_at(folder, **options))


def test_several_columns_of_bytes_must_be_told_apart(tmp_path):
    pq.write_table(pa.table({"a": [b"1"], "b": [b"2"]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"expected one column of bytes, found \['a', 'b'\]"):
        listed(source_at(tmp_path))
    assert fetched(source_at(tmp_path, image_column="b")) == [b"2"]


def test_folder_without_parquet(tmp_path):
    with pytest.raises(InputError, match=r"no \.parquet files"):
        listed(source_at(tmp_path))


def test_bucket_with_large_cells(s3_bucket, tmp_path):
    cells = [np.random.default_rng(number).bytes(300_000) for number in range(20)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "x.parquet", row_group_size=10)
    s3_bucket.put("set/x.parquet", (tmp_path / "x.parquet").read_bytes())
    s3_bucket.faults.share = 0.2
    assert fetched(source_at(f"{s3_bucket.uri}/set/")) == cells


def test_names_of_files_are_only_names(tmp_path):
    for place in ("[2021] trip/t.parquet", "my::folder/t.parquet", "t?.parquet", "*.parquet"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": [place.encode()]}), tmp_path / place)
        assert fetched(source_at(tmp_path / place)) == [place.encode()]
    assert fetched(source_at(tmp_path / "[2021] trip")) == [b"[2021] trip/t.parquet"]


def test_patterns_are_about_ids_and_files(folder, caplog):
    ids = listed(source_at(folder, id_column="image.path", include=["006?.jpg"], exclude=["0061.*"]))["image_id"]
    assert ids.to_pylist() == ["0060.jpg", *(f"{number:04}.jpg" for number in range(62, 70))]
    assert listed(source_at(folder, exclude=["a.parquet"])).num_rows == 20
    assert listed(source_at(folder, include=["a.parquet"])).num_rows == 50
    with pytest.raises(
        InputError, match=r"holds no images.*70 images that source.include and source.exclude leave out"
    ):
        list_source(source_at(folder, include=["nothing"]))


def test_files_beside_and_hidden_ones_are_counted(folder):
    (folder / ".tmp").mkdir()
    (folder / ".tmp" / "c.parquet").write_bytes(b"x")
    (folder / "_SUCCESS").touch()
    listing = list_source(source_at(folder))
    assert listing.num_rows == 70
    assert listing.passed_over == {Reason.HIDDEN: 1, Reason.OTHER_ENDING: 1}


def test_rows_are_taken_by_their_id_or_by_the_file_that_holds_them():
    rows = pa.table({"image_id": ["a/1", "b/2", "x.tar"], "problem": [None, None, "unreadable: damaged"]})

    def taken(**patterns):
        return rows_taken(rows, Selection(**patterns), holder="x.tar")["image_id"].to_pylist()

    assert taken(include=["a"]) == ["a/1", "x.tar"]
    assert taken(include=["x.*"]) == ["a/1", "b/2", "x.tar"]
    assert taken(exclude=["b", "y.tar"]) == ["a/1", "x.tar"]
    assert taken(include=["z"]) == ["x.tar"]
