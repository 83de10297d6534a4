"""One writer per run directory, whatever hosts are called and their clocks say. No Ray takes part."""

import signal
import subprocess

import pytest

from tests.cluster.hosts import REPOSITORY, Host, wait_until

#: Holds s3://bucket/locks/NAME for so many seconds, or until it loses it; the clock is SKEW seconds wrong.
HOLD = """
import logging, sys, time
name, seconds, skew = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
real = time.time
time.time = lambda: real() + skew
from dxmc_core.artifacts import lease
from dxmc_core.artifacts.run_dir import RunDir
from ray_jobs.program import guarded

lease.LEASE_S, lease.RENEW_EVERY_S, lease._WATCH_EVERY_S = 8.0, 1.0, 0.2

def hold():
    run_dir = RunDir.at(f"s3://bucket/locks/{name}")
    with run_dir.locked():
        print("held", flush=True)
        time.sleep(seconds)
        run_dir.stage("train_heads").publish(fingerprint="f" * 32, inputs={}, tables={}, seconds=1.0)
    print("published", flush=True)

sys.exit(guarded(hold))
"""


@pytest.fixture(scope="module")
def twins(network):
    """Two hosts of one name."""
    return [network.add(name, shows=[REPOSITORY], hostname="twin") for name in ("twin1", "twin2")]


class Holder:
    """A process that holds a lock, or tries to."""

    def __init__(self, host: Host, name: str, *, seconds: float, skew: float = 0) -> None:
        self._log = host.network.folder / f"{name}-{host.name}-{skew}.log"
        self._process = host.start(
            "python", "-c", HOLD, name, str(seconds), str(skew),
            log=self._log, environment={"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_held(self) -> None:
        wait_until(lambda: "held" in self.output or self._process.poll() is not None, "the lock")
        assert "held" in self.output, self.output

    def wait(self) -> int:
        try:
            return self._process.wait(90)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"it hangs\n{self.output}") from error


def test_a_living_owner_is_respected_by_a_host_of_its_name_and_by_wrong_clocks(twins):
    one, two = twins
    owner = Holder(one, "alive", seconds=25)
    owner.wait_held()
    others = [Holder(two, "alive", seconds=0, skew=skew) for skew in (0, 600, -600)]
    assert [other.wait() for other in others] == [2, 2, 2], [other.output for other in others]
    for other in others:
        assert "is in use by another run (process " in other.output
    assert owner.wait() == 0
    assert "published" in owner.output


def test_an_owner_whose_clock_is_behind_is_respected(twins):
    one, two = twins
    owner = Holder(one, "behind", seconds=20, skew=-600)
    owner.wait_held()
    other = Holder(two, "behind", seconds=0)
    assert other.wait() == 2, other.output
    assert owner.wait() == 0, owner.output


def test_the_lock_of_a_dead_host_is_free_after_a_lease(network, twins):
    dead = network.add("dead", shows=[REPOSITORY])
    owner = Holder(dead, "dead", seconds=600, skew=600)
    owner.wait_held()
    dead.crash()
    other = Holder(twins[0], "dead", seconds=0)
    assert other.wait() == 0, other.output
    assert "watching whether that is renewed; if not, this run takes over in 8 s" in other.output
    assert "published" in other.output


def test_an_owner_that_is_cut_off_for_longer_than_a_lease_does_not_publish(twins):
    one, two = twins
    owner = Holder(one, "cut", seconds=60)
    owner.wait_held()
    one.link("down")
    other = Holder(two, "cut", seconds=0)
    try:
        other.wait_held()
    finally:
        one.link("up")
    assert other.wait() == 0, other.output
    assert owner.wait() == 1, owner.output
    assert "was taken over by another run, because this one had not renewed its lock for 8 s" in owner.output
    assert "published" not in owner.output


def test_a_killed_owner_on_the_same_host_is_replaced_at_once(twins):
    host = twins[0]
    owner = Holder(host, "killed", seconds=600)
    owner.wait_held()
    found = host.run("pgrep", "--full", "locks/.*name.*seconds").output.split()
    host.run("bash", "-c", f"kill -{signal.SIGKILL.value} {' '.join(found)}", check=False)
    owner.wait()
    other = Holder(host, "killed", seconds=0, skew=600)
    assert other.wait() == 0, other.output
    assert "watching" not in other.output
