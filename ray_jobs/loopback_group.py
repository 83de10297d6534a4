"""Workers of one machine that train together, and listen on the loopback interface only."""

import os
import socket
from datetime import timedelta
from typing import Any

import psutil
import ray.train
import torch.distributed as dist
from ray.train.backend import BackendConfig
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

_LOOPBACK = "127.0.0.1"

_open_stores: list[dist.TCPStore] = []


class LoopbackConfig(TorchConfig):
    """Ray Train's setting of a process group, which then stays on this machine."""

    @property
    def backend_cls(self) -> type["_LoopbackBackend"]:
        return _LoopbackBackend


class _LoopbackBackend(_TorchBackend):
    """Ray Train's own, but for the store where the workers meet: PyTorch (2.15) opens that on all interfaces.

    It takes a socket instead that listens already; Ray Train (2.60) does not hand it one.
    """

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, LoopbackConfig)
        port = worker_group.execute_single(0, _open_store)
        worker_group.execute(_join, port, backend_config.backend, backend_config.timeout_s)


def _open_store() -> int:
    """Open the store in this process, where it stays; its port."""
    listening = socket.create_server((_LOOPBACK, 0))
    port = listening.getsockname()[1]
    _open_stores.append(
        dist.TCPStore(_LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
    )
    return port


def _join(port: int, backend: str, timeout_s: int) -> None:
    # gloo would take the interface that this machine's name stands for.
    os.environ["GLOO_SOCKET_IFNAME"] = _loopback_interface()
    timeout = timedelta(seconds=timeout_s)
    worker = ray.train.get_context()
    dist.init_process_group(
        backend,
        store=dist.TCPStore(_LOOPBACK, port, is_master=False, timeout=timeout),
        rank=worker.get_world_rank(),
        world_size=worker.get_world_size(),
        timeout=timeout,
    )


def _loopback_interface() -> str:
    addresses = psutil.net_if_addrs()
    return next(name for name in addresses if any(found.address == _LOOPBACK for found in addresses[name]))
