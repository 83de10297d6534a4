"""The published index: any FAISS opens it, and what it says of itself is so."""

import time
from typing import get_args

import faiss
import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.index_file import METRICS_KEY
from dxmc_core.artifacts.matrices import load_matrix
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.errors import InputError
from dxmc_core.method.neighbors.search_index import KINDS, IndexChoice
from dxmc_core.stages import embed_images
from dxmc_core.stages.mine_neighbors import MineNeighborsConfig, choose_search_index
from dxmc_core.stages.search_index import (
    FillShard,
    IndexSource,
    index_summary,
    prepare_index,
    publish_index,
    renew_index,
)

FINGERPRINT = "e" * 32


def build(run_dir, kind, *, text=False, slices=((0, 100), (100, 101), (101, 240)), space=None):
    """Build an index of the planted run and publish it as the only file of mine_neighbors; the stage."""
    source, output = source_of(run_dir, kind, text=text, space=space), run_dir.stage("mine_neighbors")
    output.begin(FINGERPRINT)
    empty = prepare_index(source, output, fingerprint=FINGERPRINT, has_cells=False)
    shards = []
    if source.choice.has_cells:
        fill = FillShard(source, output, fingerprint=FINGERPRINT, empty=empty)
        starts, stops = zip(*slices, strict=True)
        shards = [row["name"] for row in fill(pa.table({"start": starts, "stop": stops})).to_pylist()]
    part, facts = publish_index(source, output, empty, shards, min_recall=0.98)
    output.publish(
        fingerprint=FINGERPRINT,
        inputs={},
        tables={},
        files={source.file_name: part},
        metrics={METRICS_KEY: {source.file_name: facts}},
        seconds=1.0,
    )
    return output


def source_of(run_dir, kind, *, text=False, space=None):
    images, space = run_dir.stage("embed_images"), space or run_dir.stage("build_semantic_space")
    rows = (space, "text_counterparts", None) if text else (images, "images", space)
    return IndexSource(*rows, IndexChoice(kind, "asked for"), "text_neighbors" if text else "image_neighbors", seed=0)


def run_over(tmp_path, rows, name, *, changed=()):
    """A run over some rows of the planted file, in this order; of the changed ones the embedding is another's."""
    with np.load(tmp_path / "x.npz") as file:
        embeddings = file["embeddings"]
    for row in changed:
        embeddings[row] = -embeddings[row]
    np.savez(tmp_path / f"{name}.npz", embeddings=embeddings[rows], image_ids=np.array(rows).astype(str))
    run_dir = RunDir.at(str(tmp_path / name))
    source = embed_images.EmbeddingsSource(kind="embeddings", uri=str(tmp_path / f"{name}.npz"))
    images, fingerprint = run_dir.stage("embed_images"), name[0] * 32
    catalog, done = embed_images.import_embeddings(source, images, fingerprint=fingerprint)
    embed_images.all_embedded(catalog, done, fingerprint=fingerprint).publish(
        catalog.stage_dir, fingerprint=fingerprint, inputs={}, started=time.perf_counter()
    )
    return run_dir


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf_sq8", "hnsw"])
def test_bare_faiss_finds_the_rows_that_are_nearest(planted_run, kind, monkeypatch):
    monkeypatch.setattr("dxmc_core.method.neighbors.inverted_file._ROWS_PER_CELL", 20)
    output = build(planted_run.run_dir, kind)
    index = faiss.read_index(output.storage.path("index.faiss"))
    images = load_matrix(planted_run.run_dir.stage("embed_images"), "images")
    rows = images.values.astype(np.float32)
    exact = np.sort(rows @ rows.T, axis=1)[:, ::-1]
    scores, ids = index.search(rows, 10)
    assert np.isclose(scores[:, 0], exact[:, 0], atol=5e-3 if kind == "ivf_sq8" else 1e-5).mean() >= 0.95
    assert (planted_run.labels[ids] == planted_run.labels[:, None]).mean() >= 0.95
    facts = output.require_manifest().metrics[METRICS_KEY]["index.faiss"]
    if kind != "ivf_sq8":
        assert (scores >= exact[:, 9:10] - 1e-5).mean() >= 0.95
    assert (facts["kind"], facts["rows"], facts["bytes"]) == (kind, 240, output.storage.list_files()["index.faiss"])
    assert 0.98 <= facts["recall_at_10"] <= 1
    assert facts["recall_of"]["nouns"]["recall_at_50"] >= facts["recall_at_50"]
    assert facts["sampled_queries"] == {"rows": 240, "nouns": 256}
    assert f"{kind} (asked for)" in index_summary(facts)


def test_nothing_is_left_of_the_shards(planted_run):
    output = build(planted_run.run_dir, "ivf")
    assert set(output.storage.list_files()) == {"_manifest.json", "_own.json", "index.faiss"}


def test_shards_do_not_change_what_is_found(planted_run, monkeypatch):
    monkeypatch.setattr("dxmc_core.method.neighbors.inverted_file._ROWS_PER_CELL", 20)
    rows = load_matrix(planted_run.run_dir.stage("embed_images"), "images").values.astype(np.float32)
    found = []
    for slices in (((0, 240),), ((0, 7), (7, 60), (60, 240))):
        output = build(planted_run.run_dir, "ivf", slices=slices)
        found.append(output.storage.read_bytes("index.faiss"))
    assert found[0] == found[1]
    assert faiss.deserialize_index(np.frombuffer(found[0], np.uint8)).search(rows, 1)[1].shape == (240, 1)


def test_index_of_the_text_counterparts(planted_run):
    output = build(planted_run.run_dir, "flat", text=True)
    index = faiss.read_index(output.storage.path("text_index.faiss"))
    texts = load_matrix(planted_run.run_dir.stage("build_semantic_space"), "text_counterparts")
    scores, _ = index.search(texts.values.astype(np.float32), 1)
    np.testing.assert_allclose(scores[:, 0], (texts.values.astype(np.float32) ** 2).sum(axis=1), atol=2e-3)
    assert list(output.require_manifest().metrics[METRICS_KEY]["text_index.faiss"]["recall_of"]) == ["rows"]


def test_the_kind_is_set_chosen_or_none():
    assert choose_search_index(MineNeighborsConfig(search_index="none"), 10, 512) is None
    assert choose_search_index(MineNeighborsConfig(), 10**6, 512).kind == "ivf"
    choice = choose_search_index(MineNeighborsConfig(search_index="hnsw"), 10**6, 512)
    assert (choice.kind, choice.reason) == ("hnsw", "mine_neighbors.search_index is hnsw")
    settable = get_args(MineNeighborsConfig.model_fields["search_index"].annotation)
    assert set(settable) == {"auto", "none", *KINDS}
    with pytest.raises(InputError, match="ivf_pq, which learns from at least 256 images, found 255"):
        choose_search_index(MineNeighborsConfig(search_index="ivf_pq"), 255, 512)


@pytest.fixture
def nights(planted_run, tmp_path, monkeypatch):
    """A run over 200 rows with an index, and the next over 230 in another order, two of them with another content."""
    monkeypatch.setattr("dxmc_core.method.neighbors.inverted_file._ROWS_PER_CELL", 20)
    space = planted_run.run_dir.stage("build_semantic_space")
    before = run_over(tmp_path, range(200), "a-before")
    build(before, "ivf", slices=((0, 200),), space=space)
    rows = np.random.default_rng(0).permutation(np.arange(10, 240))
    return before, run_over(tmp_path, rows, "b-after", changed=[20, 30]), space


def test_a_night_takes_out_what_has_gone_and_adds_what_has_come(nights):
    before, after, space = nights
    source, output = source_of(after, "ivf", space=space), after.stage("mine_neighbors")
    part, facts = renew_index(source, output, before)
    assert (facts["added"], facts["removed"], facts["rows"]) == (42, 12, 230)
    images = load_matrix(after.stage("embed_images"), "images")
    rows = images.values.astype(np.float32)
    index = faiss.read_index(output.storage.path(part.name))
    index.nprobe = index.nlist
    scores, ids = index.search(rows, 230)
    assert (np.sort(ids, axis=1) == images.row_ids).all()
    np.testing.assert_allclose(scores, np.sort(rows @ rows.T, axis=1)[:, ::-1], atol=1e-5)
    assert (ids[:, 0] == images.row_ids).all()
    assert facts["recall_at_10"] >= 0.9


def test_an_index_whose_recall_falls_is_built_anew(nights, caplog, monkeypatch):
    before, after, space = nights
    source, output = source_of(after, "ivf", space=space), after.stage("mine_neighbors")
    monkeypatch.setattr("dxmc_core.stages.search_index._MAX_FALL", -0.5)
    with caplog.at_level("INFO"):
        assert renew_index(source, output, before) is None
    assert "index.faiss is built anew: its recall at 10 has fallen to" in caplog.text
    assert not output.storage.exists("index.faiss")


def test_what_cannot_be_renewed_is_built_anew(nights):
    before, after, space = nights
    output = after.stage("mine_neighbors")
    assert renew_index(source_of(after, "ivf_sq8", space=space), output, before) is None
    before.stage("mine_neighbors").storage.write_bytes("index.faiss", b"something else")
    assert renew_index(source_of(after, "ivf", space=space), output, before) is None
    assert renew_index(source_of(before, "ivf", space=space), output, after) is None
