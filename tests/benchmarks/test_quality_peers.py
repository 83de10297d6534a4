"""Methods of others in the quality benchmark: what they find, and what a missing package says."""

import importlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import quality_peers as peers

from dxmc_core.errors import InputError
from dxmc_core.method.clusters.metrics import external_scores
from dxmc_core.method.unit_rows import unit_rows

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NUM_CLASSES = 4


@pytest.fixture
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit rows (160, 12), their classes, and the classes' centers."""
    generator = np.random.default_rng(0)
    centers = np.linalg.qr(generator.normal(size=(12, 12)))[0][:NUM_CLASSES].astype(np.float32)
    labels = np.repeat(np.arange(NUM_CLASSES), 40)
    rows = centers[labels] + 0.1 * generator.normal(size=(len(labels), 12))
    return unit_rows(rows.astype(np.float32), name="rows"), labels, centers


# UMAP and EVoC would spend minutes on compiling.
@pytest.mark.parametrize(
    "name", ["faiss_kmeans", "superkmeans", "spectral", "ntk_spectral", "leiden", "leiden_nearest_k"]
)
def test_finds_what_is_planted(planted, name):
    peer = peers.PEERS[name]
    if importlib.util.find_spec(peer.package) is None:
        pytest.skip(f"{peer.package} is not installed; it is in the extra benchmarks")
    rows, labels, centers = planted
    found = peer.cluster(rows, NUM_CLASSES, 0, centers)
    assert found.shape == labels.shape
    assert external_scores(labels, found)["nmi"] > 0.85


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(peers.PEERS, "new", peers.Peer(lambda *_: np.zeros(1), "no_such_package"))
    with pytest.raises(InputError, match=r"new needs the package no_such_package, .* pip install 'dxmc\[benchmarks\]'"):
        peers.check_installed(["spectral", "new"])
