"""From files to embeddings: every row ends once, a rerun does what is left, bad rows are set aside."""

import itertools
import time

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dxmc_core.artifacts.manifest import MANIFEST_NAME
from dxmc_core.artifacts.matrices import load_matrix
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.artifacts.tables import CATALOG, IMAGES, REJECTS, images_of, table_named
from dxmc_core.encoders import OfflineConfig
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.images.catalog import list_source, read_catalog
from dxmc_core.images.renewal import FurtherEncoders, renew_catalog
from dxmc_core.images.sources import EmbeddingsSource, ImagesSource
from dxmc_core.stages import embedding_workers
from dxmc_core.stages.embed_images import all_embedded, import_embeddings, import_further
from dxmc_core.stages.embedded_rows import EmbeddedRows
from dxmc_core.stages.embedding_workers import DecodeChunks, EmbedDecoded, EmbedImages, decoded_chunk_rows
from dxmc_core.stages.settings.embed_images import embeddings_digest, fingerprint

FINGERPRINT, LATER = "a" * 32, "d" * 32
OFFLINE, FURTHER = OfflineConfig(kind="offline"), OfflineConfig(kind="offline", name="further")
BOTH = {"images": OFFLINE, "images-further": FURTHER}


@pytest.fixture
def stage(tmp_path):
    return StageDir(Storage(str(tmp_path / "run/embed_images")), "embed_images")


@pytest.fixture(autouse=True)
def encoder(monkeypatch, mean_color):
    """The tiny encoder of the tests in the place of any that is configured."""
    encoders = {None: mean_color, "further": FirstPixel()}
    monkeypatch.setattr(embedding_workers, "load_encoder", lambda config, **_: encoders[config.name])


class FirstPixel:
    """Another tiny encoder: one of larger crops that sees nothing in dark pictures."""

    embedding_width, image_size, batch_size = 4, 10, 8

    def preprocess(self, image):
        return np.asarray(image.resize((10, 10)))

    def encode_images(self, pixels):
        color = pixels[:, 0, 0].astype(np.float32)
        vectors = np.concatenate([color, 255 - color[:, :1]], axis=1)
        vectors[color.max(axis=1) < 90] = 0
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


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


def embed(catalog, *, stop_after=None, encoders=None, done=None, fingerprint=FINGERPRINT):
    """Do what is left of a catalog, or some chunks of it, as the job does; everything that is done then."""
    done = done or EmbeddedRows.of(catalog, fingerprint=fingerprint)
    embed_images = EmbedImages(
        encoders or {"images": OFFLINE},
        ImagesSource(uri="", max_pixels=10_000),
        catalog,
        fingerprint=fingerprint,
        device="cpu",
        batch_size=16,
        num_threads=2,
    )
    chunks = itertools.islice(done.chunks(catalog.chunk_rows, encoders and tuple(encoders)), stop_after)
    for receipts in embed_images.stream(chunks):
        for receipt in receipts.to_pylist():
            assert done.add_receipt(receipt) or encoders
    return done


def publish(catalog, done, **kwargs):
    return all_embedded(catalog, done, fingerprint=FINGERPRINT, **kwargs).publish(
        catalog.stage_dir, fingerprint=FINGERPRINT, inputs={}, started=time.perf_counter()
    )


def test_every_row_is_in_exactly_one_of_images_and_rejects(stage, photos):
    catalog = catalog_of(stage, photos)
    manifest = publish(catalog, embed(catalog))
    rejects = stage.read_table(REJECTS).to_pylist()
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
        assert stage.read_table(table_named(table)).equals(undisturbed.read_table(table_named(table)))


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
    rejects = stage.read_table(REJECTS).to_pydict()
    assert dict(zip(rejects["image_id"], rejects["reason"], strict=True)) == {
        "3": "zero_norm",
        "5": "not_finite",
        "7": "not_finite",
    }
    images = load_matrix(stage, "images")
    expected = values[images.row_ids].astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(images.values, expected, atol=1e-3)
    assert stage.read_table(CATALOG)["label"].to_pylist()[:5] == ["0", "1", "2", "3", "0"]


def test_two_kinds_of_workers_write_what_one_kind_does(stage, photos, tmp_path, monkeypatch, mean_color):
    """Decoding in one process and encoding in another, as for GPUs, gives the tables of a single process."""
    catalog = catalog_of(stage, photos)
    publish(catalog, embed(catalog))

    class Preprocess:
        image_size = 8

        def __call__(self, image):
            return mean_color.preprocess(image)

    monkeypatch.setattr(OfflineConfig, "load_preprocess", lambda _: Preprocess())
    apart = StageDir(Storage(str(tmp_path / "apart/embed_images")), "embed_images")
    catalog = catalog_of(apart, photos)
    decode = DecodeChunks({"images": OFFLINE}, ImagesSource(uri="", max_pixels=10_000), catalog, num_threads=2)
    write = EmbedDecoded(
        {"images": OFFLINE},
        apart,
        fingerprint=FINGERPRINT,
        device="cpu",
        batch_size=16,
        num_threads=1,
        chunk_rows=32,
    )
    done = EmbeddedRows(catalog.num_rows)
    for chunk in done.chunks(32):
        for receipt in write(decode(pa.Table.from_pylist([chunk]))).to_pylist():
            assert done.add_receipt(receipt)
    publish(catalog, done)
    for table in ("images", "rejects"):
        assert apart.read_table(table_named(table)).equals(stage.read_table(table_named(table)))


DARK = {"023.png", "080.png"}


@pytest.fixture
def some_dark(photos):
    """Two pictures that the further encoder rejects, and no other one."""
    for path in photos.glob("*.png"):
        if path.name not in {"007.png", "050.png", "149.png"}:
            color = np.asarray(Image.open(path))[0, 0].tolist()
            Image.new("RGB", (20, 12), (10, 20, 30) if path.name in DARK else (*color[:2], 200)).save(path)
    return photos


def assert_same_rows(stage, num_images):
    first, further = load_matrix(stage, "images"), load_matrix(stage, "images-further")
    assert len(first) == num_images
    assert np.array_equal(first.row_ids, further.row_ids)
    rejects = stage.read_table(REJECTS)
    assert sorted([*first.row_ids, *rejects["row_id"].to_pylist()]) == list(range(150))
    assert {*rejects["image_id"].to_pylist()} == {"007.png", "050.png", "149.png"} | DARK
    return first, further


def test_two_encoders_write_tables_of_the_same_rows(stage, some_dark, tmp_path):
    """What one of them rejects is rejected for both; otherwise each writes what it would alone."""
    catalog = catalog_of(stage, some_dark)
    done = EmbeddedRows(catalog.num_rows, tuple(BOTH))
    manifest = publish(catalog, embed(catalog, encoders=BOTH, done=done))
    assert manifest.metrics["images"] == 145
    found = assert_same_rows(stage, 145)
    assert stage.read_table(images_of("further")).column_names == ["row_id", "image_id", "embedding"]
    assert "sharpness" in stage.read_table(IMAGES).column_names
    for table, matrix in zip(BOTH, found, strict=True):
        alone = StageDir(Storage(str(tmp_path / table)), "embed_images")
        of_one = catalog_of(alone, some_dark)
        done = EmbeddedRows(of_one.num_rows, (table,))
        publish(of_one, embed(of_one, encoders={table: BOTH[table]}, done=done))
        expected = load_matrix(alone, table)
        kept = np.isin(expected.row_ids, matrix.row_ids)
        np.testing.assert_array_equal(matrix.values, expected.values[kept])


def test_tables_that_were_lost_are_written_again_and_no_others(stage, some_dark):
    catalog = catalog_of(stage, some_dark)
    whole = embed(catalog, encoders=BOTH, done=EmbeddedRows(catalog.num_rows, tuple(BOTH)))
    lost = whole.parts("images-further")[1]
    stage.storage.delete(lost.name)
    resumed = EmbeddedRows.of(catalog, fingerprint=FINGERPRINT, tables=tuple(BOTH))
    assert resumed.num_left == lost.rows
    assert resumed.missing() == [("images-further",)]
    embed(catalog, encoders={"images-further": FURTHER}, done=resumed)
    assert resumed.parts("images-further")[1] == lost
    publish(catalog, resumed)
    assert_same_rows(stage, 145)


def test_an_encoder_that_is_added_sees_all_images_and_the_first_none_again(stage, some_dark):
    catalog = catalog_of(stage, some_dark)
    before = publish(catalog, embed(catalog))
    assert before.metrics["images"] == 147

    listing = list_source(ImagesSource(uri=str(some_dark)))
    further = FurtherEncoders({"images-further": {"kind": "further"}}, first_fingerprint=FINGERPRINT)
    renewed = renew_catalog(stage, listing, fingerprint=LATER, further=further)
    done = EmbeddedRows.of(renewed, fingerprint=LATER, tables=tuple(BOTH))
    assert (done.num_images, done.num_rejects) == (0, 3)
    assert done.missing() == [("images-further",)]
    embed(renewed, encoders={"images-further": FURTHER}, done=done, fingerprint=LATER)
    assert done.num_left == 0
    manifest = all_embedded(renewed, done, fingerprint=LATER).publish(
        renewed.stage_dir, fingerprint=LATER, inputs={}, started=time.perf_counter()
    )
    assert manifest.metrics["images"] == 145
    first, _ = assert_same_rows(stage, 145)

    changed = FurtherEncoders({"images-further": {"kind": "changed"}}, first_fingerprint=FINGERPRINT)
    renewed = renew_catalog(stage, listing, fingerprint="e" * 32, further=changed)
    done = EmbeddedRows.of(renewed, fingerprint="e" * 32, tables=tuple(BOTH))
    assert done.missing() == [("images-further",), ("images", "images-further")]
    assert (done.num_images, done.num_rejects, done.num_left) == (0, 0, 150)
    assert sum(part.rows for part in done.parts("images")) == len(first)


@pytest.fixture
def elsewhere(tmp_path):
    """Embeddings of all but two of the pictures, in another order, one of them zeros."""
    names = [f"{index:03}.png" for index in range(149, -1, -1) if index not in (30, 31)]
    values = np.random.default_rng(1).normal(size=(148, 5)).astype(np.float32)
    values[names.index("040.png")] = 0
    np.savez(tmp_path / "other.npz", embeddings=values, image_ids=names)
    return str(tmp_path / "other.npz"), dict(zip(names, values, strict=True))


def test_a_file_may_take_the_place_of_a_further_encoder(stage, photos, elsewhere):
    uri, values = elsewhere
    catalog = catalog_of(stage, photos)
    done = EmbeddedRows(catalog.num_rows, ("images", "images-other"))
    import_further("images-other", uri, catalog, done, fingerprint=FINGERPRINT)
    assert done.missing() == [("images",)]
    assert done.num_rejects == 3
    # As if killed here.
    done = EmbeddedRows.of(catalog, fingerprint=FINGERPRINT, tables=done.tables)
    publish(catalog, embed(catalog, encoders={"images": OFFLINE}, done=done))
    first, other = load_matrix(stage, "images"), load_matrix(stage, "images-other")
    assert np.array_equal(first.row_ids, other.row_ids)
    rejects = dict(zip(*(stage.read_table(REJECTS)[name].to_pylist() for name in ("image_id", "reason")), strict=True))
    assert rejects == {
        "007.png": "empty",
        "030.png": "missing",
        "031.png": "missing",
        "040.png": "zero_norm",
        "050.png": "not_an_image",
        "149.png": "truncated",
    }
    expected = np.stack([values[f"{row:03}.png"] for row in other.row_ids.tolist()])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(other.values, expected, atol=1e-3)


def test_two_files_of_embeddings_become_two_tables(stage, tmp_path):
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(40, 6)), generator.normal(size=(40, 3))
    second[4] = np.nan
    for name, values in (("first", first), ("second", second)):
        np.savez(tmp_path / f"{name}.npz", embeddings=values.astype(np.float32))
    source = EmbeddingsSource(kind="embeddings", uri=str(tmp_path / "first.npz"))
    tables = ("images", "images-second")
    catalog, done = import_embeddings(source, stage, fingerprint=FINGERPRINT, tables=tables)
    import_further("images-second", str(tmp_path / "second.npz"), catalog, done, fingerprint=FINGERPRINT)
    assert publish(catalog, done).metrics["images"] == 39
    for table, values in zip(tables, (first, second), strict=True):
        found = load_matrix(stage, table)
        assert found.row_ids.tolist() == [row for row in range(40) if row != 4]
        expected = values[found.row_ids] / np.linalg.norm(values[found.row_ids], axis=1, keepdims=True)
        np.testing.assert_allclose(found.values, expected, atol=1e-3)


@pytest.mark.parametrize(("image_size", "expected"), [(224, 512), (384, 128), (32, 16_384), (6000, 1)])
def test_rows_of_a_decoded_chunk_fit_what_ray_sends_whole(image_size, expected):
    assert decoded_chunk_rows(image_size) == expected


def test_crops_of_several_encoders_share_a_decoded_chunk():
    assert decoded_chunk_rows(224, 224) == decoded_chunk_rows(224) / 2


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
    all_embedded(catalog, done, fingerprint=FINGERPRINT).publish(
        catalog.stage_dir, fingerprint=FINGERPRINT, inputs={}, started=time.perf_counter()
    )
    np.testing.assert_array_equal(load_matrix(stage, "images").values, np.eye(3, dtype=np.float16)[[0, 2]])
    assert embeddings_digest(chosen) != embeddings_digest(plain)
    assert embeddings_digest(plain) == embeddings_digest(EmbeddingsSource(kind="embeddings", uri=str(path), include=[]))
    with pytest.raises(InputError, match=r"holds no embeddings that are wanted; .*3 images that source.include"):
        import_embeddings(plain.model_copy(update={"include": ("c",)}), stage, fingerprint=FINGERPRINT)
