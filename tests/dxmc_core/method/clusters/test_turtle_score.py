"""The score equals a plain cross-validation, tells structure from chance, and refuses what it cannot score."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from dxmc_core.method.clusters.turtle_score import turtle_score


def planted(num_rows: int = 240, num_clusters: int = 6, *, noise: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(num_rows) % num_clusters
    rows = np.eye(16)[labels] + noise * rng.normal(size=(num_rows, 16))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels


def test_equals_cross_validation_by_scikit_learn() -> None:
    rows, labels = planted(noise=0.6)
    labels = np.where(labels > 3, 3, labels)
    folds = np.random.default_rng(5).permutation(len(rows)) % 4
    hits = 0
    for fold in range(4):
        train, test = folds != fold, folds == fold
        # scikit-learn's penalty is on the sum of squares, ours a share of the mean variance.
        alpha = 0.1 * rows[train].var(axis=0).mean() * train.sum()
        model = Ridge(alpha=alpha).fit(rows[train], np.eye(4)[labels[train]])
        hits += (model.predict(rows[test]).argmax(axis=1) == labels[test]).sum()
    assert 0.3 < hits / len(rows) < 1
    assert turtle_score(rows, labels, folds=4, seed=5) == pytest.approx(hits / len(rows), abs=1e-12)


def test_planted_clusters_score_high_and_random_labels_at_chance() -> None:
    rows, labels = planted()
    assert turtle_score(rows, labels) > 0.98
    assert turtle_score(rows, np.array([f"c{label}" for label in labels])) == turtle_score(rows, labels)
    shuffled = np.random.default_rng(1).permutation(labels)
    assert turtle_score(rows, shuffled) < 0.35
    assert abs(turtle_score(rows, shuffled, corrected_for_chance=True)) < 0.15
    assert turtle_score(rows, labels, corrected_for_chance=True) > 0.97


def test_one_cluster_is_worth_nothing_by_chance() -> None:
    rows, labels = planted()
    assert turtle_score(rows, 0 * labels) == 1
    assert turtle_score(rows, 0 * labels, corrected_for_chance=True) == 0


def test_few_and_duplicate_rows() -> None:
    assert 0 <= turtle_score(np.ones((3, 4)), np.array([0, 0, 1])) <= 1


def test_unusable_input_is_refused() -> None:
    rows, labels = planted()
    with pytest.raises(ValueError, match="expected a label for each of at least 2 rows"):
        turtle_score(rows, labels[1:])
    with pytest.raises(ValueError, match="expected at least 2 folds"):
        turtle_score(rows, labels, folds=1)
    with pytest.raises(ValueError, match="expected embeddings with finite rows"):
        turtle_score(np.full((4, 2), np.nan), np.arange(4))
