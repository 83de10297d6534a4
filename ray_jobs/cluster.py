"""Every decision about Ray in one place: how it is started, how many workers a stage gets, how rows are mapped."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from dxmc_core.config import ResourcesConfig
from dxmc_core.errors import ArtifactError, DxmcError, InputError

_LOCAL_OBJECT_STORE_BYTES = 2 << 30
_LOG_EVERY_S = 15.0
_TASK_RETRIES = 2
_SMALL_NUM_IMAGES = 200_000

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
        try:
            ray.init(**quiet)
        except ConnectionError as error:
            address = os.environ["RAY_ADDRESS"]
            raise DxmcError(
                f"no Ray cluster answers at RAY_ADDRESS={address}; start it, or unset RAY_ADDRESS"
            ) from error
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


def workers_for(num_images: int) -> tuple[int, float]:
    """Workers and cores of each for a light pass over the images: one task is done with few before a pool starts."""
    if num_images < _SMALL_NUM_IMAGES:
        return 1, cores_per_node()
    return num_cores(), 1


def run_on_node(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function as one Ray task that has a whole node's cores, and wait for its result."""
    cores = cores_per_node()
    task = ray.remote(num_cpus=cores, max_retries=_TASK_RETRIES)(_call_on_cores)
    with unwrapped_errors():
        return ray.get(task.remote(function, args, cores))


def _call_on_cores(function: Callable[..., Any], args: tuple, cores: int) -> Any:
    with using_cores(cores):
        return function(*args)


@contextmanager
def using_cores(cores: int) -> Iterator[None]:
    """Let the numeric libraries of this process use so many cores. Ray reuses processes for tasks of other sizes."""
    torch.set_num_threads(cores)
    with threadpool_limits(cores):
        yield


def map_rows(
    rows: Sequence[dict],
    mapper: type,
    kwargs: dict[str, Any],
    *,
    num_workers: int,
    num_cpus: float = 1,
    gpus_per_worker: float = 0,
) -> Iterator[dict]:
    """Map rows by workers that each hold one mapper; what they return comes in any order, each row once.

    A mapper takes and returns a `pyarrow.Table`; here it gets one row at a time, the unit of work of its stage. Several
    workers are a pool of actors of Ray Data. One worker is a task, which starts at once in a process that is there.
    """
    if not rows:
        return
    num_workers = min(num_workers, len(rows))
    if num_workers == 1:
        tables = _map_in_a_task(rows, mapper, kwargs, num_cpus=num_cpus, num_gpus=gpus_per_worker)
    else:
        tables = _map_in_actors(
            rows, mapper, kwargs, num_workers=num_workers, num_cpus=num_cpus, num_gpus=gpus_per_worker
        )
    for table in tables:
        for row in table.to_pylist():
            if _ERROR_KIND in row:
                raise _ERRORS[row[_ERROR_KIND]](row["message"])
            yield row


def _map_in_a_task(
    rows: Sequence[dict], mapper: type, kwargs: dict[str, Any], *, num_cpus: float, num_gpus: float
) -> Iterator[pa.Table]:
    task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=_TASK_RETRIES)(_map_here)
    streaming: Any = task.options(num_returns="streaming")
    results = streaming.remote(rows, mapper, kwargs, max(int(num_cpus), 1))
    for reference in results:
        yield ray.get(reference)


def _map_here(rows: Sequence[dict], mapper: type, kwargs: dict[str, Any], cores: int) -> Iterator[pa.Table]:
    with using_cores(cores):
        guarded = _GuardedMapper(mapper, kwargs)
        for row in rows:
            yield guarded(pa.Table.from_pylist([row]))


def _map_in_actors(
    rows: Sequence[dict], mapper: type, kwargs: dict[str, Any], *, num_workers: int, num_cpus: float, num_gpus: float
) -> Iterator[pa.Table]:
    blocks = [pa.Table.from_pylist([row]) for row in rows]
    dataset = ray.data.from_arrow(blocks).map_batches(
        _GuardedMapper,
        fn_constructor_kwargs={"mapper": mapper, "kwargs": kwargs},
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=num_workers),
        num_cpus=num_cpus,
        num_gpus=num_gpus or None,
    )
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(table, pa.Table)
        yield table


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
