"""One writer a run directory: a living one is respected, a dead one is replaced."""

import json
import multiprocessing
import os
import signal
import time

import pytest
from botocore.exceptions import EndpointConnectionError

from dxmc_core.artifacts import lease
from dxmc_core.artifacts.lease import LOCK_NAME
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


def test_expired_lock_of_another_machine_is_taken_over(tmp_path):
    foreign = {"owner": "x", "host": "elsewhere", "pid": 1, "pid_started": 0.0, "expires_at": time.time() + 60}
    lock = tmp_path / LOCK_NAME
    lock.write_text(json.dumps(foreign))
    with pytest.raises(InputError, match="elsewhere"), RunDir.at(str(tmp_path)).locked():
        pass
    lock.write_text(json.dumps({**foreign, "expires_at": time.time() - 1}))
    with RunDir.at(str(tmp_path)).locked():
        assert json.loads(lock.read_text())["owner"] != "x"


def test_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), RunDir.at(str(tmp_path / "file")).locked():
        pass


FOREIGN = {"owner": "x", "host": "elsewhere", "pid": 1, "pid_started": 0.0}


@pytest.fixture(params=["local", "s3"])
def run_dir(request, tmp_path):
    if request.param == "local":
        return RunDir.at(str(tmp_path))
    return RunDir.at(f"{request.getfixturevalue('s3_bucket').uri}/run")


def read_lock(run_dir):
    return json.loads(run_dir.storage.read_bytes(LOCK_NAME))


@pytest.mark.parametrize("interrupt", [signal.default_int_handler, signal.SIG_IGN])
def test_an_owner_that_was_replaced_is_stopped(run_dir, monkeypatch, interrupt):
    before = signal.signal(signal.SIGINT, interrupt)
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.05)
    foreign = json.dumps({**FOREIGN, "expires_at": time.time() + 60}).encode()

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
    assert renewed["expires_at"] > first["expires_at"]
    assert [record.message.rsplit(": ", 1)[1] for record in caplog.records] == ["no space left", "broken pipe"]


def test_of_many_that_take_over_one_gets_it(run_dir):
    run_dir.storage.write_bytes(LOCK_NAME, json.dumps({**FOREIGN, "expires_at": time.time() - 1}).encode())
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
