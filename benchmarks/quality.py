"""How good the clusters are: ACC, NMI and ARI of every method over seeds, by a named protocol, never chosen by labels.

    python benchmarks/quality.py --datasets ucf101 dtd oxford_flowers --methods kmeans dxmc --seeds 5 \\
        --protocol all_rows --data DIR --output results.json --markdown table.md

Methods train without labels and keep their last epoch. Labels score what came out, and the number of classes is K.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from quality_data import PAPER_SETS, DataOptions, Dataset, default_cache, load_dataset
from quality_reliability import reliability_svg
from quality_tables import PUBLISHED, markdown, name_of_published
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix

from dxmc_core import __version__
from dxmc_core.cpu_products import prefer_onednn
from dxmc_core.encoders import EncoderConfig, OfflineConfig, OpenClipConfig
from dxmc_core.errors import InputError
from dxmc_core.method.fit import assign, fit_heads
from dxmc_core.method.hyperparameters import METHODS, TEXT_MATRICES, method_reads, method_settings
from dxmc_core.method.metrics import external_scores, label_free_scores
from dxmc_core.method.preparation import (
    Prepared,
    hypernym_pairs,
    prepare,
    text_counterparts_as_stored,
)
from dxmc_core.method.turtle_score import turtle_score
from dxmc_core.vocabulary import WordNetConfig, hypernym_table

PROTOCOLS = {
    "all_rows": "trained on all rows, scored on the same rows",
    "train_test": "trained on the train part alone, scored on the test part alone",
    "held_out": (
        "trained on a random 80% of the rows, drawn by the seed; both parts are scored under one matching of clusters "
        "and classes, found on the trained rows"
    ),
}
HELD_OUT_SHARE = 0.2

#: Scores that look at labels: a table may show them, nothing may be picked by them.
LABELLED_SCORES = ("acc", "nmi", "ari", "calibration_error", "held_out_acc", "held_out_nmi", "held_out_ari")
#: The sign says what is better.
LABEL_FREE_SCORES = {"silhouette": 1, "neighbor_agreement": 1, "balance": 1, "turtle_score": 1, "largest_share": -1}

#: What a run has of every bin or tenth, and no figure of its own.
_CURVES = ("reliability", "accuracy_by_tenth")
_CALIBRATION_BINS = 10
_AGREEMENT_NEIGHBORS = 10


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows that were never seen in training: positions, ascending."""

    train: np.ndarray
    unseen: np.ndarray


def split_rows(dataset: Dataset, protocol: str, *, seed: int) -> Split:
    """What a protocol trains on and what it holds back.

    Raises:
        InputError: the data set has no test part and the protocol wants one.
    """
    count = len(dataset.embeddings)
    if protocol == "all_rows":
        return Split(np.arange(count), np.arange(0))
    if protocol == "held_out":
        order = np.random.default_rng(seed).permutation(count)
        num_unseen = round(HELD_OUT_SHARE * count)
        return Split(np.sort(order[num_unseen:]), np.sort(order[:num_unseen]))
    if dataset.is_test is None:
        raise InputError(
            f"{dataset.name} has no test part (train/ and test/ folders, or an array is_test); protocols for it: "
            "all_rows, held_out"
        )
    return Split(np.flatnonzero(~dataset.is_test), np.flatnonzero(dataset.is_test))


class Runs:
    """Trains methods on one split of one data set; matrices that several methods read are made once.

    It holds embeddings and no labels: nothing in here could look at them.
    """

    def __init__(self, dataset: Dataset, split: Split, *, num_clusters: int, seed: int, num_neighbors: int) -> None:
        self._train, self._unseen = dataset.embeddings[split.train], dataset.embeddings[split.unseen]
        self._vocabulary, self._temperature = dataset.vocabulary, dataset.temperature
        self._name, self._num_clusters, self._seed = dataset.name, num_clusters, seed
        self._num_neighbors = num_neighbors
        self._prepared: dict[frozenset[str], tuple[Prepared, float]] = {}

    def run(self, method: str, settings: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, float]:
        """Assignment probabilities of the trained rows and of the unseen rows, and seconds with all preparation."""
        prepared, seconds = self._prepare(frozenset(method_reads(method, **settings)))
        started = time.perf_counter()
        heads = fit_heads(method, prepared.data, num_clusters=self._num_clusters, seed=self._seed, **settings).heads
        train = assign(heads, prepared.data.image_embeddings, prepared.data.text_counterparts).numpy()
        unseen = np.empty((0, train.shape[1]), dtype=np.float32)
        if len(self._unseen):
            texts = None
            if heads.needs_text:
                assert prepared.selected_embeddings is not None
                texts = torch.from_numpy(
                    text_counterparts_as_stored(
                        self._unseen, prepared.selected_embeddings, temperature=self._temperature
                    )
                )
            unseen = assign(heads, torch.from_numpy(self._unseen), texts).numpy()
        return train, unseen, seconds + time.perf_counter() - started

    def _prepare(self, reads: frozenset[str]) -> tuple[Prepared, float]:
        if reads not in self._prepared:
            started = time.perf_counter()
            nouns = hypernyms = None
            if TEXT_MATRICES & reads:
                if self._vocabulary is None:
                    raise InputError(f"{self._name} comes without nouns; give a file of embedded ones with --nouns")
                nouns = self._vocabulary.embeddings
                if "noun_embeddings" in reads and any(self._vocabulary.synset_ids):
                    hypernyms = hypernym_pairs(self._vocabulary.synset_ids, hypernym_table()[0])
            prepared = prepare(
                self._train,
                reads=reads,
                num_clusters=self._num_clusters,
                noun_embeddings=nouns,
                noun_hypernyms=hypernyms,
                temperature=self._temperature,
                num_neighbors=self._num_neighbors,
                seed=self._seed,
            )
            self._prepared[reads] = prepared, time.perf_counter() - started
        return self._prepared[reads]


def class_of_cluster(labels_true: np.ndarray, clusters: np.ndarray) -> dict[int, str]:
    """The one-to-one matching of clusters and classes that gets most rows right (Hungarian; rectangular if need be)."""
    classes, found = np.unique(labels_true), np.unique(clusters)
    rows, columns = linear_sum_assignment(contingency_matrix(labels_true, clusters), maximize=True)
    return {int(found[column]): classes[row] for row, column in zip(rows, columns, strict=True)}


def is_right(labels_true: np.ndarray, clusters: np.ndarray, matching: Mapping[int, str]) -> np.ndarray:
    """Whether each row's cluster is matched with its class; a cluster without a class is wrong."""
    found = np.array([matching.get(int(cluster)) for cluster in clusters], dtype=object)
    return np.array(found == labels_true.astype(object), dtype=bool)


def reliability(confidences: np.ndarray, right: np.ndarray) -> tuple[float, list[dict]]:
    """Expected calibration error, 0..1, and the bins of a reliability diagram (ten of equal width, without empty ones).

    The error is the mean distance between confidence and accuracy over the bins, weighted by their rows.
    """
    index = np.minimum((confidences * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    bins = [
        {
            "from": number / _CALIBRATION_BINS,
            "to": (number + 1) / _CALIBRATION_BINS,
            "rows": int(inside.sum()),
            "confidence": float(confidences[inside].mean()),
            "accuracy": float(right[inside].mean()),
        }
        for number in range(_CALIBRATION_BINS)
        for inside in [index == number]
        if inside.any()
    ]
    error = sum(part["rows"] * abs(part["confidence"] - part["accuracy"]) for part in bins) / len(right)
    return float(error), bins


def accuracy_by_tenth(confidences: np.ndarray, right: np.ndarray) -> list[float]:
    """The share that is right of each tenth of the rows, the least sure tenth first; at least ten rows."""
    return [float(tenth.mean()) for tenth in np.array_split(right[np.argsort(confidences, kind="stable")], 10)]


def score(
    dataset: Dataset, split: Split, train: np.ndarray, unseen: np.ndarray, *, protocol: str, seed: int
) -> dict[str, Any]:
    """All scores of one run, fractions. Labels come in here for the first time."""
    rows, probs = (split.unseen, unseen) if protocol == "train_test" else (split.train, train)
    clusters, labels = probs.argmax(axis=1), dataset.labels[rows]
    matching = class_of_cluster(labels, clusters)
    confidences, right = probs.max(axis=1), is_right(labels, clusters, matching)
    error, bins = reliability(confidences, right)
    embeddings = dataset.embeddings[rows]
    result: dict[str, Any] = {
        **external_scores(labels, clusters),
        **label_free_scores(
            embeddings, clusters, num_clusters=probs.shape[1], num_neighbors=_AGREEMENT_NEIGHBORS, seed=seed
        ),
        "turtle_score": turtle_score(embeddings, clusters, seed=seed),
        "calibration_error": error,
        "reliability": bins,
        "accuracy_by_tenth": accuracy_by_tenth(confidences, right),
        "clusters_with_rows": len(np.unique(clusters)),
    }
    if protocol == "held_out":
        held_out, truth = unseen.argmax(axis=1), dataset.labels[split.unseen]
        scores = external_scores(truth, held_out)
        scores["acc"] = float(is_right(truth, held_out, matching).mean())
        result.update({f"held_out_{name}": value for name, value in scores.items()})
    return result


def summarize(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and sample standard deviation over seeds of every number (None for one seed)."""
    names = [name for name, value in runs[0].items() if isinstance(value, int | float) and name != "seed"]
    return {
        name: {
            "mean": statistics.fmean(run[name] for run in runs),
            "std": statistics.stdev(run[name] for run in runs) if len(runs) > 1 else None,
        }
        for name in names
    }


def pick(runs: Sequence[Mapping[str, Any]], by: str) -> dict[str, Any]:
    """The run that a label-free score likes best; the first of equals."""
    best = max(runs, key=lambda run: LABEL_FREE_SCORES[by] * run[by])
    return {"by": by, **{name: value for name, value in best.items() if name not in _CURVES}}


def measure(
    dataset: Dataset, methods: Sequence[str], settings: Mapping[str, Mapping[str, Any]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """All methods on one data set: one entry a method with its runs and their summary."""
    num_clusters = len(np.unique(dataset.labels))
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for seed in range(options.seeds):
        split = split_rows(dataset, options.protocol, seed=seed)
        trained = Runs(dataset, split, num_clusters=num_clusters, seed=seed, num_neighbors=options.num_neighbors)
        for method in methods:
            train, unseen, seconds = trained.run(method, settings[method])
            scores = score(dataset, split, train, unseen, protocol=options.protocol, seed=seed)
            runs[method].append({"seed": seed, **scores, "seconds": seconds})
            print(
                f"{dataset.name} {method} seed {seed}: ACC {100 * scores['acc']:.1f} NMI {100 * scores['nmi']:.1f} "
                f"ARI {100 * scores['ari']:.1f} in {seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return [
        {
            "dataset": dataset.name,
            "method": method,
            "settings": dict(settings[method]),
            "summary": summarize(runs[method]),
            **({"picked": pick(runs[method], options.pick)} if options.pick else {}),
            "runs": runs[method],
        }
        for method in methods
    ]


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with code 2 and one line when it is unusable."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--datasets", nargs="+", required=True, metavar="NAME",
        help=f".npz files or image folders, or names in the data directory; of the paper: "
        f"{', '.join(PAPER_SETS)}")  # fmt: skip
    add("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD", help=", ".join(METHODS))
    add("--seeds", type=int, default=5, help="seeds 0..SEEDS-1 (default 5)")
    add("--protocol", choices=PROTOCOLS, required=True, help="; ".join(f"{k}: {v}" for k, v in PROTOCOLS.items())
        .replace("%", "%%"))  # fmt: skip
    add("--data", type=Path, default=os.environ.get("DXMC_EVALUATION_DATA"), metavar="DIR",
        help="where data sets given by name lie (default: DXMC_EVALUATION_DATA)")  # fmt: skip
    add("--output", type=Path, required=True, help="JSON file, written anew after every data set")
    add("--markdown", type=Path, help="Markdown file with the tables")
    add("--reliability", type=Path, help="SVG file with the reliability diagram")
    add("--set", action="append", default=[], metavar="METHOD.KEY=VALUE", help="a setting of one method")
    add("--pick", metavar="SCORE", help=f"also show the seed that is best by one of {', '.join(LABEL_FREE_SCORES)}")
    add("--num-neighbors", type=int, default=50, help="neighbours mined a row and modality (default 50)")
    add("--nouns", type=Path, help="embedded nouns for .npz data sets (default: nouns.npz beside the file)")
    add("--encoder", choices=("open_clip", "offline"), default="open_clip", help="for folders of images")
    add("--model", default="ViT-B-32-quickgelu", help="of open_clip")
    add("--pretrained", default="openai", help="of open_clip: a tag or a checkpoint file")
    add("--wordnet-subset", choices=("all", "frequent", "first_lemma"), default="all", help="nouns for image folders")
    add("--cache", type=Path, default=default_cache(), help="where embeddings of images and nouns are kept")
    options = parser.parse_args(arguments)
    if options.pick in LABELLED_SCORES:
        parser.error(f"--pick {options.pick}: refused, labels may score a run but never choose one; "
                     f"expected one of {', '.join(LABEL_FREE_SCORES)}")  # fmt: skip
    if options.pick is not None and options.pick not in LABEL_FREE_SCORES:
        parser.error(f"--pick {options.pick}: expected one of {', '.join(LABEL_FREE_SCORES)}")
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: expected at least 1")
    if len(set(options.datasets)) < len(options.datasets) or len(set(options.methods)) < len(options.methods):
        parser.error("a data set or a method is listed twice")
    options.data = Path(options.data) if options.data is not None else None
    return options


def settings_of_methods(methods: Sequence[str], given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What --set asks for, by method.

    Raises:
        InputError: not METHOD.KEY=VALUE, a method that is not measured, or a setting it does not have.
    """
    settings: dict[str, dict[str, Any]] = {method: {} for method in methods}
    for text in given:
        path, separator, value = text.partition("=")
        method, dot, key = path.partition(".")
        if not (separator and dot and key) or method not in settings:
            raise InputError(f"--set {text}: expected METHOD.KEY=VALUE with a method of {', '.join(methods)}")
        settings[method][key] = yaml.safe_load(value)
    for method, chosen in settings.items():
        try:
            method_settings(method, num_clusters=2, num_images=2, **chosen)
        except ValueError as error:
            raise InputError(f"--set: {error}") from error
    return settings


def _encoder(options: argparse.Namespace) -> EncoderConfig:
    if options.encoder == "offline":
        return OfflineConfig(kind="offline")
    return OpenClipConfig(model=options.model, pretrained=options.pretrained)


def _new_report(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """Everything but the results. Folders are left out of the command: they say nothing to others."""
    names = ["DIR" if text == str(options.data) else text for text in arguments]
    shown = [Path(text).name if Path(text).is_absolute() else text for text in names]
    return {
        "protocol": {
            "name": options.protocol,
            "description": PROTOCOLS[options.protocol],
            "selection": "Last epoch, every seed counts, K is the number of classes; nothing is chosen by labels.",
        },
        "units": "scores are fractions, times are seconds",
        "command": f"python benchmarks/quality.py {shlex.join(shown)}",
        "finished_at": None,
        "num_seeds": options.seeds,
        "num_neighbors": options.num_neighbors,
        "methods": list(options.methods),
        "environment": {
            "dxmc": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "datasets": {},
        "results": [],
    }


def _write(report: dict[str, Any], options: argparse.Namespace) -> None:
    for path, content in (
        (options.output, json.dumps(report, indent=1) + "\n"),
        (options.markdown, markdown(report) + "\n" if options.markdown else ""),
        (options.reliability, reliability_svg(report) if options.reliability else ""),
    ):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            unfinished.write_text(content)
            unfinished.replace(path)


def benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """Measure what the command line asks for; the report, which has also been written."""
    settings = settings_of_methods(options.methods, options.set)
    data = DataOptions(
        folder=options.data,
        nouns=options.nouns,
        encoder=_encoder(options),
        vocabulary=WordNetConfig(subset=options.wordnet_subset),
        cache=options.cache,
    )
    report = _new_report(options, arguments)
    for name in options.datasets:
        dataset = load_dataset(name, data)
        entries = measure(dataset, options.methods, settings, options)
        report["datasets"][name] = {
            "title": dataset.title,
            "rows": len(dataset.embeddings),
            "num_clusters": len(np.unique(dataset.labels)),
            "embedding_width": dataset.embeddings.shape[1],
            "nouns": len(dataset.vocabulary.nouns) if dataset.vocabulary is not None else 0,
            "retrieval_temperature": dataset.temperature,
            **dataset.identity,
        }
        report["results"] += entries
        published = name_of_published(name)
        if published is not None:
            report.setdefault("published_percent", {})[name] = {
                method: rows[published] for method, rows in PUBLISHED.items()
            }
        report["finished_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        _write(report, options)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the tables; 0 when done, 2 for unusable input."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parse_arguments(arguments)
    prefer_onednn()
    try:
        report = benchmark(options, arguments)
    except InputError as error:
        print(f"quality: {error}", file=sys.stderr)
        return 2
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
