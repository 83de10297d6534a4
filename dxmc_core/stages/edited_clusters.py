"""Clusters after the edits of people: assignments, centres, clusters, tree and lineage, from what the clustering gave.

What the clustering itself gave stays beside them in the tables of `unedited`, from which every later night and
every `dxmc edit` begins, so that an edit that is undone leaves nothing behind.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array, csr_array

from dxmc_core.artifacts.generations import open_run_dir
from dxmc_core.artifacts.host_arrays import HostArrays
from dxmc_core.artifacts.manifest import Manifest, Part
from dxmc_core.artifacts.matrices import RowMatrix, embedding_column, load_matrix, matrix_of
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.artifacts.tables import (
    ASSIGNMENTS,
    CENTERS,
    CLUSTERS,
    EDITS,
    IMAGES,
    INLIER_CLUSTER_ID,
    SPLITS,
    as_clustered,
    unedited,
)
from dxmc_core.edits.apply import Clustering, Edited, Outcome, SplitParts, apply_edits
from dxmc_core.edits.model import Edit
from dxmc_core.edits.references import named_images
from dxmc_core.method.clusters.cluster_identity import Identities
from dxmc_core.method.clusters.cluster_sample import nearest_clusters, outlier_scores
from dxmc_core.runtime.slices import slices_of
from dxmc_core.stages.assign_arrivals import describe_again
from dxmc_core.stages.assign_clusters import describe_tree
from dxmc_core.stages.cluster_names import settle_names
from dxmc_core.stages.inliers import Inliers
from dxmc_core.stages.previous_clusters import Comparison, compare_with_previous, lineage_table, with_cluster_ids
from dxmc_core.stages.settings.assign_clusters import IDS_GIVEN, AssignClustersConfig

_TOLD_EDITS = 10
_ROWS_PER_BLOCK = 65_536

logger = logging.getLogger(__name__)


def is_edited(manifest: Manifest) -> bool:
    """Whether the assignments of a finished assign_clusters are others than the clustering gave."""
    return unedited(ASSIGNMENTS).name in manifest.tables


@dataclass(frozen=True)
class ClusteredImages:
    """What a clustering gave, before any edit.

    Attributes:
        stage: in which the parts lie.
        parts: of `assignments`.
        centers, clusters: the tables of these names; K rows of centres, in the order of the heads' outputs.
        cluster_ids: (K,) by label; None where all three tables have labels for ids, as no ids are given yet.
    """

    stage: StageDir
    parts: Sequence[Part]
    centers: pa.Table
    clusters: pa.Table
    cluster_ids: np.ndarray | None

    @classmethod
    def published(cls, stage: StageDir) -> "ClusteredImages":
        """That of a finished assign_clusters."""
        manifest = stage.require_manifest()
        centers = stage.read_table(as_clustered(CENTERS, manifest.tables))
        return cls(
            stage,
            manifest.tables[as_clustered(ASSIGNMENTS, manifest.tables).name],
            centers,
            stage.read_table(as_clustered(CLUSTERS, manifest.tables)),
            centers["cluster_id"].to_numpy(),
        )

    @property
    def num_labels(self) -> int:
        return self.centers.num_rows

    def labels_of(self, column: pa.ChunkedArray) -> np.ndarray:
        """Labels of a column of ids, or of labels where there are no ids yet."""
        values = column.to_numpy()
        if self.cluster_ids is None:
            return values.astype(np.int32)
        order = np.argsort(self.cluster_ids)
        return order[np.searchsorted(self.cluster_ids, values, sorter=order)].astype(np.int32)

    def read(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        return (self.stage.read_part(part, columns) for part in self.parts)


@dataclass(frozen=True)
class EditedTables:
    """What assign_clusters makes where people have corrected clusters.

    Attributes:
        parts: of the tables of many parts, `assignments` and, where edits changed anything, `unedited`.
        tables: all others, whole.
        comparison: with the run that ids were kept from; None where there was none.
        edits: with what was filled in; to be written back into their file.
        mean_confidence: of all images.
        num_apart: images that are set apart; None where that is not asked for.
    """

    parts: dict[str, list[Part]]
    tables: dict[str, pa.Table]
    comparison: Comparison | None
    ids_given: int
    edits: tuple[Edit, ...]
    mean_confidence: float
    num_apart: int | None = None

    def written(self, output: StageDir, *, fingerprint: str, files: Mapping[str, Part] | None = None) -> StageResult:
        """With all tables written."""
        comparison = self.comparison
        return StageResult(
            tables={**self.parts, **output.write_tables(self.tables, fingerprint=fingerprint)},
            files=files or {},
            metrics={
                "num_clusters": self.tables["centers"].num_rows,
                "clusters_with_images": self.tables["clusters"].num_rows,
                "mean_confidence": round(self.mean_confidence, 4),
                IDS_GIVEN: self.ids_given,
                "lineage": None if comparison is None else comparison.metrics(),
                **({} if self.num_apart is None else {"images_set_apart": self.num_apart}),
            },
        )


def tell_of_edits(edited: EditedTables) -> None:
    """Log the edits that a person should know something of, the first ones with what that is."""
    rows = [row for row in edited.tables["edits"].to_pylist() if row["message"]] if edited.edits else []
    for row in rows[:_TOLD_EDITS]:
        logger.warning("edit %s (%s): %s", row["edit_id"], row["summary"], row["message"])
    if len(rows) > _TOLD_EDITS:
        logger.warning("and of %d more edits; the table edits of assign_clusters has them", len(rows) - _TOLD_EDITS)


def edit_clusters(
    found: ClusteredImages,
    edits: Sequence[Edit],
    *,
    images: StageDir,
    output: StageDir,
    fingerprint: str,
    config: AssignClustersConfig,
    previous_run: str | None,
    learned: Set[str] = frozenset(),
    judging: bool = False,
    seed: int = 0,
) -> EditedTables:
    """Apply edits to a clustering, give ids, and describe what there is then; nothing is published.

    One task; arrays over the images hold some 40 bytes for each, embeddings lie in a temporary file.

    Args:
        images: the finished stage embed_images.
        previous_run: where ids, names and the borders of splits are kept from.
        learned: ids of the edits that the heads were trained with.
        judging: as in `describe_clusters`.
    """
    rows = _Rows.read(found, edits)
    embeddings = _Embeddings(images, rows.row_ids)
    known = Clustering(
        rows.labels,
        rows.runner_up,
        matrix_of(found.centers["embedding"]),
        found.cluster_ids,
        _names_by_label(found, previous_run),
        rows.positions,
        embeddings,
        partial(_image_ids_of, found),
        learned,
        _splits_of(previous_run),
    )
    edited = apply_edits(known, edits, seed=seed)
    identities, comparison = _identities(found, edited, previous_run)
    is_changed = not np.array_equal(edited.labels, rows.labels)
    measured = _measure(found, rows, edited, embeddings) if is_changed else _Measures.unchanged(found, edited)
    writer = _Writer(found, rows, edited, measured, identities, output, fingerprint)
    written, final = [], []
    for start, table in _with_starts(found.read()):
        if is_changed:
            raw = table.select(ASSIGNMENTS.schema().names)
            if found.cluster_ids is None:
                raw = with_cluster_ids(raw, identities.cluster_ids[: found.num_labels])
            written.append(output.write_part(unedited(ASSIGNMENTS).name, raw, fingerprint=fingerprint))
        final.append(writer.write(start, table))
    again = (output.read_part(part) for part in final)
    tables = _described(found, edited, measured, identities, comparison, again, config, judging=judging)
    if edits:
        tables["edits"] = _edits_table(edited, identities.cluster_ids, tables["clusters"])
    if edited.splits:
        tables["splits"] = _splits_table(edited.splits)
    final, num_apart = _set_apart(output, final, tables, config, fingerprint=fingerprint)
    parts = {"assignments": final}
    if is_changed:
        parts[unedited(ASSIGNMENTS).name] = written
        tables[unedited(CENTERS).name] = _with_ids(found, found.centers, identities)
    if is_changed or edited.names or edited.names_by_id:
        tables[unedited(CLUSTERS).name] = _with_ids(found, found.clusters, identities)
    confidence = float(rows.confidence_sum / max(len(rows.labels), 1))
    return EditedTables(parts, tables, comparison, identities.ids_given, edited.edits, confidence, num_apart)


def _with_ids(found: ClusteredImages, table: pa.Table, identities: Identities) -> pa.Table:
    return table if found.cluster_ids is not None else with_cluster_ids(table, identities.cluster_ids)


def _set_apart(
    output: StageDir,
    parts: list[Part],
    tables: Mapping[str, pa.Table],
    config: AssignClustersConfig,
    *,
    fingerprint: str,
) -> tuple[list[Part], int | None]:
    """The parts with the column `inlier_cluster_id`, where it is asked for, and how many images it sets apart."""
    if config.min_cluster_size is None:
        return parts, None
    inliers = Inliers.of(tables["centers"], tables["clusters"], min_cluster_size=config.min_cluster_size)
    written, num_apart = [], 0
    for part in parts:
        table = inliers.add_to(output.read_part(part))
        num_apart += int((table[INLIER_CLUSTER_ID].to_numpy() < 0).sum())
        written.append(output.write_part("assignments", table, fingerprint=fingerprint))
    return written, num_apart


@dataclass(frozen=True)
class _Rows:
    """Of every image, in the order of the parts."""

    row_ids: np.ndarray
    labels: np.ndarray
    runner_up: np.ndarray
    positions: dict[str, int]
    confidence_sum: float

    @classmethod
    def read(cls, found: ClusteredImages, edits: Sequence[Edit]) -> "_Rows":
        wanted = pa.array(named_images(edits), pa.string())
        row_ids, labels, runner_up = [], [], []
        positions: dict[str, int] = {}
        confidence = 0.0
        for start, table in _with_starts(found.read(["row_id", "image_id", "cluster_id", "runner_up", "confidence"])):
            row_ids.append(table["row_id"].to_numpy())
            labels.append(found.labels_of(table["cluster_id"]))
            runner_up.append(found.labels_of(table["runner_up"]))
            confidence += float(pc.sum(table["confidence"]).as_py() or 0)
            places = np.flatnonzero(pc.is_in(table["image_id"], wanted).to_numpy(zero_copy_only=False))
            named = table["image_id"].take(pa.array(places)).to_pylist()
            positions.update(zip(named, (start + places).tolist(), strict=True))
        return cls(np.concatenate(row_ids), np.concatenate(labels), np.concatenate(runner_up), positions, confidence)


def _with_starts(tables: Iterator[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """Tables with the position of their first row."""
    start = 0
    for table in tables:
        yield start, table
        start += table.num_rows


def _names_by_label(found: ClusteredImages, previous_run: str | None) -> dict[int, str]:
    """What clusters are called by those who look at them: in the run before, where its ids are those of the heads."""
    clusters = found.clusters
    if found.cluster_ids is not None and previous_run is not None:
        stage = open_run_dir(previous_run).stage("assign_clusters")
        clusters = stage.read_table(CLUSTERS, ["cluster_id", "name"])
        clusters = clusters.filter(pc.is_in(clusters["cluster_id"], found.centers["cluster_id"]))
    labels = found.labels_of(clusters["cluster_id"])
    return dict(zip(labels.tolist(), clusters["name"].to_pylist(), strict=True))


def _splits_of(previous_run: str | None) -> dict[str, SplitParts]:
    """How splits divided clusters in the run before."""
    if previous_run is None:
        return {}
    stage = open_run_dir(previous_run).stage("assign_clusters")
    if "splits" not in stage.require_manifest().tables:
        return {}
    table = stage.read_table(SPLITS)
    edit_ids, examples = table["edit_id"].to_pylist(), table["examples"].to_pylist()
    centers = matrix_of(table["embedding"])
    found: dict[str, SplitParts] = {}
    for edit_id, of_edit in itertools.groupby(range(len(edit_ids)), key=edit_ids.__getitem__):
        rows = list(of_edit)
        found[edit_id] = SplitParts(tuple(tuple(examples[row]) for row in rows), centers[rows])
    return found


def _splits_table(splits: Mapping[str, SplitParts]) -> pa.Table:
    """A row for each part of each split."""
    rows = [(edit_id, part, images) for edit_id in splits for part, images in enumerate(splits[edit_id].examples)]
    edit_ids, parts, examples = zip(*rows, strict=True)
    centers = np.concatenate([split.centers for split in splits.values()])
    columns = [pa.array(edit_ids), pa.array(parts, pa.int32()), pa.array(examples), embedding_column(centers)]
    return pa.table(columns, schema=SPLITS.schema(centers.shape[1]))


class _Embeddings:
    """Unit rows (n, D) float32 of images by position (n,).

    All lie in a temporary file once any were asked for: edits ask for one cluster at a time, in an order that nobody
    foresees.
    """

    def __init__(self, images: StageDir, row_ids: np.ndarray) -> None:
        self._images, self._row_ids, self._memory = images, row_ids, HostArrays()

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        return self._stored.values[self._stored.positions_of(self._row_ids[positions])].astype(np.float32)

    def in_blocks(self, is_wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions (n,) of wanted images (N,) and their rows, as they lie in the file."""
        wanted = np.flatnonzero(is_wanted)
        wanted = wanted[np.argsort(self._row_ids[wanted], kind="stable")]
        for part in slices_of(len(wanted), _ROWS_PER_BLOCK):
            block = wanted[part]
            yield block, self(block)

    @cached_property
    def _stored(self) -> RowMatrix:
        return load_matrix(self._images, IMAGES.name, allocate=self._memory.allocate)


def _image_ids_of(found: ClusteredImages, positions: np.ndarray) -> list[str]:
    ids: list[str] = []
    for start, table in _with_starts(found.read(["image_id"])):
        own = positions[(positions >= start) & (positions < start + table.num_rows)] - start
        if len(own):
            ids += table["image_id"].take(pa.array(own)).to_pylist()
    return ids


def _identities(
    found: ClusteredImages, edited: Edited, previous_run: str | None
) -> tuple[Identities, Comparison | None]:
    """Ids for all labels: those of heads that had some stay; where the clustering is new, the images decide."""
    if previous_run is None:
        return Identities.first(edited.num_labels), None
    fixed = None
    if found.cluster_ids is not None:
        fixed = np.full(edited.num_labels, -1, dtype=np.int64)
        fixed[: found.num_labels] = found.cluster_ids
    assigned = (
        pa.table({"image_id": table["image_id"], "cluster_id": edited.labels[start : start + table.num_rows]})
        for start, table in _with_starts(found.read(["image_id"]))
    )
    sizes = np.bincount(edited.labels, minlength=edited.num_labels)
    comparison = compare_with_previous(previous_run, assigned, sizes, fixed_ids=fixed)
    return comparison.identities, comparison


@dataclass(frozen=True)
class _Measures:
    """Centres (K', D), mean distances (K',), and of images in clusters that changed their distance to the centre."""

    centers: np.ndarray
    mean_distances: np.ndarray
    is_affected: np.ndarray
    distances: np.ndarray | None = None

    @classmethod
    def unchanged(cls, found: ClusteredImages, edited: Edited) -> "_Measures":
        centers = matrix_of(found.centers["embedding"])
        more = edited.num_labels - len(centers)
        return cls(
            np.pad(centers, ((0, more), (0, 0))),
            np.pad(found.centers["mean_distance"].to_numpy(), (0, more)),
            np.zeros(edited.num_labels, dtype=bool),
        )


def _measure(found: ClusteredImages, rows: _Rows, edited: Edited, embeddings: _Embeddings) -> _Measures:
    """Centres of the clusters that lost or gained an image, from all images that they have now."""
    is_moved = edited.labels != rows.labels
    is_affected = np.zeros(edited.num_labels, dtype=bool)
    is_affected[rows.labels[is_moved]] = is_affected[edited.labels[is_moved]] = True
    before = _Measures.unchanged(found, edited)
    sums = np.zeros(before.centers.shape, dtype=np.float64)
    counts = np.zeros(edited.num_labels, dtype=np.int64)
    for positions, block in embeddings.in_blocks(is_affected[edited.labels]):
        labels = edited.labels[positions]
        counts += np.bincount(labels, minlength=len(counts))
        shape = (edited.num_labels, len(labels))
        ones = np.ones(len(labels), dtype=np.float32)
        sums += csr_array((ones, (labels, np.arange(len(labels)))), shape=shape) @ block
    norms = np.linalg.norm(sums, axis=1)
    fresh = (sums / np.maximum(norms, 1e-12)[:, None]).astype(np.float32)
    centers = np.where(is_affected[:, None], fresh, before.centers)
    # The mean of 1 - cosine to the normalised mean of unit rows.
    own = np.where(counts > 0, 1 - norms / np.maximum(counts, 1), 0)
    mean_distances = np.where(is_affected, own, before.mean_distances).astype(np.float32)
    distances = np.zeros(len(rows.labels), dtype=np.float32)
    for positions, block in embeddings.in_blocks(is_affected[edited.labels]):
        distances[positions] = 1 - np.einsum("nd,nd->n", block, centers[edited.labels[positions]])
    return _Measures(centers, mean_distances, is_affected, distances)


@dataclass(frozen=True)
class _Writer:
    """Parts of `assignments` with final ids and what is said of each image."""

    found: ClusteredImages
    rows: _Rows
    edited: Edited
    measured: _Measures
    identities: Identities
    output: StageDir
    fingerprint: str

    def write(self, start: int, table: pa.Table) -> Part:
        here = slice(start, start + table.num_rows)
        labels, ids = self.edited.labels[here], self.identities.cluster_ids.astype(np.int32)
        confidence, margin, outlier = (
            table[name].to_numpy().copy() for name in ("confidence", "margin", "outlier_score")
        )
        second = self._second(labels, here)
        alone = second == labels
        margin[alone] = confidence[alone]
        placed = self.edited.placed[here]
        confidence[placed] = margin[placed] = 1.0  # a person was sure
        affected = self.measured.is_affected[labels]
        if self.measured.distances is not None:
            means = self.measured.mean_distances[labels[affected]]
            outlier[affected] = outlier_scores(self.measured.distances[here][affected], means)
        columns = {
            "row_id": table["row_id"],
            "image_id": table["image_id"],
            "cluster_id": pa.array(ids[labels]),
            "confidence": pa.array(confidence, pa.float32()),
            "runner_up": pa.array(ids[second]),
            "margin": pa.array(margin, pa.float32()),
            "outlier_score": pa.array(outlier, pa.float32()),
        }
        table = pa.table(columns).cast(ASSIGNMENTS.schema())
        return self.output.write_part("assignments", table, fingerprint=self.fingerprint)

    def _second(self, labels: np.ndarray, here: slice) -> np.ndarray:
        """The next best cluster of images: the heads' where an edit put them elsewhere, else the one that was next; of
        those whose next one is now their own, the nearest other."""
        before, second = self.rows.labels[here], self._final_of[self.rows.runner_up[here]]
        moved = (labels != before) & (self._final_of[before] != labels)
        second = np.where(moved, self._final_of[before], second)
        return np.where(second == labels, self._nearest[labels], second)

    @cached_property
    def _final_of(self) -> np.ndarray:
        """For each label of the heads the cluster that most of its images are in now; itself where it has none."""
        counts = coo_array(
            (np.ones(len(self.rows.labels), dtype=np.int64), (self.rows.labels, self.edited.labels)),
            shape=(self.found.num_labels, self.edited.num_labels),
        ).tocsr()
        most = np.asarray(counts.argmax(axis=1)).ravel()
        return np.where(np.diff(counts.indptr) > 0, most, np.arange(self.found.num_labels))

    @cached_property
    def _nearest(self) -> np.ndarray:
        sizes = np.bincount(self.edited.labels, minlength=self.edited.num_labels)
        lists = nearest_clusters(self.measured.centers, sizes)
        return np.array([others[0] if others else own for own, others in enumerate(lists)])


def _described(
    found: ClusteredImages,
    edited: Edited,
    measured: _Measures,
    identities: Identities,
    comparison: Comparison | None,
    assignments: Iterable[pa.Table],
    config: AssignClustersConfig,
    *,
    judging: bool,
) -> dict[str, pa.Table]:
    """The tables `centers`, `clusters`, `cluster_tree` and `lineage`."""
    ids = identities.cluster_ids.astype(np.int32)
    centers = pa.table(
        {
            "cluster_id": pa.array(ids),
            "mean_distance": pa.array(measured.mean_distances, pa.float32()),
            "embedding": embedding_column(measured.centers.astype(np.float32)),
        }
    ).cast(CENTERS.schema(measured.centers.shape[1]))
    # A cluster that an edit made is called as the one it came from until something better is known.
    labels = found.labels_of(found.clusters["cluster_id"])
    known = dict(zip(labels.tolist(), found.clusters.to_pylist(), strict=True))
    rows = [
        {**known[origin], "cluster_id": int(ids[label])}
        for label, origin in enumerate(edited.origins.tolist())
        if origin in known
    ]
    names = {int(ids[label]): name for label, name in edited.names.items()}
    clusters = settle_names(
        describe_again(assignments, centers, pa.Table.from_pylist(rows, schema=CLUSTERS.schema()), config),
        previous={} if comparison is None else comparison.previous_clusters,
        renames={**edited.names_by_id, **names},
    )
    has_images = pc.is_in(centers["cluster_id"], clusters["cluster_id"])
    return {
        "centers": centers,
        "clusters": clusters,
        "cluster_tree": describe_tree(matrix_of(centers.filter(has_images)["embedding"]), clusters, judging=judging),
        "lineage": lineage_table(comparison, clusters),
    }


def _edits_table(edited: Edited, cluster_ids: np.ndarray, clusters: pa.Table) -> pa.Table:
    """The table `edits`; a cluster without images is none."""
    present = set(clusters["cluster_id"].to_pylist())
    rows = []
    for outcome in edited.outcomes:
        edit, found = outcome.edit, _cluster_of(outcome, cluster_ids)
        is_there = found in present
        gone = found is not None and not is_there and outcome.state == "applied"
        rows.append(
            {
                "edit_id": edit.id,
                "kind": edit.kind,
                "summary": edit.summary(),
                "author": edit.author,
                "at": edit.at,
                "reason": edit.reason,
                "state": "waiting" if gone else outcome.state,
                "cluster_id": found if is_there else None,
                "num_images": outcome.num_images,
                "num_missing": outcome.num_missing,
                "num_elsewhere": outcome.num_elsewhere,
                "num_overruled": outcome.num_overruled,
                "message": "waiting: its cluster is not here now" if gone else outcome.message,
            }
        )
    return pa.Table.from_pylist(rows, schema=EDITS.schema())


def _cluster_of(outcome: Outcome, cluster_ids: np.ndarray) -> int | None:
    """The id of the cluster that an edit is about; as the edit has it where it has nothing but an id."""
    if outcome.label is not None:
        return int(cluster_ids[outcome.label])
    references = outcome.edit.clusters
    is_by_id = outcome.edit.kind in ("rename", "hide") and references and not references[0].images
    return references[0].id if is_by_id else None
