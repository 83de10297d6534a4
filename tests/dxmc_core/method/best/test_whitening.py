"""Whitening maps against naive scatters, and on rows that leave little to estimate."""

import numpy as np
import pytest

from dxmc_core.method.best import whitening
from dxmc_core.method.best.whitening import cluster_means, cluster_whitening, half_power_whitening, neighbor_whitening
from dxmc_core.method.neighbors.exact import nearest_neighbors


def _rows(num_rows: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Unit rows (N, D) whose directions differ in variance, away from the origin as CLIP's are."""
    rng = np.random.default_rng(seed)
    rows = 2 + rng.standard_normal((num_rows, width)) * np.geomspace(1, 0.05, width)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_neighbor_scatter_is_that_of_the_differences():
    rows = _rows(60, 7)
    neighbors = nearest_neighbors(rows, num_neighbors=5)
    differences = (rows[neighbors] - rows[:, None]).reshape(-1, 7)
    expected = differences.T @ differences / len(differences) / 2
    found = whitening._neighbor_scatter(rows, neighbors, rows.mean(axis=0), "cpu")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_scatters_do_not_depend_on_the_block_size(monkeypatch):
    rows, labels = _rows(50, 6), np.arange(50) % 4
    neighbors = nearest_neighbors(rows, num_neighbors=4)
    whole = neighbor_whitening(rows, neighbors), cluster_whitening(rows, labels, 4)
    monkeypatch.setattr(whitening, "_ROWS_PER_BLOCK", 16)
    blocks = neighbor_whitening(rows, neighbors), cluster_whitening(rows, labels, 4)
    for one, other in zip(whole, blocks, strict=True):
        np.testing.assert_allclose(np.abs(one.apply(rows)), np.abs(other.apply(rows)), atol=1e-3)


def test_half_power_whitening_takes_the_square_root_of_the_spread():
    rows = _rows(4000, 6)
    found = half_power_whitening(rows)
    before = np.linalg.eigvalsh(np.cov(rows.T, bias=True))[::-1]
    after = np.var((rows - found.mean) @ found.matrix, axis=0)
    np.testing.assert_allclose(after, np.sqrt(before), rtol=1e-3)


def test_cluster_whitening_makes_the_scatter_within_clusters_alike_in_all_directions(monkeypatch):
    monkeypatch.setattr(whitening, "_SHRINKAGE", 1e-6)
    rows, labels = _rows(3000, 6), np.arange(3000) % 3
    found = cluster_whitening(rows, labels, 3)
    mapped = ((rows - found.mean) @ found.matrix).astype(np.float64)
    within = mapped - cluster_means(mapped, labels, 3)[labels]
    np.testing.assert_allclose(within.T @ within / len(rows), np.eye(6), atol=0.02)


def test_shrinkage_bounds_how_far_a_direction_without_scatter_is_blown_up():
    rows = np.repeat(_rows(40, 8), 3, axis=0)  # every cluster is one point, three times
    found = cluster_whitening(rows, np.repeat(np.arange(40), 3), 40)
    assert np.isfinite(found.matrix).all()
    np.testing.assert_allclose(np.linalg.norm(found.apply(rows), axis=1), 1, atol=1e-5)


def test_whitening_separates_what_a_loud_direction_hides():
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 2
    rows = np.ones((2000, 5)) + 0.05 * rng.standard_normal((2000, 5))
    rows[:, 0] += 3 * rng.standard_normal(2000)  # says nothing about the cluster
    rows[:, 1] += labels
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = cluster_whitening(rows, labels, 2).apply(rows)
    gap = np.linalg.norm(found[labels == 0].mean(axis=0) - found[labels == 1].mean(axis=0))
    raw_gap = np.linalg.norm(rows[labels == 0].mean(axis=0) - rows[labels == 1].mean(axis=0))
    assert gap > 3 * raw_gap


def test_fewer_rows_than_dimensions_keep_only_directions_with_content():
    assert half_power_whitening(_rows(12, 64)).matrix.shape == (64, 11)


def test_a_row_at_the_mean_still_becomes_a_unit_row():
    found = half_power_whitening(_rows(30, 5))
    mapped = found.apply(np.stack([found.mean, found.mean + 1]))
    np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-5)


def test_equal_rows_are_refused():
    with pytest.raises(ValueError, match="equal"):
        half_power_whitening(np.ones((10, 4), dtype=np.float32) / 2)


def test_cluster_means_of_an_empty_cluster_are_zero():
    rows = _rows(6, 3)
    found = cluster_means(rows, np.array([0, 0, 2, 2, 2, 0]), 4)
    np.testing.assert_allclose(found[0], rows[[0, 1, 5]].mean(axis=0), atol=1e-6)
    assert not found[[1, 3]].any()
