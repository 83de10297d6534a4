"""Stage 6 as a Ray job: the HTML page, made by one task."""

import time

from dxmc_core.artifacts.manifest import Manifest
from dxmc_core.images.sources import EmbeddingsSource
from dxmc_core.stages.write_report import (
    REPORT_NAME,
    build_report,
)
from dxmc_core.stages.write_report import (
    fingerprint as stage_fingerprint,
)
from ray_jobs.cluster import run_on_host
from ray_jobs.context import RunContext
from ray_jobs.main import main_of

NAME = "write_report"


def reads(context: RunContext) -> tuple[str, ...]:
    return (
        "embed_images",
        *context.choice_of_k,
        "build_semantic_space",
        "mine_neighbors",
        "train_heads",
        "assign_clusters",
    )


def fingerprint(context: RunContext) -> str:
    return stage_fingerprint(context.config.write_report, inputs=context.inputs_of(*reads(context)) or {})


def run(context: RunContext, fingerprint: str) -> Manifest:
    started = time.perf_counter()
    config = context.config
    output = context.stage(NAME)
    page = run_on_host(_render, context)
    return output.publish(
        fingerprint=fingerprint,
        inputs=context.inputs_of(*reads(context)) or {},
        tables={},
        files={REPORT_NAME: output.write_file(REPORT_NAME, page.encode())},
        metrics={"bytes": len(page.encode()), "title": config.write_report.title},
        seconds=time.perf_counter() - started,
    )


def _render(context: RunContext) -> str:
    config = context.config
    source = config.source
    return build_report(
        context.run_dir,
        config.write_report,
        settings=config.model_dump(mode="json"),
        seed=config.seed,
        source=None if isinstance(source, EmbeddingsSource) else source,
    )


def summary(context: RunContext) -> str:
    output = context.stage(NAME)
    return f"{output.storage.uri}/{REPORT_NAME} ({output.require_manifest().metrics['bytes'] / 1e6:.1f} MB)"


if __name__ == "__main__":
    main_of(NAME)
