"""Kinds of FAISS indexes: how they are chosen and filled, and that their recall is told against exact search."""

import numpy as np
import pytest

from dxmc_core.method.neighbors.inverted_file import make_cells
from dxmc_core.method.neighbors.search_index import (
    KINDS,
    IndexChoice,
    add_to_cells,
    choose_graph_effort,
    choose_kind,
    choose_probes,
    effort_of,
    empty_index,
    exact_results,
    num_pq_parts,
    recalls,
    search_rows,
    set_effort,
    train_codes,
)
from dxmc_core.method.row_source import ArrayRows

WIDTH = 32


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(30, WIDTH))
    values = centers[generator.integers(30, size=3000)] + 0.7 * generator.normal(size=(3000, WIDTH))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def row_ids():
    """With gaps, as rejects leave them."""
    return np.arange(3000) * 2 + 7


def filled(kind, rows, row_ids, *, num_cells=None):
    choice = IndexChoice(kind, "")
    if not choice.has_cells:
        index = empty_index(kind, WIDTH)
        index.add_with_ids(rows.astype(np.float32), row_ids)
        return index
    cells = make_cells(ArrayRows(rows), seed=0)
    index = empty_index(kind, WIDTH, centers=cells.centers)
    train_codes(index, rows.astype(np.float32))
    add_to_cells(index, rows, row_ids, cells.labels)
    return index


def brute_force(rows, row_ids, query, allowed=None):
    scores = rows.astype(np.float32) @ query
    order = np.argsort(-scores, kind="stable")
    order = order if allowed is None else order[allowed[row_ids[order]]]
    return row_ids[order], scores[order]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_finds_what_is_there(kind, rows, row_ids):
    index = filled(kind, rows, row_ids)
    if effort_of(index) is not None:
        set_effort(index, 3000 if kind == "hnsw" else index.nlist)
    queries = rows[::300].astype(np.float32)
    ids, scores = search_rows(index, queries, 10)
    for query, found, found_scores in zip(queries, ids, scores, strict=True):
        expected, expected_scores = brute_force(rows, row_ids, query)
        if IndexChoice(kind, "").is_lossy:
            assert np.isin(expected[:3], found).all()
        else:
            np.testing.assert_allclose(found_scores, expected_scores[:10], atol=1e-5)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
@pytest.mark.parametrize("share", [0.5, 0.004])
def test_only_allowed_rows_are_found_however_few(kind, share, rows, row_ids):
    index = filled(kind, rows, row_ids)
    set_effort(index, 64 if kind == "hnsw" else 6)
    allowed = np.zeros(row_ids[-1] + 1, dtype=bool)
    allowed[np.random.default_rng(1).choice(row_ids, int(share * 3000), replace=False)] = True
    query = rows[5].astype(np.float32)
    ids, scores = search_rows(index, query[None], 10, allowed=allowed)
    expected, expected_scores = brute_force(rows, row_ids, query, allowed)
    assert allowed[ids].all()
    if share < 0.01:  # so few that all of them are looked at
        np.testing.assert_allclose(scores[0], expected_scores[:10], atol=1e-5)
    assert ids[0, 0] == expected[0]


def test_exact_results_leave_out_the_query_itself_and_nothing_else(rows, row_ids):
    places = np.array([3, 900, 2999])
    queries = np.concatenate([rows[places], rows[:1]]).astype(np.float32)
    exact = exact_results(ArrayRows(rows), row_ids, queries, np.array([*row_ids[places], -1]), 20)
    for query, own, ids, scores in zip(queries, exact.own_ids, exact.ids, exact.scores, strict=True):
        expected, expected_scores = brute_force(rows, row_ids, query)
        kept = expected != own
        np.testing.assert_allclose(scores, expected_scores[kept][:20], atol=1e-5)
        assert own not in ids


@pytest.mark.parametrize("min_recall", [0.5, 0.9, 0.99, 1.0])
def test_probes_are_the_fewest_that_reach_the_recall(rows, row_ids, min_recall):
    cells = make_cells(ArrayRows(rows), seed=0)
    index = filled("ivf", rows, row_ids)
    exact = exact_results(ArrayRows(rows), row_ids, rows[::20].astype(np.float32), row_ids[::20], 50)
    of_results = cells.labels[np.searchsorted(row_ids, exact.ids)]
    choose_probes(index, [(exact, of_results)], min_recall=min_recall, num_results=10)
    chosen = effort_of(index)
    assert recalls(index, exact, [10], is_lossy=False)[0] >= min_recall
    if chosen > 1:
        set_effort(index, chosen - 1)
        assert recalls(index, exact, [10], is_lossy=False)[0] < min_recall


def test_recall_is_the_share_of_the_best_rows(rows, row_ids):
    index = filled("ivf", rows, row_ids)
    set_effort(index, 2)
    exact = exact_results(ArrayRows(rows), row_ids, rows[::20].astype(np.float32), row_ids[::20], 50)
    ids, _ = search_rows(index, exact.queries, 51)
    for count, found in zip((10, 50), recalls(index, exact, (10, 50), is_lossy=False), strict=True):
        mine = [
            np.isin(right[:count], of[of != own][:count])
            for right, of, own in zip(exact.ids, ids, row_ids[::20], strict=True)
        ]
        assert found == pytest.approx(np.mean(mine), abs=0.005)
        assert found < 1


def test_more_candidates_are_kept_in_a_graph_until_the_recall_is_reached(rows, row_ids):
    index = filled("hnsw", rows, row_ids)
    exact = exact_results(ArrayRows(rows), row_ids, rows[::20].astype(np.float32), row_ids[::20], 50)
    efforts = []
    for min_recall in (0.5, 0.98):
        choose_graph_effort(index, [exact], min_recall=min_recall, num_results=10)
        efforts.append(effort_of(index))
        assert recalls(index, exact, [10], is_lossy=False)[0] >= min_recall
    assert efforts[0] <= efforts[1]


def test_recall_of_lossy_codes_is_of_the_candidates(rows, row_ids):
    index = filled("ivf_pq", rows, row_ids)
    set_effort(index, index.nlist)
    exact = exact_results(ArrayRows(rows), row_ids, rows[::20].astype(np.float32), row_ids[::20], 50)
    ids, _ = search_rows(index, exact.queries, 11)
    first = np.mean([np.isin(right[:10], mine).mean() for right, mine in zip(exact.ids, ids, strict=True)])
    assert first < recalls(index, exact, [10], is_lossy=True)[0] <= 1


def test_kind_is_chosen_by_size_with_its_reason():
    kinds = {count: choose_kind(count, 512).kind for count in (50_000, 50_001, 4_000_000, 10**7, 10**8)}
    assert list(kinds.values()) == ["flat", "ivf", "ivf", "ivf_sq8", "ivf_pq"]
    assert choose_kind(10**6, 512).reason == "1,000,000 rows in float16 take 1.0 GiB, at most 4.0 GiB"
    assert [num_pq_parts(width) for width in (512, 768, 7, 640, 1152)] == [64, 64, 7, 64, 64]
