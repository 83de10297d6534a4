"""One writer a run directory: a living one is respected, a dead one is replaced."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from dxmc_core.artifacts.run_dir import LOCK_NAME, RunDir
from dxmc_core.errors import InputError


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
