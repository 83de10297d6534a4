import numpy as np
import pytest
import torch

from dxmc_core.encoders.batching import map_batches, normalize_rows, rows_by_length


@pytest.mark.parametrize("num_rows", [0, 1, 3, 4, 9])
def test_every_pass_has_the_same_size_and_the_rows_come_back_in_order(num_rows):
    sizes = []

    def double(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return 2 * batch

    rows = np.arange(num_rows * 2, dtype=np.float32).reshape(num_rows, 2)
    assert np.array_equal(map_batches(double, rows, device="cpu", batch_size=4, width=2), 2 * rows)
    assert sizes == [4] * -(-num_rows // 4)


def test_rows_by_length_covers_every_row_once():
    groups = dict(rows_by_length(np.array([3, 7, 3, 5, 7])))
    assert {length: rows.tolist() for length, rows in groups.items()} == {3: [0, 2], 5: [3], 7: [1, 4]}


def test_normalize_rows_leaves_a_zero_row_zero():
    vectors = normalize_rows(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    assert np.allclose(vectors, [[0.6, 0.8], [0.0, 0.0]])
    assert vectors.dtype == np.float32


@pytest.mark.parametrize("length", [1e30, 1e-30])
def test_normalize_rows_takes_rows_of_any_length_and_leaves_what_is_not_finite(length):
    vectors = normalize_rows(np.array([[3 * length, 4 * length], [np.nan, 1.0], [np.inf, 1.0]], dtype=np.float32))
    assert np.allclose(vectors[0], [0.6, 0.8])
    assert np.isnan(vectors[1, 0])
    assert np.isinf(vectors[2, 0])
