"""The run directory: one folder a stage, and the lease that keeps a second run out."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage, normalize_uri, write_error
from dxmc_core.errors import InputError

#: The stages in the order they run; the names of config sections, jobs, modules, folders and tests.
STAGES = (
    "embed_images",
    "build_semantic_space",
    "mine_neighbors",
    "train_heads",
    "assign_clusters",
    "write_report",
)

#: Runs after embed_images when the configuration leaves the number of clusters to it.
CHOICE_OF_K = "suggest_k"

#: What a run directory is about: its source, its encoder, and the configuration of the run that used it last.
RUN_NAME = "run.json"

LOCK_NAME = "_lock.json"
LEASE_S = 60.0
RENEW_EVERY_S = 15.0


@dataclass(frozen=True)
class RunDir:
    """Where a run's artifacts lie, on local disk or in object storage."""

    uri: str

    @classmethod
    def at(cls, uri: str) -> "RunDir":
        return cls(normalize_uri(uri))

    @property
    def storage(self) -> Storage:
        return Storage(self.uri)

    def stage(self, name: str) -> StageDir:
        folder = "report" if name == "write_report" else name
        return StageDir(self.storage.child(folder), name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run directory against other writers; released at the end, and by itself when the process dies.

        The lock is a small file with an expiry that a thread keeps moving on. A run that finds one left by a dead
        process of this machine takes it over at once, and one left on another machine after it expired.

        Raises:
            InputError: another run is at work here, or the place may not be written.
        """
        owner = uuid.uuid4().hex
        self._acquire(owner)
        stop = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(owner, stop), daemon=True, name="dxmc-lease")
        renewer.start()
        try:
            yield
        finally:
            stop.set()
            renewer.join()
            if self._lock_owner() == owner:
                self.storage.delete(LOCK_NAME)

    def _acquire(self, owner: str) -> None:
        try:
            for _ in range(3):
                if self.storage.create_bytes(LOCK_NAME, _lock_content(owner)):
                    return
                holder = self._read_lock()
                if holder and not _is_stale(holder):
                    raise InputError(
                        f"{self.uri} is in use by another run (process {holder['pid']} on {holder['host']}); wait for "
                        f"it, or choose another --run-dir. If that run is dead, its lock expires within {LEASE_S:.0f} s"
                    )
                self.storage.delete(LOCK_NAME)
        except OSError as error:
            raise write_error(f"{self.uri}/{LOCK_NAME}", error) from error
        raise InputError(f"{self.uri} is being started by several runs at once; try again")

    def _renew(self, owner: str, stop: threading.Event) -> None:
        while not stop.wait(RENEW_EVERY_S):
            if self._lock_owner() != owner:
                return
            self.storage.write_bytes(LOCK_NAME, _lock_content(owner))

    def _lock_owner(self) -> str | None:
        holder = self._read_lock()
        return holder["owner"] if holder else None

    def _read_lock(self) -> dict | None:
        try:
            return json.loads(self.storage.read_bytes(LOCK_NAME))
        except (FileNotFoundError, json.JSONDecodeError):
            return None


def _lock_content(owner: str) -> bytes:
    content = {
        "owner": owner,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "pid_started": _process_start(os.getpid()),
        "expires_at": time.time() + LEASE_S,
    }
    return json.dumps(content).encode()


def _is_stale(holder: dict) -> bool:
    if time.time() > holder["expires_at"]:
        return True
    return holder["host"] == socket.gethostname() and _process_start(holder["pid"]) != holder["pid_started"]


def _process_start(pid: int) -> float | None:
    """When a process of this machine started (a reused pid has another start); None when there is none."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
