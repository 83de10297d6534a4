"""How far a further encoder can be trusted beside the first, judged without labels.

An encoder that sees something else than the first one errs elsewhere, and the two together are better than each. One
that sees nothing in these images (made for another kind, or broken) has neighbours at random, and must not count.
"""

import numpy as np

#: Neighbours compared. Ten are few enough to lie inside all but the smallest clusters.
_NUM_NEIGHBORS = 10


def encoder_agreement(first_neighbors: np.ndarray, further_neighbors: np.ndarray, labels: np.ndarray) -> float:
    """How often neighbours by a further encoder share a cluster, beyond chance, as a share of those by the first.

    Args:
        first_neighbors, further_neighbors: (N, k) positions, nearest first, by either encoder.
        labels: (N,) a clustering by the first encoder alone.

    Returns:
        A ratio of at least 0; 0 is chance, 1 says that both keep the clusters equally well apart.
    """
    first, further = (
        float((labels[neighbors[:, :_NUM_NEIGHBORS]] == labels[:, None]).mean())
        for neighbors in (first_neighbors, further_neighbors)
    )
    shares = np.bincount(labels) / len(labels)
    chance = float((shares**2).sum())
    return max(further - chance, 0.0) / (first - chance) if first > chance else 0.0


def encoder_weight(agreement: float) -> float:
    """Weight in 0..1 of a further encoder's views against those of the first."""
    return min(agreement, 1.0)
