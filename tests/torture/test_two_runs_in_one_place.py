"""A run that stood still while another took its place over: it publishes nothing and removes nothing.

Readers meanwhile: they see a stage as a whole, before or after.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pytest

from dxmc_core.artifacts import lease
from dxmc_core.artifacts.lease import LOCK_NAME
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.errors import ArtifactError

#: Holds the place and never renews that, as a machine does that stands still.
OWNER = """
import sys
from dxmc_core.artifacts import lease
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.errors import DxmcError

lease.RENEW_EVERY_S = 3600.0
run_dir = RunDir.at(sys.argv[1])
stage = run_dir.stage("train_heads")
try:
    with run_dir.locked():
        part = stage.write_file("first", b"first")
        print("holds", flush=True)
        sys.stdin.readline()
        stage.publish(fingerprint="1" * 32, inputs={}, tables={}, files={"first": part}, seconds=1.0)
        print("published", flush=True)
except DxmcError as error:
    print(error, flush=True)
"""


@pytest.fixture(params=["local", "s3"])
def run_dir(request, tmp_path):
    if request.param == "local":
        return RunDir.at(str(tmp_path))
    return RunDir.at(f"{request.getfixturevalue('s3_bucket').uri}/run")


@pytest.fixture
def owner(run_dir):
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, run_dir.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def short_leases(monkeypatch):
    monkeypatch.setattr(lease, "LEASE_S", 0.5)
    monkeypatch.setattr(lease, "_WATCH_EVERY_S", 0.1)


def test_an_owner_that_was_taken_over_cannot_publish(run_dir, owner, short_leases):
    os.kill(owner.pid, signal.SIGSTOP)
    os.waitpid(owner.pid, os.WUNTRACED)
    stage = run_dir.stage("train_heads")
    with run_dir.locked():
        part = stage.write_file("second", b"second")
        os.kill(owner.pid, signal.SIGCONT)
        said, _ = owner.communicate("\n", timeout=60)
        assert "was taken over by another run" in said
        assert "published" not in said
        assert stage.manifest() is None
        stage.publish(fingerprint="2" * 32, inputs={}, tables={}, files={"second": part}, seconds=1.0)
        assert json.loads(run_dir.storage.read_bytes(LOCK_NAME))["pid"] == os.getpid()
    assert stage.read_file("second") == b"second"


def test_an_owner_that_nobody_took_over_publishes(run_dir, owner):
    said, _ = owner.communicate("\n", timeout=60)
    assert said == "published\n"
    assert run_dir.stage("train_heads").read_file("first") == b"first"


def test_readers_see_the_stage_before_or_after(run_dir, amount):
    """A stage is rebuilt again and again; a reader that was overtaken hears so and finds the new one."""
    stage = run_dir.stage("embed_images")
    failures: list[str] = []
    versions: set[int] = set()
    stop = threading.Event()

    def read() -> None:
        reader = StageDir(stage.storage, stage.stage)
        while not stop.is_set():
            manifest = reader.manifest()
            if manifest is None:
                continue
            version = manifest.metrics["version"]
            try:
                rows = [reader.read_part(part)["row_id"].to_pylist() for part in manifest.tables["images"]]
            except ArtifactError as error:
                if reader.manifest() == manifest:
                    failures.append(f"version {version}: {error}")
                continue
            versions.add(version)
            if rows != [[version, part] for part in range(len(rows))] or len(rows) != 1 + version % 3:
                failures.append(f"version {version}: {rows}")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for version in range(amount(20, 300)):
            fingerprint = f"{version:032x}"
            parts = [
                stage.write_part("images", pa.table({"row_id": [version, part]}), fingerprint=fingerprint)
                for part in range(1 + version % 3)
            ]
            metrics = {"version": version}
            stage.publish(fingerprint=fingerprint, inputs={}, tables={"images": parts}, metrics=metrics, seconds=1.0)
            time.sleep(0.01)
    finally:
        stop.set()
        reader.join()
    assert failures == []
    assert len(versions) > 2
