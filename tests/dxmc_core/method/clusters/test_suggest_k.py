"""Planted mixtures get their number of clusters back, and the parts agree with naive loops."""

import math

import numpy as np
import pytest

from dxmc_core.method.best.whitening import normalize_rows
from dxmc_core.method.clusters.suggest_k import (
    KChoice,
    KScores,
    _code_length,
    _combine,
    _structureless,
    _suggest,
    geometric_grid,
    suggest_num_clusters,
    ward_partitions,
)
from dxmc_core.method.steps import WorkStep


def mixture(num_clusters, sizes, *, noise, width=48, seed=0):
    """Rows around random directions, and the cluster of each."""
    generator = np.random.default_rng(seed)
    centers = normalize_rows(generator.normal(size=(num_clusters, width)))
    labels = np.repeat(np.arange(num_clusters), sizes)
    rows = 0.5 + centers[labels] + noise / math.sqrt(width) * generator.normal(size=(len(labels), width))
    return normalize_rows(rows), labels


def octaves_off(choice, num_clusters):
    return abs(math.log2(choice.num_clusters / num_clusters))


@pytest.mark.parametrize(
    ("num_clusters", "sizes", "noise"),
    [
        (3, 200, 0.3),
        (12, 60, 0.5),
        (12, 60, 0.9),
        (40, 30, 0.5),
        (12, [20, 20, 30, 30, 40, 40, 60, 60, 80, 100, 140, 200], 0.5),
    ],
)
def test_planted_mixtures_get_their_number_back(num_clusters, sizes, noise):
    rows, _ = mixture(num_clusters, sizes, noise=noise)
    choice = suggest_num_clusters(rows, seed=0)
    assert octaves_off(choice, num_clusters) <= 0.34
    assert [score.num_clusters for score in choice.scores] == geometric_grid(len(rows) // 10)
    assert choice.num_rows == len(rows)


def test_suggestions_are_three_apart_and_ordered_and_say_why():
    rows, _ = mixture(12, 60, noise=0.5)
    steps: list[WorkStep] = []
    suggestions = suggest_num_clusters(rows, seed=0, on_step=steps.append).suggestions
    assert [step.done for step in steps] == list(range(1, steps[0].total + 1))
    assert len(suggestions) == 3
    assert suggestions[0].overall >= suggestions[1].overall >= suggestions[2].overall
    octaves = sorted(math.log2(suggestion.num_clusters) for suggestion in suggestions)
    assert np.diff(octaves).min() >= 0.5
    assert all(name in suggestions[0].reason for name in ("stability", "separability", "compactness"))


def test_same_seed_same_scores_whatever_the_float_type_and_scale():
    rows, _ = mixture(6, 40, noise=0.5)
    first, again = suggest_num_clusters(rows, seed=1), suggest_num_clusters(rows.astype(np.float64) * 3, seed=1)
    for a, b in zip(first.scores, again.scores, strict=True):
        assert a.num_clusters == b.num_clusters
        assert a.overall == pytest.approx(b.overall, abs=1e-3)
    assert suggest_num_clusters(rows, seed=2).scores != first.scores


def test_without_clusters_nothing_is_stable():
    rows = normalize_rows(0.5 + np.random.default_rng(0).normal(size=(600, 24)).astype(np.float32))
    with_clusters, _ = mixture(10, 60, noise=0.5, width=24)
    nothing, something = (
        max(score.stability for score in suggest_num_clusters(found).scores) for found in (rows, with_clusters)
    )
    assert nothing < 0.1 < 0.5 < something


def test_a_choice_without_structure_says_so():
    weak, strong = KChoice(overall(0.05, 0.09), [], 100), KChoice(overall(0.05, 0.2), [], 100)
    assert (weak.has_structure, strong.has_structure) == (False, True)


def test_large_inputs_are_sampled_and_the_grid_can_be_cut_short():
    rows, _ = mixture(8, 200, noise=0.4)
    choice = suggest_num_clusters(rows, max_rows=900, max_clusters=20)
    assert choice.num_rows == 900
    assert choice.scores[-1].num_clusters == 20
    assert octaves_off(choice, 8) <= 0.34


def test_clusters_too_many_for_a_sample_are_found_in_whole_regions():
    rows, _ = mixture(120, 20, noise=0.3)
    steps: list[WorkStep] = []
    choice = suggest_num_clusters(rows, max_rows=400, on_step=steps.append)
    assert octaves_off(choice, 120) <= 0.6
    grid = [score.num_clusters for score in choice.scores]
    assert grid == sorted(set(grid))
    assert (grid[0], grid[-1]) == (2, 240)
    assert [step.done for step in steps] == list(range(1, steps[0].total + 1))
    assert choice.num_rows <= 3 * 400


def test_a_region_of_copies_of_one_image_is_left_out():
    rows, _ = mixture(30, 20, noise=0.3)
    placeholder = np.repeat(-rows.mean(axis=0, keepdims=True), 1000, axis=0)
    choice = suggest_num_clusters(np.concatenate([rows, placeholder]), max_rows=200)
    assert all(math.isfinite(score.overall) for score in choice.scores)
    assert choice.num_rows < 200 + 600 + 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.eye(19), "at least 20 rows"),
        (np.ones((30, 4)), "rows that differ"),
        (np.full((30, 4), np.nan), "finite"),
    ],
)
def test_unusable_rows(rows, message):
    with pytest.raises(ValueError, match=message):
        suggest_num_clusters(rows)


def test_duplicate_rows_are_no_trouble():
    rows, _ = mixture(5, 8, noise=0.2)
    choice = suggest_num_clusters(np.repeat(rows, 5, axis=0))
    assert all(math.isfinite(score.overall) for score in choice.scores)


def test_the_grid_is_geometric_with_both_ends():
    grid = geometric_grid(409)
    assert (grid[0], grid[-1]) == (2, 409)
    ratios = np.array(grid[8:]) / grid[7:-1]
    assert ((ratios > 1.15) & (ratios < 1.35)).all()
    assert grid == sorted(set(grid))
    assert geometric_grid(2) == geometric_grid(1) == [2]


def test_ward_cuts_are_nested_and_cover_the_grid():
    rows, labels = mixture(6, 50, noise=0.3)
    centers = list(ward_partitions()(rows, [2, 6, 11], 0))
    assert [len(found) for found in centers] == [2, 6, 11]
    parts = (rows @ centers[1].T).argmax(axis=1)
    assert len(set(zip(parts, labels, strict=True))) == 6
    np.testing.assert_allclose(np.linalg.norm(centers[2], axis=1), 1, atol=1e-5)


def test_the_reference_has_the_mean_and_covariance_of_the_rows():
    rows, _ = mixture(10, 400, noise=0.5, width=8)
    reference = _structureless(rows, seed=0)
    np.testing.assert_allclose(np.linalg.norm(reference, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(reference.mean(axis=0), rows.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(np.cov(reference.T), np.cov(rows.T), atol=0.03)


def test_code_length_is_that_of_a_loop():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [5, 8, 7])
    train = generator.normal(size=(3, 4))[labels] + 0.3 * generator.normal(size=(20, 4))
    unseen = generator.normal(size=(9, 4))
    means = np.stack([train[labels == k].mean(axis=0) for k in range(3)])
    sizes = np.bincount(labels)
    within = sum(((train[labels == k] - means[k]) ** 2).sum(axis=0) for k in range(3)) / 17
    spread = sum(sizes[k] * (means[k] - train.mean(axis=0)) ** 2 for k in range(3)) / 20
    between = np.maximum(spread - within * 3 / 20, 1e-9 * within)
    lengths = []
    for row in unseen:
        by_cluster = []
        for k in range(3):
            posterior = 1 / (sizes[k] / within + 1 / between)
            place = train.mean(axis=0) + sizes[k] * posterior / within * (means[k] - train.mean(axis=0))
            variance = within + posterior
            share = (sizes[k] + 0.5) / 21.5
            by_cluster.append(-math.log(share) + 0.5 * (np.log(variance) + (row - place) ** 2 / variance).sum())
        lengths.append(min(by_cluster))
    found = _code_length(train.astype(np.float32), labels, 3, unseen.astype(np.float32))
    assert found == pytest.approx(np.mean(lengths), rel=1e-4)


def test_code_length_of_an_empty_cluster_is_finite():
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    assert math.isfinite(_code_length(rows, np.repeat([0, 2], 10), 3, rows))


def test_overall_is_the_mean_share_of_the_best_and_compactness_pays_for_clusters():
    scores = _combine([2, 4, 8], np.array([[0.1, 0.4, 0.2], [0.5, 0.5, -0.125], [1.0, 5.0, 6.0]]))
    assert [score.stability for score in scores] == pytest.approx([0.1, 0.4, 0.2])
    assert [score.separability for score in scores] == pytest.approx([0.5, 0.5, -0.125])
    assert [score.compactness for score in scores] == pytest.approx([1 - 1.5, 5 - 3, 0])
    assert [score.overall for score in scores] == pytest.approx([(0.25 + 1 + 0) / 3, 1, 0.5 / 3])
    nothing = np.zeros((3, 2))
    assert [score.overall for score in _combine([2, 3], nothing - 1)] == [0, 0]


def overall(*values):
    return [KScores(4 * 2**place, value, value, value, value) for place, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "suggested"),
    [
        ((0.1, 0.5, 0.2, 0.9, 0.8, 0.6), [32, 64, 8]),  # two levels, and the better shoulder
        ((0.1, 0.4, 0.2, 0.9, 0.8, 0.6), [32, 64, 128]),  # too low a maximum is no level
        ((0.9, 0.6, 0.3, 0.1), [4, 8, 16]),
        ((0.9,), [4]),
    ],
)
def test_maxima_come_before_slopes_and_the_best_first(values, suggested):
    assert [suggestion.num_clusters for suggestion in _suggest(overall(*values))] == suggested


def test_of_maxima_near_each_other_one_is_suggested():
    scores = [KScores(k, o, o, o, o) for k, o in ((10, 0.8), (11, 0.7), (12, 0.9), (40, 0.2), (80, 0.1))]
    assert [suggestion.num_clusters for suggestion in _suggest(scores)] == [12, 40, 80]
