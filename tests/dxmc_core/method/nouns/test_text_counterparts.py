"""Text counterparts against the formula in float64, in any blocks, for any company and with few nouns."""

import numpy as np
import pytest

from dxmc_core.method.nouns.text_counterparts import compute_text_counterparts


def random_unit(num_rows: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive_counterpart(image: np.ndarray, nouns: np.ndarray, temperature: float, top_k: int | None) -> np.ndarray:
    logits = [float(image.astype(np.float64) @ noun.astype(np.float64)) / temperature for noun in nouns]
    kept = sorted(range(len(nouns)), key=lambda noun: -logits[noun])[:top_k]
    weights = {noun: np.exp(logits[noun] - max(logits)) for noun in kept}
    mixture = sum(weight * nouns[noun].astype(np.float64) for noun, weight in weights.items())
    return mixture / np.linalg.norm(mixture)


@pytest.mark.parametrize("top_k", [None, 1, 4, 99])
@pytest.mark.parametrize("temperature", [0.005, 0.05, 1.0])
def test_counterparts_follow_the_formula(temperature: float, top_k: int | None) -> None:
    images, nouns = random_unit(23, 8, 0), random_unit(17, 8, 1)
    found = compute_text_counterparts(images, nouns, temperature=temperature, top_k=top_k, block_size=10)
    assert found.dtype == np.float32
    for row, image in enumerate(images):
        np.testing.assert_allclose(found[row], naive_counterpart(image, nouns, temperature, top_k), atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("block_size", [1, 3, 512])
def test_blocks_do_not_change_the_result(block_size: int) -> None:
    images, nouns = random_unit(50, 16, 0), random_unit(30, 16, 1)
    expected = compute_text_counterparts(images, nouns, temperature=0.01)
    found = compute_text_counterparts(images, nouns, temperature=0.01, block_size=block_size)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_an_image_does_not_depend_on_its_company() -> None:
    images, nouns = random_unit(300, 64, 0), random_unit(100, 64, 1)
    together = compute_text_counterparts(images, nouns, temperature=0.005, block_size=128)
    parts = [compute_text_counterparts(part, nouns, temperature=0.005, block_size=128) for part in np.split(images, 6)]
    np.testing.assert_array_equal(together, np.concatenate(parts))


def test_stored_types_and_unnormalised_rows_are_taken() -> None:
    images, nouns = random_unit(5, 8, 0), random_unit(6, 8, 1)
    expected = compute_text_counterparts(images, nouns, temperature=0.1)
    scaled = compute_text_counterparts((3 * images).astype(np.float64), nouns * 7, temperature=0.1)
    np.testing.assert_allclose(scaled, expected, atol=1e-5)
    stored = compute_text_counterparts(images.astype(np.float16), nouns.astype(np.float16), temperature=0.1)
    np.testing.assert_allclose(stored, expected, atol=2e-2)


def test_one_noun_is_every_counterpart() -> None:
    images, noun = random_unit(4, 8, 0), random_unit(1, 8, 1)
    found = compute_text_counterparts(images, noun, temperature=0.005)
    np.testing.assert_allclose(found, np.repeat(noun, 4, axis=0), atol=1e-6)


def test_nouns_that_cancel_out_leave_the_nearest_one() -> None:
    nouns = np.array([[1.0, 0.0], [-1.0, 0.0]])
    found = compute_text_counterparts(np.array([[0.0, 1.0]]), nouns, temperature=1.0)
    np.testing.assert_allclose(found, [[1.0, 0.0]])


def test_no_images_give_no_counterparts() -> None:
    found = compute_text_counterparts(np.empty((0, 8), dtype=np.float16), random_unit(3, 8, 0), temperature=1.0)
    assert found.shape == (0, 8)


def test_unusable_arguments_are_explained() -> None:
    images, nouns = random_unit(3, 8, 0), random_unit(10, 8, 1)
    with pytest.raises(ValueError, match="same encoder"):
        compute_text_counterparts(images, nouns[:, :6], temperature=0.1)
    with pytest.raises(ValueError, match="at least one selected noun"):
        compute_text_counterparts(images, nouns[:0], temperature=0.1)
    for settings in ({"temperature": 0.0}, {"temperature": float("nan")}, {"temperature": 1.0, "top_k": 0}):
        with pytest.raises(ValueError, match="temperature above 0"):
            compute_text_counterparts(images, nouns, **settings)
    images[2] = 0
    with pytest.raises(ValueError, match="row 2 is all zeros"):
        compute_text_counterparts(images, nouns, temperature=0.1, block_size=2)
