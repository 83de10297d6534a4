"""Cells, probes and blocks against exact search."""

from dataclasses import replace

import numpy as np
import pytest

from dxmc_core.method.neighbors import inverted_file
from dxmc_core.method.neighbors.exact import nearest_neighbors
from dxmc_core.method.neighbors.inverted_file import (
    choose_num_probes,
    exact_scores,
    fill_file,
    make_cells,
    num_cells,
    recall,
    sample_rows,
    search_cells,
)
from dxmc_core.method.row_source import ArrayRows


def mixture(num_rows: int, num_components: int, *, width: int = 16, noise: float = 0.2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((num_components, width))
    rows = centers[rng.integers(num_components, size=num_rows)] + noise * rng.standard_normal((num_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def small_cells(monkeypatch):
    monkeypatch.setattr(inverted_file, "_ROWS_PER_CELL", 30)


def filled(rows):
    source = ArrayRows(rows)
    return source, fill_file(source, make_cells(source, seed=0))


@pytest.mark.usefixtures("small_cells")
@pytest.mark.parametrize("candidates_per_block", [50, 2**16])
def test_all_cells_give_the_exact_neighbors(monkeypatch, candidates_per_block):
    monkeypatch.setattr(inverted_file, "_CANDIDATES_PER_BLOCK", candidates_per_block)
    monkeypatch.setattr(inverted_file, "_SCORES_PER_BLOCK", 700)
    rows = mixture(600, 12)
    _, index = filled(rows)
    assert len(index.cells.centers) == index.cells.num_probes == 20
    positions = np.random.default_rng(1).permutation(600)[:400]
    found, scores = search_cells(index, positions, 8)
    exact = nearest_neighbors(rows, num_neighbors=8)[positions]
    assert (found == exact).mean() > 0.995  # near ties may change places by rounding
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(scores, np.einsum("qkd,qd->qk", unit[found], unit[positions]), atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (found != positions[:, None]).all()


@pytest.mark.usefixtures("small_cells")
def test_fewer_probes_find_less_and_the_recall_says_so():
    rows = mixture(1500, 5, noise=0.8)
    source, index = filled(rows)
    sample = sample_rows(index.cells, seed=0)
    exact = exact_scores(source, sample, 10)
    by_sets = nearest_neighbors(rows, num_neighbors=10)[sample]
    measured = {}
    for num_probes in (1, 4, 50):
        found, scores = search_cells(index, sample, 10, num_probes=num_probes)
        measured[num_probes] = recall(scores, exact)
        hits = np.mean([len(np.intersect1d(*rows)) / 10 for rows in zip(found, by_sets, strict=True)])
        assert measured[num_probes] == pytest.approx(hits, abs=0.005)
    assert measured[1] < measured[4] < measured[50] == 1
    tried = {}
    chosen, reached = choose_num_probes(index, sample, exact, min_recall=0.9, on_trial=tried.__setitem__)
    assert reached >= 0.9 > max(found for probes, found in tried.items() if probes < chosen.cells.num_probes)
    assert search_cells(chosen, sample, 10)[1] == pytest.approx(
        search_cells(index, sample, 10, num_probes=chosen.cells.num_probes)[1]
    )


@pytest.mark.usefixtures("small_cells")
def test_sharding_the_queries_changes_nothing_but_near_ties():
    rows = mixture(500, 8)
    _, index = filled(rows)
    index = replace(index, cells=replace(index.cells, num_probes=3))
    whole = search_cells(index, np.arange(500), 6)[0]
    parts = [search_cells(index, np.arange(start, min(start + 77, 500)), 6)[0] for start in range(0, 500, 77)]
    assert (np.concatenate(parts) == whole).mean() > 0.995


def test_duplicates_are_neighbors_of_one_another_and_a_cell_of_them_is_searched_in_blocks(monkeypatch):
    monkeypatch.setattr(inverted_file, "_CANDIDATES_PER_BLOCK", 64)
    monkeypatch.setattr(inverted_file, "_ROWS_PER_CELL", 50)
    rows = mixture(600, 6)
    rows[100:400] = rows[0]
    _, index = filled(rows)
    index = replace(index, cells=replace(index.cells, num_probes=1))
    found, scores = search_cells(index, np.arange(100, 400), 10)
    assert (scores > 0.999).all()
    assert all(len(set(row)) == 10 and query not in row for query, row in enumerate(found.tolist(), start=100))
    assert np.isin(found, [0, *range(100, 400)]).all()


@pytest.mark.usefixtures("small_cells")
def test_cells_with_too_few_rows_are_joined_by_further_ones():
    _, index = filled(mixture(90, 3))
    found, _ = search_cells(index, np.arange(90), 89, num_probes=1)
    assert all(sorted([query, *row]) == list(range(90)) for query, row in enumerate(found.tolist()))
    with pytest.raises(ValueError, match="between 1 and 89 for 90 rows, found 90"):
        search_cells(index, np.arange(3), 90)


def test_the_sample_is_of_rows_and_the_same_for_the_same_seed():
    source = ArrayRows(mixture(3000, 10))
    cells = make_cells(source, seed=0)
    sample = sample_rows(cells, seed=0)
    assert np.array_equal(sample, sample_rows(cells, seed=0))
    assert (np.diff(sample) > 0).all()
    assert len(np.unique(cells.labels[sample])) == len(cells.centers)


def test_cells_grow_with_the_rows_and_then_with_their_root():
    assert [num_cells(count) for count in (1, 1000, 100_000, 1_000_000, 10_000_000)] == [1, 4, 391, 2000, 6325]
