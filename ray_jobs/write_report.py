"""Stage 6 as a Ray job: pages of members by many workers, then the report, made by one task."""

from collections.abc import Callable, Iterable
from typing import Any

from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.stages.member_pages import WriteMembers
from ray_jobs.cluster import Step, map_rows, run_on_host
from ray_jobs.context import RunContext
from ray_jobs.hosts import num_cores
from ray_jobs.main import main_of
from ray_jobs.plans.write_report import NAME
from ray_jobs.report_files import make_report

_FEW_PAGES = 20


def run(context: RunContext, fingerprint: str) -> StageResult:
    return make_report(context, fingerprint, call=run_on_host, map_pages=_map_pages)


def _map_pages(pages: list[dict[str, Any]], make: Callable[[], WriteMembers]) -> Iterable[dict[str, Any]]:
    return map_rows(pages, _step(make, len(pages)))


def _step(make: Callable[[], WriteMembers], num_pages: int) -> Step:
    """A few pages are done by one task before a pool has started."""
    if num_pages <= _FEW_PAGES:
        return Step(make, num_workers=1, on_whole_hosts=True)
    return Step(make, num_workers=num_cores())


if __name__ == "__main__":
    main_of(NAME)
