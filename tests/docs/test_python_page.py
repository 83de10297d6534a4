"""docs/PYTHON.md: its blocks are run one after the other, as a reader would in a notebook."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "PYTHON.md").read_text()
BLOCK = re.compile(r"(<!-- with Ray -->\n)?```python\n(.*?)```", re.DOTALL)
WORDS = ["apple", "bicycle", "castle", "dolphin", "engine", "forest"]


def blocks(*, with_ray: bool) -> str:
    return "\n".join(code for mark, code in BLOCK.findall(PAGE) if bool(mark) == with_ray)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the page reads: embeddings in six groups, nouns near their centres, photographs, and the heads of a run."""
    from dxmc_core.artifacts.heads import serialize_heads
    from dxmc_core.estimator import DXMC

    generator = np.random.default_rng(0)
    centers = np.linalg.qr(generator.normal(size=(32, 32)))[0][:6]
    images = centers[np.repeat(np.arange(6), 40)] + 0.1 * generator.normal(size=(240, 32))
    (tmp_path / "photos").mkdir()
    for row in range(240):
        Image.new("RGB", (32, 24), (row, 80, 120)).save(tmp_path / f"photos/{row}.png")
    uris = np.array([f"photos/{row}.png" for row in range(240)])
    np.savez(tmp_path / "images.npz", embeddings=images.astype(np.float32), uris=uris)
    np.savez(tmp_path / "nouns.npz", embeddings=centers.astype(np.float32), nouns=np.array(WORDS))
    heads = tmp_path / "runs/mine/train_heads/heads.safetensors"
    heads.parent.mkdir(parents=True)
    heads.write_bytes(serialize_heads(DXMC(6).fit(images).heads_))
    return tmp_path


def run(code: str, folder: Path, environment: dict[str, str]) -> str:
    """Run code in a process of its own, in a folder; what it printed."""
    path = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_runs_and_says_what_the_page_says(folder: Path):
    seen = """
assert model.cluster_names_ is not None and sorted(model.cluster_names_) == sorted(vocabulary["nouns"])
assert len(clusters) == 6 and clusters["size"].sum() == len(images)
assert sorted(old_of) == sorted(old_of.values()) == list(range(6))
assert "My photographs" in Path("report.html").read_text() and "data:image/webp" in Path("report.html").read_text()
assert (model.predict(images) == model.labels_).all()
assert len(set(labels.tolist())) == 1 and labels.shape == (20,)
import sys
assert not {"ray", "pyarrow.parquet", "s3fs"} & set(sys.modules)
"""
    run(blocks(with_ray=False) + seen, folder, dict(os.environ))


@pytest.mark.ray
def test_the_pipeline_is_a_function_and_needs_no_vocabulary(folder: Path, ray_cluster):
    seen = """
assert assignments["cluster_id"].nunique() == 6 and len(assignments) == 240
clusters = run_dir.stage("assign_clusters").read_table("clusters").to_pandas()
assert sorted(clusters["name"]) == [f"cluster {number}" for number in range(6)]
assert run_dir.stage("build_semantic_space").manifest() is None
"""
    code = blocks(with_ray=True) + seen
    run(code, folder, ray_cluster)
    page = (folder / "runs/dino/report/index.html").read_text()
    assert "cluster 0" in page
    assert "data:image/webp" in page

    def dxmc(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "ray_jobs.cli", *arguments],
            cwd=folder,
            env={**ray_cluster, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    for command in ("status", "evaluate"):
        done = dxmc(command, "runs/dino")
        assert done.returncode == 0, done.stderr
        assert "build_semantic_space" not in done.stdout
    assert dxmc("search", "runs/dino", "17").returncode == 0
    done = dxmc("search", "runs/dino", "apple")
    assert done.returncode == 2
    assert "neither nouns nor an encoder" in done.stderr
