"""Entry of every job: arguments, logging, the lock on the run directory, and exit codes that mean something."""

import argparse
import importlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType

from dxmc_core.config import load_config
from dxmc_core.errors import DxmcError, InputError, WorkerError, on_one_line
from ray_jobs.context import RunContext, check_outside, run_stages

EXIT_FAILED = 1
EXIT_UNUSABLE_INPUT = 2

logger = logging.getLogger(__name__)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that every job takes."""
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file, local or s3://")
    parser.add_argument("--run-dir", metavar="URI", help="where artifacts go, in place of the file's run_dir")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one setting, such as --set method.name=kmeans; may be repeated",
    )


def main_of(*stages: str) -> None:
    """Run stages, or the whole pipeline when none is named, as a program and exit."""
    parser = argparse.ArgumentParser(description=f"Runs {', '.join(stages) or 'all stages'} of a dxmc run.")
    add_run_arguments(parser)
    arguments = parser.parse_args()
    sys.exit(guarded(lambda: run(stages, arguments)))


def run(stages: Sequence[str], arguments: argparse.Namespace) -> RunContext:
    """Load the configuration, lock the run directory and run the stages (by default all) that are not up to date."""
    config = load_config(arguments.config, arguments.overrides, run_dir=arguments.run_dir)
    context = RunContext.of(config)
    stages = stages or context.stages
    started = time.perf_counter()
    context.check_place()
    with context.run_dir.locked():
        context.claim()
        num_run = run_in_order(context, stages)
    if num_run == 0:
        logger.info("nothing to do: every stage in %s is up to date", context.run_dir.uri)
    else:
        logger.info("%d of %d stages ran in %.1f s", num_run, len(stages), time.perf_counter() - started)
    return context


def run_in_order(context: RunContext, stages: Sequence[str]) -> int:
    """Run those of the stages that are not up to date; how many that were. The run directory has to be locked."""
    jobs = [(name, job_of(name)) for name in stages]
    check_outside(context, jobs)
    return run_stages(context, jobs, lambda: start_ray_for(context))


def job_of(stage: str) -> ModuleType:
    """The job module of a stage."""
    return importlib.import_module(f"ray_jobs.{stage}")


def start_ray_for(context: RunContext) -> None:
    """Join or start Ray, where this process has not yet, and have all hosts look for local paths that they will read.

    Imported late, as most reruns have nothing to do.

    Raises:
        InputError: a host lacks one.
    """
    from ray_jobs.cluster import require_on_all_hosts, start_ray
    from ray_jobs.hosts import is_on_loopback
    from ray_jobs.local_places import local_files_of

    start_ray(context.config.resources)
    if not is_on_loopback():
        require_on_all_hosts(local_files_of(context))


def guarded(program: Callable[[], object]) -> int:
    """Call a program; its exit code. What went wrong is one line on stderr, the last one.

    SIGTERM, by which clusters stop a job, ends it in good order, so that its lock is free at once.
    """
    configure_logging()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(signal.SIGTERM))  # what Ray sets too, when it starts
    try:
        program()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the message is the interface
        return EXIT_UNUSABLE_INPUT
    except DxmcError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    except WorkerError as error:
        logger.error("a defect of dxmc, or of what it uses, in a worker:\n%s", error.trace.rstrip())
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)  # noqa: T201
        return 130
    except SystemExit as stop:
        if stop.code != signal.SIGTERM:
            raise
        print("error: stopped from outside; the same command goes on from here", file=sys.stderr)  # noqa: T201
        return 128 + signal.SIGTERM
    except Exception as error:
        failure = _known_failure(error)
        if failure is not None:
            print(f"error: {failure}", file=sys.stderr)  # noqa: T201
            return EXIT_UNUSABLE_INPUT if isinstance(failure, InputError) else EXIT_FAILED
        plain = _without_wrapping(error)
        logger.error("a defect of dxmc, or of what it uses", exc_info=plain)
        print(f"error: {type(plain).__name__}: {on_one_line(plain)}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    return 0


def _known_failure(error: Exception) -> DxmcError | None:
    """What to tell a person of an error that object storage or the loss of a part of Ray has led to."""
    from ray_jobs.cluster import known_failure  # late, as above

    return known_failure(error)


def _without_wrapping(error: Exception) -> BaseException:
    """An error without what Ray wraps around it."""
    from ray_jobs.cluster import without_wrapping  # late, as above

    return without_wrapping(error)


def configure_logging() -> None:
    """Log lines of dxmc to stderr, warnings of everything else."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for name in ("dxmc_core", "ray_jobs", "__main__"):  # a job that is run as a program is __main__
        logging.getLogger(name).setLevel(logging.INFO)
