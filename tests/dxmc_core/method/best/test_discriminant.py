"""The discriminant on planted clusters of one loud shape."""

import numpy as np

from dxmc_core.method.best.discriminant import fit_discriminant


def _planted(num_rows: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four clusters in 12 dimensions; what varies most within them does not tell them apart."""
    rng = np.random.default_rng(seed)
    truth = np.arange(num_rows) % 4
    rows = 1 + 0.15 * rng.standard_normal((num_rows, 12))
    rows[:, 8:] += 1.5 * rng.standard_normal((num_rows, 4))
    rows[np.arange(num_rows), truth] += 1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), truth


def _with_errors(truth: np.ndarray, share: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.where(rng.random(len(truth)) < share, rng.integers(4, size=len(truth)), truth)


def test_it_mends_labels_and_assigns_unseen_rows_as_well():
    embeddings, truth = _planted(2000)
    noisy = _with_errors(truth, 0.4)
    found = fit_discriminant(embeddings, noisy, 4)
    assert (noisy == truth).mean() < 0.75
    assert (found.labels == truth).mean() > 0.97
    unseen, unseen_truth = _planted(1000, seed=5)
    assert (found.predict(unseen) == unseen_truth).mean() > 0.97


def test_the_rows_it_was_fitted_on_are_predicted_as_labelled():
    embeddings, truth = _planted(400)
    found = fit_discriminant(embeddings, _with_errors(truth, 0.3), 4)
    np.testing.assert_array_equal(found.predict(embeddings), found.labels)
    np.testing.assert_allclose(np.linalg.norm(found.centers, axis=1), 1, atol=1e-5)


def test_a_cluster_without_rows_harms_no_other():
    embeddings, truth = _planted(2000)
    found = fit_discriminant(embeddings, truth, 5)
    assert np.isfinite(found.centers).all()
    assert (found.labels == truth).mean() > 0.95
