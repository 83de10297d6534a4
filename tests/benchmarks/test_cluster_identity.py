"""The benchmark of kept ids on tiny planted data."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_well_separated_clusters_keep_their_ids(tmp_path):
    generator = np.random.default_rng(0)
    centers = np.repeat(np.eye(4, 12), 40, axis=0)
    np.savez(tmp_path / "planted.npz", embeddings=centers + 0.05 * generator.normal(size=centers.shape))
    command = [sys.executable, str(BENCHMARKS / "cluster_identity.py"), str(tmp_path / "planted.npz")]
    result = subprocess.run([*command, "--num-clusters", "4"], check=True, capture_output=True, text=True)
    seeds, warm = [json.loads(line) for line in result.stdout.splitlines()]
    assert (seeds["case"], warm["case"], seeds["images"]) == ("other_seeds", "warm_start", 160)
    assert warm["kept"] == warm["matching_1/3_kept"] == 1
    assert 0 <= seeds["churn"] <= 1
