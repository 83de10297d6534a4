"""Stage 6 before it runs, and after."""

from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.stages.settings import write_report as settings
from dxmc_core.stages.settings.write_report import REPORT_NAME
from ray_jobs.context import RunContext

NAME = "write_report"


def reads(context: RunContext) -> tuple[str, ...]:
    return (
        "embed_images",
        *context.choice_of_k,
        *context.text_stages,
        "mine_neighbors",
        "train_heads",
        "assign_clusters",
    )


def inputs(context: RunContext) -> dict[str, str]:
    return context.inputs_of(*reads(context)) or {}


def fingerprint(context: RunContext) -> str:
    return settings.fingerprint(context.config.write_report, inputs=inputs(context))


def check(_context: RunContext) -> None:
    """Nothing that it reads lies outside the run directory."""


def run(context: RunContext, fingerprint: str) -> StageResult:
    from ray_jobs import write_report  # with Ray and PyTorch, which only a stage that runs needs

    return write_report.run(context, fingerprint)


def summary(context: RunContext) -> str:
    metrics = context.run_dir.require_manifest(NAME).metrics
    text = f"{context.run_dir.folder(NAME).uri}/{REPORT_NAME} ({metrics['bytes'] / 1e6:.1f} MB)"
    if pages := metrics.get("member_pages"):
        text += f", {pages} pages of members beside it ({metrics['member_bytes'] / 1e6:.1f} MB)"
    return text
