"""`ray job submit --working-dir .` to a real head: what a person types from a checkout, and how it ends."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from dxmc_core.artifacts.generations import Generations
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import ASSIGNMENTS

pytestmark = pytest.mark.ray

_REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def submit(jobs_cluster, s3_bucket, tmp_path):
    """Submits a job that finds the bucket, follows its log, and returns what `ray job submit` did."""
    ray = shutil.which("ray", path=str(Path(sys.executable).parent))
    assert ray is not None
    runtime_env = {"env_vars": {**s3_bucket.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}}

    def run(*command):
        return subprocess.run(
            [ray, "job", "submit", "--working-dir", ".", "--runtime-env-json", json.dumps(runtime_env), "--", *command],
            cwd=_REPOSITORY,
            env=jobs_cluster,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def put_nightly(bucket, planted):
    """Put nouns and a configuration over images.npz into the bucket; the run directory that it names."""
    bucket.put("nouns.npz", (planted.folder / "nouns.npz").read_bytes())
    config = {
        "run_dir": f"{bucket.uri}/run",
        "source": {"kind": "embeddings", "uri": f"{bucket.uri}/images.npz"},
        "vocabulary": {"kind": "embeddings", "uri": f"{bucket.uri}/nouns.npz"},
        "num_clusters": planted.num_clusters,
        "method": {"name": "kmeans"},
    }
    bucket.put("nightly.yaml", yaml.safe_dump(config).encode())
    return RunDir.at(config["run_dir"])


def test_pipeline_runs_into_the_bucket_and_a_stage_that_fails_says_why(submit, planted, s3_bucket):
    run_dir = put_nightly(s3_bucket, planted)
    s3_bucket.put("images.npz", (planted.folder / "images.npz").read_bytes())
    done = submit("python", "-m", "ray_jobs.run_pipeline", "--config", f"{s3_bucket.uri}/nightly.yaml")
    assert done.returncode == 0, done.stdout
    assert "assign_clusters       done: 6 clusters" in done.stdout
    assert "succeeded" in done.stdout
    stage = run_dir.stage("assign_clusters")
    (part,) = stage.require_manifest().tables["assignments"]
    key = f"run/assign_clusters/{part.name}"
    body = s3_bucket.client.get_object(Bucket=s3_bucket.name, Key=key)["Body"].read()
    assert pq.read_table(io.BytesIO(body)).num_rows == 600

    failed = submit(
        "python", "-m", "ray_jobs.embed_images", "--config", f"{s3_bucket.uri}/nightly.yaml",
        "--run-dir", f"{s3_bucket.uri}/other", "--set", f"source.uri={s3_bucket.uri}/none.npz",
    )  # fmt: skip
    assert failed.returncode == 1
    # Ray repeats the end of the log after it has followed it.
    (error,) = {line for line in failed.stdout.splitlines() if line.startswith("error: ")}
    assert "none.npz does not exist" in error
    assert "failed with exit code 2" in failed.stdout


def test_two_nights_of_a_home_in_the_bucket(submit, planted, s3_bucket):
    def put_images(rows):
        with np.load(planted.folder / "images.npz") as file:
            embeddings = file["embeddings"][rows]
        written = io.BytesIO()
        np.savez(written, embeddings=embeddings, image_ids=np.array([f"image-{row:04}" for row in rows]))
        s3_bucket.put("images.npz", written.getvalue())

    home = put_nightly(s3_bucket, planted)
    nights = [np.arange(0, 580), np.arange(10, 600)]
    for rows in nights:
        put_images(rows)
        done = submit("python", "-m", "ray_jobs.recluster", "--config", f"{s3_bucket.uri}/nightly.yaml")
        assert done.returncode == 0, done.stdout

    generations = Generations(home)
    assert generations.pointer().current == 2
    assert generations.record(2).mode == "assign"
    first, second = (
        dict(zip(*(table.column(name).to_pylist() for name in ("image_id", "cluster_id")), strict=True))
        for table in (generations.run_dir(number).stage("assign_clusters").read_table(ASSIGNMENTS) for number in (1, 2))
    )
    assert [set(first), set(second)] == [{f"image-{row:04}" for row in rows} for rows in nights]
    assert all(second[image] == first[image] for image in first.keys() & second.keys())
    metrics = json.loads(s3_bucket.client.get_object(Bucket=s3_bucket.name, Key="run/metrics.json")["Body"].read())
    assert (metrics["generation"], metrics["images"], metrics["lineage"]["new_images"]) == (2, 590, 20)
