"""Runs over several hosts end as on one machine, also when hosts leave and come; what cannot be is said at once."""

import random
import time

import pytest

from tests.cluster.hosts import wait_until

PIPELINE = ("python", "-m", "ray_jobs.run_pipeline", "--config")
DXMC, BEST = "s3://bucket/runs/dxmc-one", "s3://bucket/runs/best-one"


@pytest.fixture(scope="module")
def dxmc_on_one_machine(runs):
    """The cluster of each image as one machine finds it."""
    assert runs.on_one_machine(runs.config("dxmc-one")).code == 0
    return runs.account(DXMC)["clusters"]


@pytest.fixture(scope="module")
def best_on_one_machine(runs):
    assert runs.on_one_machine(runs.config("best-one", method={"name": "best"})).code == 0
    return runs.account(BEST)["clusters"]


def test_two_hosts_train_one_of_them_as_debian_names_itself(cluster, runs, dxmc_on_one_machine):
    config = runs.config("dxmc", resources={"train_workers": 2})
    job = cluster.submit(*PIPELINE, config)
    job.wait_line("train_heads           starts")
    training: set[str] = set()

    def look() -> bool:
        for host in cluster.network.hosts.values():
            if any(title.startswith("ray::RayTrainWorker") for title in host.titles()):
                training.add(host.name)
        return len(training) == 2 or job.process.poll() is not None

    wait_until(look, "two hosts that train", timeout=180)
    done = job.wait()
    assert done.code == 0, done.output
    assert training == {"node2", "node3"}, done.output
    assert runs.account("s3://bucket/runs/dxmc")["clusters"] == dxmc_on_one_machine


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"source": {"uri": "/tmp/photos"}}, "source.uri is local, and host node"),
        ({"run_dir": "/tmp/run"}, "run_dir is local, and host node"),
    ],
)
def test_paths_of_one_host_are_refused_with_its_name(cluster, runs, values, said):
    picture = "from PIL import Image; Image.new('RGB', (9, 9)).save('/tmp/photos/a.png')"
    cluster.network.hosts["head"].run("bash", "-c", f'mkdir -p /tmp/photos && python -c "{picture}"')
    done = cluster.submit(*PIPELINE, runs.config("local", **values)).wait()
    (error,) = {line for line in done.output.splitlines() if line.startswith("error: ")}  # Ray repeats the last lines
    assert error.startswith(f"error: {said}"), done.output
    assert "starts (fingerprint" not in done.output


@pytest.mark.torture
def test_a_run_survives_the_loss_of_a_host_in_each_stage(cluster, runs, best_on_one_machine):
    config = runs.config("lost", method={"name": "best"})
    job = cluster.submit(*PIPELINE, config)
    for number, (line, title) in enumerate(
        [
            ("embed_images          starts", "ray::MapWorker"),
            ("mine_neighbors        starts", "ray::_map_here"),
            ("train_heads           starts", "ray::_call_on_cores"),
        ]
    ):
        job.wait_line(line)
        cluster.host_at(title).crash()
        cluster.add_node(f"fresh{number}", cores=1)
    done = job.wait(400)
    assert done.code == 0, done.output
    assert runs.account("s3://bucket/runs/lost")["clusters"] == best_on_one_machine


#: A task for the largest host, which says where it is.
LARGEST = """
import os, sys, time
from dxmc_core.config import ResourcesConfig
from ray_jobs.cluster import run_on_host, start_ray
from ray_jobs.program import guarded

def work():
    import torch
    time.sleep(12 if torch.get_num_threads() == 3 else 1)
    return f"done on {os.uname().nodename} with {torch.get_num_threads()} cores"

def program():
    start_ray(ResourcesConfig())
    print(run_on_host(work, doing='work'), flush=True)

sys.exit(guarded(program))
"""


@pytest.mark.torture
def test_a_task_of_the_largest_host_goes_on_where_there_is_room_when_that_is_gone(cluster):
    largest = cluster.add_node("large", cores=3)
    job = cluster.submit("python", "-c", LARGEST)
    assert cluster.host_at("ray::_call_on_cores") is largest
    largest.crash()
    done = job.wait(120)
    assert done.code == 0, done.output
    assert "3 cores no longer fit on" in done.output
    assert "with 1 cores" in done.output


#: More workers than there is room for, and a task that waits while others have the cores.
WAITING = """
import sys, time
import ray
from dxmc_core.config import ResourcesConfig
from ray_jobs.cluster import run_on_host, start_ray
from ray_jobs.program import guarded

def program():
    start_ray(ResourcesConfig())
    others = [ray.remote(num_cpus=1)(lambda: time.sleep(600)).remote() for _ in range(4)]
    time.sleep(3)
    run_on_host(time.sleep, 0, doing='sleep')

sys.exit(guarded(program))
"""


@pytest.mark.torture
def test_a_wait_says_what_for_and_a_stop_is_told_in_our_words(cluster):
    job = cluster.submit("python", "-c", WAITING)
    job.wait_line("waiting since 3", timeout=90)
    assert "s for 1 core; the cluster has" in job.output
    name = next(word.strip("'") for word in job.output.split() if word.startswith("'raysubmit_"))
    cluster.outside.run("ray", "job", "stop", name)
    job.wait(60)
    lines = [line for line in job.output.splitlines() if line.strip()]
    assert any("stopped from outside; the same command goes on from here" in line for line in lines), job.output
    assert "Traceback" not in job.output


@pytest.mark.torture
def test_disturbances(cluster, runs, best_on_one_machine):
    """Hosts that crash, cables that are pulled for 1 to 40 s, an S3 server that stands still: nothing is lost."""
    chance = random.Random(0)
    left, number = 100, 0
    while left:
        config = runs.config(f"disturbed{number}", method={"name": "best"})
        job = cluster.submit(*PIPELINE, config)
        while job.process.poll() is None:
            time.sleep(chance.uniform(2, 15))
            if left and job.process.poll() is None:
                _disturb(cluster, chance, number=left)
                left -= 1
        # The driver may be lost with S3 away for long; the same command goes on.
        code = job.wait().code or cluster.submit(*PIPELINE, config).wait(600).code
        assert code == 0, job.output
        assert runs.account(f"s3://bucket/runs/disturbed{number}")["clusters"] == best_on_one_machine
        number += 1


def _disturb(cluster, chance, *, number):
    hosts = [host for name, host in cluster.network.hosts.items() if name not in ("head", "outside")]
    victim = chance.choice(hosts)
    if chance.random() < 0.4:
        victim.crash()
        cluster.add_node(f"host{number}", cores=1)
        return
    seconds = chance.uniform(1, 40)
    if chance.random() < 0.5:
        victim.link("down")
        time.sleep(seconds)
        victim.link("up")
    else:
        cluster.signal_s3("STOP")
        time.sleep(seconds)
        cluster.signal_s3("CONT")
