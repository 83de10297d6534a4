"""The gate on neighbours that keep clusters together and on neighbours that mix them."""

import numpy as np
import pytest

from dxmc_core.method.best.text_gate import text_agreement, text_weight

LABELS = np.repeat(np.arange(4), 30)


def _neighbors_within(purity: float, *, seed: int = 0) -> np.ndarray:
    """(N, 12) positions of which the given share lies in the row's own cluster."""
    rng = np.random.default_rng(seed)
    own = LABELS[:, None] * 30 + rng.integers(30, size=(120, 12))
    foreign = (LABELS[:, None] * 30 + 30 + rng.integers(90, size=(120, 12))) % 120
    return np.where(rng.random((120, 12)) < purity, own, foreign)


def test_agreement_is_the_ratio_of_shares_within_clusters():
    half = text_agreement(_neighbors_within(1.0), _neighbors_within(0.5, seed=1), LABELS)
    assert half == pytest.approx(0.5, abs=0.05)
    assert text_agreement(_neighbors_within(0.8), _neighbors_within(0.8, seed=1), LABELS) == pytest.approx(1, abs=0.05)


def test_only_the_ten_nearest_count():
    image_neighbors = _neighbors_within(1.0)
    text_neighbors = image_neighbors.copy()
    text_neighbors[:, 10:] = (text_neighbors[:, 10:] + 30) % 120
    assert text_agreement(image_neighbors, text_neighbors, LABELS) == 1


def test_images_without_any_agreement_bring_no_trust():
    assert text_agreement(_neighbors_within(0.0), _neighbors_within(1.0), LABELS) == 0


def test_weight_rises_from_nothing_to_one_and_stays_there():
    weights = [text_weight(agreement) for agreement in (0.0, 0.25, 0.5, 1.0, 1.5)]
    assert weights == pytest.approx([0, 0.0625, 0.25, 1, 1])
