"""Neighbours against brute force in plain loops; self, duplicates, ties and shards; in 8 bits first, and in float32."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dxmc_core.method.neighbors import exact as neighbors
from dxmc_core.method.neighbors.exact import build_index, nearest_neighbors, search, search_with_scores
from dxmc_core.runtime.threads import torch_threads


def random_unit(num_rows: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute_force(rows: np.ndarray, num_neighbors: int) -> np.ndarray:
    """Sorted by score, then position, in float64, one query at a time; equal rows tie exactly."""
    found = []
    for query, row in enumerate(rows):
        scores = [round(float(np.float64(row) @ np.float64(other)), 9) for other in rows]
        others = [position for position in range(len(rows)) if position != query]
        found.append(sorted(others, key=lambda position, scores=scores: (-scores[position], position))[:num_neighbors])
    return np.array(found)


@pytest.mark.parametrize("num_neighbors", [1, 5, 59])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_neighbors_equal_brute_force(num_neighbors: int, dtype: type) -> None:
    rows = random_unit(60, 16, 0).astype(dtype)
    normalised = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    found = nearest_neighbors(rows, num_neighbors=num_neighbors)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, brute_force(normalised, num_neighbors))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_rows=st.integers(2, 40), num_distinct=st.integers(1, 6), seed=st.integers(0, 99))
def test_duplicates_rank_by_position_and_never_bring_self(
    data: st.DataObject, num_rows: int, num_distinct: int, seed: int
) -> None:
    distinct = random_unit(num_distinct, 8, seed)
    rows = distinct[np.random.default_rng(seed).integers(num_distinct, size=num_rows)]
    num_neighbors = data.draw(st.integers(1, num_rows - 1))
    np.testing.assert_array_equal(
        nearest_neighbors(rows, num_neighbors=num_neighbors), brute_force(rows, num_neighbors)
    )


def test_more_duplicates_than_candidates_still_rank_by_position() -> None:
    # 300 copies push every copy's own position out of the first candidates that are fetched.
    rows = np.concatenate([np.repeat(random_unit(1, 32, 0), 300, axis=0), random_unit(200, 32, 1)])
    rows = rows[np.random.default_rng(2).permutation(500)]
    copies = np.flatnonzero((rows == rows[np.argmax(rows @ rows.mean(axis=0))]).all(axis=1))
    assert len(copies) == 300
    found = nearest_neighbors(rows, num_neighbors=10)
    for copy in copies:
        assert found[copy].tolist() == [other for other in copies[:11] if other != copy][:10]


def test_ties_beyond_the_candidate_limit_are_cut_but_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_MAX_CANDIDATES", 30)
    rows = np.repeat(random_unit(1, 8, 0), 200, axis=0)
    found = nearest_neighbors(rows, num_neighbors=10)
    assert all(len(set(row)) == 10 and query not in row for query, row in enumerate(found.tolist()))
    np.testing.assert_array_equal(found, nearest_neighbors(rows, num_neighbors=10))


@pytest.mark.parametrize("size", [1, 7, 50, 333])
def test_sharding_the_queries_changes_nothing(size: int) -> None:
    rows = np.concatenate([random_unit(300, 24, 0), random_unit(33, 24, 0)[:33]]).astype(np.float16)
    whole = nearest_neighbors(rows, num_neighbors=12)
    index = build_index(rows)
    shards = [np.arange(start, min(start + size, 333)) for start in range(0, 333, size)]
    found = np.concatenate([search(index, rows[shard], shard, 12) for shard in shards])
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(nearest_neighbors(rows, num_neighbors=12, queries=slice(40, 90)), whole[40:90])


def test_batches_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_unit(2100, 16, 0)
    with torch_threads(1):
        whole = nearest_neighbors(rows, num_neighbors=5)
    with torch_threads(2):
        np.testing.assert_array_equal(nearest_neighbors(rows, num_neighbors=5), whole)
    monkeypatch.setattr(neighbors, "_ROWS_PER_BLOCK", 50)
    np.testing.assert_array_equal(nearest_neighbors(rows, num_neighbors=5), whole)
    monkeypatch.setattr(neighbors, "_QUERIES_PER_BATCH", 100)
    np.testing.assert_array_equal(nearest_neighbors(rows, num_neighbors=5), whole)


def in_a_cone(num_rows: int, width: int, *, spread: float, seed: int) -> np.ndarray:
    """Rows about one direction that has a few large columns, as CLIP's embeddings do; a smaller spread is denser."""
    cone = random_unit(1, width, seed) * np.where(np.arange(width) < 3, 10, 1).astype(np.float32)
    return cone + spread * random_unit(num_rows, width, seed + 1)


@pytest.fixture
def every_index_in_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of few rows, and on processors that are slow at it."""
    monkeypatch.setattr(neighbors, "_LEAST_INT8_ROWS", 1)
    monkeypatch.setattr(neighbors, "_LEAST_INT8_WIDTH", 1)
    monkeypatch.setattr(neighbors, "has_fast_int8_products", lambda: True)


@pytest.fixture
def num_searched(monkeypatch: pytest.MonkeyPatch) -> dict[bool, int]:
    """Batches of queries that were searched in 8 bits (True) and in float32 (False)."""
    counts = {True: 0, False: 0}
    propose = neighbors._propose

    def counted(index, queries, attempt, room):
        counts[attempt.in_8_bits] += 1
        return propose(index, queries, attempt, room)

    monkeypatch.setattr(neighbors, "_propose", counted)
    return counts


@pytest.mark.usefixtures("every_index_in_8_bits")
@pytest.mark.parametrize(
    ("rows", "are_told_apart"),
    [
        pytest.param(in_a_cone(2500, 96, spread=2.0, seed=0), True, id="wide cone"),
        pytest.param(in_a_cone(2500, 96, spread=0.5, seed=0), True, id="narrow cone"),
        pytest.param(np.repeat(in_a_cone(900, 96, spread=1.0, seed=0), 3, axis=0), True, id="three of each"),
        pytest.param(
            np.concatenate([random_unit(500, 96, 0), in_a_cone(1700, 96, spread=0.001, seed=0)]),
            False,
            id="many nearer to each other than 8 bits tell apart",
        ),
        pytest.param(np.repeat(random_unit(1, 96, 0), 2100, axis=0), False, id="all equal"),
    ],
)
def test_8_bits_propose_what_float32_finds(
    rows: np.ndarray, are_told_apart: bool, num_searched: dict[bool, int]
) -> None:
    index = build_index(rows)
    positions = np.arange(len(rows))
    found = search_with_scores(index, rows, positions, 20)
    assert num_searched[True] == 3
    assert (num_searched[False] < 3) == are_told_apart
    expected = search_with_scores(replace(index, rounded=None), rows, positions, 20)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.usefixtures("every_index_in_8_bits")
def test_queries_unlike_the_indexed_rows_are_found_their_neighbors_too() -> None:
    rows, queries = in_a_cone(2000, 96, spread=0.3, seed=0), random_unit(300, 96, 5)
    queries[0] = np.eye(96)[7]
    index = build_index(rows)
    np.testing.assert_array_equal(
        search(index, queries, None, 10), search(replace(index, rounded=None), queries, None, 10)
    )


@pytest.mark.usefixtures("every_index_in_8_bits")
def test_what_8_bits_may_have_missed_is_searched_again() -> None:
    rows = in_a_cone(2000, 96, spread=0.3, seed=0)
    index = build_index(rows)
    assert index.rounded is not None
    scrambled = replace(index, rounded=replace(index.rounded, step=index.rounded.step * 100))
    np.testing.assert_array_equal(
        search(scrambled, rows, np.arange(2000), 10), search(index, rows, np.arange(2000), 10)
    )


def test_few_rows_and_narrow_ones_stay_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "has_fast_int8_products", lambda: True)
    monkeypatch.setattr(neighbors, "_LEAST_INT8_ROWS", 100)
    assert build_index(random_unit(100, 64, 0)).rounded is not None
    assert build_index(random_unit(99, 64, 0)).rounded is None
    assert build_index(random_unit(100, 63, 0)).rounded is None
    monkeypatch.setattr(neighbors, "has_fast_int8_products", lambda: False)
    assert build_index(random_unit(100, 64, 0)).rounded is None


def test_row_order_changes_only_positions() -> None:
    rows = random_unit(80, 16, 0)
    order = np.random.default_rng(1).permutation(80)
    shuffled = nearest_neighbors(rows[order], num_neighbors=6)
    np.testing.assert_array_equal(order[shuffled], nearest_neighbors(rows, num_neighbors=6)[order])


def test_scores_are_cosines_best_first() -> None:
    rows = random_unit(50, 8, 0)
    positions, scores = search_with_scores(build_index(rows * 3), rows * 2, np.arange(50), 49)
    assert scores.dtype == np.float32
    expected = np.take_along_axis(rows @ rows.T, positions, axis=1)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_queries_from_outside_may_find_every_row() -> None:
    rows = random_unit(20, 8, 0)
    outside = search(build_index(rows), rows[4:5], None, 20)
    assert sorted(outside[0]) == list(range(20))
    assert outside[0, 0] == 4
    mixed = search(build_index(rows), rows[[4, 4]], np.array([-1, 4]), 3)
    assert mixed[0, 0] == 4
    assert 4 not in mixed[1]
    assert search(build_index(rows[:1]), rows, None, 1).tolist() == [[0]] * 20


def test_no_queries_give_an_empty_result() -> None:
    rows = random_unit(20, 8, 0)
    assert search(build_index(rows), rows[:0], np.arange(0), 3).shape == (0, 3)


def test_unusable_arguments_are_explained() -> None:
    rows = random_unit(30, 8, 0)
    index = build_index(rows)
    for num_neighbors in (0, 30, 50):
        with pytest.raises(ValueError, match=rf"between 1 and 29 for 30 indexed rows, found {num_neighbors}"):
            nearest_neighbors(rows, num_neighbors=num_neighbors)
    with pytest.raises(ValueError, match="one width"):
        search(index, rows[:, :4], None, 3)
    with pytest.raises(ValueError, match=r"query_positions of shape \(30,\)"):
        search(index, rows, np.arange(29), 3)
    with pytest.raises(ValueError, match=r"in -1..29, found 1..30"):
        search(index, rows, np.arange(1, 31), 3)
    with pytest.raises(ValueError, match="device cpu or"):
        build_index(rows, device="tpu")
    rows[3, 0] = np.nan
    with pytest.raises(ValueError, match="row 3 has values that are not finite"):
        build_index(rows)
