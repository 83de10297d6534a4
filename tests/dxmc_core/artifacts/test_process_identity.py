"""Whether a process is at work is said only of those that this one can know."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from dxmc_core.artifacts.process_identity import identify, known_state

MARK = """
import json, sys, time
from dxmc_core.artifacts.process_identity import identify
print(json.dumps(identify()), flush=True)
time.sleep(60)
"""


@pytest.fixture
def other():
    """Another process of this machine, and its mark as it comes back from a file."""
    process = subprocess.Popen([sys.executable, "-c", MARK], stdout=subprocess.PIPE, text=True)
    yield process, json.loads(process.stdout.readline())
    process.kill()
    process.wait()


def test_a_process_lives_stands_still_and_dies(other):
    process, mark = other
    assert mark["pid"] == process.pid
    assert known_state(mark) == "alive"
    os.kill(process.pid, signal.SIGSTOP)
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        pass
    assert known_state(mark) == "unknown"
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the list
    assert known_state(mark) == "dead"
    process.wait()
    assert known_state(mark) == "dead"


def test_a_number_that_was_given_again_is_another_process():
    mark = identify()
    mark["process"]["started"] -= 1
    assert known_state(mark) == "dead"


@pytest.mark.parametrize("changes", [{"boot": "another"}, {"pid_namespace": "pid:[1]"}])
def test_of_another_machine_or_container_nothing_is_known(changes):
    mark = identify()
    assert known_state(mark) == "alive"
    mark["process"].update(changes)
    assert known_state(mark) == "unknown"
    assert known_state({**mark, "pid": 2**22 + 1}) == "unknown"


@pytest.mark.parametrize("mark", [{"pid": 1}, {"pid": 1, "process": None}, {"pid": 1, "process": "x"}])
def test_a_mark_that_says_nothing(mark):
    assert known_state(mark) == "unknown"
