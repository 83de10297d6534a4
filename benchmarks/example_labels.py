"""What a few example labels are worth: ACC of `best` after 0, 1 and 5 of each class, on images that nobody labelled.

    python benchmarks/example_labels.py --datasets ucf101 dtd oxford_flowers oxford_pets --seeds 5 --data DIR \\
        --output example_labels.json

K is the number of classes. The examples are drawn by the seed, the same images are scored for every number of them, and
the labels of these are looked at for the score alone.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from quality_data import DataOptions, Dataset, load_dataset

from dxmc_core.errors import InputError
from dxmc_core.method.best.constraints import Constraints
from dxmc_core.method.clusters.metrics import external_scores
from dxmc_core.method.hyperparameters import method_reads
from dxmc_core.method.objectives.best import find_start_of
from dxmc_core.method.preparation import prepare
from dxmc_core.method.training_data import TrainingData
from dxmc_core.runtime.cpu_products import prefer_onednn


def draw_examples(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Positions (C, count) of examples of each class, -1 where a class has fewer: one image of each is never drawn."""
    rng = np.random.default_rng([seed, 11])
    found = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))[:-1][:count]
        found.append(np.pad(members, (0, count - len(members)), constant_values=-1))
    return np.stack(found)


def with_examples(data: TrainingData, examples: np.ndarray) -> TrainingData:
    """The data with what a person says of C classes by examples (C, n) of each."""
    classes, places = np.nonzero(examples >= 0)
    rows = examples[classes, places]
    order = np.argsort(rows)
    known = Constraints(rows[order], classes[order], ~np.eye(len(examples), dtype=bool))
    known_images, apart_groups = map(torch.from_numpy, known.as_pairs())
    return replace(data, known_images=known_images, apart_groups=apart_groups)


def measure(
    dataset: Dataset, counts: list[int], num_seeds: int, report: Callable[[str], object]
) -> dict[str, list[float]]:
    """ACC, a fraction, by the number of examples, for each seed."""
    if dataset.vocabulary is None:
        raise InputError(f"{dataset.name} comes without nouns; put nouns.npz beside it")
    _, labels = np.unique(dataset.labels, return_inverse=True)
    num_clusters = int(labels.max()) + 1
    found: dict[str, list[float]] = {}
    for seed in range(num_seeds):
        data = prepare(
            dataset.embeddings,
            reads=method_reads("best"),
            num_clusters=num_clusters,
            noun_embeddings=dataset.vocabulary.embeddings,
            temperature=dataset.temperature,
            seed=seed,
        ).data
        examples = draw_examples(labels, max(counts), seed)
        scored = np.setdiff1d(np.arange(len(labels)), examples)
        for count in counts:
            known = with_examples(data, examples[:, :count]) if count else data
            clusters = find_start_of(known, num_clusters=num_clusters, seed=seed).discriminant.labels
            scores = external_scores(labels[scored], clusters[scored])
            found.setdefault(str(count), []).append(scores["acc"])
            report(f"{dataset.name} seed {seed}, {count} of each class: ACC {100 * scores['acc']:.1f}")
    return found


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: one row per data set, ACC in percent with its standard deviation over seeds."""
    counts = list(next(iter(results.values())))
    lines = [f"| | {' | '.join(counts)} |", f"|---|{'---|' * len(counts)}"]
    for name, by_count in results.items():
        cells = []
        for count in counts:
            values = [100 * value for value in by_count[count]]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, write JSON, print the table; 0 when done, 2 for unusable input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--examples", nargs="+", type=int, default=[0, 1, 5], help="of each class")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=os.environ.get("DXMC_EVALUATION_DATA"), metavar="DIR")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    prefer_onednn()
    data_options = DataOptions.of_embeddings(options.data)
    results = {}
    try:
        for name in options.datasets:
            dataset = load_dataset(name, data_options)
            tell = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
            results[name] = measure(dataset, options.examples, options.seeds, tell)
            options.output.write_text(json.dumps({"units": "fractions", "acc": results}, indent=1) + "\n")
    except InputError as error:
        print(f"example_labels: {error}", file=sys.stderr)
        return 2
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
