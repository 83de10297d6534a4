"""What each ingredient of `best` is worth: alone on top of k-means, and in the order in which the recipe adds them.

    python benchmarks/ablation.py --datasets ucf101 dtd oxford_flowers --seeds 5 --data DIR --output ablation.json

`--groups` says which are measured: `alone`, `steps`, `whole` (what may be done with the whole recipe). All rows, K is
the number of classes, nothing is chosen by labels; labels only score what came out.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from quality_data import DataOptions, Dataset, load_dataset

from dxmc_core.errors import InputError
from dxmc_core.method.best.best_start import BestStart
from dxmc_core.method.best.discriminant import fit_discriminant
from dxmc_core.method.best.joined_space import principal_rows
from dxmc_core.method.best.noun_overlap import neighbor_overlap, noun_mixtures
from dxmc_core.method.best.size_exponent import WARD, micro_clusters
from dxmc_core.method.best.smoothing import num_smoothing_neighbors, rerank_neighbors, smooth
from dxmc_core.method.best.whitening import half_power_whitening, neighbor_whitening
from dxmc_core.method.clusters.kmeans import spherical_kmeans
from dxmc_core.method.clusters.metrics import external_scores
from dxmc_core.method.clusters.ward import merge_points
from dxmc_core.method.fit import assign, fit_heads
from dxmc_core.method.hyperparameters import method_reads
from dxmc_core.method.objectives.best import find_start_of
from dxmc_core.method.preparation import prepare
from dxmc_core.method.training_data import TrainingData
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.runtime.cpu_products import prefer_onednn

_SMOOTHING_ROUNDS, _DEEPER_ROUNDS = 2, 4
_SCORES = ("acc", "nmi", "ari")


def alone(data: TrainingData, num_clusters: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and labels (N,) of each ingredient on top of k-means."""
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


def steps(data: TrainingData, num_clusters: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and labels (N,) after each step of the recipe; micro-clusters are joined to K by Ward's criterion."""
    images = unit_rows(data.image_embeddings.numpy(), name="image_embeddings")
    neighbors = data.image_neighbors.numpy()  # type: ignore[union-attr]
    num_near = num_smoothing_neighbors(len(images), num_clusters)
    looks: list[BestStart] = []
    find_start_of(data, num_clusters=num_clusters, seed=seed, on_look=looks.append)
    weight, exponent = looks[0].text_weight, looks[0].size_exponent

    def joined(rows: np.ndarray, size_exponent: float = WARD) -> np.ndarray:
        labels, means, sizes = micro_clusters(rows, num_clusters, seed=seed)
        return merge_points(means, sizes, num_clusters, size_exponent=size_exponent)[labels]

    yield "Ward on the images", joined(images)
    whitenings = neighbor_whitening(images, neighbors[:, :num_near]), half_power_whitening(images)
    whitened = [whitening.apply(images) for whitening in whitenings]
    yield "+ neighbor whitening", joined(whitened[0])
    graphs = [rerank_neighbors(rows, neighbors, num_near) for rows in whitened]
    smoothed = [smooth(rows, graph, num_rounds=_SMOOTHING_ROUNDS) for rows, graph in zip(whitened, graphs, strict=True)]
    yield "+ smoothing", joined(smoothed[0])
    yield "+ half-power whitening beside it", joined(principal_rows(smoothed))

    texts = principal_rows([unit_rows(data.text_counterparts.numpy(), name="text_counterparts")])  # type: ignore[union-attr]

    def views(graphs: list[np.ndarray], weight: float) -> list[np.ndarray]:
        both = []
        for rows, graph in zip(whitened, graphs, strict=True):
            for num_rounds in (_SMOOTHING_ROUNDS, _DEEPER_ROUNDS):
                both.append(smooth(rows, graph, num_rounds=num_rounds))
                if weight:
                    both.append(weight * smooth(texts, graph, num_rounds=num_rounds))
        return both

    yield "+ deeper smoothing beside it", joined(principal_rows(views(graphs, 0)))
    yield "+ text by its gate", joined(principal_rows(views(graphs, weight)))
    overlaps = neighbor_overlap(noun_mixtures(images, data.selected_nouns.numpy()), neighbors)  # type: ignore[union-attr]
    by_nouns = [rerank_neighbors(rows, neighbors, num_near, affinities=overlaps**weight) for rows in whitened]
    space = principal_rows(views(by_nouns, weight))
    yield "+ neighbors ranked by nouns too", joined(space)
    yield "+ exponent of sizes", joined(space, exponent)
    yield "+ discriminant (first look)", looks[0].discriminant.labels
    yield "+ looking again (best)", looks[-1].discriminant.labels


def whole(data: TrainingData, num_clusters: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and labels (N,) of the whole recipe with epochs of training on top, and without text."""
    for name, settings in (("best, ten epochs on top", {"num_epochs": 10}), ("best without text", {"use_text": False})):
        heads = fit_heads("best", data, num_clusters=num_clusters, seed=seed, **settings).heads
        yield name, assign(heads, data.image_embeddings).numpy().argmax(axis=1)


GROUPS = {"alone": alone, "steps": steps, "whole": whole}


def measure(
    dataset: Dataset, num_seeds: int, groups: Sequence[str], report: Callable[[str], object]
) -> dict[str, dict[str, list[float]]]:
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
        variants = chain.from_iterable(GROUPS[group](data, num_clusters, seed) for group in groups)
        for name, labels in variants:
            scores = external_scores(dataset.labels, labels)
            for score in _SCORES:
                found.setdefault(name, {}).setdefault(score, []).append(scores[score])
            report(f"{dataset.name} seed {seed} {name}: " + " ".join(f"{100 * scores[s]:.1f}" for s in _SCORES))
    return found


def table(results: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Markdown: one row per variant, ACC / NMI / ARI in percent a data set, and the mean ACC over the data sets."""
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
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--data", type=Path, default=os.environ.get("DXMC_EVALUATION_DATA"), metavar="DIR")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    prefer_onednn()
    data_options = DataOptions.of_embeddings(options.data)
    results = {}
    try:
        for name in options.datasets:
            dataset = load_dataset(name, data_options)
            results[name] = measure(
                dataset, options.seeds, options.groups, lambda line: print(line, file=sys.stderr, flush=True)
            )
            options.output.write_text(json.dumps({"units": "fractions", "results": results}, indent=1) + "\n")
    except InputError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 2
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
