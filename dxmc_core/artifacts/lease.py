"""One writer a folder: a lock that its owner keeps renewing, on local disk or in object storage.

No two clocks are compared, and no name is taken for a machine: the clocks of two machines differ, and containers have
the same name and the same process numbers.
"""

import json
import logging
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from dxmc_core.artifacts.process_identity import identify, known_state
from dxmc_core.artifacts.storage import Storage, storage_errors, write_error
from dxmc_core.errors import DxmcError, InputError

logger = logging.getLogger(__name__)

LOCK_NAME = "_lock.json"
#: A lock that has not changed for so long, by the clock of the one who watches it, is free.
LEASE_S = 60.0
RENEW_EVERY_S = 10.0
_WATCH_EVERY_S = 1.0
#: How long a storage may take to answer before that is said, and after which it is said again.
_SAY_AFTER_S = 30.0
_SAY_AGAIN_S = 60.0
_FIELDS = {"owner", "host", "pid"}


#: What an owner tells of its work.
Note = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class LockHolder:
    """Who holds a folder.

    Attributes:
        since: in seconds since 1970, by the clock of `host`; None where an older dxmc did not tell.
        is_gone: it is known to be dead; None where only watching its lock would tell, see `Lease`.
        note: what it told of its work when it last renewed its lock.
    """

    host: str
    pid: int
    since: float | None
    is_gone: bool | None
    note: dict[str, Any]


def lock_holder(storage: Storage) -> LockHolder | None:
    """Who holds a folder; None where nobody does.

    Raises:
        InputError: another program's lock is there.
    """
    try:
        holder = _parse(storage.read_bytes(LOCK_NAME))
    except FileNotFoundError:
        return None
    if holder is None:
        return None
    is_gone = {"alive": False, "dead": True, "unknown": None}[known_state(holder)]
    return LockHolder(holder["host"], holder["pid"], holder.get("since"), is_gone, holder.get("note", {}))


#: The leases that this process holds, by the URI of their folder.
_HELD: dict[str, "Lease"] = {}


def confirm_lease(uri: str) -> None:
    """Check that what this process holds above a place is still its own; nothing happens where it holds nothing.

    An owner that stood still for longer than a lease lasts does not know at once that another has taken over. It must
    not publish then, nor remove what the other has written.

    Raises:
        DxmcError: another process has taken it over.
    """
    for folder, lease in list(_HELD.items()):
        if uri == folder or uri.startswith(f"{folder}/"):
            lease.confirm()


def held_above(uri: str) -> tuple[str, str] | None:
    """The folder at or above a place that this process holds, and the text by which its lock there is known."""
    for folder, lease in list(_HELD.items()):
        if uri == folder or uri.startswith(f"{folder}/"):
            return folder, lease.owner
    return None


class Lease:
    """The right to write into a folder.

    The lock is a small file that is only ever made where none is, or replaced where it is still what was read: of two
    that try, one succeeds. One left by a process that is known to be dead is taken over at once; any other is watched,
    and is taken over when it has not been renewed for `LEASE_S` meanwhile. An owner that was stopped for so long that
    another took over is interrupted as soon as it sees that; one that cannot reach the storage goes on and tries again.
    """

    def __init__(self, storage: Storage, note: Note = dict) -> None:
        """
        Args:
            note: what the lock tells of its owner's work, JSON types; asked for whenever the lock is renewed.
        """
        self._storage = storage
        self._note = note
        self._since = time.time()
        self.owner = uuid.uuid4().hex
        self._num_renewals = 0
        self._content = b""
        self._is_lost = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it for a block of the main thread; it is released at the end, and by itself when the process dies.

        Raises:
            InputError: another process holds it, or the folder may not be written.
            DxmcError: another process has taken it over.
        """
        self._acquire()
        _HELD[self._storage.uri] = self
        stop = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(stop,), daemon=True, name="dxmc-lease")
        renewer.start()
        try:
            with self._interrupted_when_lost():
                yield
        finally:
            stop.set()
            renewer.join()
            del _HELD[self._storage.uri]
            self._release()

    def confirm(self) -> None:
        """See `confirm_lease`."""
        holder = _parse(self._read())
        if not holder or holder["owner"] != self.owner:
            raise self._loss()

    def _loss(self) -> DxmcError:
        return DxmcError(
            f"{self._storage.uri} was taken over by another run, because this one had not renewed its lock for "
            f"{LEASE_S:.0f} s; that run goes on from what is done"
        )

    def _release(self) -> None:
        try:
            if self._is_ours():
                self._storage.delete(LOCK_NAME)
        except storage_errors() as error:  # it is free anyway once this process is gone
            logger.warning("the lock of %s cannot be removed now: %s", self._storage.uri, error)

    @contextmanager
    def _interrupted_when_lost(self) -> Iterator[None]:
        """SIGINT raises in the block once the lease is lost, also where it is ignored: in the background of a shell."""
        before = signal.getsignal(signal.SIGINT)

        def interrupt(number: int, frame: FrameType | None) -> None:
            if self._is_lost:
                raise self._loss()
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _acquire(self) -> None:
        self._since = time.time()
        content = self._next_content()
        try:
            for _ in range(3):
                if self._storage.create_bytes(LOCK_NAME, content):
                    break
                found = self._read()
                holder = _parse(found)
                if found is None:  # it was released just now
                    continue
                if holder:
                    self._require_dead(holder, found)
                if self._storage.replace_bytes(LOCK_NAME, content, expected=found):
                    break
            else:
                raise InputError(f"{self._storage.uri} is being started by several runs at once; try again")
        except storage_errors() as error:
            raise write_error(f"{self._storage.uri}/{LOCK_NAME}", error) from error
        self._content = content

    def _require_dead(self, holder: dict, found: bytes) -> None:
        """Return once the holder of a lock is known to be dead, or has not renewed it for as long as a lease lasts.

        Raises:
            InputError: it is at work.
        """
        place = f"process {holder['pid']} on {holder['host']}"
        in_use = f"{self._storage.uri} is in use by another run ({place}); wait for it, or choose another --run-dir"
        match known_state(holder):
            case "dead":
                return
            case "alive":
                raise InputError(in_use)
        logger.info(
            "%s has the lock of a run (%s): watching whether that is renewed; if not, this run takes over in %.0f s",
            self._storage.uri, place, LEASE_S,
        )  # fmt: skip
        expires = time.monotonic() + LEASE_S
        while (left := expires - time.monotonic()) > 0:
            time.sleep(min(_WATCH_EVERY_S, left))
            now = self._read()
            if now is None:
                return
            if now != found:
                raise InputError(in_use)

    def _next_content(self) -> bytes:
        """The lock as it is written next: every renewal differs from the one before."""
        self._num_renewals += 1
        content = {
            "owner": self.owner,
            "host": socket.gethostname(),
            **identify(),
            "renewal": self._num_renewals,
            "since": self._since,
            "note": self._note(),
        }
        return json.dumps(content).encode()

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(RENEW_EVERY_S):
            content = self._next_content()
            try:
                with _told_when_silent(self._storage.uri):
                    is_renewed = self._storage.replace_bytes(LOCK_NAME, content, expected=self._content)
                    is_lost = not is_renewed and not self._is_ours()
                if is_renewed:
                    self._content = content
                elif is_lost:
                    self._is_lost = True
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    return
            except storage_errors(DxmcError) as error:
                logger.warning("the lock of %s cannot be renewed now: %s", self._storage.uri, error)

    def _is_ours(self) -> bool:
        """Whether the lock is this owner's; then it is remembered as it stands there."""
        found = self._read()
        holder = _parse(found)
        if found is None or not holder or holder["owner"] != self.owner:
            return False
        self._content = found
        return True

    def _read(self) -> bytes | None:
        try:
            return self._storage.read_bytes(LOCK_NAME)
        except FileNotFoundError:
            return None


@contextmanager
def _told_when_silent(uri: str) -> Iterator[None]:
    """Say what is waited for when a storage takes long to answer; it may take minutes until an attempt is given up."""
    has_answered, since = threading.Event(), time.monotonic()

    def watch() -> None:
        say_after_s = _SAY_AFTER_S
        while not has_answered.wait(say_after_s):
            logger.warning("%s has not answered for %.0f s; waiting for it", uri, time.monotonic() - since)
            say_after_s = _SAY_AGAIN_S

    thread = threading.Thread(target=watch, daemon=True, name="dxmc-lease-watch")
    thread.start()
    try:
        yield
    finally:
        has_answered.set()
        thread.join()


def _parse(content: bytes | None) -> dict | None:
    """What a lock says; None where there is none or it is damaged.

    Raises:
        InputError: another program wrote it.
    """
    try:
        found = json.loads(content) if content else None
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    if found is not None and not (isinstance(found, dict) and found.keys() >= _FIELDS):
        raise InputError(f"{LOCK_NAME} of another program is in the way; move it away, or choose another --run-dir")
    return found


def is_lock(content: bytes) -> bool:
    """Whether a file is a lock of dxmc."""
    try:
        return _parse(content) is not None
    except InputError:
        return False
