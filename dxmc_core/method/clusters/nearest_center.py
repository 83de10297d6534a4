"""Which centres are nearest, a block of rows at a time: N x K or K x K scores may be more than memory holds."""

import numpy as np
import torch

from dxmc_core.runtime.slices import slices_of

_SCORES_PER_BLOCK = 2**24
_LEAST_ROWS_PER_BLOCK = 256


def nearest_centers(
    rows: np.ndarray, centers: np.ndarray, *, offsets: np.ndarray | None = None, device: str = "cpu"
) -> np.ndarray:
    """Positions (N,) int32 of the centres with the largest products; between equal ones rounding decides.

    Args:
        rows: (N, R) of any float type, multiplied in float32.
        centers: (K, R), K >= 1, the same.
        offsets: (K,) that are taken off the products; half the squared norms of the centres give the smallest
            Euclidean distance.
        device: where the products run.
    """
    labels = np.empty(len(rows), dtype=np.int32)
    columns = torch.from_numpy(centers.astype(np.float32, copy=False)).to(device).T
    taken_off = None if offsets is None else torch.from_numpy(offsets.astype(np.float32, copy=False)).to(device)
    for block in slices_of(len(rows), max(_SCORES_PER_BLOCK // len(centers), _LEAST_ROWS_PER_BLOCK)):
        scores = torch.from_numpy(rows[block].astype(np.float32, copy=False)).to(device) @ columns
        if taken_off is not None:
            scores -= taken_off
        labels[block] = scores.argmax(dim=1).cpu().numpy()
    return labels


def nearest_others(centers: np.ndarray, count: int, *, is_open: np.ndarray | None = None) -> np.ndarray:
    """For each centre the positions of the `count` others with the largest products, nearest first, -1 beyond the last.

    Args:
        centers: (K, R) float32, K >= 1.
        count: K - 1 at most are found.
        is_open: (K,) bool, those that count as others; by default all.

    Returns:
        (K, min(count, K - 1)) int64; of equal ones the smaller position comes first.
    """
    num_centers = len(centers)
    count = min(count, num_centers - 1)
    found = np.empty((num_centers, count), dtype=np.int64)
    for block in slices_of(num_centers, max(_SCORES_PER_BLOCK // num_centers, 1)):
        scores = centers[block] @ centers.T
        scores[np.arange(len(scores)), block.start + np.arange(len(scores))] = -np.inf
        if is_open is not None:
            scores[:, ~is_open] = -np.inf
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        found[block] = np.where(np.isfinite(np.take_along_axis(scores, nearest, axis=1)), nearest, -1)
    return found
