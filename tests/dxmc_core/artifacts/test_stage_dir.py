"""Parts count once a manifest names them; what is damaged or left over is never read."""

import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.manifest import MANIFEST_NAME, SCHEMA_VERSION, fingerprint_of
from dxmc_core.artifacts.matrices import RowMatrix, StoredRows, embedding_column, load_matrix, load_rows, matrix_of
from dxmc_core.artifacts.ownership import OWN_NAME
from dxmc_core.artifacts.stage_dir import StageDir, parts_in_order
from dxmc_core.artifacts.storage import Storage
from dxmc_core.artifacts.tables import IMAGES, embedding_type
from dxmc_core.errors import ArtifactError

FINGERPRINT = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def stage(tmp_path):
    return StageDir(Storage(str(tmp_path / "embed_images")), "embed_images")


def images_table(row_ids, width=4, seed=0):
    values = np.random.default_rng(seed).normal(size=(len(row_ids), width)).astype(np.float16)
    return pa.table(
        {"row_id": row_ids, "image_id": [f"i{row}" for row in row_ids], "embedding": embedding_column(values)}
    ).cast(IMAGES.schema(width))


def publish(stage, tables, **kwargs):
    return stage.publish(fingerprint=FINGERPRINT, inputs={}, tables=tables, seconds=1.0, **kwargs)


def test_published_table_reads_back_and_leftovers_are_removed(stage):
    table = images_table([0, 1, 2])
    kept = stage.write_part("images", table, fingerprint=FINGERPRINT)
    leftover = stage.write_part("images", images_table([0, 1], seed=1), fingerprint=FINGERPRINT)
    publish(stage, {"images": [kept]})
    assert stage.read_table(IMAGES).equals(table)
    assert set(stage.storage.list_files()) == {MANIFEST_NAME, kept.name}
    assert leftover.name != kept.name


def test_the_same_content_gets_the_same_part(stage):
    parts = [stage.write_part("images", images_table([5, 6]), fingerprint=FINGERPRINT) for _ in range(2)]
    assert parts[0] == parts[1]
    [(part, row_ids)] = stage.staged_row_ids("images", fingerprint=FINGERPRINT)
    assert part == parts[0]
    assert row_ids.tolist() == [5, 6]


def test_parts_of_another_fingerprint_are_not_resumed(stage):
    stage.write_part("images", images_table([0]), fingerprint="f" * 32)
    assert list(stage.staged_row_ids("images", fingerprint=FINGERPRINT)) == []


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_part_is_not_resumed(stage, damage):
    part = stage.write_part("images", images_table([0, 1]), fingerprint=FINGERPRINT)
    data = bytearray(stage.storage.read_bytes(part.name))
    data[len(data) // 2] ^= 1
    stage.storage.write_bytes(part.name, bytes(data) if damage == "flip" else bytes(data[: len(data) // 2]))
    assert list(stage.staged_row_ids("images", fingerprint=FINGERPRINT)) == []


def test_parts_in_a_store_are_resumed_by_their_row_ids_alone(tmp_path):
    """Nothing but the ends of the file is read: what is wrong in between is found by whoever reads it."""
    stage = StageDir(Storage(f"memory://{tmp_path.name}/embed_images"), "embed_images")
    rows = [3, 5, 9]
    part = stage.write_part("images", images_table(rows, width=4000), fingerprint=FINGERPRINT)
    cut = stage.write_part("images", images_table([7], width=4000), fingerprint=FINGERPRINT)
    stage.storage.write_bytes(cut.name, stage.storage.read_bytes(cut.name)[:-200])
    data = bytearray(stage.storage.read_bytes(part.name))
    data[len(data) // 2] ^= 1
    stage.storage.write_bytes(part.name, bytes(data))
    [(found, row_ids)] = stage.staged_row_ids("images", fingerprint=FINGERPRINT)
    assert found == part
    assert row_ids.tolist() == rows
    with pytest.raises(ArtifactError, match="damaged"):
        stage.read_part(found)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_part_is_named_and_never_used(stage, damage):
    part = stage.write_part("images", images_table([0, 1]), fingerprint=FINGERPRINT)
    publish(stage, {"images": [part]})
    data = bytearray(stage.storage.read_bytes(part.name))
    if damage == "remove":
        stage.storage.delete(part.name)
    else:
        data[len(data) // 2] ^= 1
        stage.storage.write_bytes(part.name, bytes(data) if damage == "flip" else bytes(data[:-3]))
    with pytest.raises(ArtifactError, match=part.sha256):
        list(stage.iter_parts(IMAGES))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a readable manifest"),
        (b"[]", "schema version None"),
        (b'{"schema_version": 999}', "schema version 999"),
        (b'{"schema_version": %d, "stage": "embed_images"}' % SCHEMA_VERSION, "its checksum does not fit"),
    ],
)
def test_unreadable_manifest_is_an_error(stage, content, message):
    stage.storage.write_bytes(MANIFEST_NAME, content)
    with pytest.raises(ArtifactError, match=message):
        stage.manifest()


def test_manifest_of_another_stage_is_an_error(stage):
    publish(stage, {})
    with pytest.raises(ArtifactError, match="belongs to stage 'embed_images'"):
        StageDir(stage.storage, "train_heads").manifest()


def test_column_of_another_type_is_an_error(stage):
    rows = images_table([0])
    wide = rows["embedding"].cast(embedding_type(4, pa.float32()))
    part = stage.write_part("images", rows.set_column(2, "embedding", wide), fingerprint=FINGERPRINT)
    publish(stage, {"images": [part]})
    for table in (IMAGES, "images"):
        with pytest.raises(ArtifactError, match=r"column 'embedding' has type fixed_size_list.*float"):
            stage.read_table(table)


def test_parts_come_in_source_order_and_once(stage):
    parts = [stage.write_part("images", images_table([row]), fingerprint=FINGERPRINT) for row in range(3)]
    receipts = [{"part": index, "extra": 1, **parts[index].model_dump()} for index in (2, 0, 1, 0)]
    assert parts_in_order(receipts) == parts


def test_matrix_is_loaded_in_row_order_whatever_the_parts(stage):
    parts = [stage.write_part("images", images_table(rows), fingerprint=FINGERPRINT) for rows in ([4, 7], [0, 2], [9])]
    publish(stage, {"images": parts})
    matrix = load_matrix(stage, "images")
    assert matrix.row_ids.tolist() == [0, 2, 4, 7, 9]
    chosen = load_rows(stage, "images", np.array([2, 9]))
    np.testing.assert_array_equal(chosen.values, matrix.values[[1, 4]])
    assert matrix.positions_of(np.array([[9, 0], [4, 4]])).tolist() == [[4, 0], [2, 2]]
    with pytest.raises(ArtifactError, match="row 3"):
        matrix.positions_of(np.array([0, 3]))
    without_gaps = RowMatrix(np.arange(5, 9), matrix.values[:4])
    assert without_gaps.positions_of(np.array([[8, 5]])).tolist() == [[3, 0]]
    for outside in (4, 9):
        with pytest.raises(ArtifactError, match=f"row {outside}"):
            without_gaps.positions_of(np.array([5, outside]))
    with pytest.raises(ArtifactError, match="lacks 1 of 2 rows"):
        load_rows(stage, "images", np.array([2, 3]))


def test_embedding_column_round_trip_with_nulls():
    values = np.arange(12, dtype=np.float16).reshape(4, 3)
    column = embedding_column(values, mask=np.array([False, True, False, False]))
    assert column.is_valid().to_pylist() == [True, False, True, True]
    np.testing.assert_array_equal(matrix_of(column.drop_null()), values[[0, 2, 3]])


def test_fingerprint_depends_on_settings_and_inputs_not_on_their_order():
    base = fingerprint_of("train_heads", {"a": 1, "b": 2}, {"x": "1"})
    assert fingerprint_of("train_heads", {"b": 2, "a": 1}, {"x": "1"}) == base
    changed = [
        fingerprint_of("train_heads", {"a": 1, "b": 3}, {"x": "1"}),
        fingerprint_of("train_heads", {"a": 1, "b": 2}, {"x": "2"}),
        fingerprint_of("mine_neighbors", {"a": 1, "b": 2}, {"x": "1"}),
    ]
    assert len({base, *changed}) == 4


def test_manifest_survives_json(stage):
    part = stage.write_part("images", images_table([0]), fingerprint=FINGERPRINT)
    manifest = publish(stage, {"images": [part]}, metrics={"recall": 0.5, "reasons": {"empty": 2}})
    assert stage.manifest() == manifest


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_stored_rows_come_in_row_order_also_from_parts_that_interleave(stage, size):
    parts = [
        stage.write_part("images", images_table(row_ids, seed=row_ids[0]), fingerprint=FINGERPRINT)
        for row_ids in ([9, 12], [0, 2, 5], [1, 3, 11, 4], [7, 8], [13])
    ]
    publish(stage, {"images": parts})
    whole = load_matrix(stage, "images")
    rows = StoredRows.open(stage, "images")
    assert (len(rows), rows.width) == (12, 4)
    assert np.array_equal(rows.row_ids, whole.row_ids)
    blocks = list(rows.blocks(size))
    assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    assert np.array_equal(np.concatenate(blocks), whole.values)
    for positions in ([], [0], [11], [1, 2, 5, 10], list(range(12))):
        assert np.array_equal(rows.take(np.array(positions, dtype=np.int64)), whole.values[positions])


def test_stored_rows_of_an_empty_table_are_refused(stage):
    publish(stage, {"images": []})
    with pytest.raises(ArtifactError, match=r"no rows in 'images'; delete its _manifest\.json to rebuild embed_images"):
        StoredRows.open(stage, "images")


def test_finished_stage_is_copied_without_what_is_left_out(stage, tmp_path):
    tables = {
        name: [stage.write_part(name, images_table([row]), fingerprint=FINGERPRINT)]
        for row, name in enumerate(("images", "others"))
    }
    publish(stage, tables, files={"model": stage.write_file("model", b"weights")}, metrics={"score": 3})
    stage.write_file("leftover", b"x")
    copy = StageDir(Storage(str(tmp_path / "copy/embed_images")), "embed_images")
    stage.copy_to(copy, without=["others"])
    assert copy.read_table(IMAGES).equals(stage.read_table(IMAGES))
    assert copy.read_file("model") == b"weights"
    manifest = copy.require_manifest()
    assert (manifest.fingerprint, manifest.metrics, list(manifest.tables)) == (FINGERPRINT, {"score": 3}, ["images"])
    assert set(copy.storage.list_files()) == {MANIFEST_NAME, OWN_NAME, "model", tables["images"][0].name}


def test_row_ids_of_a_part_are_read_alone(stage):
    part = stage.write_part("images", images_table([4, 9]), fingerprint=FINGERPRINT)
    assert stage.row_ids_of(part).tolist() == [4, 9]
