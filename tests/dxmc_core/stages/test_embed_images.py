"""From files to embeddings: every row ends once, a rerun does what is left, bad rows are set aside."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dxmc_core.artifacts.manifest import MANIFEST_NAME
from dxmc_core.artifacts.matrices import load_matrix
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.images.catalog import catalog_rows, list_source, read_catalog, write_catalog
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.sources import EmbeddingsSource, ImagesSource
from dxmc_core.stages.embed_images import (
    DecodeImages,
    EncodeImages,
    WriteEmbeddings,
    fingerprint,
    import_embeddings,
    parts_of,
    plan_embedding,
    publish_embeddings,
)

FINGERPRINT = "a" * 32


class MeanColor:
    """An encoder whose embedding of an image is its mean colour: tiny, and different for different images."""

    embedding_width = 3
    image_size = 8
    retrieval_temperature = 0.05

    def preprocess(self, image):
        return np.asarray(image.resize((8, 8)), dtype=np.uint8)

    def encode_images(self, pixels):
        means = pixels.reshape(len(pixels), -1, 3).mean(axis=1) + 1
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def stage(tmp_path):
    return StageDir(Storage(str(tmp_path / "run/embed_images")), "embed_images")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(150):
        Image.new("RGB", (20, 12), tuple(generator.integers(0, 255, 3).tolist())).save(folder / f"{index:03}.png")
    (folder / "007.png").write_bytes(b"")
    (folder / "050.png").write_bytes(b"this is no image")
    (folder / "149.png").write_bytes((folder / "148.png").read_bytes()[:60])
    return folder


def catalog_of(stage, photos):
    rows, _ = list_source(ImagesSource(uri=str(photos)))
    return write_catalog(stage, rows, fingerprint=FINGERPRINT)


def embed(catalog, chunks, *, stop_after=None):
    """Do chunks as `EmbedImages` does, with the test's encoder; the parts written."""
    decode = DecodeImages(MeanColor(), FetchImages(), max_pixels=10_000)
    encode, write = (
        EncodeImages(MeanColor(), batch_size=16),
        WriteEmbeddings(catalog.stage_dir, fingerprint=FINGERPRINT),
    )
    parts = {"images": [], "rejects": []}
    for start, stop, todo in chunks[:stop_after]:
        rows = catalog_rows(catalog, {"row_start": start, "row_stop": stop, "todo": todo})
        for table, part in parts_of(write(encode(decode(rows)))):
            parts[table].append(part)
    return parts


def publish(catalog, parts, **kwargs):
    return publish_embeddings(catalog, parts, fingerprint=FINGERPRINT, seconds=1.0, **kwargs)


def test_every_row_is_in_exactly_one_of_images_and_rejects(stage, photos):
    catalog = catalog_of(stage, photos)
    manifest = publish(catalog, embed(catalog, plan_embedding(catalog, fingerprint=FINGERPRINT).chunks))
    rejects = stage.read_table("rejects").to_pylist()
    assert {(row["image_id"], row["reason"]) for row in rejects} == {
        ("007.png", "empty"),
        ("050.png", "not_an_image"),
        ("149.png", "truncated"),
    }
    assert manifest.metrics["images"] == 147
    images = load_matrix(stage, "images")
    assert sorted([*images.row_ids, *(row["row_id"] for row in rejects)]) == list(range(150))
    np.testing.assert_allclose(np.linalg.norm(images.values.astype(np.float32), axis=1), 1, atol=2e-3)


def test_interrupted_run_resumes_and_gives_the_same_table(stage, photos, tmp_path):
    undisturbed = StageDir(Storage(str(tmp_path / "other/embed_images")), "embed_images")
    catalog = catalog_of(undisturbed, photos)
    publish(catalog, embed(catalog, plan_embedding(catalog, fingerprint=FINGERPRINT).chunks))

    catalog = catalog_of(stage, photos)
    embed(catalog, plan_embedding(catalog, fingerprint=FINGERPRINT).chunks, stop_after=2)
    resumed = read_catalog(stage)
    plan = plan_embedding(resumed, fingerprint=FINGERPRINT)
    assert plan.num_done == 64
    done_again = embed(resumed, plan.chunks)
    parts = {name: plan.kept[name] + done_again[name] for name in plan.kept}
    publish(resumed, parts, num_resumed=plan.num_done)
    for table in ("images", "rejects"):
        assert stage.read_table(table).equals(undisturbed.read_table(table))


def test_chunk_whose_rejects_were_lost_is_completed(stage, photos):
    catalog = catalog_of(stage, photos)
    parts = embed(catalog, plan_embedding(catalog, fingerprint=FINGERPRINT).chunks)
    lost = parts["rejects"][0]
    stage.storage.delete(lost.name)
    plan = plan_embedding(catalog, fingerprint=FINGERPRINT)
    assert [todo.tolist() for _, _, todo in plan.chunks] == [[7]]
    again = embed(catalog, plan.chunks)
    publish(catalog, {name: plan.kept[name] + again[name] for name in plan.kept})
    assert stage.require_manifest().metrics["rejects"] == 3


def test_damaged_part_of_an_earlier_attempt_is_embedded_again(stage, photos):
    catalog = catalog_of(stage, photos)
    part = embed(catalog, plan_embedding(catalog, fingerprint=FINGERPRINT).chunks)["images"][0]
    data = bytearray(stage.storage.read_bytes(part.name))
    data[100] ^= 1
    stage.storage.write_bytes(part.name, bytes(data))
    plan = plan_embedding(catalog, fingerprint=FINGERPRINT)
    assert sum(len(todo) for _, _, todo in plan.chunks) == part.rows


def test_missing_or_doubled_rows_are_never_published(stage, photos):
    catalog = catalog_of(stage, photos)
    parts = embed(catalog, plan_embedding(catalog, fingerprint=FINGERPRINT).chunks)
    with pytest.raises(ArtifactError, match="in neither images nor rejects"):
        publish(catalog, {**parts, "images": parts["images"][1:]})
    with pytest.raises(ArtifactError, match="repeats rows"):
        publish(catalog, {**parts, "images": [*parts["images"], parts["images"][0]]})
    assert not stage.storage.exists(MANIFEST_NAME)


def test_files_that_vanish_and_bombs_are_rejected(stage, photos):
    rows, _ = list_source(ImagesSource(uri=str(photos)))
    (photos / "000.png").unlink()
    buffer = io.BytesIO()
    Image.new("1", (200, 200)).save(buffer, "png")
    (photos / "001.png").write_bytes(buffer.getvalue())
    decoded = DecodeImages(MeanColor(), FetchImages(), max_pixels=10_000)(rows.slice(0, 3))
    assert decoded["reason"].to_pylist() == ["missing", "too_large", None]


def test_source_without_one_readable_image_is_an_input_error(stage, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"no")
    catalog = catalog_of(stage, folder)
    with pytest.raises(InputError, match=r"none of the 2 images could be read: 2 not_an_image \(e.g. a.jpg, b.jpg\)"):
        publish(catalog, embed(catalog, plan_embedding(catalog, fingerprint=FINGERPRINT).chunks))


def test_listing_digest_and_fingerprint_follow_the_content(photos):
    source = ImagesSource(uri=str(photos))
    _, before = list_source(source)
    assert list_source(source)[1] == before
    (photos / "003.png").write_bytes(b"changed")
    assert list_source(source)[1] != before
    assert fingerprint({}, before) != fingerprint({}, list_source(source)[1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_embeddings_are_normalised_and_unusable_rows_set_aside(stage, tmp_path, dtype):
    values = np.random.default_rng(0).normal(size=(40, 6)).astype(dtype)
    values[3] = 0
    values[5, 2] = np.nan
    values[7, 0] = np.inf
    np.savez(tmp_path / "x.npz", embeddings=values, labels=np.arange(40) % 4)
    source = EmbeddingsSource(kind="embeddings", uri=str(tmp_path / "x.npz"))
    catalog, parts = import_embeddings(source, stage, fingerprint=FINGERPRINT)
    publish(catalog, parts)
    rejects = stage.read_table("rejects").to_pydict()
    assert dict(zip(rejects["image_id"], rejects["reason"], strict=True)) == {
        "3": "zero_norm",
        "5": "not_finite",
        "7": "not_finite",
    }
    images = load_matrix(stage, "images")
    expected = values[images.row_ids].astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(images.values, expected, atol=1e-3)
    assert stage.read_table("catalog")["label"].to_pylist()[:5] == ["0", "1", "2", "3", "0"]


def test_catalog_rows_across_parts(stage, monkeypatch):
    monkeypatch.setattr("dxmc_core.images.catalog.CATALOG_PART_ROWS", 10)
    ids = [f"{index:02}" for index in range(35)]
    rows = pa.table(
        {"row_id": list(range(35)), "image_id": ids, "uri": ids, "size": [1] * 35, "etag": ids, "label": [None] * 35}
    )
    catalog = write_catalog(stage, rows, fingerprint=FINGERPRINT)
    assert catalog.rows(8, 23)["image_id"].to_pylist() == ids[8:23]
    assert catalog.rows(30, 35)["image_id"].to_pylist() == ids[30:]
