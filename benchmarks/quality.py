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
from measured import measured
from quality_data import PAPER_SETS, DataOptions, Dataset, default_cache, load_dataset
from quality_peers import PEERS, check_installed
from quality_reliability import reliability_svg
from quality_tables import PUBLISHED, markdown, name_of_published
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix

from dxmc_core import __version__
from dxmc_core.encoders import EncoderConfig, OfflineConfig, OpenClipConfig
from dxmc_core.errors import InputError
from dxmc_core.method.clusters.metrics import external_scores, label_free_scores
from dxmc_core.method.clusters.turtle_score import turtle_score
from dxmc_core.method.fit import assign, fit_heads
from dxmc_core.method.hyperparameters import METHODS, TEXT_MATRICES, method_reads, method_settings
from dxmc_core.method.preparation import (
    Prepared,
    prepare,
    text_counterparts_as_stored,
)
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.runtime.cpu_products import prefer_onednn
from dxmc_core.vocabulary import WordNetConfig
from dxmc_core.vocabulary.wordnet import wordnet_taxonomy

PROTOCOLS = {
    "all_rows": "trained on all rows, scored on the same rows",
    "train_test": "trained on the train part alone, scored on the test part alone",
    "held_out": (
        "trained on a random 80% of the rows, drawn by the seed; both parts are scored under one matching of clusters "
        "and classes, found on the trained rows"
    ),
    "imbalanced": (
        "trained and scored on a resample: classes keep shares between all and a tenth of their rows, evenly spaced "
        "on a logarithmic scale, in an order drawn by the seed"
    ),
}
HELD_OUT_SHARE = 0.2
SMALLEST_SHARE = 0.1

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
    if protocol == "imbalanced":
        return Split(_imbalanced_rows(dataset.labels, seed=seed), np.arange(0))
    if dataset.is_test is None:
        raise InputError(
            f"{dataset.name} has no test part (train/ and test/ folders, or an array is_test); protocols for it: "
            "all_rows, held_out, imbalanced"
        )
    return Split(np.flatnonzero(~dataset.is_test), np.flatnonzero(dataset.is_test))


def _imbalanced_rows(labels: np.ndarray, *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(labels))
    kept = []
    for name, share in zip(classes, np.geomspace(1, SMALLEST_SHARE, len(classes)), strict=True):
        rows = np.flatnonzero(labels == name)
        kept.append(rng.choice(rows, max(round(share * len(rows)), 1), replace=False))
    return np.sort(np.concatenate(kept))


@dataclass(frozen=True)
class Outcome:
    """What a method made of one split.

    Attributes:
        train, unseen: clusters of the rows it was trained on and of the others; a peer's noise is one more cluster.
        train_confidences, unseen_confidences: how sure it was of each; None for peers, which do not say.
        num_clusters: clusters asked for, empty ones included; for peers those found.
        seconds: of everything after the embeddings.
        noise: share of the trained rows that a peer left without a cluster.
    """

    train: np.ndarray
    unseen: np.ndarray
    train_confidences: np.ndarray | None
    unseen_confidences: np.ndarray | None
    num_clusters: int
    seconds: float
    noise: float = 0.0


class Runs:
    """Runs methods on one split of one data set; matrices that several methods read are made once.

    It holds embeddings and no labels: nothing in here could look at them.
    """

    def __init__(self, dataset: Dataset, split: Split, *, num_clusters: int, seed: int, num_neighbors: int) -> None:
        self._train, self._unseen = dataset.embeddings[split.train], dataset.embeddings[split.unseen]
        self._vocabulary, self._temperature = dataset.vocabulary, dataset.temperature
        self._name, self._num_clusters, self._seed = dataset.name, num_clusters, seed
        self._num_neighbors = num_neighbors
        self._prepared: dict[frozenset[str], tuple[Prepared, float]] = {}

    def run(self, method: str, settings: Mapping[str, Any]) -> Outcome:
        return self._run_peer(method) if method in PEERS else self._run(method, settings)

    def _run(self, method: str, settings: Mapping[str, Any]) -> Outcome:
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
        seconds += time.perf_counter() - started
        return Outcome(
            train.argmax(axis=1), unseen.argmax(axis=1), train.max(axis=1), unseen.max(axis=1), train.shape[1], seconds
        )

    def _run_peer(self, name: str) -> Outcome:
        peer, nouns, seconds = PEERS[name], None, 0.0
        if peer.needs_nouns:
            prepared, seconds = self._prepare(frozenset({"selected_nouns"}))
            assert prepared.selected_embeddings is not None
            nouns = unit_rows(prepared.selected_embeddings, name="selected_nouns")
        rows = unit_rows(self._train, name="embeddings")
        peer.get_ready(rows)
        started = time.perf_counter()
        found = peer.cluster(rows, self._num_clusters, self._seed, nouns).astype(np.int64)
        seconds += time.perf_counter() - started
        names, clusters = np.unique(np.maximum(found, -1), return_inverse=True)
        noise = float((found < 0).mean())
        return Outcome(clusters, np.empty(0, dtype=np.int64), None, None, len(names), seconds, noise)

    def _prepare(self, reads: frozenset[str]) -> tuple[Prepared, float]:
        if reads not in self._prepared:
            started = time.perf_counter()
            nouns = hypernyms = None
            if TEXT_MATRICES & reads:
                if self._vocabulary is None:
                    raise InputError(f"{self._name} comes without nouns; give a file of embedded ones with --nouns")
                nouns = self._vocabulary.embeddings
                if "noun_embeddings" in reads and any(self._vocabulary.synset_ids):
                    hypernyms = wordnet_taxonomy().pairs(self._vocabulary.synset_ids)
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


def score(dataset: Dataset, split: Split, outcome: Outcome, *, protocol: str, seed: int) -> dict[str, Any]:
    """All scores of one run, fractions. Labels come in here for the first time."""
    is_test = protocol == "train_test"
    rows, clusters = (split.unseen, outcome.unseen) if is_test else (split.train, outcome.train)
    confidences = outcome.unseen_confidences if is_test else outcome.train_confidences
    labels, embeddings = dataset.labels[rows], dataset.embeddings[rows]
    matching = class_of_cluster(labels, clusters)
    result: dict[str, Any] = {
        **external_scores(labels, clusters),
        **label_free_scores(
            embeddings, clusters, num_clusters=outcome.num_clusters, num_neighbors=_AGREEMENT_NEIGHBORS, seed=seed
        ),
        "turtle_score": turtle_score(embeddings, clusters, seed=seed),
        "clusters_with_rows": len(np.unique(clusters)),
        "noise": outcome.noise,
        "seconds": outcome.seconds,
    }
    if confidences is not None:
        right = is_right(labels, clusters, matching)
        result["calibration_error"], result["reliability"] = reliability(confidences, right)
        result["accuracy_by_tenth"] = accuracy_by_tenth(confidences, right)
    if protocol == "held_out":
        truth = dataset.labels[split.unseen]
        scores = external_scores(truth, outcome.unseen)
        scores["acc"] = float(is_right(truth, outcome.unseen, matching).mean())
        result.update({f"held_out_{name}": value for name, value in scores.items()})
    return result


def summarize(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean, sample standard deviation over seeds (None for one seed) and least value of every number."""
    names = [name for name, value in runs[0].items() if isinstance(value, int | float) and name != "seed"]
    return {
        name: {
            "mean": statistics.fmean(run[name] for run in runs),
            "std": statistics.stdev(run[name] for run in runs) if len(runs) > 1 else None,
            "min": min(run[name] for run in runs),
        }
        for name in names
    }


def pick(runs: Sequence[Mapping[str, Any]], by: str) -> dict[str, Any]:
    """The run that a label-free score likes best; the first of equals."""
    best = max(runs, key=lambda run: LABEL_FREE_SCORES[by] * run[by])
    return {"by": by, **{name: value for name, value in best.items() if name not in _CURVES}}


def measure(
    dataset: Dataset,
    method: str,
    settings: Mapping[str, Any],
    options: argparse.Namespace,
    shared: dict[int, Runs],
) -> dict[str, Any]:
    """The entry of one method on one data set: its runs and their summary.

    Args:
        shared: by seed, for the matrices that other methods have read.
    """
    if options.apart:
        found = measured(outcomes, dataset, method, settings, options, {})
    else:
        found = outcomes(dataset, method, settings, options, shared)
    runs = []
    for seed, outcome in enumerate(found["outcomes"]):
        split = split_rows(dataset, options.protocol, seed=seed)
        scores = score(dataset, split, outcome, protocol=options.protocol, seed=seed)
        runs.append({"seed": seed, **scores})
        print(
            f"{dataset.name} {method} seed {seed}: ACC {100 * scores['acc']:.1f} NMI {100 * scores['nmi']:.1f} "
            f"ARI {100 * scores['ari']:.1f} in {scores['seconds']:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    summary = summarize(runs)
    if options.apart:
        summary["peak_gib"] = {"mean": found["peak_gib"], "std": None, "min": found["peak_gib"]}
    return {
        "dataset": dataset.name,
        "method": method,
        "settings": dict(settings),
        "summary": summary,
        **({"picked": pick(runs, options.pick)} if options.pick else {}),
        "runs": runs,
    }


def outcomes(
    dataset: Dataset, method: str, settings: Mapping[str, Any], options: argparse.Namespace, shared: dict[int, Runs]
) -> dict[str, Any]:
    """One outcome for each seed, under the key `outcomes`."""
    found = []
    for seed in range(options.seeds):
        if seed not in shared:
            shared[seed] = Runs(
                dataset,
                split_rows(dataset, options.protocol, seed=seed),
                num_clusters=len(np.unique(dataset.labels)),
                seed=seed,
                num_neighbors=options.num_neighbors,
            )
        found.append(shared[seed].run(method, settings))
    return {"outcomes": found}


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with code 2 and one line when it is unusable."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--datasets", nargs="+", required=True, metavar="NAME",
        help=f".npz files or image folders, or names in the data directory; of the paper: "
        f"{', '.join(PAPER_SETS)}")  # fmt: skip
    add("--methods", nargs="+", default=list(METHODS), choices=[*METHODS, *PEERS], metavar="METHOD",
        help=f"{', '.join(METHODS)}; methods of others, of the extra benchmarks: {', '.join(PEERS)}")  # fmt: skip
    add("--seeds", type=int, default=5, help="seeds 0..SEEDS-1 (default 5)")
    add("--protocol", choices=PROTOCOLS, required=True, help="; ".join(f"{k}: {v}" for k, v in PROTOCOLS.items())
        .replace("%", "%%"))  # fmt: skip
    add("--data", type=Path, default=os.environ.get("DXMC_EVALUATION_DATA"), metavar="DIR",
        help="where data sets given by name lie (default: DXMC_EVALUATION_DATA)")  # fmt: skip
    add("--apart", action="store_true",
        help="each method on each data set in a process of its own, which tells its peak memory")  # fmt: skip
    add("--output", type=Path, required=True, help="JSON file, written anew after every method on every data set")
    add("--resume", action="store_true", help="go on with what --output holds; what is in it is not measured again")
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
    if options.protocol not in ("all_rows", "imbalanced") and (peers := PEERS.keys() & options.methods):
        parser.error(f"--protocol {options.protocol}: expected all_rows or imbalanced with {', '.join(sorted(peers))}, "
                     "which cannot assign rows that were not trained on")  # fmt: skip
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
        if method in PEERS:
            if chosen:
                raise InputError(
                    f"--set {method}.{next(iter(chosen))}: {method} is a method of others and has no settings"
                )
            continue
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
    check_installed([method for method in options.methods if method in PEERS])
    data = DataOptions(
        folder=options.data,
        nouns=options.nouns,
        encoder=_encoder(options),
        vocabulary=WordNetConfig(subset=options.wordnet_subset),
        cache=options.cache,
    )
    report = _new_report(options, arguments)
    if options.resume and options.output.exists():
        _take_over(report, json.loads(options.output.read_text()), options.output)
    for name in options.datasets:
        dataset = load_dataset(name, data)
        description = {
            "title": dataset.title,
            "rows": len(dataset.embeddings),
            "num_clusters": len(np.unique(dataset.labels)),
            "embedding_width": dataset.embeddings.shape[1],
            "nouns": len(dataset.vocabulary.nouns) if dataset.vocabulary is not None else 0,
            "retrieval_temperature": dataset.temperature,
            **dataset.identity,
        }
        is_known = report["datasets"].get(name) == description
        report["datasets"][name] = description
        published = name_of_published(name)
        if published is not None:
            report.setdefault("published_percent", {})[name] = {
                method: rows[published] for method, rows in PUBLISHED.items()
            }
        shared: dict[int, Runs] = {}
        for method in options.methods:
            results = report["results"]
            before = [entry for entry in results if (entry["dataset"], entry["method"]) == (name, method)]
            if is_known and before and before[0]["settings"] == settings[method]:
                continue
            entry = measure(dataset, method, settings[method], options, shared)
            report["results"] = [*(other for other in results if other not in before), entry]
            report["finished_at"] = datetime.now(UTC).isoformat(timespec="seconds")
            _write(report, options)
    return report


def _take_over(report: dict[str, Any], earlier: Mapping[str, Any], path: Path) -> None:
    """Begin a report with what an earlier run measured.

    Raises:
        InputError: it was of another protocol, or of other seeds.
    """
    for name in ("protocol", "num_seeds", "num_neighbors"):
        if earlier[name] != report[name]:
            raise InputError(f"--resume: {path} has another {name} than this command; remove it, or write elsewhere")
    report["methods"] = list(dict.fromkeys([*earlier["methods"], *report["methods"]]))
    report["datasets"], report["results"] = dict(earlier["datasets"]), list(earlier["results"])
    if "published_percent" in earlier:
        report["published_percent"] = dict(earlier["published_percent"])


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
