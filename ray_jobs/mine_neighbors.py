"""Stage 3 as a Ray job: one actor per host (or GPU) holds the index of each modality and searches slices of rows."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

from dxmc_core.artifacts.index_file import METRICS_KEY
from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.matrices import width_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import StageDir, parts_in_order
from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.stages.mine_neighbors import (
    MODALITIES,
    ROWS_PER_CELL_SLICE,
    PlanSearch,
    SearchCells,
    SearchNeighbors,
    advice_on_copies,
    choose_index,
    choose_search_index,
    group_near_duplicates,
    modalities_of,
    near_duplicate_metrics,
    usable_num_neighbors,
)
from dxmc_core.stages.search_index import (
    FillShard,
    IndexSource,
    index_summary,
    prepare_index,
    publish_index,
    renew_index,
)
from ray_jobs.cluster import Step, map_rows, num_gpus, run_on_host
from ray_jobs.context import RunContext
from ray_jobs.hosts import num_cores
from ray_jobs.main import main_of
from ray_jobs.plans.mine_neighbors import NAME, stages_searched
from ray_jobs.progress import Progress

_ROWS_PER_SLICE = 8192
#: A shard of an index is written from memory: 256 MiB at width 512.
_ROWS_PER_SHARD = 262_144

logger = logging.getLogger(__name__)


def run(context: RunContext, fingerprint: str) -> StageResult:
    config = context.config.mine_neighbors
    output = context.stage(NAME)
    gpus = num_gpus(context.config.resources)
    device = "cuda" if gpus else "cpu"
    choice = choose_index(config, context.num_images, device=device)
    logger.info("%-21s %s search: %s", NAME, choice.index, choice.reason)
    # Too few images for an index of some kind are refused before hours of work.
    choose_search_index(config, context.num_images, width_of(context.stage("embed_images"), "images"))
    search = _Search(
        inputs=[context.stage(name) for name in stages_searched(context)],
        output=output,
        num_neighbors=usable_num_neighbors(config, context.num_images),
        device=device,
    )
    recall = _plan(context, search) if choice.index == "ivf" else {"recall": 1.0}
    receipts = _search(context, choice.index, search, fingerprint=fingerprint)
    pairs = [Part(**receipt["pairs"]) for receipt in receipts]
    duplicates = run_on_host(
        group_near_duplicates, context.stage("embed_images"), output, pairs, doing="grouping near duplicates"
    )
    found = near_duplicate_metrics(duplicates)
    advice = advice_on_copies(found, context.num_images)
    if advice is not None and not context.config.train_heads.count_near_duplicates_once:
        logger.warning("%-21s %s", NAME, advice)
    files, indexes = search_indexes(context, fingerprint=fingerprint, has_cells=choice.index == "ivf", device=device)
    return StageResult(
        tables={
            "neighbors": parts_in_order(receipts),
            **output.write_tables({"near_duplicates": duplicates}, fingerprint=fingerprint),
        },
        files=files,
        metrics={
            "num_neighbors": search.num_neighbors,
            "index": choice.index,
            "index_reason": choice.reason,
            **recall,
            **found,
            METRICS_KEY: indexes,
        },
    )


@dataclass(frozen=True)
class _Search:
    """What planning a search and searching have in common.

    Attributes:
        inputs: the stages whose rows get neighbours.
    """

    inputs: list[StageDir]
    output: StageDir
    num_neighbors: int
    device: str


def _plan(context: RunContext, search: _Search) -> dict[str, Any]:
    """Make the cells of each modality; what the manifest says of them."""
    make = partial(
        PlanSearch,
        search.inputs,
        search.output,
        num_neighbors=search.num_neighbors,
        device=search.device,
        min_recall=context.config.mine_neighbors.min_recall,
        seed=context.config.seed,
    )
    on_gpu = search.device == "cuda"
    step = Step(make, num_workers=1, num_gpus=1 if on_gpu else 0, on_whole_hosts=not on_gpu)
    plans = {}
    rows = [{"modality": modality} for modality in modalities_of(search.inputs)]
    with Progress("grouping rows into cells", len(rows), unit="modalities") as progress:
        for plan in map_rows(rows, step):
            progress.add(1)
            logger.info(
                "%-21s %s: each row looks through %d of %d cells, recall %.4f on %d rows",
                NAME, plan["modality"], plan["num_probes"], plan["cells"], plan["recall"], plan["sampled_rows"],
            )  # fmt: skip
            plans[plan.pop("modality")] = plan
    return {"recall": min(plan["recall"] for plan in plans.values()), "cells": plans}


def _search(context: RunContext, index: str, search: _Search, *, fingerprint: str) -> list[dict]:
    config, count = context.config.mine_neighbors, context.num_images
    gpus = num_gpus(context.config.resources)
    make = partial(
        SearchNeighbors if index == "exact" else SearchCells,
        search.inputs,
        search.output,
        num_neighbors=search.num_neighbors,
        device=search.device,
        fingerprint=fingerprint,
        near_duplicate_cosine=config.near_duplicate_cosine,
    )
    size = _ROWS_PER_SLICE if index == "exact" else ROWS_PER_CELL_SLICE
    step = Step(make, gpus or num_cores(), num_gpus=1 if gpus else 0, on_whole_hosts=not gpus)
    slices = [{"start": start, "stop": min(start + size, count)} for start in range(0, count, size)]
    receipts = []
    with Progress("searching", count, unit="images", first="starting workers and building the index") as progress:
        for row in map_rows(slices, step):
            receipts.append(row)
            progress.add(row["rows"])
    return receipts


def search_indexes(
    context: RunContext, *, fingerprint: str, has_cells: bool, device: str, base: RunDir | None = None
) -> tuple[dict[str, Part], dict[str, dict[str, Any]]]:
    """Write the FAISS indexes that are wanted; their files, and what the manifest says of them, by file name.

    Args:
        has_cells: the search for neighbours has made the cells of the modalities already.
        base: an earlier run, whose index of the images is brought up to date; there are no text counterparts then.
    """
    config, output = context.config.mine_neighbors, context.stage(NAME)
    files, indexes = {}, {}
    for modality, (stage, table) in MODALITIES.items():
        is_text, rows = modality == "text_neighbors", context.stage(stage)
        if is_text and (base is not None or not config.text_search_index or not context.text_stages):
            continue
        choice = choose_search_index(config, context.num_images, width_of(rows, table))
        if choice is None:
            continue
        nouns = context.stage("build_semantic_space") if context.text_stages and not is_text else None
        source = IndexSource(rows, table, nouns, choice, modality, context.config.seed)
        found = None
        if base is not None:
            found = run_on_host(renew_index, source, output, base, doing=f"bringing {source.file_name} up to date")
        if found is None:
            found = _built_index(context, source, fingerprint=fingerprint, has_cells=has_cells, device=device)
        files[source.file_name], indexes[source.file_name] = found
        logger.info("%-21s %s: %s", NAME, source.file_name, index_summary(indexes[source.file_name]))
    return files, indexes


def _built_index(
    context: RunContext, source: IndexSource, *, fingerprint: str, has_cells: bool, device: str
) -> tuple[Part, dict[str, Any]]:
    output, shards = context.stage(NAME), []
    prepare = partial(prepare_index, fingerprint=fingerprint, has_cells=has_cells, device=device)
    empty = run_on_host(prepare, source, output, device=device, doing=f"preparing {source.file_name}")
    if source.choice.has_cells:
        shards = _fill_shards(source, output, empty, context.num_images, fingerprint=fingerprint)
    publish = partial(publish_index, min_recall=context.config.mine_neighbors.min_recall)
    return run_on_host(publish, source, output, empty, shards, doing=f"measuring and writing {source.file_name}")


def _fill_shards(source: IndexSource, output: StageDir, empty: str, count: int, *, fingerprint: str) -> list[str]:
    """Names of the shards, in row order; a host fills one at a time."""
    make = partial(FillShard, source, output, fingerprint=fingerprint, empty=empty)
    step = Step(make, num_workers=num_cores(), on_whole_hosts=True)
    slices = [
        {"start": start, "stop": min(start + _ROWS_PER_SHARD, count)} for start in range(0, count, _ROWS_PER_SHARD)
    ]
    names = {}
    with Progress(f"filling {source.file_name}", len(slices), unit="shards") as progress:
        for receipt in map_rows(slices, step):
            names[receipt["part"]] = receipt["name"]
            progress.add(1)
    return [names[start] for start in sorted(names)]


if __name__ == "__main__":
    main_of(NAME)
