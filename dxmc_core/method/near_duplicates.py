"""Groups of images that are the same picture: equal embeddings, and neighbours above a cosine threshold."""

import hashlib

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dxmc_core.method.row_source import RowSource

_ROWS_PER_BLOCK = 65_536


def first_copies(rows: RowSource) -> np.ndarray:
    """Position (N,) int64 of the first row that is equal to the last bit, a row's own where no earlier one is.

    Rows are told apart by 128-bit digests, so 16 bytes a row is all that is kept.
    """
    digests = np.empty(len(rows), dtype="S16")
    start = 0
    for block in rows.blocks(_ROWS_PER_BLOCK):
        for row in np.ascontiguousarray(block):
            digests[start] = hashlib.blake2b(row.data, digest_size=16).digest()
            start += 1
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    return first[group]


def duplicate_groups(num_rows: int, pairs: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Group of every row: the smallest position of its connected component, its own where it has no duplicate.

    A group may hold rows that are less alike than the threshold, joined by others between them.

    Args:
        pairs: (E, 2) positions of rows that are near duplicates of each other.
        copies: (N,) as of `first_copies`.

    Returns:
        (N,) int64.
    """
    ends = np.concatenate([pairs, np.stack([np.arange(num_rows), copies], axis=1)])
    graph = coo_array((np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(num_rows, num_rows))
    _, labels = connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)
    return first[labels].astype(np.int64)
