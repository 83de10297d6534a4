"""embed_images on Ray: both layouts write the same, and killing any of its processes loses nothing."""

import os
import subprocess
import sys
import time
from pathlib import Path

import kill_embedding
import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from s3_server import serve_s3

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import IMAGES, REJECTS, images_of
from dxmc_core.encoders import TimmConfig, load_encoder

pytestmark = pytest.mark.ray
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NUM_PHOTOS = 240


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Small pictures that differ, two of them damaged."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for index in range(NUM_PHOTOS):
        pixels = generator.integers(0, 255, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 36), Image.Resampling.BICUBIC).save(folder / f"{index:03}.png")
    (folder / "007.png").write_bytes(b"")
    (folder / "200.png").write_bytes(b"this is no image")
    return folder


def embed(cluster, photos, run_dir, *, further=(), **resources):
    """Run the job on the session's cluster; the tables it published."""
    config = run_dir.with_suffix(".yaml")
    values = {
        "run_dir": str(run_dir),
        "source": {"uri": str(photos)},
        "encoders": [{"kind": "offline"}, *further],
        "resources": resources,
    }
    config.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "ray_jobs.embed_images", "--config", str(config)]
    done = subprocess.run(command, env=cluster, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    stage = RunDir.at(str(run_dir)).stage("embed_images")
    return stage.read_table(IMAGES), stage.read_table(REJECTS)


def test_images_decoded_in_other_processes_give_the_same_tables(ray_cluster, photos, tmp_path):
    alone = embed(ray_cluster, photos, tmp_path / "alone")
    apart = embed(ray_cluster, photos, tmp_path / "apart", decode_workers=1, embed_workers=1)
    assert alone[0].num_rows == NUM_PHOTOS - 2
    assert dict(zip(alone[1]["image_id"].to_pylist(), alone[1]["reason"].to_pylist(), strict=True)) == {
        "007.png": "empty",
        "200.png": "not_an_image",
    }
    assert apart[1].equals(alone[1])
    assert apart[0].drop_columns("embedding").equals(alone[0].drop_columns("embedding"))
    assert apart[0].equals(alone[0])


def test_an_encoder_that_is_added_embeds_alone(ray_cluster, photos, tmp_path):
    """In the layout for GPUs, whose processes hand several crops of a picture on."""
    before = embed(ray_cluster, photos, tmp_path / "run", decode_workers=1, embed_workers=1)
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "tiny.pt")
    tiny = {"kind": "timm", "model": "test_vit", "pretrained": str(tmp_path / "tiny.pt"), "name": "tiny"}
    after = embed(ray_cluster, photos, tmp_path / "run", further=[tiny], decode_workers=1, embed_workers=1)
    assert after[0].equals(before[0])
    assert after[1].equals(before[1])
    stage = RunDir.at(str(tmp_path / "run")).stage("embed_images")
    added = stage.read_table(images_of("tiny"))
    assert added["image_id"].equals(after[0]["image_id"])
    assert stage.require_manifest().metrics["changes"]["taken_over"] == NUM_PHOTOS - 2
    encoder = load_encoder(TimmConfig(**tiny), device="cpu")
    picture = encoder.preprocess(Image.open(photos / added["image_id"][5].as_py()))
    np.testing.assert_allclose(added["embedding"][5].as_py(), encoder.encode_images(picture[None])[0], atol=2e-3)


@pytest.mark.slow
def test_killed_at_random_the_table_is_that_of_a_run_left_alone(photos, tmp_path, monkeypatch):
    """On S3, which has no rename; benchmarks/kill_embedding.py does the same at length."""
    with serve_s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        client = server.client()
        client.create_bucket(Bucket="bucket")
        for path in photos.iterdir():
            client.put_object(Bucket="bucket", Key=f"photos/{path.name}", Body=path.read_bytes())
        settings = {"source": {"uri": "s3://bucket/photos"}, "encoder": {"kind": "offline"}}
        killed, calm = (kill_embedding.Attempts(f"s3://bucket/{name}", settings) for name in ("killed", "calm"))
        for victim in ("map_worker", "driver", "raylet"):
            kill_embedding.kill_at_random(killed, 1, seed=0, longest_wait_s=3.0, victims=(victim,))
        killed.finish() if not killed.is_done() else None
        calm.finish()
        report = kill_embedding.compare(killed.stage, calm.stage)
    assert report["rows"] == NUM_PHOTOS
    assert report["each_row_once"]
    assert report["same_images"]
    assert report["same_rejects"]


def test_what_was_out_of_reach_is_tried_once_more(photos, s3_bucket, tmp_path):
    """One image comes back when the rest is done, one does not; both are rejects of the first round."""
    keys = [f"photos/{index:03}.png" for index in range(40)]
    for key in keys:
        s3_bucket.put(key, (photos / Path(key).name).read_bytes())
    for key in keys[11:13]:
        s3_bucket.faults.always[key] = "reset"
    values = {
        "run_dir": f"{s3_bucket.uri}/run",
        "source": {"uri": f"{s3_bucket.uri}/photos", "timeout_s": 2.0},
        "encoder": {"kind": "offline"},
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(values))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    rejects = RunDir.at(f"{s3_bucket.uri}/run").stage("embed_images").storage
    with subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.embed_images", "--config", str(config)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None and keys[11] in s3_bucket.faults.always:
            if len(rejects.list_files("rejects")) == 1:
                del s3_bucket.faults.always[keys[11]]
            time.sleep(0.05)
        assert process.stderr is not None
        log = process.stderr.read()
    assert process.returncode == 0, log
    assert "among them what was out of reach, are tried once more" in log
    found = RunDir.at(f"{s3_bucket.uri}/run").stage("embed_images").read_table(REJECTS).to_pylist()
    assert {row["image_id"] for row in found} == {"007.png", "012.png"}
    assert {row["reason"] for row in found} in ({"empty", "timeout"}, {"empty", "unreachable"})


DYING = """
import os, sys
from functools import partial
import pyarrow as pa
from dxmc_core.config import ResourcesConfig
from dxmc_core.errors import DxmcError
from ray_jobs.cluster import Step, map_rows, start_ray

class Dying:
    def __init__(self, marker, at, always):
        self.marker, self.at, self.always = marker, at, always

    def __call__(self, rows):
        [row] = rows["row"].to_pylist()
        if row == self.at and (self.always or not os.path.exists(self.marker)):
            open(self.marker, "w").close()
            os.kill(os.getpid(), 9)
        return pa.table({"row": [row, -row]})

marker, num_workers, always = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "always"
start_ray(ResourcesConfig())
step = Step(partial(Dying, marker=marker, at=3, always=always), num_workers, num_cpus=1)
try:
    outcome = sorted(row["row"] for row in map_rows([{"row": row} for row in range(1, 7)], step))
except DxmcError as error:
    outcome = error
open(marker + ".outcome", "w").write(str(outcome))  # Ray prints what it has to say about the dead
"""


@pytest.mark.parametrize(("num_workers", "how_often"), [(1, "once"), (2, "once"), (2, "always")])
def test_worker_that_dies_is_replaced_but_not_for_ever(ray_cluster, tmp_path, num_workers, how_often):
    marker = tmp_path / "marker"
    command = [sys.executable, "-c", DYING, str(marker), str(num_workers), how_often]
    done = subprocess.run(command, env=ray_cluster, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    outcome = marker.with_suffix(".outcome").read_text()
    if how_often == "once":
        assert outcome == str([*range(-6, 0), *range(1, 7)])
    else:
        assert "a worker died, and no other could do its work" in outcome
