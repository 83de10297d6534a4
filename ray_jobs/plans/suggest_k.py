"""Choosing K: what it reads, when it is up to date, and what it says."""

from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.stages.settings import suggest_k as settings
from ray_jobs.context import RunContext

NAME = "suggest_k"


def reads(_context: RunContext) -> tuple[str, ...]:
    return ("embed_images",)


def inputs(context: RunContext) -> dict[str, str]:
    return context.inputs_of(*reads(context)) or {}


def fingerprint(context: RunContext) -> str:
    config = context.config
    return settings.fingerprint(config.suggest_k, seed=config.seed, inputs=inputs(context))


def check(_context: RunContext) -> None:
    """Nothing that it reads lies outside the run directory."""


def run(context: RunContext, fingerprint: str) -> StageResult:
    from ray_jobs import suggest_k  # with Ray and PyTorch, which only a stage that runs needs

    return suggest_k.run(context, fingerprint)


def summary(context: RunContext) -> str:
    metrics = context.run_dir.require_manifest(NAME).metrics
    return f"best K {metrics['num_clusters']}, by {metrics['scored_images']} images"
