"""What write_report makes: pages of members, tables and the page, wherever the work is done."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pyarrow as pa

from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.images.sources import EmbeddingsSource
from dxmc_core.stages.cluster_summary import summarize_clusters
from dxmc_core.stages.member_pages import WriteMembers, members_folder, plan_members
from dxmc_core.stages.quality_issues import find_quality_issues
from dxmc_core.stages.questions import find_questions
from dxmc_core.stages.settings.write_report import REPORT_NAME
from dxmc_core.stages.write_report import build_report, title_of
from ray_jobs.context import RunContext
from ray_jobs.plans.write_report import NAME
from ray_jobs.progress import Progress

#: Calls a function with arguments and tells what it is doing; of pages, maps rows by what is made.
Call = Callable[..., Any]
MapPages = Callable[[list[dict[str, Any]], Callable[[], WriteMembers]], Iterable[dict[str, Any]]]


def make_report(context: RunContext, fingerprint: str, *, call: Call, map_pages: MapPages) -> StageResult:
    """Make the report of a run whose clusters are assigned."""
    config = context.config
    output = context.stage(NAME)
    members = _write_members(context, fingerprint, call, map_pages)
    issues = call(find_quality_issues, context.run_dir, doing="looking for dark, blurred and tiny images")
    clusters = call(summarize_clusters, context.run_dir, doing="listing the clusters")
    folder = members_folder(fingerprint) if members else ""
    questions = call(_questions, context, doing="looking for what to ask")
    page = call(_render, context, folder, issues, questions, doing="making thumbnails and the page")
    tables = {"cluster_summary": clusters, "questions": questions}
    tables |= {} if issues is None else {"quality_issues": issues}
    return StageResult(
        output.write_tables(tables, fingerprint=fingerprint),
        files={REPORT_NAME: output.write_file(REPORT_NAME, page.encode()), **members},
        metrics={
            "bytes": len(page.encode()),
            "title": config.write_report.title,
            "member_pages": len(members),
            "member_bytes": sum(part.bytes for part in members.values()),
        },
    )


def _write_members(context: RunContext, fingerprint: str, call: Call, map_pages: MapPages) -> dict[str, Part]:
    """The pages of members by their names; none for a run without images."""
    config = context.config
    if isinstance(config.source, EmbeddingsSource) or not config.write_report.max_member_images:
        return {}
    pages, members = call(
        plan_members, context.run_dir, config.write_report.max_member_images, doing="choosing members to show"
    )
    make = partial(
        WriteMembers,
        output=context.stage(NAME),
        members=members,
        source=config.source,
        fingerprint=fingerprint,
        title=title_of(config.write_report, config.model_dump(mode="json")),
    )
    files = {}
    with Progress("making pages of members", members.num_rows, unit="thumbnails", first="starting workers") as progress:
        for row in map_pages(pages, make):
            files[row["name"]] = Part(**{name: row[name] for name in Part.model_fields})
            progress.add(row["num_images"])
    return files


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
        encoders=() if isinstance(config.source, EmbeddingsSource) else tuple(config.encoder_of_table.values()),
        members_folder=folder,
        quality_issues=issues,
        questions=questions,
    )


def call_here(function: Callable[..., Any], *args: Any, doing: str) -> Any:
    """`Call` in this process."""
    with Progress(doing):
        return function(*args)


def map_pages_here(pages: list[dict[str, Any]], make: Callable[[], WriteMembers]) -> Iterable[dict[str, Any]]:
    """`MapPages` in this process."""
    mapper = make()
    for page in pages:
        yield from mapper(pa.Table.from_pylist([page])).to_pylist()
