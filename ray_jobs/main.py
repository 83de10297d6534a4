"""Entry of every job: the configuration, the lock on the run directory, and the stages in order."""

import argparse
import logging
import sys
import time
from collections.abc import Sequence

from dxmc_core.config import PipelineConfig, load_config
from ray_jobs.arguments import add_quiet, add_run_arguments
from ray_jobs.context import RunContext
from ray_jobs.plan import check_outside, run_stages
from ray_jobs.plans import plan_of
from ray_jobs.program import guarded
from ray_jobs.progress import Progress, snapshot

logger = logging.getLogger(__name__)


def main_of(*stages: str) -> None:
    """Run stages, or the whole pipeline when none is named, as a program and exit."""
    parser = argparse.ArgumentParser(description=f"Runs {', '.join(stages) or 'all stages'} of a dxmc run.")
    add_run_arguments(parser)
    add_quiet(parser)
    arguments = parser.parse_args()
    sys.exit(guarded(lambda: run(stages, arguments), quiet=arguments.quiet))


def run(stages: Sequence[str], arguments: argparse.Namespace) -> RunContext:
    """Load the configuration and run the stages (by default all) that are not up to date."""
    return run_config(load_config(arguments.config, arguments.overrides, run_dir=arguments.run_dir), stages)


def run_config(config: PipelineConfig, stages: Sequence[str] = ()) -> RunContext:
    """Lock the run directory and run the stages (by default all) that are not up to date."""
    context = RunContext.of(config)
    stages = stages or context.stages
    started = time.perf_counter()
    context.check_place()
    with context.run_dir.locked(snapshot):
        check_outside(context, [plan_of(name) for name in stages])
        context.claim()
        num_run = run_in_order(context, stages)
    if num_run == 0:
        logger.info("nothing to do: every stage in %s is up to date", context.run_dir.uri)
    else:
        logger.info("%d of %d stages ran in %.1f s", num_run, len(stages), time.perf_counter() - started)
    return context


def run_in_order(context: RunContext, stages: Sequence[str]) -> int:
    """Run those of the stages that are not up to date; how many that were. The run directory has to be locked."""
    return run_stages(context, [plan_of(name) for name in stages], lambda: start_ray_for(context))


def start_ray_for(context: RunContext) -> None:
    """Join or start Ray, where this process has not yet, and have all hosts look for local paths that they will read.

    Imported late, as most reruns have nothing to do.

    Raises:
        InputError: a host lacks one.
    """
    with Progress("loading Ray and PyTorch"):
        from ray_jobs.cluster import require_on_all_hosts, start_ray
        from ray_jobs.hosts import is_on_loopback
        from ray_jobs.local_places import local_files_of

    with Progress("waiting for Ray to start"):
        start_ray(context.config.resources)
    if not is_on_loopback():
        with Progress("looking for local files on all hosts"):
            require_on_all_hosts(local_files_of(context))
