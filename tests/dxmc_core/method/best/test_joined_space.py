"""The joined space against an exact eigendecomposition, and its invariants."""

import numpy as np
import pytest
import torch

from dxmc_core.method.best import joined_space
from dxmc_core.method.best.joined_space import principal_rows
from dxmc_core.runtime.threads import torch_threads


def _views(num_rows: int, *widths: int, seed: int = 0) -> list[np.ndarray]:
    """Unit rows whose directions differ in variance, so that the leading ones are well apart."""
    rng = np.random.default_rng(seed)
    views = [0.5 + rng.standard_normal((num_rows, width)) * np.geomspace(1, 0.01, width) for width in widths]
    return [(view / np.linalg.norm(view, axis=1, keepdims=True)).astype(np.float32) for view in views]


def _exact(views: list[np.ndarray], num_directions: int) -> np.ndarray:
    rows = np.concatenate(views, axis=1).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    centered = rows - rows.mean(axis=0)
    axes = np.linalg.eigh(centered.T @ centered)[1][:, ::-1][:, :num_directions]
    reduced = centered @ axes
    return reduced / np.linalg.norm(reduced, axis=1, keepdims=True)


def _cosines(rows: np.ndarray) -> np.ndarray:
    """What does not depend on the signs of the axes."""
    return rows @ rows.T


def test_it_is_the_exact_eigendecomposition_of_the_views_side_by_side():
    views = _views(80, 6, 9)
    found = principal_rows(views, 5)
    assert (found.shape, found.dtype) == ((80, 5), np.float32)
    np.testing.assert_allclose(_cosines(found), _cosines(_exact(views, 5)), atol=1e-4)


def test_small_steps_take_one_thread(monkeypatch):
    threads, qr = [], torch.linalg.qr

    def counted(matrix):
        threads.append(torch.get_num_threads())
        return qr(matrix)

    monkeypatch.setattr(torch.linalg, "qr", counted)
    monkeypatch.setattr(joined_space, "_MAX_EXACT_WIDTH", 10)
    with torch_threads(2):
        principal_rows(_views(200, 60, 60), 5)
        assert torch.get_num_threads() == 2
    assert set(threads) == {1}


def test_subspace_iterations_find_the_same_directions(monkeypatch):
    views = _views(200, 60, 60)
    monkeypatch.setattr(joined_space, "_MAX_EXACT_WIDTH", 10)
    monkeypatch.setattr(joined_space, "_SPARE_DIRECTIONS", 8)
    np.testing.assert_allclose(_cosines(principal_rows(views, 12)), _cosines(_exact(views, 12)), atol=1e-3)


def test_the_result_does_not_depend_on_the_block_size(monkeypatch):
    views = _views(70, 5, 4)
    whole = principal_rows(views, 6)
    monkeypatch.setattr(joined_space, "_ROWS_PER_BLOCK", 16)
    np.testing.assert_allclose(_cosines(principal_rows(views, 6)), _cosines(whole), atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_float_types_agree(dtype):
    views = _views(50, 6)
    found = principal_rows([view.astype(dtype) for view in views], 4)
    np.testing.assert_allclose(_cosines(found), _cosines(principal_rows(views, 4)), atol=0.02)


def test_all_directions_keep_the_cosines_around_the_mean():
    views = _views(40, 5)
    centered = views[0] - views[0].mean(axis=0)
    centered /= np.linalg.norm(centered, axis=1, keepdims=True)
    found = principal_rows(views, 99)
    assert found.shape == (40, 5)
    np.testing.assert_allclose(_cosines(found), _cosines(centered), atol=1e-4)


def test_a_view_twice_changes_nothing():
    views = _views(40, 6)
    np.testing.assert_allclose(_cosines(principal_rows(views * 2, 4)), _cosines(principal_rows(views, 4)), atol=1e-4)


def test_rows_without_content_are_unit_rows_too():
    """As where a view's share of the norm is 0, or all rows are equal."""
    silent = np.zeros((6, 3), dtype=np.float32)
    for views in ([silent], [np.ones((6, 3), dtype=np.float32)], [silent, *_views(6, 4)]):
        found = principal_rows(views)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
