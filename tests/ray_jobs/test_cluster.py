"""What was asked of hosts that have left is asked anew of those that are there: no row is lost, none comes twice."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

#: A pool of workers of whole hosts; at first of hosts with 64 cores, which are not there any more.
POOL = """
import sys
from dataclasses import replace
from dxmc_core.config import ResourcesConfig
from ray_jobs.cluster import Step, map_rows, start_ray
from ray_jobs.program import guarded

class Mapper:
    def __call__(self, rows):
        return rows

asked = []

def placed(step):
    asked.append(step.num_workers)
    return replace(step, num_cpus=64 if len(asked) == 1 else 1, num_workers=2)

def program():
    start_ray(ResourcesConfig())
    Step.placed = placed
    rows = [{"row": row} for row in range(6)]
    found = sorted(row["row"] for row in map_rows(rows, Step(Mapper, num_workers=2, on_whole_hosts=True)))
    assert found == list(range(6)), found
    assert len(asked) == 2, asked

sys.exit(guarded(program))
"""

#: Training by two workers; at first on hosts with 64 cores, as above.
TRAINING = """
import sys
from dataclasses import replace
from ray_jobs import train_heads
from ray_jobs.cli import main

real, layouts = train_heads.choose_training, []

def choose(*args, **options):
    layouts.append(real(*args, **options))
    return replace(layouts[-1], cores=64) if len(layouts) == 1 else layouts[-1]

train_heads.choose_training = choose
try:
    main(["run", "--config", sys.argv[1]])
finally:
    assert len(layouts) == 2, layouts
"""


def run(script, environment, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_a_pool_of_hosts_that_have_left(ray_cluster):
    done = run(POOL, ray_cluster)
    assert done.returncode == 0, done.stderr
    assert "64 cores no longer fit on 1 host" in done.stderr
    assert "asking anew for the 6 pieces of work that are left" in done.stderr


def test_training_on_hosts_that_have_left(dxmc, planted, tmp_path):
    config = planted.config(tmp_path / "run", resources={"train_workers": 2})
    done = run(TRAINING, dxmc.environment, config)
    assert done.returncode == 0, done.stderr
    assert "2 times 64 cores no longer fit on 1 host" in done.stderr
    assert "training goes on with what is left" in done.stderr
    assert (tmp_path / "run/train_heads/heads.safetensors").exists()
