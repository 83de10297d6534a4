"""Sources on Ray: tars, a source that changes between runs, and a run that is stopped for its rejects."""

import io
import subprocess
import sys
import tarfile

import pytest
import yaml
from PIL import Image

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import IMAGES

pytestmark = pytest.mark.ray


def encoded(number: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (40, 30), (number % 256, 7 * number % 256, 90)).save(sink, "PNG")
    return sink.getvalue()


def embed(cluster, run_dir, source, *, code=0):
    """Run the job on the session's cluster; what it said, and its manifest."""
    config = run_dir.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({"run_dir": str(run_dir), "source": source, "encoder": {"kind": "offline"}}))
    command = [sys.executable, "-m", "ray_jobs.embed_images", "--config", str(config)]
    done = subprocess.run(command, env=cluster, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr
    stage = RunDir.at(str(run_dir)).stage("embed_images")
    return done.stderr, stage.manifest()


def test_only_what_changed_in_a_folder_of_tars_is_embedded_again(ray_cluster, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()

    def write_tar(name, numbers):
        with tarfile.open(folder / name, "w") as archive:
            for number in numbers:
                data = encoded(number) if number != 33 else b""
                info = tarfile.TarInfo(f"{number:04}.png")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

    source = {"kind": "webdataset", "uri": f"{folder}/*.tar"}
    write_tar("b.tar", range(20, 60))
    _, first = embed(ray_cluster, tmp_path / "run", source)
    assert first.metrics["images"] == 39
    assert first.metrics["reject_reasons"] == {"empty": 1}
    write_tar("a.tar", range(20))
    log, second = embed(ray_cluster, tmp_path / "run", source)
    assert second.metrics["changes"] == {"new": 20, "changed": 0, "deleted": 0, "unchanged": 40, "taken_over": 39}
    assert second.metrics["rows_resumed"] == 39
    assert "20 images are new" in log
    images = RunDir.at(str(tmp_path / "run")).stage("embed_images").read_table(IMAGES)
    assert images["image_id"].to_pylist() == [f"{number:04}" for number in range(60) if number != 33]


def test_run_that_goes_wrong_is_stopped_and_goes_on_when_it_may(ray_cluster, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:03}.png").write_bytes(encoded(number) if number % 3 == 0 else b"<html>")
    source = {"uri": str(folder)}
    log, manifest = embed(ray_cluster, tmp_path / "run", source, code=2)
    assert manifest is None
    error = [line for line in log.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert "source.max_reject_fraction is 0.5" in error[0]
    assert "not_an_image, e.g. 0" in error[0]
    # Once more, with what the first attempts have rejected and nothing mended: the same end, however often.
    for _ in range(2):
        log, manifest = embed(ray_cluster, tmp_path / "run", source, code=2)
        assert manifest is None
        assert "of 60 images are rejected, " in log.splitlines()[-1]
        assert "source.max_reject_fraction is 0.5" in log.splitlines()[-1]
    _, manifest = embed(ray_cluster, tmp_path / "run", {**source, "max_reject_fraction": 0.7})
    assert manifest.metrics["rejects"] == 40
    log, _ = embed(ray_cluster, tmp_path / "run", source, code=2)  # a limit that is lowered later counts too
    assert "40 of 60 images are rejected, 0 were tried by this run" in log.splitlines()[-1]
    _, manifest = embed(ray_cluster, tmp_path / "run", {**source, "max_reject_fraction": 0.7})
    assert manifest.metrics["rejects"] == 40
