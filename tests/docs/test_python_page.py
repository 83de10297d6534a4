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
#: The block that needs Ray is run by tests/ray_jobs/test_run_pipeline.py.
BLOCK = re.compile(r"(<!-- with Ray -->\n)?```python\n(.*?)```", re.DOTALL)
WORDS = ["apple", "bicycle", "castle", "dolphin", "engine", "forest"]


def blocks() -> str:
    return "\n".join(code for mark, code in BLOCK.findall(PAGE) if not mark)


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
    np.savez(tmp_path / "images.npz", embeddings=images.astype(np.float32))
    np.savez(tmp_path / "other.npz", embeddings=images[:, :20] + 0.1 * generator.normal(size=(240, 20)))
    np.savez(tmp_path / "nouns.npz", embeddings=centers.astype(np.float32), nouns=np.array(WORDS))
    heads = tmp_path / "runs/mine/train_heads/heads.safetensors"
    heads.parent.mkdir(parents=True)
    heads.write_bytes(serialize_heads(DXMC(6).fit(images).heads_))
    return tmp_path


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
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", blocks() + seen],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
