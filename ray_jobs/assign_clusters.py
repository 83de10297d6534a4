"""Stage 5 as a Ray job: clusters are measured on a sample in one task, then every part of the images is assigned."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.heads import load_heads
from dxmc_core.artifacts.joined_images import image_tables_of, load_image_rows
from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.matrices import load_matrix, read_rows
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import StageDir, parts_in_order
from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.artifacts.tables import CLUSTERS, NOUNS
from dxmc_core.edits.model import Edit
from dxmc_core.edits.renames import require_known
from dxmc_core.errors import DxmcError
from dxmc_core.images.thumbnails import make_thumbnails
from dxmc_core.method.clusters.cluster_identity import Identities
from dxmc_core.method.clusters.cluster_sample import ClusterSample
from dxmc_core.stages.assign_clusters import (
    AssignImages,
    assign_sample,
    center_table,
    describe_clusters,
    describe_tree,
    sample_images,
)
from dxmc_core.stages.captions import (
    CAPTIONS_NAME,
    THUMBNAIL_PX,
    answer_bytes,
    caption_clusters,
    exemplar_rows,
    known_answers,
    with_captions,
)
from dxmc_core.stages.cluster_names import named_clusters
from dxmc_core.stages.edited_clusters import ClusteredImages, EditedTables, edit_clusters, tell_of_edits
from dxmc_core.stages.inliers import Inliers, SetApart
from dxmc_core.stages.previous_clusters import (
    IDS_GIVEN,
    Comparison,
    RenumberAssignments,
    compare_with_previous,
    lineage_table,
    with_cluster_ids,
)
from dxmc_core.stages.settings.naming import LlmNaming
from ray_jobs.cluster import Mapper, light_step, map_rows, run_on_host
from ray_jobs.context import RunContext
from ray_jobs.main import main_of
from ray_jobs.plans.assign_clusters import NAME
from ray_jobs.plans.train_heads import LEARNED
from ray_jobs.progress import Progress

logger = logging.getLogger(__name__)


def run(context: RunContext, fingerprint: str) -> StageResult:
    output = context.stage(NAME)
    sample: ClusterSample = run_on_host(_measure, context, doing="measuring the clusters on a sample")
    centers = center_table(sample)
    assignments, sizes = _assign(context, fingerprint, centers)
    if not context.are_names_alone:
        found: ClusteredImages = run_on_host(
            _describe_unedited, context, sample, sizes, assignments, doing="naming the clusters"
        )
        clusters, files = captioned(context, found.clusters)
        return apply_edits(
            context,
            replace(found, clusters=clusters),
            files=files,
            previous_run=_previous_run(context),
            learned=context.stage("train_heads").require_manifest().metrics.get(LEARNED, []),
            fingerprint=fingerprint,
        )
    assignments, comparison = _keep_ids(context, fingerprint, assignments, sizes)
    identities = Identities.first(len(sizes)) if comparison is None else comparison.identities
    renames = context.renames
    require_known(renames, identities.ids_given)
    named: dict[str, pa.Table] = run_on_host(
        _describe,
        context,
        sample,
        sizes,
        identities,
        comparison,
        renames,
        doing="naming and describing the clusters",
    )
    clusters, files = captioned(context, named[CLUSTERS.name])
    centers = with_cluster_ids(centers, identities.cluster_ids)
    assignments, apart = set_apart(context, fingerprint, assignments, centers, clusters)
    tables = {
        **named,
        "clusters": clusters,
        "cluster_tree": run_on_host(
            _join, context, sample.centers[sizes > 0], clusters, doing="joining the clusters to a tree"
        ),
        "lineage": lineage_table(comparison, clusters),
        "centers": centers,
    }
    return StageResult(
        tables={"assignments": assignments, **output.write_tables(tables, fingerprint=fingerprint)},
        files=files,
        metrics={
            "num_clusters": len(sizes),
            "clusters_with_images": tables["clusters"].num_rows,
            "mean_confidence": round(float(sample.confidences.mean()), 4),
            IDS_GIVEN: identities.ids_given,
            "lineage": None if comparison is None else comparison.metrics(),
            **apart,
        },
    )


def _measure(context: RunContext) -> ClusterSample:
    images, space = context.stage("embed_images"), context.stage("build_semantic_space")
    heads = load_heads(context.stage("train_heads"))
    counterparts = load_matrix(space, "text_counterparts") if heads.needs_text else None
    max_images = context.config.assign_clusters.max_described_images
    sample = sample_images(images, max_images=max_images, seed=context.config.seed)
    joined = load_image_rows(images, image_tables_of(context.stage("train_heads")), sample)
    return assign_sample(sample, heads, counterparts, joined)


def _assign(context: RunContext, fingerprint: str, centers: pa.Table) -> tuple[list[Part], np.ndarray]:
    """Assign every image; the parts, with labels for ids, and the size of each label (K,)."""
    images, output = context.stage("embed_images"), context.stage(NAME)
    make = partial(
        AssignImages,
        images=images,
        semantic_space=context.stage("build_semantic_space"),
        output=output,
        fingerprint=fingerprint,
        heads=context.stage("train_heads"),
        centers=output.write_part("centers", centers, fingerprint=fingerprint),
    )
    parts = images.require_manifest().tables["images"]
    receipts = map_parts(make, dict(enumerate(parts)))
    return parts_in_order(receipts), np.sum([receipt["sizes"] for receipt in receipts], axis=0)


def _keep_ids(
    context: RunContext, fingerprint: str, assignments: list[Part], sizes: np.ndarray
) -> tuple[list[Part], Comparison | None]:
    """Give the clusters the ids they had in an earlier run, where one is named; the parts with these ids."""
    previous_run = _previous_run(context)
    if previous_run is None:
        return assignments, None
    output = context.stage(NAME)
    comparison: Comparison = run_on_host(
        _compare, previous_run, output, assignments, sizes, doing="comparing with the earlier run"
    )
    make = partial(
        RenumberAssignments,
        output=output,
        fingerprint=fingerprint,
        parts=assignments,
        cluster_ids=comparison.identities.cluster_ids,
    )
    return parts_in_order(map_parts(make, dict(enumerate(assignments)))), comparison


def _previous_run(context: RunContext) -> str | None:
    """The run that ids are kept from, where there is one."""
    uri = context.config.assign_clusters.keep_ids_from
    if uri is not None and RunDir.at(uri) == context.run_dir and context.manifest(NAME) is None:
        return None
    return uri


def _compare(previous_run: str, output: StageDir, parts: Sequence[Part], sizes: np.ndarray) -> Comparison:
    labels = (output.read_part(part, ["image_id", "cluster_id"]) for part in parts)
    return compare_with_previous(previous_run, labels, sizes)


def apply_edits(
    context: RunContext,
    found: ClusteredImages,
    *,
    previous_run: str | None,
    learned: Sequence[str],
    fingerprint: str,
    files: Mapping[str, Part] | None = None,
) -> StageResult:
    """What a clustering gave, with the edits of people applied."""
    edited: EditedTables = run_on_host(
        _edit, context, found, context.edits, previous_run, frozenset(learned), fingerprint, doing="applying edits"
    )
    context.keep_edits(edited.edits)
    require_known(context.renames, edited.ids_given)
    tell_of_edits(edited)
    return edited.written(context.stage(NAME), fingerprint=fingerprint, files=files)


def _edit(
    context: RunContext,
    found: ClusteredImages,
    edits: Sequence[Edit],
    previous_run: str | None,
    learned: frozenset[str],
    fingerprint: str,
) -> EditedTables:
    return edit_clusters(
        found,
        edits,
        images=context.stage("embed_images"),
        output=context.stage(NAME),
        fingerprint=fingerprint,
        config=context.config.assign_clusters,
        previous_run=previous_run,
        learned=learned,
        judging=context.config.naming.judging_nouns,
        seed=context.config.seed,
    )


def map_parts(make: Callable[[], Mapper], parts: Mapping[int, Part]) -> list[dict[str, Any]]:
    """Have a mapper of this stage do parts, given with their indexes; what it reports of each."""
    num_images = sum(part.rows for part in parts.values())
    receipts = []
    with Progress("assigning", num_images, unit="images", first="starting workers") as progress:
        rows = [{"part": index} for index in parts]
        for row in map_rows(rows, light_step(make, num_images)):
            receipts.append(row)
            progress.add(row["rows"])
    return receipts


def _describe_unedited(
    context: RunContext, sample: ClusterSample, sizes: np.ndarray, assignments: list[Part]
) -> ClusteredImages:
    clusters = _named(context, sample, sizes)
    return ClusteredImages(context.stage(NAME), assignments, center_table(sample), clusters, None)


def _describe(
    context: RunContext,
    sample: ClusterSample,
    sizes: np.ndarray,
    identities: Identities,
    comparison: Comparison | None,
    renames: dict[int, str],
) -> dict[str, pa.Table]:
    """The table `clusters` with final ids and names, as `named_clusters` has it."""
    return named_clusters(
        with_cluster_ids(_named(context, sample, sizes), identities.cluster_ids),
        previous={} if comparison is None else comparison.previous_clusters,
        renames=renames,
    )


def _named(context: RunContext, sample: ClusterSample, sizes: np.ndarray) -> pa.Table:
    """The table `clusters`, with labels for ids and names of its own."""
    nouns = context.run_dir.read_table(NOUNS) if context.text_stages else None
    judging = context.config.naming.judging_nouns
    return describe_clusters(sample, sizes, nouns, context.config.assign_clusters, judging=judging)


def _join(context: RunContext, centers: np.ndarray, clusters: pa.Table) -> pa.Table:
    return describe_tree(centers, clusters, judging=context.config.naming.judging_nouns)


def captioned(context: RunContext, clusters: pa.Table) -> tuple[pa.Table, dict[str, Part]]:
    """The clusters with captions where a language model is configured, and the file that keeps its answers.

    This process asks, as it is the one that has the key.
    """
    config = context.config.naming
    if not isinstance(config, LlmNaming):
        return clusters, {}
    output = context.stage(NAME)
    thumbnails = _thumbnails(context, exemplar_rows(clusters, num_thumbnails=config.num_thumbnails))
    found = caption_clusters(clusters, config, thumbnails=thumbnails, known=known_answers(output.storage))
    if found.problem is not None:
        logger.warning(
            "%s: %d of %d clusters keep the names they have, as no caption could be had for them: %s",
            NAME,
            clusters.num_rows - len(found.names),
            clusters.num_rows,
            found.problem,
        )
    return with_captions(clusters, found.names), {
        CAPTIONS_NAME: output.write_file(CAPTIONS_NAME, answer_bytes(found.answers))
    }


def _thumbnails(context: RunContext, rows: list[int]) -> dict[int, bytes]:
    """Pictures of rows by row id; none where the source cannot be read any more."""
    if not rows:
        return {}
    try:
        catalog = read_rows(context.stage("embed_images"), "catalog", np.array(rows, dtype=np.int64))
        return make_thumbnails(catalog, context.config.source, size=THUMBNAIL_PX)
    except DxmcError as error:
        logger.warning("%s: captions are asked for without pictures: %s", NAME, error)
        return {}


def set_apart(
    context: RunContext, fingerprint: str, assignments: list[Part], centers: pa.Table, clusters: pa.Table
) -> tuple[list[Part], dict[str, int]]:
    """The parts with the column `inlier_cluster_id` and how many images it sets apart, if that is asked for."""
    min_cluster_size = context.config.assign_clusters.min_cluster_size
    if min_cluster_size is None:
        return assignments, {}
    inliers = Inliers.of(centers, clusters, min_cluster_size=min_cluster_size)
    make = partial(SetApart, output=context.stage(NAME), fingerprint=fingerprint, parts=assignments, inliers=inliers)
    receipts = map_parts(make, dict(enumerate(assignments)))
    return parts_in_order(receipts), {"images_set_apart": sum(receipt["num_apart"] for receipt in receipts)}


if __name__ == "__main__":
    main_of(NAME)
