"""What is used of Ray beyond its public interface, each behind one function; seen with Ray 2.60.

`tests/ray_jobs/test_ray_internals.py` says which of them another version no longer has.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import ray_constants, worker
from ray._raylet import PlacementGroupID
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def stay_on_loopback() -> None:
    """Have the Ray that is started next listen on the loopback interface only.

    On Linux Ray replaces 127.0.0.1 by the machine's own address, and its processes then listen everywhere. Where it
    knows no clusters, as on macOS, it stays on the loopback interface; so it is told that. The variable is for the
    processes that it starts.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def use_own_niceness() -> None:
    """Have workers of the Ray that is started next run at nice 0, unless it is set: at Ray's 15 all others go first."""
    os.environ.setdefault(ray_constants.RAY_WORKER_NICENESS, "0")


def tell_messages_to(tell: Callable[..., None]) -> None:
    """Hand over what Ray's processes say of themselves, which Ray prints to stdout, in colours."""
    worker.print_to_stdstream = tell


def remember(key: str, value: str) -> None:
    """Keep a text in the store of Ray's head, in place of what was kept there."""
    _internal_kv_put(key, value, overwrite=True)


def recall(key: str) -> Any:
    """What is kept there, bytes; None when there is nothing."""
    return _internal_kv_get(key)


def forget(key: str) -> None:
    _internal_kv_del(key)


def placement_group_of(group_id: str) -> PlacementGroup:
    """A placement group by its id, which is all that `placement_group_table` has of it."""
    return PlacementGroup(PlacementGroupID.from_hex(group_id))


def job_of_placement_group(group_id: str) -> str:
    """The job that has made a placement group: the end of its id."""
    return group_id[-len(ray.get_runtime_context().get_job_id()) :]


def preferring(node_id: str) -> NodeAffinitySchedulingStrategy:
    """A node if it is there and has room, any other else; without the private part it would wait for that node."""
    return NodeAffinitySchedulingStrategy(node_id, soft=True, _spill_on_unavailable=True)


@dataclass(frozen=True)
class Demand:
    """Tasks and actors of one shape, of any job, that no node has room for now."""

    resources: dict[str, float]
    count: int


def unplaced_demands() -> list[Demand]:
    """What the scheduler has not placed yet, without placement groups; the state API needs the dashboard for this."""
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    found = [shape for demand in status.resource_demands.ray_task_actor_demand for shape in demand.bundles_by_count]
    return [Demand(dict(shape.bundle), shape.count) for shape in found]


def kept_causes(error: BaseException) -> Sequence[object]:
    """Where Ray and Ray Train keep what an error came from, beside Python's own links."""
    names = ("cause", "controller_failure", "health_check_failure", "_base_exc")
    return [getattr(error, name, None) for name in names] + list(getattr(error, "worker_failures", {}).values())
