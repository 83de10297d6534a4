"""Linear maps that give every direction of an embedding space the variance it deserves.

CLIP embeddings lie in a narrow cone: a few directions hold most of the variance, and little of it tells clusters apart.
The recipe `best` looks at images through these maps before it smooths and clusters them, and its head starts from one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.method.work import Work
from dxmc_core.runtime.slices import slices_of

#: Principal components kept: with 128 of them ACC on CLIP embeddings was half a point lower, with all of them equal.
MAX_COMPONENTS = 256

#: Components with less than this share of the largest variance are rounding noise (few rows, zero padding).
_MIN_RELATIVE_VARIANCE = 1e-6

#: Share of an isotropic scatter mixed into an estimated one. ACC on CLIP embeddings hardly moved from 0.05 to 0.5.
_SHRINKAGE = 0.1

#: A scatter below this share of the variances is rounding noise: every row has copies of itself for neighbours.
_MIN_RELATIVE_SCATTER = 1e-6

_ROWS_PER_BLOCK = 16_384


@dataclass(frozen=True)
class WhiteningMap:
    """x -> normalise((x - mean) @ matrix).

    Attributes:
        mean: (D,) float32.
        matrix: (D, R) float32.
    """

    mean: np.ndarray
    matrix: np.ndarray

    def apply(self, rows: np.ndarray, *, device: str = "cpu") -> np.ndarray:
        """Unit rows (n, R) float32 of rows (n, D); a row at the mean itself goes to the first axis."""
        mapped = np.empty((len(rows), self.matrix.shape[1]), dtype=np.float32)
        matrix = torch.from_numpy(self.matrix).to(device)
        for block in slices_of(len(rows), _ROWS_PER_BLOCK):
            mapped[block] = (_on(device, rows[block].astype(np.float32) - self.mean) @ matrix).cpu().numpy()
        return normalize_rows(mapped)

    def of_scaled_columns(self, scales: np.ndarray) -> "WhiteningMap":
        """The map of rows that are to be multiplied by `scales` (D,) before this one is applied."""
        mean = np.divide(self.mean, scales, out=np.zeros_like(self.mean), where=scales > 0)
        return WhiteningMap(mean, self.matrix * scales[:, None])


@dataclass(frozen=True)
class PrincipalComponents:
    """Mean (D,) float32, orthonormal directions (D, R) float64 and their variances (R,), largest first.

    Every map of the same rows starts from them, and finding them takes most of its time where there are few rows.
    """

    mean: np.ndarray
    basis: np.ndarray
    variances: np.ndarray

    @classmethod
    def of(cls, embeddings: np.ndarray, *, device: str = "cpu") -> "PrincipalComponents":
        """Those of unit rows (N, D), at most `MAX_COMPONENTS`.

        Raises:
            ValueError: all rows are equal.
        """
        mean = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
        covariance = np.zeros((embeddings.shape[1],) * 2)
        for block in _centered_blocks(embeddings, mean):
            rows = _on(device, block)
            covariance += (rows.T @ rows).cpu().numpy()
        variances, basis = np.linalg.eigh(covariance / len(embeddings))
        kept = np.flatnonzero(variances > max(_MIN_RELATIVE_VARIANCE * variances[-1], 1e-12))[::-1][:MAX_COMPONENTS]
        if len(kept) == 0:
            found = len(embeddings)
            raise ValueError(f"expected rows that differ, found {found} equal ones: there is nothing to cluster")
        return cls(mean, basis[:, kept], variances[kept])


def half_power_whitening(
    embeddings: np.ndarray, *, components: PrincipalComponents | None = None, device: str = "cpu"
) -> WhiteningMap:
    """Principal components scaled by variance^(-1/4), half the way from PCA to full whitening.

    Full whitening blows up directions without content where there are few rows.

    Args:
        embeddings: (N, D) unit rows, N >= 2.
        components: theirs, where they are known.
    """
    components = components or PrincipalComponents.of(embeddings, device=device)
    return WhiteningMap(components.mean, (components.basis * components.variances**-0.25).astype(np.float32))


def neighbor_whitening(
    embeddings: np.ndarray,
    neighbors: np.ndarray,
    *,
    components: PrincipalComponents | None = None,
    device: str = "cpu",
) -> WhiteningMap:
    """The map under which images differ from their near neighbours alike in all directions.

    Neighbours mostly share a cluster, so their differences estimate the scatter within clusters without labels
    (within-class covariance normalisation with neighbours for classes).

    Args:
        embeddings: (N, D) unit rows, N >= 2.
        neighbors: (N, k) positions of near neighbours.
        components: of the embeddings, where they are known.
    """
    components = components or PrincipalComponents.of(embeddings, device=device)
    return _whiten_scatter(components, _neighbor_scatter(embeddings, neighbors, components.mean, device))


def cluster_whitening(
    embeddings: np.ndarray,
    labels: np.ndarray,
    num_clusters: int,
    *,
    components: PrincipalComponents | None = None,
    device: str = "cpu",
) -> WhiteningMap:
    """The map under which images differ from their cluster's mean alike in all directions (Fisher's discriminant).

    Args:
        embeddings: (N, D) unit rows, N >= 2.
        labels: (N,) clusters 0..K-1.
        components: of the embeddings, where they are known.
    """
    components = components or PrincipalComponents.of(embeddings, device=device)
    return _whiten_scatter(components, _cluster_scatter(embeddings, labels, num_clusters, device))


def normalize_rows(rows: np.ndarray) -> np.ndarray:
    """Rows (n, R) float32 brought to unit norm in place; a zero row becomes the first axis."""
    norms = np.linalg.norm(rows, axis=1)
    zero = norms < 1e-12
    rows[zero, 0], norms[zero] = 1.0, 1.0
    rows /= norms[:, None]
    return rows


def _whiten_scatter(components: PrincipalComponents, scatter: np.ndarray) -> WhiteningMap:
    """Inverse square root, on the principal components, of a scatter (D, D) shrunk towards an isotropic one."""
    inside = components.basis.T @ scatter @ components.basis
    width = len(inside)
    mean_scatter = np.trace(inside) / width
    if mean_scatter <= _MIN_RELATIVE_SCATTER * components.variances.mean():
        # Every image is a copy of its neighbours, so the variances themselves are all there is.
        inside, mean_scatter = np.diag(components.variances), components.variances.mean()
    variances, axes = np.linalg.eigh((1 - _SHRINKAGE) * inside + _SHRINKAGE * mean_scatter * np.eye(width))
    variances = np.maximum(variances, 1e-3 * _SHRINKAGE * mean_scatter)
    matrix = components.basis @ (axes * variances**-0.5) @ axes.T
    return WhiteningMap(components.mean, matrix.astype(np.float32))


def _neighbor_scatter(embeddings: np.ndarray, neighbors: np.ndarray, mean: np.ndarray, device: str) -> np.ndarray:
    """Half the mean outer product (D, D) of the differences between rows and their neighbours.

    Expanded into products of blocks, so that the N k differences never exist.
    """
    num_rows, num_neighbors = neighbors.shape
    times_chosen = np.bincount(neighbors.ravel(), minlength=num_rows)
    scatter = np.zeros((embeddings.shape[1],) * 2)
    for block in slices_of(num_rows, _ROWS_PER_BLOCK // 4):
        centered = embeddings[block].astype(np.float32) - mean
        neighbor_sums = np.zeros_like(centered)
        for column in neighbors[block].T:
            neighbor_sums += embeddings[column].astype(np.float32) - mean
        rows = _on(device, centered)
        own = (rows * _on(device, (num_neighbors + times_chosen[block, None]).astype(np.float32))).T @ rows
        crossed = rows.T @ _on(device, neighbor_sums)
        scatter += (own - crossed - crossed.T).cpu().numpy()
    return scatter / (2 * num_rows * num_neighbors)


def _cluster_scatter(embeddings: np.ndarray, labels: np.ndarray, num_clusters: int, device: str) -> np.ndarray:
    """Mean outer product (D, D) of the differences between rows and the mean of their cluster."""
    means = cluster_means(embeddings, labels, num_clusters)
    scatter = np.zeros((embeddings.shape[1],) * 2)
    for block in slices_of(len(embeddings), _ROWS_PER_BLOCK):
        differences = _on(device, embeddings[block].astype(np.float32) - means[labels[block]])
        scatter += (differences.T @ differences).cpu().numpy()
    return scatter / len(embeddings)


def cluster_means(rows: np.ndarray, labels: np.ndarray, num_clusters: int) -> np.ndarray:
    """Means (K, R) float32 of the rows of every cluster; zero for one without rows."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels, minlength=num_clusters)
    means = np.zeros((num_clusters, rows.shape[1]), dtype=np.float32)
    for cluster, members in enumerate(np.split(order, np.cumsum(sizes)[:-1])):
        if len(members):
            means[cluster] = rows[members].mean(axis=0, dtype=np.float64)
    return means


def _centered_blocks(embeddings: np.ndarray, mean: np.ndarray) -> Iterator[np.ndarray]:
    for block in slices_of(len(embeddings), _ROWS_PER_BLOCK):
        yield unit_rows(embeddings[block], name="embeddings", first_row=block.start) - mean


def _on(device: str, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(rows).to(device)


def components_work(num_rows: int, width: int) -> Work:
    """What finding principal components does; eigenvectors are counted as 10 D^3."""
    return Work(2.0 * num_rows * width**2 + 10.0 * width**3)


def half_power_work(num_rows: int, width: int) -> Work:
    """What `half_power_whitening` does with known components and then its map for all rows."""
    return Work(2.0 * num_rows * width * min(MAX_COMPONENTS, width))


def neighbor_work(num_rows: int, width: int, num_neighbors: int) -> Work:
    """What `neighbor_whitening` does with known components and then its map: two products, all neighbours gathered."""
    gathered = Work(4.0 * num_rows * width**2, 4.0 * num_rows * width * num_neighbors)
    return half_power_work(num_rows, width) + gathered + _scatter_work(width)


def cluster_work(num_rows: int, width: int) -> Work:
    """What `cluster_whitening` does with known components and then its map: one product."""
    return half_power_work(num_rows, width) + Work(2.0 * num_rows * width**2) + _scatter_work(width)


def _scatter_work(width: int) -> Work:
    """What `_whiten_scatter` does."""
    inner = min(MAX_COMPONENTS, width)
    return Work(2.0 * width**2 * inner + 10.0 * inner**3)
