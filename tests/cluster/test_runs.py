"""Runs over several hosts end as on one machine, also when hosts leave and come; what cannot be is said at once."""

import logging
import random
import time
from functools import partial

import pytest

from tests.cluster.hosts import wait_until

logger = logging.getLogger(__name__)

PIPELINE = ("python", "-m", "ray_jobs.run_pipeline", "--config")
#: With epochs, which it has none of by default, so that several hosts train together.
BEST = {"name": "best", "num_epochs": 8, "batch_size": 32}


@pytest.fixture(scope="module")
def dxmc_on_one_machine(runs):
    """The cluster of each image as one machine finds it."""
    assert runs.on_one_machine(runs.config("dxmc-one")).code == 0
    return runs.account("s3://bucket/runs/dxmc-one")["clusters"]


@pytest.fixture(scope="module")
def best_on_one_machine(runs):
    assert runs.on_one_machine(runs.config("best-one", method=BEST)).code == 0
    return runs.account("s3://bucket/runs/best-one")["clusters"]


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
    cluster.settle(1, 1)
    job = cluster.submit(*PIPELINE, runs.config("lost", method=BEST))
    for stage, titles in [
        ("embed_images", ("ray::MapWorker",)),
        ("mine_neighbors", ("ray::_map_here", "ray::_call_on_cores")),
        ("train_heads", ("ray::_call_on_cores",)),
    ]:
        job.wait_line(f"{stage:<21} starts")
        cluster.host_at(*titles).crash()
        assert f"{stage:<21} done" not in job.output, "the host was lost too late"
        cluster.add_fresh(waits=False)
    done = job.wait(400)
    assert done.code == 0, done.output
    assert runs.account("s3://bucket/runs/lost")["clusters"] == best_on_one_machine


@pytest.mark.torture
def test_cables_that_are_pulled_while_two_hosts_train(cluster, runs, dxmc_on_one_machine):
    """For five seconds each while images are embedded and while heads are trained, then for good."""
    cluster.settle(1, 1)
    config = runs.config("cables", resources={"train_workers": 2}, train_heads={"checkpoint_every_s": 0})
    job = cluster.submit(*PIPELINE, config)
    job.wait_line("embed_images          starts")
    cluster.host_at("ray::MapWorker").unplugged_for(5)
    job.wait_line("train_heads           starts")
    training = cluster.host_at("ray::RayTrainWorker")
    training.unplugged_for(5)
    if training.is_in_cluster():
        training.link("down")
    cluster.add_fresh()
    done = job.wait(500)
    assert done.code == 0, done.output
    assert runs.account("s3://bucket/runs/cables")["clusters"] == dxmc_on_one_machine


@pytest.mark.torture
@pytest.mark.parametrize("seconds", [5, 40])
def test_a_run_gets_over_a_store_that_stands_still(cluster, runs, best_on_one_machine, seconds):
    """In every stage, as the run goes on."""
    cluster.settle(1, 1)
    job = cluster.submit(*PIPELINE, runs.config(f"still{seconds}", method=BEST))
    for stage in ("embed_images", "build_semantic_space", "mine_neighbors", "train_heads", "assign_clusters"):
        job.wait_line(f"{stage:<21} starts")
        cluster.store_stands_still_for(seconds)
    done = job.wait(400)
    assert done.code == 0, done.output
    assert runs.account(f"s3://bucket/runs/still{seconds}")["clusters"] == best_on_one_machine


@pytest.mark.torture
@pytest.mark.parametrize("name", ["dxmc", "best"])
def test_hosts_of_one_two_and_three_cores_train_together(cluster, runs, request, name):
    expected = request.getfixturevalue(f"{name}_on_one_machine")
    cluster.settle(1, 2, 3)
    method = {"method": BEST} if name == "best" else {}
    job = cluster.submit(*PIPELINE, runs.config(f"unequal-{name}", resources={"train_workers": 2}, **method))
    done = job.wait(500)
    assert done.code == 0, done.output
    assert runs.account(f"s3://bucket/runs/unequal-{name}")["clusters"] == expected


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
    cluster.settle(1, 1)
    largest = cluster.add_fresh(cores=3)
    job = cluster.submit("python", "-c", LARGEST)
    assert cluster.host_at("ray::_call_on_cores") is largest
    largest.crash()
    done = job.wait(120)
    assert done.code == 0, done.output
    assert "3 cores no longer fit on" in done.output
    assert "with 1 cores" in done.output


#: A light pass over as many images as are worth all hosts.
LIGHT = """
import os, sys, time
import pyarrow as pa
from dxmc_core.config import ResourcesConfig
from ray_jobs.cluster import light_step, map_rows, start_ray
from ray_jobs.program import guarded

class Where:
    def __call__(self, rows):
        time.sleep(2)
        return pa.table({"host": [os.uname().nodename]})

def program():
    start_ray(ResourcesConfig())
    rows = [{"number": number} for number in range(16)]
    print("at work:", *sorted({row["host"] for row in map_rows(rows, light_step(Where, 200_000))}), flush=True)

sys.exit(guarded(program))
"""


@pytest.mark.torture
def test_light_work_on_many_images_uses_all_hosts_but_a_head_without_cores(cluster):
    cluster.settle(1, 2)
    done = cluster.submit("python", "-c", LIGHT).wait()
    assert done.code == 0, done.output
    at_work = next(line for line in done.output.splitlines() if line.startswith("at work:"))
    assert at_work.split()[2:] == sorted(host.name for host in cluster.workers())


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
    cluster.settle(1, 1)
    job = cluster.submit("python", "-c", WAITING)
    job.wait_line("waiting since 3", timeout=90)
    assert "s for 1 core; the cluster has" in job.output
    cluster.stop(job)
    job.wait(60)
    lines = [line for line in job.output.splitlines() if line.strip()]
    assert any("stopped from outside; the same command goes on from here" in line for line in lines), job.output
    assert "Traceback" not in job.output


NUM_DISTURBANCES = 5


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(20))
def test_disturbances(cluster, runs, best_on_one_machine, seed):
    """Runs one after the other, each under disturbances, until there were enough: nothing is lost."""
    cluster.settle(1, 1)
    chance, left, number = random.Random(seed), NUM_DISTURBANCES, 0
    while left:
        name = f"disturbed{seed}-{number}"
        config = runs.config(name, method=BEST, resources={"train_workers": [1, 2]})
        job = cluster.submit(*PIPELINE, config)
        job.wait_line("embed_images          starts")
        while left and job.process.poll() is None:
            _disturb(cluster, chance)
            left -= 1
            time.sleep(chance.uniform(1, 25))
        refill = partial(cluster.refill, 2)
        code = job.wait(600, refill).code
        if code:  # object storage was away for too long; the same command goes on
            assert "\nerror: " in job.output, job.output
            logger.info("again: %s", job.output[job.output.rindex("\nerror: ") :].splitlines()[1])
            code = cluster.submit(*PIPELINE, config).wait(600, refill).code
        assert code == 0, job.output
        logger.info("%s, longest standstill: %.0f s (%s)", name, *job.longest_standstill())
        assert runs.account(f"s3://bucket/runs/{name}")["clusters"] == best_on_one_machine
        number += 1


def _disturb(cluster, chance):
    cluster.refill(2)
    victim, seconds = chance.choice(cluster.workers()), chance.uniform(1, 40)
    kind = chance.choice(["crash", "cable", "cut off", "store", "unreachable", "clock"])
    logger.info("%s of %s, %.0f s", kind, victim.name, seconds)
    match kind:
        case "crash":
            victim.crash()
        case "cable":
            victim.unplugged_for(seconds)
        case "cut off":
            victim.link("down")
        case "store":
            cluster.store_stands_still_for(seconds)
        case "unreachable":
            victim.without_route_for(seconds, cluster.outside)
        case "clock":
            victim.crash()
            cluster.add_fresh(clock_off_s=chance.choice([-600, 600]), waits=False)
