"""The exponent of sizes: agreement against scikit-learn's, the rule on figures, and planted classes of unlike size."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from dxmc_core.method.best import size_exponent
from dxmc_core.method.best.size_exponent import (
    EXPONENTS,
    WARD,
    _decide,
    _num_splits,
    adjusted_mutual_information,
    choose_size_exponent,
    micro_clusters,
    num_micro_clusters,
)


def _planted(sizes: list[int], *, width: int = 16, noise: float = 0.15, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.linalg.qr(rng.standard_normal((width, width)))[0][truth]
    rows += noise * rng.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), truth


def test_agreement_is_adjusted_as_scikit_learn_adjusts_it():
    rng = np.random.default_rng(0)
    first = rng.integers(8, size=2000)
    for share_kept in (0.0, 0.5, 0.9):
        second = np.where(rng.random(2000) < share_kept, first, rng.integers(8, size=2000))
        found = adjusted_mutual_information(first, second, rng)
        assert found == pytest.approx(adjusted_mutual_info_score(first, second), abs=0.01)


def test_agreement_with_other_names_and_of_single_clusters_is_whole():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    assert adjusted_mutual_information(labels, (labels + 1) % 3, rng) == pytest.approx(1)
    one = np.zeros(9, dtype=int)
    assert adjusted_mutual_information(one, one, rng) == 1


@pytest.mark.parametrize(
    ("ward", "half", "expected"),
    [
        (0.90, 0.99, 0.5),  # agrees well, and much better
        (0.90, 0.94, WARD),  # better, but not well
        (0.985, 0.99, WARD),  # well, but hardly better
        (0.96, 0.972, WARD),  # leaves more than two thirds of Ward's disagreement
        (0.99, 0.90, WARD),
    ],
)
def test_ward_is_left_only_for_clear_evidence(ward, half, expected):
    assert _decide({1.0: ward, 0.5: half, 0.25: 0.1, 0.0: 0.1}) == expected


def test_of_exponents_that_agree_alike_the_smallest_is_taken():
    assert _decide({1.0: 0.9, 0.5: 0.975, 0.25: 0.98, 0.0: 0.971}) == 0
    assert _decide({1.0: 0.9, 0.5: 0.975, 0.25: 0.98, 0.0: 0.969}) == 0.25
    assert _decide({1.0: 0.92, 0.5: 0.955, 0.25: 0.947, 0.0: 0.947}) == 0.5, "0 does not agree well enough"
    assert _decide({1.0: 0.97, 0.5: 0.982, 0.25: 0.973, 0.0: 0.973}) == 0.5, "0 agrees hardly better than Ward"


@pytest.mark.parametrize(("num_clusters", "splits"), [(20, 10), (21, 5), (500, 5), (501, 2)])
def test_few_clusters_take_more_splits(num_clusters, splits):
    assert _num_splits(num_clusters) == splits


def test_classes_of_like_size_keep_ward():
    rows, _ = _planted([60] * 8)
    exponent, agreements = choose_size_exponent(rows, 8, seed=0)
    assert exponent == WARD
    assert set(agreements) == set(EXPONENTS)
    assert agreements[WARD] > 0.95


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ward_is_left_where_it_cuts_a_large_class(seed):
    """Ward spends clusters on it, in other places in other halves; the nearest centroids keep it whole."""
    rows, _ = _planted([500, 20, 20, 20, 20], noise=0.2, seed=1)
    exponent, agreements = choose_size_exponent(rows, 5, seed=seed)
    assert exponent < WARD
    assert agreements[exponent] > agreements[WARD] + 0.01


def test_too_few_rows_to_halve_say_nothing():
    rows, _ = _planted([7] * 6)
    assert choose_size_exponent(rows, 6, seed=0) == (WARD, {})


def test_a_seed_repeats():
    rows, _ = _planted([50, 20, 20], noise=0.4)
    assert choose_size_exponent(rows, 3, seed=3) == choose_size_exponent(rows, 3, seed=3)


def test_micro_clusters_hold_all_rows_and_are_described_by_them():
    rows, _ = _planted([40] * 5)
    labels, means, sizes = micro_clusters(rows, 5, seed=0)
    assert 5 < len(sizes) <= 20
    np.testing.assert_array_equal(np.bincount(labels), sizes)
    for label, mean in enumerate(means):
        np.testing.assert_allclose(mean, rows[labels == label].mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("copies", [1, 30])
def test_fewer_distinct_rows_than_micro_clusters(copies):
    rows = np.repeat(np.eye(6, dtype=np.float32), copies, axis=0)
    labels, means, sizes = micro_clusters(rows, 5, seed=0)
    assert sizes.sum() == len(rows)
    assert len(means) == len(sizes) <= 20
    assert labels.shape == (len(rows),)


@pytest.mark.parametrize(
    ("num_rows", "num_clusters", "expected"),
    [(10_000, 10, 40), (1000, 100, 250), (500, 100, 125), (420, 100, 105), (401, 101, 401), (300, 100, 300)],
)
def test_micro_clusters_are_finer_than_clusters(num_rows, num_clusters, expected):
    assert num_micro_clusters(num_rows, num_clusters) == expected


def test_two_levels_of_micro_clusters_are_as_many_and_as_pure_as_one(monkeypatch):
    rows, truth = _planted([40] * 12, noise=0.1)
    monkeypatch.setattr(size_exponent, "MAX_FLAT", 16)
    labels, means, sizes = micro_clusters(rows, 12, seed=0)
    assert len(means) == pytest.approx(48, abs=4)
    assert np.array_equal(np.bincount(labels), sizes)
    assert sizes.sum() == len(rows)
    of_truth = np.zeros((len(sizes), 12))
    np.add.at(of_truth, (labels, truth), 1)
    assert of_truth.max(axis=1).sum() == len(rows)


def test_two_levels_of_copies(monkeypatch):
    monkeypatch.setattr(size_exponent, "MAX_FLAT", 4)
    rows = np.repeat(np.eye(6, dtype=np.float32), 30, axis=0)
    labels, means, sizes = micro_clusters(rows, 6, seed=0)
    assert (sizes % 30 == 0).all()
    assert len(means) == len(np.unique(labels)) == 6
