"""Stage 6: one self-contained HTML page that shows a person what came out, and pages of all members beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dxmc_core.artifacts.matrices import load_rows, read_rows
from dxmc_core.artifacts.run_dir import CHOICE_OF_K, SEMANTIC_SPACE, STAGES, RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CLUSTER_TREE, CLUSTERS, K_SCORES, LINEAGE, NEAR_DUPLICATES, REJECTS
from dxmc_core.edits.references import hidden_clusters
from dxmc_core.encoders.settings import ViewSettings
from dxmc_core.evaluation.scores import MAX_SCORED_IMAGES, evaluate_run, label_column
from dxmc_core.images.sources import EmbeddingsSource, SourceConfig
from dxmc_core.images.thumbnails import make_thumbnails
from dxmc_core.method.clusters.metrics import label_free_work
from dxmc_core.method.clusters.proposals import proposals_work
from dxmc_core.method.work import Work
from dxmc_core.report import (
    Changes,
    KEvidence,
    MapPoints,
    Move,
    PastCluster,
    QualityList,
    ReportData,
    ReportImage,
    Score,
    StageTiming,
    count_labels,
    doubtful_shares,
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
    sureness_of,
    training_curves,
    tree_of,
)
from dxmc_core.stages.questions import MAX_OF_CLUSTER, MAX_SAMPLE, report_questions
from dxmc_core.stages.settings.write_report import WriteReportConfig
from dxmc_core.workload import PROCESS_BYTES, RAY_BYTES, CostPart, Machine, StageCost, Workload

#: What is imported for charts, maps and pictures only, as a share of what a process imports at its start.
_IMPORTS = 0.5
#: Making a picture small, encoding it as WebP and packing it takes as long as moving so many bytes.
_MOVED_PER_THUMBNAIL = 60e6
#: The table of all assignments in memory, and a picture of the page.
_BYTES_PER_ASSIGNMENT = 400
_BYTES_PER_THUMBNAIL = 60_000
#: Of an image on the pages of members, which is smaller and goes into no sheet.
_BYTES_PER_MEMBER = 6_000
_SHOWN_PACKAGES = ("dxmc", "ray", "torch", "open_clip_torch", "faiss-gpu", "pyarrow", "scikit-learn")
#: Titles of the quality lists, and what each says.
_ISSUES = {
    "dark": ("Dark", "Levels of less than 12\u202f% of white in the mean."),
    "blurred": ("Blurred", "No sharp edge in the part that the encoder looks at; empty pictures are among them."),
    "tiny": ("Tiny", "The shorter side has less than 100 pixels."),
    "odd_shape": ("Odd shape", "One side is three times the other or more: the encoder sees the middle only."),
}
_SHOWN_ISSUES = 12
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
    run_dir: RunDir,
    config: WriteReportConfig,
    *,
    settings: Mapping[str, Any],
    seed: int,
    source: SourceConfig,
    encoders: Sequence[ViewSettings],
    members_folder: str = "",
    quality_issues: pa.Table | None = None,
    questions: pa.Table | None = None,
) -> str:
    """The page of a finished run as HTML.

    Args:
        settings: the run's configuration as plain values.
        source: where thumbnails are made from; embeddings have some where URIs came with them.
        encoders: that have embedded the images, the one that names come from first; none where they came embedded.
        quality_issues: the table of that name, where anything was measured.
        questions: the table of that name; by default none are asked.
        members_folder: where the pages of `member_pages.WriteMembers` lie, relative to the page.

    Raises:
        ArtifactError: a stage is not finished or damaged.
    """
    data = _without_images(
        run_dir, config, settings=settings, seed=seed, encoders=encoders, quality_issues=quality_issues
    )
    if questions is not None:
        data = replace(data, questions=report_questions(questions, {cluster.cluster_id for cluster in data.clusters}))
    rows = np.sort(np.array(rows_shown(data), dtype=np.int64))
    images = _report_images(run_dir, rows, source=source, config=config)
    data = replace(data, images=images, members_folder=members_folder)
    return render_report(data, max_bytes=config.max_bytes)


def title_of(config: WriteReportConfig, settings: Mapping[str, Any]) -> str:
    """What the report is called."""
    return config.title or settings["source"]["uri"].rstrip("/").rsplit("/", 1)[-1]


def _has_files(settings: Mapping[str, Any]) -> bool:
    return settings["source"]["kind"] != "embeddings"


def _without_images(
    run_dir: RunDir,
    config: WriteReportConfig,
    *,
    settings: Mapping[str, Any],
    seed: int,
    encoders: Sequence[ViewSettings],
    quality_issues: pa.Table | None,
) -> ReportData:
    stage = run_dir.stage("assign_clusters")
    assignments = stage.read_table(ASSIGNMENTS)
    clusters = stage.read_table(CLUSTERS).to_pylist()
    hidden = hidden_clusters(stage) & {row["cluster_id"] for row in clusters}
    if len(hidden) == len(clusters):
        hidden = set()  # a report of nothing helps nobody
    assignments, clusters = _without_hidden(assignments, clusters, hidden)
    cluster_ids = assignments["cluster_id"].to_numpy()
    row_ids = assignments["row_id"].to_numpy()
    label_counts = count_labels(cluster_ids, label_column(run_dir, assignments))
    duplicates = _near_duplicates(run_dir, row_ids, cluster_ids)
    confidences = assignments["confidence"].to_numpy()
    doubtful = doubtful_shares(cluster_ids, sureness_of(confidences))
    low = gallery_positions(confidences, count=config.num_low_confidence, largest=False)
    far = gallery_positions(assignments["outlier_score"].to_numpy(), count=config.num_outliers, largest=True)
    history = [json.loads(line) for line in run_dir.stage("train_heads").read_file("metrics.jsonl").splitlines()]
    source = settings["source"]["uri"]
    return ReportData(
        title=title_of(config, settings),
        created_at=datetime.now(UTC),
        num_images=assignments.num_rows,
        item=("photograph", "photographs") if _has_files(settings) else ("row", "rows"),
        clusters=[
            report_cluster(
                row,
                label_counts=label_counts.get(row["cluster_id"], {}),
                doubtful_share=doubtful[row["cluster_id"]],
                near_duplicates=duplicates.get(row["cluster_id"], []),
            )
            for row in clusters
        ],
        source=source,
        method=settings["method"]["name"],
        encoder=" and ".join(encoder.title for encoder in encoders) or "embeddings from a file",
        encoder_note=" ".join(encoder.note for encoder in encoders[:1]),
        rejects=summarize_rejects(run_dir.read_table(REJECTS).to_pylist()),
        scores=_scores(run_dir, seed=seed),
        map_points=_map_points(run_dir, row_ids, cluster_ids, max_points=config.max_map_points, seed=seed),
        low_confidence=row_ids[low].tolist(),
        outliers=row_ids[far].tolist(),
        quality_lists=_quality_lists(_rows_among(quality_issues, row_ids), duplicates) if _has_files(settings) else (),
        curves=training_curves(history),
        k_evidence=_k_evidence(run_dir) if settings["num_clusters"] == "auto" else None,
        tree=tree_of(stage.read_table(CLUSTER_TREE).to_pylist(), hidden=hidden),
        changes=_changes(stage, hidden),
        is_editable=True,
        timings=_timings(run_dir, settings),
        settings=flatten_settings(settings),
        versions={package: version(package) for package in _SHOWN_PACKAGES},
    )


def _without_hidden(
    assignments: pa.Table, clusters: list[dict[str, Any]], hidden: set[int]
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """The images and clusters that people have not hidden."""
    is_hidden = pc.is_in(assignments["cluster_id"], pa.array(sorted(hidden), pa.int32()))
    shown = [row for row in clusters if row["cluster_id"] not in hidden]
    for row in shown:
        row["nearest_clusters"] = [other for other in row["nearest_clusters"] if other not in hidden]
    return assignments.filter(pc.invert(is_hidden)), shown


def _rows_among(table: pa.Table | None, row_ids: np.ndarray) -> pa.Table | None:
    """The rows of a table whose images are among some."""
    return None if table is None else table.filter(pa.array(np.isin(table["row_id"].to_numpy(), row_ids)))


def _quality_lists(issues: pa.Table | None, duplicates: Mapping[int, list[list[int]]]) -> list[QualityList]:
    """What the report shows of near duplicates, and of each kind of issue that there is."""
    lists = []
    groups = sorted((group for of_cluster in duplicates.values() for group in of_cluster), key=len, reverse=True)
    if groups:
        num_images = sum(map(len, groups))
        meaning = f"Nearly identical to another; {len(groups):,} {'group' if len(groups) == 1 else 'groups'}."
        pairs = [row for group in groups for row in group[:2]]
        lists.append(QualityList("Near duplicates", meaning, num_images, pairs[:_SHOWN_ISSUES]))
    if issues is not None:
        kinds = np.array(issues["issue"].to_pylist(), dtype=object)
        rows = issues["row_id"].to_numpy()
        for issue, (title, meaning) in _ISSUES.items():
            found = rows[kinds == issue]
            if len(found):
                lists.append(QualityList(title, meaning, len(found), found[:_SHOWN_ISSUES].tolist()))
    return lists


def _near_duplicates(run_dir: RunDir, row_ids: np.ndarray, cluster_ids: np.ndarray) -> dict[int, list[list[int]]]:
    table = run_dir.read_table(NEAR_DUPLICATES)
    table = table.filter(pa.array(np.isin(table["row_id"].to_numpy(), row_ids)))
    rows = table["row_id"].to_numpy()
    order = np.argsort(row_ids, kind="stable")
    own = cluster_ids[order[np.searchsorted(row_ids, rows, sorter=order)]]
    return duplicates_by_cluster(rows, table["group_id"].to_numpy(), own)


def _k_evidence(run_dir: RunDir) -> KEvidence:
    return k_evidence(run_dir.stage(CHOICE_OF_K).read_table(K_SCORES).to_pylist())


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


def _changes(stage: StageDir, hidden: set[int]) -> Changes | None:
    """What became of the clusters of the earlier run that this one keeps ids from, or None when there is none.

    Args:
        hidden: clusters that are not shown.
    """
    figures = stage.require_manifest().metrics.get("lineage")
    if figures is None:
        return None
    rows = stage.read_table(LINEAGE).to_pylist()
    lineage = [row for row in rows if row["cluster_id"] not in hidden]
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
    first, *others = (name for name in STAGES[:-1] if name != SEMANTIC_SPACE or settings["vocabulary"] is not None)
    choice = [CHOICE_OF_K] if settings["num_clusters"] == "auto" else []
    for name in (first, *choice, *others):
        manifest = run_dir.stage(name).manifest()
        if manifest is not None:
            rows = max((manifest.rows(table) for table in manifest.tables), default=None)
            timings.append(StageTiming(stage=name, seconds=manifest.seconds, rows=rows))
    return timings


def _sureness_of_rows(run_dir: RunDir, rows: np.ndarray) -> np.ndarray:
    """Where some rows (n,) stand among all by how sure the method was of them."""
    assigned = run_dir.read_table(ASSIGNMENTS, ["row_id", "confidence"])
    row_ids = assigned["row_id"].to_numpy()
    order = np.argsort(row_ids, kind="stable")
    return sureness_of(assigned["confidence"].to_numpy())[order[np.searchsorted(row_ids, rows, sorter=order)]]


def _report_images(
    run_dir: RunDir, rows: np.ndarray, *, source: SourceConfig, config: WriteReportConfig
) -> dict[int, ReportImage]:
    catalog = read_rows(run_dir.stage("embed_images"), "catalog", rows)
    assigned = read_rows(run_dir.stage("assign_clusters"), "assignments", rows)
    thumbnails = make_thumbnails(catalog, source, size=config.thumbnail_size)
    uris = None
    if isinstance(source, EmbeddingsSource) or source.has_own_uris:
        # Embeddings without a URI of their own have that of their file, which is no picture.
        uris = ["" if uri == source.uri else uri for uri in catalog["uri"].to_pylist()]
    return report_images(
        rows,
        catalog["image_id"].to_pylist(),
        cluster_ids=assigned["cluster_id"].to_numpy(),
        uris=uris,
        sureness=_sureness_of_rows(run_dir, rows),
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
    members = min(load.num_images, load.max_member_images) if load.encoder is not None else 0
    scored = min(load.num_images, MAX_SCORED_IMAGES)
    compared = min(load.num_images, MAX_SAMPLE, MAX_OF_CLUSTER * load.num_clusters)
    decoding = (shown + members) * (machine.rates.fetch_s + machine.rates.decode_s / machine.cores)
    held = load.num_images * float(_BYTES_PER_ASSIGNMENT) + shown * float(_BYTES_PER_THUMBNAIL)
    return StageCost(
        "write_report",
        (
            machine.starting(_IMPORTS),
            CostPart("reading pictures", decoding),
            machine.on_cpus("thumbnails", Work(moved_bytes=_MOVED_PER_THUMBNAIL * (shown + members / 2))),
            machine.on_cpus("scores", label_free_work(scored, load.width, load.num_clusters)),
            machine.on_cpus("questions", proposals_work(compared, load.width)),
            machine.on_cpus("the map", map_work(min(load.num_images, load.max_map_points)), num_cores=1),
        ),
        memory_bytes=RAY_BYTES + 2 * PROCESS_BYTES + held + max(scored, compared) * load.width * 8.0,
        disk_bytes=min(float(load.report_bytes), shown * float(_BYTES_PER_THUMBNAIL)) + members * _BYTES_PER_MEMBER,
        note=f"{shown:,} pictures, {members:,} on the pages of members" if shown else "embeddings have no pictures",
    )
