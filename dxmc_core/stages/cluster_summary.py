"""The clusters of a run as people ask for them: one row each, with ids of images and the branch of the tree above."""

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.matrices import read_rows
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import CLUSTER_SUMMARY, CLUSTER_TREE, CLUSTERS

NUM_EXEMPLARS = 12


def summarize_clusters(run_dir: RunDir) -> pa.Table:
    """The table `cluster_summary` of a run whose clusters are assigned, the largest first.

    Raises:
        ArtifactError: a stage is not finished or damaged.
    """
    stage = run_dir.stage("assign_clusters")
    columns = ["cluster_id", "name", "name_source", "size", "names", "exemplars"]
    clusters = stage.read_table(CLUSTERS, columns).to_pylist()
    nodes = {row["node_id"]: row for row in stage.read_table(CLUSTER_TREE).to_pylist()}
    parent_of = {row["cluster_id"]: row["parent"] for row in nodes.values() if row["cluster_id"] is not None}
    total = sum(row["size"] for row in clusters)
    shown = {row["cluster_id"]: row["exemplars"][:NUM_EXEMPLARS] for row in clusters}
    row_ids = np.array([row_id for exemplars in shown.values() for row_id in exemplars], dtype=np.int64)
    catalog = read_rows(run_dir.stage("embed_images"), "catalog", row_ids, ["row_id", "image_id"])
    image_id_of = dict(zip(*(column.to_pylist() for column in catalog.columns), strict=True))
    rows = []
    for row in sorted(clusters, key=lambda row: (-row["size"], row["cluster_id"])):
        parent = parent_of.get(row["cluster_id"])
        rows.append(
            {
                **{column: row[column] for column in ("cluster_id", "name", "name_source", "size")},
                "share": row["size"] / total,
                "terms": row["names"],
                "parent": parent,
                "parent_name": None if parent is None else nodes[parent]["name"],
                "exemplars": [image_id_of[row_id] for row_id in shown[row["cluster_id"]]],
            }
        )
    return pa.Table.from_pylist(rows, schema=CLUSTER_SUMMARY.schema())
