"""Clusters of an earlier run whose ids and names the clusters of this run keep: reading, comparing, renumbering."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array, csr_array

from dxmc_core.artifacts.generations import open_run_dir
from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CLUSTERS, LINEAGE
from dxmc_core.errors import InputError
from dxmc_core.images.catalog import hash_texts
from dxmc_core.method.clusters.cluster_identity import Identities, keep_identities
from dxmc_core.stages.settings.assign_clusters import IDS_GIVEN, previous_manifest


def _stage(run_dir_uri: str) -> StageDir:
    return open_run_dir(run_dir_uri).stage("assign_clusters")


@dataclass(frozen=True)
class Comparison:
    """What the clusters of this run are to those of an earlier one.

    Attributes:
        previous_run: where the earlier one lies.
        previous_clusters: rows of the earlier run's table `clusters`, by cluster id.
        num_new, num_removed: images that only this run, and only the earlier one has.
    """

    previous_run: str
    identities: Identities
    previous_clusters: Mapping[int, Mapping[str, Any]]
    num_new: int
    num_removed: int

    def metrics(self) -> dict[str, Any]:
        """Figures for the manifest; `born` and `died` count all new and all ended ids."""
        found = self.identities
        return {
            "previous_run": self.previous_run,
            "churn": round(found.churn, 6),
            "kept": found.count("kept"),
            "born": found.count("born", "split"),
            "died": found.count("died", "merged"),
            "common_images": found.num_common,
            "moved_images": found.num_moved,
            "new_images": self.num_new,
            "removed_images": self.num_removed,
        }


def compare_with_previous(
    run_dir_uri: str, assigned: Iterable[pa.Table], sizes: np.ndarray, *, fixed_ids: np.ndarray | None = None
) -> Comparison:
    """Ids for the labels of this run, by the images it shares with an earlier run.

    Images are the same when their image_id is, of which a 64-bit hash is compared: an earlier image takes 12 bytes of
    memory, and for 100 million images the chance that one of them is mistaken for another is below 1 in 1,000.

    Args:
        assigned: tables with the columns image_id and cluster_id, which holds labels.
        sizes: (K,) images of each label.
        fixed_ids: as in `keep_identities`.

    Raises:
        InputError: the earlier run is not finished, or shares no image with this one.
    """
    stage = _stage(run_dir_uri)
    manifest = previous_manifest(run_dir_uri)
    if manifest is None:
        raise InputError(f"assign_clusters.keep_ids_from: {stage.storage.uri} is not finished, or no longer there")
    clusters = stage.read_table(CLUSTERS, ["cluster_id", "name", "name_source", "size"])
    previous_ids = clusters["cluster_id"].to_numpy()
    overlaps = count_overlaps(
        stage.iter_parts(ASSIGNMENTS, ["image_id", "cluster_id"]),
        assigned,
        previous_ids=previous_ids,
        num_clusters=len(sizes),
    )
    num_common = int(overlaps.sum())
    if num_common == 0:
        raise InputError(
            f"assign_clusters.keep_ids_from: {run_dir_uri} shares no image_id with this run; expected a run over the "
            "same source"
        )
    return Comparison(
        run_dir_uri,
        keep_identities(overlaps, previous_ids, sizes, ids_given=manifest.metrics[IDS_GIVEN], fixed_ids=fixed_ids),
        {row["cluster_id"]: row for row in clusters.to_pylist()},
        num_new=int(sizes.sum()) - num_common,
        num_removed=manifest.rows("assignments") - num_common,
    )


def count_overlaps(
    previous: Iterable[pa.Table], now: Iterable[pa.Table], *, previous_ids: np.ndarray, num_clusters: int
) -> csr_array:
    """Images of each previous cluster by new label: (P, K), rows in the order of `previous_ids`.

    Args:
        previous, now: tables with the columns image_id (each once) and cluster_id; of `now`, cluster_id is a label.
    """
    order = np.argsort(previous_ids)
    hashes, positions = [], []
    for table in previous:
        hashes.append(hash_texts(table["image_id"]))
        ids = table["cluster_id"].to_numpy()
        positions.append(order[np.searchsorted(previous_ids, ids, sorter=order)].astype(np.int32))
    known = np.concatenate(hashes)
    by_hash = np.argsort(known)
    known, cluster_of = known[by_hash], np.concatenate(positions)[by_hash]
    overlaps = csr_array((len(previous_ids), num_clusters), dtype=np.int64)
    for table in now:
        wanted = hash_texts(table["image_id"])
        found = np.searchsorted(known, wanted).clip(max=len(known) - 1)
        is_common = known[found] == wanted
        pairs = cluster_of[found[is_common]], table["cluster_id"].to_numpy()[is_common]
        overlaps += coo_array((np.ones(is_common.sum(), dtype=np.int64), pairs), shape=overlaps.shape).tocsr()
    return overlaps


def with_cluster_ids(table: pa.Table, cluster_ids: np.ndarray) -> pa.Table:
    """A table whose labels are replaced by ids: its columns cluster_id, runner_up and nearest_clusters, nulls left.

    Args:
        cluster_ids: (K,) int32, by label.
    """
    ids = pa.array(cluster_ids, pa.int32())
    for name in ("cluster_id", "runner_up", "nearest_clusters"):
        if name not in table.column_names:
            continue
        column = table[name].combine_chunks()
        if pa.types.is_list(column.type):
            mapped = pa.ListArray.from_arrays(column.offsets, ids.take(column.values))
        else:
            mapped = ids.take(column)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), mapped)
    return table


class RenumberAssignments:
    """Parts of `assignments` with labels to parts with ids.

    Called with a table of the column part (index into `parts`); the result has it and the columns of the part written.
    """

    def __init__(self, output: StageDir, *, fingerprint: str, parts: Sequence[Part], cluster_ids: np.ndarray) -> None:
        self._output, self._fingerprint = output, fingerprint
        self._parts, self._cluster_ids = parts, cluster_ids

    def __call__(self, indexes: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._renumber(index) for index in indexes["part"].to_pylist()])

    def _renumber(self, index: int) -> dict[str, Any]:
        table = with_cluster_ids(self._output.read_part(self._parts[index]), self._cluster_ids)
        part = self._output.write_part("assignments", table, fingerprint=self._fingerprint)
        return {"part": index, **part.model_dump()}


def lineage_table(comparison: Comparison | None, clusters: pa.Table) -> pa.Table:
    """The table `lineage`; without rows when there is no earlier run.

    Args:
        clusters: with final ids and names.
    """
    if comparison is None:
        return LINEAGE.schema().empty_table()
    now = {row["cluster_id"]: row for row in clusters.select(["cluster_id", "name", "size"]).to_pylist()}
    rows = []
    for relation in comparison.identities.lineage:
        before = comparison.previous_clusters[relation.previous_id] if relation.previous_id is not None else {}
        after = now[relation.cluster_id] if relation.cluster_id is not None else {}
        rows.append(
            {
                "relation": relation.kind,
                "previous_id": relation.previous_id,
                "cluster_id": relation.cluster_id,
                "previous_name": before.get("name"),
                "name": after.get("name"),
                "previous_size": before.get("size"),
                "size": after.get("size"),
                "overlap": relation.overlap,
                "previous_share": relation.previous_share,
                "share": relation.share,
                "jaccard": relation.jaccard,
            }
        )
    return pa.Table.from_pylist(rows, schema=LINEAGE.schema())
