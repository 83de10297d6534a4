"""How every command and job runs: its log, its progress, its threads, and an exit code that means something."""

import logging
import signal
import sys
from collections.abc import Callable
from types import FrameType

from dxmc_core.errors import DxmcError, InputError, WorkerError, on_one_line
from ray_jobs import progress
from ray_jobs.threads import wait_passively

EXIT_FAILED = 1
EXIT_UNUSABLE_INPUT = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM

logger = logging.getLogger(__name__)


def guarded(program: Callable[[], object], *, name: str = "dxmc", quiet: bool = False) -> int:
    """Call a program; its exit code. What went wrong is one line on stderr, the last one.

    SIGTERM, by which clusters stop a job, ends it in good order, so that its lock is free at once. A signal is no
    defect, whatever the library that it came upon made of it: one that is being imported may raise another error, and
    Ray (2.60), when it waits, raises SystemExit(1).

    Args:
        name: of the command, for its progress.
        quiet: show warnings and errors alone.
    """
    stops = _Stops()
    signal.signal(signal.SIGINT, stops.interrupt)
    signal.signal(signal.SIGTERM, stops.terminate)
    try:
        configure_logging(quiet=quiet)
        wait_passively()
        with progress.shown(quiet=quiet), progress.named(name), progress.Progress("at work"):
            program()
    except BaseException as error:  # noqa: BLE001 - whatever it is, a person is told of it
        if stops.first == signal.SIGINT or (stops.first is None and isinstance(error, KeyboardInterrupt)):
            _say("interrupted; the same command goes on from here")
            return EXIT_INTERRUPTED
        if stops.first == signal.SIGTERM:
            _say("error: stopped from outside; the same command goes on from here")
            return EXIT_TERMINATED
        return _code_of(error)
    return 0


class _Stops:
    """The first of the signals that stop a program, remembered: what raises after it is not looked into."""

    first: signal.Signals | None = None

    def interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._remember(signal.SIGINT)
        raise KeyboardInterrupt

    def terminate(self, _number: int, _frame: FrameType | None) -> None:
        self._remember(signal.SIGTERM)
        sys.exit(EXIT_TERMINATED)

    def _remember(self, stop: signal.Signals) -> None:
        self.first = self.first or stop
        sys.unraisablehook = lambda _: None  # where it comes upon a destructor, Python would print a traceback


def _code_of(error: BaseException) -> int:
    """Tell a person what went wrong; the exit code.

    Raises:
        SystemExit: as it was.
    """
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, WorkerError):
        logger.error("a defect of dxmc, or of what it uses, in a worker:\n%s", error.trace.rstrip())
        _say(f"error: {error}")
        return EXIT_FAILED
    failure = error if isinstance(error, DxmcError) else _known_failure(error)
    if failure is not None:
        _say(f"error: {failure}")
        return EXIT_UNUSABLE_INPUT if isinstance(failure, InputError) else EXIT_FAILED
    plain = _without_wrapping(error)
    logger.error("a defect of dxmc, or of what it uses", exc_info=plain)
    _say(f"error: {type(plain).__name__}: {on_one_line(plain)}")
    return EXIT_FAILED


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - the message is the interface


def _known_failure(error: BaseException) -> DxmcError | None:
    """What to tell a person of an error that object storage or the loss of a part of Ray has led to."""
    from ray_jobs.cluster import known_failure  # late: it brings Ray and PyTorch

    return known_failure(error)


def _without_wrapping(error: BaseException) -> BaseException:
    """An error without what Ray wraps around it."""
    from ray_jobs.cluster import without_wrapping  # late, as above

    return without_wrapping(error)


def configure_logging(*, quiet: bool = False) -> None:
    """Log lines of dxmc to stderr, warnings of everything else."""
    handler = progress.AboveTheBar(sys.stderr)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=[handler])
    for name in ("dxmc_core", "ray_jobs", "__main__"):  # a job that is run as a program is __main__
        logging.getLogger(name).setLevel(logging.WARNING if quiet else logging.INFO)
