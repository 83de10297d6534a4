"""From files to embeddings: every row ends once, a rerun does what is left, bad rows are set aside."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dxmc_core.artifacts.manifest import MANIFEST_NAME
from dxmc_core.artifacts.matrices import load_matrix
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.encoders import OfflineConfig
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.images.catalog import list_source, read_catalog
from dxmc_core.images.renewal import renew_catalog
from dxmc_core.images.sources import EmbeddingsSource, ImagesSource
from dxmc_core.stages import embedding_workers
from dxmc_core.stages.embed_images import import_embeddings, publish_embeddings
from dxmc_core.stages.embedded_rows import EmbeddedRows
from dxmc_core.stages.embedding_workers import DecodeChunks, EmbedDecoded, EmbedImages, decoded_chunk_rows
from dxmc_core.stages.settings.embed_images import embeddings_digest, fingerprint

FINGERPRINT = "a" * 32


@pytest.fixture
def stage(tmp_path):
    return StageDir(Storage(str(tmp_path / "run/embed_images")), "embed_images")


@pytest.fixture(autouse=True)
def encoder(monkeypatch, mean_color):
    """The tiny encoder of the tests in the place of any that is configured."""
    monkeypatch.setattr(embedding_workers, "load_encoder", lambda *_, **__: mean_color)


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
    return renew_catalog(stage, list_source(ImagesSource(uri=str(photos))), fingerprint=FINGERPRINT)


def embed(catalog, *, stop_after=None):
    """Do what is left of a catalog, or some chunks of it, as the job does; everything that is done then."""
    done = EmbeddedRows.of(catalog, fingerprint=FINGERPRINT)
    embed_images = EmbedImages(
        OfflineConfig(kind="offline"),
        ImagesSource(uri="", max_pixels=10_000),
        catalog,
        fingerprint=FINGERPRINT,
        device="cpu",
        batch_size=16,
        num_threads=2,
    )
    chunks = itertools.islice(done.chunks(catalog.chunk_rows), stop_after)
    for receipts in embed_images.stream(chunks):
        for receipt in receipts.to_pylist():
            assert done.add_receipt(receipt)
    return done


def publish(catalog, done, **kwargs):
    return publish_embeddings(catalog, done, fingerprint=FINGERPRINT, seconds=1.0, **kwargs)


def test_every_row_is_in_exactly_one_of_images_and_rejects(stage, photos):
    catalog = catalog_of(stage, photos)
    manifest = publish(catalog, embed(catalog))
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
    publish(catalog, embed(catalog))

    embed(catalog_of(stage, photos), stop_after=2)
    resumed = read_catalog(stage)
    before = EmbeddedRows.of(resumed, fingerprint=FINGERPRINT)
    assert before.num_done == 64
    publish(resumed, embed(resumed), num_resumed=before.num_done)
    for table in ("images", "rejects"):
        assert stage.read_table(table).equals(undisturbed.read_table(table))


def test_chunk_whose_images_were_lost_gets_the_same_batches_again(stage, photos):
    catalog = catalog_of(stage, photos)
    lost = embed(catalog).parts("images")[0]
    stage.storage.delete(lost.name)
    assert EmbeddedRows.of(catalog, fingerprint=FINGERPRINT).num_left == 31
    assert embed(catalog).parts("images")[0] == lost


def test_chunk_whose_rejects_were_lost_is_completed(stage, photos):
    catalog = catalog_of(stage, photos)
    stage.storage.delete(embed(catalog).parts("rejects")[0].name)
    assert EmbeddedRows.of(catalog, fingerprint=FINGERPRINT).num_left == 1
    publish(catalog, embed(catalog))
    assert stage.require_manifest().metrics["rejects"] == 3


def test_rows_that_are_missing_are_never_published(stage, photos):
    catalog = catalog_of(stage, photos)
    with pytest.raises(ArtifactError, match="86 catalog rows are in neither images nor rejects"):
        publish(catalog, embed(catalog, stop_after=2))
    assert not stage.storage.exists(MANIFEST_NAME)


def test_source_without_one_readable_image_is_an_input_error(stage, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"no")
    catalog = catalog_of(stage, folder)
    with pytest.raises(InputError, match=r"none of the 2 images could be read: 2 not_an_image, e.g. a.jpg \(the first"):
        publish(catalog, embed(catalog))


def test_listing_digest_and_fingerprint_follow_the_content(photos):
    source = ImagesSource(uri=str(photos))
    before = list_source(source).digest
    assert list_source(source).digest == before
    (photos / "003.png").write_bytes(b"changed")
    after = list_source(source).digest
    assert after != before
    assert fingerprint({}, before) != fingerprint({}, after)


def test_fingerprint_follows_a_decoder_that_was_installed_so_that_its_images_are_tried_again():
    without = fingerprint({}, "content")
    assert fingerprint({}, "content", decoders=[]) == without
    assert fingerprint({}, "content", decoders=["pillow_heif"]) != without


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_embeddings_are_normalised_and_unusable_rows_set_aside(stage, tmp_path, dtype):
    values = np.random.default_rng(0).normal(size=(40, 6)).astype(dtype)
    values[3] = 0
    values[5, 2] = np.nan
    values[7, 0] = np.inf
    np.savez(tmp_path / "x.npz", embeddings=values, labels=np.arange(40) % 4)
    source = EmbeddingsSource(kind="embeddings", uri=str(tmp_path / "x.npz"))
    publish(*import_embeddings(source, stage, fingerprint=FINGERPRINT))
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


def test_two_kinds_of_workers_write_what_one_kind_does(stage, photos, tmp_path, monkeypatch, mean_color):
    """Decoding in one process and encoding in another, as for GPUs, gives the tables of a single process."""
    catalog = catalog_of(stage, photos)
    publish(catalog, embed(catalog))

    class Preprocess:
        image_size = 8

        def __call__(self, image):
            return mean_color.preprocess(image)

    monkeypatch.setattr(embedding_workers, "load_preprocess", lambda *_: Preprocess())
    apart = StageDir(Storage(str(tmp_path / "apart/embed_images")), "embed_images")
    catalog = catalog_of(apart, photos)
    config = OfflineConfig(kind="offline")
    decode = DecodeChunks(config, ImagesSource(uri="", max_pixels=10_000), catalog, num_threads=2)
    write = EmbedDecoded(
        config, apart, fingerprint=FINGERPRINT, device="cpu", batch_size=16, num_threads=1, chunk_rows=32
    )
    done = EmbeddedRows(catalog.num_rows)
    for chunk in done.chunks(32):
        for receipt in write(decode(pa.Table.from_pylist([chunk]))).to_pylist():
            assert done.add_receipt(receipt)
    publish(catalog, done)
    for table in ("images", "rejects"):
        assert apart.read_table(table).equals(stage.read_table(table))


@pytest.mark.parametrize(("image_size", "expected"), [(224, 512), (384, 128), (32, 16_384), (6000, 1)])
def test_rows_of_a_decoded_chunk_fit_what_ray_sends_whole(image_size, expected):
    assert decoded_chunk_rows(image_size) == expected


def test_patterns_leave_rows_of_an_embedding_file_out(stage, tmp_path):
    path = tmp_path / "x.npz"
    ids = ["a/1", "b/2", "b/3"]
    np.savez(path, embeddings=np.eye(3, dtype=np.float32), image_ids=ids, labels=["p", "q", "r"])
    plain = EmbeddingsSource(kind="embeddings", uri=str(path))
    chosen = plain.model_copy(update={"exclude": ("b/2",)})
    catalog, done = import_embeddings(chosen, stage, fingerprint=FINGERPRINT)
    rows = catalog.rows(0, 2)
    assert rows["image_id"].to_pylist() == ["a/1", "b/3"]
    assert rows["label"].to_pylist() == ["p", "r"]
    publish_embeddings(catalog, done, fingerprint=FINGERPRINT, seconds=0.0)
    np.testing.assert_array_equal(load_matrix(stage, "images").values, np.eye(3, dtype=np.float16)[[0, 2]])
    assert embeddings_digest(chosen) != embeddings_digest(plain)
    assert embeddings_digest(plain) == embeddings_digest(EmbeddingsSource(kind="embeddings", uri=str(path), include=[]))
    with pytest.raises(InputError, match=r"holds no embeddings that are wanted; .*3 images that source.include"):
        import_embeddings(plain.model_copy(update={"include": ("c",)}), stage, fingerprint=FINGERPRINT)
