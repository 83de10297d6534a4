"""The labels behind `best`: many k-means partitions of smoothed views, their consensus, and what text may add to it.

Views are made, cut into partitions and dropped one at a time. Every step is linear in N: two PCAs, a re-ranking of the
neighbours at hand, sparse averages, k-means on samples, and an eigenproblem whose size does not depend on N.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dxmc_core.method.co_association import consensus_partition
from dxmc_core.method.discriminant import Discriminant, fit_discriminant
from dxmc_core.method.kmeans import spherical_kmeans
from dxmc_core.method.smoothing import num_smoothing_neighbors, rerank_neighbors, smooth
from dxmc_core.method.text_gate import text_agreement, text_weight
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.method.whitening import half_power_whitening, neighbor_whitening, normalize_rows

#: Partitions are finer than K, because k-means halves a large cluster sooner than it finds a small one, and the
#: consensus puts halves together again ...
PARTITION_MULTIPLES = (2, 4)
#: ... but with fewer rows a part than this they split at random; where no multiple has as many, K itself is used.
MIN_ROWS_PER_PART = 30

#: Two depths of smoothing: the deeper one suits large dense clusters, the lighter one keeps small ones.
_SMOOTHING_ROUNDS = (2, 4)
_PARTITIONS_PER_VIEW = 3
_KMEANS_ITERATIONS = 30
_MAX_POINTS_PER_PART = 64


@dataclass(frozen=True)
class ConsensusResult:
    """What the recipe found out before any head is trained.

    Attributes:
        labels: (N,) int32 in 0..K-1, the consensus after its discriminant settled: targets for the heads.
        consensus: (N,) int32, the consensus of the partitions alone.
        discriminant: assigns any image; the heads start from it.
        cluster_shares: (K,) float32, share of the rows in each cluster.
        num_partitions: that the consensus was made of.
        text_agreement: evidence for the text modality, see `text_gate`; None without text.
        text_weight: what came of it, 0..1; 0 without text.
    """

    labels: np.ndarray
    consensus: np.ndarray
    discriminant: Discriminant
    cluster_shares: np.ndarray
    num_partitions: int
    text_agreement: float | None
    text_weight: float


def consensus_labels(
    image_embeddings: np.ndarray,
    *,
    num_clusters: int,
    image_neighbors: np.ndarray,
    text_counterparts: np.ndarray | None = None,
    text_neighbors: np.ndarray | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> ConsensusResult:
    """Cluster images by the consensus of partitions of smoothed, whitened views; same seed and machine, same result.

    Args:
        image_embeddings: (N, D), any float type.
        num_clusters: K, at most N.
        image_neighbors: (N, k) positions, nearest first; about 50, of which the nearest under each whitening are used.
        text_counterparts: (N, D'), or None for images alone. How much they count is decided by `text_gate`.
        text_neighbors: (N, k') positions among the text counterparts, nearest first; goes with them.
        device: where k-means runs.

    Raises:
        ValueError: unusable rows, fewer rows than clusters, rows all equal, or text without neighbours.
    """
    images = unit_rows(image_embeddings, name="image_embeddings")
    _check_shapes(images, num_clusters, image_neighbors, text_counterparts, text_neighbors)
    if num_clusters == 1 or len(images) < 2:
        raise ValueError(f"expected at least 2 clusters, found {num_clusters}: one cluster needs no method")
    graphs = _whitened_graphs(images, image_neighbors, num_clusters)
    agreement = None
    if text_neighbors is not None:
        lightly_smoothed = _smoothed(graphs[0], _SMOOTHING_ROUNDS[0])
        reference = _partition(lightly_smoothed, num_clusters, seed=seed, draw=0, device=device)
        agreement = text_agreement(image_neighbors, text_neighbors, reference)
    weight = text_weight(agreement) if agreement is not None else 0.0
    texts = _centered(text_counterparts) if text_counterparts is not None and weight > 0 else None
    partitions: list[np.ndarray] = []
    for view in _views(graphs, texts, weight):
        for num_parts in partition_sizes(len(images), num_clusters):
            for _ in range(_PARTITIONS_PER_VIEW):
                partitions.append(_partition(view, num_parts, seed=seed, draw=1 + len(partitions), device=device))
    consensus = consensus_partition(partitions, num_clusters, seed=seed)
    discriminant = fit_discriminant(images, consensus, num_clusters)
    shares = np.bincount(discriminant.labels, minlength=num_clusters) / len(images)
    return ConsensusResult(
        labels=discriminant.labels,
        consensus=consensus,
        discriminant=discriminant,
        cluster_shares=shares.astype(np.float32),
        num_partitions=len(partitions),
        text_agreement=agreement,
        text_weight=weight,
    )


def partition_sizes(num_rows: int, num_clusters: int) -> list[int]:
    """Numbers of parts to cut each view into: the multiples of K that leave enough rows a part, or K alone."""
    finer = [num_clusters * multiple for multiple in PARTITION_MULTIPLES]
    return [parts for parts in finer if parts * MIN_ROWS_PER_PART <= num_rows] or [num_clusters]


@dataclass(frozen=True)
class _WhitenedGraph:
    """Whitened images (N, R) float32 and their nearest neighbours (N, n) under that whitening."""

    rows: np.ndarray
    neighbors: np.ndarray


def _whitened_graphs(images: np.ndarray, image_neighbors: np.ndarray, num_clusters: int) -> list[_WhitenedGraph]:
    """The images under two whitenings that err differently.

    The neighbours' one is right where neighbours share clusters, the half-power one asks nothing of them.
    """
    num_neighbors = num_smoothing_neighbors(len(images), num_clusters)
    graphs = []
    for whitening in (neighbor_whitening(images, image_neighbors[:, :num_neighbors]), half_power_whitening(images)):
        rows = whitening.apply(images)
        graphs.append(_WhitenedGraph(rows, rerank_neighbors(rows, image_neighbors, num_neighbors)))
    return graphs


def _views(graphs: list[_WhitenedGraph], texts: np.ndarray | None, weight: float) -> Iterator[np.ndarray]:
    """Unit rows of each graph at each depth of smoothing, joined with the text smoothed over the same graph."""
    for graph in graphs:
        for num_rounds in _SMOOTHING_ROUNDS:
            images = _smoothed(graph, num_rounds)
            if texts is None:
                yield images
            else:
                smoothed_texts = smooth(texts, graph.neighbors, num_rounds=num_rounds)
                yield normalize_rows(np.concatenate([images, weight * smoothed_texts], axis=1))


def _smoothed(graph: _WhitenedGraph, num_rounds: int) -> np.ndarray:
    return smooth(graph.rows, graph.neighbors, num_rounds=num_rounds)


def _partition(view: np.ndarray, num_parts: int, *, seed: int, draw: int, device: str) -> np.ndarray:
    """One quick k-means run: the consensus profits from partitions that differ more than from polished ones."""
    own_seed = int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])
    return spherical_kmeans(
        view,
        num_parts,
        num_restarts=1,
        num_iterations=_KMEANS_ITERATIONS,
        max_points_per_center=_MAX_POINTS_PER_PART,
        seed=own_seed,
        device=device,
    ).labels


def _centered(text_counterparts: np.ndarray) -> np.ndarray:
    """Unit rows around their mean: nearly all of a text counterpart is what all of them share."""
    rows = unit_rows(text_counterparts, name="text_counterparts")
    return normalize_rows(rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32))


def _check_shapes(
    images: np.ndarray,
    num_clusters: int,
    image_neighbors: np.ndarray,
    text_counterparts: np.ndarray | None,
    text_neighbors: np.ndarray | None,
) -> None:
    num_rows = len(images)
    if num_clusters > num_rows:
        raise ValueError(f"expected at least as many rows as clusters, found {num_rows} for {num_clusters} clusters")
    if (text_counterparts is None) != (text_neighbors is None):
        missing = "text_neighbors" if text_neighbors is None else "text_counterparts"
        raise ValueError(f"expected text_counterparts together with text_neighbors, found no {missing}")
    given = {
        "image_neighbors": image_neighbors,
        "text_neighbors": text_neighbors,
        "text_counterparts": text_counterparts,
    }
    for name, array in given.items():
        if array is not None and (array.ndim != 2 or len(array) != num_rows or array.shape[1] == 0):
            raise ValueError(f"expected {name} with {num_rows} rows like image_embeddings, found shape {array.shape}")
