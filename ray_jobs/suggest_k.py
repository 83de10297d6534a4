"""Choosing K as a Ray job: one task that scores a grid of K. `num_clusters: auto` and `dxmc suggest-k` run it."""

import logging

from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.method.clusters.suggest_k import KChoice
from dxmc_core.method.steps import OnStep
from dxmc_core.stages.settings.suggest_k import PLOT_NAME
from dxmc_core.stages.suggest_k import (
    plot,
    score_table,
    suggest_k,
)
from ray_jobs.cluster import run_on_host
from ray_jobs.context import RunContext
from ray_jobs.main import main_of
from ray_jobs.plans.suggest_k import NAME

logger = logging.getLogger(__name__)


def run(context: RunContext, fingerprint: str) -> StageResult:
    config = context.config
    output = context.stage(NAME)
    choice: KChoice = run_on_host(_suggest, context, doing="scoring numbers of clusters", tells=True)
    table = score_table(choice)
    page = plot(table, title=config.source.uri)
    for suggestion in choice.suggestions:
        logger.info("%-21s K = %-5d overall %.2f: %s", NAME, *vars(suggestion).values())
    if not choice.has_structure:
        logger.warning(
            "%s: two halves of the images agree on no number of clusters; take the suggestions with caution", NAME
        )
    return StageResult(
        output.write_tables({"k_scores": table}, fingerprint=fingerprint),
        files={PLOT_NAME: output.write_file(PLOT_NAME, page)},
        metrics={
            "num_clusters": choice.num_clusters,
            "scored_images": choice.num_rows,
            "has_structure": choice.has_structure,
        },
    )


def _suggest(context: RunContext, *, on_step: OnStep) -> KChoice:
    config = context.config
    return suggest_k(context.stage("embed_images"), config.suggest_k, seed=config.seed, on_step=on_step)


if __name__ == "__main__":
    main_of(NAME)
