"""The pipeline as a function, over embeddings without a vocabulary that bring the addresses of their pictures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
#: The block of the page that runs the pipeline over images.npz into runs/dino.
CODE = re.search(r"<!-- with Ray -->\n```python\n(.*?)```", (ROOT / "docs" / "PYTHON.md").read_text(), re.DOTALL)[1]
SEEN = """
from dxmc_core.artifacts.tables import CLUSTERS
from dxmc_core.errors import InputError
from dxmc_core.evaluation.scores import evaluate_run
from dxmc_core.search import open_run

assert assignments["cluster_id"].nunique() == 6 and len(assignments) == 600
clusters = run_dir.read_table(CLUSTERS).to_pandas()
assert sorted(clusters["name"]) == [f"cluster {number}" for number in range(6)]
assert run_dir.stage("build_semantic_space").manifest() is None
assert evaluate_run(run_dir, with_names=True)["external"]["acc"] > 0.9
assert len(open_run(run_dir).query("17").images) == 10
try:
    open_run(run_dir).query("apple")
except InputError as error:
    print(error)
"""


def test_the_pipeline_is_a_function_and_needs_no_vocabulary(planted, ray_cluster, tmp_path):
    (tmp_path / "photos").mkdir()
    for row in range(600):
        Image.new("RGB", (32, 24), (row % 256, 80, 120)).save(tmp_path / f"photos/{row}.png")
    with np.load(planted.folder / "images.npz") as arrays:
        uris = np.array([f"photos/{row}.png" for row in range(600)])
        np.savez(tmp_path / "images.npz", embeddings=arrays["embeddings"], labels=arrays["labels"], uris=uris)

    def python(*arguments: str) -> subprocess.CompletedProcess:
        path = os.pathsep.join(filter(None, [str(ROOT), ray_cluster.get("PYTHONPATH")]))
        environment = {**ray_cluster, "PYTHONPATH": path}
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    done = python("-c", CODE + SEEN)
    assert done.returncode == 0, done.stderr
    assert "'apple' cannot be searched for: this run has neither nouns nor an encoder" in done.stdout
    page = (tmp_path / "runs/dino/report/index.html").read_text()
    assert "cluster 0" in page
    assert "data:image/webp" in page
    done = python("-m", "dxmc", "status", "runs/dino")
    assert done.returncode == 0, done.stderr
    assert "build_semantic_space" not in done.stdout
