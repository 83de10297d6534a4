"""Labels against clusters."""

import pytest

from dxmc_core.report.data import ReportCluster
from dxmc_core.report.label_table import MAX_MATRIX_SIDE, tabulate_labels, top_labels

CLUSTERS = [
    ReportCluster(cluster_id=4, size=10, name="a", label_counts={"dog": 7, "cat": 3}),
    ReportCluster(cluster_id=2, size=9, name="b", label_counts={"cat": 9}),
    ReportCluster(cluster_id=7, size=1, name="c", label_counts={"fox": 1}),
]


def test_rows_follow_their_clusters():
    table = tabulate_labels(CLUSTERS)
    assert [(row.label, row.num_images, row.main_cluster.cluster_id) for row in table.rows] == [
        ("dog", 7, 4),
        ("cat", 12, 2),
        ("fox", 1, 7),
    ]
    assert table.rows[1].share == pytest.approx(9 / 12)
    assert [number for number, _ in table.rows[1].cells] == [3, 9, 0]
    assert [shade for _, shade in table.rows[1].cells] == [3, 7, 0]
    assert table.purity == pytest.approx((7 + 9 + 1) / 20)


def test_a_large_matrix_is_only_listed():
    labels = {f"label {index}": 1 for index in range(MAX_MATRIX_SIDE + 1)}
    table = tabulate_labels([ReportCluster(cluster_id=0, size=30, name="a", label_counts=labels)])
    assert table.columns == ()
    assert len(table.rows) == MAX_MATRIX_SIDE + 1
    assert all(row.cells == [] for row in table.rows)


def test_no_labels_no_table():
    assert tabulate_labels([ReportCluster(cluster_id=0, size=3, name="a")]) is None


def test_top_labels_are_shares_of_the_labelled_members():
    assert top_labels({"b": 1, "a": 1, "c": 2}, count=2) == [("c", 0.5), ("a", 0.25)]
    assert top_labels({}) == []
