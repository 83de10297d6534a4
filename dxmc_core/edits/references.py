"""Clusters of a finished run as edits name them, and what a run says of its edits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dxmc_core.artifacts.matrices import read_rows
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CLUSTERS, EDITS
from dxmc_core.edits.model import MAX_REFERENCE_IMAGES, ClusterRef, Edit


def read_outcomes(assigned: StageDir) -> list[dict[str, Any]]:
    """Rows of the table `edits` of an assign_clusters; none where there are no edits, or it is not finished."""
    manifest = assigned.manifest()
    if manifest is None or "edits" not in manifest.tables:
        return []
    return assigned.read_table(EDITS).to_pylist()


def hidden_clusters(assigned: StageDir) -> set[int]:
    """Ids of the clusters that people have hidden, in a finished assign_clusters."""
    rows = read_outcomes(assigned)
    return {row["cluster_id"] for row in rows if row["kind"] == "hide" and row["cluster_id"] is not None}


def references_to(run_dir: RunDir, cluster_ids: Sequence[int]) -> dict[int, ClusterRef]:
    """References to clusters of a run whose images are assigned, by id; those that it does not have are left out."""
    assigned, images = run_dir.stage("assign_clusters"), run_dir.stage("embed_images")
    clusters = assigned.read_table(CLUSTERS, ["cluster_id", "exemplars"])
    wanted = clusters.filter(pc.is_in(clusters["cluster_id"], pa.array(list(cluster_ids), pa.int32())))
    exemplars = {row["cluster_id"]: row["exemplars"][:MAX_REFERENCE_IMAGES] for row in wanted.to_pylist()}
    rows = np.array([row for found in exemplars.values() for row in found], dtype=np.int64)
    catalog = read_rows(images, "catalog", rows, ["row_id", "image_id"])
    names = dict(zip(*(column.to_pylist() for column in catalog.columns), strict=True))
    return {
        cluster_id: ClusterRef(id=cluster_id, images=tuple(names[row] for row in found))
        for cluster_id, found in exemplars.items()
    }


def fill_references(edits: Sequence[Edit], run_dir: RunDir) -> tuple[Edit, ...]:
    """Edits whose references to clusters of a finished run have images, where a person has written an id alone."""
    bare = sorted({ref.id for edit in edits for ref in edit.clusters if not ref.images})
    if not bare:
        return tuple(edits)
    known = references_to(run_dir, bare)
    return tuple(edit.with_references(lambda ref: ref if ref.images else known.get(ref.id, ref)) for edit in edits)


def missing_lines(edits: Sequence[Edit], run_dir: RunDir, *, where: str, first: int) -> list[str]:
    """What edits name that a run does not have, one line for each, with its place.

    Args:
        edits: with images in their references where the run has the clusters.
        first: number of the first of them in the file `where`.
    """
    named = pa.array(named_images(edits), pa.string())
    known: set[str] = set()
    for table in run_dir.stage("assign_clusters").iter_parts(ASSIGNMENTS, ["image_id"]):
        known.update(table["image_id"].filter(pc.is_in(table["image_id"], named)).to_pylist())
    lines = []
    for number, edit in enumerate(edits, start=first):
        place = f"{where}: edit {number} ({edit.id}): {edit.kind}"
        gone = [image for image in edit.images if image not in known]
        if gone:
            more = f" (and {len(gone) - 1:,} more)" if len(gone) > 1 else ""
            lines.append(f"{place}: {run_dir.uri} has no image {gone[0]!r}{more}")
        for reference in edit.clusters:
            if known.isdisjoint(reference.images):
                lines.append(f"{place}: {run_dir.uri} has no cluster {reference.id}, nor any image of it")
    return lines


def named_images(edits: Sequence[Edit]) -> list[str]:
    """All images that edits name, those of references included, each once."""
    found: dict[str, None] = {}
    for edit in edits:
        found.update(dict.fromkeys(edit.images))
        for reference in edit.clusters:
            found.update(dict.fromkeys(reference.images))
    return list(found)
