"""True labels against clusters, for runs that know labels: which cluster holds a label, and how purely."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dxmc_core.report.data import ReportCluster

#: A larger matrix no longer fits a screen; the list of labels stays.
MAX_MATRIX_SIDE = 24
_NUM_SHADES = 9


@dataclass(frozen=True)
class LabelRow:
    """One label: its images, the cluster that holds most of them, and that cluster's share of the label's images."""

    label: str
    num_images: int
    main_cluster: ReportCluster
    share: float
    cells: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class LabelTable:
    """Rows in the order of their clusters; `columns` is empty when the matrix would be too large to read.

    A cell is (images, shade 0..9), the shade by the share of the label's images.
    """

    rows: Sequence[LabelRow]
    columns: Sequence[ReportCluster]
    purity: float


def tabulate_labels(clusters: Sequence[ReportCluster]) -> LabelTable | None:
    """The table for clusters in the page's order; None when no cluster has labels."""
    totals: Counter[str] = Counter()
    for cluster in clusters:
        totals.update(cluster.label_counts)
    if not totals:
        return None
    order = {cluster.cluster_id: index for index, cluster in enumerate(clusters)}
    fits = max(len(clusters), len(totals)) <= MAX_MATRIX_SIDE
    columns = clusters if fits else ()
    rows = [_label_row(label, total, clusters, columns) for label, total in totals.items()]
    rows.sort(key=lambda row: (order[row.main_cluster.cluster_id], -row.share, row.label))
    pure = sum(max(cluster.label_counts.values(), default=0) for cluster in clusters)
    return LabelTable(rows, columns, pure / totals.total())


def top_labels(label_counts: Mapping[str, int], *, count: int = 3) -> list[tuple[str, float]]:
    """The most frequent labels of a cluster with their shares (0..1) of its labelled members."""
    total = sum(label_counts.values())
    ordered = sorted(label_counts.items(), key=lambda item: (-item[1], item[0]))
    return [(label, number / total) for label, number in ordered[:count]]


def _label_row(label: str, total: int, clusters: Sequence[ReportCluster], columns: Sequence[ReportCluster]) -> LabelRow:
    main = max(clusters, key=lambda cluster: cluster.label_counts.get(label, 0))
    counts = [column.label_counts.get(label, 0) for column in columns]
    cells = [(number, -(-_NUM_SHADES * number // total)) for number in counts]
    return LabelRow(label, total, main, main.label_counts[label] / total, cells)
