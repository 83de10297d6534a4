"""Every decision about Ray in one place: how it is started, how many workers a stage gets, how rows are mapped."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy
from tqdm import tqdm

from dxmc_core.config import ResourcesConfig
from dxmc_core.errors import ArtifactError, DxmcError, InputError

_LOCAL_OBJECT_STORE_BYTES = 2 << 30
_LOG_EVERY_S = 15.0

logger = logging.getLogger(__name__)


def start_ray(resources: ResourcesConfig) -> None:
    """Join the cluster that RAY_ADDRESS names (always so in a submitted job), else start one on this machine.

    The local one listens on the loopback interface only. Nothing happens when this process is connected already.
    """
    if ray.is_initialized():
        return
    # Ray Data 2.60 makes Ray's core print an error about every pool of actors, one that does no harm.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(
            address="local",
            num_cpus=resources.num_cpus,
            object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def num_gpus(resources: ResourcesConfig) -> int:
    """GPUs to use."""
    available = int(ray.cluster_resources().get("GPU", 0))
    if resources.use_gpu and not available:
        raise DxmcError("resources.use_gpu is true, but the cluster has no GPU; set it to null or false")
    return 0 if resources.use_gpu is False else available


def cores_per_node() -> int:
    """Cores of the largest node: what a task that uses a whole machine asks for."""
    return max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]) or 1


def num_cores() -> int:
    return max(int(ray.cluster_resources().get("CPU", 1)), 1)


def run_on_node(function: Callable[..., Any], *args: Any, gpu: bool = False) -> Any:
    """Call a function as one Ray task that has a whole node's cores (and a GPU), and wait for its result."""
    task = ray.remote(num_cpus=cores_per_node(), num_gpus=1 if gpu else 0, max_retries=2)(function)
    with unwrapped_errors():
        return ray.get(task.remote(*args))


def map_rows(
    rows: Iterable[dict],
    mapper: type,
    kwargs: dict[str, Any],
    *,
    num_workers: int,
    num_cpus: float = 1,
    gpus_per_worker: float = 0,
) -> Iterator[dict]:
    """Map rows by a pool of actors that each hold one mapper; what they return comes in any order, each row once.

    A mapper takes and returns a `pyarrow.Table`; here it gets one row at a time, the unit of work of its stage.
    """
    blocks = [pa.Table.from_pylist([row]) for row in rows]
    if not blocks:
        return
    dataset = ray.data.from_arrow(blocks).map_batches(
        _GuardedMapper,
        fn_constructor_kwargs={"mapper": mapper, "kwargs": kwargs},
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(num_workers, len(blocks))),
        num_cpus=num_cpus,
        num_gpus=gpus_per_worker or None,
    )
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(table, pa.Table)
        for row in table.to_pylist():
            if _ERROR_KIND in row:
                raise _ERRORS[row[_ERROR_KIND]](row["message"])
            yield row


_ERROR_KIND = "dxmc_error"
_ERRORS = {kind.__name__: kind for kind in (DxmcError, InputError, ArtifactError)}


class _GuardedMapper:
    """Holds a mapper in an actor and sends its `DxmcError` back as a row.

    Ray 2.60 loses the type of what a mapper raises, and starts an actor whose constructor fails again and again; so the
    mapper is made at the first call.
    """

    def __init__(self, mapper: type, kwargs: dict[str, Any]) -> None:
        self._make = lambda: mapper(**kwargs)
        self._mapper: Callable[[pa.Table], pa.Table] | None = None

    def __call__(self, rows: pa.Table) -> pa.Table:
        try:
            if self._mapper is None:
                self._mapper = self._make()
            return self._mapper(rows)
        except DxmcError as error:
            return pa.table({_ERROR_KIND: [type(error).__name__], "message": [str(error)]})


class unwrapped_errors:
    """Raises the `DxmcError` that a worker raised instead of what Ray wraps around it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        found = find_dxmc_error(error)
        if found is not None and found is not error:
            raise found from None


def find_dxmc_error(error: BaseException | None) -> DxmcError | None:
    """The first `DxmcError` in a chain of causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        cause = getattr(error, "cause", None)
        for candidate in (cause, error):  # Ray's own error may be a DxmcError too, with a traceback for its text
            if isinstance(candidate, DxmcError):
                return candidate
        error = cause if isinstance(cause, BaseException) else (error.__cause__ or error.__context__)
    return None


class Progress:
    """A progress bar on a terminal, a line every 15 s elsewhere."""

    def __init__(self, name: str, total: int, *, unit: str, done: int = 0) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._done = self._resumed = done
        self._started = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, desc=name, unit=f" {unit}", smoothing=0.05)

    def add(self, count: int, **facts: Any) -> None:
        """Count finished work and show the facts beside it."""
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix(facts, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line > _LOG_EVERY_S:
            self._last_line = time.monotonic()
            rate = (self._done - self._resumed) / (self._last_line - self._started)
            left = (self._total - self._done) / max(rate, 1e-9)
            shown = "".join(f", {name} {value}" for name, value in facts.items())
            logger.info(
                "%-21s %d of %d %s (%.0f/s, about %.0f s left%s)",
                self._name, self._done, self._total, self._unit, rate, left, shown,
            )  # fmt: skip

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
