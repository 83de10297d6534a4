"""Smoothing over the neighbour graph: every row becomes the mean of its neighbourhood, a few times over.

Noise that neighbours do not share averages out, while differences between neighbourhoods stay. One sparse product a
round; the graph is built once.
"""

import numpy as np
from scipy.sparse import csr_array

from dxmc_core.method.whitening import normalize_rows

_ROWS_PER_BLOCK = 4096

#: A neighbourhood of 0.3 cluster sizes stays inside a cluster even where that cluster is a third of the mean size.
_NEIGHBORS_PER_CLUSTER_SIZE = 0.3
_MIN_NEIGHBORS, _MAX_NEIGHBORS = 4, 20


def num_smoothing_neighbors(num_rows: int, num_clusters: int) -> int:
    """Neighbours to average over: 0.3 N / K in 4..20, and always below N."""
    count = round(_NEIGHBORS_PER_CLUSTER_SIZE * num_rows / num_clusters)
    return min(max(count, _MIN_NEIGHBORS), _MAX_NEIGHBORS, num_rows - 1)


def rerank_neighbors(rows: np.ndarray, candidates: np.ndarray, num_neighbors: int) -> np.ndarray:
    """The nearest of each row's candidates in another space than the one they were found in.

    It spares a second search of all rows.

    Args:
        rows: (N, R) float32 unit rows of the new space.
        candidates: (N, c) positions.
        num_neighbors: k; fewer than c, or all candidates are returned.

    Returns:
        (N, min(k, c)) int64 positions, nearest first, equal ones by position.
    """
    nearest = np.empty((len(rows), min(num_neighbors, candidates.shape[1])), dtype=np.int64)
    for start in range(0, len(rows), _ROWS_PER_BLOCK):
        block = slice(start, start + _ROWS_PER_BLOCK)
        positions = candidates[block]
        scores = np.stack([np.einsum("nr,nr->n", rows[block], rows[column]) for column in positions.T], axis=1)
        order = np.lexsort((positions, -scores), axis=1)[:, : nearest.shape[1]]
        nearest[block] = np.take_along_axis(positions, order, axis=1)
    return nearest


def smooth(rows: np.ndarray, neighbors: np.ndarray, *, num_rounds: int) -> np.ndarray:
    """Each round replaces a row by the normalised mean of itself and its neighbours.

    Args:
        rows: (N, R) float32 unit rows.
        neighbors: (N, k) positions.

    Returns:
        (N, R) float32 unit rows.
    """
    num_rows, num_neighbors = neighbors.shape
    ones = np.ones(neighbors.size, dtype=np.float32)
    row_starts = np.arange(0, neighbors.size + 1, num_neighbors)
    graph = csr_array((ones, neighbors.ravel(), row_starts), (num_rows, num_rows))
    for _ in range(num_rounds):
        rows = normalize_rows(graph @ rows + rows)
    return rows
