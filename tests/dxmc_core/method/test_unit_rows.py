"""Rows come out in float32 at unit norm whatever they are stored in, and bad rows are named."""

import numpy as np
import pytest

from dxmc_core.method.unit_rows import unit_rows


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_any_real_type_becomes_float32_of_unit_norm(dtype: type) -> None:
    rows = (np.random.default_rng(0).standard_normal((50, 7)) * 9).astype(dtype)
    rows[:, 0] += 1  # no zero rows among the integers
    found = unit_rows(rows, name="rows")
    assert found.dtype == np.float32
    expected = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=2e-7)


def test_the_input_is_left_alone() -> None:
    rows = np.full((3, 2), 5.0, dtype=np.float32)
    unit_rows(rows, name="rows")
    assert (rows == 5).all()


def test_a_row_does_not_depend_on_its_companions() -> None:
    rows = np.random.default_rng(0).standard_normal((20_000, 5)).astype(np.float16)
    together = unit_rows(rows, name="rows")
    np.testing.assert_array_equal(together[16_380:16_390], unit_rows(rows[16_380:16_390], name="rows"))


@pytest.mark.parametrize(("value", "found"), [(0.0, "norm 0"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_a_bad_row_is_named_by_its_position(value: float, found: str) -> None:
    rows = np.ones((20_000, 4))
    rows[17_000] = value
    with pytest.raises(ValueError, match=rf"expected images .*row 17005 has .*{found}"):
        unit_rows(rows, name="images", first_row=5)


@pytest.mark.parametrize("rows", [np.ones(4), np.ones((2, 2, 2)), np.array([["a"]]), np.ones((2, 2), dtype=complex)])
def test_only_real_matrices_are_taken(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="real type"):
        unit_rows(rows, name="rows")
