"""What is asked of hosts always has room on those that are there."""

import logging
import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs import hosts
from ray_jobs.hosts import (
    Ask,
    Host,
    NoHostLeftError,
    Waiting,
    cores_of_each_worker,
    cores_of_whole_hosts,
    roomiest,
    told_while_waiting,
)


def host(cores, *, gpus=0, is_head=False, memory=0.0, name="node"):
    return Host(f"{name}-{cores}", name, "10.0.0.1", cores, gpus, memory, is_head)


@given(st.lists(st.integers(0, 200), max_size=12))
def test_whole_hosts_always_have_room_and_few_idle_cores(cores):
    size = cores_of_whole_hosts(cores)
    used = {other: sum(count // other * other for count in cores) for other in {*cores, 1} - {0}}
    assert size in used
    assert used[size] > 0 or not any(cores)
    assert 4 * used[size] >= 3 * sum(cores) or used[size] == max(used[other] for other in cores if other)


@pytest.mark.parametrize(
    ("cores", "size"),
    [([16], 16), ([8, 8], 8), ([8, 16], 8), ([1, 64], 64), ([1, 2], 1), ([0, 4, 4], 4), ([], 1), ([0], 1)],
)
def test_cores_of_whole_hosts(cores, size):
    assert cores_of_whole_hosts(cores) == size


@given(st.lists(st.integers(0, 64), max_size=6), st.integers(1, 20))
def test_workers_get_the_most_cores_that_all_of_them_can_have(cores, num_workers):
    size = cores_of_each_worker(cores, num_workers)
    found = [host(count) for count in cores]
    if size == 0:
        assert sum(cores) < num_workers
    else:
        assert Ask(size).room(found) >= num_workers > Ask(size + 1).room(found)


def test_the_roomiest_host_is_rather_not_the_head():
    head, small, large = host(4, is_head=True, memory=9e9), host(4, memory=1e9), host(4, memory=2e9, name="large")
    assert roomiest([head, small, large]) is large
    assert roomiest([head, host(2)]) is head
    assert roomiest([host(0)]) is None


def test_what_hosts_once_had_room_for_and_no_longer_have():
    assert Ask(4).is_hopeless([host(2), host(2)])
    assert Ask(2, count=2).is_hopeless([host(2)])
    assert not Ask(2, count=2).is_hopeless([host(2), host(2)])
    assert not Ask(0.5).is_hopeless([host(1)])
    # Nothing less would do either: a host with cores, or a GPU, has to come.
    assert not Ask(4).is_hopeless([host(0)])
    assert not Ask(1, gpus=1).is_hopeless([host(8)])
    assert Ask(0, gpus=1, count=2).is_hopeless([host(8, gpus=1)])


@pytest.fixture
def clock(monkeypatch):
    """A monotonic clock that is set, and a cluster of two hosts where nothing has room."""
    now = [1000.0]
    monkeypatch.setattr(hosts.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(hosts, "hosts", lambda: [host(2, name="head", is_head=True), host(2, name="node2")])
    monkeypatch.setattr(hosts, "_is_unplaced", lambda ask: True)
    monkeypatch.setattr(hosts.ray, "available_resources", lambda: {"CPU": 1.0})
    return now


def test_a_wait_is_told_after_30_s_and_every_minute(clock, caplog):
    caplog.set_level(logging.INFO)
    waiting = Waiting(Ask(2))
    told = []
    for second in range(200):
        clock[0] = 1000.0 + second
        waiting.look()
        told += [second] * len(caplog.records)
        caplog.clear()
    assert told == [30, 90, 150]


def test_what_is_said_of_a_wait(clock, caplog):
    waiting = Waiting(Ask(2, count=2))
    clock[0] += 30
    waiting.look()
    (said,) = caplog.messages
    assert said.startswith(
        "waiting since 30 s for 2 times 2 cores; the cluster has 2 hosts (head 2 cores, node2 2 cores)"
    )
    assert said.endswith(", free now: 1 core")


def test_when_no_host_with_the_cores_is_left_the_wait_ends(clock, monkeypatch):
    waiting = Waiting(Ask(2))
    monkeypatch.setattr(hosts, "hosts", lambda: [host(1, name="head")])
    clock[0] += 10
    with pytest.raises(NoHostLeftError, match=r"2 cores no longer fit on 1 host \(head 1 core\)"):
        waiting.look()


@pytest.mark.parametrize("first_asked", ["node2-2", None])
def test_until_a_task_has_begun_any_host_that_leaves_may_have_it(clock, monkeypatch, first_asked):
    there = [host(2, name="head", is_head=True), host(2, name="node2"), host(2, name="node3")]
    monkeypatch.setattr(hosts, "hosts", lambda: there)
    began = None
    waiting = Waiting(Ask(2, first_asked=first_asked), began_on=lambda: began)
    for _ in range(2):
        clock[0] += 10
        waiting.look()
        there.append(host(2, name="node4"))
    there.pop()
    there.remove(host(2, name="node3"))
    clock[0] += 10
    with pytest.raises(NoHostLeftError, match=r"may have been asked for 2 cores is gone; there are 3 hosts \(head"):
        waiting.look()
    began = "node2-2"
    clock[0] += 10
    waiting.look()
    there.remove(host(2, name="node2"))
    clock[0] += 10
    with pytest.raises(NoHostLeftError, match="is gone"):
        waiting.look()


def test_what_is_no_single_task_does_not_end_with_a_host(clock, monkeypatch):
    """Where it began is not known, so no host's leaving is its own: it has room, and the wait goes on."""
    there = [host(2, name="head"), host(2, name="node2")]
    monkeypatch.setattr(hosts, "hosts", lambda: list(there))
    pool, single = Waiting(Ask(2)), Waiting(Ask(2), began_on=lambda: "node2-2")
    for waiting in (pool, single):
        waiting.look()
    del there[1]
    clock[0] += 10
    pool.look()
    with pytest.raises(NoHostLeftError, match="is gone"):
        single.look()


def test_a_pool_that_has_no_room_any_more_is_told_and_goes_on_waiting(monkeypatch, caplog):
    monkeypatch.setattr(hosts, "hosts", lambda: [host(1)])
    monkeypatch.setattr(hosts, "_is_unplaced", lambda ask: True)
    monkeypatch.setattr(hosts, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(hosts, "Waiting", partial(Waiting, look_every_s=0))
    with told_while_waiting(Ask(2)):
        watcher = next(thread for thread in threading.enumerate() if thread.name == "dxmc-waiting")
        watcher.join(timeout=30)
        assert not watcher.is_alive()
    assert "2 cores no longer fit on 1 host (node 1 core); waiting for more" in caplog.text
