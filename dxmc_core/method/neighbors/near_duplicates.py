"""Groups of images that are the same picture: equal embeddings, and neighbours above a cosine threshold."""

import hashlib
from collections.abc import Iterable

import numpy as np

from dxmc_core.method.row_source import RowSource

_ROWS_PER_BLOCK = 65_536


def first_copies(rows: RowSource) -> np.ndarray:
    """Position (N,) int64 of the first row that is equal to the last bit, a row's own where no earlier one is.

    Rows are told apart by 128-bit digests, so 16 bytes per row is all that is kept.
    """
    digests = np.empty(len(rows), dtype="S16")
    start = 0
    for block in rows.blocks(_ROWS_PER_BLOCK):
        for row in np.ascontiguousarray(block):
            digests[start] = hashlib.blake2b(row.data, digest_size=16).digest()
            start += 1
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    return first[group]


def distinct_rows(blocks: Iterable[np.ndarray], *, at_most: int) -> np.ndarray:
    """The first rows (n, D) that differ from all before them, n <= `at_most`; no more blocks are read than it takes."""
    seen: set[bytes] = set()
    found: list[np.ndarray] = []
    for block in blocks:
        for row in np.ascontiguousarray(block + np.zeros((), block.dtype)):  # which makes 0 of -0
            digest = hashlib.blake2b(row.data, digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                found.append(row.copy())
            if len(found) == at_most:
                return np.stack(found)
    return np.stack(found)


def usable_num_clusters(num_clusters: int, blocks: Iterable[np.ndarray]) -> int:
    """K, or the number of distinct embeddings where there are fewer; at least 2, of which one may stay empty.

    Args:
        blocks: the image embeddings as they are stored; read until K of them differ.
    """
    if num_clusters < 2:
        return num_clusters
    return max(len(distinct_rows(blocks, at_most=num_clusters)), 2)


def duplicate_groups(num_rows: int, pairs: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Group of every row: the smallest position of its connected component, its own where it has no duplicate.

    A group may hold rows that are less alike than the threshold, joined by others between them.

    Args:
        pairs: (E, 2) positions of rows that are near duplicates of each other.
        copies: (N,) as of `first_copies`.

    Returns:
        (N,) int64.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.concatenate([pairs, np.stack([np.arange(num_rows), copies], axis=1)])
    graph = coo_array((np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(num_rows, num_rows))
    _, labels = connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)
    return first[labels].astype(np.int64)


def one_of_each(groups: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Neighbours of the rows that stand for their groups, as positions among those rows.

    A neighbour becomes the row that stands for it; the row's own group and repetitions are left out, and the nearest
    ones repeated in their place. A row with no neighbour outside its group is its own.

    Args:
        groups: (N,) as of `duplicate_groups`; neighbors: (N, k) positions, nearest first.

    Returns:
        (G, k) of the type of `neighbors`, for the G rows with groups[row] == row, in their order.
    """
    kept = np.flatnonzero(groups == np.arange(len(groups)))
    place = np.zeros(len(groups), dtype=neighbors.dtype)
    place[kept] = np.arange(len(kept))
    found = place[groups[neighbors[kept]]]
    own = np.arange(len(kept), dtype=neighbors.dtype)[:, None]
    by_value = np.argsort(found, axis=1, kind="stable")
    in_order = np.take_along_axis(found, by_value, axis=1)
    is_first = np.ones(found.shape, dtype=bool)
    np.put_along_axis(is_first, by_value[:, 1:], in_order[:, 1:] != in_order[:, :-1], axis=1)
    is_usable = is_first & (found != own)
    usable_first = np.take_along_axis(found, np.argsort(~is_usable, axis=1, kind="stable"), axis=1)
    num_usable = is_usable.sum(axis=1, keepdims=True)
    repeated = np.take_along_axis(usable_first, np.arange(found.shape[1]) % np.maximum(num_usable, 1), axis=1)
    return np.where(num_usable > 0, repeated, own)
