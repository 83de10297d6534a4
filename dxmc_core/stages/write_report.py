"""Stage 6: one self-contained HTML page that shows a person what came out."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from dxmc_core.artifacts import schemas
from dxmc_core.artifacts.matrices import load_rows, read_rows
from dxmc_core.artifacts.run_dir import CHOICE_OF_K, STAGES, RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.evaluation import MAX_SCORED_IMAGES, evaluate_run, label_column
from dxmc_core.images.sources import ImageSource, ImagesSource
from dxmc_core.images.thumbnails import make_thumbnails
from dxmc_core.method.metrics import label_free_work
from dxmc_core.method.work import Work
from dxmc_core.report import (
    Changes,
    KEvidence,
    MapPoints,
    Move,
    PastCluster,
    ReportData,
    ReportImage,
    Score,
    StageTiming,
    count_labels,
    duplicates_by_cluster,
    flatten_settings,
    gallery_positions,
    k_evidence,
    map_work,
    project_2d,
    render_report,
    report_cluster,
    report_images,
    rows_shown,
    sample_for_map,
    summarize_rejects,
    training_curves,
    tree_of,
)
from dxmc_core.stages.settings.write_report import WriteReportConfig
from dxmc_core.workload import PROCESS_BYTES, RAY_BYTES, CostPart, Machine, StageCost, Workload

#: What is imported for charts, maps and pictures only, as a share of what a process imports at its start.
_IMPORTS = 0.5
#: Making a picture small, encoding it as WebP and packing it takes as long as moving so many bytes.
_MOVED_PER_THUMBNAIL = 120e6
#: The table of all assignments in memory, and a picture of the page.
_BYTES_PER_ASSIGNMENT = 400
_BYTES_PER_THUMBNAIL = 60_000
_SHOWN_PACKAGES = ("dxmc", "ray", "torch", "open_clip_torch", "faiss-gpu", "pyarrow", "scikit-learn")
_MEANINGS = {
    "acc": "share of images whose cluster's matched label is theirs (Hungarian matching)",
    "nmi": "normalised mutual information of clusters and labels",
    "ari": "adjusted Rand index: agreement of pairs, corrected for chance",
    "silhouette": "how much nearer images are to their own cluster than to the next, -1 to 1",
    "neighbor_agreement": "share of an image's nearest neighbours that are in its cluster",
    "balance": "entropy of the cluster sizes over that of equal sizes",
    "largest_share": "share of the images that are in the largest cluster",
}


def build_report(
    run_dir: RunDir, config: WriteReportConfig, *, settings: Mapping[str, Any], seed: int, source: ImageSource | None
) -> str:
    """The page of a finished run as HTML.

    Args:
        settings: the run's configuration as plain values.
        source: where thumbnails are made from; None when the run has no images.

    Raises:
        ArtifactError: a stage is not finished or damaged.
    """
    data = _without_images(run_dir, config, settings=settings, seed=seed)
    rows = np.sort(np.array(rows_shown(data), dtype=np.int64))
    images = _report_images(run_dir, rows, source=source, config=config)
    return render_report(replace(data, images=images), max_bytes=config.max_bytes)


def _has_files(settings: Mapping[str, Any]) -> bool:
    return settings["source"]["kind"] != "embeddings"


def _without_images(
    run_dir: RunDir, config: WriteReportConfig, *, settings: Mapping[str, Any], seed: int
) -> ReportData:
    stage = run_dir.stage("assign_clusters")
    assignments = stage.read_table("assignments", schema=schemas.ASSIGNMENTS)
    clusters = stage.read_table("clusters", schema=schemas.CLUSTERS).to_pylist()
    cluster_ids = assignments["cluster_id"].to_numpy()
    row_ids = assignments["row_id"].to_numpy()
    label_counts = count_labels(cluster_ids, label_column(run_dir, assignments))
    duplicates = _near_duplicates(run_dir, row_ids, cluster_ids)
    low = gallery_positions(assignments["confidence"].to_numpy(), count=config.num_low_confidence, largest=False)
    far = gallery_positions(assignments["outlier_score"].to_numpy(), count=config.num_outliers, largest=True)
    history = [json.loads(line) for line in run_dir.stage("train_heads").read_file("metrics.jsonl").splitlines()]
    source = settings["source"]["uri"]
    return ReportData(
        title=config.title or source.rstrip("/").rsplit("/", 1)[-1],
        created_at=datetime.now(UTC),
        num_images=assignments.num_rows,
        item=("photograph", "photographs") if _has_files(settings) else ("row", "rows"),
        clusters=[
            report_cluster(
                row,
                label_counts=label_counts.get(row["cluster_id"], {}),
                near_duplicates=duplicates.get(row["cluster_id"], []),
            )
            for row in clusters
        ],
        source=source,
        method=settings["method"]["name"],
        encoder=_encoder_name(settings),
        encoder_note=_encoder_note(settings),
        rejects=summarize_rejects(
            run_dir.stage("embed_images").read_table("rejects", schema=schemas.REJECTS).to_pylist()
        ),
        scores=_scores(run_dir, seed=seed),
        map_points=_map_points(run_dir, row_ids, cluster_ids, max_points=config.max_map_points, seed=seed),
        low_confidence=row_ids[low].tolist(),
        outliers=row_ids[far].tolist(),
        curves=training_curves(history),
        k_evidence=_k_evidence(run_dir) if settings["num_clusters"] == "auto" else None,
        tree=tree_of(stage.read_table("cluster_tree", schema=schemas.CLUSTER_TREE).to_pylist()),
        changes=_changes(stage),
        timings=_timings(run_dir, settings),
        settings=flatten_settings(settings),
        versions={package: version(package) for package in _SHOWN_PACKAGES},
    )


def _near_duplicates(run_dir: RunDir, row_ids: np.ndarray, cluster_ids: np.ndarray) -> dict[int, list[list[int]]]:
    table = run_dir.stage("mine_neighbors").read_table("near_duplicates", schema=schemas.NEAR_DUPLICATES)
    rows = table["row_id"].to_numpy()
    order = np.argsort(row_ids, kind="stable")
    own = cluster_ids[order[np.searchsorted(row_ids, rows, sorter=order)]]
    return duplicates_by_cluster(rows, table["group_id"].to_numpy(), own)


def _k_evidence(run_dir: RunDir) -> KEvidence:
    return k_evidence(run_dir.stage(CHOICE_OF_K).read_table("k_scores", schema=schemas.K_SCORES).to_pylist())


def _encoder_name(settings: Mapping[str, Any]) -> str:
    if not _has_files(settings):
        return "embeddings from a file"
    encoder = settings["encoder"]
    return encoder["kind"] if encoder["kind"] == "offline" else f"{encoder['model']} ({encoder['pretrained']})"


def _encoder_note(settings: Mapping[str, Any]) -> str:
    if _has_files(settings) and settings["encoder"]["kind"] == "offline":
        return (
            "The embedded offline encoder is a small ImageNet classifier standing in for CLIP: good for trying things "
            "out, not a measure of what dxmc does with open_clip."
        )
    return ""


def _scores(run_dir: RunDir, *, seed: int) -> list[Score]:
    result = evaluate_run(run_dir, seed=seed)
    return [
        Score(
            name=name.upper() if kind == "external" else name, value=value, kind=kind, meaning=_MEANINGS.get(name, "")
        )
        for kind in ("external", "label_free")
        for name, value in result.get(kind, {}).items()
    ]


def _map_points(
    run_dir: RunDir, row_ids: np.ndarray, cluster_ids: np.ndarray, *, max_points: int, seed: int
) -> MapPoints | None:
    if max_points == 0:
        return None
    chosen = np.sort(row_ids[sample_for_map(cluster_ids, max_points=max_points, seed=seed)])
    rows = load_rows(run_dir.stage("embed_images"), "images", chosen)
    projection = project_2d(rows.values.astype(np.float32), max_points=max_points, seed=seed)
    return MapPoints(row_ids=rows.row_ids[projection.positions], xy=projection.xy, projection=projection.method)


def _changes(stage: StageDir) -> Changes | None:
    """What became of the clusters of the earlier run that this one keeps ids from, or None when there is none."""
    figures = stage.require_manifest().metrics.get("lineage")
    if figures is None:
        return None
    lineage = stage.read_table("lineage", schema=schemas.LINEAGE).to_pylist()
    return Changes(
        previous_run=figures["previous_run"],
        num_new=figures["new_images"],
        num_removed=figures["removed_images"],
        num_moved=figures["moved_images"],
        born=[row["cluster_id"] for row in lineage if row["relation"] in ("split", "born")],
        died=[
            PastCluster(name=row["previous_name"], size=row["previous_size"])
            for row in lineage
            if row["relation"] in ("merged", "died")
        ],
        moves=[
            Move(
                origin=row["previous_name"],
                destination=row["name"],
                num_images=row["overlap"],
                destination_id=row["cluster_id"],
            )
            for row in lineage
            if row["relation"] in ("split", "merged")
        ],
    )


def _timings(run_dir: RunDir, settings: Mapping[str, Any]) -> list[StageTiming]:
    timings = []
    first, *others = STAGES[:-1]
    choice = [CHOICE_OF_K] if settings["num_clusters"] == "auto" else []
    for name in (first, *choice, *others):
        manifest = run_dir.stage(name).manifest()
        if manifest is not None:
            rows = max((manifest.rows(table) for table in manifest.tables), default=None)
            timings.append(StageTiming(stage=name, seconds=manifest.seconds, rows=rows))
    return timings


def _report_images(
    run_dir: RunDir, rows: np.ndarray, *, source: ImageSource | None, config: WriteReportConfig
) -> dict[int, ReportImage]:
    catalog = read_rows(run_dir.stage("embed_images"), "catalog", rows)
    assigned = read_rows(run_dir.stage("assign_clusters"), "assignments", rows)
    thumbnails = {} if source is None else make_thumbnails(catalog, source, size=config.thumbnail_size)
    return report_images(
        rows,
        catalog["image_id"].to_pylist(),
        cluster_ids=assigned["cluster_id"].to_numpy(),
        uris=catalog["uri"].to_pylist() if isinstance(source, ImagesSource) else None,
        confidences=assigned["confidence"].to_numpy(),
        runner_ups=assigned["runner_up"].to_numpy(),
        outlier_scores=assigned["outlier_score"].to_numpy(),
        labels=catalog["label"].to_pylist(),
        thumbnails=thumbnails,
    )


def cost(load: Workload, machine: Machine) -> StageCost:
    """What the stage takes: one task without a GPU; pictures of clusters and map, scores on a sample, and the map."""
    shown = 0
    if load.encoder is not None:
        shown = min(load.num_images, load.num_clusters * load.images_per_cluster + load.max_map_points)
    scored = min(load.num_images, MAX_SCORED_IMAGES)
    decoding = shown * (machine.rates.fetch_s + machine.rates.decode_s / machine.cores)
    held = load.num_images * float(_BYTES_PER_ASSIGNMENT) + shown * float(_BYTES_PER_THUMBNAIL)
    return StageCost(
        "write_report",
        (
            machine.starting(_IMPORTS),
            CostPart("reading pictures", decoding),
            machine.on_cpus("thumbnails", Work(moved_bytes=_MOVED_PER_THUMBNAIL * shown)),
            machine.on_cpus("scores", label_free_work(scored, load.width, load.num_clusters)),
            machine.on_cpus("the map", map_work(min(load.num_images, load.max_map_points)), num_cores=1),
        ),
        memory_bytes=RAY_BYTES + 2 * PROCESS_BYTES + held + scored * load.width * 8.0,
        disk_bytes=min(float(load.report_bytes), shown * float(_BYTES_PER_THUMBNAIL)),
        note=f"{shown:,} pictures" if shown else "no pictures: embeddings have none",
    )
