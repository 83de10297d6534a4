"""Embeddings of several encoders as one matrix."""

import numpy as np
import pytest

from dxmc_core.method.best.joined_encoders import encoder_scales, join_encoders, split_encoders
from dxmc_core.method.unit_rows import unit_rows


def _rows(width: int, seed: int) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).standard_normal((20, width)), name="rows")


def test_joined_rows_have_unit_norm_and_fall_apart_into_what_they_were_made_of():
    encoded = [_rows(8, 0), _rows(3, 1), _rows(5, 2)]
    joined = join_encoders(encoded)
    assert joined.shape == (20, 16)
    assert np.allclose(np.linalg.norm(joined, axis=1), 1, atol=1e-6)
    # The mean of the cosines is the cosine of the joined rows.
    assert np.allclose(joined @ joined.T, np.mean([rows @ rows.T for rows in encoded], axis=0), atol=1e-6)
    for found, rows in zip(split_encoders(joined, [8, 3, 5]), encoded, strict=True):
        assert np.allclose(unit_rows(found, name="rows"), rows, atol=1e-6)


def test_one_encoder_is_left_as_it_is():
    rows = _rows(4, 0).astype(np.float16)
    assert join_encoders([rows]) is rows
    assert split_encoders(rows, ())[0] is rows


def test_widths_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match=r"expected embeddings of widths \[2, 3\] side by side, found 4 columns"):
        split_encoders(_rows(4, 0), [2, 3])


def test_scales_weigh_encoders_and_keep_the_norm():
    encoded = [_rows(4, 0), _rows(6, 1)]
    scales = encoder_scales([1.0, 0.5])
    scaled = join_encoders([scale * rows for scale, rows in zip(scales, encoded, strict=True)])
    assert np.allclose(np.linalg.norm(scaled, axis=1), 1, atol=1e-6)
    first, second = split_encoders(scaled, [4, 6])
    assert np.allclose(np.linalg.norm(second, axis=1) / np.linalg.norm(first, axis=1), 0.5)
