"""One partition from many: rows that the partitions often put together belong together.

The partitions' clusters and the rows form a bipartite graph; its normalised spectral embedding (as in spectral
co-clustering, Dhillon 2001) is computed on the side of the clusters, whose number does not grow with N, and k-means in
it gives the consensus. The N x N co-association matrix never exists.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, diags_array

from dxmc_core.method.kmeans import spherical_kmeans
from dxmc_core.method.whitening import normalize_rows

#: Up to here all eigenvectors at once are faster than the leading ones by iteration.
_MAX_DENSE_CLUSTERS = 1500
#: What is left to converge then are vectors at the lower end, between which the data hardly decide.
_SUBSPACE_ITERATIONS = 30
_MIN_EXTRA_COLUMNS = 16
_ROWS_PER_BLOCK = 16_384
_NUM_RESTARTS = 10
_MAX_POINTS_PER_CENTER = 256


@dataclass(frozen=True)
class CoAssociation:
    """Spectral coordinates of the partitions' clusters; a row's are the normalised sum over its own clusters.

    Attributes:
        cluster_coordinates: (M, K) float32 for the M clusters of all P partitions.
        memberships: (N, P) int32 positions among the M.
    """

    cluster_coordinates: np.ndarray
    memberships: np.ndarray

    def coordinates(self, rows: np.ndarray | slice) -> np.ndarray:
        """Unit rows (n, K) float32 for some of the N."""
        memberships = self.memberships[rows]
        total = np.zeros((len(memberships), self.cluster_coordinates.shape[1]), dtype=np.float32)
        for column in memberships.T:
            total += self.cluster_coordinates[column]
        return normalize_rows(total)


def co_associate(partitions: list[np.ndarray], num_dimensions: int) -> CoAssociation:
    """Embed rows by the partitions that they went through.

    Args:
        partitions: P arrays (N,) of integer labels >= 0; they may have different numbers of clusters.
        num_dimensions: leading eigenvectors kept, at most the number of clusters M.
    """
    memberships, num_members = _memberships(partitions)
    num_rows, num_partitions = memberships.shape
    row_starts = np.arange(0, memberships.size + 1, num_partitions)
    ones = np.ones(memberships.size, dtype=np.float32)
    incidence = csr_array((ones, memberships.ravel(), row_starts), (num_rows, len(num_members)))
    scaling = diags_array(1 / np.sqrt(num_members))
    overlaps = scaling @ (incidence.T @ incidence).astype(np.float64) @ scaling
    values, vectors = _leading_eigenvectors(overlaps.tocsr(), min(num_dimensions, len(num_members)))
    # Left singular vectors of the scaled incidence matrix, taken apart into their clusters' shares.
    coordinates = (scaling @ vectors) / np.sqrt(np.maximum(values, 1e-12))
    return CoAssociation(coordinates.astype(np.float32), memberships)


def consensus_partition(partitions: list[np.ndarray], num_clusters: int, *, seed: int = 0) -> np.ndarray:
    """Labels (N,) int32 in 0..K-1 on which the partitions agree best; same seed, same result.

    k-means runs on a sample of 256 rows a cluster, and assigns all rows block by block.
    """
    embedded = co_associate(partitions, num_clusters)
    num_rows = len(embedded.memberships)
    sample_size = min(num_rows, num_clusters * _MAX_POINTS_PER_CENTER)
    sample = np.sort(np.random.default_rng(seed).choice(num_rows, sample_size, replace=False))
    clustering = spherical_kmeans(
        embedded.coordinates(sample), num_clusters, num_restarts=_NUM_RESTARTS, max_points_per_center=None, seed=seed
    )
    labels = np.empty(num_rows, dtype=np.int32)
    for start in range(0, num_rows, _ROWS_PER_BLOCK):
        block = slice(start, start + _ROWS_PER_BLOCK)
        labels[block] = (embedded.coordinates(block) @ clustering.centers.T).argmax(axis=1)
    return labels


def _memberships(partitions: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Each row's clusters (N, P), numbered through all partitions, and the sizes (M,) of those that are not empty."""
    columns, sizes, offset = [], [], 0
    for labels in partitions:
        _, numbered, counts = np.unique(labels, return_inverse=True, return_counts=True)
        columns.append((numbered + offset).astype(np.int32))
        sizes.append(counts)
        offset += len(counts)
    return np.stack(columns, axis=1), np.concatenate(sizes)


def _leading_eigenvectors(matrix: csr_array, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues (count,) of a positive semidefinite matrix (M, M) and their eigenvectors (M, count).

    Clusters on which all partitions agree give one eigenvalue many times over, of which Lanczos iterations (ARPACK)
    miss copies; iterating a whole subspace finds all.
    """
    size = matrix.shape[0]
    if size <= _MAX_DENSE_CLUSTERS or 2 * count >= size:
        values, vectors = np.linalg.eigh(matrix.toarray())
        return values[-count:], vectors[:, -count:]
    num_columns = min(size, count + max(_MIN_EXTRA_COLUMNS, count // 4))
    block = np.random.default_rng(0).standard_normal((size, num_columns))
    for _ in range(_SUBSPACE_ITERATIONS):
        block, _ = np.linalg.qr(matrix @ block)
    values, rotation = np.linalg.eigh(block.T @ (matrix @ block))
    return values[-count:], block @ rotation[:, -count:]
