"""Clusters as they are described: decisions by probability, centres, how far out a member lies, what stands for it.

`assign_clusters` describes a run by these functions, the estimator what it was fitted to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array

from dxmc_core.method.clusters.nearest_center import nearest_others
from dxmc_core.method.fit import assign
from dxmc_core.method.heads import Heads
from dxmc_core.method.nouns.naming import ClusterName
from dxmc_core.runtime.slices import slices_of

NUM_NEAREST_CLUSTERS = 5
#: An image lies outside when it is this many times as far from its centre as images typically are.
_FAR = 2.0
#: 64 MiB.
PROBS_PER_BLOCK = 2**24


class Decisions(NamedTuple):
    """What was decided of n images: their labels (n,) int64, the labels' probabilities, and how near another was.

    A single cluster is its own runner-up, with a margin of its whole probability.
    """

    labels: np.ndarray
    confidences: np.ndarray
    runner_up: np.ndarray
    margins: np.ndarray


@dataclass(frozen=True)
class ClusterSample:
    """Images that clusters are described by, with their assignment.

    Attributes:
        row_ids (n,), embeddings (n, D) float32, labels (n,), confidences (n,), margins (n,)
        centers: (K, D) float32, normalised means of the members; zero for a cluster without members.
        mean_distances: (K,) float32, mean of 1 - cosine between members and centre.
    """

    row_ids: np.ndarray
    embeddings: np.ndarray
    labels: np.ndarray
    confidences: np.ndarray
    margins: np.ndarray
    centers: np.ndarray
    mean_distances: np.ndarray

    @classmethod
    def of(
        cls,
        row_ids: np.ndarray,
        embeddings: np.ndarray,
        found: Decisions,
        *,
        num_clusters: int,
        weights: np.ndarray | None = None,
    ) -> "ClusterSample":
        """Measure the clusters of unit rows (n, D) of any float type by what was decided of them.

        Args:
            weights: (n,) what a row counts for in its centre; by default all count alike.
        """
        labels, confidences, _, margins = found
        embeddings = embeddings.astype(np.float32)
        shares = np.ones(len(labels), dtype=np.float32) if weights is None else weights
        sums = csr_array((shares, (labels, np.arange(len(labels)))), shape=(num_clusters, len(labels))) @ embeddings
        centers = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        distances = 1 - np.einsum("nd,nd->n", embeddings, centers[labels])
        counts = np.bincount(labels, minlength=num_clusters)
        mean_distances = np.bincount(labels, distances, minlength=num_clusters) / np.maximum(counts, 1)
        return cls(row_ids, embeddings, labels, confidences, margins, centers, mean_distances.astype(np.float32))


def decide(heads: Heads, images: np.ndarray, texts: np.ndarray | None) -> Decisions:
    """Assign unit rows (n, D), with their text counterparts (n, D) where the heads need them.

    Ties go to the smaller cluster id. The probabilities of all exist for a block of images at a time.
    """
    size = max(PROBS_PER_BLOCK // heads.num_clusters, 1)
    blocks = slices_of(max(len(images), 1), size)
    found = [_decisions(_probs(heads, images[block], None if texts is None else texts[block])) for block in blocks]
    return Decisions(*map(np.concatenate, zip(*found, strict=True)))


def _probs(heads: Heads, images: np.ndarray, texts: np.ndarray | None) -> np.ndarray:
    return assign(heads, torch.from_numpy(images), None if texts is None else torch.from_numpy(texts)).numpy()


def _decisions(probs: np.ndarray) -> Decisions:
    """See `decide`. The array (n, K) is spent."""
    rows = np.arange(len(probs))
    labels = probs.argmax(axis=1)
    first = probs[rows, labels]
    if probs.shape[1] == 1:
        return Decisions(labels, first, labels, first)
    probs[rows, labels] = -1
    runner_up = probs.argmax(axis=1)
    return Decisions(labels, first, runner_up, first - probs[rows, runner_up])


def outlier_scores(distances: np.ndarray, mean_distances: np.ndarray) -> np.ndarray:
    """Distance to the own centre over the cluster's mean distance: 1 is ordinary, 2 is twice as far out as usual."""
    return np.divide(distances, mean_distances, out=np.zeros_like(distances), where=mean_distances > 1e-6)


@dataclass(frozen=True)
class InlierRule:
    """Which images belong nowhere: those of small clusters, and those far from their centre for images of any cluster.

    Images of other things gather in a loose cluster, where none is far out for its cluster. So a distance is held
    against that of the median image's cluster.

    Attributes:
        small: (K,) bool, clusters with too few images.
        far: distance to the centre from which on an image lies outside.
    """

    small: np.ndarray
    far: float

    @classmethod
    def of(cls, sizes: np.ndarray, mean_distances: np.ndarray, *, min_cluster_size: int) -> "InlierRule":
        """From the sizes (K,) of clusters and the mean distances (K,) of their images."""
        order = np.argsort(mean_distances, kind="stable")
        median = order[np.searchsorted(np.cumsum(sizes[order]), sizes.sum() / 2)]
        return cls(sizes < min_cluster_size, _FAR * float(mean_distances[median]))

    def inlier_labels(self, labels: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Labels (n,) with -1 for images that belong nowhere, by their distances (n,) to their centres."""
        return np.where(self.small[labels] | (distances > self.far), -1, labels)


def nearest_clusters(centers: np.ndarray, sizes: np.ndarray) -> list[list[int]]:
    """For each of K clusters the few others that have images and whose centres (K, D) are nearest, nearest first."""
    nearest = nearest_others(centers, NUM_NEAREST_CLUSTERS, is_open=sizes > 0)
    return [[other for other in others if other >= 0] for others in nearest.tolist()]


def cluster_rows(
    sample: ClusterSample, sizes: np.ndarray, names: Sequence[ClusterName], *, num_exemplars: int, num_border: int
) -> list[dict[str, Any]]:
    """Rows of the table `clusters`, one for every cluster that has images, with labels for ids.

    Args:
        sizes: (K,) images of each cluster, those beyond the sample counted.
        names: K.
        num_exemplars, num_border: at most so many row ids nearest to the centre, and of smallest margin.
    """
    nearest = nearest_clusters(sample.centers, sizes)
    rows = []
    for label in np.flatnonzero(sizes).tolist():
        name, members = names[label], np.flatnonzero(sample.labels == label)
        similarity = sample.embeddings[members] @ sample.centers[label]
        central = members[np.argsort(-similarity, kind="stable")[:num_exemplars]]
        border = members[np.argsort(sample.margins[members], kind="stable")[:num_border]]
        rows.append(
            {
                "cluster_id": label,
                "size": int(sizes[label]),
                "name": name.name,
                "names": list(name.names),
                "name_evidence": [
                    {"noun": noun, "synset_id": synset_id, "share": share, "margin": margin}
                    for noun, synset_id, share, margin in name.evidence
                ],
                "name_source": name.source,
                "exemplars": sample.row_ids[central].tolist(),
                "border": sample.row_ids[border].tolist(),
                "cohesion": float(similarity.mean()) if len(members) else 0.0,
                "mean_confidence": float(sample.confidences[members].mean()) if len(members) else 0.0,
                "nearest_clusters": nearest[label],
            }
        )
    return rows
