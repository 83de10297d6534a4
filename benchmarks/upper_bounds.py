"""What bounds the accuracy of a clustering of these embeddings, from what sees the labels; not a method among others.

    python benchmarks/upper_bounds.py --datasets ucf101 dtd oxford_flowers --data DIR --output bounds.json

- linear probe: discriminant analysis with shrunken covariance, five-fold cross-validated: what a linear rule knows
  that was taught the classes on four fifths of the rows.
- micro-clusters: four for each class, in the space of the last look of `best`, each given to its commonest class: the
  most that joining them could reach.
- clusters: those of `best`, each given to its commonest class: above ACC by what one-to-one matching takes away, where
  two clusters share a class and another class has none.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from quality_data import DataOptions, Dataset, load_dataset
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics.cluster import contingency_matrix
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from dxmc_core.errors import InputError
from dxmc_core.method.best.best_start import find_start
from dxmc_core.method.best.size_exponent import micro_clusters
from dxmc_core.method.best.smoothing import num_smoothing_neighbors, rerank_neighbors, smooth
from dxmc_core.method.clusters.metrics import clustering_accuracy
from dxmc_core.method.hyperparameters import method_reads
from dxmc_core.method.preparation import prepare
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.runtime.cpu_products import prefer_onednn

_FOLDS = 5
_SMOOTHING_ROUNDS = 2


def measure(dataset: Dataset, *, seed: int = 0) -> dict[str, float]:
    """All bounds, fractions, and the accuracy of `best`."""
    if dataset.vocabulary is None:
        raise InputError(f"{dataset.name} comes without nouns; put nouns.npz beside it")
    images = unit_rows(dataset.embeddings, name="embeddings")
    num_clusters = len(np.unique(dataset.labels))
    data = prepare(
        dataset.embeddings,
        reads={*method_reads("best"), "image_neighbors"},
        num_clusters=num_clusters,
        noun_embeddings=dataset.vocabulary.embeddings,
        temperature=dataset.temperature,
        seed=seed,
    ).data
    assert data.image_neighbors is not None
    assert data.text_counterparts is not None
    assert data.selected_nouns is not None
    neighbors = data.image_neighbors.numpy()
    found = find_start(
        images,
        num_clusters=num_clusters,
        image_neighbors=neighbors,
        text_counterparts=data.text_counterparts.numpy(),
        selected_nouns=data.selected_nouns.numpy(),
        seed=seed,
    ).discriminant
    rows = found.whitening.apply(images)
    near = rerank_neighbors(rows, neighbors, num_smoothing_neighbors(len(rows), num_clusters))
    finer = micro_clusters(smooth(rows, near, num_rounds=_SMOOTHING_ROUNDS), num_clusters, seed=seed)[0]
    return {
        "best": clustering_accuracy(dataset.labels, found.labels),
        "clusters": purity(dataset.labels, found.labels),
        "micro-clusters": purity(dataset.labels, finer),
        "linear probe": linear_probe(images, dataset.labels, seed=seed),
    }


def purity(labels: np.ndarray, clusters: np.ndarray) -> float:
    """The share of rows (N,) that are of the commonest class of their cluster."""
    return float(contingency_matrix(labels, clusters).max(axis=0).sum() / len(labels))


def linear_probe(images: np.ndarray, labels: np.ndarray, *, seed: int) -> float:
    """Cross-validated accuracy."""
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return float((cross_val_predict(probe, images, labels, cv=folds) == labels).mean())


def main() -> int:
    """Measure, write JSON, print the table; 0 when done, 2 for unusable input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--data", type=Path, default=os.environ.get("DXMC_EVALUATION_DATA"), metavar="DIR")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    prefer_onednn()
    data_options = DataOptions.of_embeddings(options.data)
    results: dict[str, dict[str, float]] = {}
    try:
        for name in options.datasets:
            results[name] = measure(load_dataset(name, data_options))
            print(name, results[name], file=sys.stderr, flush=True)
            options.output.write_text(json.dumps({"units": "fractions", "results": results}, indent=1) + "\n")
    except InputError as error:
        print(f"upper_bounds: {error}", file=sys.stderr)
        return 2
    print(table(results))
    return 0


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown: a row for each data set, percent."""
    columns = list(next(iter(results.values())))
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    lines += [
        f"| {name} | {' | '.join(f'{100 * found[column]:.1f}' for column in columns)} |"
        for name, found in results.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
