"""Products of 8 bits err as much as they say, whatever the rows look like."""

import numpy as np
import pytest
import torch

from dxmc_core.method.neighbors import int8_rows
from dxmc_core.method.neighbors.int8_rows import Int8Rows


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


RNG = np.random.default_rng(0)
ROWS = {
    "gaussian": unit(RNG.standard_normal((20_000, 128))),
    "cone with large columns": unit(RNG.standard_normal((3000, 128)) + np.where(np.arange(128) < 2, 40, 3)),
    "one column each": np.eye(128, dtype=np.float32),
    "all equal": unit(np.ones((300, 128)) * np.arange(128)),
    "one far from the others": unit(np.concatenate([np.ones((500, 128)) + 0.01, -np.ones((1, 128))])),
}


@pytest.mark.parametrize("name", ROWS)
def test_errors_are_as_large_as_stated(name: str) -> None:
    rows = ROWS[name]
    rounded = Int8Rows.of(rows)
    assert rounded.values.dtype == torch.int8
    queries = torch.from_numpy(rows[:200])
    found = rounded.queries(queries)
    products = torch._int_mm(found.values, rounded.values.T)
    approximate = found.scale[:, None] * products + found.offset[:, None]
    errors = (approximate.double() - queries.double() @ torch.from_numpy(rows).double().T).abs()
    assert (errors <= found.tolerance[:, None]).all()
    # Not a bound from far away either: the typical error of a typical row is a good part of a sixth of it.
    if name == "gaussian":
        typical = found.tolerance.double() / int8_rows._NUM_DEVIATIONS
        np.testing.assert_allclose(errors.square().mean(dim=1).sqrt(), typical, rtol=0.15)


def test_rows_that_8_bits_hold_exactly_err_by_what_float32_does() -> None:
    """Whatever row it is that all are equal to: of twenty, some err by more than six steps."""
    for row in np.random.default_rng(0).standard_normal((20, 128)):
        rows = unit(np.tile(row, (30, 1)))
        rounded = Int8Rows.of(rows)
        found = rounded.queries(torch.from_numpy(rows))
        approximate = found.scale[:, None] * torch._int_mm(found.values, rounded.values.T) + found.offset[:, None]
        exact = torch.from_numpy(rows).double() @ torch.from_numpy(rows).double().T
        assert ((approximate.double() - exact).abs() <= found.tolerance[:, None]).all()


def test_the_same_rows_are_rounded_alike() -> None:
    first, second = (Int8Rows.of(ROWS["gaussian"]) for _ in range(2))
    assert torch.equal(first.values, second.values)
    assert first.step == second.step
