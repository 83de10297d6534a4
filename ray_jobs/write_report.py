"""Stage 6 as a Ray job: pages of members by many workers, then the report, made by one task."""

import time
from typing import Any

import pyarrow as pa

from dxmc_core.artifacts.manifest import Manifest, Part
from dxmc_core.cluster_summary import summarize_clusters
from dxmc_core.images.sources import EmbeddingsSource
from dxmc_core.stages.member_pages import WriteMembers, members_folder, plan_members
from dxmc_core.stages.quality_issues import find_quality_issues
from dxmc_core.stages.questions import find_questions
from dxmc_core.stages.settings.write_report import REPORT_NAME
from dxmc_core.stages.write_report import build_report, title_of
from ray_jobs.cluster import Step, map_rows, run_on_host
from ray_jobs.context import RunContext
from ray_jobs.hosts import num_cores
from ray_jobs.main import main_of
from ray_jobs.plans.write_report import NAME, reads
from ray_jobs.progress import Progress

_FEW_PAGES = 20


def run(context: RunContext, fingerprint: str) -> Manifest:
    started = time.perf_counter()
    config = context.config
    output = context.stage(NAME)
    members = _write_members(context, fingerprint)
    issues = run_on_host(find_quality_issues, context.run_dir, doing="looking for dark, blurred and tiny images")
    clusters = run_on_host(summarize_clusters, context.run_dir, doing="listing the clusters")
    folder = members_folder(fingerprint) if members else ""
    questions = run_on_host(_questions, context, doing="looking for what to ask")
    page = run_on_host(_render, context, folder, issues, questions, doing="making thumbnails and the page")
    tables = {"cluster_summary": clusters, "questions": questions}
    tables |= {} if issues is None else {"quality_issues": issues}
    return output.publish(
        fingerprint=fingerprint,
        inputs=context.inputs_of(*reads(context)) or {},
        tables={name: [output.write_part(name, table, fingerprint=fingerprint)] for name, table in tables.items()},
        files={REPORT_NAME: output.write_file(REPORT_NAME, page.encode()), **members},
        metrics={
            "bytes": len(page.encode()),
            "title": config.write_report.title,
            "member_pages": len(members),
            "member_bytes": sum(part.bytes for part in members.values()),
        },
        seconds=time.perf_counter() - started,
    )


def _write_members(context: RunContext, fingerprint: str) -> dict[str, Part]:
    """The pages of members by their names; none for a run without images."""
    config = context.config
    if isinstance(config.source, EmbeddingsSource) or not config.write_report.max_member_images:
        return {}
    pages, members = run_on_host(
        plan_members, context.run_dir, config.write_report.max_member_images, doing="choosing members to show"
    )
    kwargs = {
        "output": context.stage(NAME),
        "members": members,
        "source": config.source,
        "fingerprint": fingerprint,
        "title": title_of(config.write_report, config.model_dump(mode="json")),
    }
    files = {}
    with Progress("making pages of members", members.num_rows, unit="thumbnails", first="starting workers") as progress:
        for row in map_rows(pages, _step(kwargs, len(pages))):
            files[row["name"]] = Part(**{name: row[name] for name in Part.model_fields})
            progress.add(row["num_images"])
    return files


def _step(kwargs: dict[str, Any], num_pages: int) -> Step:
    """A few pages are done by one task before a pool has started."""
    if num_pages <= _FEW_PAGES:
        return Step(WriteMembers, kwargs, num_workers=1, on_whole_hosts=True)
    return Step(WriteMembers, kwargs, num_workers=num_cores())


def _questions(context: RunContext) -> pa.Table:
    config = context.config
    return find_questions(context.run_dir, max_questions=config.write_report.num_questions, seed=config.seed)


def _render(context: RunContext, folder: str, issues: pa.Table | None, questions: pa.Table) -> str:
    config = context.config
    return build_report(
        context.run_dir,
        config.write_report,
        settings=config.model_dump(mode="json"),
        seed=config.seed,
        source=config.source,
        members_folder=folder,
        quality_issues=issues,
        questions=questions,
    )


if __name__ == "__main__":
    main_of(NAME)
