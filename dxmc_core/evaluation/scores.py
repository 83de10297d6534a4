"""Judges a finished run: against labels where there are some, and by label-free scores always."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.matrices import load_rows
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.storage import read_user_file
from dxmc_core.artifacts.tables import ASSIGNMENTS, CATALOG, CLUSTERS
from dxmc_core.artifacts.user_tables import column_names, read_columns
from dxmc_core.artifacts.user_values import as_labels, as_text, require_once
from dxmc_core.errors import InputError, named
from dxmc_core.evaluation.name_agreement import name_agreement
from dxmc_core.method.clusters.metrics import cross_tabulate, external_scores, label_free_scores

MAX_SCORED_IMAGES = 20_000
#: In the place of a file of labels: an image's label is the folder that its image_id lies in.
PARENT_FOLDER = "parent_folder"
#: What many data sets write for the class of an image that has none; see `without_unlabelled`.
UNLABELLED = "-1"

logger = logging.getLogger(__name__)


def evaluate_run(run_dir: RunDir, *, labels_uri: str | None = None, seed: int = 0, with_names: bool = False) -> dict:
    """Scores of a run, fractions in 0..1 unless a score's documentation says otherwise.

    Args:
        with_names: judge the clusters' names too, for which WordNet is loaded.

    Returns:
        images, clusters, label_free (on a sample of at most 20,000 images) and, where labels are known,
        labelled_images, external (acc, nmi, ari over the labelled images), classes (see `class_rows`) and, when they
        are asked for and a label is a noun of WordNet, names (see `name_agreement`).

    Raises:
        ArtifactError: the run is not finished.
        InputError: the labels cannot be used.
    """
    assignments = run_dir.read_table(ASSIGNMENTS, ["row_id", "image_id", "cluster_id"])
    clusters = assignments["cluster_id"].to_numpy()
    result = {
        "run_dir": run_dir.uri,
        "images": len(clusters),
        "clusters": len(np.unique(clusters)),
        "label_free": _label_free(run_dir, assignments, seed=seed),
    }
    labels = label_column(run_dir, assignments, labels_uri=labels_uri)
    known = np.array([label is not None for label in labels], dtype=bool)
    if known.any():
        true = np.array([label for label in labels if label is not None])
        result["labelled_images"] = int(known.sum())
        result["external"] = external_scores(true, clusters[known])
        names, sources = _names_and_sources(run_dir)
        result["classes"] = class_rows(true, clusters[known], names)
        if with_names:
            agreement = name_agreement(true, clusters[known], names, sources)
            if agreement["unknown"] < sum(agreement.values()):
                result["names"] = agreement
    return result


def class_rows(labels: np.ndarray, clusters: np.ndarray, names: Mapping[int, str]) -> list[dict]:
    """What became of each class, in the order of the labels: the confusion table, one row per class.

    A row has label, images, matched_cluster (by the one-to-one matching that ACC is measured with; None where there
    are more classes than clusters) and its name, recall and precision under that matching, and clusters: the images in
    each cluster that has any, most first.
    """
    table = cross_tabulate(labels, clusters)
    sizes = table.counts.sum(axis=0)
    rows = []
    for label, counts, column, correct in zip(
        table.first.tolist(), table.counts, table.matched, table.num_matched.tolist(), strict=True
    ):
        matched = int(table.second[column]) if column >= 0 else None
        order = np.argsort(-counts, kind="stable")
        rows.append(
            {
                "label": label,
                "images": int(counts.sum()),
                "matched_cluster": matched,
                "matched_name": None if matched is None else names.get(matched, str(matched)),
                "recall": correct / int(counts.sum()),
                "precision": correct / int(sizes[column]) if column >= 0 else 0.0,
                "clusters": [
                    {
                        "cluster_id": int(table.second[at]),
                        "name": names.get(int(table.second[at]), str(table.second[at])),
                        "images": int(counts[at]),
                    }
                    for at in order
                    if counts[at]
                ],
            }
        )
    return rows


def cluster_names(run_dir: RunDir) -> dict[int, str]:
    """Names by cluster id."""
    return _names_and_sources(run_dir)[0]


def _names_and_sources(run_dir: RunDir) -> tuple[dict[int, str], dict[int, str]]:
    columns = ["cluster_id", "name", "name_source"]
    clusters = run_dir.read_table(CLUSTERS, columns)
    cluster_ids, names, sources = (clusters[column].to_pylist() for column in columns)
    return dict(zip(cluster_ids, names, strict=True)), dict(zip(cluster_ids, sources, strict=True))


def label_column(run_dir: RunDir, assignments: pa.Table, *, labels_uri: str | None = None) -> list[str | None]:
    """The label of each assigned image: from a file or the folders when that is asked for, else from the catalog.

    Args:
        assignments: with the columns row_id and image_id.
        labels_uri: .csv or .parquet with the columns image_id and label; or `parent_folder`, of the image_id.

    Raises:
        InputError: the file cannot be read, none of its ids is in the run, or no image_id has a folder.
    """
    if labels_uri == PARENT_FOLDER:
        folders = [PurePosixPath(image_id).parent.name or None for image_id in assignments["image_id"].to_pylist()]
        if not any(folders):
            raise InputError(
                "no image_id of this run names a folder to take labels from; an id here is "
                f"{assignments['image_id'][0]}"
            )
        return folders
    if labels_uri is not None:
        by_id = _read_labels(labels_uri)
        labels = without_unlabelled([by_id.get(image_id) for image_id in assignments["image_id"].to_pylist()])
        if all(label is None for label in labels):
            raise InputError(f"no image_id of {labels_uri} is in this run; an id here is {assignments['image_id'][0]}")
        return labels
    catalog = run_dir.read_table(CATALOG, ["row_id", "label"])
    all_labels = catalog["label"].to_pylist()
    return without_unlabelled([all_labels[row_id] for row_id in assignments["row_id"].to_pylist()])


def without_unlabelled(labels: list[str | None]) -> list[str | None]:
    """The labels with None for -1 where that marks what has none: among two or more classes that are 0 or above.

    So scikit-learn and many data sets write it. Between -1 and 1 alone it is a class.
    """
    classes = set(labels) - {None, UNLABELLED}
    if UNLABELLED not in labels or len(classes) < 2 or not all(text and text.isdecimal() for text in classes):
        return labels
    logger.info("%d labels are %s and count as missing", labels.count(UNLABELLED), UNLABELLED)
    return [None if label == UNLABELLED else label for label in labels]


def _label_free(run_dir: RunDir, assignments: pa.Table, *, seed: int) -> dict[str, float]:
    count = assignments.num_rows
    chosen = np.arange(count)
    if count > MAX_SCORED_IMAGES:
        chosen = np.sort(np.random.default_rng(seed).choice(count, MAX_SCORED_IMAGES, replace=False))
    row_ids = assignments["row_id"].to_numpy()[chosen]
    order = np.argsort(row_ids, kind="stable")
    rows = load_rows(run_dir.stage("embed_images"), "images", row_ids[order])
    return label_free_scores(rows.values, assignments["cluster_id"].to_numpy()[chosen][order], seed=seed)


def _read_labels(uri: str) -> dict[str, str | None]:
    """Labels by image id; a line without an id or a label says nothing of any image."""
    with named("the labels"):
        data = read_user_file(uri)
    columns = _parquet_labels(data, uri) if uri.endswith(".parquet") else _csv_labels(data, uri)
    by_id: dict[str, str | None] = {}
    for image_id, label in zip(as_text(columns["image_id"]), as_labels(columns["label"]), strict=True):
        if image_id is None or label is None:
            continue
        if by_id.setdefault(image_id, label) != label:
            raise InputError(f"{uri} has two labels for {image_id!r}, {by_id[image_id]!r} and {label!r}; give it one")
    return by_id


_LABEL_COLUMNS = ("image_id", "label")


def _parquet_labels(data: bytes, uri: str) -> dict[str, list[Any]]:
    columns = read_columns(data, _LABEL_COLUMNS, uri)
    if len(columns) < len(_LABEL_COLUMNS):
        raise _wrong_columns(uri, column_names(data, uri))
    return {name: column.to_pylist() for name, column in columns.items()}


def _csv_labels(data: bytes, uri: str) -> dict[str, list[Any]]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), restval="")
        names = reader.fieldnames or ()
        if not set(_LABEL_COLUMNS).issubset(names):
            raise _wrong_columns(uri, names)
        for name in _LABEL_COLUMNS:
            require_once(name, names, uri)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the labels {uri}: {error}; expected .csv or .parquet") from error
    return {name: [row[name] for row in rows] for name in _LABEL_COLUMNS}


def _wrong_columns(uri: str, names: Sequence[str]) -> InputError:
    found = ", ".join(sorted(names)) or "none"
    return InputError(f"{uri}: expected the columns {' and '.join(_LABEL_COLUMNS)}, found {found}")
