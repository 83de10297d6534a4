"""How many clusters: scores of a grid of K and the best three, from the image embeddings alone.

Part of the pipeline when `num_clusters` is auto, between embed_images and build_semantic_space, and what
`dxmc suggest-k` runs on any run that has embeddings. Later stages depend on the K it chose and on nothing else of it.
"""

from dataclasses import asdict

import pyarrow as pa

from dxmc_core.artifacts.matrices import load_matrix
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import K_SCORES
from dxmc_core.errors import InputError
from dxmc_core.method.clusters.suggest_k import KChoice, suggest_num_clusters, suggest_work
from dxmc_core.method.hyperparameters import MIN_ROWS_FOR_K
from dxmc_core.method.neighbors.near_duplicates import distinct_rows
from dxmc_core.method.steps import OnStep, no_report
from dxmc_core.report import k_evidence, render_k_evidence
from dxmc_core.stages.settings.suggest_k import SuggestKConfig
from dxmc_core.workload import PROCESS_BYTES, RAY_BYTES, Machine, StageCost, Workload

#: Of a row in the sample: as it was taken, whitened, without structure, and in the two parts that are compared.
_ARRAYS_OF_SAMPLE = 8
#: Micro-clusters with their costs, and products in blocks.
_WORKSPACE_BYTES = 0.5e9


def suggest_k(images: StageDir, config: SuggestKConfig, *, seed: int, on_step: OnStep = no_report) -> KChoice:
    """Score the grid on the embedded images.

    Raises:
        InputError: too few images, or copies of one.
    """
    embeddings = load_matrix(images, "images").values
    if len(embeddings) < MIN_ROWS_FOR_K:
        raise InputError(
            f"choosing K needs at least {MIN_ROWS_FOR_K} images, found {len(embeddings)}; set num_clusters to a number"
        )
    if len(distinct_rows([embeddings], at_most=2)) < 2:
        raise InputError(
            f"choosing K needs images that differ, the {len(embeddings)} found have the same embedding; set "
            "num_clusters to a number"
        )
    return suggest_num_clusters(
        embeddings, max_rows=config.max_images, max_clusters=config.max_clusters, seed=seed, on_step=on_step
    )


def score_table(choice: KChoice) -> pa.Table:
    """The table `k_scores`: one row per candidate, the suggestions with their rank and reason."""
    places = {suggestion.num_clusters: rank for rank, suggestion in enumerate(choice.suggestions)}
    rows = []
    for scores in choice.scores:
        rank = places.get(scores.num_clusters)
        suggested = {} if rank is None else {"rank": rank + 1, "reason": choice.suggestions[rank].reason}
        rows.append({**asdict(scores), **suggested})
    return pa.Table.from_pylist(rows, schema=K_SCORES.schema())


def plot(table: pa.Table, *, title: str) -> bytes:
    """The scores over K as a self-contained HTML page."""
    return render_k_evidence(k_evidence(table.to_pylist()), title=title).encode()


def cost(load: Workload, machine: Machine) -> StageCost:
    """What the stage takes: one task on a sample, without a GPU."""
    sample = max(min(load.num_images, load.k_max_images), MIN_ROWS_FOR_K)
    work = suggest_work(load.num_images, load.width, max_rows=load.k_max_images, max_clusters=load.k_max_clusters)
    rows = load.num_images * load.width * 2.0 + sample * load.width * 4.0 * _ARRAYS_OF_SAMPLE
    return StageCost(
        "suggest_k",
        (machine.starting(), machine.on_cpus("scores of a grid of K", work)),
        memory_bytes=RAY_BYTES + 2 * PROCESS_BYTES + _WORKSPACE_BYTES + rows,
        note=f"{sample:,} images",
    )
