"""How far a further encoder is trusted: what agrees with the first, what is noise, and what lies between."""

import numpy as np
import pytest

from dxmc_core.method.best.encoder_gate import encoder_agreement, encoder_weight

LABELS = np.repeat(np.arange(10), 50)


def _neighbors(share: float, *, seed: int) -> np.ndarray:
    """Ten neighbours of each row: such a share of them of its own cluster, the others drawn from all rows."""
    rng = np.random.default_rng(seed)
    inside = 50 * LABELS[:, None] + rng.integers(50, size=(500, 10))
    return np.where(rng.random((500, 10)) < share, inside, rng.integers(500, size=(500, 10)))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_agreement_is_the_share_beyond_chance_of_the_firsts_own(share):
    first = _neighbors(0.9, seed=0)
    found = encoder_agreement(first, _neighbors(share, seed=1), LABELS)
    assert found == pytest.approx(share / 0.9, abs=0.03)


def test_neighbors_at_random_count_for_nothing_however_few_the_clusters_are():
    labels, rng = np.repeat([0, 1], 250), np.random.default_rng(0)
    near = np.where(np.arange(500)[:, None] < 250, 0, 250) + rng.integers(250, size=(500, 10))
    found = encoder_agreement(near, rng.integers(500, size=(500, 10)), labels)
    assert found < 0.05
    assert encoder_weight(found) < 0.05


def test_clusters_that_the_first_does_not_keep_apart_say_nothing():
    assert encoder_agreement(_neighbors(0, seed=0), _neighbors(0.9, seed=1), np.zeros(500, dtype=np.int64)) == 0


def test_weight_grows_with_the_agreement_to_that_of_the_first():
    weights = [encoder_weight(agreement) for agreement in (0.0, 0.25, 0.5, 1.0, 1.2)]
    assert weights == sorted(weights)
    assert (weights[0], weights[-2:]) == (0, [1, 1])
