"""The recipe's labels: planted mixtures, misleading and helpful text, unusable input, and the embeddings at hand."""

from pathlib import Path

import numpy as np
import pytest

from dxmc_core.method.consensus import ConsensusResult, consensus_labels, partition_sizes
from dxmc_core.method.kmeans import spherical_kmeans
from dxmc_core.method.metrics import external_scores
from dxmc_core.method.neighbors import nearest_neighbors
from dxmc_core.method.text_counterparts import compute_text_counterparts


def _planted(sizes: list[int], *, noise: float = 0.4, width: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of these sizes around random directions, in a narrow cone and with loud noise in few directions."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    rows = 2 + rng.standard_normal((len(sizes), width))[truth]
    rows += noise * np.geomspace(8, 1, width) * rng.standard_normal((sum(sizes), width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), truth


def _consensus(embeddings: np.ndarray, num_clusters: int, *, texts: np.ndarray | None = None, seed: int = 0):
    num_neighbors = min(30, len(embeddings) - 1)
    return consensus_labels(
        embeddings,
        num_clusters=num_clusters,
        image_neighbors=nearest_neighbors(embeddings, num_neighbors=num_neighbors),
        text_counterparts=texts,
        text_neighbors=None if texts is None else nearest_neighbors(texts, num_neighbors=10),
        seed=seed,
    )


def _accuracy(truth: np.ndarray, labels: np.ndarray) -> float:
    return external_scores(truth, labels)["acc"]


def test_it_finds_planted_clusters_that_kmeans_blurs():
    embeddings, truth = _planted([80] * 10)
    found = _consensus(embeddings, 10)
    assert _accuracy(truth, spherical_kmeans(embeddings, 10).labels) < 0.8
    assert _accuracy(truth, found.labels) > 0.95
    assert found.labels.dtype == np.int32
    assert found.cluster_shares.sum() == pytest.approx(1)
    np.testing.assert_array_equal(found.discriminant.predict(embeddings), found.labels)


def test_large_clusters_are_not_cut_for_the_sake_of_balance():
    embeddings, truth = _planted([1000, 400, 150, 60, 40], noise=0.3)
    assert _accuracy(truth, _consensus(embeddings, 5).labels) > 0.95


def test_helpful_text_is_trusted_and_misleading_text_does_no_harm():
    embeddings, truth = _planted([60] * 8, noise=0.45)
    helpful, _ = _planted([60] * 8, noise=0.1, seed=1)
    misleading = np.random.default_rng(2).permutation(helpful)
    alone, trusting, wary = (_consensus(embeddings, 8, texts=texts) for texts in (None, helpful, misleading))
    assert alone.text_agreement is None
    assert alone.text_weight == 0
    assert wary.text_weight < 0.1 < 0.9 < trusting.text_weight
    assert _accuracy(truth, trusting.labels) > _accuracy(truth, alone.labels)
    assert _accuracy(truth, wary.labels) > _accuracy(truth, alone.labels) - 0.02


def test_a_seed_repeats_and_another_one_draws_anew():
    embeddings, _ = _planted([40] * 6, noise=0.6)
    first, again, other = (_consensus(embeddings, 6, seed=seed).labels for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_float_types_agree():
    embeddings, truth = _planted([40] * 6)
    for dtype in (np.float16, np.float64):
        assert _accuracy(truth, _consensus(embeddings.astype(dtype), 6).labels) > 0.95


def test_duplicates_end_in_one_cluster():
    embeddings, _ = _planted([12] * 5)
    found = _consensus(np.repeat(embeddings, 4, axis=0), 5)
    assert all(len(set(labels)) == 1 for labels in found.labels.reshape(-1, 4).tolist())


@pytest.mark.parametrize("num_rows", [6, 9])
def test_hardly_more_rows_than_clusters(num_rows):
    embeddings, _ = _planted([1] * num_rows)
    labels = _consensus(embeddings, 5).labels
    assert labels.shape == (num_rows,)
    assert labels.min() >= 0
    assert labels.max() < 5


@pytest.mark.parametrize(
    ("num_rows", "num_clusters", "expected"),
    [(6000, 10, [20, 40]), (5700, 100, [100]), (6000, 100, [200]), (120, 2, [4]), (10, 5, [5])],
)
def test_parts_are_finer_than_clusters_where_rows_allow(num_rows, num_clusters, expected):
    assert partition_sizes(num_rows, num_clusters) == expected


class TestUnusableInput:
    embeddings, _ = _planted([10] * 3)
    neighbors = nearest_neighbors(embeddings, num_neighbors=5)

    def call(self, **changes) -> ConsensusResult:
        given = {"image_embeddings": self.embeddings, "num_clusters": 3, "image_neighbors": self.neighbors, **changes}
        return consensus_labels(given.pop("image_embeddings"), **given)

    def test_more_clusters_than_rows(self):
        with pytest.raises(ValueError, match="found 30 for 31 clusters"):
            self.call(num_clusters=31)

    def test_one_cluster(self):
        with pytest.raises(ValueError, match="at least 2 clusters, found 1"):
            self.call(num_clusters=1)

    @pytest.mark.parametrize("value", [np.nan, 0.0])
    def test_a_row_that_is_no_direction(self, value):
        embeddings = self.embeddings.copy()
        embeddings[4] = value
        with pytest.raises(ValueError, match="row 4"):
            self.call(image_embeddings=embeddings)

    def test_equal_rows(self):
        with pytest.raises(ValueError, match="equal"):
            self.call(image_embeddings=np.repeat(self.embeddings[:1], 30, axis=0))

    def test_neighbors_of_other_rows(self):
        with pytest.raises(ValueError, match="image_neighbors with 30 rows"):
            self.call(image_neighbors=self.neighbors[:20])

    def test_text_without_neighbors(self):
        with pytest.raises(ValueError, match="found no text_neighbors"):
            self.call(text_counterparts=self.embeddings)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "floor", "above_kmeans"), [("dtd", 0.48, 0.04), ("oxford_flowers", 0.83, 0.07)])
def test_real_clip_embeddings(evaluation_data: Path, name: str, floor: float, above_kmeans: float):
    with np.load(evaluation_data / "clip_vitb32" / f"{name}.npz") as file:
        embeddings, truth = file["embeddings"].astype(np.float32), file["labels"]
    with np.load(evaluation_data / "clip_vitb32" / "nouns.npz") as file:
        texts = compute_text_counterparts(embeddings, file["embeddings"], temperature=0.005)
    num_clusters = len(np.unique(truth))
    found = _accuracy(truth, _consensus(embeddings, num_clusters, texts=texts).labels)
    kmeans = _accuracy(truth, spherical_kmeans(embeddings, num_clusters).labels)
    assert found > max(floor, kmeans + above_kmeans)
