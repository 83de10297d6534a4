"""How far the text counterparts can be trusted, judged without labels.

A vocabulary without words for what the images show (textures, flower species) gives text counterparts that mix up
clusters which the images keep apart. Then the text must not count.
"""

import numpy as np

#: Neighbours compared. Ten are few enough to lie inside all but the smallest clusters.
_NUM_NEIGHBORS = 10


def text_agreement(image_neighbors: np.ndarray, text_neighbors: np.ndarray, labels: np.ndarray) -> float:
    """How often nearest text neighbours share a cluster, as a share of how often nearest image neighbours do.

    Args:
        image_neighbors: (N, k) positions, nearest first, among image embeddings.
        text_neighbors: (N, k') positions, nearest first, among text counterparts.
        labels: (N,) a clustering of the image embeddings alone.

    Returns:
        A ratio of at least 0; 1 says that text keeps the clusters as well apart as the images do.
    """
    shares = [
        float((labels[neighbors[:, :_NUM_NEIGHBORS]] == labels[:, None]).mean())
        for neighbors in (image_neighbors, text_neighbors)
    ]
    return shares[1] / shares[0] if shares[0] > 0 else 0.0


def text_weight(agreement: float) -> float:
    """Weight in 0..1 of the text half against the image half of a joint view.

    The square makes weak evidence count for next to nothing without a threshold to cross: an agreement of 0.25 gives
    0.06, 0.6 gives 0.36, 0.9 gives 0.81. Text never counts for more than the images.
    """
    return min(agreement, 1.0) ** 2
