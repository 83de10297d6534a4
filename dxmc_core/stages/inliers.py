"""Images that belong nowhere, set apart in a column of `assignments` for those who do not want them in a cluster."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, INLIER_CLUSTER_ID
from dxmc_core.method.clusters.cluster_sample import InlierRule


@dataclass(frozen=True)
class Inliers:
    """The rule, with the cluster ids (K,) and mean distances (K,) of the clusters that it is about."""

    cluster_ids: np.ndarray
    mean_distances: np.ndarray
    rule: InlierRule

    @classmethod
    def of(cls, centers: pa.Table, clusters: pa.Table, *, min_cluster_size: int) -> "Inliers":
        """From the tables `centers` and `clusters`, with final ids."""
        sizes_by_id = dict(zip(clusters["cluster_id"].to_pylist(), clusters["size"].to_pylist(), strict=True))
        order = np.argsort(centers["cluster_id"].to_numpy())
        cluster_ids = centers["cluster_id"].to_numpy()[order]
        distances = centers["mean_distance"].to_numpy()[order]
        sizes = np.array([sizes_by_id.get(cluster_id, 0) for cluster_id in cluster_ids.tolist()])
        return cls(cluster_ids, distances, InlierRule.of(sizes, distances, min_cluster_size=min_cluster_size))

    def add_to(self, table: pa.Table) -> pa.Table:
        """Rows of `assignments` with the column `inlier_cluster_id`, in the place of an earlier one."""
        labels = np.searchsorted(self.cluster_ids, table["cluster_id"].to_numpy())
        distances = table["outlier_score"].to_numpy() * self.mean_distances[labels]
        inliers = self.rule.inlier_labels(labels, distances)
        ids = np.where(inliers < 0, -1, self.cluster_ids[inliers])
        return table.select(ASSIGNMENTS.schema().names).append_column(
            ASSIGNMENTS.by_name[INLIER_CLUSTER_ID].field(), pa.array(ids, pa.int32())
        )


class SetApart:
    """Parts of `assignments` with final ids to parts with the column `inlier_cluster_id`.

    Called with a table of the column part (index into `parts`); the result has it, the columns of the part written, and
    `num_apart`.
    """

    def __init__(self, output: StageDir, *, fingerprint: str, parts: Sequence[Part], inliers: Inliers) -> None:
        self._output, self._fingerprint, self._parts, self._inliers = output, fingerprint, parts, inliers

    def __call__(self, indexes: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._set_apart(index) for index in indexes["part"].to_pylist()])

    def _set_apart(self, index: int) -> dict[str, Any]:
        table = self._inliers.add_to(self._output.read_part(self._parts[index]))
        part = self._output.write_part("assignments", table, fingerprint=self._fingerprint)
        return {"part": index, "num_apart": int((table[INLIER_CLUSTER_ID].to_numpy() < 0).sum()), **part.model_dump()}
