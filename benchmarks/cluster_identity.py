"""How many clusters keep their id when images are clustered again, by the rule of dxmc and by Hungarian matching.

Clusters CLIP embeddings by k-means twice, from other seeds and from warm-started centres after a tenth of the images
went, and prints one JSON line a data set and case: shares of clusters kept, churn, and how many pairs matching keeps
of which one side has most of its images elsewhere.

    python benchmarks/cluster_identity.py shared/data/clip_vitb32/dtd.npz --num-clusters 47
"""

import argparse
import json
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from sklearn.cluster import KMeans

from dxmc_core.method.clusters.cluster_identity import keep_identities
from dxmc_core.method.unit_rows import unit_rows

_THRESHOLDS = {"1/3": 1 / 3, "1/2": 1 / 2}
_ITERATIONS = 40


def compare(before: np.ndarray, now: np.ndarray, *, num_before: int, num_now: int) -> dict[str, float]:
    """Figures of two labelings (N,) of the same images."""
    counts = np.zeros((num_before, num_now), dtype=np.int64)
    np.add.at(counts, (before, now), 1)
    found = keep_identities(
        csr_array(counts), np.arange(num_before), np.bincount(now, minlength=num_now), ids_given=num_before
    )
    figures: dict[str, float] = {"kept": found.count("kept") / num_before, "churn": found.churn}
    jaccard = counts / (counts.sum(axis=1)[:, None] + counts.sum(axis=0) - counts)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    for name, threshold in _THRESHOLDS.items():
        good = jaccard[rows, columns] > threshold
        overlaps = counts[rows, columns][good]
        minority = (2 * overlaps <= counts.sum(axis=1)[rows[good]]) | (
            2 * overlaps <= counts.sum(axis=0)[columns[good]]
        )
        figures[f"matching_{name}_kept"] = good.sum() / num_before
        figures[f"matching_{name}_churn"] = 1 - overlaps.sum() / counts.sum()
        figures[f"matching_{name}_kept_without_a_majority"] = int(minority.sum())
    return figures


def other_seeds(images: np.ndarray, num_clusters: int) -> dict[str, float]:
    """The mean over the pairs of three k-means runs."""
    labels = [_kmeans(images, num_clusters, seed=seed).labels_ for seed in range(3)]
    pairs = [compare(*pair, num_before=num_clusters, num_now=num_clusters) for pair in combinations(labels, 2)]
    return {name: float(np.mean([figures[name] for figures in pairs])) for name in pairs[0]}


def warm_start(images: np.ndarray, num_clusters: int) -> dict[str, float]:
    """Against k-means from the old centres and one more, on nine tenths of the images."""
    before = _kmeans(images, num_clusters, seed=0)
    left = np.sort(np.random.default_rng(0).permutation(len(images))[: int(0.9 * len(images))])
    init = np.vstack([before.cluster_centers_, images[left[:1]]])
    now = KMeans(num_clusters + 1, init=init, n_init=1, max_iter=_ITERATIONS).fit(images[left])
    return compare(before.labels_[left], now.labels_, num_before=num_clusters, num_now=num_clusters + 1)


def _kmeans(images: np.ndarray, num_clusters: int, *, seed: int) -> KMeans:
    return KMeans(num_clusters, n_init=1, random_state=seed, max_iter=_ITERATIONS).fit(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", metavar="FILE", help=".npz with the array embeddings (N, D)")
    parser.add_argument("--num-clusters", type=int, required=True)
    arguments = parser.parse_args()
    with np.load(arguments.embeddings) as archive:
        images = unit_rows(archive["embeddings"], name="embeddings")
    for case in (other_seeds, warm_start):
        figures = case(images, arguments.num_clusters)
        rounded = {name: round(value, 3) for name, value in figures.items()}
        print(json.dumps({"data": arguments.embeddings, "case": case.__name__, "images": len(images), **rounded}))


if __name__ == "__main__":
    main()
