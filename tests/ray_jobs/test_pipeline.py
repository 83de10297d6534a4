"""The whole pipeline as a user runs it: reruns, changes, kills, refusals."""

import json
import os
import signal
import time

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dxmc_core.artifacts.run_dir import STAGES, RunDir

pytestmark = pytest.mark.ray


def assignments(run_dir):
    return pq.read_table(f"{run_dir}/assign_clusters/assignments").sort_by("row_id")


def undisturbed(dxmc, planted):
    """A finished run that tests compare with and do not change; made by the first that asks."""
    run_dir = planted.folder / "undisturbed"
    if not (run_dir / "report/index.html").exists():
        dxmc("run", "--config", planted.config(run_dir))
    return run_dir


def ran(result):
    """The stages that a command really ran."""
    return [stage for stage in STAGES if f"{stage:<21} done" in result.stderr]


def test_run_finds_planted_clusters_and_names_them(dxmc, planted, tmp_path):
    config = planted.config(tmp_path / "run", train_heads={"log_to": "tensorboard"})
    result = dxmc("run", "--config", config)
    assert ran(result) == list(STAGES)
    assert len(list((tmp_path / "run/tensorboard").glob("*/events.*"))) == 1
    scores = json.loads(dxmc("evaluate", str(tmp_path / "run"), "--json").stdout)
    assert scores["images"] == scores["labelled_images"] == 600
    assert scores["external"]["acc"] > 0.95
    names = pq.read_table(tmp_path / "run/assign_clusters/clusters")["name"].to_pylist()
    assert {name.split()[0] for name in names} == {"apple", "bicycle", "castle", "dolphin", "engine", "forest"}
    page = (tmp_path / "run/report/index.html").read_text()
    assert all(name in page for name in names)
    listed = json.loads(dxmc("clusters", str(tmp_path / "run"), "--json").stdout)
    assert listed == pq.read_table(tmp_path / "run/report/cluster_summary").to_pylist()
    assert {row["name"] for row in listed} == set(names)
    assert sum(row["size"] for row in listed) == 600
    tree = pq.read_table(tmp_path / "run/assign_clusters/cluster_tree")["name"].to_pylist()
    assert tree[:6] == names
    assert all(name in page for name in tree[6:])
    status = json.loads(dxmc("status", str(tmp_path / "run"), "--json").stdout)
    assert [stage["state"] for stage in status["stages"]] == ["done"] * len(STAGES)
    printed = dxmc("status", str(tmp_path / "run")).stdout
    assert "0 rejects" in printed
    assert f"{planted.num_clusters} clusters" in printed


def test_rerun_does_nothing_and_changes_rebuild_only_what_depends_on_them(dxmc, planted, tmp_path):
    config = planted.config(tmp_path / "run")
    dxmc("run", "--config", config)
    before = assignments(tmp_path / "run")
    started = time.monotonic()
    again = dxmc("run", "--config", config)
    assert ran(again) == []
    assert "nothing to do" in again.stderr
    assert time.monotonic() - started < 60
    assert ran(dxmc("run", "--config", config, "--set", "resources.train_workers=2",
                    "--set", "train_heads.log_to=tensorboard")) == []  # fmt: skip
    changed = dxmc("run", "--config", config, "--set", "method.cluster_temperature=0.4")
    assert ran(changed) == ["train_heads", "assign_clusters", "write_report"]
    back = dxmc("run", "--config", config)
    assert ran(back) == ["train_heads", "assign_clusters", "write_report"]
    assert assignments(tmp_path / "run").equals(before)
    fewer = dxmc("run", "--config", config, "--set", "mine_neighbors.num_neighbors=20", "--set", "method.name=kmeans",
                 "--set", "method.num_epochs=null", "--set", "method.batch_size=null", code=2)  # fmt: skip
    assert "method kmeans has no setting" in fewer.stderr


@pytest.mark.parametrize(
    ("method", "workers"),
    [
        ({"name": "dxmc", "num_epochs": 12, "batch_size": 128, "learning_rate": 0.01}, 2),
        ({"name": "best", "num_epochs": 4}, [1, 2]),
    ],
    ids=["dxmc", "best, elastic"],
)
def test_two_training_workers_compute_the_losses_of_one(dxmc, planted, tmp_path, method, workers):
    """In every epoch, up to rounding, after which images that lie between clusters may go either way."""
    one, two = tmp_path / "one", tmp_path / "two"
    dxmc("run", "--config", planted.config(one, method=method))
    dxmc("run", "--config", planted.config(two, method=method, resources={"train_workers": workers}))
    epochs = [pd.read_json(run_dir / "train_heads/metrics.jsonl", lines=True) for run_dir in (one, two)]
    losses = [pd.DataFrame(history["terms"].tolist()) for history in epochs]
    assert len(losses[0]) > 1
    pd.testing.assert_frame_equal(*losses, rtol=1e-4, atol=1e-5)
    for run_dir in (one, two):
        scores = json.loads(dxmc("evaluate", str(run_dir), "--json").stdout)
        assert scores["external"]["acc"] > 0.95


@pytest.mark.parametrize(
    "method",
    [
        {"name": "kmeans"},
        {"name": "concat_kmeans"},
        {"name": "tac", "num_epochs": 12, "batch_size": 64},
    ],
    ids=lambda method: method["name"],
)
def test_other_methods_and_approximate_neighbors(dxmc, planted, tmp_path, method):
    config = planted.config(
        tmp_path / "run", method=method, mine_neighbors={"index": "ivf", "min_recall": 0.99, "search_index": "ivf"}
    )
    dxmc("run", "--config", config)
    neighbors = RunDir.at(str(tmp_path / "run")).stage("mine_neighbors").require_manifest()
    assert neighbors.metrics["recall"] >= 0.99
    assert neighbors.rows("neighbors") == 600
    index = neighbors.metrics["search_index"]["index.faiss"]
    assert (index["kind"], index["rows"]) == ("ivf", 600)
    assert index["recall_at_10"] >= 0.99
    scores = json.loads(dxmc("evaluate", str(tmp_path / "run"), "--json").stdout)
    assert scores["external"]["acc"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_killed_in_any_stage_a_rerun_gives_the_same_result(dxmc, planted, tmp_path, stage):
    config = planted.config(tmp_path / "killed")
    process = dxmc.start("run", "--config", config)
    for line in process.stderr:
        if line.split(maxsplit=1)[-1].startswith(f"{stage:<21} starts"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert RunDir.at(str(tmp_path / "killed")).stage(stage).manifest() is None
    result = dxmc("run", "--config", config)
    assert ran(result) == list(STAGES[STAGES.index(stage) :])
    assert assignments(tmp_path / "killed").equals(assignments(undisturbed(dxmc, planted)))


def test_second_run_into_the_same_place_is_refused(dxmc, planted, tmp_path):
    config = planted.config(tmp_path / "run")
    with RunDir.at(str(tmp_path / "run")).locked():
        assert "in use by another run" in dxmc("run", "--config", config, code=2).stderr


def test_run_directory_of_another_source_is_refused(dxmc, planted, tmp_path):
    config = planted.config(undisturbed(dxmc, planted))
    other = tmp_path / "other.npz"
    np.savez(other, embeddings=np.eye(40, 32, dtype=np.float32))
    message = dxmc("run", "--config", config, "--set", f"source.uri={other}", code=2).stderr
    assert "holds a run with source.uri" in message
    assert str(other) in message
