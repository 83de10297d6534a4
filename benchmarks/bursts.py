"""What bursts of near copies do to `best`, and what leaving copies out does to classes of look-alikes, as JSON lines.

    python benchmarks/bursts.py --data DIR --datasets food10 cifar10_test500 fashion_article12 oxford_pets [--seeds 5]

`with_copies`: a twentieth of a set's images get 5 to 29 near copies each, the embedding with noise of a norm of 0.12,
so that a copy has a cosine of 0.993 with it. `each_group_once`: one image of each group that `duplicate_groups` makes
of neighbours of a cosine of at least 0.98, which is what `train_heads.count_near_duplicates_once` does. Accuracy is
that of the images that are no planted copies, and `left_out` how many images `best` saw another one for.

`look_alikes`: one class, drawn by the seed, is pulled together around its mean until two of its images have a cosine of
0.99. Accuracy is that of all images, and `left_out` how many of the class were left out.
"""

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from quality_data import DataOptions, Dataset, load_dataset

from dxmc_core.method.best.best_start import labels_of
from dxmc_core.method.best.bursts import Bursts
from dxmc_core.method.clusters.metrics import clustering_accuracy
from dxmc_core.method.hyperparameters import method_reads
from dxmc_core.method.neighbors.exact import build_index, nearest_neighbors, search_with_scores
from dxmc_core.method.neighbors.near_duplicates import duplicate_groups, first_copies
from dxmc_core.method.objectives.best import find_start_of
from dxmc_core.method.preparation import as_stored, prepare
from dxmc_core.method.row_source import ArrayRows
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.runtime.cpu_products import prefer_onednn

_SHARE, _LEAST_COPIES, _MOST_COPIES, _NOISE = 0.05, 5, 29, 0.12
_NUM_NEIGHBORS, _MIN_COSINE = 50, 0.98
_SPREAD_OF_LOOK_ALIKES = 0.1


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


def with_look_alikes(data: Dataset, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows (N, D) as they are stored, and which of them are of the class (N,) bool."""
    classes = np.unique(data.labels)
    is_drawn = data.labels == np.random.default_rng([seed, 12]).choice(classes)
    rows = unit_rows(data.embeddings, name="embeddings")
    mean = rows[is_drawn].mean(axis=0)
    around = rows[is_drawn] - mean
    rows[is_drawn] = mean + _SPREAD_OF_LOOK_ALIKES / np.sqrt(np.square(around).sum(axis=1).mean()) * around
    return as_stored(rows, name="embeddings"), is_drawn


@dataclass(frozen=True)
class Found:
    """Accuracy in percent of the set's own images, and which of all rows were left out (N,) bool."""

    accuracy: float
    is_left_out: np.ndarray


def found_by_best(data: Dataset, rows: np.ndarray, own: np.ndarray, *, seed: int) -> Found:
    """What `best` makes of `rows`, and of the rows (n, D) of the set that its labels are of."""
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
    images = unit_rows(rows, name="embeddings")
    bursts = Bursts.of(images, nearest_neighbors(images, num_neighbors=_NUM_NEIGHBORS), num_clusters)
    assert bursts.num_copies == start.num_copies
    is_left_out = ~np.isin(np.arange(len(rows)), bursts.kept)
    return Found(100 * clustering_accuracy(data.labels, labels_of(start.discriminant, own)), is_left_out)


def measure(data: Dataset, num_seeds: int) -> dict[str, Any]:
    accuracies: dict[str, list[float]] = {"alone": [], "with_copies": [], "each_group_once": [], "look_alikes": []}
    left_out: dict[str, list[int]] = {name: [] for name in accuracies}
    for seed in range(num_seeds):
        copied = with_bursts(data.embeddings, seed=seed)
        alike, is_alike = with_look_alikes(data, seed=seed)
        cases = {
            "alone": (data.embeddings, data.embeddings),
            "with_copies": (copied, data.embeddings),
            "each_group_once": (one_of_each_group(copied), data.embeddings),
            "look_alikes": (alike, alike),
        }
        for name, (rows, own) in cases.items():
            found = found_by_best(data, rows, own, seed=seed)
            accuracies[name].append(found.accuracy)
            counted = found.is_left_out[is_alike] if name == "look_alikes" else found.is_left_out
            left_out[name].append(int(counted.sum()))
    return {
        "dataset": data.name,
        "images": len(data.embeddings),
        **{
            name: {
                "mean": round(statistics.mean(values), 1),
                "std": round(statistics.stdev(values), 1) if len(values) > 1 else None,
                "worst": round(min(values), 1),
                "left_out": left_out[name],
            }
            for name, values in accuracies.items()
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
