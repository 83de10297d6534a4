"""Rows come out in float32 at unit norm whatever they are stored in, and bad rows are named."""

import numpy as np
import pytest

from dxmc_core.method.unit_rows import to_unit_norm, unit_rows


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


@pytest.mark.parametrize(
    ("value", "found"), [(0.0, "is all zeros"), (np.nan, "has .*finite"), (np.inf, "has .*finite")]
)
def test_a_bad_row_is_named_by_its_position(value: float, found: str) -> None:
    rows = np.ones((20_000, 4))
    rows[17_000] = value
    with pytest.raises(ValueError, match=rf"expected images .*row 17005 {found}"):
        unit_rows(rows, name="images", first_row=5)


@pytest.mark.parametrize("rows", [np.ones(4), np.ones((2, 2, 2)), np.array([["a"]]), np.ones((2, 2), dtype=complex)])
def test_only_real_matrices_are_taken(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="real type"):
        unit_rows(rows, name="rows")


@pytest.mark.parametrize(
    ("dtype", "length"),
    [
        (np.float32, 1e26),
        (np.float32, 1e-26),
        (np.float32, 3e38),
        (np.float32, 1e-38),
        (np.float64, 1e300),
        (np.float64, 1e-300),
        (np.float16, 6e-5),
    ],
)
def test_rows_of_any_length_have_a_direction(dtype: type, length: float) -> None:
    rows = np.array([[3.0, 4.0], [0.3, -0.4], [0.0, 1.0]]).astype(dtype)
    rows[1] = np.array([0.3, -0.4]) * length
    before = rows.copy()
    np.testing.assert_allclose(unit_rows(rows, name="rows"), [[0.6, 0.8], [0.6, -0.8], [0.0, 1.0]], rtol=2e-3)
    np.testing.assert_array_equal(rows, before)


def test_lengths_that_differ_within_a_row_do_not_matter() -> None:
    unit, has_direction = to_unit_norm(np.array([[1e300, 1e-300], [5e-324, 0.0], [1e308, 1e308]]))
    assert has_direction.all()
    np.testing.assert_allclose(unit, [[1, 0], [1, 0], [0.5**0.5, 0.5**0.5]], rtol=1e-6)


def test_what_has_no_direction_is_said_and_becomes_zeros() -> None:
    rows = np.array([[1e26, 0], [0, 0], [np.nan, 1], [np.inf, 1], [-np.inf, np.inf]], dtype=np.float32)
    unit, has_direction = to_unit_norm(rows)
    assert has_direction.tolist() == [True, False, False, False, False]
    np.testing.assert_array_equal(unit, [[1, 0], *[[0, 0]] * 4])
