"""What bursts of near copies do to `best`, and whether counting each group once undoes it; as one JSON line per set.

    python benchmarks/bursts.py --data DIR --datasets food10 cifar10_test500 fashion_article12 oxford_pets [--seeds 5]

A twentieth of a set's images get 5 to 29 near copies each: the embedding with noise of a norm of 0.12, so that a copy
has a cosine of 0.993 with it. `best` is run on the set alone, with the copies, and with one image of each group that
`duplicate_groups` makes of neighbours of a cosine of at least 0.98, which is what
`train_heads.count_near_duplicates_once` does. Accuracy is that of the images that are no planted copies.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from quality_data import DataOptions, Dataset, load_dataset

from dxmc_core.method.best.best_start import labels_of
from dxmc_core.method.clusters.metrics import clustering_accuracy
from dxmc_core.method.hyperparameters import method_reads
from dxmc_core.method.neighbors.exact import build_index, search_with_scores
from dxmc_core.method.neighbors.near_duplicates import duplicate_groups, first_copies
from dxmc_core.method.objectives.best import find_start_of
from dxmc_core.method.preparation import as_stored, prepare
from dxmc_core.method.row_source import ArrayRows
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.runtime.cpu_products import prefer_onednn

_SHARE, _LEAST_COPIES, _MOST_COPIES, _NOISE = 0.05, 5, 29, 0.12
_NUM_NEIGHBORS, _MIN_COSINE = 50, 0.98


def with_bursts(embeddings: np.ndarray, *, seed: int) -> np.ndarray:
    """The rows (N, D) and after them the copies, as they are stored."""
    rng = np.random.default_rng([seed, 11])
    rows = unit_rows(embeddings, name="embeddings")
    copied = rng.choice(len(rows), round(_SHARE * len(rows)), replace=False)
    copies = rows[np.repeat(copied, rng.integers(_LEAST_COPIES, _MOST_COPIES + 1, size=len(copied)))]
    noise = unit_rows(rng.normal(size=copies.shape), name="noise")
    return as_stored(np.concatenate([rows, copies + _NOISE * noise]), name="embeddings")


def one_of_each_group(embeddings: np.ndarray) -> np.ndarray:
    """The rows that stand for their groups of near duplicates."""
    positions = np.arange(len(embeddings))
    neighbors, cosines = search_with_scores(build_index(embeddings), embeddings, positions, _NUM_NEIGHBORS)
    own, place = np.nonzero(cosines >= _MIN_COSINE)
    pairs = np.stack([own, neighbors[own, place]], axis=1)
    groups = duplicate_groups(len(embeddings), pairs, first_copies(ArrayRows(embeddings)))
    return embeddings[groups == positions]


def accuracy(data: Dataset, rows: np.ndarray, *, seed: int) -> float:
    """Percent, of the set's own images by what `best` makes of `rows`."""
    assert data.vocabulary is not None
    num_clusters = len(np.unique(data.labels))
    prepared = prepare(
        rows,
        reads=method_reads("best"),
        num_clusters=num_clusters,
        noun_embeddings=data.vocabulary.embeddings,
        temperature=data.temperature,
        seed=seed,
    )
    start = find_start_of(prepared.data, num_clusters=num_clusters, seed=seed)
    return 100 * clustering_accuracy(data.labels, labels_of(start.discriminant, data.embeddings))


def measure(data: Dataset, num_seeds: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {"alone": [], "with_copies": [], "each_group_once": []}
    sizes = []
    for seed in range(num_seeds):
        copied = with_bursts(data.embeddings, seed=seed)
        once = one_of_each_group(copied)
        sizes.append([len(copied), len(once)])
        for name, rows in zip(found, (data.embeddings, copied, once), strict=True):
            found[name].append(accuracy(data, rows, seed=seed))
    return {
        "dataset": data.name,
        "images": len(data.embeddings),
        "with_copies_and_kept": sizes,
        **{
            name: {
                "mean": round(statistics.mean(values), 1),
                "std": round(statistics.stdev(values), 1) if len(values) > 1 else None,
                "worst": round(min(values), 1),
            }
            for name, values in found.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    prefer_onednn()
    options = DataOptions.of_embeddings(arguments.data)
    for name in arguments.datasets:
        print(json.dumps(measure(load_dataset(name, options), arguments.seeds)), flush=True)


if __name__ == "__main__":
    main()
