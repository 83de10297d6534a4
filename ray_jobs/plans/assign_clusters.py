"""Stage 5 before it runs, and after."""

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.edits.file import read_edits
from dxmc_core.edits.renames import require_known
from dxmc_core.errors import InputError
from dxmc_core.stages.settings import assign_clusters as settings
from dxmc_core.stages.settings.assign_clusters import IDS_GIVEN, previous_manifest
from ray_jobs.context import RunContext

NAME = "assign_clusters"
#: Under this name the manifest's inputs hold the fingerprint of the earlier run's assignments.
KEEP_IDS_FROM = "keep_ids_from"


def reads(context: RunContext) -> tuple[str, ...]:
    return ("embed_images", *context.text_stages, "train_heads")


def check(context: RunContext) -> None:
    """Look at what lies outside the run directory before anything runs.

    Raises:
        InputError: the earlier run, the edits or the file of names cannot be used.
    """
    read_edits(context.run_dir)
    uri = context.config.assign_clusters.keep_ids_from
    previous = previous_manifest(uri) if uri is not None else None
    inputs(context)
    if not (context.choice_of_k and context.manifest(*context.choice_of_k) is None):
        # An earlier run's ids are followed by at most one for each cluster of this run.
        before = previous.metrics[IDS_GIVEN] if previous is not None else 0
        require_known(context.renames, before + context.num_clusters)


def fingerprint(context: RunContext) -> str:
    return settings.fingerprint(
        context.config.assign_clusters,
        naming=context.config.naming,
        inputs=inputs(context),
        edits=[edit.essence for edit in context.edits],
    )


def inputs(context: RunContext) -> dict[str, str]:
    """Fingerprints of the stages read, that of an earlier run's assignments included."""
    found = context.inputs_of(*reads(context)) or {}
    uri = context.config.assign_clusters.keep_ids_from
    # What this run directory held before is no input: a run that changes nothing must find itself up to date.
    if uri is None or RunDir.at(uri) == context.run_dir:
        return found
    previous, own = previous_manifest(uri), context.manifest(NAME)
    if previous is not None:
        return {**found, KEEP_IDS_FROM: previous.fingerprint}
    if own is not None and KEEP_IDS_FROM in own.inputs:
        # Once its ids are taken over, an earlier run may be deleted.
        return {**found, KEEP_IDS_FROM: own.inputs[KEEP_IDS_FROM]}
    raise InputError(f"assign_clusters.keep_ids_from: {uri} holds no finished run")


def run(context: RunContext, fingerprint: str) -> StageResult:
    from ray_jobs import assign_clusters  # with Ray and PyTorch, which only a stage that runs needs

    return assign_clusters.run(context, fingerprint)


def summary(context: RunContext) -> str:
    metrics = context.run_dir.require_manifest(NAME).metrics
    text = f"{metrics['clusters_with_images']} clusters, mean confidence {metrics['mean_confidence']:.2f}"
    if lineage := metrics.get("lineage"):
        text += (
            f"; kept {lineage['kept']} ids of {lineage['previous_run']}, born {lineage['born']}, "
            f"died {lineage['died']}, churn {lineage['churn']:.1%}"
        )
    return text
