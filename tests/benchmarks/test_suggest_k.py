"""The benchmark of the suggestions: planted data as they are described, distances as they are defined."""

import json
from pathlib import Path

import numpy as np
import pytest
import suggest_k as benchmark

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_planted_mixtures_are_on_the_sphere_and_seeded():
    mixture = benchmark.planted_mixture(5, separation=0.7, spread=1.0, seed=3)
    again = benchmark.planted_mixture(5, separation=0.7, spread=1.0, seed=3)
    assert np.array_equal(mixture.embeddings, again.embeddings)
    np.testing.assert_allclose(np.linalg.norm(mixture.embeddings.astype(np.float32), axis=1), 1, atol=1e-2)
    sizes = np.bincount(mixture.labels)
    assert (len(sizes), sizes.min() >= 10) == (5, True)
    assert sizes.max() > 2 * sizes.min()
    even = np.bincount(benchmark.planted_mixture(5, separation=0.7, spread=0.0, seed=3).labels)
    assert even.max() < 1.3 * even.min()


@pytest.mark.parametrize("partitions", ["ward", "kmeans"])
def test_distances_are_octaves_from_the_true_number(tmp_path, capsys, partitions):
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 50)
    embeddings = np.eye(16)[labels] + 0.1 * generator.normal(size=(300, 16))
    path = tmp_path / "six.npz"
    np.savez(path, embeddings=embeddings, labels=np.array([f"class {label}" for label in labels]))
    assert benchmark.main(["--datasets", str(path), "--seeds", "2", "--partitions", partitions]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["seed"] for row in report["results"]] == [0, 1]
    for row in report["results"]:
        assert (row["name"], row["true"], row["rows"], row["kmeans_ari"]) == ("six", 6, 300, 1)
        assert row["octaves_off"] == pytest.approx(abs(np.log2(row["suggested"][0] / 6)), abs=1e-3)
        assert row["octaves_off_best_of_three"] <= row["octaves_off"] <= 0.5
    (summary,) = report["summary"]
    assert summary["octaves_off"] == pytest.approx(np.mean([row["octaves_off"] for row in report["results"]]), abs=1e-3)


def test_files_without_labels_are_refused(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", embeddings=np.eye(30))
    assert benchmark.main(["--datasets", str(tmp_path / "x.npz")]) == 2
    assert "no array 'labels'" in capsys.readouterr().err
