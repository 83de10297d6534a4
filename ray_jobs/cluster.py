"""Every decision about Ray in one place: how it is started, how many workers a stage gets, how rows are mapped."""

import json
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
    RpcError,
    WorkerCrashedError,
)
from ray.util.annotations import RayDeprecationWarning
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from threadpoolctl import threadpool_limits

from dxmc_core.artifacts.storage import storage_failure
from dxmc_core.config import ResourcesConfig
from dxmc_core.errors import ArtifactError, DxmcError, InputError, WorkerError, on_one_line
from dxmc_core.method.steps import WorkStep
from dxmc_core.runtime.allocator import reuse_freed_blocks
from dxmc_core.runtime.cpu_products import onednn_products, prefer_onednn
from dxmc_core.runtime.durations import duration
from dxmc_core.workload import SMALL_NUM_IMAGES
from ray_jobs.hosts import (
    Ask,
    BeganOn,
    NoHostLeftError,
    cores_of_whole_hosts,
    hosts,
    num_cores,
    roomiest,
    told_while_waiting,
    until,
)
from ray_jobs.local_places import LocalFile, require_here
from ray_jobs.progress import Progress
from ray_jobs.ray_internals import (
    forget,
    job_of_placement_group,
    kept_causes,
    placement_group_of,
    preferring,
    recall,
    remember,
    stay_on_loopback,
    tell_messages_to,
    use_own_niceness,
)
from ray_jobs.threads import SET_HERE

_LOCAL_OBJECT_STORE_BYTES = 2 << 30
_TASK_RETRIES = 3
_POLL_S = 1.0
#: Of the line by which Ray's core (2.60) says that RAY_BACKEND_LOG_LEVEL is set.
_LEVEL_IS_SET = b"logging.cc:"
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_PROBE_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 10.0

_Kind = TypeVar("_Kind", bound=Exception)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequiredFiles:
    """Local files that every host of a run has to have; workers look for them when they start.

    Attributes:
        found_on: the node of the driver, which has found them; there they may change while it runs.
    """

    files: tuple[LocalFile, ...] = ()
    found_on: str = ""

    def require_here(self) -> None:
        """Check that this host has them.

        Raises:
            InputError: it has not, or others by their name.
        """
        if self.files and ray.get_runtime_context().get_node_id() != self.found_on:
            require_here(self.files)


_required = RequiredFiles()


def start_ray(resources: ResourcesConfig) -> None:
    """Join the cluster that RAY_ADDRESS names (always so in a submitted job), else start one on this machine.

    The local one listens on the loopback interface only. Nothing happens when this process is connected already.

    Raises:
        DxmcError: the cluster does not answer, or the local one does not start.
    """
    if ray.is_initialized():
        return
    # Ray Data 2.60 makes Ray's core print an error about every pool of actors, one that does no harm.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    tell_messages_to(_log_message)
    if os.environ.get("RAY_ADDRESS"):
        try:
            # What a job's own environment has is in this process's too, and would clash; so only what is set here.
            with without_lines(_LEVEL_IS_SET), _own_handler_of_sigterm():
                ray.init(runtime_env={"env_vars": dict(SET_HERE)} if SET_HERE else None, **quiet)
        except ConnectionError as error:
            address = os.environ["RAY_ADDRESS"]
            raise DxmcError(
                f"no Ray cluster answers at RAY_ADDRESS={address}; start it, or unset RAY_ADDRESS"
            ) from error
    else:
        stay_on_loopback()
        use_own_niceness()
        try:
            with without_lines(_LEVEL_IS_SET), _own_handler_of_sigterm():
                ray.init(
                    address="local",
                    num_cpus=resources.num_cpus,
                    # Decoded images go through it on their way to GPUs; Ray's own choice is 30% of the memory.
                    object_store_memory=None if torch.cuda.is_available() else _LOCAL_OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    **quiet,
                )
        except Exception as error:  # Ray (2.60) raises nothing more precise
            raise DxmcError(
                f"Ray did not start on this machine ({on_one_line(error)}); free memory and cores, then run again"
            ) from error
    _quieten_ray_data()


@contextmanager
def _own_handler_of_sigterm() -> Iterator[None]:
    """Keep it over the start of Ray (2.60), which puts others in its place, that exit with code 1, and one below
    Python's, that prints the stack of its own code."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        if callable(own):
            own(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, own if callable(own) else signal.getsignal(signal.SIGTERM))


def _quieten_ray_data() -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def require_on_all_hosts(files: Sequence[LocalFile]) -> None:
    """Have every host look for local files that workers will read, now and whenever one starts.

    Raises:
        InputError: a host lacks one, or has another by its name.
    """
    global _required
    here = ray.get_runtime_context().get_node_id()
    _required = RequiredFiles(tuple(files), here)
    if not files:
        return
    probe = ray.remote(num_cpus=0, max_retries=_TASK_RETRIES)(_look_for)
    answers = [
        probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(host.node_id, soft=False)).remote(_required)
        for host in hosts()
        if (host.cores or host.gpus) and host.node_id != here
    ]
    if not answers:
        return
    ready, silent = ray.wait(answers, num_returns=len(answers), timeout=_PROBE_TIMEOUT_S)
    for answer in ready:
        try:
            with unwrapped_errors():
                ray.get(answer)
        except RayError as error:  # the host has left; one that comes later is asked when a worker starts there
            logger.warning("a host could not be asked for local files: %s", on_one_line(error))
    if silent:
        logger.warning(
            "%d hosts did not say within %.0f s whether they have the local files of this run; its workers "
            "look when they start",
            len(silent),
            _PROBE_TIMEOUT_S,
        )


def required_files() -> RequiredFiles:
    """What `require_on_all_hosts` was last given: for workers that look for themselves."""
    return _required


def _look_for(required: RequiredFiles) -> None:
    with told_plainly():
        required.require_here()


def _log_message(data: dict[str, Any], ignore_prefix: bool) -> None:
    """What Ray's processes say of themselves, as a line of the log; Ray (2.60) prints it to stdout, in colours."""
    for message in data["lines"]:
        logger.info("Ray: %s", _COLORS.sub("", message).strip().partition("\n")[0])


@contextmanager
def without_lines(mark: bytes) -> Iterator[None]:
    """Leave lines with a mark out of what this process writes to stderr, whatever library does, for a block."""
    sys.stderr.flush()
    stderr = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def hand_on() -> None:
        while chunk := os.read(reading, 65_536):
            os.write(stderr, b"".join(line for line in chunk.splitlines(keepends=True) if mark not in line))
        os.close(reading)
        os.close(stderr)

    thread = threading.Thread(target=hand_on, daemon=True, name="dxmc-stderr")
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        thread.join(timeout=_POLL_S)  # it ends with the last process that was started with the pipe


def num_gpus(resources: ResourcesConfig) -> int:
    """GPUs to use; those of `resources.num_gpus` that are missing are waited for.

    Raises:
        DxmcError: GPUs are wanted and there is none.
    """
    if resources.use_gpu is False:
        return 0
    wanted = resources.num_gpus
    if wanted is not None and _gpus_there() < wanted:
        _ask_for_gpus(wanted, resources.gpu_timeout_s)
    available = _gpus_there()
    if not available and (resources.use_gpu or wanted):
        key = "num_gpus" if wanted else "use_gpu"
        value = wanted or "true"
        raise DxmcError(f"resources.{key} is {value}, but the cluster has no GPU; add some, or set it to null")
    return available if wanted is None else min(available, wanted)


def num_gpus_used(resources: ResourcesConfig) -> int:
    """GPUs that the stages of this configuration use now; none is waited for."""
    if resources.use_gpu is False:
        return 0
    return min(_gpus_there(), resources.num_gpus or _gpus_there())


def _gpus_there() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def _ask_for_gpus(wanted: int, timeout_s: float) -> None:
    """Have the autoscaler start machines. The request ends with this job: one that is killed leaves none behind."""
    logger.info("waiting for %d GPUs, %d are there (at most %.0f s)", wanted, _gpus_there(), timeout_s)
    group = placement_group([{"GPU": 1}] * wanted)
    try:
        with Progress(f"waiting for {wanted} GPUs, at most {duration(timeout_s)}"):
            came = group.wait(timeout_s)
        if not came:
            logger.warning(
                "after %.0f s %d of %d GPUs are there; going on with these", timeout_s, _gpus_there(), wanted
            )
    finally:
        remove_placement_group(group)


def remove_placement_groups() -> None:
    """Give back what the placement groups of this job hold: without their maker they stay until the job ends."""
    job_id = ray.get_runtime_context().get_job_id()
    for group_id, group in placement_group_table().items():
        if job_of_placement_group(group_id) == job_id and group["state"] != "REMOVED":
            remove_placement_group(placement_group_of(group_id))


def run_on_host(function: Callable[..., Any], *args: Any, doing: str, device: str = "cpu", tells: bool = False) -> Any:
    """Call a function as one Ray task that has all cores of a host, or a GPU, and wait for its result.

    When hosts leave so that none has these cores any more, it starts again on the largest that is left.

    Args:
        doing: what is shown meanwhile, see `Progress`.
        tells: the function has a keyword argument `on_step`, see `method.steps.OnStep`, and what it says is shown.
    """
    mailbox = Mailbox(uuid.uuid4().hex)
    kwargs = {"on_step": mailbox.put} if tells else {}
    with Progress(doing) as progress:

        def show() -> None:
            if (step := mailbox.latest()) is not None:
                progress.take(step)

        try:
            while True:
                ask = _whole_host() if device == "cpu" else Ask(1, gpus=1)
                task = ray.remote(**_task_options(ask))(_call_on_cores)
                try:
                    result = task.remote(function, args, kwargs, int(ask.cores), _required, mailbox)
                    return wait_for(result, ask, show, began_on=mailbox.host)
                except NoHostLeftError as error:
                    logger.warning("%s; asking anew", error)
                    mailbox.empty()
        finally:
            mailbox.empty()


def _whole_host() -> Ask:
    best = roomiest(hosts())
    return Ask(1) if best is None else Ask(best.cores, first_asked=best.node_id)


def _task_options(ask: Ask) -> dict[str, Any]:
    options = {"num_cpus": ask.cores, "num_gpus": ask.gpus, "max_retries": _TASK_RETRIES}
    return options if ask.first_asked is None else {**options, "scheduling_strategy": preferring(ask.first_asked)}


def wait_for(
    result: ray.ObjectRef, ask: Ask, meanwhile: Callable[[], None] = lambda: None, *, began_on: BeganOn | None = None
) -> Any:
    """The result of a task, or what it raised. A task that is no longer waited for is ended.

    Raises:
        NoHostLeftError: what the task waits for can not be placed any more, and less could.
    """

    def is_done() -> bool:
        if ray.wait([result], timeout=_POLL_S)[0]:
            return True
        meanwhile()
        return False

    try:
        until(is_done, ask, began_on=began_on)
    except BaseException as error:
        _give_up(result, error)
        raise
    with unwrapped_errors():
        return ray.get(result)


def _give_up(result: Any, error: BaseException) -> None:
    """End a task that is no longer waited for, because of an error."""
    ray.cancel(result, force=True)
    if isinstance(error, NoHostLeftError):
        # Ray (2.60) may give what is asked for next to the process that is about to die.
        ray.wait([result], timeout=_END_TIMEOUT_S)


def call_beside_driver(function: Callable[..., Any], *args: Any, ask: Ask) -> Any:
    """Call a function as a task on the driver's host that needs no room of its own, and starts workers that do.

    When the driver gives it up, it ends with all that it has started.

    Args:
        ask: what its workers ask for.

    Raises:
        NoHostLeftError: as of `wait_for`.
    """
    return wait_for(ray.remote(**_beside_driver())(function).remote(*args), ask)


def _beside_driver() -> dict[str, Any]:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": here}


def _call_on_cores(
    function: Callable[..., Any],
    args: tuple,
    kwargs: dict[str, Any],
    cores: int,
    required: RequiredFiles,
    mailbox: "Mailbox",
) -> Any:
    mailbox.begin()
    with using_cores(cores), told_plainly():
        required.require_here()
        return function(*args, **kwargs)


@dataclass
class Mailbox:
    """What a task says of where and how far it is, for the driver: the latest alone, in the store of Ray's head."""

    key: str
    _next_at: float = 0.0
    _told: str = ""

    def begin(self) -> None:
        """Called by the task."""
        remember(self._host_key, ray.get_runtime_context().get_node_id())

    def host(self) -> str | None:
        """Called by the driver: the id of the host where the task has begun last; None when it has not yet."""
        found = recall(self._host_key)
        return None if found is None else found.decode()

    @property
    def _host_key(self) -> str:
        return f"{self.key}-host"

    def put(self, step: WorkStep) -> None:
        """Called by the task, which may have thousands of steps a second: of those that do the same a few are told."""
        if step.doing != self._told or time.monotonic() >= self._next_at:
            self._next_at, self._told = time.monotonic() + _POLL_S, step.doing
            remember(self.key, json.dumps(asdict(step)))

    def latest(self) -> WorkStep | None:
        """Called by the driver."""
        found = recall(self.key)
        return None if found is None else WorkStep(**json.loads(found))

    def empty(self) -> None:
        forget(self.key)
        forget(self._host_key)


@contextmanager
def told_plainly() -> Iterator[None]:
    """Raise on a worker what the driver can tell a person: a `DxmcError`, or a `WorkerError` with the traceback.

    Ray (2.60) wraps what a worker raises, puts its own text around the traceback, and loses causes and some types.
    """
    try:
        yield
    except DxmcError:
        raise
    except Exception as error:  # whatever it is, it crosses over to the driver as text
        failure = storage_failure(error)
        if failure is not None:
            raise failure from error
        trace = "".join(traceback.format_exception(error))
        raise WorkerError(type(error).__name__, on_one_line(error), trace) from error


@contextmanager
def using_cores(cores: int) -> Iterator[None]:
    """Let the numeric libraries of this process use so many cores. Ray reuses processes for tasks of other sizes."""
    torch.set_num_threads(cores)
    reuse_freed_blocks()
    with threadpool_limits(cores), onednn_products():
        yield


Mapper = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class Step:
    """One kind of worker that rows pass through.

    Attributes:
        make: makes what maps tables; called once by each worker, so what it holds has to be picklable.
        num_workers: processes; of whole hosts, as many at most as there is room for.
        num_cpus: cores of each; of whole hosts, what these have.
        num_gpus: GPUs of each.
        calls_at_a_time: threads of a worker that call its mapper.
        environment: variables that its process starts with.
        on_whole_hosts: each worker has a host's cores to itself, as they are when the workers start. When hosts leave
            so that none has these cores any more, what is not done is done by new workers on the hosts that are left.
    """

    make: Callable[[], Mapper]
    num_workers: int
    num_cpus: float = 1
    num_gpus: float = 0
    calls_at_a_time: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    on_whole_hosts: bool = False

    @property
    def ask(self) -> Ask:
        return Ask(self.num_cpus, self.num_gpus)

    def placed(self) -> "Step":
        """The step with workers for the hosts that there are now."""
        if not self.on_whole_hosts:
            return self
        cores = [host.cores for host in hosts() if host.cores]
        size = max(cores, default=1) if self.num_workers == 1 else cores_of_whole_hosts(cores)
        return replace(self, num_cpus=size, num_workers=min(self.num_workers, max(Ask(size).room(hosts()), 1)))


def light_step(make: Callable[[], Mapper], num_images: int) -> Step:
    """Workers for a light pass over the images: one task is done with few before a pool of all cores starts."""
    if num_images < SMALL_NUM_IMAGES:
        return Step(make, num_workers=1, on_whole_hosts=True)
    return Step(make, num_workers=num_cores())


def map_rows(rows: Sequence[dict], *steps: Step) -> Iterator[dict]:
    """Map rows by one kind of workers or by several, one after the other; the results come in any order, each once.

    The first mapper gets one row at a time, the unit of work of its stage; a later one gets what the one before made of
    a row. Workers are pools of actors of Ray Data. A single worker of a single kind is a task, which starts at once in
    a process that is there. A worker that dies is replaced, and does again what it had in hand.

    Raises:
        DxmcError: what a mapper raised, or that a worker died again and again on the same row.
        WorkerError: a mapper raised something else.
    """
    left = dict(enumerate(rows))
    while left:
        placed = [replace(step, num_workers=min(step.num_workers, len(left))).placed() for step in steps]
        try:
            with unwrapped_errors(), explained_deaths():
                for index, table in _map(left, placed):
                    for row in table.to_pylist():
                        if _ERROR_KIND in row:
                            raise _ERRORS[row[_ERROR_KIND]](*row["arguments"])
                        yield row
                    if index is not None:
                        del left[index]
            return
        except NoHostLeftError as error:
            logger.warning("%s; asking anew for the %d pieces of work that are left", error, len(left))


def _map(rows: Mapping[int, dict], steps: Sequence[Step]) -> Iterator[tuple[int | None, pa.Table]]:
    """The tables that become of rows, with the row where the steps may have to be asked for anew."""
    first = steps[0]
    if len(steps) == 1 and first.num_workers == 1:
        ask = _whole_host() if first.on_whole_hosts and not first.num_gpus else first.ask
        cores = max(int(ask.cores), 1)
        mailbox = Mailbox(uuid.uuid4().hex)
        arguments = (list(rows.values()), first.make, cores, _required, mailbox)
        try:
            tables = _streamed(_map_here, _task_options(ask), *arguments, ask=ask, began_on=mailbox.host)
            yield from zip(list(rows), tables, strict=True)
        finally:
            mailbox.empty()
    elif first.on_whole_hosts:
        for table in _streamed(_map_on_hosts, _beside_driver(), dict(rows), first, _required, ask=first.ask):
            for index in table[_ROW].unique().to_pylist():
                yield index, table.filter(pc.field(_ROW) == index).drop_columns([_ROW])
    else:
        with told_while_waiting(*(step.ask for step in steps)):
            yield from ((None, table) for table in _map_in_actors(list(rows.values()), steps))


def _streamed(
    function: Callable[..., Iterator[pa.Table]],
    options: dict[str, Any],
    *args: Any,
    ask: Ask,
    began_on: BeganOn | None = None,
) -> Iterator[pa.Table]:
    """What a task yields, as it does. A task that is no longer listened to is ended."""
    results: Any = ray.remote(**options, num_returns="streaming")(function).remote(*args)
    try:
        while True:
            until(lambda: bool(ray.wait([results], timeout=_POLL_S)[0]), ask, began_on=began_on)
            try:
                reference = next(results)
            except StopIteration:
                return
            yield ray.get(reference)
    except BaseException as error:
        _give_up(results, error)
        raise


def _map_here(
    rows: Sequence[dict], make: Callable[[], Mapper], cores: int, required: RequiredFiles, mailbox: Mailbox
) -> Iterator[pa.Table]:
    mailbox.begin()
    with using_cores(cores):
        guarded = _GuardedMapper(make, required)
        for row in rows:
            yield guarded(pa.Table.from_pylist([row]))


def _map_on_hosts(rows: dict[int, dict], step: Step, required: RequiredFiles) -> Iterator[pa.Table]:
    """A pool from within a task, which can be ended when it waits in vain."""
    global _required
    _required = required
    _quieten_ray_data()
    yield from _map_in_actors([{**row, _ROW: index} for index, row in rows.items()], [step])


def _map_in_actors(rows: Sequence[dict], steps: Sequence[Step]) -> Iterator[pa.Table]:
    dataset: ray.data.Dataset = ray.data.from_arrow([pa.Table.from_pylist([row]) for row in rows])
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated", RayDeprecationWarning)
    for step in steps:
        dataset = dataset.map_batches(
            _GuardedMapper,
            fn_constructor_kwargs={"make": step.make, "required": _required},
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=step.num_workers,
                max_concurrent_calls_per_actor=step.calls_at_a_time,
                max_tasks_in_flight_per_actor=step.calls_at_a_time + 1,
                enable_true_multi_threading=step.calls_at_a_time > 1,
            ),
            num_cpus=step.num_cpus,
            num_gpus=step.num_gpus or None,
            runtime_env={"env_vars": dict(step.environment)} if step.environment else None,
            # Ray Data's own default is to try for ever. It deprecates this way to say so, and has no other (2.60).
            max_task_retries=_TASK_RETRIES,
        )
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(table, pa.Table)
        yield table


_DEATHS = (RayActorError, WorkerCrashedError, OutOfMemoryError)


@contextmanager
def explained_deaths() -> Iterator[None]:
    """Tell a person what it means that Ray gave up on a worker."""
    try:
        yield
    except RayError as error:
        died = next((cause for cause in causes(error) if isinstance(cause, _DEATHS)), None)
        if died is None:
            raise
        said = str(died).strip().splitlines()[0]
        raise DxmcError(
            f"a worker died, and no other could do its work ({said}); if memory is short, set resources.embed_workers "
            "to fewer. What is done is kept: run again to go on from here"
        ) from error


_ROW = "dxmc_row"
_ERROR_KIND = "dxmc_error"
_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (DxmcError, InputError, ArtifactError, WorkerError)
}


class _GuardedMapper:
    """Holds a mapper in an actor and sends what it raises back as a row.

    Ray 2.60 loses the type of what a mapper raises, and starts an actor whose constructor fails again and again; so the
    mapper is made at the first call.
    """

    def __init__(self, make: Callable[[], Mapper], required: RequiredFiles) -> None:
        self._make = make
        self._required = required
        self._mapper: Mapper | None = None
        self._making = threading.Lock()

    def __call__(self, rows: pa.Table) -> pa.Table:
        if _ERROR_KIND in rows.column_names:  # from the step before
            return rows
        if _ROW not in rows.column_names:
            return self._map(rows)
        done = self._map(rows.drop_columns([_ROW]))
        return done.append_column(_ROW, pa.repeat(rows[_ROW][0], done.num_rows))

    def _map(self, rows: pa.Table) -> pa.Table:
        try:
            with told_plainly():
                with self._making:
                    if self._mapper is None:
                        self._required.require_here()
                        prefer_onednn()
                        reuse_freed_blocks()
                        self._mapper = self._make()
                return self._mapper(rows)
        except (DxmcError, WorkerError) as error:
            return pa.table({_ERROR_KIND: [type(error).__name__], "arguments": [list(error.args)]})


#: What a driver gets when a part of Ray has died under it.
_LOSSES = (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    RpcError,
    WorkerCrashedError,
)


def known_failure(error: BaseException | None) -> DxmcError | None:
    """What to tell a person when object storage failed, or a part of Ray died; None when it was something else."""
    for cause in causes(error):
        failure = storage_failure(cause)
        if failure is not None:
            return failure
    for cause in causes(error):
        if isinstance(cause, _LOSSES):
            said = next(iter(str(cause).strip().splitlines()), "")
            return DxmcError(
                f"a part of Ray died ({type(cause).__name__}: {said}); what is done is kept: run again to go on from "
                "here"
            )
    return None


class unwrapped_errors:
    """Raises what a worker has told plainly (`told_plainly`) instead of what Ray wraps around it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        found: Exception | None = _find(DxmcError, error)
        if found is None and known_failure(error) is None:  # when one of several workers dies, the others fail too
            found = _find(WorkerError, error)
        if found is not None and found is not error:
            raise found from None


def _find(kind: type[_Kind], error: BaseException | None) -> _Kind | None:
    """The first error of a kind in a chain of causes."""
    for found in causes(error):
        cause = getattr(found, "cause", None)
        for candidate in (cause, found):  # Ray's own error may be of the kind too, with a traceback for its text
            if isinstance(candidate, kind):
                return candidate
    return None


def without_wrapping(error: BaseException) -> BaseException:
    """What an error is about: the first in the chain of its causes that Ray has not wrapped around another."""
    chain = [cause for cause in causes(error) if not isinstance(cause, RayTaskError)]
    own = (cause for cause in chain if not type(cause).__module__.startswith("ray."))
    return next(own, chain[-1] if chain else error)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, by Python's links and those of Ray and Ray Train."""
    seen: set[int] = set()
    left = [error]
    while left:
        error = left.pop(0)
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        left += [cause for cause in kept_causes(error) if isinstance(cause, BaseException)]
        left.append(error.__cause__ or error.__context__)
