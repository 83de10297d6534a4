"""Training as a stage: it resumes, survives damaged checkpoints, and saves heads that load without pickle."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dxmc_core.artifacts.best_start import START_NAME
from dxmc_core.artifacts.heads import HEADS_NAME, deserialize_heads, serialize_heads
from dxmc_core.artifacts.host_arrays import HostArrays
from dxmc_core.artifacts.matrices import embedding_column, load_matrix, matrix_of
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.artifacts.tables import IMAGES, NEAR_DUPLICATES
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.method.best import best_start
from dxmc_core.method.best.best_start import labels_of
from dxmc_core.method.clusters.metrics import clustering_accuracy
from dxmc_core.method.fit import assign
from dxmc_core.method.heads import DualHeads
from dxmc_core.method.hyperparameters import METHODS
from dxmc_core.stages.settings.train_heads import MethodConfig, check_num_clusters, fingerprint, stages_read
from dxmc_core.stages.train_heads import (
    TrainingJob,
    find_best_start,
    live_metrics,
    load_checkpoint,
    load_training_data,
    read_start,
    train_heads,
)

WORKER = Path(__file__).with_name("gloo_train_worker.py")
REPOSITORY = Path(__file__).parents[3]


def job_of(run, method="dxmc", fingerprint="d" * 32, **settings):
    names = ("embed_images", "build_semantic_space", "mine_neighbors", "train_heads")
    images, space, neighbors, output = (run.run_dir.stage(name) for name in names)
    return TrainingJob(
        method=MethodConfig(name=method, **settings),
        num_clusters=4,
        seed=0,
        images=images,
        semantic_space=space,
        neighbors=neighbors,
        output=output,
        fingerprint=fingerprint,
        checkpoint_every_s=0,
    )


def losses_of(job):
    """The loss terms of every epoch."""
    return [json.loads(line)["terms"] for line in job.output.storage.read_bytes("metrics.jsonl").splitlines()]


def saved_heads(job):
    return deserialize_heads(job.output.storage.read_bytes(HEADS_NAME))


@pytest.mark.parametrize(
    ("method", "settings", "floor"),
    [("kmeans", {}, 0.95), ("concat_kmeans", {}, 0.95), ("dxmc", {"num_epochs": 30, "batch_size": 64}, 0.7)],
)
def test_planted_groups_are_found_by_the_saved_heads(planted_run, method, settings, floor):
    job = job_of(planted_run, method, **settings)
    train_heads(job)
    data = load_training_data(job, HostArrays())
    probs = assign(saved_heads(job), data.image_embeddings, data.text_counterparts)
    assert clustering_accuracy(planted_run.labels, probs.argmax(dim=1).numpy()) > floor


class Killed(Exception):
    pass


def test_interrupted_training_ends_with_the_same_weights(planted_run):
    whole = job_of(planted_run, num_epochs=6, batch_size=64)
    train_heads(whole)
    expected = saved_heads(whole).state_dict()

    job = job_of(planted_run, num_epochs=6, batch_size=64, fingerprint="e" * 32)

    def stop_in_epoch_3(report):
        if report.epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        train_heads(job, on_epoch=stop_in_epoch_3)
    assert [epoch["epoch"] for epoch in live_metrics(job)] == [1, 2, 3]
    seen = []
    train_heads(job, on_epoch=lambda report: seen.append(report.epoch))
    assert seen == [4, 5, 6]
    assert len(job.output.storage.read_bytes("metrics.jsonl").splitlines()) == 6
    for name, tensor in saved_heads(job).state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_heads_of_an_earlier_run_are_started_from(planted_run, tmp_path):
    job = job_of(planted_run, num_epochs=30, batch_size=64)
    train_heads(job)
    files = {HEADS_NAME: job.output.describe_file(HEADS_NAME)}
    job.output.publish(fingerprint="d" * 32, inputs={}, tables={}, files=files, seconds=1.0)
    other = StageDir(Storage(str(tmp_path / "other/train_heads")), "train_heads")
    images = load_matrix(job.images, "images").values

    def labels(job):
        return assign(saved_heads(job), torch.from_numpy(images)).argmax(dim=1).numpy()

    expected = labels(job)
    next_job = replace(job_of(planted_run, num_epochs=1, batch_size=64), output=other)
    train_heads(replace(next_job, warm_start=job.output))
    assert (labels(next_job) == expected).mean() > 0.95
    train_heads(replace(next_job, fingerprint="e" * 32))
    assert (labels(next_job) == expected).mean() < 0.95


def train_in_two_processes(job, folder, *, dying_in_epoch=0, num_unseen=0):
    """Train as two workers of one host; the second may be killed in an epoch, or miss checkpoints. Their exit codes."""
    folder.mkdir()
    (folder / "job.pickle").write_bytes(pickle.dumps(job))
    command = [sys.executable, str(WORKER), str(folder / "job.pickle")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(folder / "store"), str(dying_in_epoch * rank), str(num_unseen * rank)],
            env=environment,
        )
        for rank in range(2)
    ]
    return [worker.wait(timeout=300) for worker in workers]


@pytest.mark.slow
def test_killed_worker_changes_nothing(planted_run, tmp_path):
    whole = job_of(planted_run, num_epochs=6, batch_size=64)
    assert train_in_two_processes(whole, tmp_path / "whole") == [0, 0]
    expected, losses_of_two = saved_heads(whole).state_dict(), losses_of(whole)

    job = job_of(planted_run, num_epochs=6, batch_size=64, fingerprint="e" * 32)
    first, second = train_in_two_processes(job, tmp_path / "killed", dying_in_epoch=3)
    assert first != 0
    assert second == -signal.SIGKILL
    assert len(load_checkpoint(job)["history"]) == 2
    # A worker that does not see the newest checkpoint takes the one that the first has chosen.
    assert train_in_two_processes(job, tmp_path / "again", num_unseen=1) == [0, 0]
    for name, tensor in saved_heads(job).state_dict().items():
        assert torch.equal(tensor, expected[name]), name

    alone = job_of(planted_run, num_epochs=6, batch_size=64, fingerprint="a" * 32)
    train_heads(alone)
    # Up to rounding, after which images that lie between clusters may go either way.
    for of_one, of_two in zip(losses_of(alone), losses_of_two, strict=True):
        assert of_two == pytest.approx(of_one, rel=1e-4)


def test_damaged_checkpoint_is_passed_over_for_the_one_before(planted_run):
    job = job_of(planted_run, num_epochs=4, batch_size=64)
    train_heads(job)
    names = sorted(name for name in job.output.storage.list_files("checkpoints") if name.endswith(".pt"))
    assert len(names) == 2
    data = job.output.storage.read_bytes(names[-1])
    job.output.storage.write_bytes(names[-1], data[: len(data) // 2])
    assert len(load_checkpoint(job)["history"]) == 3


def test_heads_that_are_no_heads_are_named():
    data = serialize_heads(DualHeads(8, 3, projection_width=0, seed=0))
    assert deserialize_heads(data).num_clusters == 3
    for damaged in (b"", data[:20], data[:-5], b"\0" * 64):
        with pytest.raises(ArtifactError, match=r"delete _manifest.json beside it to rebuild train_heads"):
            deserialize_heads(damaged)


def test_fingerprint_knows_defaults_and_inputs():
    def of(method, num_images=1000, **inputs):
        return fingerprint(method, num_clusters=5, num_images=num_images, seed=0, inputs=inputs)

    default = of(MethodConfig(name="dxmc"))
    assert of(MethodConfig(name="dxmc", cluster_temperature=0.5)) == default
    assert of(MethodConfig(name="dxmc", cluster_temperature=None)) == default
    assert of(MethodConfig(name="dxmc", cluster_temperature=0.4)) != default
    assert of(MethodConfig(name="dxmc"), embed_images="x") != default


def test_methods_read_only_what_they_need():
    assert stages_read(MethodConfig(name="kmeans")) == ("embed_images",)
    assert stages_read(MethodConfig(name="concat_kmeans")) == ("embed_images", "build_semantic_space")
    assert stages_read(MethodConfig(name="dxmc")) == ("embed_images", "build_semantic_space", "mine_neighbors")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_known_by_its_name_alone(method):
    assert MethodConfig(name=method).settings == {}


def test_neighbors_become_positions(planted_run):
    data = load_training_data(job_of(planted_run), HostArrays())
    rows = load_matrix(planted_run.run_dir.stage("mine_neighbors"), "neighbors", "image_neighbors")
    np.testing.assert_array_equal(data.image_neighbors.numpy(), rows.values)


def test_near_duplicates_count_once_in_training_and_all_are_assigned(planted_run):
    job = replace(job_of(planted_run, num_epochs=30, batch_size=64), count_near_duplicates_once=True)
    duplicates = planted_run.run_dir.read_table(NEAR_DUPLICATES).to_pandas()
    num_left = 240 - len(duplicates) + duplicates["group_id"].nunique()
    assert 4 < num_left < 240
    data = load_training_data(job, HostArrays())
    everything = load_training_data(job_of(planted_run), HostArrays())
    assert data.num_images == len(data.text_counterparts) == len(data.text_neighbors) == num_left
    dropped = duplicates.query("row_id != group_id")["row_id"].to_numpy()
    kept = np.delete(np.arange(240), dropped)
    torch.testing.assert_close(data.image_embeddings, everything.image_embeddings[kept], rtol=0, atol=0)
    assert (planted_run.labels[kept][data.image_neighbors] == planted_run.labels[kept][:, None]).all()
    train_heads(job)
    probs = assign(saved_heads(job), everything.image_embeddings, everything.text_counterparts)
    assert clustering_accuracy(planted_run.labels, probs.argmax(dim=1).numpy()) > 0.7


def test_near_duplicates_that_count_once_make_another_fingerprint_and_are_read():
    method = MethodConfig(name="kmeans")
    common = {"num_clusters": 5, "num_images": 100, "seed": 0, "inputs": {}}
    once = fingerprint(method, count_near_duplicates_once=True, **common)
    assert once != fingerprint(method, count_near_duplicates_once=False, **common) == fingerprint(method, **common)
    assert stages_read(method, count_near_duplicates_once=True) == ("embed_images", "mine_neighbors")


def test_too_few_images_that_are_no_duplicates(planted_run):
    job = replace(job_of(planted_run), count_near_duplicates_once=True, num_clusters=240)
    with pytest.raises(InputError, match="images are no near duplicates of others; set num_clusters to"):
        load_training_data(job, HostArrays())


def test_more_clusters_than_images():
    with pytest.raises(InputError, match="only 5 images could be embedded; set num_clusters to 5 or less"):
        check_num_clusters(6, 5)


@pytest.mark.parametrize("method", METHODS)
def test_images_of_few_kinds_get_a_cluster_each(planted_run, method):
    """There is nothing to train, and what trains on differences between images finds none."""
    job = job_of(planted_run, method)
    images = job.images.read_table(IMAGES)
    copies = matrix_of(images["embedding"])[[0, 5, 10]][np.arange(240) % 3]
    table = images.set_column(2, images.schema.field("embedding"), embedding_column(copies))
    part = job.images.write_part("images", table, fingerprint="c" * 32)
    job.images.publish(fingerprint="c" * 32, inputs={}, tables={"images": [part]}, seconds=1.0)
    train_heads(job)
    heads = saved_heads(job)
    labels = assign(heads, torch.from_numpy(copies)).argmax(dim=1)
    assert heads.num_clusters == 3
    assert labels.tolist() == [0, 1, 2] * 80


def test_images_that_are_all_alike_are_one_cluster(planted_run):
    job = job_of(planted_run)
    images = job.images.read_table(IMAGES)
    copies = matrix_of(images["embedding"])[np.zeros(240, dtype=int)]
    table = images.set_column(2, images.schema.field("embedding"), embedding_column(copies))
    part = job.images.write_part("images", table, fingerprint="c" * 32)
    job.images.publish(fingerprint="c" * 32, inputs={}, tables={"images": [part]}, seconds=1.0)
    train_heads(job)
    assert saved_heads(job).num_clusters == 2
    assert set(assign(saved_heads(job), torch.from_numpy(copies)).argmax(dim=1).tolist()) == {0}


def start_name(job):
    """Where the start of this fingerprint lies while the stage is under way."""
    return f"checkpoints/{job.fingerprint[:12]}/{START_NAME}"


def test_the_start_of_best_finds_planted_groups_and_its_heads_assign_as_it_does(planted_run):
    job = job_of(planted_run, "best")
    assert read_start(job) is None
    find_best_start(job)
    start = read_start(job)
    assert start.is_done
    assert clustering_accuracy(planted_run.labels, start.discriminant.labels) > 0.95
    train_heads(job)
    images = load_training_data(job, HostArrays()).image_embeddings
    labels = assign(saved_heads(job), images).argmax(dim=1).numpy()
    assert (labels == labels_of(start.discriminant, images.numpy())).mean() > 0.99
    assert live_metrics(job) == []


def find_and_be_killed(job, monkeypatch, *, after_look):
    """Work the start out, and die after a look was written; looks made."""
    looks, tell = [], best_start._tell

    def tell_and_die(on_look, start):
        tell(on_look, start)
        looks.append(start.num_looks)
        if start.num_looks == after_look:
            raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(best_start, "_tell", tell_and_die)
        find_best_start(job)
    return looks


def test_a_start_that_is_killed_after_a_look_goes_on_from_it(planted_run, monkeypatch):
    monkeypatch.setattr(best_start, "_SETTLED", 2.0)  # no look settles, so all four are made
    whole = job_of(planted_run, "best")
    find_best_start(whole)
    expected = whole.output.storage.read_bytes(start_name(whole))
    for after_look in (1, 3):
        job = job_of(planted_run, "best", fingerprint=f"{after_look}" * 32)
        assert find_and_be_killed(job, monkeypatch, after_look=after_look) == list(range(1, after_look + 1))
        assert read_start(job).num_looks == after_look
        assert find_and_be_killed(job, monkeypatch, after_look=None) == list(range(after_look + 1, 5))
        assert job.output.storage.read_bytes(start_name(job)) == expected


def test_a_start_that_is_done_is_left_alone(planted_run):
    job = job_of(planted_run, "best")
    find_best_start(job)
    expected = job.output.storage.read_bytes(start_name(job))
    # Nothing is read again: without its inputs it would fail.
    find_best_start(replace(job, images=StageDir(Storage(job.output.storage.uri + "/nowhere"), "embed_images")))
    assert job.output.storage.read_bytes(start_name(job)) == expected


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\0" * 99])
def test_a_damaged_start_begins_anew(planted_run, caplog, damage):
    job = job_of(planted_run, "best")
    find_best_start(job)
    expected = job.output.storage.read_bytes(start_name(job))
    job.output.storage.write_bytes(start_name(job), damage(expected))
    assert read_start(job) is None
    assert "starting anew" in caplog.text
    find_best_start(job)
    assert job.output.storage.read_bytes(start_name(job)) == expected


def test_a_start_of_another_fingerprint_is_not_taken(planted_run):
    find_best_start(job_of(planted_run, "best"))
    assert read_start(job_of(planted_run, "best", fingerprint="e" * 32)) is None


def test_copies_need_no_start(planted_run):
    job = replace(job_of(planted_run, "best"), num_clusters=240)
    find_best_start(job)
    assert read_start(job) is None
    train_heads(job)
    assert saved_heads(job).num_clusters == 240


def test_best_reads_neighbors_only_where_it_trains():
    text = ("embed_images", "build_semantic_space")
    assert stages_read(MethodConfig(name="best")) == text
    assert stages_read(MethodConfig(name="best", use_text=False)) == ("embed_images",)
    assert stages_read(MethodConfig(name="best", num_epochs=10)) == (*text, "mine_neighbors")
