"""Upper bounds on tiny planted data, where all of them are reached."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import upper_bounds

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_purity_gives_each_cluster_to_its_commonest_class():
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert upper_bounds.purity(labels, np.array([0, 0, 1, 1, 1, 1])) == pytest.approx(4 / 6)
    assert upper_bounds.purity(labels, np.arange(6)) == 1.0


def test_a_probe_is_judged_on_rows_it_was_not_taught():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 25)
    rows = generator.normal(size=(100, 200))  # more columns than rows: a probe could learn all of them by heart
    assert upper_bounds.linear_probe(rows, labels, seed=0) < 0.5
    assert upper_bounds.linear_probe(rows + 6 * np.eye(4, 200)[labels], labels, seed=0) > 0.9


def test_planted_classes_reach_every_bound(tmp_path):
    generator = np.random.default_rng(0)
    centers = np.linalg.qr(generator.normal(size=(12, 12)))[0][:4]
    labels = np.repeat(np.arange(4), 30)
    embeddings = (centers[labels] + 0.1 * generator.normal(size=(len(labels), 12))).astype(np.float16)
    np.savez(tmp_path / "planted.npz", embeddings=embeddings, labels=labels)
    np.savez(tmp_path / "nouns.npz", embeddings=centers, nouns=np.array(["ant", "bee", "cat", "dog"]))
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "upper_bounds.py"), "--datasets", "planted", "--data", str(tmp_path),
         "--output", str(tmp_path / "bounds.json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bounds.json").read_text())["results"]["planted"]
    assert found == {"best": 1.0, "clusters": 1.0, "micro-clusters": 1.0, "linear probe": 1.0}
    assert "| planted | 100.0 | 100.0 | 100.0 | 100.0 |" in done.stdout
