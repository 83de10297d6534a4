"""One writer a run directory: a living one is respected, a dead one is replaced."""

import itertools
import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from botocore.exceptions import EndpointConnectionError

from dxmc_core.artifacts import lease
from dxmc_core.artifacts.lease import LOCK_NAME
from dxmc_core.artifacts.process_identity import identify
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.errors import DxmcError, InputError


def hold(uri, acquired):
    with RunDir.at(uri).locked():
        acquired.set()
        time.sleep(60)


def test_second_run_is_refused_and_the_place_is_free_afterwards(tmp_path):
    run_dir = RunDir.at(str(tmp_path))
    with run_dir.locked(), pytest.raises(InputError, match="in use by another run"), run_dir.locked():
        pass
    with run_dir.locked():
        assert (tmp_path / LOCK_NAME).exists()
    assert not (tmp_path / LOCK_NAME).exists()


def test_lock_of_a_killed_process_is_taken_over_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    acquired = context.Event()
    process = context.Process(target=hold, args=(str(tmp_path), acquired))
    process.start()
    assert acquired.wait(30)
    with pytest.raises(InputError, match=str(process.pid)), RunDir.at(str(tmp_path)).locked():
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with RunDir.at(str(tmp_path)).locked():
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()


def test_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), RunDir.at(str(tmp_path / "file")).locked():
        pass


#: As a lock of another machine is, whatever its host is called, or one that an older version has written.
FOREIGN = {"owner": "x", "host": socket.gethostname(), "pid": os.getpid()}


@pytest.fixture(params=["local", "s3"])
def run_dir(request, tmp_path):
    if request.param == "local":
        return RunDir.at(str(tmp_path))
    return RunDir.at(f"{request.getfixturevalue('s3_bucket').uri}/run")


def read_lock(run_dir):
    return json.loads(run_dir.storage.read_bytes(LOCK_NAME))


@pytest.fixture
def short_leases(monkeypatch):
    monkeypatch.setattr(lease, "LEASE_S", 0.5)
    monkeypatch.setattr(lease, "_WATCH_EVERY_S", 0.05)


def elsewhere(**changes):
    """A lock of this process's number and start in another container, or on another boot."""
    mark = identify()
    return {**FOREIGN, **mark, "process": {**mark["process"], **changes}}


OTHER_PLACES = {
    "an older version": FOREIGN,
    "a container of this name": elsewhere(pid_namespace="pid:[1]"),
    "a machine of this name": elsewhere(boot="another"),
    "a clock that is ahead": {**FOREIGN, "expires_at": time.time() + 3600},
}


@pytest.mark.parametrize("lock", OTHER_PLACES.values(), ids=OTHER_PLACES)
def test_a_lock_that_is_not_renewed_is_taken_over(run_dir, short_leases, caplog, lock):
    caplog.set_level("INFO")
    run_dir.storage.write_bytes(LOCK_NAME, json.dumps(lock).encode())
    with run_dir.locked():
        assert read_lock(run_dir)["owner"] != "x"
    assert "watching whether that is renewed" in caplog.text


@contextmanager
def renewing(run_dir, lock):
    """An owner on another host, which renews its lock five times a second."""
    stop = threading.Event()

    def renew():
        for renewal in itertools.count(1):
            run_dir.storage.write_bytes(LOCK_NAME, json.dumps({**lock, "renewal": renewal}).encode())
            if stop.wait(0.2):
                return

    run_dir.storage.write_bytes(LOCK_NAME, json.dumps(lock).encode())
    owner = threading.Thread(target=renew)
    owner.start()
    try:
        yield
    finally:
        stop.set()
        owner.join()


@pytest.mark.parametrize("lock", [*OTHER_PLACES.values(), {**FOREIGN, "expires_at": time.time() - 3600}])
def test_a_lock_that_is_renewed_meanwhile_is_respected(run_dir, monkeypatch, lock):
    monkeypatch.setattr(lease, "_WATCH_EVERY_S", 0.05)
    with (
        renewing(run_dir, lock),
        pytest.raises(InputError, match="is in use by another run"),
        run_dir.locked(),
    ):
        pass
    assert read_lock(run_dir)["owner"] == "x"


def test_a_lock_that_is_released_meanwhile_is_free(run_dir, monkeypatch):
    monkeypatch.setattr(lease, "_WATCH_EVERY_S", 0.05)
    run_dir.storage.write_bytes(LOCK_NAME, json.dumps(FOREIGN).encode())
    owner = threading.Timer(0.3, run_dir.storage.delete, (LOCK_NAME,))
    owner.start()
    with run_dir.locked():
        assert read_lock(run_dir)["owner"] != "x"
    owner.join()


def test_the_clock_of_an_owner_does_not_matter(run_dir, monkeypatch):
    """A start that is ten minutes ahead, and one that is behind, of an owner on another host that renews its lock."""
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.2)
    monkeypatch.setattr(lease, "known_state", lambda holder: "unknown")
    now = time.time
    with run_dir.locked():
        for skew in (600, -600):
            monkeypatch.setattr(time, "time", lambda skew=skew: now() + skew)
            with pytest.raises(InputError, match="is in use by another run"), run_dir.locked():
                pass


@pytest.mark.parametrize("interrupt", [signal.default_int_handler, signal.SIG_IGN])
def test_an_owner_that_was_replaced_is_stopped(run_dir, monkeypatch, interrupt):
    before = signal.signal(signal.SIGINT, interrupt)
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.05)
    foreign = json.dumps(FOREIGN).encode()

    def work():
        with run_dir.locked():
            run_dir.storage.write_bytes(LOCK_NAME, foreign)
            time.sleep(30)

    try:
        with pytest.raises(DxmcError, match="taken over by another run"):
            work()
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGINT, before)
    assert run_dir.storage.read_bytes(LOCK_NAME) == foreign


def test_an_owner_that_cannot_write_for_a_while_keeps_its_lock(run_dir, monkeypatch, caplog):
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.05)
    write = Storage.replace_bytes
    failures = iter([InputError("no space left"), OSError("broken pipe")])

    def failing(self, *args, **kwargs):
        for error in failures:
            raise error
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Storage, "replace_bytes", failing)
    with run_dir.locked():
        first = read_lock(run_dir)
        deadline = time.monotonic() + 30
        while read_lock(run_dir) == first and time.monotonic() < deadline:
            time.sleep(0.05)
        renewed = read_lock(run_dir)
    assert renewed["owner"] == first["owner"]
    assert renewed["renewal"] > first["renewal"]
    assert [record.message.rsplit(": ", 1)[1] for record in caplog.records] == ["no space left", "broken pipe"]


def test_a_storage_that_does_not_answer_is_named_again_and_again(run_dir, monkeypatch, caplog):
    for name in ("RENEW_EVERY_S", "_SAY_AFTER_S", "_SAY_AGAIN_S"):
        monkeypatch.setattr(lease, name, 0.05)
    write, answers = Storage.replace_bytes, threading.Event()

    def still(self, *args, **kwargs):
        answers.wait()
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Storage, "replace_bytes", still)
    with run_dir.locked():
        deadline = time.monotonic() + 30
        while caplog.text.count(f"{run_dir.uri} has not answered for ") < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        answers.set()
    assert caplog.text.count(f"{run_dir.uri} has not answered for ") >= 2


def test_of_many_that_take_over_one_gets_it(run_dir):
    run_dir.storage.write_bytes(LOCK_NAME, json.dumps(FOREIGN).encode())
    stale = run_dir.storage.read_bytes(LOCK_NAME)
    results = [run_dir.storage.replace_bytes(LOCK_NAME, f"{n}".encode(), expected=stale) for n in range(3)]
    assert results == [True, False, False]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"null"])
def test_a_damaged_lock_is_replaced(run_dir, content):
    run_dir.storage.write_bytes(LOCK_NAME, content)
    with run_dir.locked():
        assert read_lock(run_dir)["pid"] == os.getpid()


def test_what_ended_a_run_is_not_hidden_by_a_lock_that_cannot_be_removed(run_dir, monkeypatch, caplog):
    def away(*_):
        raise EndpointConnectionError(endpoint_url="http://s3")

    def work():
        with run_dir.locked():
            monkeypatch.setattr(Storage, "read_bytes", away)
            raise DxmcError("the reason")

    with pytest.raises(DxmcError, match="the reason"):
        work()
    assert "cannot be removed now" in caplog.text
