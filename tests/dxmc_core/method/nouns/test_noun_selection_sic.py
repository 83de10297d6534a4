"""SIC's space: the union of the centres' nearest nouns without the general ones, whatever the block size is."""

import numpy as np
import pytest

from dxmc_core.method.nouns.noun_selection import select_nouns_sic
from dxmc_core.method.unit_rows import unit_rows


@pytest.mark.parametrize("centers_per_block", [1, 2, 64])
@pytest.mark.parametrize("limit", [0.3, 0.95])
def test_equals_a_naive_search(centers_per_block: int, limit: float) -> None:
    rng = np.random.default_rng(0)
    centers, nouns = rng.normal(size=(3, 6)), 0.3 + rng.normal(size=(30, 6))
    found = select_nouns_sic(
        centers, nouns, nouns_per_center=4, max_cosine_to_mean=limit, centers_per_block=centers_per_block
    )
    unit = unit_rows(nouns, name="nouns")
    union = set(np.argsort(-unit_rows(centers, name="centers") @ unit.T, axis=1)[:, :4].ravel().tolist())
    mean = unit.mean(axis=0) / np.linalg.norm(unit.mean(axis=0))
    assert found.tolist() == sorted(noun for noun in union if unit[noun] @ mean < limit)
    assert 0 < len(found) <= 12


def test_small_vocabularies_keep_what_there_is() -> None:
    assert select_nouns_sic(np.eye(3), np.ones((1, 3))).tolist() == [0]
    assert select_nouns_sic(np.eye(3), np.eye(3).repeat(2, axis=0)).tolist() == [0, 1, 2, 3, 4, 5]


def test_unusable_input_is_refused() -> None:
    with pytest.raises(ValueError, match="of one width"):
        select_nouns_sic(np.eye(3), np.eye(4))
    with pytest.raises(ValueError, match="expected at least one centre, one noun"):
        select_nouns_sic(np.eye(3), np.eye(3), nouns_per_center=0)
