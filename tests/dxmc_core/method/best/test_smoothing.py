"""Smoothing and re-ranking against loops."""

import numpy as np
import pytest

from dxmc_core.method.best import smoothing
from dxmc_core.method.best.smoothing import num_smoothing_neighbors, rerank_neighbors, smooth
from dxmc_core.method.neighbors.exact import nearest_neighbors


@pytest.fixture
def rows() -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("num_rows", "num_clusters", "expected"),
    [
        (1000, 100, 4),
        (3000, 100, 9),
        (60_000, 10, 20),
        (700, 100, 4),
        (300, 100, 2),
        (101, 100, 1),
        (3, 2, 1),
        (9, 1, 4),
    ],
)
def test_neighborhoods_follow_the_cluster_size_within_bounds(num_rows, num_clusters, expected):
    assert num_smoothing_neighbors(num_rows, num_clusters) == expected


def test_smooth_is_the_repeated_mean_of_neighborhoods(rows):
    neighbors = nearest_neighbors(rows, num_neighbors=3)
    expected = rows
    for _ in range(2):
        means = np.stack([(expected[i] + expected[neighbors[i]].sum(axis=0)) / 4 for i in range(len(rows))])
        expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(smooth(rows, neighbors, num_rounds=2), expected, atol=1e-6)


def test_smooth_leaves_its_input_alone(rows):
    before = rows.copy()
    smooth(rows, nearest_neighbors(rows, num_neighbors=3), num_rounds=1)
    np.testing.assert_array_equal(rows, before)


def test_rerank_with_all_rows_as_candidates_is_a_search(rows, monkeypatch):
    monkeypatch.setattr(smoothing, "_ROWS_PER_BLOCK", 7)
    candidates = np.stack([np.delete(np.arange(40), i) for i in range(40)])
    found = rerank_neighbors(rows, candidates, 5)
    np.testing.assert_array_equal(found, nearest_neighbors(rows, num_neighbors=5))


def test_rerank_breaks_ties_by_position_and_returns_no_more_than_the_candidates(rows):
    equal = np.repeat(rows[:1], 4, axis=0)
    candidates = np.array([[3, 1, 2], [3, 2, 0], [0, 3, 1], [2, 0, 1]])
    np.testing.assert_array_equal(rerank_neighbors(equal, candidates, 9), np.sort(candidates, axis=1))
