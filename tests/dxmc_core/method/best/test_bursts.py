"""Bursts of near copies: what counts as one, what does not, and the neighbours of those that are kept."""

import numpy as np
import pytest

from dxmc_core.method.best.bursts import Bursts
from dxmc_core.method.neighbors.exact import nearest_neighbors
from dxmc_core.method.unit_rows import unit_rows

_NUM_CLASSES, _PER_CLASS, _WIDTH = 8, 50, 32


def _unit(rows: np.ndarray) -> np.ndarray:
    return unit_rows(rows, name="rows")


def _classes(*, noise: float = 0.5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = _unit(rng.standard_normal((_NUM_CLASSES, _WIDTH)))
    rows = centers.repeat(_PER_CLASS, axis=0)
    return _unit(rows + noise * rng.standard_normal(rows.shape) / np.sqrt(_WIDTH))


def _near(rows: np.ndarray, distance: float, *, seed: int = 1) -> np.ndarray:
    """A near copy of each row, some 1 - cosine away."""
    noise = _unit(np.random.default_rng(seed).standard_normal(rows.shape))
    return _unit(rows + np.sqrt(2 * distance) * noise)


def _found(images: np.ndarray, **settings) -> Bursts:
    candidates = nearest_neighbors(images, num_neighbors=min(50, len(images) - 1))
    return Bursts.of(images, candidates, _NUM_CLASSES, **settings)


def test_of_a_burst_one_image_is_kept():
    images = _classes()
    bursts = _found(np.concatenate([images, _near(images[[3, 60]].repeat(6, axis=0), 0.004)]))
    np.testing.assert_array_equal(bursts.kept, np.arange(len(images)))
    np.testing.assert_array_equal(bursts.place[len(images) :], [3] * 6 + [60] * 6)
    assert bursts.num_copies == 12
    np.testing.assert_array_equal(bursts.of_all(np.arange(len(images))), bursts.place)


def test_without_copies_all_are_kept():
    images = _classes()
    bursts = _found(images)
    assert bursts.num_copies == 0
    assert bursts.once(images) is images


def test_equal_images_more_than_neighbors():
    images = np.concatenate([_classes(), np.tile(_classes()[3], (60, 1))])
    assert _found(images).num_copies == 0, "sixty are more than half a cluster"
    bursts = Bursts.of(images, nearest_neighbors(images, num_neighbors=20), 2)
    assert bursts.num_copies == 60


def test_a_class_of_look_alikes_is_no_burst():
    """Twenty images, dense in the middle and thin at the edges."""
    images = _classes()[_PER_CLASS - 20 :]
    alike = images[:20].mean(axis=0)
    images[:20] = _unit(alike + np.geomspace(0.05, 0.5, 20)[:, None] * (images[:20] - alike))
    cosines = images[:20] @ images[:20].T
    assert np.mean(cosines > 0.98) > 0.5
    assert _found(images).num_copies == 0


def test_groups_far_from_everything_are_classes():
    tight = _unit(np.random.default_rng(11).standard_normal((12, _WIDTH))).repeat(10, axis=0)
    bursts = _found(np.concatenate([_classes(), _near(tight, 0.004), _near(_classes()[[3]].repeat(6, axis=0), 0.004)]))
    assert bursts.num_copies == 6


def test_more_different_images_than_clusters_are_left():
    two = _unit(np.random.default_rng(0).standard_normal((2, _WIDTH)))
    images = np.concatenate([np.tile(two[0], (190, 1)), _near(two[[1]].repeat(10, axis=0), 0.004)])
    assert _found(images).num_copies == 0


def test_where_all_images_look_alike_copies_do_so_more():
    images = _classes()
    alike = _unit(_unit(np.ones((1, _WIDTH))) + 0.1 * images)
    assert np.min(alike @ alike.T) > 0.97
    bursts = _found(np.concatenate([alike, _near(alike[[3]].repeat(5, axis=0), 1e-5)]))
    np.testing.assert_array_equal(bursts.kept, np.arange(len(alike)))


def test_who_is_always_kept_stands_for_itself():
    images = _classes()
    copied = np.concatenate([images, _near(images[[3]].repeat(6, axis=0), 0.004)])
    bursts = _found(copied, always_kept=np.array([3, 7, len(copied) - 1]))
    np.testing.assert_array_equal(bursts.kept, [*range(len(images)), len(copied) - 1])
    np.testing.assert_array_equal(bursts.place[len(images) :], [3] * 5 + [len(images)])


@pytest.mark.parametrize("num_copies", [3, 12])
def test_candidates_of_those_that_are_kept(num_copies):
    images = _classes()
    everyone = np.concatenate([images, _near(images[::10].repeat(num_copies, axis=0), 0.004)])
    candidates = nearest_neighbors(everyone, num_neighbors=20)
    bursts = Bursts.of(everyone, candidates, _NUM_CLASSES)
    found = bursts.candidates_of_kept(images, candidates, device="cpu")
    assert len(bursts.kept) == len(images)
    assert found.shape == (len(images), 20)
    assert not (found == np.arange(len(images))[:, None]).any()
    assert all(len(np.unique(row)) == 20 for row in found)
    exact = nearest_neighbors(images, num_neighbors=20)
    shared = [len(np.intersect1d(*rows)) for rows in zip(found, exact, strict=True)]
    assert np.mean(shared) > 19.5
