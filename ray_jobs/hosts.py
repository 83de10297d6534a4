"""The hosts of the cluster as they are now, what may be asked of them, and what is said while there is no room."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import ray
from ray.exceptions import RayError, RpcError
from ray.util.placement_group import placement_group_table

from ray_jobs.ray_internals import job_of_placement_group, unplaced_demands

#: How long a stage waits for room before that is said, and after which it is said again.
_SAY_AFTER_S = 30.0
_SAY_AGAIN_S = 60.0
_LOOK_EVERY_S = 5.0
_MAX_DESCRIBED = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Host:
    """A host of the cluster, a node to Ray.

    Attributes:
        address: by which Ray, and so every other host, knows it.
        cores: that tasks may ask for; none on a head that is there for the cluster's own work alone.
    """

    node_id: str
    name: str
    address: str
    cores: int
    gpus: int = 0
    memory_bytes: float = 0.0
    is_head: bool = False


def hosts() -> list[Host]:
    """Those that are alive."""
    return [
        Host(
            node_id=node["NodeID"],
            name=node["NodeManagerHostname"],
            address=node["NodeManagerAddress"],
            cores=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
            memory_bytes=node["Resources"].get("memory", 0.0),
            is_head="node:__internal_head__" in node["Resources"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def is_on_loopback() -> bool:
    """Whether this Ray is reached by the loopback interface only, as one that `start_ray` has started."""
    return all(host.address == "127.0.0.1" for host in hosts())


def num_cores() -> int:
    """Cores of all hosts."""
    return max(sum(host.cores for host in hosts()), 1)


def roomiest(found: Sequence[Host]) -> Host | None:
    """The host for a task that has it to itself: by cores, rather not the head, whose memory is often small."""
    usable = [host for host in found if host.cores]
    return max(usable, key=lambda host: (host.cores, not host.is_head, host.memory_bytes), default=None)


def cores_of_whole_hosts(cores: Sequence[int]) -> int:
    """Cores of each of several workers that share hosts of so many: the most that leave few cores idle.

    Hosts of 8 and 16 cores get workers of 8. A small one beside large ones stays idle rather than have the large ones
    cut into pieces of its size.
    """
    used = {size: sum(count // size * size for count in cores) for size in cores if size}
    enough = min(0.75 * sum(cores), max(used.values(), default=0))
    return max((size for size in used if used[size] >= enough), default=1)


def cores_of_each_worker(cores: Sequence[int], num_workers: int) -> int:
    """The most cores that each of so many workers can have, as they are on hosts of so many; 0 when there is no room.

    A worker lies on one host: two workers on three hosts of 2 cores have 2 each, not 3.
    """
    return next(
        (size for size in range(max(cores, default=0), 0, -1) if sum(n // size for n in cores) >= num_workers), 0
    )


@dataclass(frozen=True)
class Ask:
    """What workers ask for: `cores` and `gpus` of one host for each, and so many of them at once.

    Attributes:
        is_group: they are placed together, in a placement group, as those of Ray Train are.
        first_asked: the id of the host that is asked first.
    """

    cores: float
    gpus: float = 0
    count: int = 1
    is_group: bool = False
    first_asked: str | None = None

    def room(self, found: Sequence[Host]) -> int:
        """How many the hosts have room for when nobody else uses them."""
        if self.gpus:
            return sum(int(host.gpus // self.gpus) for host in found)
        return sum(int(host.cores // self.cores) for host in found)

    def is_hopeless(self, found: Sequence[Host]) -> bool:
        """Whether these hosts never have the room, and would have it for one who asks for less.

        Without any host that has cores, or GPUs, all there is to do is to wait for one.
        """
        least = Ask(min(self.cores, 1), gpus=min(self.gpus, 1))
        return self.room(found) < self.count and least.room(found) > 0

    def __str__(self) -> str:
        each = f"{self.gpus:g} GPU" if self.gpus else _cores(self.cores)
        return each if self.count == 1 else f"{self.count} times {each}"


def _cores(count: float) -> str:
    return "1 core" if count == 1 else f"{count:g} cores"


def described(found: Sequence[Host]) -> str:
    """Hosts and what they have, for the log."""
    names = [
        f"{host.name} {_cores(host.cores)}" + (f" and {host.gpus} GPUs" if host.gpus else "")
        for host in sorted(found, key=lambda host: (not host.is_head, host.name))
    ]
    more = [f"and {len(names) - _MAX_DESCRIBED} more"] if len(names) > _MAX_DESCRIBED else []
    many = "1 host" if len(names) == 1 else f"{len(names)} hosts"
    return f"{many} ({', '.join(names[:_MAX_DESCRIBED] + more)})"


class NoHostLeftError(Exception):
    """Hosts have left, and those that are there have no room for what was asked: it has to be asked anew."""


#: Where a task has begun, by the id of the host; None as long as it has not.
BeganOn = Callable[[], str | None]


class Waiting:
    """Looks, now and then, whether what was asked for can be placed, and says what is waited for."""

    def __init__(self, ask: Ask, *, began_on: BeganOn | None = None, look_every_s: float = _LOOK_EVERY_S) -> None:
        """
        Args:
            began_on: of a single task, which may be with any host until it has begun.
        """
        self._ask = ask
        self._began_on = began_on
        self._may_have_it = set() if began_on is None else {host.node_id for host in hosts()}
        self._every_s = look_every_s
        self._last_look = time.monotonic()
        self._since = self._last_look
        self._say_at = self._since + _SAY_AFTER_S

    def look(self) -> None:
        """Do so, unless that was a moment ago.

        Raises:
            NoHostLeftError: it can not be placed any more, and less could.
        """
        now = time.monotonic()
        if now - self._last_look < self._every_s:
            return
        self._last_look = now
        try:
            found = hosts()
            is_waiting = _is_unplaced(self._ask)
            began_on = None if self._began_on is None else self._began_on()
        except (RayError, RpcError):  # the control service is busy, or gone: whoever waits for a result hears of that
            return
        if self._ask.is_hopeless(found):
            raise NoHostLeftError(f"{self._ask} no longer fit on {described(found)}")
        if self._began_on is not None:
            self._require_hosts(found, began_on)
        if not is_waiting:
            self._since, self._say_at = now, now + _SAY_AFTER_S
        elif now >= self._say_at:
            self._say_at = now + _SAY_AGAIN_S
            free = ray.available_resources()
            logger.warning(
                "waiting since %.0f s for %s; the cluster has %s, free now: %s",
                now - self._since, self._ask, described(found), _cores(int(free.get("CPU", 0))),
            )  # fmt: skip

    def _require_hosts(self, found: Sequence[Host], began_on: str | None) -> None:
        """Ray (2.60) has been seen to wait minutes for the answer of a host that was gone when it was asked.

        A host may hand on what it is asked, so any that was there meanwhile may be the one.
        """
        there = {host.node_id for host in found}
        self._may_have_it |= there
        if not ({began_on} if began_on is not None else self._may_have_it) <= there:
            raise NoHostLeftError(
                f"a host that may have been asked for {self._ask} is gone; there are {described(found)}"
            )


def _is_unplaced(ask: Ask) -> bool:
    if ask.is_group:
        groups = placement_group_table().items()
        job_id = ray.get_runtime_context().get_job_id()
        states = {group["state"] for name, group in groups if job_of_placement_group(name) == job_id} - {"REMOVED"}
        # Before workers are asked for there is no group yet; a range of workers is asked for once there is room.
        return "CREATED" not in states and (bool(states) or not _is_free(ask))
    wanted = {"CPU": ask.cores, "GPU": ask.gpus}
    return any(
        all(math.isclose(demand.resources.get(name, 0.0), wanted[name], abs_tol=1e-3) for name in wanted)
        for demand in unplaced_demands()
    )


def _is_free(ask: Ask) -> bool:
    """Whether as much of all hosts as is asked for is nobody's now."""
    name, each = ("GPU", ask.gpus) if ask.gpus else ("CPU", ask.cores)
    return ray.available_resources().get(name, 0.0) >= each * ask.count


def until(is_done: Callable[[], bool], ask: Ask, *, began_on: BeganOn | None = None) -> None:
    """Call something that waits for a moment, again and again until it says that it is done.

    Raises:
        NoHostLeftError: as of `Waiting.look`.
    """
    waiting = Waiting(ask, began_on=began_on)
    while not is_done():
        waiting.look()


@contextmanager
def told_while_waiting(*asks: Ask) -> Iterator[None]:
    """Say what is waited for from a thread, while this one cannot."""
    stop = threading.Event()
    waits = [Waiting(replace(ask, count=1)) for ask in asks]

    def watch() -> None:
        while not stop.wait(_LOOK_EVERY_S):
            try:
                for waiting in waits:
                    waiting.look()
            except NoHostLeftError as error:  # Ray Data goes on waiting, for hosts that may come
                logger.warning("%s; waiting for more", error)
                return

    thread = threading.Thread(target=watch, daemon=True, name="dxmc-waiting")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
