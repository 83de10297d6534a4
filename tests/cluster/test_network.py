"""The hosts themselves: nothing of them stays."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster.hosts import REPOSITORY, wait_until, why_not

#: Makes a host with a process that has left its session, and says by which namespaces they are known.
MAKE = """
import sys, time
from pathlib import Path
from tests.cluster.hosts import Network

network = Network.start(Path(sys.argv[1]))
host = network.add("host")
host.start("setsid", "sleep", "600", log=Path(sys.argv[1]) / "sleep.log")
while not any(title.startswith("sleep 600") for title in host.titles()):
    time.sleep(0.1)
print(Path(f"/proc/{host.pid}/ns/pid").readlink(), Path(f"/proc/{network.bridge.pid}/ns/net").readlink(), flush=True)
time.sleep(600)
"""


def processes_in(namespaces: set[str]) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if namespaces & {str((process / "ns" / kind).readlink()) for kind in ("pid", "net")}:
                found.append(process.name)
    return found


def test_nothing_stays_of_hosts_whose_maker_is_killed(tmp_path):
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    argv = [sys.executable, "-c", MAKE, str(tmp_path)]
    with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        namespaces = set(maker.stdout.readline().split())
        assert len(namespaces) == 2
        assert len(processes_in(namespaces)) >= 3
        maker.kill()
    wait_until(lambda: not processes_in(namespaces), "the end of the hosts")
