"""Stage 6 as a Ray job: the HTML page, made by one task."""

import time

from dxmc_core.artifacts.manifest import Manifest
from dxmc_core.images.sources import EmbeddingsSource
from dxmc_core.stages.settings.write_report import REPORT_NAME
from dxmc_core.stages.write_report import (
    build_report,
)
from ray_jobs.cluster import run_on_host
from ray_jobs.context import RunContext
from ray_jobs.main import main_of
from ray_jobs.plans.write_report import NAME, reads


def run(context: RunContext, fingerprint: str) -> Manifest:
    started = time.perf_counter()
    config = context.config
    output = context.stage(NAME)
    page = run_on_host(_render, context, doing="making thumbnails and the page")
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


if __name__ == "__main__":
    main_of(NAME)
