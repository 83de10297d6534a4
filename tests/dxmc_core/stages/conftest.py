"""A run directory whose embeddings, counterparts and neighbours are there, made by the stages' own functions."""

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.matrices import StoredRows
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import parts_in_order
from dxmc_core.method.nouns.vocabulary import Vocabulary
from dxmc_core.stages import build_semantic_space, embed_images, mine_neighbors

FINGERPRINT = "b" * 32
WORDS = ["apple", "bicycle", "castle", "dolphin"]


@dataclass(frozen=True)
class PlantedRun:
    """Four groups of 60 rows, row i in group i % 4, and nouns near the groups' centres."""

    run_dir: RunDir
    labels: np.ndarray


def publish(stage_dir, tables, **kwargs):
    return stage_dir.publish(fingerprint=FINGERPRINT, inputs={}, tables=tables, seconds=1.0, **kwargs)


@pytest.fixture
def planted_run(tmp_path) -> PlantedRun:
    generator = np.random.default_rng(0)
    centers = np.linalg.qr(generator.normal(size=(16, 16)))[0][:4]
    labels = np.arange(240) % 4
    rows = centers[labels] + 0.06 * generator.normal(size=(240, 16))
    np.savez(tmp_path / "x.npz", embeddings=rows, labels=np.array(WORDS)[labels])
    run_dir = RunDir.at(str(tmp_path / "run"))

    images = run_dir.stage("embed_images")
    source = embed_images.EmbeddingsSource(kind="embeddings", uri=str(tmp_path / "x.npz"))
    catalog, done = embed_images.import_embeddings(source, images, fingerprint=FINGERPRINT)
    embed_images.all_embedded(catalog, done, fingerprint=FINGERPRINT).publish(
        catalog.stage_dir, fingerprint=FINGERPRINT, inputs={}, started=time.perf_counter()
    )

    space_dir = run_dir.stage("build_semantic_space")
    nouns = np.concatenate([centers, centers + 0.1 * generator.normal(size=centers.shape)])
    vocabulary = Vocabulary([*WORDS, *(f"{word} part" for word in WORDS)], [None] * 8, nouns)
    table = build_semantic_space.noun_table(vocabulary, nouns, temperature=0.05)
    config = build_semantic_space.BuildSemanticSpaceConfig()
    space = build_semantic_space.build_semantic_space(
        StoredRows.open(images, "images"), table, config, num_clusters=4, seed=0
    )
    selected = space_dir.write_part("selected_nouns", space.selected_nouns, fingerprint=FINGERPRINT)
    compute = build_semantic_space.ComputeTextCounterparts(
        images, space_dir, fingerprint=FINGERPRINT, selected_nouns=selected, temperature=0.05, top_nouns=None
    )
    counterparts = parts_in_order(compute(pa.table({"part": [0]})).to_pylist())
    publish(
        space_dir,
        {
            "nouns": [space_dir.write_part("nouns", table, fingerprint=FINGERPRINT)],
            "selected_nouns": [selected],
            "text_counterparts": counterparts,
        },
    )

    neighbors_dir = run_dir.stage("mine_neighbors")
    search = mine_neighbors.SearchNeighbors(
        [images, space_dir], neighbors_dir, fingerprint=FINGERPRINT, num_neighbors=5, near_duplicate_cosine=0.98
    )
    receipts = search(pa.table({"start": [0, 100], "stop": [100, 240]})).to_pylist()
    pairs = [Part(**receipt["pairs"]) for receipt in receipts]
    duplicates = mine_neighbors.group_near_duplicates(images, neighbors_dir, pairs)
    tables = {
        "neighbors": parts_in_order(receipts),
        "near_duplicates": [neighbors_dir.write_part("near_duplicates", duplicates, fingerprint=FINGERPRINT)],
    }
    publish(neighbors_dir, tables)
    return PlantedRun(run_dir, labels)


class MeanColor:
    """An encoder whose embedding of an image is its mean colour: tiny, and different for different images."""

    embedding_width = 3
    image_size = 8
    batch_size = 16
    retrieval_temperature = 0.05

    def preprocess(self, image):
        return np.asarray(image.resize((8, 8)), dtype=np.uint8)

    def encode_images(self, pixels):
        means = pixels.reshape(len(pixels), -1, 3).mean(axis=1) + 1
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def mean_color() -> MeanColor:
    return MeanColor()
