"""Stage 5 as a Ray job: clusters are measured on a sample in one task, then every part of the images is assigned."""

import time

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.heads import load_heads
from dxmc_core.artifacts.manifest import Manifest
from dxmc_core.artifacts.matrices import load_matrix
from dxmc_core.artifacts.stage_dir import StageDir, parts_in_order
from dxmc_core.stages.assign_clusters import (
    AssignClustersConfig,
    AssignImages,
    ClusterSample,
    assign_sample,
    center_table,
    describe_clusters,
    describe_tree,
    sample_images,
)
from dxmc_core.stages.assign_clusters import (
    fingerprint as stage_fingerprint,
)
from ray_jobs.cluster import Progress, Step, map_rows, run_on_node, workers_for
from ray_jobs.context import RunContext
from ray_jobs.main import main_of

NAME = "assign_clusters"


def reads(_context: RunContext) -> tuple[str, ...]:
    return ("embed_images", "build_semantic_space", "train_heads")


def fingerprint(context: RunContext) -> str:
    return stage_fingerprint(context.config.assign_clusters, inputs=context.inputs_of(*reads(context)) or {})


def run(context: RunContext, fingerprint: str) -> Manifest:
    started = time.perf_counter()
    config = context.config
    images, space, output = (context.stage(name) for name in ("embed_images", "build_semantic_space", NAME))
    heads = context.stage("train_heads")
    sample: ClusterSample = run_on_node(_measure, images, space, heads, config.assign_clusters, config.seed)
    centers = output.write_part("centers", center_table(sample), fingerprint=fingerprint)
    parts = images.require_manifest().tables["images"]
    kwargs = {
        "images": images,
        "semantic_space": space,
        "output": output,
        "fingerprint": fingerprint,
        "heads": heads,
        "centers": centers,
    }
    receipts = []
    with Progress(NAME, sum(part.rows for part in parts), unit="images") as progress:
        rows = [{"part": index} for index in range(len(parts))]
        workers, cores = workers_for(context.num_images)
        for row in map_rows(rows, Step(AssignImages, kwargs, workers, num_cpus=cores)):
            receipts.append(row)
            progress.add(row["rows"])
    sizes = np.sum([receipt["sizes"] for receipt in receipts], axis=0)
    described: dict[str, pa.Table] = run_on_node(
        _describe, sample, sizes, space.read_table("selected_nouns"), config.assign_clusters
    )
    return output.publish(
        fingerprint=fingerprint,
        inputs=context.inputs_of(*reads(context)) or {},
        tables={
            "assignments": parts_in_order(receipts),
            "centers": [centers],
            **{name: [output.write_part(name, table, fingerprint=fingerprint)] for name, table in described.items()},
        },
        metrics={
            "num_clusters": len(sizes),
            "clusters_with_images": described["clusters"].num_rows,
            "mean_confidence": round(float(sample.confidences.mean()), 4),
        },
        seconds=time.perf_counter() - started,
    )


def _measure(
    images: StageDir, space: StageDir, heads_dir: StageDir, config: AssignClustersConfig, seed: int
) -> ClusterSample:
    heads = load_heads(heads_dir)
    counterparts = load_matrix(space, "text_counterparts") if heads.needs_text else None
    return assign_sample(sample_images(images, max_images=config.max_described_images, seed=seed), heads, counterparts)


def _describe(
    sample: ClusterSample, sizes: np.ndarray, selected_nouns: pa.Table, config: AssignClustersConfig
) -> dict[str, pa.Table]:
    clusters = describe_clusters(sample, sizes, selected_nouns, config)
    return {"clusters": clusters, "cluster_tree": describe_tree(sample, clusters)}


def summary(context: RunContext) -> str:
    metrics = context.stage(NAME).require_manifest().metrics
    return f"{metrics['clusters_with_images']} clusters, mean confidence {metrics['mean_confidence']:.2f}"


if __name__ == "__main__":
    main_of(NAME)
