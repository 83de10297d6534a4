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

logger = logging.getLogger(__name__)


def guarded(program: Callable[[], object], *, name: str = "dxmc", quiet: bool = False) -> int:
    """Call a program; its exit code. What went wrong is one line on stderr, the last one.

    SIGTERM, by which clusters stop a job, ends it in good order, so that its lock is free at once. An interruption is
    no defect, whatever the library that it came upon made of it: one that is being imported may raise another error.

    Args:
        name: of the command, for its progress.
        quiet: show warnings and errors alone.
    """
    interruption = _Interruption()
    signal.signal(signal.SIGINT, interruption.come)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(signal.SIGTERM))  # what Ray sets too, when it starts
    try:
        configure_logging(quiet=quiet)
        wait_passively()
        with progress.shown(quiet=quiet), progress.named(name), progress.Progress("at work"):
            program()
    except BaseException as error:  # noqa: BLE001 - whatever it is, a person is told of it
        if interruption.has_come or isinstance(error, KeyboardInterrupt):
            _say("interrupted; the same command goes on from here")
            return EXIT_INTERRUPTED
        return _code_of(error)
    return 0


class _Interruption:
    """SIGINT, remembered: what raises after it is not looked into."""

    has_come = False

    def come(self, _number: int, _frame: FrameType | None) -> None:
        self.has_come = True
        sys.unraisablehook = lambda _: None  # where it comes upon a destructor, Python would print a traceback
        raise KeyboardInterrupt


def _code_of(error: BaseException) -> int:
    """Tell a person what went wrong; the exit code.

    Raises:
        SystemExit: as it was, unless it is that of SIGTERM.
    """
    if isinstance(error, SystemExit):
        if error.code != signal.SIGTERM:
            raise error
        _say("error: stopped from outside; the same command goes on from here")
        return 128 + signal.SIGTERM
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
