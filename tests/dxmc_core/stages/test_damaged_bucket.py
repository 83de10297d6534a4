"""A bucket with every kind of damage planted at known keys: each image ends once, where and why it must.

`benchmarks/damaged_bucket.py` does the same with 20,000 images and on Ray.
"""

import time
from collections import Counter

import damaged_bucket as damaged
import pytest

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.encoders import OfflineConfig
from dxmc_core.images.catalog import list_source, read_catalog
from dxmc_core.images.quarantine import forget_transient_rejects
from dxmc_core.images.renewal import renew_catalog
from dxmc_core.images.sources import ImagesSource
from dxmc_core.stages import embedding_workers
from dxmc_core.stages.embed_images import all_embedded
from dxmc_core.stages.embedded_rows import EmbeddedRows
from dxmc_core.stages.embedding_workers import EmbedImages

FINGERPRINT = "e" * 32
NUM_IMAGES = 400


@pytest.fixture
def bucket(s3_server, s3_bucket):
    return damaged.fill(s3_server, f"{s3_bucket.name}-damaged", NUM_IMAGES)


@pytest.fixture(autouse=True)
def encoder(monkeypatch, mean_color):
    monkeypatch.setattr(embedding_workers, "load_encoder", lambda *_, **__: mean_color)


def embed(stage, source, *, max_chunks=None):
    """Embed as the job does, in this process; stop after some chunks as if killed."""
    catalog = read_catalog(stage) or renew_catalog(stage, list_source(source), fingerprint=FINGERPRINT)
    forget_transient_rejects(stage, fingerprint=FINGERPRINT)
    done = EmbeddedRows.of(catalog, fingerprint=FINGERPRINT)
    num_resumed = done.num_done
    worker = EmbedImages(
        {"images": OfflineConfig(kind="offline")},
        source,
        catalog,
        fingerprint=FINGERPRINT,
        device="cpu",
        batch_size=16,
        num_threads=2,
    )
    for receipts in worker.stream(list(done.chunks(catalog.chunk_rows))[:max_chunks]):
        for receipt in receipts.to_pylist():
            assert done.add_receipt(receipt)
    if max_chunks is None:
        all_embedded(catalog, done, fingerprint=FINGERPRINT, num_resumed=num_resumed).publish(
            catalog.stage_dir, fingerprint=FINGERPRINT, inputs={}, started=time.perf_counter()
        )


def test_rejects_are_what_was_planted(bucket, tmp_path):
    assert len(damaged.DAMAGES) >= 15
    assert len(set(bucket.expected_rejects.values())) >= 8
    bucket.server.faults.share = 0.05
    run_dir = RunDir.at(str(tmp_path / "run"))
    embed(run_dir.stage("embed_images"), ImagesSource(uri=bucket.uri))
    assert {"slow_down", "reset", "cut"} <= set(bucket.server.faults.counts)
    assert damaged.differences(bucket, run_dir) == []
    metrics = run_dir.stage("embed_images").require_manifest().metrics
    assert metrics["reject_reasons"] == Counter(bucket.expected_rejects.values())


def test_the_same_in_a_run_directory_of_the_bucket_after_a_kill(bucket, s3_bucket):
    bucket.server.faults.share = 0.05
    run_dir = RunDir.at(f"{s3_bucket.uri}/run")
    stage, source = run_dir.stage("embed_images"), ImagesSource(uri=bucket.uri)
    embed(stage, source, max_chunks=5)
    embed(stage, source)
    assert stage.require_manifest().metrics["rows_resumed"] > 100
    assert damaged.differences(bucket, run_dir) == []


def test_objects_that_came_back_are_embedded_by_the_next_attempt(bucket, tmp_path):
    run_dir = RunDir.at(str(tmp_path / "run"))
    stage, source = run_dir.stage("embed_images"), ImagesSource(uri=bucket.uri)
    embed(stage, source, max_chunks=10)
    bucket.server.faults.always.clear()
    embed(stage, source)
    wrong = damaged.differences(bucket, run_dir)
    transient = [name for name, reason in bucket.expected_rejects.items() if reason in ("missing", "access_denied")]
    assert sorted(line.split(":")[0] for line in wrong) == sorted(transient)
    assert all("found an image" in line for line in wrong)
