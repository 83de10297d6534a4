"""How many clusters the images fall into, judged without labels: a geometric grid of K, three scores
of each, and the three K that stand out.

Every score grows or falls with K even where there is nothing to find. So each is also taken of a reference without
clusters, a Gaussian of the same mean and covariance (the idea of the gap statistic, Tibshirani et al. 2001), and is
corrected by it as agreement is for chance: that makes different K comparable.

A sample shows no cluster of which it has next to no row. So of more rows than a sample holds, whole regions of the
space are looked at as well: a cluster lies in one region with all its rows, and how many there are in all follows from
how many there are for a number of rows. The work depends on the size of the sample and not on that of the data.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dxmc_core.method.best.whitening import (
    cluster_means,
    components_work,
    half_power_whitening,
    half_power_work,
    normalize_rows,
)
from dxmc_core.method.clusters.kmeans import kmeans_work, spherical_kmeans
from dxmc_core.method.clusters.nearest_center import nearest_centers
from dxmc_core.method.clusters.turtle_score import turtle_score
from dxmc_core.method.clusters.ward import merge_work, ward_tree
from dxmc_core.method.hyperparameters import MIN_ROWS_FOR_K
from dxmc_core.method.steps import OnStep, WorkStep, no_report
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.method.work import Work
from dxmc_core.runtime.slices import slices_of

NUM_SUGGESTIONS = 3
SCORE_NAMES = ("stability", "separability", "compactness")

#: Candidates are a third of an octave apart, a factor of 1.26.
_STEPS_PER_OCTAVE = 3
#: Smaller clusters than this, on average, are not looked for: parts of the rows cannot agree on them.
_MIN_ROWS_PER_CLUSTER = MIN_ROWS_FOR_K // 2
_KMEANS_ITERATIONS = 20
#: The rows are cut into two parts that are clustered and the rest, on which the two are compared; several times over.
_PART_SHARE = 0.4
_NUM_SPLITS = 2
_FOLDS = 5
_ROWS_PER_MICRO_CLUSTER = 3
_MAX_MICRO_CLUSTERS = 4000
_MIN_VARIANCE = 1e-9
_ROWS_PER_BLOCK = 4096
#: Suggestions nearer to each other than this say the same.
_MIN_OCTAVES_APART = 0.5
#: A local maximum below this part of the best overall score is no level of its own.
_LEAST_PEAK = 0.5
#: Of many rows so many regions are looked at, each with as many rows as the sample.
_NUM_REGIONS = 2
#: Rows are assigned to so many regions at most; of a larger one a part around one of its rows is looked at.
_MAX_REGIONS = 100
#: A region's border cuts clusters: numbers that give a region fewer than this are judged on the sample.
_MIN_CLUSTERS_IN_REGION = 8
#: Gaussian noise of 200 to 3,000 rows stayed below 0.07.
_LEAST_STABILITY = 0.1

#: Rows (n, R), an ascending grid of K and a seed to centres (K, R) for each K in turn.
Partitioner = Callable[[np.ndarray, Sequence[int], int], Iterator[np.ndarray]]


@dataclass(frozen=True)
class KScores:
    """What speaks for one number of clusters: how much better it does on the images than on the reference.

    Attributes:
        num_clusters: K.
        stability: agreement (ARI) between clusterings of two parts of the rows, on rows that neither of them saw:
            0 as on the reference, 1 perfect.
        separability: TURTLE's score as Cohen's kappa, how well a linear classifier generalises the clusters; likewise.
        compactness: nats per row that K clusters save when unseen rows are coded by them, beyond what they save on the
            reference, less the cost of K clusters.
        overall: mean of the three, each as a share of its largest value over the grid; in 0..1.
    """

    num_clusters: int
    stability: float
    separability: float
    compactness: float
    overall: float


@dataclass(frozen=True)
class KSuggestion:
    """A number of clusters worth trying, and why in a few words."""

    num_clusters: int
    overall: float
    reason: str


@dataclass(frozen=True)
class KChoice:
    """The whole of the evidence: scores by ascending K, suggestions with the best first, and the rows they rest on."""

    scores: list[KScores]
    suggestions: list[KSuggestion]
    num_rows: int

    @property
    def num_clusters(self) -> int:
        """The best suggestion."""
        return self.suggestions[0].num_clusters

    @property
    def has_structure(self) -> bool:
        """False where no K gives clusters that two halves agree on: the suggestions are then next to arbitrary."""
        return max(score.stability for score in self.scores) >= _LEAST_STABILITY


def suggest_num_clusters(
    image_embeddings: np.ndarray,
    *,
    max_rows: int = 10_000,
    max_clusters: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    partition: Partitioner | None = None,
    on_step: OnStep = no_report,
) -> KChoice:
    """Score numbers of clusters from 2 to a tenth of the rows, and suggest three. Same seed and machine, same result.

    Images are looked at under half-power whitening. A Ward tree over k-means micro-clusters gives the partition for
    every K at once; k-means for each K took longer and suggested nothing nearer (docs/RESULTS.md).

    Args:
        image_embeddings: (N, D), any float type.
        max_rows: a seeded sample of at most this many rows is scored, and of twice as many or more also two regions of
            about that size; the work depends on it and not on N, but for a pass that assigns rows to regions.
        max_clusters: end of the grid; by default, and at most, one cluster for ten rows.
        device: where k-means runs.
        partition: makes the clusters in place of the Ward trees.
        on_step: is told of every candidate that is scored, on the images and on rows without structure.

    Raises:
        ValueError: unusable rows, rows all equal, or fewer than `MIN_ROWS_FOR_K`.
    """
    if len(image_embeddings) < MIN_ROWS_FOR_K:
        raise ValueError(
            f"expected at least {MIN_ROWS_FOR_K} rows to choose a number of clusters, found {len(image_embeddings)}"
        )
    sample = _sample(image_embeddings, max_rows=max_rows, seed=seed)
    make = partition or ward_partitions(device)
    last = min(max_clusters or len(image_embeddings), len(image_embeddings) // _MIN_ROWS_PER_CLUSTER)
    num_regions = max(len(image_embeddings) // max_rows, 1)
    grid = geometric_grid(min(last, len(sample) // _MIN_ROWS_PER_CLUSTER))
    beyond = [
        num_clusters
        for num_clusters in geometric_grid(last)
        if num_regions > 1 and num_clusters >= _MIN_CLUSTERS_IN_REGION * num_regions
    ]
    if beyond:
        grid = [num_clusters for num_clusters in grid if num_clusters < beyond[0]]  # from 2 to 8 at least
    drawn = _regions(image_embeddings, sample, num_regions, max_rows=max_rows, seed=seed, device=device)
    regions = list(itertools.islice(drawn, _NUM_REGIONS if beyond else 0))
    done = itertools.count(1)
    total = 2 * (len(grid) + len(regions) * len(beyond)) * (1 + _NUM_SPLITS)

    def on_scored() -> None:
        on_step(WorkStep("scoring numbers of clusters", next(done), total, "scores"))

    found = _above_chance(_whitened(sample), grid, make, seed=seed, on_scored=on_scored)
    num_rows = len(sample)
    if regions:
        parts = []
        for rows in regions:
            share = len(rows) / len(image_embeddings)
            inside = [max(round(num_clusters * share), 1) for num_clusters in beyond]
            parts.append(_above_chance(_whitened(rows), inside, make, seed=seed, on_scored=on_scored))
            num_rows += len(rows)
        within = np.mean(parts, axis=0)
        # What is saved within regions comes on top of what the regions themselves save.
        within[2] += np.interp(math.log(num_regions), np.log(grid), found[2])
        found = np.concatenate([found, within], axis=1)
        grid = grid + beyond
    scores = _combine(grid, found)
    return KChoice(scores, _suggest(scores), num_rows)


def _above_chance(
    rows: np.ndarray, grid: Sequence[int], make: Partitioner, *, seed: int, on_scored: Callable[[], None]
) -> np.ndarray:
    """What `_measure` gives of the rows, as a share of the room that their reference leaves; nats as the difference."""
    found = _measure(rows, grid, make, seed=seed, on_scored=on_scored)
    by_chance = _measure(_structureless(rows, seed=seed), grid, make, seed=seed, on_scored=on_scored)
    room = 1 - by_chance[:2]
    shares = np.divide(found[:2] - by_chance[:2], room, out=np.zeros_like(room), where=room > 0)
    return np.concatenate([shares, found[2:] - by_chance[2:]])


def _regions(
    image_embeddings: np.ndarray, sample: np.ndarray, num_regions: int, *, max_rows: int, seed: int, device: str
) -> Iterator[np.ndarray]:
    """Unit rows (n, D) of one region after another: cells of k-means on the sample, drawn by their shares of the rows.

    A cell of copies of one image is left out.
    """
    num_regions = min(num_regions, _MAX_REGIONS)
    centers = spherical_kmeans(
        sample,
        num_regions,
        num_restarts=1,
        num_iterations=_KMEANS_ITERATIONS,
        max_points_per_center=None,
        seed=seed,
        device=device,
    ).centers
    cells = np.concatenate(
        [
            nearest_centers(unit_rows(image_embeddings[block], name="image_embeddings", first_row=block.start), centers)
            for block in slices_of(len(image_embeddings), _ROWS_PER_BLOCK)
        ]
    )
    generator = np.random.default_rng([seed, 4])
    sizes = np.bincount(cells, minlength=num_regions)
    large = np.where(sizes >= MIN_ROWS_FOR_K, sizes, 0)
    order = generator.choice(num_regions, np.count_nonzero(large), replace=False, p=large / large.sum())
    for cell in order:
        members = np.flatnonzero(cells == cell)
        if len(members) > max_rows:
            # A smaller region around one of its rows, whole, in place of a thinner one.
            around = unit_rows(image_embeddings[generator.choice(members, 1)], name="image_embeddings")
            rows = unit_rows(image_embeddings[members], name="image_embeddings")
            members = members[np.sort(np.argsort(-(rows @ around[0]), kind="stable")[:max_rows])]
        rows = unit_rows(image_embeddings[members], name="image_embeddings")
        if (rows != rows[0]).any():
            yield rows


def geometric_grid(max_clusters: int) -> list[int]:
    """Numbers of clusters from 2 to `max_clusters` (both included), a third of an octave apart."""
    octaves = math.log2(max(max_clusters, 2) / 2)
    steps = np.linspace(0, octaves, math.ceil(octaves * _STEPS_PER_OCTAVE) + 1)
    return sorted({round(2 * 2**step) for step in steps})


def _sample(image_embeddings: np.ndarray, *, max_rows: int, seed: int) -> np.ndarray:
    """Unit rows (n, D) float32 of a sample."""
    if len(image_embeddings) > max_rows:
        chosen = np.random.default_rng([seed, 0]).choice(len(image_embeddings), max_rows, replace=False)
        image_embeddings = image_embeddings[np.sort(chosen)]
    return unit_rows(image_embeddings, name="image_embeddings")


def _whitened(rows: np.ndarray) -> np.ndarray:
    """Unit rows (n, R) float32 under half-power whitening."""
    return half_power_whitening(rows).apply(rows)


def _structureless(rows: np.ndarray, *, seed: int) -> np.ndarray:
    """Unit rows (n, R) drawn from a Gaussian of the same mean and covariance."""
    mean = rows.mean(axis=0, dtype=np.float64)
    centered = rows - mean.astype(np.float32)
    variances, axes = np.linalg.eigh((centered.T @ centered).astype(np.float64) / len(rows))
    draws = np.random.default_rng([seed, 1]).normal(size=rows.shape) * np.sqrt(np.maximum(variances, 0))
    return normalize_rows((mean + draws @ axes.T).astype(np.float32))


def ward_partitions(device: str = "cpu") -> Partitioner:
    """The cuts of one Ward tree over micro-clusters, which count by their rows."""

    def partitions(rows: np.ndarray, grid: Sequence[int], seed: int) -> Iterator[np.ndarray]:
        num_micro = _num_micro_clusters(len(rows), grid)
        micro = spherical_kmeans(
            rows,
            num_micro,
            num_restarts=1,
            num_iterations=_KMEANS_ITERATIONS,
            max_points_per_center=None,
            seed=seed,
            device=device,
        )
        sizes = np.bincount(micro.labels, minlength=num_micro)
        filled = np.flatnonzero(sizes)
        tree = ward_tree(micro.centers[filled], sizes[filled])
        for num_clusters in grid:
            parts = np.zeros(num_micro, dtype=np.int64)
            parts[filled] = tree.cut(min(num_clusters, tree.num_points))
            yield normalize_rows(cluster_means(rows, parts[micro.labels], num_clusters))

    return partitions


def _num_micro_clusters(num_rows: int, grid: Sequence[int]) -> int:
    return max(grid[-1], min(num_rows // _ROWS_PER_MICRO_CLUSTER, _MAX_MICRO_CLUSTERS))


def _measure(
    rows: np.ndarray, grid: Sequence[int], make: Partitioner, *, seed: int, on_scored: Callable[[], None]
) -> np.ndarray:
    """Stability, separability and nats per row saved against one cluster: (3, len(grid)) float64."""
    from sklearn.metrics import adjusted_rand_score  # late: it takes a second to load

    seeds = np.random.SeedSequence([seed, 2]).generate_state(1 + 2 * _NUM_SPLITS).tolist()
    measured = np.zeros((3, len(grid)))
    for place, centers in enumerate(make(rows, grid, seeds[0])):
        labels = nearest_centers(rows, centers)
        measured[1, place] = turtle_score(rows, labels, folds=_FOLDS, seed=seed, corrected_for_chance=True)
        on_scored()
    part_size = int(_PART_SHARE * len(rows))
    for split in range(_NUM_SPLITS):
        order = np.random.default_rng([seed, 3, split]).permutation(len(rows))
        first, second, rest = (
            rows[order[:part_size]],
            rows[order[part_size : 2 * part_size]],
            rows[order[2 * part_size :]],
        )
        unseen = rows[order[part_size:]]
        one_cluster = _code_length(first, np.zeros(len(first), dtype=np.int64), 1, unseen)
        pair = zip(make(first, grid, seeds[1 + 2 * split]), make(second, grid, seeds[2 + 2 * split]), strict=True)
        for place, (centers, others) in enumerate(pair):
            agreement = adjusted_rand_score(nearest_centers(rest, centers), nearest_centers(rest, others))
            saved = one_cluster - _code_length(first, nearest_centers(first, centers), len(centers), unseen)
            measured[::2, place] += np.array([agreement, saved]) / _NUM_SPLITS
            on_scored()
    return measured


def _code_length(train: np.ndarray, labels: np.ndarray, num_clusters: int, unseen: np.ndarray) -> float:
    """Nats a row, up to a constant, that unseen rows take: the cluster (by its size) and the place within it.

    Clusters are Gaussians with one diagonal covariance for all. Their means are the posterior ones under a Gaussian of
    means (empirical Bayes, each direction for itself), so a direction in which clusters do not differ costs nothing.
    """
    sizes = np.bincount(labels, minlength=num_clusters).astype(np.float64)
    num_filled = np.count_nonzero(sizes)
    mean = train.mean(axis=0, dtype=np.float64)
    means = np.where(sizes[:, None] > 0, cluster_means(train, labels, num_clusters), mean)
    within = ((train - means[labels]) ** 2).sum(axis=0) / max(len(train) - num_filled, 1)
    within = np.maximum(within, _MIN_VARIANCE)
    between = (sizes[:, None] * (means - mean) ** 2).sum(axis=0) / len(train) - within * num_filled / len(train)
    between = np.maximum(between, 1e-9 * within)
    uncertainty = 1 / (sizes[:, None] / within + 1 / between)
    places = mean + sizes[:, None] * uncertainty / within * (means - mean)
    variances = within + uncertainty
    log_shares = np.log((sizes + 0.5) / (sizes + 0.5).sum())
    constants = log_shares - 0.5 * (places**2 / variances + np.log(variances)).sum(axis=1)
    weights = np.concatenate([places / variances, -0.5 / variances], axis=1)
    lengths = [
        -(np.concatenate([block, block**2], axis=1) @ weights.T + constants).max(axis=1).sum()
        for block in np.array_split(unseen.astype(np.float64), max(len(unseen) // _ROWS_PER_BLOCK, 1))
    ]
    return float(sum(lengths) / len(unseen))


def _combine(grid: Sequence[int], above_chance: np.ndarray) -> list[KScores]:
    """Scores from what `_above_chance` gives, (3, len(grid)).

    A finer partition always codes better where clusters have parts of their own. So the cost of a cluster is what the
    finest clusters of the grid, too small to be looked for, save on average; what is left is largest at the elbow.
    """
    saved = above_chance[2]
    compactness = saved - saved[-1] * (np.array(grid) / grid[-1])
    columns = np.stack([*above_chance[:2], compactness])
    best = columns.max(axis=1, keepdims=True)
    shares = np.where(best > 0, np.maximum(columns, 0) / np.where(best > 0, best, 1), 0)
    rows = zip(grid, *columns.tolist(), shares.mean(axis=0).tolist(), strict=True)
    return [KScores(*row) for row in rows]


def _suggest(scores: Sequence[KScores]) -> list[KSuggestion]:
    """Three K that are well apart, the best first.

    Local maxima of the overall score come before what lies on a slope, unless they are far below the best: clusters
    within clusters give a maximum for each level.
    """
    overall = np.array([score.overall for score in scores])
    padded = np.concatenate([[-np.inf], overall, [-np.inf]])
    is_peak = (overall >= padded[:-2]) & (overall >= padded[2:]) & (overall >= _LEAST_PEAK * overall.max())
    chosen: list[int] = []
    for place in np.lexsort((-overall, ~is_peak)).tolist():
        apart = [abs(math.log2(scores[place].num_clusters / scores[other].num_clusters)) for other in chosen]
        if len(chosen) < NUM_SUGGESTIONS and all(octaves >= _MIN_OCTAVES_APART for octaves in apart):
            chosen.append(place)
    chosen.sort(key=lambda place: -overall[place])
    return [KSuggestion(scores[place].num_clusters, scores[place].overall, _reason(scores, place)) for place in chosen]


def _reason(scores: Sequence[KScores], place: int) -> str:
    """How near each score comes to its best."""
    found = []
    for name in SCORE_NAMES:
        best = max(getattr(score, name) for score in scores)
        share = max(getattr(scores[place], name), 0) / best if best > 0 else 0
        found.append(f"best {name}" if share == 1 else f"{name} {share:.0%} of the best")
    return ", ".join(found)


def suggest_work(num_images: int, width: int, *, max_rows: int = 10_000, max_clusters: int | None = None) -> Work:
    """What `suggest_num_clusters` does with so many images."""
    sample = max(min(num_images, max_rows), MIN_ROWS_FOR_K)
    work = _scoring_work(sample, width, max_clusters)
    if num_images < 2 * max_rows:
        return work
    num_regions = num_images // max_rows
    num_cells = min(num_regions, _MAX_REGIONS)
    to_regions = Work(2.0 * width * num_cells * (num_images + _KMEANS_ITERATIONS * sample), 2.0 * width * num_images)
    within = None if max_clusters is None else max(max_clusters // num_regions, 2)
    return work + to_regions + _scoring_work(sample, width, within) * _NUM_REGIONS


def _scoring_work(num_rows: int, width: int, max_clusters: int | None) -> Work:
    grid = geometric_grid(min(max_clusters or num_rows, num_rows // _MIN_ROWS_PER_CLUSTER))
    part = int(_PART_SHARE * num_rows)
    trees = _tree_work(num_rows, width, grid) + _tree_work(part, width, grid) * (2 * _NUM_SPLITS)
    # Gram matrices and a solution for each fold and K; labels and their classifiers; code lengths in double precision.
    folds = Work(2.0 * width**2 * num_rows + 2.0 * _FOLDS * width**3) * len(grid)
    labels = Work(2.0 * width * sum(grid) * (2 * num_rows + 2 * _NUM_SPLITS * num_rows))
    lengths = Work(2.0 * 2 * 2 * width * sum(grid) * (num_rows - part) * _NUM_SPLITS)
    return components_work(num_rows, width) + half_power_work(num_rows, width) + (trees + folds + labels + lengths) * 2


def _tree_work(num_rows: int, width: int, grid: Sequence[int]) -> Work:
    num_micro = _num_micro_clusters(num_rows, grid)
    micro_clusters = kmeans_work(
        num_rows, width, num_micro, num_restarts=1, num_iterations=_KMEANS_ITERATIONS, max_points_per_center=None
    )
    return micro_clusters + merge_work(num_micro, width, 1)
