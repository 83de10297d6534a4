"""What is used beyond the public interfaces of Ray and PyTorch is still there. Fails first when one is upgraded."""

import socket
import subprocess
import sys

import pytest
import torch.distributed as dist
from ray.exceptions import ActorDiedError
from ray.train import ControllerError
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError

from ray_jobs.ray_internals import kept_causes
from ray_jobs.training_group import GroupConfig

CLUSTER = """
import time
import ray
from ray.util.placement_group import placement_group, placement_group_table
from dxmc_core.config import ResourcesConfig
from ray_jobs.cluster import remove_placement_groups, start_ray
from ray_jobs.hosts import Ask, _is_unplaced, hosts
from ray_jobs.ray_internals import preferring, unplaced_demands

start_ray(ResourcesConfig())
(host,) = hosts()
assert (host.cores, host.is_head) == (2, True), host

# No group has been made, but there is room for one: nothing waits.
assert not _is_unplaced(Ask(1, count=2, is_group=True))
assert _is_unplaced(Ask(2, count=2, is_group=True))

large = ray.remote(num_cpus=64)(lambda: None).remote()
deadline = time.monotonic() + 30
while not _is_unplaced(Ask(64)) and time.monotonic() < deadline:
    time.sleep(0.1)
assert _is_unplaced(Ask(64)), unplaced_demands()
assert not _is_unplaced(Ask(63)), unplaced_demands()
ray.cancel(large)

group = placement_group([{"CPU": 64}])
assert _is_unplaced(Ask(64, is_group=True)), placement_group_table()
remove_placement_groups()
assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}, placement_group_table()

here = ray.remote(num_cpus=1)(lambda: ray.get_runtime_context().get_node_id())
for node_id in (host.node_id, "0" * 55 + "1"):  # the second has left
    assert ray.get(here.options(scheduling_strategy=preferring(node_id)).remote(), timeout=60) == host.node_id
"""


@pytest.mark.ray
def test_what_is_asked_of_a_cluster(ray_cluster):
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER], env=ray_cluster, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"another version of Ray than ray_internals.py was written for?\n{done.stderr}"


def test_where_ray_train_keeps_causes():
    died = ActorDiedError()
    assert died in kept_causes(WorkerGroupError("x", {0: died}))
    assert died in kept_causes(ControllerError(died))
    assert died in kept_causes(UserExceptionWithTraceback(died, "x"))


def test_what_a_backend_of_ray_train_is():
    assert {"on_start", "on_shutdown"} <= set(dir(Backend))
    assert issubclass(GroupConfig, BackendConfig)
    assert issubclass(GroupConfig(backend="gloo").backend_cls, Backend)


def test_pytorch_takes_a_socket_that_listens_for_a_store():
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    store = dist.TCPStore(
        "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )
    other = dist.TCPStore("127.0.0.1", port, is_master=False)
    other.set("key", "value")
    assert store.get("key") == b"value"
