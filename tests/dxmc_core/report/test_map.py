"""The 2-D layout and its sample."""

import numpy as np
import pytest

from dxmc_core.report.map import project_2d, sample_for_map


def planted(num_clusters: int, size: int, *, width: int = 32, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Unit-norm float16 embeddings around random directions, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_clusters), size)
    embeddings = rng.normal(size=(num_clusters, width))[labels] / width**0.5 + noise * rng.normal(
        size=(len(labels), width)
    )
    return (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float16), labels


def test_planted_clusters_stay_together():
    embeddings, labels = planted(5, 40)
    projection = project_2d(embeddings)
    assert projection.method == "t-SNE"
    distances = np.linalg.norm(projection.xy[:, None] - projection.xy[None], axis=-1) + 9 * np.eye(len(labels))
    nearest = np.argsort(distances, axis=1)[:, :5]
    assert (labels[nearest] == labels[:, None]).mean() > 0.95


def test_map_fills_the_unit_square_and_lies_flat():
    xy = project_2d(planted(4, 30)[0]).xy
    assert xy.dtype == np.float32
    assert xy.min() >= -1e-6
    assert xy.max() <= 1 + 1e-6
    width, height = np.ptp(xy, axis=0)
    assert width == pytest.approx(1, abs=1e-5) or height == pytest.approx(1, abs=1e-5)
    assert np.std(xy[:, 0]) >= np.std(xy[:, 1])


def test_same_seed_same_map():
    embeddings, _ = planted(3, 30)
    first, second = project_2d(embeddings, max_points=50, seed=4), project_2d(embeddings, max_points=50, seed=4)
    np.testing.assert_array_equal(first.positions, second.positions)
    np.testing.assert_array_equal(first.xy, second.xy)
    assert not np.array_equal(first.positions, project_2d(embeddings, max_points=50, seed=5).positions)


def test_more_rows_than_points_are_sampled():
    projection = project_2d(planted(3, 40)[0], max_points=30)
    assert projection.xy.shape == (30, 2)
    assert len(np.unique(projection.positions)) == 30
    assert projection.positions.max() < 120


@pytest.mark.parametrize("num_rows", [0, 1, 2, 3, 4, 5, 6])
def test_few_rows_have_a_place_each(num_rows):
    projection = project_2d(planted(num_rows or 1, 1)[0][:num_rows])
    assert projection.xy.shape == (num_rows, 2)
    assert np.isfinite(projection.xy).all()
    assert projection.method == ("PCA" if num_rows < 5 else "t-SNE")
    assert len(np.unique(projection.xy, axis=0)) == num_rows


def test_identical_rows_lie_in_the_middle():
    projection = project_2d(np.tile(planted(1, 1)[0], (20, 1)))
    np.testing.assert_array_equal(projection.xy, np.full((20, 2), 0.5, dtype=np.float32))


def test_many_duplicates_among_others_stay_finite():
    embeddings = planted(3, 20)[0]
    embeddings[5:40] = embeddings[5]
    assert np.isfinite(project_2d(embeddings).xy).all()


def test_rows_that_are_not_finite_are_refused():
    embeddings = planted(2, 5)[0]
    embeddings[3, 1] = np.nan
    with pytest.raises(ValueError, match="finite embeddings"):
        project_2d(embeddings)


def test_sample_shows_every_cluster():
    cluster_ids = np.repeat([0, 1, 2, 3], [10_000, 900, 25, 1])
    positions = sample_for_map(cluster_ids, max_points=200)
    counts = np.bincount(cluster_ids[positions], minlength=4)
    assert counts.sum() == 200
    assert counts[3] == 1
    # By the square roots of 10,000, 900 and 25.
    assert counts[0] > 2 * counts[1] > 4 * counts[2] > 0
    assert (np.diff(positions) > 0).all()


def test_sample_of_everything_and_of_less_than_a_point_a_cluster():
    np.testing.assert_array_equal(sample_for_map(np.array([3, 1, 1]), max_points=5), [0, 1, 2])
    cluster_ids = np.arange(100) % 50
    positions = sample_for_map(cluster_ids, max_points=20)
    assert len(np.unique(cluster_ids[positions])) == 20
