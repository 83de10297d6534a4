"""A night without a full clustering as Ray jobs: new images are assigned by the heads of the base, the others kept."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from dxmc_core.artifacts.index_file import METRICS_KEY
from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.matrices import matrix_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import parts_in_order
from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.artifacts.tables import CENTERS, CLUSTERS, as_clustered
from dxmc_core.edits.renames import require_known
from dxmc_core.errors import ArtifactError
from dxmc_core.method.clusters.drift import AssignmentFigures
from dxmc_core.reclustering import SinceFull
from dxmc_core.stages.assign_arrivals import (
    AssignArrivals,
    Kept,
    compare_with_base,
    describe_again,
    figures_of,
    keep_assignments,
    parts_with_arrivals,
    read_parts,
)
from dxmc_core.stages.assign_clusters import describe_tree
from dxmc_core.stages.cluster_names import named_clusters
from dxmc_core.stages.edited_clusters import ClusteredImages, is_edited
from dxmc_core.stages.mine_neighbors import near_duplicate_metrics
from dxmc_core.stages.previous_clusters import IDS_GIVEN, Comparison, lineage_table
from ray_jobs.assign_clusters import NAME, apply_edits, map_parts, set_apart
from ray_jobs.cluster import run_on_host
from ray_jobs.context import RunContext
from ray_jobs.mine_neighbors import search_indexes
from ray_jobs.plans.train_heads import LEARNED


@dataclass(frozen=True)
class Arrivals:
    """What the heads of the base make of a source that has changed.

    Attributes:
        kept: assignments of the base that still hold.
        parts: of `assignments`, of all other images.
        since: what happened since the last full clustering, these images included.
    """

    kept: Kept
    parts: list[Part]
    since: SinceFull

    @property
    def all_parts(self) -> list[Part]:
        return [*self.kept.parts, *self.parts]


def assign_arrivals(context: RunContext, base: RunDir, since: SinceFull, *, fingerprint: str) -> Arrivals:
    """Write assignments of all images, by the heads of the base where it has none; nothing is published yet."""
    images, output = context.stage("embed_images"), context.stage(NAME)
    kept: Kept = run_on_host(_keep, base, context, fingerprint, doing="looking for images that are new")
    make = partial(
        AssignArrivals,
        images=images,
        output=output,
        fingerprint=fingerprint,
        base=base,
        kept_rows=kept.rows,
        top_nouns=context.config.build_semantic_space.top_nouns,
        far=since.far,
    )
    parts = images.require_manifest().tables["images"]
    arriving = {index: parts[index] for index in parts_with_arrivals(images, kept)}
    receipts = map_parts(make, arriving)
    figures = sum((AssignmentFigures(**receipt["figures"]) for receipt in receipts), start=AssignmentFigures())
    since = since.with_night(figures, num_removed=kept.num_removed, min_arrivals=context.config.recluster.min_arrivals)
    return Arrivals(kept, parts_in_order(receipts), since)


def _keep(base: RunDir, context: RunContext, fingerprint: str) -> Kept:
    return keep_assignments(base, context.stage("embed_images"), context.stage(NAME), fingerprint=fingerprint)


def describe_arrivals(context: RunContext, base: RunDir, arrivals: Arrivals, *, fingerprint: str) -> StageResult:
    """What assign_clusters is then, with the ids and centres of the base. Of its mine_neighbors what is left is
    published.

    Raises:
        ArtifactError: an image has no assignment, or two (a defect; nothing is published).
    """
    output, parts = context.stage(NAME), arrivals.all_parts
    num_assigned = sum(part.rows for part in parts)
    if num_assigned != context.num_images:
        raise ArtifactError(f"{num_assigned} assignments for {context.num_images} images; nothing is published")
    _publish_neighbors(context, base, arrivals.kept.near_duplicates)
    before = base.stage(NAME)
    if not context.are_names_alone or is_edited(before.require_manifest()):
        return apply_edits(
            context,
            replace(ClusteredImages.published(before), stage=output, parts=parts),
            previous_run=base.uri,
            learned=base.stage("train_heads").require_manifest().metrics.get(LEARNED, []),
            fingerprint=fingerprint,
        )
    tables: dict[str, pa.Table]
    comparison: Comparison
    tables, comparison, confidence = run_on_host(
        _describe, context, base, arrivals, context.renames, doing="describing the clusters"
    )
    require_known(context.renames, comparison.identities.ids_given)
    parts, apart = set_apart(context, fingerprint, parts, tables["centers"], tables["clusters"])
    return StageResult(
        tables={"assignments": parts, **output.write_tables(tables, fingerprint=fingerprint)},
        metrics={
            "num_clusters": tables["centers"].num_rows,
            "clusters_with_images": tables["clusters"].num_rows,
            "mean_confidence": round(confidence, 4),
            IDS_GIVEN: comparison.identities.ids_given,
            "lineage": comparison.metrics(),
            **apart,
        },
    )


def _publish_neighbors(context: RunContext, base: RunDir, table: pa.Table) -> None:
    """The groups among images of the last full clustering, and its search index brought up to date.

    Neighbours are searched anew by the next one.
    """
    output, found = context.stage("mine_neighbors"), base.stage("mine_neighbors").require_manifest()
    files, indexes = search_indexes(context, fingerprint=found.fingerprint, has_cells=False, device="cpu", base=base)
    manifest = output.publish(
        fingerprint=found.fingerprint,
        inputs=found.inputs,
        tables=output.write_tables({"near_duplicates": table}, fingerprint=found.fingerprint),
        files=files,
        metrics={**found.metrics, **near_duplicate_metrics(table), METRICS_KEY: indexes},
        seconds=0.0,
    )
    context.published(manifest)


def _describe(
    context: RunContext, base: RunDir, arrivals: Arrivals, renames: Mapping[int, str]
) -> tuple[dict[str, pa.Table], Comparison, float]:
    """The tables beside `assignments`, what became of the base's clusters, and the mean confidence of all images."""
    output, before = context.stage(NAME), base.stage(NAME)
    centers = before.read_table(CENTERS)
    known = before.read_table(as_clustered(CLUSTERS, before.require_manifest().tables))
    comparison = compare_with_base(base, output, arrivals.kept, arrivals.parts)
    assignments = read_parts(output, arrivals.all_parts)
    named = named_clusters(
        describe_again(assignments, centers, known, context.config.assign_clusters),
        previous=comparison.previous_clusters,
        renames=renames,
    )
    clusters = named[CLUSTERS.name]
    has_images = pc.is_in(centers["cluster_id"], clusters["cluster_id"])
    tables = {
        "centers": centers,
        **named,
        "cluster_tree": describe_tree(
            matrix_of(centers.filter(has_images)["embedding"]),
            clusters,
            judging=context.config.naming.judging_nouns,
        ),
        "lineage": lineage_table(comparison, clusters),
    }
    figures = figures_of(read_parts(output, arrivals.all_parts), far=arrivals.since.far)
    return tables, comparison, figures.summary()["mean_confidence"]
