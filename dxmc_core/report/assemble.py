"""Small constructors from what artifacts hold (arrays, dict rows of tables) to what the report shows."""

import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dxmc_core.report.data import (
    Curve,
    KEvidence,
    NounEvidence,
    Reject,
    Rejects,
    ReportCluster,
    ReportImage,
    Series,
    SuggestedK,
    Thumbnail,
    TreeNode,
)

#: Images of a lower sureness are called doubtful: the least sure tenth.
DOUBTFUL = 0.1


def report_images(
    row_ids: np.ndarray,
    image_ids: Sequence[str],
    *,
    cluster_ids: np.ndarray | None = None,
    uris: Sequence[str] | None = None,
    sureness: np.ndarray | None = None,
    runner_ups: np.ndarray | None = None,
    outlier_scores: np.ndarray | None = None,
    labels: Sequence[str | None] | None = None,
    thumbnails: Mapping[int, Thumbnail] | None = None,
) -> dict[int, ReportImage]:
    """One `ReportImage` a row id, from columns (P,) in the order of `row_ids`.

    Args:
        runner_ups: cluster ids; a negative one means none.
        thumbnails: by row id; rows without one are shown by their ids.
    """
    pictures = thumbnails or {}
    images = {}
    for position, row in enumerate(int(row) for row in row_ids):
        runner_up = None if runner_ups is None else int(runner_ups[position])
        images[row] = ReportImage(
            image_id=image_ids[position],
            uri="" if uris is None else uris[position],
            cluster_id=None if cluster_ids is None else int(cluster_ids[position]),
            sureness=None if sureness is None else float(sureness[position]),
            runner_up=runner_up if runner_up is not None and runner_up >= 0 else None,
            outlier_score=None if outlier_scores is None else float(outlier_scores[position]),
            label=None if labels is None else labels[position],
            thumbnail=pictures.get(row),
        )
    return images


def report_cluster(
    row: Mapping[str, Any],
    *,
    label_counts: Mapping[str, int] | None = None,
    doubtful_share: float | None = None,
    near_duplicates: Sequence[Sequence[int]] = (),
    max_exemplars: int = 12,
    max_border: int = 6,
    max_nearest: int = 5,
    max_groups: int = 3,
    max_copies: int = 4,
) -> ReportCluster:
    """A cluster card from a row of the `clusters` table (`Table.to_pylist()`), cut to what a card has room for."""
    return ReportCluster(
        cluster_id=row["cluster_id"],
        size=row["size"],
        name=row["name"],
        names=tuple(row["names"]),
        name_source=row["name_source"],
        evidence=tuple(NounEvidence(**evidence) for evidence in row["name_evidence"]),
        doubtful_share=doubtful_share,
        exemplars=tuple(row["exemplars"][:max_exemplars]),
        border=tuple(row["border"][:max_border]),
        nearest_clusters=tuple(row["nearest_clusters"][:max_nearest]),
        near_duplicates=tuple(tuple(group[:max_copies]) for group in near_duplicates[:max_groups]),
        num_near_duplicates=len(near_duplicates),
        label_counts=dict(label_counts or {}),
    )


def tree_of(rows: Iterable[Mapping[str, Any]], *, hidden: Container[int] = frozenset()) -> TreeNode | None:
    """The tree from the rows of the `cluster_tree` table, children before parents; None for fewer than two clusters.

    Args:
        hidden: ids of clusters that are left out.
    """
    children: dict[int | None, list[TreeNode]] = {}
    for row in rows:
        below = sorted(children.pop(row["node_id"], []), key=lambda node: -node.size)
        is_leaf = row["cluster_id"] is not None
        if row["cluster_id"] in hidden if is_leaf else not below:
            continue
        size = row["size"] if is_leaf else sum(child.size for child in below)
        node = TreeNode(name=row["name"], size=size, cluster_id=row["cluster_id"], children=tuple(below))
        if len(below) == 1:  # the other child is hidden
            (node,) = below
        children.setdefault(row["parent"], []).append(node)
    roots = children.get(None, [])
    return roots[0] if roots and roots[0].children else None


def k_evidence(rows: Sequence[Mapping[str, Any]]) -> KEvidence:
    """The choice of K from the rows of the `k_scores` table, by ascending K."""
    suggested = sorted((row for row in rows if row["rank"] is not None), key=lambda row: row["rank"])
    marks = [row["num_clusters"] for row in suggested]
    num_clusters = [row["num_clusters"] for row in rows]
    curves = [
        Curve(
            title=title,
            series=[Series(name=name, x=num_clusters, y=[row[name] for row in rows])],
            x_label="clusters",
            y_label=y_label,
            log_x=True,
            marks=marks,
        )
        for name, title, y_label in (
            ("overall", "Overall", "mean share of the best"),
            ("stability", "Stability between halves", "above reference, to 1"),
            ("separability", "Linear separability", "above reference, to 1"),
            ("compactness", "Compactness", "nats an image saved"),
        )
    ]
    suggestions = [
        SuggestedK(num_clusters=row["num_clusters"], overall=row["overall"], reason=row["reason"]) for row in suggested
    ]
    return KEvidence(suggestions=suggestions, curves=curves)


def sureness_of(confidences: np.ndarray) -> np.ndarray:
    """The share of images with a lower confidence, in 0..1; of images with the same one, half are taken as lower.

    A confidence is what training made of it: of 0.99 for all, the order still tells and the number does not.

    Args:
        confidences: (N,) float, N > 0.
    """
    ordered = np.sort(confidences)
    below = np.searchsorted(ordered, confidences, side="left")
    up_to = np.searchsorted(ordered, confidences, side="right")
    return (below + up_to) / (2 * len(confidences))


def doubtful_shares(cluster_ids: np.ndarray, sureness: np.ndarray) -> dict[int, float]:
    """By cluster id, the part of its members that are among the tenth of all images that are least sure."""
    found, codes = np.unique(cluster_ids, return_inverse=True)
    shares = np.bincount(codes, sureness < DOUBTFUL) / np.bincount(codes)
    return dict(zip(found.tolist(), shares.tolist(), strict=True))


def count_labels(cluster_ids: np.ndarray, labels: Sequence[str | None]) -> dict[int, dict[str, int]]:
    """Members of each label by cluster id, the most frequent first; rows without a label are not counted."""
    counts: dict[int, Counter[str]] = {}
    for cluster_id, label in zip(cluster_ids, labels, strict=True):
        if label is not None:
            counts.setdefault(int(cluster_id), Counter())[label] += 1
    return {cluster_id: dict(counter.most_common()) for cluster_id, counter in counts.items()}


def duplicates_by_cluster(
    row_ids: np.ndarray, group_ids: np.ndarray, cluster_ids: np.ndarray
) -> dict[int, list[list[int]]]:
    """Groups of near duplicates by the cluster that has most of them (its members only), the largest group first.

    Args:
        row_ids, group_ids, cluster_ids: (D,) of the images that have a near duplicate.
    """
    members: dict[int, dict[int, list[int]]] = {}
    for row, group, cluster in zip(row_ids.tolist(), group_ids.tolist(), cluster_ids.tolist(), strict=True):
        members.setdefault(group, {}).setdefault(cluster, []).append(row)
    by_cluster: dict[int, list[list[int]]] = {}
    for clusters in members.values():
        cluster, rows = max(clusters.items(), key=lambda item: (len(item[1]), -item[0]))
        if len(rows) > 1:
            by_cluster.setdefault(cluster, []).append(rows)
    return {cluster: sorted(groups, key=len, reverse=True) for cluster, groups in by_cluster.items()}


def gallery_positions(scores: np.ndarray, *, count: int, largest: bool) -> np.ndarray:
    """Positions of the `count` smallest or largest scores (N,), the extreme one first; NaN scores are left out."""
    order = np.argsort(-scores if largest else scores, kind="stable")
    return order[~np.isnan(scores[order])][:count]


def summarize_rejects(rows: Iterable[Mapping[str, Any]], *, num_examples: int = 200) -> Rejects:
    """Counts by reason over all rows of the `rejects` table, the first ones of each reason kept as examples in turn."""
    counts: Counter[str] = Counter()
    examples: dict[str, list[Reject]] = {}
    for row in rows:
        reason = row["reason"]
        counts[reason] += 1
        if len(examples.setdefault(reason, [])) < num_examples:
            examples[reason].append(
                Reject(image_id=row["image_id"], reason=reason, message=row["message"], uri=row["uri"])
            )
    room = max(1, num_examples // max(1, len(examples)))
    kept = tuple(reject for reason, _ in counts.most_common() for reject in examples[reason][:room])
    return Rejects(counts=dict(counts.most_common()), examples=kept)


def training_curves(reports: Iterable[Mapping[str, Any]]) -> tuple[Curve, ...]:
    """Charts of what training reported each epoch.

    Args:
        reports: the fields of an `EpochReport` each, as metrics.jsonl holds them: epoch, terms, balance, num_changed.
    """
    by_epoch = {int(report["epoch"]): report for report in reports}
    epochs = sorted(by_epoch)

    def series(name: str, values: Sequence[float | None]) -> Series:
        return Series(name=name, x=epochs, y=[float("nan") if value is None else float(value) for value in values])

    names = list(dict.fromkeys(name for epoch in epochs for name in by_epoch[epoch]["terms"]))
    curves = [
        Curve(
            title=f"Loss: {name}",
            note="What training makes small; it should fall, then level off." if name == "total" else "A part of it.",
            series=[series(name, [by_epoch[epoch]["terms"].get(name) for epoch in epochs])],
        )
        for name in sorted(names, key=lambda name: (name != "total", names.index(name)))
    ]
    for key, title, y_label, note in (
        ("balance", "Evenness of the cluster sizes", "entropy / ln K", "1 where all clusters are of one size."),
        ("num_changed", "Images that changed cluster", "images", "Should end near 0."),
    ):
        values = [by_epoch[epoch].get(key) for epoch in epochs]
        if any(value is not None for value in values):
            curves.append(Curve(title=title, y_label=y_label, note=note, series=[series(title.lower(), values)]))
    return tuple(curves)


def flatten_settings(settings: Mapping[str, Any], *, prefix: str = "") -> dict[str, str]:
    """A nested configuration as dotted keys and texts: {"method": {"name": "dxmc"}} -> {"method.name": "dxmc"}."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten_settings(value, prefix=f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat
