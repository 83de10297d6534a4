"""What a newcomer gets wrong: one clear line and exit code 2, never a traceback."""

import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder.kind=offline", "source.kind=images", "source.uri=/nowhere/at/all"], "does not exist"),
        (["encoder.kind=offline", "source.kind=images", "source.uri={empty}"], "no images in"),
        (["num_clusters=601"], "only 600 images could be embedded"),
        (["num_clustres=5"], "did you mean 'num_clusters'?"),
        (["method.name=magic"], "unknown method 'magic'"),
        (["run_dir=/proc/nowhere"], "/proc/nowhere"),
        (["vocabulary.uri={empty}/none.npz"], "none.npz"),
        (["source.uri={nouns}"], ""),
    ],
)
def test_one_line_and_exit_code_2(dxmc, planted, tmp_path, overrides, message):
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = [text.format(empty=empty, nouns=empty) for text in overrides]
    config = planted.config(tmp_path / "run")
    result = dxmc("run", "--config", config, *(f"--set={argument}" for argument in arguments), code=2)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_missing_configuration(dxmc, tmp_path):
    assert "cannot use the configuration" in dxmc("run", "--config", str(tmp_path / "none.yaml"), code=2).stderr


def test_place_that_is_no_run(dxmc, tmp_path):
    assert "is not a run directory" in dxmc("status", str(tmp_path), code=2).stderr


def test_vocabulary_of_another_width(dxmc, planted, tmp_path):
    other = tmp_path / "nouns.npz"
    np.savez(other, nouns=np.array(["a", "b"]), embeddings=np.ones((2, 7), dtype=np.float32))
    config = planted.config(tmp_path / "run", vocabulary={"kind": "embeddings", "uri": str(other)})
    assert "width 7" in dxmc("run", "--config", config, code=2).stderr


DEFECTS = """
import sys
from functools import partial
import pyarrow as pa
from dxmc_core.config import ResourcesConfig
from ray_jobs.cluster import Step, map_rows, run_on_host, start_ray
from ray_jobs.program import guarded

class Mapper:
    def __init__(self, is_made=True):
        if not is_made:
            raise LookupError("no such model")
    def __call__(self, rows):
        if rows["row"][0].as_py() == 3:
            raise KeyError("row 3")
        return rows

def program():
    start_ray(ResourcesConfig())
    rows = [{"row": row} for row in range(6)]
    if sys.argv[1] == "node":
        return run_on_host(int, "no number", doing="counting")
    if sys.argv[1] == "constructor":
        return list(map_rows(rows, Step(partial(Mapper, is_made=False), 1)))
    return list(map_rows(rows, Step(Mapper, 1 if sys.argv[1] == "task" else 2)))

sys.exit(guarded(program))
"""


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("node", "error: ValueError: invalid literal for int() with base 10: 'no number'"),
        ("task", "error: KeyError: 'row 3'"),
        ("pool", "error: KeyError: 'row 3'"),
        ("constructor", "error: LookupError: no such model"),
    ],
)
def test_a_defect_in_a_worker_is_told_as_what_it_is(ray_cluster, where, line):
    done = subprocess.run(
        [sys.executable, "-c", DEFECTS, where],
        env=ray_cluster,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == line
    assert "Traceback" in done.stderr
    assert "RayTaskError" not in done.stderr + done.stdout


def test_copies_of_few_images_get_a_cluster_each(dxmc, planted, tmp_path):
    rows = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)[np.arange(40) % 3]
    np.save(tmp_path / "images.npy", rows)
    source = {"kind": "embeddings", "uri": str(tmp_path / "images.npy")}
    config = planted.config(tmp_path / "run", source=source, method={"name": "best"})
    done = dxmc("run", "--config", config)
    said = "num_clusters is 6, but the 40 images have fewer distinct embeddings; there will be 3 clusters at most"
    assert done.stderr.count(said) == 1
    assert "40 images in 3 clusters" in done.stdout
    assert "up to date" in dxmc("run", "--config", config).stderr.splitlines()[-1]
    assert (tmp_path / "run/report/index.html").exists()
