"""How far the suggested number of clusters is from the true one, on labelled embeddings and on planted mixtures.

    python benchmarks/suggest_k.py --datasets DIR/ucf101.npz DIR/dtd.npz --seeds 5
    python benchmarks/suggest_k.py --planted 5 20 60 --separations badly --seeds 3
    python benchmarks/suggest_k.py --planted 10000 --rows-per-cluster 12 --max-rows 4000 --separations well --seeds 1

Prints JSON. Labels are only counted and compared with; nothing that suggests sees them. A distance is
|log2(suggested / true)|, in octaves: 0 is right, 1 is twice or half as many.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from measured import peak_bytes
from sklearn.metrics import adjusted_rand_score

from dxmc_core.errors import InputError
from dxmc_core.method.clusters.kmeans import spherical_kmeans
from dxmc_core.method.clusters.suggest_k import Partitioner, suggest_num_clusters, ward_partitions
from dxmc_core.method.preparation import as_stored
from dxmc_core.runtime.cpu_products import prefer_onednn
from dxmc_core.stages.embedding_files import read_embedding_file

WIDTH = 512
#: Length of what all rows of a planted mixture share, which makes the narrow cone of CLIP embeddings.
CONE = 1.2
#: Distance of cluster centres from their mean, where the noise of a row has length 1.
SEPARATIONS = {"well": 0.7, "badly": 0.3}
#: Standard deviation of the logarithm of cluster sizes.
SIZES = {"balanced": 0.0, "imbalanced": 1.0}
_ROWS_PER_CLUSTER = 40
_MIN_ROWS = 2000
_MIN_CLUSTER_SIZE = 10
_MAX_KMEANS_CLUSTERS = 1000


@dataclass(frozen=True)
class Labelled:
    """Embeddings (N, D) with the cluster (N,) of each row, and what they are, for the report."""

    embeddings: np.ndarray
    labels: np.ndarray
    facts: dict[str, Any]

    @property
    def num_clusters(self) -> int:
        return len(np.unique(self.labels))


def planted_mixture(
    num_clusters: int, *, separation: float, spread: float, seed: int, rows_per_cluster: int = _ROWS_PER_CLUSTER
) -> Labelled:
    """Rows on the sphere around random centres, isotropic about them (as von Mises and Fisher's), inside a cone.

    Args:
        separation: distance of the centres from their mean over the length of the noise.
        spread: standard deviation of the log of cluster sizes; 0 makes them equal up to chance.
        rows_per_cluster: mean; there are at least 2,000 rows in all, and 10 in a cluster.
    """
    generator = np.random.default_rng([seed, num_clusters])
    shares = np.exp(spread * generator.normal(size=num_clusters))
    num_rows = max(_MIN_ROWS, rows_per_cluster * num_clusters)
    sizes = np.maximum(generator.multinomial(num_rows, shares / shares.sum()), _MIN_CLUSTER_SIZE)
    labels = np.repeat(np.arange(num_clusters), sizes)
    cone, *centers = generator.standard_normal((1 + num_clusters, WIDTH), dtype=np.float32) / math.sqrt(WIDTH)
    labels = labels[generator.permutation(len(labels))]
    rows = generator.standard_normal((len(labels), WIDTH), dtype=np.float32)
    rows *= np.float32(1 / math.sqrt(WIDTH))
    rows += np.float32(separation) * np.array(centers)[labels]
    rows += np.float32(CONE) * cone
    return Labelled(as_stored(rows, name="rows"), labels, {})


def labelled_files(paths: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[Labelled, int]]:
    for path in paths:
        file = read_embedding_file(path)
        if file.labels is None:
            raise InputError(f"{path} has no array 'labels' (N,), against which a suggestion is compared")
        embeddings = as_stored(file.embeddings, name=path)
        for seed in seeds:
            yield Labelled(embeddings, np.array(file.labels), {"name": Path(path).stem}), seed


def planted_mixtures(
    counts: Sequence[int],
    separations: Sequence[str],
    sizes: Sequence[str],
    seeds: Sequence[int],
    *,
    rows_per_cluster: int = _ROWS_PER_CLUSTER,
) -> Iterator[tuple[Labelled, int]]:
    for separation, size, num_clusters, seed in itertools.product(separations, sizes, counts, seeds):
        mixture = planted_mixture(
            num_clusters,
            separation=SEPARATIONS[separation],
            spread=SIZES[size],
            seed=seed,
            rows_per_cluster=rows_per_cluster,
        )
        facts = {"name": f"{separation} separated, {size}, {num_clusters}"}
        yield Labelled(mixture.embeddings, mixture.labels, facts), seed


def kmeans_partitions(rows: np.ndarray, grid: Sequence[int], seed: int) -> Iterator[np.ndarray]:
    """A k-means run for each K: the alternative to the cuts of one Ward tree."""
    for num_clusters in grid:
        yield spherical_kmeans(
            rows, num_clusters, num_restarts=1, num_iterations=20, max_points_per_center=None, seed=seed
        ).centers


def measure(data: Labelled, *, partitions: str, max_rows: int, seed: int) -> dict[str, Any]:
    """One suggestion against the truth. `kmeans_ari` says how hard the data are: k-means at the true K, up to 1,000."""
    make: dict[str, Partitioner] = {"ward": ward_partitions(), "kmeans": kmeans_partitions}
    started = time.perf_counter()
    choice = suggest_num_clusters(data.embeddings, max_rows=max_rows, seed=seed, partition=make[partitions])
    seconds = time.perf_counter() - started
    suggested = [suggestion.num_clusters for suggestion in choice.suggestions]
    distances = [abs(math.log2(num_clusters / data.num_clusters)) for num_clusters in suggested]
    by_score = {
        name: max(choice.scores, key=attrgetter(name)).num_clusters
        for name in ("stability", "separability", "compactness")
    }
    ari = None
    if data.num_clusters <= _MAX_KMEANS_CLUSTERS:
        found = spherical_kmeans(data.embeddings, data.num_clusters, num_restarts=2, seed=seed).labels
        ari = round(float(adjusted_rand_score(data.labels, found)), 3)
    return {
        **data.facts,
        "seed": seed,
        "rows": len(data.labels),
        "true": data.num_clusters,
        "partitions": partitions,
        "suggested": suggested,
        "octaves_off": round(distances[0], 3),
        "octaves_off_best_of_three": round(min(distances), 3),
        "best_by_score": by_score,
        "kmeans_ari": ari,
        "scored_rows": choice.num_rows,
        "peak_gib": round(peak_bytes() / 2**30, 2),
        "seconds": round(seconds, 1),
    }


def summarize(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, by data set and partitions."""
    summary = []
    for (name, partitions), group in itertools.groupby(results, key=lambda row: (row["name"], row["partitions"])):
        rows = list(group)
        summary.append(
            {
                "name": name,
                "partitions": partitions,
                "true": rows[0]["true"],
                "first_suggestions": [row["suggested"][0] for row in rows],
                **{
                    key: round(statistics.mean(row[key] for row in rows), 3)
                    for key in ("octaves_off", "octaves_off_best_of_three", "kmeans_ari", "seconds")
                    if rows[0][key] is not None
                },
            }
        )
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=[], metavar="FILE", help=".npz with embeddings and labels")
    parser.add_argument("--planted", nargs="+", type=int, default=[], metavar="K", help="numbers of planted clusters")
    parser.add_argument("--separations", nargs="+", choices=SEPARATIONS, default=list(SEPARATIONS))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rows-per-cluster", type=int, default=_ROWS_PER_CLUSTER, help="of planted mixtures")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to this less one")
    parser.add_argument("--max-rows", type=int, default=10_000, help="of the sample, and of a region")
    parser.add_argument("--partitions", choices=("ward", "kmeans"), default="ward")
    options = parser.parse_args(arguments)
    prefer_onednn()
    seeds = range(options.seeds)
    results = []
    try:
        planted = planted_mixtures(
            options.planted,
            options.separations,
            options.sizes,
            seeds,
            rows_per_cluster=options.rows_per_cluster,
        )
        sources = itertools.chain(labelled_files(options.datasets, seeds), planted)
        for data, seed in sources:
            results.append(measure(data, partitions=options.partitions, max_rows=options.max_rows, seed=seed))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    except InputError as error:
        print(f"suggest_k: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"summary": summarize(results), "results": results}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
