"""Lays a sample of the embeddings out in the plane, for the report's map."""

from dataclasses import dataclass

import numpy as np

from dxmc_core.method.work import Work

#: More points neither fit the map nor the time.
MAX_MAP_POINTS = 3000
#: t-SNE needs neighbours to speak of; with fewer points the two main axes say as much.
MIN_TSNE_POINTS = 5
#: Widths above this only slow the neighbour search down: on CLIP embeddings the layout keeps its neighbours at 50.
REDUCED_WIDTH = 50
#: 1,000 points of width 512 take 1.1 s of a core that moves 14 GB/s; for estimates only.
_BYTES_PER_POINT = 12e6


@dataclass(frozen=True)
class Projection:
    """Positions (P,) int64 of the rows that were laid out, and their places xy (P, 2) float32 in 0..1."""

    positions: np.ndarray
    xy: np.ndarray
    method: str


def project_2d(embeddings: np.ndarray, *, max_points: int = MAX_MAP_POINTS, seed: int = 0) -> Projection:
    """Lay embeddings out by t-SNE on cosine distances, started from the two main axes.

    The picture is turned so that its longest extent is horizontal. 3,000 points of width 512 take about six seconds of
    one core; the same seed on the same machine gives the same map.

    Args:
        embeddings: (N, D) float, unit norm; of more rows than `max_points` a random sample is laid out.
            `sample_for_map` makes one that every cluster has a part in.

    Raises:
        ValueError: `embeddings` is not a finite matrix.
    """
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise ValueError(f"expected finite embeddings of shape (N, D), found shape {embeddings.shape}")
    positions = np.arange(len(embeddings), dtype=np.int64)
    if len(positions) > max_points:
        positions = np.sort(np.random.default_rng(seed).choice(positions, size=max_points, replace=False))
    chosen = embeddings[positions].astype(np.float32)
    if len(chosen) < MIN_TSNE_POINTS or np.ptp(chosen, axis=0).max() < 1e-6:
        return Projection(positions, _fit_unit_square(_main_axes(chosen)), "PCA")
    return Projection(positions, _fit_unit_square(_tsne(chosen, seed=seed)), "t-SNE")


def sample_for_map(cluster_ids: np.ndarray, *, max_points: int = MAX_MAP_POINTS, seed: int = 0) -> np.ndarray:
    """Positions of a random sample, ascending, in which every cluster shows.

    Clusters get places by the square root of their size, at least one each while places last: small ones can be seen,
    and large ones still look large.

    Args:
        cluster_ids: (N,) integers.

    Returns:
        (min(N, max_points),) int64.
    """
    num_points = min(len(cluster_ids), max_points)
    if num_points == len(cluster_ids):
        return np.arange(num_points, dtype=np.int64)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(cluster_ids))
    _, codes, sizes = np.unique(cluster_ids[shuffled], return_inverse=True, return_counts=True)
    # The j-th member of a cluster of n has its turn at (j + 1/2) / sqrt(n); first members come before all others.
    by_cluster = np.argsort(codes, kind="stable")
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rank = np.empty(len(codes), dtype=np.int64)
    rank[by_cluster] = np.arange(len(codes)) - np.repeat(first, sizes)
    turn = np.where(rank == 0, 0.0, (rank + 0.5) / np.sqrt(sizes[codes]))
    return np.sort(shuffled[np.argsort(turn, kind="stable")[:num_points]])


def _tsne(embeddings: np.ndarray, *, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA  # late: it takes a second to load
    from sklearn.manifold import TSNE

    num_points = len(embeddings)
    width = min(REDUCED_WIDTH, *embeddings.shape)
    reduced = PCA(width, random_state=seed).fit_transform(embeddings)
    # Centring moved the points off the sphere: cosine distance needs a direction from every one of them.
    norms = np.linalg.norm(reduced, axis=1, keepdims=True)
    reduced = np.where(norms > 1e-6, reduced, reduced + 1e-3)
    tsne = TSNE(
        n_components=2,
        metric="cosine",
        init="pca",
        perplexity=min(30.0, (num_points - 1) / 3),
        # Coarser tree, fewer steps: half the time, same neighbours on the map.
        angle=0.7,
        max_iter=500,
        random_state=seed,
        n_jobs=1,
    )
    return tsne.fit_transform(reduced)


def _main_axes(embeddings: np.ndarray) -> np.ndarray:
    """(P, 2) float64: the two main axes, a missing second one filled with zeros."""
    centered = embeddings - embeddings.mean(axis=0) if len(embeddings) else embeddings
    axes = np.zeros((len(embeddings), 2))
    if len(embeddings) > 1:
        left, scale, _ = np.linalg.svd(centered.astype(np.float64), full_matrices=False)
        num_axes = min(2, len(scale))
        axes[:, :num_axes] = left[:, :num_axes] * scale[:num_axes]
    return axes


def _fit_unit_square(xy: np.ndarray) -> np.ndarray:
    """Turn the longest extent to the horizontal and fit the points into the unit square, shape kept."""
    turned = _main_axes(xy)
    # An axis has no sign of its own: let the longer tail point right and up.
    turned *= np.where(np.abs(turned.min(axis=0, initial=0)) > turned.max(axis=0, initial=0), -1, 1)
    low, high = turned.min(axis=0, initial=0), turned.max(axis=0, initial=0)
    extent = float((high - low).max())
    if extent < 1e-9:
        return np.full(turned.shape, 0.5, dtype=np.float32)
    return ((turned - (low + high) / 2) / extent + 0.5).astype(np.float32)


def map_work(num_points: int) -> Work:
    """What `project_2d` does, by the memory that a core would move meanwhile."""
    return Work(moved_bytes=_BYTES_PER_POINT * num_points)
