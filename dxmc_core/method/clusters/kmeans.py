"""Spherical k-means: the image centres of the semantic space and the methods kmeans and concat_kmeans.

Lloyd's algorithm as matrix products over torch, on CPU or GPU. Better seeds and a race of the restarts reach the
objective of the reference setting (faiss, 10 restarts of 300 iterations) in a fraction of its iterations.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from dxmc_core.method.row_source import ArrayRows, RowSource
from dxmc_core.method.steps import OnStep, WorkStep, no_report
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.method.work import Work

#: Seeds are drawn from a sample of this many rows; on CLIP embeddings more made no difference in the final objective.
_SEEDING_ROWS_PER_CENTER = 32
_MIN_SEEDING_ROWS = 4096
#: Up to here all cosines of the sample are computed once for all restarts (256 MiB).
_MAX_SEEDING_ROWS = 8192
#: The sample grows beyond that only with very many centres, and its cosines are computed candidate by candidate.
_LEAST_SEEDING_ROWS_PER_CENTER = 4

#: More clusters than these start from centres found in two levels, which takes the root of the time.
MAX_FLAT = 2_048

#: All restarts run this long before the weaker ones stop. Running all to the end gained at most 2e-4 in the objective
#: on CLIP embeddings; stopping at 6 iterations and 3 finalists lost up to 8e-4 with few clusters.
_TRIAL_ITERATIONS = 10
_FINALISTS = 4
#: So many more bring a finalist to its end on CLIP embeddings; for estimates only.
_TYPICAL_FINAL_ITERATIONS = 15
#: That long a sample of this many rows per centre is enough, which matters only for data larger than that.
_TRIAL_ROWS_PER_CENTER = 128
_MIN_TRIAL_ROWS = 32_768

#: An iteration that gains less than this share of the remaining mean distance 1 - cosine ends a restart ...
_RESTART_TOLERANCE = 1e-5
#: ... and the winner goes on to this one, where next to no row changes its centre any more.
_FINAL_TOLERANCE = 1e-6

#: A row this near its own centre is no seed for an empty cluster: only duplicates of centres are left.
_MIN_REFILL_DISTANCE = 1e-6

_SCORES_PER_BLOCK = 2**24


@dataclass(frozen=True)
class KMeansResult:
    """A clustering of N rows.

    Attributes:
        centers: (K, D) float32, unit rows: normalised (weighted) mean of the members; always finite.
        labels: (N,) int32 in 0..K-1.
        objective: (weighted) mean cosine between rows and their centres, in -1..1; higher is better.
        num_trained: rows that the centres were trained on: N, or the size of the sample.
        num_empty: clusters without members, which happens only with fewer distinct rows than K. Their centres repeat
            rows that others own.
    """

    centers: np.ndarray
    labels: np.ndarray
    objective: float
    num_trained: int
    num_empty: int


def spherical_kmeans(
    embeddings: np.ndarray | RowSource,
    num_clusters: int,
    *,
    num_restarts: int = 10,
    num_iterations: int = 300,
    max_points_per_center: int | None = 256,
    weights: np.ndarray | None = None,
    seed: int = 0,
    device: str = "cpu",
    on_step: OnStep = no_report,
) -> KMeansResult:
    """Cluster rows by cosine.

    The reference (the DXMC authors' code) runs faiss for 300 iterations from each of 10 random starts. Here every
    restart starts from greedy k-means++ seeds and runs 10 iterations, the best four run until they gain next to
    nothing, the best one until rows stop moving: the same objective or a better one in about 160 iterations.
    `num_iterations` is only a cap. Same seed and machine, same result.

    More than 2,048 clusters start in two levels instead: ten iterations towards as many parts as each will have
    clusters on the mean, and ten within each part. With no more than ten iterations asked for, that is all.

    Args:
        embeddings: (N, D), rows normalised here, in float32; or where such rows can be read from, block by block, so
            that only the training sample has to fit in memory.
        max_points_per_center: train on a sample of at most this many rows per centre, drawn without replacement (faiss'
            default); None trains on all rows. Labels and centres always cover all rows.
        weights: (N,) finite, not negative: what a row counts in means, seeds and objective. A row of weight zero is
            labelled but moves nothing.
        device: where the matrix products run: "cpu", "cuda", "cuda:1".
        on_step: told of every iteration, and of every block of rows that is labelled in the end.

    Returns:
        On a sample, and wherever `num_iterations` cut the search short, centres are one mean step ahead of labels.

    Raises:
        ValueError: fewer rows (of positive weight) than clusters, unusable rows or weights, or a count below 1.
    """
    _check_counts(num_clusters=num_clusters, num_restarts=num_restarts, num_iterations=num_iterations)
    num_clusters = int(num_clusters)  # torch takes no NumPy integers
    source = ArrayRows(embeddings) if isinstance(embeddings, np.ndarray) else embeddings
    weights = _checked_weights(weights, len(source), num_clusters)
    sample = _training_sample(weights, num_clusters, max_points_per_center, np.random.default_rng([seed, 0]))
    taken = source.take(np.arange(len(source)) if sample is None else sample)
    rows = torch.from_numpy(unit_rows(taken, name="embeddings")).to(device)
    del taken
    row_weights = torch.from_numpy(weights if sample is None else weights[sample]).to(device)
    centers = _find_centers(rows, row_weights, num_clusters, num_restarts, num_iterations, seed, on_step)
    blocks = _blocks_of(rows, num_clusters) if sample is None else _converted_blocks(source, num_clusters, device)
    return _label_all(blocks, centers, weights, num_trained=len(rows), on_step=on_step)


def concatenate_modalities(image_embeddings: np.ndarray, text_counterparts: np.ndarray) -> np.ndarray:
    """Rows [v, t] / sqrt(2) (N, 2 D) float32 of unit norm, for `concat_kmeans` (TAC's training-free baseline).

    Both halves are normalised first, so both modalities weigh the same. The cosine of two such rows is the mean of
    the cosines of their halves.

    Raises:
        ValueError: different numbers of rows, or unusable rows.
    """
    if len(image_embeddings) != len(text_counterparts):
        raise ValueError(
            f"expected a text counterpart for each image, found {len(image_embeddings)} images and "
            f"{len(text_counterparts)} text counterparts"
        )
    halves = [
        unit_rows(image_embeddings, name="image_embeddings"),
        unit_rows(text_counterparts, name="text_counterparts"),
    ]
    joined = np.concatenate(halves, axis=1)
    joined *= np.float32(math.sqrt(0.5))
    return joined


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"expected {name} of at least 1, found {count}")


def _checked_weights(weights: np.ndarray | None, num_rows: int, num_clusters: int) -> np.ndarray:
    if weights is None:
        weights = np.ones(num_rows, dtype=np.float32)
    if weights.shape != (num_rows,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"expected weights of shape ({num_rows},), finite and not negative, found {weights.shape}")
    usable = int((weights > 0).sum())
    if usable < num_clusters:
        counted = "rows" if usable == num_rows else "rows of positive weight"
        raise ValueError(f"expected at least as many {counted} as clusters, found {usable} for {num_clusters} clusters")
    return weights.astype(np.float32)


def _training_sample(
    weights: np.ndarray, num_clusters: int, max_points_per_center: int | None, rng: np.random.Generator
) -> np.ndarray | None:
    """Ascending positions of the rows to train on, or None for all of them."""
    usable = np.flatnonzero(weights)
    if max_points_per_center is None:
        size = len(usable)
    else:
        _check_counts(max_points_per_center=max_points_per_center)
        size = min(len(usable), num_clusters * max_points_per_center)
    if size == len(weights):
        return None
    return np.sort(rng.choice(usable, size, replace=False))


def _find_centers(
    rows: Tensor,
    weights: Tensor,
    num_clusters: int,
    num_restarts: int,
    num_iterations: int,
    seed: int,
    on_step: OnStep,
) -> Tensor:
    """Centres (K, D), from a start in two levels where there are many."""
    if num_clusters <= MAX_FLAT:
        return _best_of_restarts(rows, weights, num_clusters, num_restarts, num_iterations, seed, on_step)
    num_parts = math.isqrt(num_clusters)
    of_level = min(_TRIAL_ITERATIONS, num_iterations)
    coarse = _best_of_restarts(rows, weights, num_parts, num_restarts, of_level, seed, on_step)
    parts = _nearest_centers(rows, coarse)[1].cpu().numpy()
    centers: list[Tensor] = []
    for members, count in parts_with_counts(parts, num_clusters):
        on_step(WorkStep("k-means within parts", len(centers), num_parts, "parts"))
        chosen = torch.from_numpy(members).to(rows.device)
        settings = num_restarts, of_level, seed, no_report
        centers.append(_best_of_restarts(rows[chosen], weights[chosen], count, *settings))
    start = _Restart(torch.cat(centers), -math.inf, of_level)
    return _improve(rows, weights, start, num_iterations, _FINAL_TOLERANCE, on_step).centers


def parts_with_counts(parts: np.ndarray, num_clusters: int) -> Iterator[tuple[np.ndarray, int]]:
    """For each part of some rows its members, ascending, and how many of all clusters it gets: in proportion to them.

    Args:
        parts: (N,) the part of each row.
        num_clusters: at least as many as there are parts, at most N. The counts add up to it.
    """
    order = np.argsort(parts, kind="stable")
    starts = np.flatnonzero(np.diff(parts[order], prepend=-1))
    sizes = np.diff(starts, append=len(parts))
    quotas = sizes * (num_clusters / len(parts))
    counts = np.clip(quotas.astype(np.int64), 1, sizes)
    step = 1 if counts.sum() < num_clusters else -1
    for _ in range(abs(num_clusters - counts.sum())):  # the one next in proportion gets, or gives back, one more
        has_room = counts < sizes if step > 0 else counts > 1
        counts[np.where(has_room, step * (quotas - counts), -math.inf).argmax()] += step
    return zip(np.split(order, starts[1:]), counts.tolist(), strict=True)


@dataclass(frozen=True)
class _Restart:
    centers: Tensor
    objective: float
    iterations: int


def _best_of_restarts(
    rows: Tensor,
    weights: Tensor,
    num_clusters: int,
    num_restarts: int,
    num_iterations: int,
    seed: int,
    on_step: OnStep,
) -> Tensor:
    """Centres (K, D) of the best restart; the weaker ones are dropped on the way."""
    trial = _subset(rows, weights, _num_trial_rows(num_clusters), np.random.default_rng([seed, 1]))
    seeding = _Seeding.of(*trial, num_clusters, np.random.default_rng([seed, 2]))
    restarts = []
    for restart in range(num_restarts):
        on_step(WorkStep("k-means", restart, num_restarts, "restarts"))
        start = _Restart(seeding.draw_centers(num_clusters, np.random.default_rng([seed, 3, restart])), -math.inf, 0)
        restarts.append(_improve(*trial, start, min(_TRIAL_ITERATIONS, num_iterations), _RESTART_TOLERANCE, no_report))
    restarts.sort(key=lambda restart: -restart.objective)
    finalists = [
        _improve(rows, weights, start, num_iterations, _RESTART_TOLERANCE, on_step) for start in restarts[:_FINALISTS]
    ]
    winner = max(finalists, key=lambda restart: restart.objective)
    return _improve(rows, weights, winner, num_iterations, _FINAL_TOLERANCE, on_step).centers


def _improve(
    rows: Tensor, weights: Tensor, start: _Restart, num_iterations: int, tolerance: float, on_step: OnStep
) -> _Restart:
    """Lloyd iterations until `num_iterations` were done since the seeds, or the gain falls to the tolerance.

    The objective is that of the last iteration; before the first one nothing counts as a gain, as `start` may have been
    measured on other rows.
    """
    centers, objective = start.centers, -math.inf
    total = float(weights.sum(dtype=torch.float64))
    for iteration in range(start.iterations, num_iterations):
        on_step(WorkStep("k-means", iteration, num_iterations, "iterations at most"))
        scores, labels = _nearest_centers(rows, centers)
        previous, objective = objective, float((scores.double() * weights).sum()) / total
        sums = _weighted_sums(rows, labels, weights, len(centers))
        centers = _refill_empty(_means(sums, centers), sums, rows, scores)
        if objective - previous <= tolerance * (1 - objective):
            return _Restart(centers, objective, iteration + 1)
    return start if start.iterations >= num_iterations else _Restart(centers, objective, num_iterations)


def _subset(rows: Tensor, weights: Tensor, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """At most `size` rows and their weights, drawn without replacement, in row order."""
    if size >= len(rows):
        return rows, weights
    chosen = torch.from_numpy(np.sort(rng.choice(len(rows), size, replace=False))).to(rows.device)
    return rows[chosen], weights[chosen]


@dataclass(frozen=True)
class _Seeding:
    """Rows to draw seeds from, (n, D), their weights (n,), and their cosines (n, n) unless there are too many."""

    rows: Tensor
    weights: Tensor
    cosines: Tensor | None

    @classmethod
    def of(cls, rows: Tensor, weights: Tensor, num_clusters: int, rng: np.random.Generator) -> "_Seeding":
        rows, weights = _subset(rows, weights, _num_seeding_rows(num_clusters), rng)
        return cls(rows, weights, rows @ rows.T if len(rows) <= _MAX_SEEDING_ROWS else None)

    def draw_centers(self, num_clusters: int, rng: np.random.Generator) -> Tensor:
        """Centres (K, D) by greedy k-means++ (Arthur and Vassilvitskii 2007; candidates per step as in scikit-learn).

        For unit rows the squared distance of k-means++ is 2 - 2 cosine.
        """
        num_candidates = _num_candidates(num_clusters)
        seeds = torch.empty(num_clusters, dtype=torch.int64, device=self.rows.device)
        distances = torch.full((len(self.rows),), 2.0, device=self.rows.device)
        for step in range(num_clusters):
            candidates = _draw(distances.double() * self.weights, num_candidates if step else 1, rng)
            nearer = torch.minimum(distances, self._distances(candidates))
            best = int((nearer * self.weights).sum(dim=1, dtype=torch.float64).argmin())
            seeds[step], distances = candidates[best], nearer[best]
        return self.rows[seeds]

    def _distances(self, candidates: Tensor) -> Tensor:
        """1 - cosine (candidates, n) between candidates and all rows."""
        cosines = self.cosines[candidates] if self.cosines is not None else (self.rows @ self.rows[candidates].T).T
        return (1 - cosines).clamp_(min=0)


def _draw(potentials: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Positions (count,) drawn with replacement in proportion to non-negative potentials (n,)."""
    cumulative = potentials.cumsum(dim=0)
    if float(cumulative[-1]) == 0:  # fewer distinct rows than centres: any row will do
        return torch.from_numpy(rng.integers(len(potentials), size=count)).to(potentials.device)
    targets = torch.from_numpy(rng.random(count)).to(potentials.device) * cumulative[-1]
    return torch.searchsorted(cumulative, targets, right=True).clamp_(max=len(potentials) - 1)


def _blocks_of(rows: Tensor, num_centers: int) -> Iterator[Tensor]:
    """Consecutive rows, so many that their scores against all centres stay at 64 MiB."""
    yield from rows.split(_block_size(num_centers))


def _converted_blocks(source: RowSource, num_centers: int, device: str) -> Iterator[Tensor]:
    start = 0
    for block in source.blocks(_block_size(num_centers)):
        yield torch.from_numpy(unit_rows(block, name="embeddings", first_row=start)).to(device)
        start += len(block)


def _block_size(num_centers: int) -> int:
    return min(max(_SCORES_PER_BLOCK // num_centers, 256), 65_536)


def _nearest_centers(rows: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine (n,) to the nearest centre and its index (n,); between equal centres rounding decides."""
    found = [(block @ centers.T).max(dim=1) for block in _blocks_of(rows, len(centers))]
    return torch.cat([best.values for best in found]), torch.cat([best.indices for best in found])


def _weighted_sums(rows: Tensor, labels: Tensor, weights: Tensor, num_clusters: int) -> Tensor:
    """Sum (K, D) of the weighted members of every cluster, in a fixed order of addition."""
    if rows.device.type == "cpu":
        one_hot = csr_array((weights.numpy(), labels.numpy(), np.arange(len(rows) + 1)), (len(rows), num_clusters))
        return torch.from_numpy(one_hot.T @ rows.numpy())
    # On a GPU a scatter adds in no fixed order; a product with the one-hot labels does.
    sums = torch.zeros(num_clusters, rows.shape[1], device=rows.device)
    size = _block_size(num_clusters)
    for block, block_labels, block_weights in zip(
        rows.split(size), labels.split(size), weights.split(size), strict=True
    ):
        one_hot_block = torch.zeros(num_clusters, len(block), device=rows.device)
        one_hot_block.scatter_(0, block_labels[None], block_weights[None])
        sums += one_hot_block @ block
    return sums


def _means(sums: Tensor, centers: Tensor) -> Tensor:
    """Normalised sums; a cluster without members, or whose members cancel out, keeps its centre."""
    norms = sums.norm(dim=1, keepdim=True)
    return torch.where(norms > 1e-12, sums / norms.clamp(min=1e-12), centers)


def _refill_empty(centers: Tensor, sums: Tensor, rows: Tensor, scores: Tensor) -> Tensor:
    """Move the centre of every empty cluster onto a row that is far from all centres, farthest first.

    Where all rows lie on centres already, the rest stay where they are.

    Args:
        scores: (n,) cosine of every row to its own centre.
    """
    empty = torch.nonzero((sums == 0).all(dim=1)).flatten()
    if len(empty) == 0:
        return centers
    centers = centers.clone()
    # Among the worst-placed rows only, as every pick costs a pass over them.
    pool = torch.topk(-scores, min(len(scores), 1024 + 16 * len(empty))).indices.sort().values
    pool_rows, pool_scores = rows[pool], scores[pool].clone()
    for cluster in empty.tolist():
        farthest = int(pool_scores.argmin())
        if 1 - float(pool_scores[farthest]) <= _MIN_REFILL_DISTANCE:
            break
        centers[cluster] = pool_rows[farthest]
        pool_scores = torch.maximum(pool_scores, pool_rows @ pool_rows[farthest])
    return centers


def _label_all(
    blocks: Iterator[Tensor], centers: Tensor, weights: np.ndarray, *, num_trained: int, on_step: OnStep
) -> KMeansResult:
    """Label every row by the trained centres, then take the centres as means of the members.

    The sum of w_i v_i . s_l over a cluster is the norm of its sum of w_i v_i, so one pass gives the objective as well.
    """
    all_weights = torch.from_numpy(weights).to(centers.device)
    sums = torch.zeros_like(centers)
    labels: list[Tensor] = []
    start = 0
    for block in blocks:
        on_step(WorkStep("k-means, the last pass", start, len(weights), "rows"))
        _, block_labels = _nearest_centers(block, centers)
        sums += _weighted_sums(block, block_labels, all_weights[start : start + len(block)], len(centers))
        labels.append(block_labels.cpu())
        start += len(block)
    all_labels = torch.cat(labels).numpy().astype(np.int32)
    objective = float(sums.norm(dim=1).sum(dtype=torch.float64)) / float(weights.sum(dtype=np.float64))
    num_empty = len(centers) - len(np.unique(all_labels))
    return KMeansResult(_means(sums, centers).cpu().numpy(), all_labels, objective, num_trained, num_empty)


def _num_trial_rows(num_clusters: int) -> int:
    return max(_TRIAL_ROWS_PER_CENTER * num_clusters, _MIN_TRIAL_ROWS)


def _num_seeding_rows(num_clusters: int) -> int:
    size = max(min(_SEEDING_ROWS_PER_CENTER * num_clusters, _MAX_SEEDING_ROWS), _MIN_SEEDING_ROWS)
    return max(size, _LEAST_SEEDING_ROWS_PER_CENTER * num_clusters)


def _num_candidates(num_clusters: int) -> int:
    return 2 + int(math.log(num_clusters))


def kmeans_work(
    num_rows: int,
    width: int,
    num_clusters: int,
    *,
    num_restarts: int,
    num_iterations: int,
    max_points_per_center: int | None,
) -> Work:
    """What `spherical_kmeans` is expected to do with these settings."""
    trained = _num_trained(num_rows, num_clusters, max_points_per_center)
    labelling = Work(2.0 * width * num_clusters * num_rows)
    if num_clusters <= MAX_FLAT:
        return _training_work(trained, width, num_clusters, num_restarts, num_iterations) + labelling
    parts = math.isqrt(num_clusters)
    of_level = min(_TRIAL_ITERATIONS, num_iterations)
    coarse = _training_work(trained, width, parts, num_restarts, of_level)
    a_part = _training_work(trained // parts, width, num_clusters // parts, num_restarts, of_level)
    flat = Work(2.0 * width * num_clusters * trained * _num_final_iterations(num_iterations))
    return coarse + a_part * parts + flat + labelling


def _training_work(num_rows: int, width: int, num_clusters: int, num_restarts: int, num_iterations: int) -> Work:
    """What `_best_of_restarts` is expected to do."""
    seeding = min(num_rows, _num_seeding_rows(num_clusters))
    if seeding <= _MAX_SEEDING_ROWS:
        seeds = Work(2.0 * width * seeding**2)
    else:
        candidates = _num_candidates(num_clusters)
        a_step = Work(2.0 * width * seeding * candidates, 4.0 * width * seeding)
        seeds = a_step * (num_clusters * num_restarts)
    tried = min(num_rows, _num_trial_rows(num_clusters)) * num_restarts * min(_TRIAL_ITERATIONS, num_iterations)
    finished = num_rows * min(num_restarts, _FINALISTS) * _num_final_iterations(num_iterations)
    return seeds + Work(2.0 * width * num_clusters * (tried + finished))


def _num_final_iterations(num_iterations: int) -> int:
    return min(_TYPICAL_FINAL_ITERATIONS, max(num_iterations - _TRIAL_ITERATIONS, 0))


def kmeans_bytes(num_rows: int, width: int, num_clusters: int, *, max_points_per_center: int | None) -> float:
    """The most memory that `spherical_kmeans` holds at a time, beside the rows it is given."""
    trained = _num_trained(num_rows, num_clusters, max_points_per_center)
    num_clusters = num_clusters if num_clusters <= MAX_FLAT else math.isqrt(num_clusters)
    seeding = min(trained, _num_seeding_rows(num_clusters))
    subsets = seeding + min(trained, _num_trial_rows(num_clusters)) * (trained > _num_trial_rows(num_clusters))
    cosines = seeding**2 if seeding <= _MAX_SEEDING_ROWS else 0
    # Rows as they were taken and as unit rows are there together before there are subsets of them.
    return 4.0 * (width * (trained + max(trained, subsets)) + cosines + 2 * _SCORES_PER_BLOCK)


def _num_trained(num_rows: int, num_clusters: int, max_points_per_center: int | None) -> int:
    return num_rows if max_points_per_center is None else min(num_rows, num_clusters * max_points_per_center)
