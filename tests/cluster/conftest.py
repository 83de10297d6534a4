"""One cluster of three hosts for this folder, small pictures in a bucket, and what a run has made of them."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.hosts import REPOSITORY, Done, Network, RayCluster, why_not

NUM_IMAGES = 96

#: Runs outside: plain pictures, a fifth of them with a stripe, and nouns.
_FILL = """
import io, boto3, numpy as np
from PIL import Image
s3 = boto3.client("s3")
s3.create_bucket(Bucket="bucket")
colors = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220), "yellow": (230, 220, 50)}
for number in range(NUM_IMAGES):
    name, color = list(colors.items())[number % 4]
    pixels = np.full((48, 48, 3), color, dtype=np.int64) + np.random.default_rng(number).integers(-20, 20, (48, 48, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "png")
    s3.put_object(Bucket="bucket", Key=f"photos/{name}/{number:03}.png", Body=file.getvalue())
words = "sky grass sea fire sun sand stone wood metal paper cloth glass rose leaf lemon tomato".split()
s3.put_object(Bucket="bucket", Key="nouns.txt", Body="\\n".join(words).encode())
""".replace("NUM_IMAGES", str(NUM_IMAGES))

#: Runs outside: each row of the catalog once in images or rejects, and the cluster of each image.
_ACCOUNT = """
import json, sys
from collections import Counter
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, IMAGES, REJECTS
run = RunDir.at(sys.argv[1])
stage, rows = run.stage("embed_images"), []
for table in (IMAGES, REJECTS):
    if stage.require_manifest().tables.get(table.name):
        rows += stage.read_table(table)["image_id"].to_pylist()
table = run.read_table(ASSIGNMENTS)
print(json.dumps({
    "rows": len(rows), "doubled": sum(count > 1 for count in Counter(rows).values()),
    "images": stage.require_manifest().rows("images"),
    "clusters": dict(zip(table["image_id"].to_pylist(), table["cluster_id"].to_pylist())),
}))
"""


def pytest_collection_modifyitems(config, items) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.cluster)
    if os.environ.get("TORTURE") != "long":
        too_long = [item for item in here if item.get_closest_marker("torture")]
        items[:] = [item for item in items if item not in too_long]
        config.hook.pytest_deselected(items=too_long)


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Iterator[RayCluster]:
    """A network with one host outside of the cluster, which has the code and an S3 server."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    place = RayCluster.start(tmp_path_factory.mktemp("hosts"))
    try:
        place.outside.run("python", "-c", _FILL)
        yield place
    finally:
        place.network.stop()


@pytest.fixture(scope="session")
def network(place) -> Network:
    return place.network


@dataclass(frozen=True)
class Runs:
    """Runs over the pictures, by configurations in the bucket."""

    cluster: RayCluster

    def config(self, name: str, **values: object) -> str:
        """Put a configuration into the bucket; its URI."""
        whole = {
            "run_dir": f"s3://bucket/runs/{name}",
            "source": {"uri": "s3://bucket/photos/"},
            "encoder": {"kind": "offline"},
            "vocabulary": {"kind": "file", "uri": "s3://bucket/nouns.txt"},
            "num_clusters": 4,
            "method": {"name": "dxmc", "num_epochs": 8, "batch_size": 32},
            **values,
        }
        put = "import boto3, sys; boto3.client('s3').put_object(Bucket='bucket', Key=sys.argv[1], Body=sys.argv[2])"
        self.cluster.outside.run("python", "-c", put, f"{name}.yaml", json.dumps(whole))  # JSON is YAML
        return f"s3://bucket/{name}.yaml"

    def on_one_machine(self, config: str, *arguments: str) -> Done:
        """The same without a cluster: outside."""
        return self.cluster.outside.run(
            "python", "-m", "ray_jobs.cli", "run", "--config", config, *arguments,
            environment={"PYTHONPATH": str(REPOSITORY), "RAY_ADDRESS": ""}, timeout=600,
        )  # fmt: skip

    def account(self, run_dir: str) -> dict:
        """What is in a finished run; every image has to be there, once."""
        done = self.cluster.outside.run("python", "-c", _ACCOUNT, run_dir, environment={"PYTHONPATH": str(REPOSITORY)})
        found = json.loads(done.output.splitlines()[-1])
        assert (found["rows"], found["doubled"], found["images"]) == (NUM_IMAGES, 0, NUM_IMAGES)
        assert len(found["clusters"]) == NUM_IMAGES
        return found


@pytest.fixture(scope="session")
def cluster(place) -> RayCluster:
    """A head without cores, and two hosts; one of them has Debian's /etc/hosts."""
    place.add_node("head", cores=0)
    place.add_node("node2", cores=1, is_debian=True, waits=False)
    place.add_node("node3", cores=1)
    place.wait_started()
    return place


@pytest.fixture(scope="session")
def runs(cluster) -> Runs:
    return Runs(cluster)
