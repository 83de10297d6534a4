"""Stage 4 before it runs, and after."""

from typing import Any

from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.edits.model import Edit
from dxmc_core.stages.settings import train_heads as settings
from dxmc_core.stages.settings.train_heads import check_num_clusters, stages_read
from ray_jobs.context import RunContext

NAME = "train_heads"
#: Under this name the manifest's inputs hold the fingerprint of the heads that training started from.
WARM_START = "warm_start"
#: Under this name the manifest's metrics hold the ids of the edits that training has learned from.
LEARNED = "learned_edits"


def reads(context: RunContext) -> tuple[str, ...]:
    return (*context.choice_of_k, *_stages_read(context))


def _stages_read(context: RunContext) -> tuple[str, ...]:
    config = context.config
    return stages_read(config.method, count_near_duplicates_once=config.train_heads.count_near_duplicates_once)


def fingerprint(context: RunContext) -> str:
    config = context.config
    check_num_clusters(context.num_clusters, context.num_images)
    return settings.fingerprint(
        config.method,
        num_clusters=context.num_clusters,
        num_images=context.num_images,
        seed=config.seed,
        inputs=inputs(context),
        count_near_duplicates_once=config.train_heads.count_near_duplicates_once,
        edits=[edit.essence for edit in learned_edits(context)],
    )


def learned_edits(context: RunContext) -> tuple[Edit, ...]:
    """The edits that training learns from: of the methods, `best` can."""
    return tuple(edit for edit in context.edits if edit.is_learned) if context.config.method.name == "best" else ()


def inputs(context: RunContext) -> dict[str, str]:
    """Fingerprints of what training reads."""
    found = context.inputs_of(*_stages_read(context)) or {}
    if context.base is not None:
        found[WARM_START] = context.base.require_manifest(NAME).fingerprint
    return found


def check(_context: RunContext) -> None:
    """Nothing that it reads lies outside the run directory."""


def run(context: RunContext, fingerprint: str) -> StageResult:
    from ray_jobs import train_heads  # with Ray and PyTorch, which only a stage that runs needs

    return train_heads.run(context, fingerprint)


def summary(context: RunContext) -> str:
    metrics = context.run_dir.require_manifest(NAME).metrics
    last = metrics["last_epoch"]
    if last is None:
        return f"{metrics['method']} fitted" + _told(metrics.get("start"))
    return f"{metrics['method']}, {metrics['epochs']} epochs, loss {last['terms']['total']:.4f}"


def _told(start: dict[str, Any] | None) -> str:
    """What a start's evidence says, for the summary."""
    if start is None:
        return ""
    text = f", text counts {start['text_weight']:.2f}" if start["text_agreement"] is not None else ""
    weights = ", ".join(f"{weight:.2f}" for weight in start.get("encoder_weights", ()))
    text += f", further encoders count {weights}" if weights else ""
    sizes = "" if start["size_exponent"] == 1 else ", classes of very different sizes"
    return f" in {start['num_looks']} looks at {start['num_rows']:,} images{text}{sizes}"
