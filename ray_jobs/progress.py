"""What a person sees of work that takes long: a bar on a terminal, elsewhere a line at least every ten seconds.

Whoever works or waits says so by a `Progress`, for as long as it lasts. One thread (`shown`) shows the innermost one,
so nothing is silent because a stage forgot to print. The lock of the run directory carries the same (`snapshot`), for
`dxmc status` on whatever machine.
"""

import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from dxmc_core.method.steps import WorkStep
from dxmc_core.runtime.durations import duration

if TYPE_CHECKING:
    from tqdm import tqdm

_FIRST_LINE_S = 1.5
_LINE_EVERY_S = 10.0
_REFRESH_EVERY_S = 0.5
#: Workers that start at once bring their first results together, by which nothing can be told yet.
_LEAST_SECONDS = 3.0
_MAX_LINE = 500

logger = logging.getLogger(__name__)


class Progress:
    """Something that takes long, from entering to leaving it; others may be entered in between.

    Rates and the time left count from the first thing that is done: starting workers and loading a model are no part.
    """

    def __init__(
        self, doing: str, total: int | None = None, *, unit: str = "", done: int = 0, first: str | None = None
    ) -> None:
        """
        Args:
            doing: as in "embedding".
            total: units in all; None where nobody knows.
            done: units that were done before.
            first: what happens until the first unit is done, as in "loading the encoder".
        """
        self.doing, self.total, self.unit, self.done = doing, total, unit, done
        self._before_first = first
        self._facts: dict[str, Any] = {}
        self._entered = time.monotonic()
        self._first: tuple[float, int] | None = None

    def add(self, count: int, **facts: Any) -> None:
        """Count what has been done and tell facts beside it."""
        self.at(self.done + count, **facts)

    def at(self, done: int, **facts: Any) -> None:
        """Say how far it is, where that is known better than by counting."""
        self.done, self._facts = done, facts
        if self._first is None:
            self._first = time.monotonic(), done

    def take(self, step: WorkStep) -> None:
        """Show what long work says of itself."""
        if step.unit != self.unit or step.done < self.done:  # another piece of work, at a pace of its own
            self._first = None
        self.doing, self.total, self.unit = step.doing, step.total, step.unit
        self.at(step.done)

    @property
    def rate(self) -> float | None:
        """Units a second since the first ones were done; None as long as that says nothing."""
        first = self._first  # other threads write it
        if first is None:
            return None
        done, seconds = self.done - first[1], time.monotonic() - first[0]
        return done / seconds if done > 0 and seconds > _LEAST_SECONDS else None

    @property
    def _waits(self) -> bool:
        return self._first is None and self._before_first is not None

    def __str__(self) -> str:
        elapsed = duration(time.monotonic() - self._entered)
        if self._waits:
            return f"{self._before_first}, {elapsed}"
        if not self.total:
            return f"{self.doing}, {f'{self.done} {self.unit}, ' if self.done else ''}{elapsed}"
        facts = [f"{name} {value}" for name, value in self._facts.items()]
        rate = self.rate
        if rate:
            pace = f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"
            facts = [pace, f"about {duration(max(self.total - self.done, 0) / rate)} left", *facts]
        return f"{self.doing}: {self.done} of {self.total} {self.unit} ({', '.join(facts or [elapsed])})"

    def bar(self, name: str, width: int) -> str:
        """The same on one line of a terminal."""
        if self._waits or not self.total:
            return f"{name}: {self}"[:width]
        from tqdm import tqdm

        first, rate = self._first, self.rate
        facts = ", ".join(f"{key}={value}" for key, value in self._facts.items())
        return tqdm.format_meter(
            self.done,
            self.total,
            time.monotonic() - (first[0] if first else self._entered),
            prefix=f"{name}: {self.doing}",
            unit=f" {self.unit}",
            rate=rate,
            bar_format=None if rate else "{l_bar}{bar}| {n_fmt}/{total_fmt}{unit}{postfix}",
            postfix=facts,
            ncols=width,
        )

    def __enter__(self) -> "Progress":
        self._entered = time.monotonic()
        _STATE.entered.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _STATE.entered.remove(self)


class _State:
    """What this process is at."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.entered: list[Progress | None] = []
        self.last_line = ""
        self.last_line_at: float | None = None
        self.drawn: tqdm | None = None

    @property
    def name(self) -> str:
        return next(reversed(self.names), "dxmc")

    @property
    def innermost(self) -> Progress | None:
        return next(reversed(self.entered), None)


_STATE = _State()


@contextmanager
def named(name: str) -> Iterator[None]:
    """Say what progress is of for a block: a command or a stage."""
    _STATE.names.append(name)
    try:
        yield
    finally:
        _STATE.names.pop()


@contextmanager
def waiting_for_a_person() -> Iterator[None]:
    """Show nothing for a block, but for what is entered within it."""
    _STATE.entered.append(None)
    try:
        yield
    finally:
        _STATE.entered.remove(None)


def snapshot() -> dict[str, Any]:
    """What this process is at, JSON types only: stage, doing, done, total, unit, and the last line of its log."""
    found = _STATE.innermost
    at: dict[str, Any] = {"stage": _STATE.name, "last_line": _STATE.last_line, "said_at": time.time()}
    if found is not None:
        at |= {"doing": str(found), "done": found.done, "total": found.total, "unit": found.unit}
    return at


@contextmanager
def shown(*, quiet: bool = False) -> Iterator[None]:
    """Show progress on stderr for a block, and keep the last line of the log for `snapshot`."""
    stop = threading.Event()
    handler = _KeepLastLine()
    logging.getLogger().addHandler(handler)
    thread = threading.Thread(target=_show, args=(stop,), daemon=True, name="dxmc-progress")
    if not quiet:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        logging.getLogger().removeHandler(handler)
        if not quiet:
            thread.join()


def _show(stop: threading.Event) -> None:
    bar = None
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar = _STATE.drawn = tqdm(bar_format="{desc}", leave=False, dynamic_ncols=True)
    started = time.monotonic()
    while not stop.wait(_REFRESH_EVERY_S):
        found = _STATE.innermost
        if found is None:
            continue
        if bar is not None:
            bar.set_description_str(found.bar(_STATE.name, shutil.get_terminal_size().columns - 1))
            continue
        since, due = (_STATE.last_line_at, _LINE_EVERY_S) if _STATE.last_line_at else (started, _FIRST_LINE_S)
        if time.monotonic() - since >= due - _REFRESH_EVERY_S:
            logger.info("%-21s %s", _STATE.name, found)
    if bar is not None:
        _STATE.drawn = None
        bar.close()


class _KeepLastLine(logging.Handler):
    """Remembers what the log said last, and when."""

    def emit(self, record: logging.LogRecord) -> None:
        _STATE.last_line_at = time.monotonic()
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        _STATE.last_line = f"{clock} {record.getMessage()}".partition("\n")[0][:_MAX_LINE]


class AboveTheBar(logging.StreamHandler):
    """Writes lines to stderr without tearing a bar that is shown there."""

    def emit(self, record: logging.LogRecord) -> None:
        bar = _STATE.drawn
        with nullcontext() if bar is None else bar.external_write_mode(file=self.stream):
            super().emit(record)
