"""Spherical k-means against a plain Lloyd loop, planted clusters, faiss, and everything that can be empty or equal."""

from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from dxmc_core.method.clusters import kmeans
from dxmc_core.method.clusters.kmeans import KMeansResult, concatenate_modalities, parts_with_counts, spherical_kmeans
from dxmc_core.method.clusters.metrics import clustering_accuracy
from dxmc_core.method.row_source import ArrayRows
from dxmc_core.method.steps import WorkStep


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def planted(num_rows: int, num_clusters: int, *, width: int = 16, noise: float = 0.1, seed: int = 0) -> tuple:
    """Rows around random directions, and which direction each one has."""
    rng = np.random.default_rng(seed)
    directions = unit(rng.standard_normal((num_clusters, width)))
    labels = np.concatenate([np.arange(num_clusters), rng.integers(num_clusters, size=num_rows - num_clusters)])
    return unit(directions[labels] + noise * rng.standard_normal((num_rows, width))), labels


def assert_consistent(result: KMeansResult, rows: np.ndarray, weights: np.ndarray | None = None) -> None:
    """Centres are normalised means of members and the objective is the mean cosine to them, by plain loops."""
    weights = np.ones(len(rows)) if weights is None else weights
    assert result.centers.dtype == np.float32
    assert result.labels.dtype == np.int32
    np.testing.assert_allclose(np.linalg.norm(result.centers, axis=1), 1, atol=1e-5)
    total = 0.0
    for cluster, center in enumerate(result.centers):
        members = result.labels == cluster
        if weights[members].sum() == 0:
            continue
        mean = (weights[members, None] * rows[members]).sum(axis=0)
        np.testing.assert_allclose(center, mean / np.linalg.norm(mean), atol=1e-5)
        total += sum(weights[row] * rows[row] @ center for row in np.flatnonzero(members))
    assert result.objective == pytest.approx(total / weights.sum(), abs=1e-5)


def lloyd(rows: np.ndarray, centers: np.ndarray, weights: np.ndarray) -> float:
    """Objective where Lloyd's algorithm ends from these centres, naively."""
    for _ in range(30):
        labels = np.array([np.argmax([row @ center for center in centers]) for row in rows])
        for cluster in range(len(centers)):
            mean = (weights[labels == cluster, None] * rows[labels == cluster]).sum(axis=0)
            if np.linalg.norm(mean) > 0:
                centers[cluster] = mean / np.linalg.norm(mean)
    return float(np.average((rows * centers[labels]).sum(axis=1), weights=weights))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_planted_clusters_are_found(dtype: type) -> None:
    rows, labels = planted(600, 7)
    rows = rows.astype(dtype)
    result = spherical_kmeans(rows, 7, seed=3)
    assert clustering_accuracy(labels, result.labels) == 1
    assert result.num_empty == 0
    assert_consistent(result, unit(rows.astype(np.float64)))


@pytest.mark.parametrize("weighted", [False, True])
def test_as_good_as_the_best_of_many_naive_runs(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((40, 3)))
    weights = rng.uniform(0.1, 5, size=40) if weighted else np.ones(40)
    starts = [rows[rng.choice(40, 4, replace=False)].copy() for _ in range(12)]
    best = max(lloyd(rows, start, weights) for start in starts)
    result = spherical_kmeans(rows, 4, weights=weights if weighted else None, num_restarts=30)
    assert result.objective >= best - 1e-5
    assert_consistent(result, rows, weights)


def test_the_end_is_a_fixed_point_of_lloyd() -> None:
    rows, _ = planted(500, 12, noise=0.4)
    result = spherical_kmeans(rows, 12)
    assert (np.argmax(rows @ result.centers.T, axis=1) == result.labels).mean() > 0.995


def test_the_same_seed_gives_the_same_result_and_another_seed_another_one() -> None:
    rows = unit(np.random.default_rng(0).standard_normal((3000, 8)))
    first, again, other = (spherical_kmeans(rows, 20, num_restarts=2, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.labels, again.labels)
    np.testing.assert_array_equal(first.centers, again.centers)
    assert first.objective == again.objective
    assert (first.labels != other.labels).any()


def test_row_order_does_not_change_the_partition() -> None:
    rows, _ = planted(400, 6)
    order = np.random.default_rng(1).permutation(400)
    result, shuffled = spherical_kmeans(rows, 6), spherical_kmeans(rows[order], 6)
    assert clustering_accuracy(result.labels[order], shuffled.labels) == 1
    assert result.objective == pytest.approx(shuffled.objective, abs=1e-6)


def test_weights_count_like_copies() -> None:
    rows, _ = planted(60, 4, noise=0.3)
    weights = np.random.default_rng(2).integers(1, 5, size=60)
    weighted = spherical_kmeans(rows, 4, weights=weights)
    copied = spherical_kmeans(np.repeat(rows, weights, axis=0), 4)
    assert weighted.objective == pytest.approx(copied.objective, abs=1e-5)
    assert clustering_accuracy(np.repeat(weighted.labels, weights), copied.labels) == 1


def test_rows_of_weight_zero_are_labelled_but_move_nothing() -> None:
    rows, labels = planted(300, 5)
    outliers = unit(np.random.default_rng(9).standard_normal((100, 16)))
    weights = np.concatenate([np.ones(300), np.zeros(100)])
    result = spherical_kmeans(np.concatenate([rows, outliers]), 5, weights=weights)
    assert result.labels.shape == (400,)
    assert clustering_accuracy(labels, result.labels[:300]) == 1
    assert_consistent(result, np.concatenate([rows, outliers]), weights)


def test_training_on_a_sample_labels_every_row() -> None:
    rows, labels = planted(3000, 5)
    result = spherical_kmeans(rows, 5, max_points_per_center=40)
    assert clustering_accuracy(labels, result.labels) == 1
    assert_consistent(result, rows)


def test_every_restart_iteration_and_block_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dxmc_core.method.clusters.kmeans._block_size", lambda num_centers: 50)
    rows, _ = planted(120, 3)
    steps: list[WorkStep] = []
    spherical_kmeans(rows, 3, num_restarts=2, num_iterations=4, on_step=steps.append)
    assert [step.done for step in steps if step.unit == "restarts"] == [0, 1]
    assert {step.total for step in steps if step.unit == "iterations at most"} <= {4}
    assert [(step.done, step.total) for step in steps if step.unit == "rows"] == [(0, 120), (50, 120), (100, 120)]


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = planted(900, 9, noise=0.5)
    whole = spherical_kmeans(rows, 9, max_points_per_center=50)
    monkeypatch.setattr("dxmc_core.method.clusters.kmeans._block_size", lambda num_centers: 37)
    blocks = spherical_kmeans(rows, 9, max_points_per_center=50)
    assert (whole.labels == blocks.labels).mean() > 0.999
    assert whole.objective == pytest.approx(blocks.objective, abs=1e-6)


@pytest.mark.parametrize("max_points_per_center", [None, 50])
def test_rows_that_are_read_in_blocks_give_the_result_of_an_array(max_points_per_center: int | None) -> None:
    rows, _ = planted(900, 9, noise=0.5)
    whole = spherical_kmeans(rows, 9, max_points_per_center=max_points_per_center, num_restarts=2)
    blocks = spherical_kmeans(ArrayRows(rows), 9, max_points_per_center=max_points_per_center, num_restarts=2)
    assert whole.num_trained == blocks.num_trained == (max_points_per_center or 100) * 9
    np.testing.assert_array_equal(whole.centers, blocks.centers)
    np.testing.assert_array_equal(whole.labels, blocks.labels)


def test_restarts_compete_on_a_sample_when_there_are_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = planted(2000, 6)
    monkeypatch.setattr("dxmc_core.method.clusters.kmeans._MIN_TRIAL_ROWS", 100)
    monkeypatch.setattr("dxmc_core.method.clusters.kmeans._TRIAL_ROWS_PER_CENTER", 20)
    monkeypatch.setattr("dxmc_core.method.clusters.kmeans._MIN_SEEDING_ROWS", 40)
    monkeypatch.setattr("dxmc_core.method.clusters.kmeans._MAX_SEEDING_ROWS", 30)
    result = spherical_kmeans(rows, 6, max_points_per_center=None)
    assert clustering_accuracy(labels, result.labels) == 1
    assert_consistent(result, rows)


def test_finalists_go_on_from_the_sample_to_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit(np.random.default_rng(0).standard_normal((6000, 12)))
    whole = spherical_kmeans(rows, 30, max_points_per_center=None, num_restarts=4)
    # On 60 rows the objective is far above that of all rows, which must not look like the end of all gains.
    monkeypatch.setattr("dxmc_core.method.clusters.kmeans._MIN_TRIAL_ROWS", 60)
    monkeypatch.setattr("dxmc_core.method.clusters.kmeans._TRIAL_ROWS_PER_CENTER", 1)
    sampled = spherical_kmeans(rows, 30, max_points_per_center=None, num_restarts=4)
    assert sampled.objective > whole.objective - 0.003


@pytest.mark.parametrize("num_iterations", [1, 3, 11])
def test_few_iterations_are_respected_and_still_consistent(num_iterations: int) -> None:
    rows = unit(np.random.default_rng(0).standard_normal((500, 6)))
    result = spherical_kmeans(rows, 15, num_iterations=num_iterations, num_restarts=3)
    assert_consistent(result, rows)
    assert result.objective <= spherical_kmeans(rows, 15, num_restarts=3).objective + 1e-6


def test_one_cluster_and_as_many_clusters_as_rows() -> None:
    rows, _ = planted(30, 4)
    one = spherical_kmeans(rows, 1)
    assert (one.labels == 0).all()
    assert_consistent(one, rows)
    each = spherical_kmeans(rows, 30)
    assert len(np.unique(each.labels)) == 30
    assert each.objective == pytest.approx(1, abs=1e-6)


def test_fewer_distinct_rows_than_clusters_leave_finite_empty_clusters() -> None:
    rows = np.repeat(unit(np.random.default_rng(0).standard_normal((3, 5))), 20, axis=0)
    result = spherical_kmeans(rows, 10)
    assert np.isfinite(result.centers).all()
    assert result.objective == pytest.approx(1, abs=1e-6)
    # Several centres lie on each row. Which of them its copies go to is a matter of rounding, but never to another's.
    of_rows = [set(result.labels[start : start + 20]) for start in (0, 20, 40)]
    assert len(set.union(*of_rows)) == sum(map(len, of_rows)) == 10 - result.num_empty


def test_many_copies_of_one_row_do_not_take_all_centers() -> None:
    rows, labels = planted(200, 8, noise=0.02)
    copies = np.repeat(rows[:1], 3000, axis=0)
    result = spherical_kmeans(np.concatenate([copies, rows]), 8)
    assert result.num_empty == 0
    assert clustering_accuracy(labels, result.labels[3000:]) == 1


def test_an_empty_cluster_moves_to_the_row_farthest_from_its_center(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = planted(300, 4, noise=0.05)
    bad_seeds = np.concatenate([rows[:1], rows[:1], rows[:1], rows[1:2]])

    def draw_bad_seeds(self: object, num_clusters: int, rng: np.random.Generator) -> torch.Tensor:
        return torch.from_numpy(bad_seeds.astype(np.float32))

    monkeypatch.setattr("dxmc_core.method.clusters.kmeans._Seeding.draw_centers", draw_bad_seeds)
    result = spherical_kmeans(rows, 4)
    assert result.num_empty == 0
    assert clustering_accuracy(labels, result.labels) == 1


def test_opposite_rows_have_no_mean_and_stay_finite() -> None:
    row = unit(np.random.default_rng(0).standard_normal((1, 4)))
    result = spherical_kmeans(np.concatenate([row, -row]), 1)
    assert np.isfinite(result.centers).all()
    np.testing.assert_allclose(np.linalg.norm(result.centers), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clusters": 11}, "at least as many rows as clusters, found 10 for 11"),
        ({"num_clusters": 0}, "num_clusters of at least 1, found 0"),
        ({"num_clusters": 2, "num_restarts": 0}, "num_restarts"),
        ({"num_clusters": 2, "num_iterations": 0}, "num_iterations"),
        ({"num_clusters": 2, "max_points_per_center": 0}, "max_points_per_center"),
        ({"num_clusters": 2, "weights": np.ones(9)}, r"weights of shape \(10,\)"),
        ({"num_clusters": 2, "weights": np.full(10, np.nan)}, "finite"),
        ({"num_clusters": 2, "weights": np.full(10, -1.0)}, "not negative"),
        ({"num_clusters": 2, "weights": np.eye(10)[0]}, "rows of positive weight as clusters, found 1 for 2"),
    ],
)
def test_unusable_arguments_are_explained(arguments: dict, message: str) -> None:
    rows, _ = planted(10, 2)
    with pytest.raises(ValueError, match=message):
        spherical_kmeans(rows, **arguments)


def test_rows_that_are_not_finite_are_refused_also_outside_the_sample() -> None:
    rows, _ = planted(500, 2)
    for bad in range(0, 500, 50):
        broken = rows.copy()
        broken[bad, 3] = np.nan
        with pytest.raises(ValueError, match="not finite"):
            spherical_kmeans(broken, 2, max_points_per_center=10)


def test_concatenation_weighs_both_modalities_alike() -> None:
    rng = np.random.default_rng(0)
    images, texts = rng.standard_normal((9, 4)) * 3, unit(rng.standard_normal((9, 6))).astype(np.float16)
    joined = concatenate_modalities(images, texts)
    assert joined.dtype == np.float32
    assert joined.shape == (9, 10)
    cosines = (unit(images) @ unit(images).T + unit(texts.astype(float)) @ unit(texts.astype(float)).T) / 2
    np.testing.assert_allclose(joined @ joined.T, cosines, atol=1e-5)
    with pytest.raises(ValueError, match="found 9 images and 8 text"):
        concatenate_modalities(images, texts[:8])


@pytest.mark.data
@pytest.mark.slow
def test_objective_on_clip_embeddings_is_not_below_faiss(evaluation_data: Path) -> None:
    rows = unit(np.load(evaluation_data / "clip_vitb32/dtd.npz")["embeddings"].astype(np.float32))
    num_clusters = 47
    reference = faiss.Kmeans(
        rows.shape[1], num_clusters, niter=300, nredo=10, spherical=True, seed=1, max_points_per_centroid=len(rows)
    )
    reference.train(rows)
    labels = reference.index.search(rows, 1)[1][:, 0]
    sums = np.stack([rows[labels == cluster].sum(axis=0) for cluster in range(num_clusters)])
    objective = np.linalg.norm(sums, axis=1).sum() / len(rows)
    result = spherical_kmeans(rows, num_clusters, max_points_per_center=None)
    assert result.objective > objective - 2e-4
    assert_consistent(result, rows)


@pytest.mark.parametrize("weighted", [False, True])
def test_two_levels_find_as_many_clusters_that_are_nearly_as_good(monkeypatch: pytest.MonkeyPatch, weighted) -> None:
    rows, _ = planted(1500, 60, noise=0.15)
    weights = np.random.default_rng(1).integers(1, 4, size=len(rows)).astype(np.float32) if weighted else None
    flat = spherical_kmeans(rows, 60, num_restarts=2, weights=weights)
    monkeypatch.setattr(kmeans, "MAX_FLAT", 16)
    told: list[WorkStep] = []
    found = spherical_kmeans(rows, 60, num_restarts=2, weights=weights, on_step=told.append)
    assert len(found.centers) == 60
    assert found.num_empty == 0
    assert_consistent(found, rows, weights)
    assert 1 - found.objective <= 1.15 * (1 - flat.objective)
    assert [step.done for step in told if step.doing == "k-means within parts"] == list(range(7))


def test_two_levels_of_copies_leave_finite_centers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "MAX_FLAT", 4)
    rows = np.repeat(unit(np.random.default_rng(0).standard_normal((3, 5))), 20, axis=0)
    result = spherical_kmeans(rows, 10)
    assert result.centers.shape == (10, 5)
    assert np.isfinite(result.centers).all()
    assert result.objective == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("sizes", "num_clusters", "expected"),
    [
        ([10, 20, 30], 6, [1, 2, 3]),
        ([1, 1, 1, 97], 50, [1, 1, 1, 47]),
        ([1, 2, 3], 6, [1, 2, 3]),
        ([1, 1, 4], 5, [1, 1, 3]),
    ],
)
def test_parts_get_clusters_in_proportion_and_no_more_than_they_have_rows(sizes, num_clusters, expected) -> None:
    parts = np.repeat(np.arange(len(sizes)), sizes)
    order = np.random.default_rng(0).permutation(len(parts))
    found = list(parts_with_counts(parts[order], num_clusters))
    assert [count for _, count in found] == expected
    for part, (members, _) in enumerate(found):
        assert np.array_equal(members, np.flatnonzero(parts[order] == part))
