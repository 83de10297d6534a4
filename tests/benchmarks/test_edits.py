"""The benchmarks of corrections, small: edits are applied and counted, examples are scored apart from their images."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_many_edits_are_applied_and_counted(tmp_path):
    sizes = ("--num-images", 3000, "--num-clusters", 30, "--num-edits", 200, "--width", 16)
    result = json.loads(run("many_edits.py", "--folder", tmp_path, *sizes))
    assert sum(result["states"].values()) == 200
    assert result["states"]["applied"] > 150


def test_examples_are_drawn_and_scored(tmp_path):
    generator = np.random.default_rng(0)
    centers = np.linalg.qr(generator.normal(size=(12, 12)))[0][:4]
    labels = np.repeat(np.arange(4), 30)
    embeddings = (centers[labels] + 0.1 * generator.normal(size=(len(labels), 12))).astype(np.float16)
    np.savez(tmp_path / "planted.npz", embeddings=embeddings, labels=labels)
    np.savez(tmp_path / "nouns.npz", embeddings=centers, nouns=np.array(["ant", "bee", "cat", "dog"]))
    output = tmp_path / "found.json"
    table = run("example_labels.py", "--datasets", "planted", "--seeds", 2, "--data", tmp_path, "--output", output)
    assert json.loads(output.read_text())["acc"]["planted"] == {"0": [1.0, 1.0], "1": [1.0, 1.0], "5": [1.0, 1.0]}
    assert "| planted | 100.0 ± 0.0 |" in table
