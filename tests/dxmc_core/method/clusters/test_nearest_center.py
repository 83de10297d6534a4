"""The nearest centre of every row, whatever the blocks are."""

import numpy as np
import pytest

from dxmc_core.method.clusters import nearest_center
from dxmc_core.method.clusters.nearest_center import nearest_centers, nearest_others


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    return rng.normal(size=(1000, 8)).astype(np.float32), rng.normal(size=(7, 8)).astype(np.float32)


def test_the_largest_product_wins(case):
    rows, centers = case
    found = nearest_centers(rows, centers)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, (rows @ centers.T).argmax(axis=1))


def test_half_the_squared_norms_give_the_smallest_distance(case):
    rows, centers = case
    found = nearest_centers(rows, centers, offsets=(centers**2).sum(axis=1) / 2)
    distances = ((rows[:, None] - centers) ** 2).sum(axis=2)
    np.testing.assert_array_equal(found, distances.argmin(axis=1))


def test_scores_of_all_rows_never_exist_at_once(case, monkeypatch):
    rows, centers = case
    whole = nearest_centers(rows, centers)
    monkeypatch.setattr(nearest_center, "_SCORES_PER_BLOCK", 70)
    monkeypatch.setattr(nearest_center, "_LEAST_ROWS_PER_BLOCK", 10)
    sizes = []

    class Watched(np.ndarray):
        def __getitem__(self, key):
            sizes.append(key.stop - key.start)
            return np.asarray(super().__getitem__(key))

    np.testing.assert_array_equal(nearest_centers(rows.view(Watched), centers), whole)
    assert set(sizes) == {10}


def test_no_rows_have_no_labels(case):
    rows, centers = case
    assert nearest_centers(rows[:0], centers).shape == (0,)


def test_others_are_nearest_first_and_of_equal_ones_the_first(case, monkeypatch):
    _, centers = case
    centers = np.concatenate([centers, centers[2:3]])
    found = nearest_others(centers, 3)
    scores = centers @ centers.T
    np.fill_diagonal(scores, -np.inf)
    np.testing.assert_array_equal(found, np.argsort(-scores, axis=1, kind="stable")[:, :3])
    monkeypatch.setattr(nearest_center, "_SCORES_PER_BLOCK", 16)
    np.testing.assert_array_equal(nearest_others(centers, 3), found)


def test_what_does_not_count_as_an_other_is_left_out(case):
    _, centers = case
    found = nearest_others(centers, 9, is_open=np.array([True, True, True, False, False, False, False]))
    assert found.shape == (7, 6)
    assert set(found[:, 2:].ravel()) == {-1, *found[3:, 2]}
    assert all(set(own[own >= 0]) == {0, 1, 2} - {place} for place, own in enumerate(found))
    assert nearest_others(centers[:1], 5).shape == (1, 0)
