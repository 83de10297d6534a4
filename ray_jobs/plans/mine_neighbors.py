"""Stage 3 before it runs, and after."""

from dxmc_core.artifacts.manifest import Manifest
from dxmc_core.stages.settings import mine_neighbors as settings
from ray_jobs.context import RunContext

NAME = "mine_neighbors"


def reads(context: RunContext) -> tuple[str, ...]:
    return ("embed_images", *context.text_stages)


def fingerprint(context: RunContext) -> str:
    return settings.fingerprint(context.config.mine_neighbors, inputs=context.inputs_of(*reads(context)) or {})


def run(context: RunContext, fingerprint: str) -> Manifest:
    from ray_jobs import mine_neighbors  # with Ray and PyTorch, which only a stage that runs needs

    return mine_neighbors.run(context, fingerprint)


def summary(context: RunContext) -> str:
    metrics = context.stage(NAME).require_manifest().metrics
    return (
        f"{metrics['num_neighbors']} neighbors an image and modality, {metrics['index']} search, "
        f"recall {metrics['recall']:.3f}; {metrics['near_duplicate_images']} images are near duplicates, in "
        f"{metrics['near_duplicate_groups']} groups ({metrics['exact_copies']} exact copies)"
    )
