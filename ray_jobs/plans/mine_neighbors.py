"""Stage 3 before it runs, and after."""

from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.method.hyperparameters import method_reads
from dxmc_core.stages.settings import mine_neighbors as settings
from ray_jobs.context import RunContext

NAME = "mine_neighbors"


def reads(context: RunContext) -> tuple[str, ...]:
    return ("embed_images", *context.text_stages)


def stages_searched(context: RunContext) -> tuple[str, ...]:
    """Those whose rows get neighbours: text counterparts where the method trains on them, or an index is wanted."""
    config = context.config
    of_text = "text_neighbors" in method_reads(config.method.name, **config.method.settings)
    return reads(context) if of_text or config.mine_neighbors.text_search_index else ("embed_images",)


def inputs(context: RunContext) -> dict[str, str]:
    return context.inputs_of(*reads(context)) or {}


def fingerprint(context: RunContext) -> str:
    """Neighbours of both modalities that are there already do for a method that trains on none of the text's."""
    config, found = context.config.mine_neighbors, inputs(context)
    of_all = settings.fingerprint(config, inputs=found)
    manifest = context.manifest(NAME)
    if stages_searched(context) == reads(context) or (manifest is not None and manifest.fingerprint == of_all):
        return of_all
    return settings.fingerprint(config, inputs=found, images_alone=True)


def check(_context: RunContext) -> None:
    """Nothing that it reads lies outside the run directory."""


def run(context: RunContext, fingerprint: str) -> StageResult:
    from ray_jobs import mine_neighbors  # with Ray and PyTorch, which only a stage that runs needs

    return mine_neighbors.run(context, fingerprint)


def summary(context: RunContext) -> str:
    metrics = context.run_dir.require_manifest(NAME).metrics
    return (
        f"{metrics['num_neighbors']} neighbors an image, {metrics['index']} search, "
        f"recall {metrics['recall']:.3f}; {metrics['near_duplicate_images']} images are near duplicates, in "
        f"{metrics['near_duplicate_groups']} groups ({metrics['exact_copies']} exact copies)"
    )
