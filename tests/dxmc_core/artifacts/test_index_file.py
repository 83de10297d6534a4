"""The file of an index: the same bytes as FAISS writes, from shards, and used only if it is what was published."""

import os
import shutil
from contextlib import ExitStack

import faiss
import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts import index_file
from dxmc_core.artifacts.index_file import (
    IMAGE_INDEX_NAME,
    METRICS_KEY,
    StaleIndexError,
    open_index,
    read_mapped,
    spot_checksum,
    stacked,
    write_cells,
)
from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import IMAGES
from dxmc_core.method.neighbors.search_index import add_to_cells, empty_index, search_rows, set_effort, train_codes

WIDTH = 16


def unit(count, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def shards_of(kind, tmp_path, *, num_cells=9):
    """Three shards in files, an empty index like them, and one that FAISS has merged; the last cell is empty."""
    rows = unit(500)
    labels = np.random.default_rng(1).integers(num_cells - 1, size=500)
    empty = empty_index(kind, WIDTH, centers=unit(num_cells, seed=2))
    train_codes(empty, unit(5000, seed=3))
    data = faiss.serialize_index(empty)
    merged, paths = faiss.deserialize_index(data), []
    for number, part in enumerate((slice(0, 200), slice(200, 201), slice(201, 500))):
        shard = faiss.deserialize_index(data)
        add_to_cells(shard, rows[part], np.arange(500)[part] * 3, labels[part])
        paths.append(tmp_path / f"{number}.faiss")
        faiss.write_index(shard, str(paths[-1]))
        merged.merge_from(shard, 0)
    return empty, [read_mapped(path) for path in paths], merged


@pytest.mark.parametrize("kind", ["ivf", "ivf_sq8", "ivf_pq"])
def test_the_bytes_are_those_that_faiss_writes(kind, tmp_path):
    empty, shards, merged = shards_of(kind, tmp_path)
    with stacked(empty, shards):
        set_effort(empty, 5)
        write_cells(tmp_path / "ours.faiss", empty, [(shard, None) for shard in shards])
        found = search_rows(empty, unit(20, seed=4), 7)
    set_effort(merged, 5)
    faiss.write_index(merged, str(tmp_path / "theirs.faiss"))
    assert (tmp_path / "ours.faiss").read_bytes() == (tmp_path / "theirs.faiss").read_bytes()
    mapped = read_mapped(tmp_path / "ours.faiss")
    np.testing.assert_array_equal(search_rows(mapped, unit(20, seed=4), 7)[0], found[0])


def test_checksum_of_large_files_is_of_blocks_of_them(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 40)
    whole = spot_checksum(path)
    monkeypatch.setattr(index_file, "_NUM_CHECKED_BLOCKS", 5)
    monkeypatch.setattr(index_file, "_BLOCK_BYTES", 100)
    spots = spot_checksum(path)
    assert whole != spots
    for place, is_seen in ((0, True), (10_239, True), (5_120, True), (500, False)):
        changed = bytearray(path.read_bytes())
        changed[place] ^= 1
        (tmp_path / "changed").write_bytes(changed)
        assert (spot_checksum(tmp_path / "changed") != spots) == is_seen


@pytest.fixture
def published(tmp_path):
    """A function that publishes images and an index of them, into a run directory of a name."""

    def publish(name, *, seed=0, fingerprint="a" * 32):
        run_dir = RunDir.at(str(tmp_path / name))
        images, neighbors = run_dir.stage("embed_images"), run_dir.stage("mine_neighbors")
        index = empty_index("flat", WIDTH)
        index.add_with_ids(unit(50, seed=seed), np.arange(50))
        facts = {"rows_of": fingerprint}

        def write(path):
            path.write_bytes(faiss.serialize_index(index))
            facts["spot_checksum"] = spot_checksum(path)

        part = images.write_part("images", _images(seed), fingerprint=fingerprint)
        images.publish(fingerprint=fingerprint, inputs={}, tables={"images": [part]}, seconds=0)
        neighbors.publish(
            fingerprint="b" * 32,
            inputs={},
            tables={},
            files={IMAGE_INDEX_NAME: neighbors.write_large_file(IMAGE_INDEX_NAME, write)},
            metrics={METRICS_KEY: {IMAGE_INDEX_NAME: facts}},
            seconds=0,
        )
        return images, neighbors

    return publish


def _images(seed):
    columns = {
        "row_id": np.arange(50),
        "image_id": np.arange(50).astype(str),
        "embedding": embedding_column(unit(50, seed=seed).astype(np.float16)),
    }
    return pa.table(columns).cast(IMAGES.schema(WIDTH))


def open_(images, neighbors):
    with ExitStack() as held:
        return open_index(images, neighbors, held, name=IMAGE_INDEX_NAME)


def path_of(neighbors):
    return neighbors.storage.path(IMAGE_INDEX_NAME)


def test_a_published_index_opens(published):
    index, _ = open_(*published("run"))
    assert index.ntotal == 50


def test_a_swapped_index_is_refused(published):
    images, neighbors = published("run")
    _, others = published("other", seed=1)
    shutil.copy(path_of(others), path_of(neighbors))
    with pytest.raises(StaleIndexError, match=r"index.faiss is not what was published: its checksum differs"):
        open_(images, neighbors)


def test_an_index_cut_short_is_refused(published):
    images, neighbors = published("run")
    os.truncate(path_of(neighbors), 1000)
    with pytest.raises(StaleIndexError, match=r"index.faiss is damaged: expected \d+ bytes, found 1000"):
        open_(images, neighbors)


def test_an_index_of_other_images_is_refused(published):
    images, _ = published("run", fingerprint="c" * 32)
    _, neighbors = published("other")
    with pytest.raises(StaleIndexError, match="is of images as they were before; run mine_neighbors again"):
        open_(images, neighbors)


def test_an_index_that_is_gone_is_named_and_none_is_no_error(published, tmp_path):
    images, neighbors = published("run")
    neighbors.storage.delete(IMAGE_INDEX_NAME)
    with pytest.raises(StaleIndexError, match="is gone"):
        open_(images, neighbors)
    neighbors.publish(fingerprint="b" * 32, inputs={}, tables={}, seconds=0)
    assert open_(images, neighbors) is None
