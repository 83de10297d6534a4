"""A second listing: what changed is counted, and embeddings of what did not are taken over, each under its own row."""

import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.matrices import embedding_column, matrix_of
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.artifacts.tables import IMAGES
from dxmc_core.images import catalog as catalog_module
from dxmc_core.images.catalog import freeze_catalog, list_source, stage_catalog
from dxmc_core.images.renewal import renew_catalog
from dxmc_core.images.sources import ImagesSource

WIDTH = 4
OLD, NEW = "a" * 32, "b" * 32


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog_module, "CATALOG_PART_ROWS", 16)
    return StageDir(Storage(str(tmp_path / "run/embed_images")), "embed_images")


def listing_of(tmp_path, images):
    """A listing of image ids with etags."""
    path = tmp_path / "list.csv"
    path.write_text("uri,size,etag\n" + "".join(f"{name},1,{etag}\n" for name, etag in images.items()))
    return list_source(ImagesSource(uri=str(path)))


def embedding_of(image_id, etag):
    return np.array([hash((image_id, etag)) % 1000, *map(ord, image_id[:3])], dtype=np.float16)


def embed(stage, images, fingerprint, chosen=None):
    """Write parts of `images` for the rows of a catalog, or some of them."""
    ids = list(images)
    for start in range(0, len(ids), 8):
        rows = [row for row in range(start, min(start + 8, len(ids))) if chosen is None or row in chosen]
        if not rows:
            continue
        table = pa.table(
            {
                "row_id": rows,
                "image_id": [ids[row] for row in rows],
                "embedding": embedding_column(np.stack([embedding_of(ids[row], images[ids[row]]) for row in rows])),
            }
        ).cast(IMAGES.schema(WIDTH))
        yield stage.write_part("images", table, fingerprint=fingerprint)


def staged(stage, fingerprint):
    """row_id: (image_id, embedding) of the staged parts."""
    found = {}
    for part, _ in stage.staged_row_ids("images", fingerprint=fingerprint):
        table = stage.read_part(part)
        for row, image_id, values in zip(
            table["row_id"].to_pylist(), table["image_id"].to_pylist(), matrix_of(table["embedding"]), strict=True
        ):
            assert row not in found
            found[row] = (image_id, values.tolist())
    return found


BEFORE = {f"{number:03}": "e" for number in range(40)}
AFTER = {"000a": "e", **{name: "changed" if name == "007" else "e" for name in BEFORE if name != "020"}, "zz": "e"}
EXPECTED = {"new": 2, "changed": 1, "deleted": 1, "unchanged": 38}


def assert_taken_over(stage, images, names):
    ids = list(images)
    found = staged(stage, NEW)
    assert {image_id for image_id, _ in found.values()} == set(names)
    for row, (image_id, values) in found.items():
        assert ids[row] == image_id
        assert values == embedding_of(image_id, images[image_id]).tolist()


def test_published_run(stage, tmp_path):
    catalog = freeze_catalog(stage_catalog(stage, listing_of(tmp_path, BEFORE).tables(), fingerprint=OLD))
    parts = list(embed(stage, BEFORE, OLD))
    stage.publish(
        fingerprint=OLD, inputs={}, tables={"catalog": catalog.manifest.tables["catalog"], "images": parts}, seconds=1
    )
    renewed = renew_catalog(stage, listing_of(tmp_path, AFTER), fingerprint=NEW)
    assert renewed.manifest.metrics["changes"] == {**EXPECTED, "taken_over": 38}
    assert renewed.num_rows == 41
    assert_taken_over(stage, AFTER, set(AFTER) & set(BEFORE) - {"007"})
    manifest = stage.require_manifest()
    assert manifest.fingerprint == OLD  # until the new one is published, readers see the old one whole
    assert stage.read_table(IMAGES).num_rows == 40


def test_killed_run(stage, tmp_path):
    freeze_catalog(stage_catalog(stage, listing_of(tmp_path, BEFORE).tables(), fingerprint=OLD))
    list(embed(stage, BEFORE, OLD, chosen={0, 1, 7, 20, 21, 39}))
    renewed = renew_catalog(stage, listing_of(tmp_path, AFTER), fingerprint=NEW)
    assert renewed.manifest.metrics["changes"] == {**EXPECTED, "taken_over": 4}
    assert_taken_over(stage, AFTER, {"000", "001", "021", "039"})


def test_renewal_that_is_killed_is_done_again(stage, tmp_path, monkeypatch):
    freeze_catalog(stage_catalog(stage, listing_of(tmp_path, BEFORE).tables(), fingerprint=OLD))
    list(embed(stage, BEFORE, OLD))
    listing = listing_of(tmp_path, AFTER)
    with monkeypatch.context() as patch:
        patch.setattr("dxmc_core.images.renewal.freeze_catalog", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            renew_catalog(stage, listing, fingerprint=NEW)
    renew_catalog(stage, listing_of(tmp_path, AFTER), fingerprint=NEW)
    assert_taken_over(stage, AFTER, set(AFTER) & set(BEFORE) - {"007"})


def _interrupt(_catalog):
    raise KeyboardInterrupt


def test_first_run_has_nothing_to_take_over(stage, tmp_path):
    assert renew_catalog(stage, listing_of(tmp_path, BEFORE), fingerprint=NEW).manifest.metrics == {}
    assert staged(stage, NEW) == {}


def test_images_that_nothing_is_known_of_are_embedded_again(stage, tmp_path):
    def listing():
        (tmp_path / "list.txt").write_text("gone.jpg\n")
        return list_source(ImagesSource(uri=str(tmp_path / "list.txt")))

    freeze_catalog(stage_catalog(stage, listing().tables(), fingerprint=OLD))
    list(embed(stage, {"gone.jpg": ""}, OLD))
    changes = renew_catalog(stage, listing(), fingerprint=NEW).manifest.metrics["changes"]
    assert changes == {"new": 0, "changed": 1, "deleted": 0, "unchanged": 0, "taken_over": 0}


def test_embeddings_of_another_run_are_taken_over(stage, tmp_path):
    base = StageDir(Storage(str(tmp_path / "base/embed_images")), "embed_images")
    catalog = freeze_catalog(stage_catalog(base, listing_of(tmp_path, BEFORE).tables(), fingerprint=OLD))
    parts = list(embed(base, BEFORE, OLD))
    tables = {"catalog": catalog.manifest.tables["catalog"], "images": parts}
    base.publish(fingerprint=OLD, inputs={}, tables=tables, seconds=1.0)
    renewed = renew_catalog(stage, listing_of(tmp_path, AFTER), fingerprint=NEW, base=base)
    assert renewed.manifest.metrics["changes"] == {**EXPECTED, "taken_over": 38}
    ids = list(AFTER)
    assert {row: found[0] for row, found in staged(stage, NEW).items()} == {
        row: ids[row] for row in range(len(ids)) if ids[row] in BEFORE and AFTER[ids[row]] == "e"
    }
    assert base.read_table(IMAGES).num_rows == 40
