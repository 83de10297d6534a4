"""What a stage is to those who run it, and the rule by which it is skipped or rebuilt."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from dxmc_core.artifacts.manifest import Manifest
from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.errors import InputError
from ray_jobs.context import RunContext
from ray_jobs.progress import Progress, named

logger = logging.getLogger(__name__)


class Plan(Protocol):
    """What a module of `ray_jobs.plans` has.

    It is known of a stage without loading what runs it: `dxmc status` and a rerun need no more.
    """

    NAME: str

    def reads(self, context: RunContext, /) -> tuple[str, ...]:
        """Names of the stages that it reads."""
        ...

    def inputs(self, context: RunContext, /) -> dict[str, str]:
        """Fingerprints of what it reads by name, for its manifest."""
        ...

    def fingerprint(self, context: RunContext, /) -> str:
        """Of the settings and inputs; the stage is up to date while its manifest has the same."""
        ...

    def check(self, context: RunContext, /) -> None:
        """Look at what it reads outside the run directory, before anything runs.

        Raises:
            InputError: it cannot be used.
        """
        ...

    def run(self, context: RunContext, fingerprint: str, /) -> StageResult:
        """Do the work as Ray jobs."""
        ...

    def summary(self, context: RunContext, /) -> str:
        """What came out, for a line of the log."""
        ...


@dataclass(frozen=True)
class StageState:
    """Where a stage stands: "done", "stale" (its settings or inputs changed), "missing", or "waiting" for another."""

    name: str
    state: str
    fingerprint: str | None
    manifest: Manifest | None


def stage_states(context: RunContext, plans: Sequence[Plan], *, with_source: bool = True) -> list[StageState]:
    """The state of stages, in the order they run; one that reads a stage that will be rebuilt is waiting.

    Args:
        with_source: look whether the source has changed, for which one of images has to be listed; otherwise what is
            embedded counts as done.
    """
    states: list[StageState] = []
    unfinished: set[str] = set()
    for plan in plans:
        name, manifest = plan.NAME, context.manifest(plan.NAME)
        if unfinished.intersection(plan.reads(context)):
            states.append(StageState(name, "waiting", None, manifest))
            unfinished.add(name)
            continue
        fingerprint = None if manifest is None else manifest.fingerprint
        if with_source or name != "embed_images" or context.config.source.kind == "embeddings":
            fingerprint = plan.fingerprint(context)
        state = "missing"
        if manifest is not None:
            state = "done" if manifest.fingerprint == fingerprint else "stale"
        if state != "done":
            unfinished.add(name)
        states.append(StageState(name, state, fingerprint, manifest))
    return states


def check_outside(context: RunContext, plans: Sequence[Plan]) -> None:
    """Let stages look at what they read outside the run directory before the first of them starts.

    Raises:
        InputError: something cannot be used.
    """
    for plan in plans:
        with named(plan.NAME), Progress("looking at what it depends on"):
            plan.check(context)


def run_stages(context: RunContext, plans: Sequence[Plan], start_ray: Callable[[], None]) -> int:
    """Run stages in order, skipping those whose fingerprint matches, and publish what they make; the number that ran.

    Raises:
        InputError: a stage that one of them reads has not been run.
    """
    num_run = 0
    for plan in plans:
        name = plan.NAME
        for needed in plan.reads(context):
            if context.manifest(needed) is None:
                raise InputError(
                    f"{name} reads {needed}, which {context.run_dir.uri} does not have; run {needed} first: "
                    "dxmc run --config FILE"
                )
        with named(name), Progress("looking at what is done"):
            fingerprint = plan.fingerprint(context)
        manifest = context.manifest(name)
        if manifest is not None and manifest.fingerprint == fingerprint:
            logger.info("%-21s up to date", name)
            continue
        if num_run == 0:
            start_ray()
        num_run += 1
        output, started = context.stage(name), time.perf_counter()
        output.begin(fingerprint)
        with _logged(name, fingerprint), Progress("at work"):
            made = plan.run(context, fingerprint)
            inputs = plan.inputs(context)
            context.published(made.publish(output, fingerprint=fingerprint, inputs=inputs, started=started))
        logger.info("%-21s done: %s", name, plan.summary(context))
    return num_run


@contextmanager
def _logged(name: str, fingerprint: str) -> Iterator[None]:
    logger.info("%-21s starts (fingerprint %s)", name, fingerprint[:12])
    started = time.perf_counter()
    with named(name):
        yield
    logger.info("%-21s took %.1f s", name, time.perf_counter() - started)
