"""The ablation on tiny planted data: every variant is there, scored for every seed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_every_variant_is_scored(tmp_path):
    generator = np.random.default_rng(0)
    centers = np.linalg.qr(generator.normal(size=(12, 12)))[0][:4]
    labels = np.repeat(np.arange(4), 30)
    embeddings = (centers[labels] + 0.1 * generator.normal(size=(len(labels), 12))).astype(np.float16)
    np.savez(tmp_path / "planted.npz", embeddings=embeddings, labels=labels)
    np.savez(tmp_path / "nouns.npz", embeddings=centers, nouns=np.array(["ant", "bee", "cat", "dog"]))
    output = tmp_path / "ablation.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "ablation.py"), "--datasets", "planted", "--seeds", "2",
         "--data", str(tmp_path), "--output", str(output)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())["results"]["planted"]
    assert len(results) == 7 + 10 + 2
    assert all(len(values) == 2 for scores in results.values() for values in scores.values())
    assert results["best, ten epochs on top"]["acc"] == [1.0, 1.0]
    assert "| + looking again (best) |" in done.stdout
