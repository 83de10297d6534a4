"""How good a clustering is: against labels where they exist, and without labels always."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from dxmc_core.method.neighbors.exact import build_index, search
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.method.work import Work
from dxmc_core.runtime.slices import slices_of

Labels = np.ndarray | Sequence[int] | Sequence[str]

_ROWS_PER_BLOCK = 8192
#: Scores without labels are means over at most so many rows.
MAX_SCORED_ROWS = 10_000

#: Mean cosine distances below this are rounding: a row among copies of itself.
_MIN_DISTANCE = 1e-6


def external_scores(labels_true: Labels, labels_pred: Labels) -> dict[str, float]:
    """Agreement with true labels: {"acc", "nmi", "ari"}, each a fraction; 1 is perfect.

    Labels are integers or strings, and which ones does not matter. NMI is normalised by the arithmetic mean, as in
    scikit-learn; ARI is 0 for chance and may be negative.

    Raises:
        ValueError: no labels, or different numbers of them.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score  # late: it takes a second to load

    true, pred = _checked_pair(labels_true, labels_pred)
    return {
        "acc": clustering_accuracy(true, pred),
        "nmi": float(normalized_mutual_info_score(true, pred)),
        "ari": float(adjusted_rand_score(true, pred)),
    }


def clustering_accuracy(labels_true: Labels, labels_pred: Labels) -> float:
    """Share of rows that are right under the best one-to-one matching of clusters and classes.

    Hungarian matching on the rectangular contingency table: with more clusters than classes (or fewer) the members of
    an unmatched cluster count as wrong.

    Raises:
        ValueError: no labels, or different numbers of them.
    """
    table = cross_tabulate(labels_true, labels_pred)
    return float(table.num_matched.sum() / table.counts.sum())


@dataclass(frozen=True)
class CrossTable:
    """Two labellings of the same rows against each other.

    Attributes:
        first: (R,) the distinct labels of the one, ascending.
        second: (C,) those of the other.
        counts: (R, C) rows with each pair of labels.
        matched: (R,) the place in `second` that the best one-to-one matching gives to each of `first`, -1 for none.
    """

    first: np.ndarray
    second: np.ndarray
    counts: np.ndarray
    matched: np.ndarray

    @property
    def num_matched(self) -> np.ndarray:
        """(R,) rows of each of `first` that have the matched label."""
        at_match = np.take_along_axis(self.counts, np.maximum(self.matched, 0)[:, None], axis=1)[:, 0]
        return np.where(self.matched >= 0, at_match, 0)


def cross_tabulate(first: Labels, second: Labels) -> CrossTable:
    """Count the pairs of labels, and match the labels one to one so that as many rows as possible agree (Hungarian).

    Raises:
        ValueError: no labels, or different numbers of them.
    """
    from sklearn.metrics.cluster import contingency_matrix  # late: it takes a second to load

    codes = _checked_pair(first, second)
    counts = contingency_matrix(*codes)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    matched = np.full(len(counts), -1)
    matched[rows] = columns
    return CrossTable(np.unique(np.asarray(first)), np.unique(np.asarray(second)), counts, matched)


def stability(partitions: Sequence[np.ndarray]) -> float:
    """How far several partitions of the same rows agree: the mean adjusted Rand index of all pairs, at most 1."""
    from sklearn.metrics import adjusted_rand_score  # late: it takes a second to load

    return float(np.mean([adjusted_rand_score(first, second) for first, second in combinations(partitions, 2)]))


def label_free_scores(
    embeddings: np.ndarray,
    labels: Labels,
    *,
    neighbors: np.ndarray | None = None,
    num_clusters: int | None = None,
    num_neighbors: int = 10,
    max_rows: int = MAX_SCORED_ROWS,
    seed: int = 0,
) -> dict[str, float]:
    """Scores that need no true labels. They compare clusterings of the same embeddings, not of different ones.

    Args:
        embeddings: (N, D), rows normalised here.
        labels: (N,) the clustering.
        neighbors: (N, k) positions, when they are known already; they are searched for otherwise.
        num_clusters: clusters asked for, empty ones included; by default those found.
        num_neighbors: nearest neighbours that agreement is measured over (at most k, and N - 1).
        max_rows: silhouette and agreement are means over a seeded sample of at most this many rows, each measured
            against all N rows.

    Returns:
        silhouette: mean cosine silhouette, in -1..1; 0 for rows alone in their cluster (as in scikit-learn) and
            when there is one cluster only.
        neighbor_agreement: share of the nearest neighbours that have the row's own label, in 0..1.
        balance: entropy of the cluster sizes over that of equal sizes, in 0..1; 1 for one cluster.
        largest_share: share of rows in the largest cluster.

    Raises:
        ValueError: unusable rows, or labels and neighbours that do not fit them.
    """
    rows, codes, sample = _rows_and_codes(embeddings, labels, max_rows=max_rows, seed=seed)
    sizes = np.bincount(codes)
    return {
        "silhouette": float(_silhouettes(rows, codes, sizes, sample).mean()),
        "neighbor_agreement": _neighbor_agreement(rows, codes, neighbors, num_neighbors, sample),
        "balance": _balance(sizes, num_clusters if num_clusters is not None else len(sizes)),
        "largest_share": float(sizes.max() / len(rows)),
    }


def silhouette(embeddings: np.ndarray, labels: Labels, *, max_rows: int = 10_000, seed: int = 0) -> float:
    """The first of `label_free_scores`, by itself."""
    rows, codes, sample = _rows_and_codes(embeddings, labels, max_rows=max_rows, seed=seed)
    return float(_silhouettes(rows, codes, np.bincount(codes), sample).mean())


def _rows_and_codes(
    embeddings: np.ndarray, labels: Labels, *, max_rows: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit rows (N, D), labels (N,) as 0..K-1, and the positions of the rows that are looked at."""
    _, codes = np.unique(np.asarray(labels), return_inverse=True)
    rows = unit_rows(embeddings, name="embeddings")
    if codes.shape != (len(rows),) or len(rows) == 0:
        raise ValueError(f"expected one label for each of {len(rows)} rows, found labels of shape {codes.shape}")
    sample = np.arange(len(rows))
    if len(rows) > max_rows:
        sample = np.sort(np.random.default_rng(seed).choice(len(rows), max_rows, replace=False))
    return rows, codes, sample


def _checked_pair(labels_true: Labels, labels_pred: Labels) -> tuple[np.ndarray, np.ndarray]:
    true, pred = np.asarray(labels_true), np.asarray(labels_pred)
    if true.ndim != 1 or true.shape != pred.shape or len(true) == 0:
        raise ValueError(
            f"expected two equally long, non-empty lists of labels, found shapes {true.shape} and {pred.shape}"
        )
    # Codes instead of labels: what scikit-learn makes of floats or of mixed types does not matter here.
    return np.unique(true, return_inverse=True)[1], np.unique(pred, return_inverse=True)[1]


def _silhouettes(rows: np.ndarray, codes: np.ndarray, sizes: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Cosine silhouette (n,) of the sampled rows against all rows.

    The mean cosine distance to a whole cluster is 1 - v . (mean of its members), so no pairs of rows are needed.
    """
    if len(sizes) < 2:
        return np.zeros(len(sample))
    one_hot = csr_array((np.ones(len(rows), dtype=np.float32), codes, np.arange(len(rows) + 1)))
    means = (one_hot.T @ rows) / sizes[:, None].astype(np.float32)
    scores = []
    for block in slices_of(len(sample), _ROWS_PER_BLOCK):
        part = sample[block]
        own = codes[part]
        distances = 1 - (rows[part] @ means.T).astype(np.float64)
        at_own = np.arange(len(part)), own
        # The row itself, at distance zero, does not count among the members.
        within = distances[at_own] * sizes[own] / np.maximum(sizes[own] - 1, 1)
        distances[at_own] = np.inf
        between = distances.min(axis=1)
        larger = np.maximum(within, between)
        score = np.divide(between - within, larger, out=np.zeros(len(part)), where=larger > _MIN_DISTANCE)
        scores.append(np.where(sizes[own] > 1, score, 0.0))
    return np.concatenate(scores)


def _neighbor_agreement(
    rows: np.ndarray, codes: np.ndarray, neighbors: np.ndarray | None, num_neighbors: int, sample: np.ndarray
) -> float:
    if len(rows) == 1:
        return 1.0
    if neighbors is None:
        nearest = search(build_index(rows), rows[sample], sample, min(num_neighbors, len(rows) - 1))
    else:
        if neighbors.ndim != 2 or len(neighbors) != len(rows):
            raise ValueError(f"expected neighbors of shape ({len(rows)}, k), found {neighbors.shape}")
        nearest = neighbors[sample, :num_neighbors]
    return float((codes[nearest] == codes[sample, None]).mean())


def _balance(sizes: np.ndarray, num_clusters: int) -> float:
    if num_clusters < len(sizes):
        raise ValueError(f"expected num_clusters of at least the {len(sizes)} clusters found, found {num_clusters}")
    if num_clusters == 1:
        return 1.0
    shares = sizes / sizes.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(num_clusters))


def label_free_work(num_rows: int, width: int, num_clusters: int, *, max_rows: int = MAX_SCORED_ROWS) -> Work:
    """What `label_free_scores` does where neighbours are searched."""
    sample = min(num_rows, max_rows)
    return Work(2.0 * width * sample * (num_rows + num_clusters), 4.0 * sample * (num_rows + 2 * num_clusters))
