"""From cluster labels to a rule that assigns any image: nearest centre in the space that whitens the clusters' scatter.

Fisher's discriminant with cosines. Having far fewer degrees of freedom than the labels, it drops what was accidental
about them: on CLIP embeddings its own assignments were better than the labels it came from, and unseen rows were
assigned nearly as well as seen ones.
"""

from dataclasses import dataclass

import numpy as np

from dxmc_core.method.best.whitening import (
    MAX_COMPONENTS,
    PrincipalComponents,
    WhiteningMap,
    cluster_means,
    cluster_whitening,
    cluster_work,
    normalize_rows,
)
from dxmc_core.method.clusters.nearest_center import nearest_centers
from dxmc_core.method.work import Work

_ROUNDS = 3


@dataclass(frozen=True)
class Discriminant:
    """Assign an image to the centre with the largest cosine after whitening.

    Attributes:
        whitening: from D to R dimensions.
        centers: (K, R) float32 unit rows.
        labels: (N,) int32, where the rows it was fitted on went.
    """

    whitening: WhiteningMap
    centers: np.ndarray
    labels: np.ndarray

    def predict(self, embeddings: np.ndarray, *, device: str = "cpu") -> np.ndarray:
        """Clusters (n,) int32 of unit rows (n, D)."""
        return nearest_centers(self.whitening.apply(embeddings, device=device), self.centers, device=device)


def fit_discriminant(
    embeddings: np.ndarray,
    labels: np.ndarray,
    num_clusters: int,
    *,
    fixed_rows: np.ndarray | None = None,
    components: PrincipalComponents | None = None,
    num_rounds: int = _ROUNDS,
    device: str = "cpu",
) -> Discriminant:
    """Whiten by the labels once, then let rows and centres settle.

    Args:
        embeddings: (N, D) unit rows.
        labels: (N,) clusters 0..K-1.
        fixed_rows: (m,) positions of rows that keep their labels, as somebody knows them.
        components: of the embeddings, where they are known.
        num_rounds: of taking centres and assigning rows anew. On CLIP embeddings nearly all change came in the first.
        device: where the products run.
    """
    whitening = cluster_whitening(embeddings, labels, num_clusters, components=components, device=device)
    fixed = None if fixed_rows is None else labels[fixed_rows]
    rows = whitening.apply(embeddings, device=device)
    centers = np.zeros((num_clusters, rows.shape[1]), dtype=np.float32)
    for _ in range(num_rounds):
        means = cluster_means(rows, labels, num_clusters)
        # A cluster that lost its last row keeps its centre.
        emptied = np.bincount(labels, minlength=num_clusters) == 0
        centers = normalize_rows(np.where(emptied[:, None], centers, means))
        labels = nearest_centers(rows, centers, device=device)
        if fixed_rows is not None:
            labels[fixed_rows] = fixed
    return Discriminant(whitening, centers, labels)


def discriminant_work(num_rows: int, width: int, num_clusters: int) -> Work:
    """What `fit_discriminant` does with known components."""
    scores = Work(2.0 * num_rows * min(MAX_COMPONENTS, width) * num_clusters)
    return cluster_work(num_rows, width) + scores * _ROUNDS
