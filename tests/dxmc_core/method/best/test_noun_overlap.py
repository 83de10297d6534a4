"""Mixtures of nouns and their overlap against loops."""

import numpy as np
import pytest

from dxmc_core.method.best import noun_overlap
from dxmc_core.method.best.noun_overlap import neighbor_overlap, noun_mixtures


def _unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.standard_normal(shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def images() -> np.ndarray:
    return _unit(np.random.default_rng(0), 30, 8)


def _weights(images: np.ndarray, nouns: np.ndarray) -> np.ndarray:
    """(N, S) float64: softmax over the 20 nearest nouns, 0 for the others."""
    weights = np.zeros((len(images), len(nouns)))
    for image, scores in enumerate(images.astype(np.float64) @ nouns.T.astype(np.float64)):
        nearest = sorted(range(len(nouns)), key=lambda noun: -scores[noun])[:20]
        exponentials = np.exp((scores[nearest] - scores.max()) / 0.01)
        weights[image, nearest] = exponentials / exponentials.sum()
    return weights


@pytest.mark.parametrize("num_nouns", [1, 7, 60])
def test_overlap_is_that_of_a_loop(images, num_nouns):
    nouns = _unit(np.random.default_rng(1), num_nouns, 8)
    neighbors = np.random.default_rng(2).integers(0, 30, size=(30, 4)).astype(np.int32)
    weights = _weights(images, nouns)
    expected = [
        [np.sqrt(weights[image] * weights[neighbor]).sum() for neighbor in neighbors[image]] for image in range(30)
    ]
    found = neighbor_overlap(noun_mixtures(images, nouns), neighbors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_mixtures_sum_to_one_and_an_image_overlaps_wholly_with_itself_and_its_copies(images):
    mixtures = noun_mixtures(images, _unit(np.random.default_rng(1), 50, 8))
    assert mixtures.nouns.shape == (30, 20)
    np.testing.assert_allclose((mixtures.roots**2).sum(axis=1), 1, atol=1e-5)
    overlap = neighbor_overlap(mixtures, np.arange(30)[:, None])
    np.testing.assert_allclose(overlap, 1, atol=1e-5)
    assert overlap.max() <= 1


def test_images_of_other_nouns_do_not_overlap():
    images = np.eye(4, dtype=np.float32)
    overlaps = neighbor_overlap(noun_mixtures(images, images), np.array([[1], [0], [2], [3]]))
    np.testing.assert_allclose(overlaps[:, 0], [0, 0, 1, 1], atol=1e-6)


def test_the_norm_of_nouns_does_not_matter(images):
    nouns = _unit(np.random.default_rng(1), 12, 8)
    neighbors = np.roll(np.arange(30), 1)[:, None]
    found = [neighbor_overlap(noun_mixtures(images, scale * nouns), neighbors) for scale in (1, 7)]
    np.testing.assert_allclose(*found, atol=1e-3)


def test_the_result_does_not_depend_on_the_block_size(images, monkeypatch):
    nouns = _unit(np.random.default_rng(1), 40, 8)
    neighbors = np.random.default_rng(2).integers(0, 30, size=(30, 3))
    whole = neighbor_overlap(noun_mixtures(images, nouns), neighbors)
    monkeypatch.setattr(noun_overlap, "_VALUES_PER_BLOCK", 1)  # 16 rows at a time
    np.testing.assert_allclose(neighbor_overlap(noun_mixtures(images, nouns), neighbors), whole, atol=1e-3)


def test_nouns_of_another_width(images):
    with pytest.raises(ValueError, match="selected_nouns"):
        noun_mixtures(images, np.ones((5, 7)))


def test_a_noun_that_is_no_direction(images):
    nouns = _unit(np.random.default_rng(1), 5, 8)
    nouns[3] = 0
    with pytest.raises(ValueError, match=r"selected_nouns.*row 3"):
        noun_mixtures(images, nouns)
