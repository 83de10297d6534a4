"""Assignments of a source that has changed, by the heads of an earlier run: what is new is assigned, the rest is kept.

Stands between the embeddings of one night and its tables, in place of a full clustering. Ids and centres are those of
the earlier run; an image whose content has changed counts as a new one.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.generations import GenerationRecord
from dxmc_core.artifacts.heads import load_heads
from dxmc_core.artifacts.joined_images import ImageRows, image_tables_of
from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.matrices import matrix_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CENTERS, CLUSTERS, NEAR_DUPLICATES, SELECTED_NOUNS, as_clustered
from dxmc_core.artifacts.user_tables import take_rows
from dxmc_core.images.catalog import Catalog
from dxmc_core.images.renewal import compare_catalogs, take_over_rows
from dxmc_core.method.clusters.cluster_identity import same_identities
from dxmc_core.method.clusters.cluster_sample import nearest_clusters
from dxmc_core.method.clusters.drift import AssignmentFigures, far_distance, held_out_distances
from dxmc_core.method.preparation import text_counterparts_as_stored
from dxmc_core.reclustering import SinceFull
from dxmc_core.runtime.lookahead import map_ahead
from dxmc_core.stages.assign_clusters import assignment_table
from dxmc_core.stages.previous_clusters import Comparison, with_cluster_ids
from dxmc_core.stages.settings.assign_clusters import IDS_GIVEN, AssignClustersConfig

_READ_THREADS = 32
_FIGURE_COLUMNS = ("confidence", "margin", "outlier_score")


@dataclass(frozen=True)
class Kept:
    """Assignments of an earlier run that still hold.

    Attributes:
        parts: of `assignments`, with the row ids of this run.
        rows: (N,) bool, by catalog row of this run.
        num_removed: assignments of the earlier run that do not: their image is gone, or has changed.
        near_duplicates: what is left of that run's table `near_duplicates`.
    """

    parts: list[Part]
    rows: np.ndarray
    num_removed: int
    near_duplicates: pa.Table


def keep_assignments(base: RunDir, images: StageDir, output: StageDir, *, fingerprint: str) -> Kept:
    """Write the assignments of unchanged images again, under the row ids that the images have now: those that the
    clustering gave, as edits are applied anew.

    Args:
        base: a finished run over the same source.
        images: the finished stage embed_images of this run.
    """
    before = base.stage("embed_images")
    catalogs = [Catalog(stage.require_manifest(), stage) for stage in (before, images)]
    _, new_rows = compare_catalogs(*catalogs)
    assigned = base.stage("assign_clusters")
    manifest = assigned.require_manifest()
    parts, rows = [], np.zeros(catalogs[1].num_rows, dtype=bool)
    for part, row_ids in take_over_rows(
        assigned,
        manifest.tables[as_clustered(ASSIGNMENTS, manifest.tables).name],
        output,
        "assignments",
        new_rows,
        fingerprint=fingerprint,
    ):
        parts.append(part)
        rows[row_ids] = True
    duplicates = base.read_table(NEAR_DUPLICATES)
    num_removed = manifest.rows("assignments") - int(rows.sum())
    return Kept(parts, rows, num_removed, keep_near_duplicates(duplicates, new_rows))


def keep_near_duplicates(table: pa.Table, new_rows: np.ndarray) -> pa.Table:
    """The groups of `near_duplicates` that have two images left, under their new row ids.

    Args:
        new_rows: as of `compare_catalogs`.
    """
    row_ids = new_rows[table["row_id"].to_numpy()]
    _, groups = np.unique(table["group_id"].to_numpy(), return_inverse=True)
    left = np.bincount(groups, row_ids >= 0).astype(np.int64) if len(groups) else np.empty(0, dtype=np.int64)
    chosen = np.flatnonzero((row_ids >= 0) & (left[groups] > 1))
    chosen = chosen[np.argsort(row_ids[chosen], kind="stable")]
    row_ids, groups = row_ids[chosen], groups[chosen]
    return pa.table(
        {
            "row_id": row_ids,
            "image_id": take_rows(table.select(["image_id"]), chosen)["image_id"],
            "group_id": _first_of_each(groups, row_ids),
            "group_size": left[groups],
            "copy_of": _first_of_each(table["copy_of"].to_numpy()[chosen], row_ids),
        }
    ).cast(NEAR_DUPLICATES.schema())


def _first_of_each(keys: np.ndarray, row_ids: np.ndarray) -> np.ndarray:
    """For each row (n,) the first of the ascending row ids that have the same key."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return row_ids[first[inverse]]


def parts_with_arrivals(images: StageDir, kept: Kept) -> list[int]:
    """Which parts of `images` have rows whose assignment was not kept."""
    parts = images.require_manifest().tables["images"]
    with ThreadPoolExecutor(_READ_THREADS) as threads:
        found = map_ahead(images.row_ids_of, parts, threads=threads, ahead=2 * _READ_THREADS)
        return [index for index, row_ids in enumerate(found) if not kept.rows[row_ids].all()]


class AssignArrivals:
    """Parts of `images` to parts of `assignments`, of those rows alone that have none yet.

    Called with a table of the column part (index into the parts of `images`); the result has it, the columns of the
    part written, and `figures` (those of `AssignmentFigures`).
    """

    def __init__(
        self,
        images: StageDir,
        output: StageDir,
        *,
        fingerprint: str,
        base: RunDir,
        kept_rows: np.ndarray,
        top_nouns: int | None,
        far: float,
    ) -> None:
        self._images, self._output, self._fingerprint = images, output, fingerprint
        self._parts: Sequence[Part] = images.require_manifest().tables["images"]
        self._kept_rows, self._far = kept_rows, far
        self._heads = load_heads(base.stage("train_heads"))
        self._image_rows = ImageRows.open(images, image_tables_of(base.stage("train_heads")))
        assigned = base.stage("assign_clusters")
        centers = assigned.read_table(as_clustered(CENTERS, assigned.require_manifest().tables))
        self._cluster_ids = centers["cluster_id"].to_numpy()
        self._centers = matrix_of(centers["embedding"])
        self._mean_distances = centers["mean_distance"].to_numpy()
        self._describe = _text_maker(base, top_nouns) if self._heads.needs_text else None

    def __call__(self, indexes: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._assign(index) for index in indexes["part"].to_pylist()])

    def _assign(self, index: int) -> dict[str, Any]:
        rows = self._images.read_part(self._parts[index])
        rows = rows.filter(pa.array(~self._kept_rows[rows["row_id"].to_numpy()]))
        texts = None if self._describe is None else self._describe(matrix_of(rows["embedding"]))
        table = assignment_table(rows, texts, self._heads, self._image_rows, self._centers, self._mean_distances)
        table = with_cluster_ids(table, self._cluster_ids)
        part = self._output.write_part("assignments", table, fingerprint=self._fingerprint)
        return {"part": index, "figures": asdict(figures_of([table], far=self._far)), **part.model_dump()}


def _text_maker(base: RunDir, top_nouns: int | None) -> Any:
    """A function from image embeddings (n, D) to their text counterparts in the earlier run's semantic space."""
    space = base.stage("build_semantic_space")
    nouns = matrix_of(space.read_table(SELECTED_NOUNS, ["embedding"])["embedding"])
    temperature = space.require_manifest().metrics["temperature"]
    return partial(text_counterparts_as_stored, selected_embeddings=nouns, temperature=temperature, top_k=top_nouns)


def figures_of(assignments: Iterable[pa.Table], *, far: float) -> AssignmentFigures:
    """Figures over tables with the columns confidence, margin and outlier_score."""
    found = AssignmentFigures()
    for table in assignments:
        confidences, margins, distances = (table[name].to_numpy() for name in _FIGURE_COLUMNS)
        found += AssignmentFigures.of(confidences, margins, distances, far=far)
    return found


def reference_figures(assigned: StageDir) -> tuple[AssignmentFigures, float]:
    """Figures over all assignments of a full clustering, and the distance from which on an image is far out."""
    columns, tables = ("cluster_id", *_FIGURE_COLUMNS), assigned.require_manifest().tables
    table = assigned.read_table(as_clustered(ASSIGNMENTS, tables), columns)
    centers = assigned.read_table(as_clustered(CENTERS, tables), ["cluster_id", "mean_distance"])
    labels = _Labels(centers["cluster_id"].to_numpy())(table["cluster_id"].to_numpy())
    confidences, margins, distances = (table[name].to_numpy() for name in _FIGURE_COLUMNS)
    distances = held_out_distances(distances, labels, centers["mean_distance"].to_numpy())
    far = far_distance(distances)
    return AssignmentFigures.of(confidences, margins, distances, far=far), far


def since_full(base: RunDir, record: GenerationRecord | None) -> SinceFull:
    """What is known of the last full clustering; of one that dxmc run made it is measured now.

    Args:
        record: what the run says of itself, where it is a generation.
    """
    if record is not None:
        return SinceFull.from_dict(record.metrics["since_full"])
    return SinceFull(*reference_figures(base.stage("assign_clusters")))


class _Labels:
    """From cluster ids to labels, the places of these ids among `centers`."""

    def __init__(self, cluster_ids: np.ndarray) -> None:
        self._cluster_ids, self._order = cluster_ids, np.argsort(cluster_ids)

    def __call__(self, cluster_ids: np.ndarray) -> np.ndarray:
        return self._order[np.searchsorted(self._cluster_ids, cluster_ids, sorter=self._order)]


def compare_with_base(base: RunDir, output: StageDir, kept: Kept, arrivals: Sequence[Part]) -> Comparison:
    """What became of the clusters of the earlier run, all of whose ids are kept."""
    assigned = base.stage("assign_clusters")
    manifest = assigned.require_manifest()
    clusters = assigned.read_table(CLUSTERS, ["cluster_id", "name", "name_source", "size"])
    cluster_ids = assigned.read_table(CENTERS, ["cluster_id"])["cluster_id"].to_numpy()
    common = _count(output, kept.parts, cluster_ids)
    previous_sizes = np.zeros(len(cluster_ids), dtype=np.int64)
    previous_sizes[_Labels(cluster_ids)(clusters["cluster_id"].to_numpy())] = clusters["size"]
    identities = same_identities(
        cluster_ids,
        common + _count(output, arrivals, cluster_ids),
        previous_sizes=previous_sizes,
        common=common,
        ids_given=manifest.metrics[IDS_GIVEN],
    )
    previous = {row["cluster_id"]: row for row in clusters.to_pylist()}
    return Comparison(
        base.uri, identities, previous, num_new=sum(part.rows for part in arrivals), num_removed=kept.num_removed
    )


def _count(stage: StageDir, parts: Iterable[Part], cluster_ids: np.ndarray) -> np.ndarray:
    """Images of each label (K,) in parts of `assignments`, which have ids."""
    labels_of = _Labels(cluster_ids)
    sizes = np.zeros(len(cluster_ids), dtype=np.int64)
    for part in parts:
        ids = stage.read_part(part, ["cluster_id"])["cluster_id"].to_numpy()
        sizes += np.bincount(labels_of(ids), minlength=len(sizes))
    return sizes


def describe_again(
    assignments: Iterable[pa.Table], centers: pa.Table, before: pa.Table, config: AssignClustersConfig
) -> pa.Table:
    """The table `clusters` from assignments to the centres of an earlier run, with the names of that run.

    A cluster that had no images then is called unnamed; a full clustering names it.

    Args:
        assignments: tables of all of them, with final ids.
        centers: as the earlier run published it.
        before: that run's `clusters`.
    """
    cluster_ids = centers["cluster_id"].to_numpy()
    members = _Members(cluster_ids, config)
    for table in assignments:
        members.add(table)
    sizes = members.sizes
    cohesion = 1 - centers["mean_distance"].to_numpy() * members.mean("outlier_score")
    nearest = nearest_clusters(matrix_of(centers["embedding"]), sizes)
    known = {row["cluster_id"]: row for row in before.to_pylist()}
    unnamed = {"name": "unnamed", "names": [], "name_evidence": [], "name_source": "unnamed"}
    confidences, exemplars, border = members.mean("confidence"), members.central(), members.between()
    rows = []
    for label in np.flatnonzero(sizes):
        named = known.get(int(cluster_ids[label]), unnamed)
        rows.append(
            {
                **{column: named[column] for column in unnamed},
                "cluster_id": int(cluster_ids[label]),
                "size": int(sizes[label]),
                "exemplars": exemplars[label],
                "border": border[label],
                "cohesion": float(cohesion[label]),
                "mean_confidence": float(confidences[label]),
                "nearest_clusters": [int(cluster_ids[other]) for other in nearest[label]],
            }
        )
    return pa.Table.from_pylist(rows, schema=CLUSTERS.schema())


class _Members:
    """Sizes, means and the outstanding images of every cluster, from tables of assignments, one after the other."""

    def __init__(self, cluster_ids: np.ndarray, config: AssignClustersConfig) -> None:
        self._labels_of = _Labels(cluster_ids)
        self.sizes = np.zeros(len(cluster_ids), dtype=np.int64)
        self._sums = {name: np.zeros(len(cluster_ids)) for name in ("confidence", "outlier_score")}
        self._central = _Lowest(config.num_exemplars)
        self._between = _Lowest(config.num_border)

    def add(self, table: pa.Table) -> None:
        labels, count = self._labels_of(table["cluster_id"].to_numpy()), len(self.sizes)
        self.sizes += np.bincount(labels, minlength=count)
        for name, sums in self._sums.items():
            sums += np.bincount(labels, table[name].to_numpy(), minlength=count)
        row_ids = table["row_id"].to_numpy()
        self._central.add(labels, table["outlier_score"].to_numpy(), row_ids)
        self._between.add(labels, table["margin"].to_numpy(), row_ids)

    def mean(self, name: str) -> np.ndarray:
        return self._sums[name] / np.maximum(self.sizes, 1)

    def central(self) -> list[list[int]]:
        """Rows nearest to the centre of each cluster, nearest first."""
        return self._central.rows(len(self.sizes))

    def between(self) -> list[list[int]]:
        """Rows with the smallest margins of each cluster, the smallest first."""
        return self._between.rows(len(self.sizes))


class _Lowest:
    """Of every cluster the rows with the lowest scores."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._labels = np.empty(0, dtype=np.int64)
        self._scores = np.empty(0, dtype=np.float32)
        self._row_ids = np.empty(0, dtype=np.int64)

    def add(self, labels: np.ndarray, scores: np.ndarray, row_ids: np.ndarray) -> None:
        labels = np.concatenate([self._labels, labels])
        scores, row_ids = np.concatenate([self._scores, scores]), np.concatenate([self._row_ids, row_ids])
        order = np.lexsort((row_ids, scores, labels))
        labels = labels[order]
        rank = np.arange(len(labels)) - np.searchsorted(labels, labels)
        best = rank < self._count
        self._labels, self._scores, self._row_ids = labels[best], scores[order][best], row_ids[order][best]

    def rows(self, num_clusters: int) -> list[list[int]]:
        bounds = np.searchsorted(self._labels, np.arange(num_clusters + 1))
        return [self._row_ids[start:stop].tolist() for start, stop in pairwise(bounds)]


def read_parts(stage: StageDir, parts: Iterable[Part]) -> Iterator[pa.Table]:
    """Parts of `assignments` that are not published yet, one at a time."""
    for part in parts:
        yield stage.read_part(part)
