"""The catalog: dense rows in parts, the same digest for the same listing, ids that are unique, bounded memory."""

import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxmc_core.artifacts.manifest import SCHEMA_VERSION
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.artifacts.tables import CATALOG
from dxmc_core.errors import InputError
from dxmc_core.images import catalog as catalog_module
from dxmc_core.images.catalog import CATALOG_NAME, Listing, freeze_catalog, list_source, read_catalog, stage_catalog
from dxmc_core.images.sources import ImagesSource, ParquetSource, WebDatasetSource

FINGERPRINT = "c" * 32


@pytest.fixture
def stage(tmp_path):
    return StageDir(Storage(str(tmp_path / "run/embed_images")), "embed_images")


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(catalog_module, "CATALOG_PART_ROWS", 10)


def list_file(tmp_path, rows, name="list.csv"):
    path = tmp_path / name
    path.write_text("uri,size,etag\n" + "".join(f"{uri},{size},{etag}\n" for uri, size, etag in rows))
    return ImagesSource(uri=str(path))


def test_rows_are_dense_in_parts_and_found_by_number(stage, tmp_path, small_parts):
    source = list_file(tmp_path, [(f"{number:02}", number, "e") for number in range(35)])
    listing = list_source(source)
    assert listing.num_rows == 35
    assert [table.num_rows for table in listing.tables()] == [10, 10, 10, 5]
    catalog = freeze_catalog(stage_catalog(stage, listing.tables(), fingerprint=FINGERPRINT))
    assert catalog.num_rows == 35
    assert catalog.rows(8, 23)["image_id"].to_pylist() == [f"{number:02}" for number in range(8, 23)]
    assert catalog.rows(30, 35)["row_id"].to_pylist() == list(range(30, 35))
    assert catalog.rows(0, 1).schema.names[: len(CATALOG.schema())] == CATALOG.schema().names
    found = read_catalog(stage)
    assert found is not None
    assert found.manifest == catalog.manifest


def test_a_part_may_lie_in_several_batches(stage, small_parts):
    """As it does where one of its columns holds more text than a batch can."""
    rows = pa.table({**{name: pa.array(["x"] * 25) for name in CATALOG.schema().names}, "row_id": range(25)})
    rows = rows.set_column(
        rows.column_names.index("image_id"), "image_id", pa.array([f"{row:02}" for row in range(25)])
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        for start, stop in ((0, 4), (4, 10), (10, 20), (20, 21), (21, 25)):
            writer.write_table(rows.slice(start, stop - start))
    listing = Listing(sink.getvalue(), "digest", 25, {})
    assert [table.num_rows for table in listing.tables()] == [10, 10, 5]
    catalog = stage_catalog(stage, listing.tables(), fingerprint=FINGERPRINT)
    assert catalog.rows(8, 23)["image_id"].to_pylist() == [f"{row:02}" for row in range(8, 23)]


def test_a_listing_leaves_nothing_behind_while_it_is_read_again_and_again(tmp_path, monkeypatch):
    source = list_file(tmp_path, [("a", 1, "e"), ("b", 2, "e")])
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    listing = list_source(source)
    assert not list((tmp_path / "scratch").iterdir())
    for _ in range(2):
        assert [table["image_id"].to_pylist() for table in listing.tables()] == [["a", "b"]]


def test_digest_depends_on_the_listing_alone(tmp_path):
    rows = [(f"{number:05}", number, "e") for number in range(9000)]
    before = list_source(list_file(tmp_path, rows)).digest
    assert list_source(list_file(tmp_path, rows)).digest == before
    changed = [*rows[:-1], (rows[-1][0], rows[-1][1], "other")]
    assert list_source(list_file(tmp_path, changed)).digest != before
    assert list_source(list_file(tmp_path, rows[:-1])).digest != before


def test_ids_that_repeat_far_apart_are_an_error(tmp_path, small_parts):
    rows = [(f"{number:02}", number, "e") for number in range(35)]
    with pytest.raises(InputError, match="lists '03' twice"):
        list_source(list_file(tmp_path, [*rows, ("03", 1, "e")]))


def test_equal_hashes_of_different_ids_are_no_error(tmp_path, monkeypatch):
    def worst(texts):
        return pa.array([7] * len(texts), pa.uint64()).to_numpy()

    monkeypatch.setattr(catalog_module, "hash_texts", worst)
    assert list_source(list_file(tmp_path, [("a", 1, "e"), ("b", 1, "e")])).num_rows == 2
    with pytest.raises(InputError, match="lists 'a' twice"):
        list_source(list_file(tmp_path, [("a", 1, "e"), ("b", 1, "e"), ("a", 1, "e")]))


def test_equal_keys_of_two_tars_are_told_apart_on_request(tmp_path, tar_of):
    for name in ("x", "y"):
        (tmp_path / f"{name}.tar").write_bytes(tar_of([("0.jpg", b"x")]))
    with pytest.raises(InputError, match=r"lists '0' twice, in .*x\.tar and .*y\.tar; .* shard_and_key"):
        list_source(WebDatasetSource(kind="webdataset", uri=str(tmp_path)))
    source = WebDatasetSource(kind="webdataset", uri=str(tmp_path), image_id="shard_and_key")
    assert list_source(source).num_rows == 2


def test_carried_columns_reach_the_catalog(stage, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("uri,size,etag,camera\na.jpg,1,e,X100\nb.jpg,1,e,\n")
    listing = list_source(ImagesSource(uri=str(path)))
    catalog = stage_catalog(stage, listing.tables(), fingerprint=FINGERPRINT)
    assert catalog.rows(0, 2)["camera"].to_pylist() == ["X100", ""]


def test_catalog_that_is_damaged_or_of_another_version_counts_as_none(stage, tmp_path, monkeypatch):
    assert read_catalog(stage) is None
    listing = list_source(list_file(tmp_path, [("a", 1, "e")]))
    freeze_catalog(stage_catalog(stage, listing.tables(), fingerprint=FINGERPRINT))
    assert read_catalog(stage) is not None
    with monkeypatch.context() as patch:
        patch.setattr("dxmc_core.artifacts.manifest.SCHEMA_VERSION", SCHEMA_VERSION + 1)
        assert read_catalog(stage) is None
    stage.storage.write_bytes(CATALOG_NAME, b'{"half": ')
    assert read_catalog(stage) is None


def test_places_without_one_image(tmp_path, tar_of):
    (tmp_path / "x.tar").write_bytes(tar_of([]))
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="holds no images"):
        list_source(WebDatasetSource(kind="webdataset", uri=str(tmp_path)))
    with pytest.raises(InputError, match="holds no images"):
        list_source(ParquetSource(kind="parquet", uri=str(tmp_path)))


def test_parquet_source_is_listed_too(tmp_path):
    pq.write_table(pa.table({"image": [b"a", b"b"]}), tmp_path / "x.parquet")
    (table,) = list_source(ParquetSource(kind="parquet", uri=str(tmp_path))).tables()
    assert table["offset"].to_pylist() == [0, 1]
