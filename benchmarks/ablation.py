"""What each ingredient of `best` is worth: alone on top of k-means, and in the order in which the recipe adds them.

    python benchmarks/ablation.py --datasets ucf101 dtd oxford_flowers --seeds 5 --data DIR --output ablation.json

All rows, K is the number of classes, nothing is chosen by labels; labels only score what came out.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from quality_data import DataOptions, Dataset, default_cache, load_dataset

from dxmc_core.cpu_products import prefer_onednn
from dxmc_core.encoders import OfflineConfig
from dxmc_core.errors import InputError
from dxmc_core.method.discriminant import fit_discriminant
from dxmc_core.method.fit import assign, fit_heads
from dxmc_core.method.hyperparameters import method_reads
from dxmc_core.method.kmeans import spherical_kmeans
from dxmc_core.method.metrics import external_scores
from dxmc_core.method.objectives.best import find_start_of
from dxmc_core.method.preparation import prepare
from dxmc_core.method.smoothing import num_smoothing_neighbors, rerank_neighbors, smooth
from dxmc_core.method.training_data import TrainingData
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.method.whitening import half_power_whitening, neighbor_whitening
from dxmc_core.vocabulary import WordNetConfig

_SMOOTHING_ROUNDS = 2
_SCORES = ("acc", "nmi", "ari")


def variants(data: TrainingData, num_clusters: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and labels (N,) of every variant, one after the other."""
    images = unit_rows(data.image_embeddings.numpy(), name="image_embeddings")
    neighbors = data.image_neighbors.numpy()  # type: ignore[union-attr]
    near = neighbors[:, : num_smoothing_neighbors(len(images), num_clusters)]

    def kmeans(rows: np.ndarray) -> np.ndarray:
        return spherical_kmeans(rows, num_clusters, num_restarts=20, max_points_per_center=None, seed=seed).labels

    plain = kmeans(images)
    yield "kmeans", plain
    whitened = {
        "half-power whitening": half_power_whitening(images).apply(images),
        "neighbor whitening": neighbor_whitening(images, near).apply(images),
    }
    for name, rows in whitened.items():
        yield f"kmeans + {name}", kmeans(rows)
    yield "kmeans + smoothing", kmeans(smooth(images, near, num_rounds=_SMOOTHING_ROUNDS))
    for name, rows in whitened.items():
        reranked = rerank_neighbors(rows, neighbors, near.shape[1])
        yield f"kmeans + {name} + smoothing", kmeans(smooth(rows, reranked, num_rounds=_SMOOTHING_ROUNDS))
    yield "kmeans + discriminant", fit_discriminant(images, plain, num_clusters).labels
    looks: list[np.ndarray] = []
    find_start_of(
        data, num_clusters=num_clusters, seed=seed, on_look=lambda start: looks.append(start.discriminant.labels)
    )
    yield "best, first look", looks[0]
    yield "best, last look", looks[-1]
    for name, settings in (("best, ten epochs on top", {"num_epochs": 10}), ("best without text", {"use_text": False})):
        heads = fit_heads("best", data, num_clusters=num_clusters, seed=seed, **settings).heads
        yield name, assign(heads, data.image_embeddings).numpy().argmax(axis=1)


def measure(dataset: Dataset, num_seeds: int, report: Callable[[str], object]) -> dict[str, dict[str, list[float]]]:
    """Scores, fractions, of every variant by seed: {variant: {"acc": [...], ...}}."""
    if dataset.vocabulary is None:
        raise InputError(f"{dataset.name} comes without nouns, which the text gate judges; put nouns.npz beside it")
    num_clusters = len(np.unique(dataset.labels))
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(num_seeds):
        data = prepare(
            dataset.embeddings,
            reads=method_reads("best", num_epochs=10),
            num_clusters=num_clusters,
            noun_embeddings=dataset.vocabulary.embeddings,
            temperature=dataset.temperature,
            seed=seed,
        ).data
        for name, labels in variants(data, num_clusters, seed):
            scores = external_scores(dataset.labels, labels)
            for score in _SCORES:
                found.setdefault(name, {}).setdefault(score, []).append(scores[score])
            report(f"{dataset.name} seed {seed} {name}: " + " ".join(f"{100 * scores[s]:.1f}" for s in _SCORES))
    return found


def table(results: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Markdown: a row a variant, ACC / NMI / ARI in percent a data set, and the mean ACC over the data sets."""
    names = list(results)
    lines = [f"| | {' | '.join(names)} | mean ACC |", f"|---|{'---|' * (len(names) + 1)}"]
    for variant in results[names[0]]:
        cells = [
            " / ".join(f"{100 * statistics.fmean(results[name][variant][score]):.1f}" for score in _SCORES)
            for name in names
        ]
        mean = statistics.fmean(statistics.fmean(results[name][variant]["acc"]) for name in names)
        lines.append(f"| {variant} | {' | '.join(cells)} | {100 * mean:.1f} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, write JSON, print the table; 0 when done, 2 for unusable input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=os.environ.get("DXMC_EVALUATION_DATA"), metavar="DIR")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    prefer_onednn()
    data_options = DataOptions(
        folder=Path(options.data) if options.data is not None else None,
        nouns=None,
        encoder=OfflineConfig(kind="offline"),
        vocabulary=WordNetConfig(),
        cache=default_cache(),
    )
    results = {}
    try:
        for name in options.datasets:
            dataset = load_dataset(name, data_options)
            results[name] = measure(dataset, options.seeds, lambda line: print(line, file=sys.stderr, flush=True))
            options.output.write_text(json.dumps({"units": "fractions", "results": results}, indent=1) + "\n")
    except InputError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 2
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
