"""How many clusters: scores of a grid of K and the best three, from the image embeddings alone.

Part of the pipeline when `num_clusters` is auto, between embed_images and build_semantic_space, and what
`dxmc suggest-k` runs on any run that has embeddings. Later stages depend on the K it chose and on nothing else of it.
"""

from dataclasses import asdict

import pyarrow as pa

from dxmc_core.artifacts import schemas
from dxmc_core.artifacts.matrices import load_matrix
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.errors import InputError
from dxmc_core.method.hyperparameters import MIN_ROWS_FOR_K
from dxmc_core.method.near_duplicates import distinct_rows
from dxmc_core.method.steps import OnStep, no_report
from dxmc_core.method.suggest_k import KChoice, suggest_num_clusters
from dxmc_core.report import k_evidence, render_k_evidence
from dxmc_core.stages.settings.suggest_k import SuggestKConfig


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
    """The table `k_scores`: one row a candidate, the suggestions with their rank and reason."""
    places = {suggestion.num_clusters: rank for rank, suggestion in enumerate(choice.suggestions)}
    rows = []
    for scores in choice.scores:
        rank = places.get(scores.num_clusters)
        suggested = {} if rank is None else {"rank": rank + 1, "reason": choice.suggestions[rank].reason}
        rows.append({**asdict(scores), **suggested})
    return pa.Table.from_pylist(rows, schema=schemas.K_SCORES)


def plot(table: pa.Table, *, title: str) -> bytes:
    """The scores over K as a self-contained HTML page."""
    return render_k_evidence(k_evidence(table.to_pylist()), title=title).encode()
