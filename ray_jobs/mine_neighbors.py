"""Stage 3 as a Ray job: one actor per host (or GPU) holds the index of both modalities and searches slices of rows."""

import logging
import time
from typing import Any

from dxmc_core.artifacts.manifest import Manifest, Part
from dxmc_core.artifacts.stage_dir import parts_in_order
from dxmc_core.stages.mine_neighbors import (
    MODALITIES,
    PlanSearch,
    SearchCells,
    SearchNeighbors,
    choose_index,
    group_near_duplicates,
    near_duplicate_metrics,
    usable_num_neighbors,
)
from ray_jobs.cluster import Progress, Step, map_rows, num_gpus, run_on_host
from ray_jobs.context import RunContext
from ray_jobs.hosts import num_cores
from ray_jobs.main import main_of
from ray_jobs.plans.mine_neighbors import NAME, reads

_ROWS_PER_SLICE = 8192
#: A cell's candidates are read once a slice, so slices are to hold many rows of each cell.
_ROWS_PER_CELL_SLICE = 262_144

logger = logging.getLogger(__name__)


def run(context: RunContext, fingerprint: str) -> Manifest:
    started = time.perf_counter()
    config = context.config.mine_neighbors
    output = context.stage(NAME)
    gpus = num_gpus(context.config.resources)
    device = "cuda" if gpus else "cpu"
    choice = choose_index(config, context.num_images, device=device)
    logger.info("%-21s %s search: %s", NAME, choice.index, choice.reason)
    common = {
        "inputs": [context.stage(name) for name in reads(context)],
        "output": output,
        "num_neighbors": usable_num_neighbors(config, context.num_images),
        "device": device,
    }
    recall = _plan(context, common) if choice.index == "ivf" else {"recall": 1.0}
    receipts = _search(context, choice.index, common, fingerprint=fingerprint)
    pairs = [Part(**receipt["pairs"]) for receipt in receipts]
    duplicates = run_on_host(
        group_near_duplicates, context.stage("embed_images"), output, pairs, doing="grouping near duplicates"
    )
    return output.publish(
        fingerprint=fingerprint,
        inputs=context.inputs_of(*reads(context)) or {},
        tables={
            "neighbors": parts_in_order(receipts),
            "near_duplicates": [output.write_part("near_duplicates", duplicates, fingerprint=fingerprint)],
        },
        metrics={
            "num_neighbors": common["num_neighbors"],
            "index": choice.index,
            "index_reason": choice.reason,
            **recall,
            **near_duplicate_metrics(duplicates),
        },
        seconds=time.perf_counter() - started,
    )


def _plan(context: RunContext, common: dict[str, Any]) -> dict[str, Any]:
    """Make the cells of both modalities; what the manifest says of them."""
    kwargs = common | {"min_recall": context.config.mine_neighbors.min_recall, "seed": context.config.seed}
    on_gpu = common["device"] == "cuda"
    step = Step(PlanSearch, kwargs, num_workers=1, num_gpus=1 if on_gpu else 0, on_whole_hosts=not on_gpu)
    plans = {}
    rows = [{"modality": modality} for modality in MODALITIES]
    with Progress("grouping rows into cells", len(rows), unit="modalities") as progress:
        for plan in map_rows(rows, step):
            progress.add(1)
            logger.info(
                "%-21s %s: each row looks through %d of %d cells, recall %.4f on %d rows",
                NAME, plan["modality"], plan["num_probes"], plan["cells"], plan["recall"], plan["sampled_rows"],
            )  # fmt: skip
            plans[plan.pop("modality")] = plan
    return {"recall": min(plan["recall"] for plan in plans.values()), "cells": plans}


def _search(context: RunContext, index: str, common: dict[str, Any], *, fingerprint: str) -> list[dict]:
    config, count = context.config.mine_neighbors, context.num_images
    kwargs = common | {"fingerprint": fingerprint, "near_duplicate_cosine": config.near_duplicate_cosine}
    gpus = num_gpus(context.config.resources)
    mapper: type
    mapper, size = (SearchNeighbors, _ROWS_PER_SLICE) if index == "exact" else (SearchCells, _ROWS_PER_CELL_SLICE)
    step = Step(mapper, kwargs, gpus or num_cores(), num_gpus=1 if gpus else 0, on_whole_hosts=not gpus)
    slices = [{"start": start, "stop": min(start + size, count)} for start in range(0, count, size)]
    receipts = []
    with Progress("searching", count, unit="images", first="starting workers and building the index") as progress:
        for row in map_rows(slices, step):
            receipts.append(row)
            progress.add(row["rows"])
    return receipts


if __name__ == "__main__":
    main_of(NAME)
