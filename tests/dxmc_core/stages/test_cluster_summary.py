"""The clusters of a run as people ask for them: the largest first, with ids of images and the branch above."""

import pyarrow as pa
import pytest

from dxmc_core.artifacts.tables import CATALOG, CLUSTER_SUMMARY, CLUSTER_TREE
from dxmc_core.stages.cluster_summary import summarize_clusters


@pytest.fixture
def run_dir(make_color_run):
    return make_color_run(clusters=[0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2]).run_dir


def test_one_row_per_cluster_the_largest_first(run_dir):
    table = summarize_clusters(run_dir)
    assert table.schema == CLUSTER_SUMMARY.schema()
    rows = table.to_pylist()
    assert [(row["cluster_id"], row["name"], row["size"]) for row in rows] == [
        (1, "green", 5),
        (2, "blue", 4),
        (0, "red", 3),
    ]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    ids = run_dir.read_table(CATALOG)["image_id"].to_pylist()
    assert rows[2]["exemplars"] == ids[:3]
    assert rows[0]["terms"] == ["green"]
    assert rows[0]["parent"] is None


def test_the_branch_of_the_tree_above(run_dir):
    stage = run_dir.stage("assign_clusters")
    manifest = stage.require_manifest()
    node = {"height": 0.0, "num_clusters": 1, "name_source": "noun"}
    nodes = [
        {**node, "node_id": 0, "parent": 3, "cluster_id": 0, "size": 3, "name": "red"},
        {**node, "node_id": 1, "parent": 3, "cluster_id": 1, "size": 5, "name": "green"},
        {**node, "node_id": 2, "parent": 4, "cluster_id": 2, "size": 4, "name": "blue"},
        {**node, "node_id": 3, "parent": 4, "cluster_id": None, "size": 8, "name": "warm"},
        {**node, "node_id": 4, "parent": None, "cluster_id": None, "size": 12, "name": "colour"},
    ]
    tree = pa.Table.from_pylist(nodes, schema=CLUSTER_TREE.schema())
    tables = {**manifest.tables, "cluster_tree": [stage.write_part("cluster_tree", tree, fingerprint="a" * 32)]}
    stage.publish(fingerprint=manifest.fingerprint, inputs={}, tables=tables, seconds=1.0)
    found = {row["name"]: (row["parent"], row["parent_name"]) for row in summarize_clusters(run_dir).to_pylist()}
    assert found == {"red": (3, "warm"), "green": (3, "warm"), "blue": (4, "colour")}
