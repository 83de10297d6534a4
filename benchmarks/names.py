"""How right the clusters' names are: what each is in WordNet to the class that most members of its cluster have.

    python benchmarks/names.py --data DIR --datasets caltech101 food10 cifar10_test500 --seeds 5 --cache LABELS

DIR has NAME.npz with `embeddings` and `labels`, nouns.npz with `nouns` and `embeddings`, and class_names.json: the
names of each set's classes in the order of their labels. Prints JSON, and a table with --markdown. Clusters are those
of `best` at the true K, which --cache keeps. Three ways to name them stand side by side:

- dxmc: what the product does.
- nearest: the noun nearest to the cluster's centre.
- c_tf_idf: the noun among the five nearest of more members than of other clusters', by BERTopic's weights.

`right` is the share of names that are the class, a synonym or a concept above it, over clusters whose commonest class
is a meaning of some noun of the vocabulary; `exact` leaves out what is above. Nothing that names sees labels.
"""

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dxmc_core.errors import InputError
from dxmc_core.estimator import DXMC
from dxmc_core.evaluation.name_agreement import NounSenses, Relation
from dxmc_core.method.nouns.name_choice import spelling_key, without_gloss
from dxmc_core.method.nouns.naming import name_clusters
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.runtime.cpu_products import prefer_onednn
from dxmc_core.vocabulary.wordnet import commonest_synsets, kinds_of_compounds, wordnet_taxonomy
from dxmc_core.withheld_nouns import concepts_that_name, is_shown

METHODS = ("dxmc", "nearest", "c_tf_idf")
RIGHT: tuple[Relation, ...] = ("equal", "synonym", "hypernym")
EXACT: tuple[Relation, ...] = ("equal", "synonym")
COLUMNS: tuple[Relation, ...] = ("equal", "synonym", "hypernym", "hyponym", "sibling", "other", "unnamed")
_NOUNS_PER_IMAGE = 5


@dataclass(frozen=True)
class LabelledSet:
    """Embeddings (N, D) and the class (N,) of each row, as text."""

    name: str
    embeddings: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Nouns:
    """The nouns that may name a cluster, with what `name_clusters` wants of them, and all that they can mean.

    Attributes:
        embeddings: (M, D) unit rows.
        given: of all nouns of the file, those included that may name none: what clusters are found by.
    """

    nouns: list[str]
    embeddings: np.ndarray
    given: tuple[list[str], np.ndarray]
    synset_ids: list[str | None]
    kinds: list[str | None]
    meanings: frozenset[str]


@dataclass(frozen=True)
class Clusters:
    """The cluster (N,) of every row, and how sure it is."""

    labels: np.ndarray
    confidences: np.ndarray


def read_set(folder: Path, name: str) -> LabelledSet:
    with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
        embeddings, labels = archive["embeddings"], archive["labels"]
    names = json.loads((folder / "class_names.json").read_text())[name]
    classes, places = np.unique(labels, return_inverse=True)
    if len(classes) != len(names):
        raise InputError(f"{name}: {len(classes)} classes have rows, class_names.json names {len(names)}")
    return LabelledSet(name, embeddings, np.array(names)[places])


def read_nouns(folder: Path, senses: NounSenses) -> Nouns:
    with np.load(folder / "nouns.npz", allow_pickle=False) as archive:
        given = archive["nouns"].tolist(), archive["embeddings"]
    nouns, embeddings = given
    synset_ids = commonest_synsets(nouns)
    shown = np.flatnonzero(is_shown(nouns, synset_ids))
    nouns = [nouns[noun] for noun in shown]
    meanings = frozenset().union(*(senses.of(without_gloss(noun).partition("/")[0]) for noun in nouns))
    rows = unit_rows(embeddings[shown], name="nouns")
    synset_ids = [synset_ids[noun] for noun in shown]
    return Nouns(nouns, rows, given, synset_ids, kinds_of_compounds(nouns, synset_ids), meanings)


def clusters_of(data: LabelledSet, vocabulary: Nouns, *, seed: int, cache: Path | None) -> Clusters:
    """Those of `best`, from the cache where they are there."""
    path = None if cache is None else cache / f"{data.name}-{seed}.npz"
    if path is not None and path.exists():
        with np.load(path, allow_pickle=False) as archive:
            return Clusters(archive["labels"], archive["confidences"])
    model = DXMC(len(np.unique(data.classes)), random_state=seed)
    nouns, noun_embeddings = vocabulary.given
    model.fit(data.embeddings, noun_embeddings=noun_embeddings, nouns=nouns)
    found = Clusters(model.labels_, model.predict_proba(data.embeddings).max(axis=1))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, labels=found.labels, confidences=found.confidences)
    return found


def names_by(method: str, images: np.ndarray, found: Clusters, vocabulary: Nouns) -> list[str]:
    """A name for every cluster, K; "" where it has none. Names in brackets are left on.

    Args:
        images: (N, D) unit rows.
    """
    num_clusters = int(found.labels.max()) + 1
    if method == "dxmc":
        names = name_clusters(
            images,
            found.labels,
            vocabulary.embeddings,
            vocabulary.nouns,
            vocabulary.synset_ids,
            num_clusters=num_clusters,
            kinds=vocabulary.kinds,
            taxonomy=concepts_that_name(wordnet_taxonomy(), judging=False),
            confidences=found.confidences,
        )
        return ["" if name.source == "unnamed" else name.name for name in names]
    if method == "nearest":
        sums = np.stack([images[found.labels == cluster].sum(axis=0) for cluster in range(num_clusters)])
        return [vocabulary.nouns[noun] for noun in (sums @ vocabulary.embeddings.T).argmax(axis=1)]
    nearest = np.argsort(-(images @ vocabulary.embeddings.T), axis=1)[:, :_NOUNS_PER_IMAGE]
    counts = np.zeros((num_clusters, len(vocabulary.nouns)))
    np.add.at(counts, (np.repeat(found.labels, _NOUNS_PER_IMAGE), nearest.ravel()), 1)
    rarity = np.log(1 + counts.sum() / num_clusters / np.maximum(counts.sum(axis=0), 1))
    return [vocabulary.nouns[noun] for noun in (counts * rarity).argmax(axis=1)]


def judge(
    names: Sequence[str], labels: np.ndarray, classes: np.ndarray, vocabulary: Nouns, senses: NounSenses
) -> dict[str, Any]:
    """Relations of the names to the commonest classes, and shares over the classes that the vocabulary has a noun for.

    `with_second_word` counts clusters whose name is told from another one's by a second word.
    """
    of_all: Counter[str] = Counter()
    of_known: Counter[str] = Counter()
    cases = []
    for cluster in np.unique(labels).tolist():
        [(label, _)] = Counter(classes[labels == cluster].tolist()).most_common(1)
        # Of "Barrel/bucket" the first word counts, whoever gives the name.
        relation = senses.relation(without_gloss(names[cluster]).partition("/")[0], label)
        if relation != "unknown" and not names[cluster]:
            relation = "unnamed"
        of_all[relation] += 1
        if senses.of(label) & vocabulary.meanings:
            of_known[relation] += 1
        cases.append({"class": label, "name": names[cluster], "relation": relation})
    num_known = max(sum(of_known.values()), 1)
    keys = [spelling_key(name) for name in names if name]
    return {
        "relations": {column: of_all[column] for column in (*COLUMNS, "unknown")},
        "known": sum(of_known.values()),
        "right": 100 * sum(of_known[relation] for relation in RIGHT) / num_known,
        "exact": 100 * sum(of_known[relation] for relation in EXACT) / num_known,
        "with_second_word": len(keys) - len(set(keys)),
        "clusters": cases,
    }


def measure(
    data: LabelledSet, vocabulary: Nouns, senses: NounSenses, *, seed: int, cache: Path | None
) -> list[dict[str, Any]]:
    found = clusters_of(data, vocabulary, seed=seed, cache=cache)
    images = unit_rows(data.embeddings, name=data.name)
    return [
        {
            "dataset": data.name,
            "seed": seed,
            "method": method,
            **judge(names_by(method, images, found, vocabulary), found.labels, data.classes, vocabulary, senses),
        }
        for method in METHODS
    ]


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """A table: one line per set and method, means over seeds."""
    lines = [
        "| | named by | right | exact | " + " | ".join(COLUMNS) + " | class unknown |",
        "|---|---" * 1 + "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for dataset in dict.fromkeys(row["dataset"] for row in results):
        for method in METHODS:
            rows = [row for row in results if (row["dataset"], row["method"]) == (dataset, method)]
            counts = [
                f"{statistics.mean(row['relations'][column] for row in rows):.1f}" for column in (*COLUMNS, "unknown")
            ]
            shares = [f"{statistics.mean(row[key] for row in rows):.1f}" for key in ("right", "exact")]
            known = statistics.mean(row["known"] for row in rows)
            lines.append(f"| {dataset} ({known:.0f} known) | {method} | " + " | ".join([*shares, *counts]) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to this less one")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where clusters are kept for the next call")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    prefer_onednn()
    senses = NounSenses()
    results = []
    try:
        vocabulary = read_nouns(options.data, senses)
        for name in options.datasets:
            data = read_set(options.data, name)
            for seed in range(options.seeds):
                results += measure(data, vocabulary, senses, seed=seed, cache=options.cache)
    except (InputError, OSError, KeyError) as error:
        print(f"names: {error}", file=sys.stderr)
        return 2
    if options.markdown is not None:
        options.markdown.write_text(markdown(results))
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
