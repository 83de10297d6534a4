"""A command with a Ray of its own as something to kill: started, looked into, and cleared away."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

#: How the command line of a process of each kind begins.
_TITLES = {
    "raylet": ("raylet",),
    "gcs": ("gcs_server",),
    "map_worker": ("ray::MapWorker",),
    "train_worker": ("ray::RayTrainWorker",),
    "task": ("ray::_call_on_cores", "ray::_map_here"),
    "agent": ("ray::DashboardAgent", "ray::RuntimeEnvAgent"),
}
_OF_RAY = "ray::"
_IDLE = "ray::IDLE"


@contextmanager
def killable(*arguments: str, stderr: IO | None = None) -> Iterator[psutil.Popen]:
    """Python with a Ray of its own; whatever of it is left at the end of the block is killed."""
    process = psutil.Popen(
        [sys.executable, *arguments],
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def processes(driver: psutil.Popen, kind: str) -> list[psutil.Process]:
    """The processes of a kind among all that a driver has started: a key of `_TITLES`, `driver` itself, or `actor`,
    which is every process of Ray at work that is of no other kind."""
    if kind == "driver":
        return [driver] if driver.poll() is None else []
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in driver.children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                command = process.cmdline()
                if command and _kind_of(command[0]) == kind:
                    found.append(process)
    return found


def _kind_of(program: str) -> str | None:
    name = program if program.startswith(_OF_RAY) else Path(program).name
    for kind, titles in _TITLES.items():
        if name.startswith(titles):
            return kind
    return "actor" if name.startswith(_OF_RAY) and not name.startswith(_IDLE) else None


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)


def ends_within(driver: psutil.Popen, seconds: float) -> bool:
    """Whether the driver ends within so many seconds."""
    with suppress(psutil.TimeoutExpired, subprocess.TimeoutExpired):
        driver.wait(timeout=seconds)
        return True
    return False
