"""Images set apart: a column of their own, and nothing else changes."""

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.stage_dir import StageDir, parts_in_order
from dxmc_core.artifacts.storage import Storage
from dxmc_core.artifacts.tables import ASSIGNMENTS, INLIER_CLUSTER_ID
from dxmc_core.stages.inliers import Inliers, SetApart


def assignments(cluster_ids: list[int], scores: list[float]) -> pa.Table:
    count = len(cluster_ids)
    return pa.table(
        {
            "row_id": range(count),
            "image_id": [f"{row}.jpg" for row in range(count)],
            "cluster_id": cluster_ids,
            "confidence": np.ones(count),
            "runner_up": cluster_ids,
            "margin": np.zeros(count),
            "outlier_score": scores,
        }
    ).cast(ASSIGNMENTS.schema())


CENTER_ROWS = pa.table({"cluster_id": [9, 4, 7, 3], "mean_distance": pa.array([0.2, 0.1, 0.1, 0.0], pa.float32())})
#: Cluster 3 has no images, cluster 7 too few.
CLUSTER_ROWS = pa.table({"cluster_id": [4, 7, 9], "size": [30, 2, 20]})
INLIERS = Inliers.of(CENTER_ROWS, CLUSTER_ROWS, min_cluster_size=3)


def test_small_clusters_and_images_far_from_any_centre_are_set_apart():
    # Images are typically at a distance of 0.1, so 0.2 is far: 2 in cluster 4, and 1 in the loose cluster 9.
    table = assignments([4, 4, 7, 9, 9], [1.9, 2.1, 0.5, 0.9, 1.1])
    found = INLIERS.add_to(table)
    assert found[INLIER_CLUSTER_ID].to_pylist() == [4, -1, -1, 9, -1]
    assert found.schema == ASSIGNMENTS.schema(optional=(INLIER_CLUSTER_ID,))
    assert found.drop([INLIER_CLUSTER_ID]).equals(table)


def test_a_column_of_the_run_before_is_written_anew():
    before = INLIERS.add_to(assignments([4, 7], [1.0, 1.0]))
    now = Inliers.of(CENTER_ROWS, CLUSTER_ROWS, min_cluster_size=2).add_to(before)
    assert now[INLIER_CLUSTER_ID].to_pylist() == [4, 7]
    assert now.schema == before.schema


def test_parts_are_written_with_the_column(tmp_path):
    stage = StageDir(Storage(str(tmp_path)), "assign_clusters")
    tables = [assignments([4, 9], [1.0, 9.0]), assignments([7], [1.0])]
    parts = [stage.write_part("assignments", table, fingerprint="f" * 32) for table in tables]
    set_apart = SetApart(stage, fingerprint="f" * 32, parts=parts, inliers=INLIERS)
    receipts = set_apart(pa.table({"part": [1, 0]})).to_pylist()
    assert [receipt["num_apart"] for receipt in receipts] == [1, 1]
    found = [stage.read_part(part)[INLIER_CLUSTER_ID].to_pylist() for part in parts_in_order(receipts)]
    assert found == [[4, -1], [-1]]
