"""The process group of workers that train together, at the addresses by which Ray knows their hosts.

What a host's own name stands for is no such address: Debian writes 127.0.1.1 beside it into /etc/hosts, and gloo
(PyTorch 2.15) then connects to itself. On a Ray that listens on the loopback interface only, so does the group.
"""

import os
import socket
from datetime import timedelta
from typing import Any

import psutil
import ray
import ray.train
import ray.util
import torch.distributed as dist
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend, BackendConfig
from ray.train.torch import TorchConfig

_LEAVE_TIMEOUT_S = 30.0

_open_stores: list[dist.TCPStore] = []


class GroupConfig(TorchConfig):
    """Ray Train's setting of a process group that is made here: `backend` and `timeout_s` count."""

    @property
    def backend_cls(self) -> type["_GroupBackend"]:
        return _GroupBackend


class _GroupBackend(Backend):
    """Ray Train's own (2.60) takes what interface gloo likes, and a store that listens on all of them."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, GroupConfig)
        address, port = worker_group.execute_single(0, _open_store)
        worker_group.execute(_join, address, port, backend_config.backend, backend_config.timeout_s)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        try:
            ray.get(worker_group.execute_async(_leave), timeout=_LEAVE_TIMEOUT_S)
        except GetTimeoutError:  # a worker that waits for one that is gone; they all end with the group
            return


def _open_store() -> tuple[str, int]:
    """Open the store where the workers meet in this process, where it stays; its address and port."""
    address = ray.util.get_node_ip_address()
    # PyTorch (2.15) by itself opens it on all interfaces; it takes a socket instead that listens already.
    listening = socket.create_server((address if interface_of(address) else "", 0))
    port = listening.getsockname()[1]
    _open_stores.append(
        dist.TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
    )
    return address, port


def _join(address: str, port: int, backend: str, timeout_s: int) -> None:
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        # Who has set them knows better; `=` is nccl's for this name and no other that begins with it.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")
    timeout = timedelta(seconds=timeout_s)
    worker = ray.train.get_context()
    dist.init_process_group(
        backend,
        store=dist.TCPStore(address, port, is_master=False, timeout=timeout),
        rank=worker.get_world_rank(),
        world_size=worker.get_world_size(),
        timeout=timeout,
    )


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def interface_of(address: str) -> str | None:
    """The network interface of this host that has an address; None where it has only been told that this is its own."""
    found = psutil.net_if_addrs()
    return next((name for name in found if any(entry.address == address for entry in found[name])), None)
