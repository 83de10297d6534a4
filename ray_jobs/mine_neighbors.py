"""Stage 3 as a Ray job: an actor a node holds the index of both modalities and searches slices of the rows."""

import time

from dxmc_core.artifacts.manifest import Manifest
from dxmc_core.artifacts.stage_dir import parts_in_order
from dxmc_core.stages.mine_neighbors import (
    SearchNeighbors,
    usable_num_neighbors,
)
from dxmc_core.stages.mine_neighbors import (
    fingerprint as stage_fingerprint,
)
from ray_jobs.cluster import Progress, Step, cores_per_node, map_rows, num_cores, num_gpus
from ray_jobs.context import RunContext
from ray_jobs.main import main_of

NAME = "mine_neighbors"
_ROWS_PER_SLICE = 8192


def reads(_context: RunContext) -> tuple[str, ...]:
    return ("embed_images", "build_semantic_space")


def fingerprint(context: RunContext) -> str:
    return stage_fingerprint(context.config.mine_neighbors, inputs=context.inputs_of(*reads(context)) or {})


def run(context: RunContext, fingerprint: str) -> Manifest:
    started = time.perf_counter()
    count = context.num_images
    num_neighbors = usable_num_neighbors(context.config.mine_neighbors, count)
    gpus = num_gpus(context.config.resources)
    cores = cores_per_node()
    kwargs = {
        "images": context.stage("embed_images"),
        "semantic_space": context.stage("build_semantic_space"),
        "output": context.stage(NAME),
        "fingerprint": fingerprint,
        "num_neighbors": num_neighbors,
        "device": "cuda" if gpus else "cpu",
        "num_threads": cores,
    }
    slices = [
        {"start": start, "stop": min(start + _ROWS_PER_SLICE, count)} for start in range(0, count, _ROWS_PER_SLICE)
    ]
    receipts = []
    search = Step(
        SearchNeighbors,
        kwargs,
        num_workers=gpus or max(num_cores() // cores, 1),
        num_cpus=1 if gpus else cores,
        num_gpus=1 if gpus else 0,
    )
    with Progress(NAME, count, unit="images") as progress:
        for row in map_rows(slices, search):
            receipts.append(row)
            progress.add(row["rows"])
    return context.stage(NAME).publish(
        fingerprint=fingerprint,
        inputs=context.inputs_of(*reads(context)) or {},
        tables={"neighbors": parts_in_order(receipts)},
        metrics={"num_neighbors": num_neighbors, "index": "exact", "recall": 1.0},
        seconds=time.perf_counter() - started,
    )


def summary(context: RunContext) -> str:
    metrics = context.stage(NAME).require_manifest().metrics
    return f"{metrics['num_neighbors']} neighbors an image and modality, {metrics['index']} search"


if __name__ == "__main__":
    main_of(NAME)
