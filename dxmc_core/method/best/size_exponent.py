"""How much the sizes of clusters count when micro-clusters are joined, decided without labels.

Ward's criterion makes clusters of like size, which is right for most data and cuts up classes of very different
sizes. Joining whatever lies nearest (`merge_points` with a smaller exponent) keeps large classes whole, and elsewhere
joins what belongs apart and spends clusters on stray rows. What tells the two cases apart is how well one half of the
rows agrees with the other.
"""

import math
from collections.abc import Mapping

import numpy as np

from dxmc_core.method.best.whitening import cluster_means
from dxmc_core.method.clusters.kmeans import MAX_FLAT, kmeans_bytes, kmeans_work, parts_with_counts, spherical_kmeans
from dxmc_core.method.clusters.nearest_center import nearest_centers
from dxmc_core.method.clusters.ward import merge_bytes, merge_points, merge_work
from dxmc_core.method.work import Work

#: Micro-clusters per cluster: with half as many ACC on CLIP embeddings fell by 0.4, with more nothing changed.
_MICRO_CLUSTERS_PER_CLUSTER = 4
_MIN_ROWS_PER_MICRO_CLUSTER = 4
_ITERATIONS = 10
_POINTS_PER_CENTER = 64

#: Ward's exponent, and what it is left for.
WARD = 1.0
EXPONENTS = (WARD, 0.5, 0.25, 0.0)

#: Another exponent than Ward's must agree with itself this well, by that much more than Ward's, and the best of them
#: take away a third of Ward's disagreement. Of those that agree as well as the best, but for that gain, the smallest is
#: taken: by the best alone some seeds of caltech101 ended at 0.25, with an ARI of 71 for 85 (docs/RESULTS.md).
_MIN_AGREEMENT, _MIN_GAIN, _MAX_SHARE_OF_DISAGREEMENT = 0.95, 0.01, 2 / 3
#: Agreement over many clusters varies little from split to split, over a few it varies much.
_FEW_CLUSTERS, _MANY_CLUSTERS = 20, 500
#: Fewer rows per cluster say nothing in halves, and more rows than these are not compared, for their time; nor are more
#: clusters, which keep Ward's exponent.
_MIN_ROWS_PER_CLUSTER, _MAX_ROWS_PER_CLUSTER, _MAX_ROWS, _MAX_CLUSTERS = 8, 32, 20_000, 2_000
_NUM_PERMUTATIONS = 3


def micro_clusters(rows: np.ndarray, num_clusters: int, *, seed: int, device: str = "cpu") -> tuple[np.ndarray, ...]:
    """Quick k-means into several times as many clusters as are wanted in the end.

    Args:
        rows: (N, R) float32 unit rows.

    Returns:
        Labels (N,) of M micro-clusters, their means (M, R) float32 and their sizes (M,).
    """
    count = num_micro_clusters(len(rows), num_clusters)
    if count <= MAX_FLAT:
        found = _quick_kmeans(rows, count, seed=seed, device=device)
    else:
        found = _two_level_kmeans(rows, count, seed=seed, device=device)
    _, labels, sizes = np.unique(found, return_inverse=True, return_counts=True)
    return labels, cluster_means(rows, labels, len(sizes)), sizes


def _two_level_kmeans(rows: np.ndarray, count: int, *, seed: int, device: str) -> np.ndarray:
    """Labels (N,) as of `spherical_kmeans` in two levels, but by the centres of a row's own part alone."""
    parts = _quick_kmeans(rows, math.isqrt(count), seed=seed, device=device)
    labels, num_found = np.empty(len(rows), dtype=np.int64), 0
    for members, wanted in parts_with_counts(parts, count):
        labels[members] = num_found + _quick_kmeans(rows[members], wanted, seed=seed, device=device)
        num_found += wanted
    return labels


def _quick_kmeans(rows: np.ndarray, num_clusters: int, *, seed: int, device: str) -> np.ndarray:
    return spherical_kmeans(
        rows,
        num_clusters,
        num_restarts=1,
        num_iterations=_ITERATIONS,
        max_points_per_center=_POINTS_PER_CENTER,
        seed=seed,
        device=device,
    ).labels


def choose_size_exponent(
    rows: np.ndarray, num_clusters: int, *, seed: int, device: str = "cpu"
) -> tuple[float, dict[float, float]]:
    """The exponent for `merge_points`, and each one's agreement, empty where there are too few rows to tell.

    Random halves of the rows are clustered apart and each is applied to all rows; the agreement is their adjusted
    mutual information, the mean of several splits. Halves share no row: a cluster of one stray row is not found again.

    Args:
        rows: (N, R) float32 unit rows of the joined space.
    """
    count = _num_rows_compared(len(rows), num_clusters)
    if count == 0:
        return WARD, {}
    rng = np.random.default_rng([seed, 4])
    if count < len(rows):
        rows = rows[np.sort(rng.choice(len(rows), count, replace=False))]
    agreements: dict[float, list[float]] = {exponent: [] for exponent in EXPONENTS}
    for _ in range(_num_splits(num_clusters)):
        order = rng.permutation(len(rows))
        halves = order[: len(rows) // 2], order[len(rows) // 2 :]
        first, second = (
            _partitions(rows, half, num_clusters, seed=int(rng.integers(2**31)), device=device) for half in halves
        )
        for exponent in EXPONENTS:
            agreements[exponent].append(adjusted_mutual_information(first[exponent], second[exponent], rng))
        if num_clusters > _MANY_CLUSTERS and agreements[WARD][-1] > 1 - _MIN_GAIN:  # nothing can agree so much better
            break
    means = {exponent: float(np.mean(found)) for exponent, found in agreements.items()}
    return _decide(means), means


def _num_splits(num_clusters: int) -> int:
    if num_clusters <= _FEW_CLUSTERS:
        return 10
    return 5 if num_clusters <= _MANY_CLUSTERS else 2


def _num_rows_compared(num_rows: int, num_clusters: int) -> int:
    """0 where the exponents are not compared."""
    if num_rows < _MIN_ROWS_PER_CLUSTER * num_clusters or num_clusters > _MAX_CLUSTERS:
        return 0
    return min(num_rows, max(_MAX_ROWS, _MAX_ROWS_PER_CLUSTER * num_clusters))


def _decide(agreements: Mapping[float, float]) -> float:
    ward, most = agreements[WARD], max(agreements.values())
    if 1 - most > _MAX_SHARE_OF_DISAGREEMENT * (1 - ward):
        return WARD
    least = max(_MIN_AGREEMENT, ward + _MIN_GAIN, most - _MIN_GAIN)
    return min((exponent for exponent in EXPONENTS if agreements[exponent] >= least), default=WARD)


def _partitions(
    rows: np.ndarray, half: np.ndarray, num_clusters: int, *, seed: int, device: str
) -> dict[float, np.ndarray]:
    """For each exponent, labels of all rows by the clusters of one half."""
    _, means, sizes = micro_clusters(rows[np.sort(half)], num_clusters, seed=seed, device=device)
    nearest = nearest_centers(rows, means, offsets=(means**2).sum(axis=1) / 2, device=device)
    return {
        exponent: merge_points(means, sizes, min(num_clusters, len(sizes)), size_exponent=exponent, device=device)[
            nearest
        ]
        for exponent in EXPONENTS
    }


def adjusted_mutual_information(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> float:
    """Mutual information of two partitions (N,) adjusted for chance, at most 1.

    What chance gives is measured on shuffled labels: the exact expectation, as scikit-learn computes it, takes time in
    the square of the number of clusters.
    """
    from sklearn.metrics import mutual_info_score  # late: it takes a second to load

    shuffled = [mutual_info_score(first, rng.permutation(second)) for _ in range(_NUM_PERMUTATIONS)]
    by_chance = float(np.mean(shuffled))
    most = (mutual_info_score(first, first) + mutual_info_score(second, second)) / 2
    if most - by_chance <= 1e-12:
        return 1.0
    return float((mutual_info_score(first, second) - by_chance) / (most - by_chance))


def num_micro_clusters(num_rows: int, num_clusters: int) -> int:
    """How many there are at most: 4 K where the rows suffice, never fewer than K, and every row where there are few."""
    most = _MICRO_CLUSTERS_PER_CLUSTER * num_clusters
    if num_rows <= most:
        # K means of three rows each lost 2 points of NMI on CLIP embeddings to joining the rows themselves.
        return num_rows
    return max(min(most, num_rows // _MIN_ROWS_PER_MICRO_CLUSTER), num_clusters)


def micro_clusters_work(num_rows: int, width: int, num_clusters: int) -> Work:
    """What `micro_clusters` does."""
    count = num_micro_clusters(num_rows, num_clusters)
    if count <= MAX_FLAT:
        return _quick_work(num_rows, width, count)
    parts = math.isqrt(count)
    return _quick_work(num_rows, width, parts) + _quick_work(num_rows // parts, width, count // parts) * parts


def _quick_work(num_rows: int, width: int, num_clusters: int) -> Work:
    return kmeans_work(
        num_rows,
        width,
        num_clusters,
        num_restarts=1,
        num_iterations=_ITERATIONS,
        max_points_per_center=_POINTS_PER_CENTER,
    )


def joining_bytes(num_rows: int, width: int, num_clusters: int) -> float:
    """The most memory that `micro_clusters` and joining them hold at a time, beside the rows."""
    finer = num_micro_clusters(num_rows, num_clusters)
    flat = finer if finer <= MAX_FLAT else math.isqrt(finer)
    return max(kmeans_bytes(num_rows, width, flat, max_points_per_center=_POINTS_PER_CENTER), merge_bytes(finer, width))


def choice_work(num_rows: int, width: int, num_clusters: int) -> Work:
    """What `choose_size_exponent` does."""
    count = _num_rows_compared(num_rows, num_clusters)
    if count == 0:
        return Work()
    num_rows = count
    half = num_rows // 2
    finer = num_micro_clusters(half, num_clusters)
    a_half = micro_clusters_work(half, width, num_clusters) + Work(2.0 * width * num_rows * finer)
    a_half += merge_work(finer, width, num_clusters) * len(EXPONENTS)
    return a_half * (2 * _num_splits(num_clusters))
