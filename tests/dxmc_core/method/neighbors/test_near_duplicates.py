"""Copies are found by their bits, groups are connected components."""

import numpy as np

from dxmc_core.method.neighbors.near_duplicates import distinct_rows, duplicate_groups, first_copies, one_of_each
from dxmc_core.method.row_source import ArrayRows


def test_first_copies_are_equal_to_the_last_bit_only():
    rows = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float16)
    rows[[4, 6]] = rows[1]
    rows[7] = rows[2]
    rows[7, 4] = np.nextafter(rows[7, 4], np.float16(9))
    assert first_copies(ArrayRows(rows)).tolist() == [0, 1, 2, 3, 1, 5, 1, 7]


def test_distinct_rows_are_counted_no_further_than_asked():
    def blocks():
        yield np.array([[1, 2], [1, 2], [0, 3]], dtype=np.float16)
        yield np.array([[-0.0, 3], [1, 2], [5, 5], [6, 6]], dtype=np.float16)
        raise AssertionError("no further block is needed")

    assert distinct_rows(blocks(), at_most=4).tolist() == [[1, 2], [0, 3], [5, 5], [6, 6]]
    assert distinct_rows(blocks(), at_most=3).tolist() == [[1, 2], [0, 3], [5, 5]]
    assert distinct_rows([np.ones((9, 2))], at_most=4).tolist() == [[1, 1]]


def test_groups_are_joined_through_pairs_and_copies():
    pairs = np.array([[5, 3], [3, 1], [6, 7]])
    copies = np.array([0, 1, 2, 3, 4, 5, 2, 7])
    assert duplicate_groups(8, pairs, copies).tolist() == [0, 1, 2, 1, 4, 1, 2, 2]


def test_no_pairs_leave_every_row_alone():
    assert duplicate_groups(3, np.empty((0, 2), dtype=np.int64), np.arange(3)).tolist() == [0, 1, 2]


def test_neighbors_of_groups_are_groups_without_repetitions():
    groups = np.array([0, 1, 0, 3, 1, 5])
    neighbors = np.array([[2, 4, 1, 3], [4, 0, 2, 5], [0, 1, 4, 3], [0, 2, 1, 4], [1, 0, 2, 5], [3, 4, 1, 0]], np.int32)
    found = one_of_each(groups, neighbors)
    assert found.dtype == np.int32
    # The rows 0, 1, 3 and 5 are kept, as positions 0 to 3.
    assert found.tolist() == [[1, 2, 1, 2], [0, 3, 0, 3], [0, 1, 0, 1], [2, 1, 0, 2]]


def test_a_row_with_no_neighbor_outside_its_group_is_its_own():
    assert one_of_each(np.array([0, 0, 0]), np.array([[1, 2], [0, 2], [1, 0]])).tolist() == [[0, 0]]


def test_without_duplicates_neighbors_stay_as_they_are():
    neighbors = np.array([[1, 2], [2, 0], [0, 1]])
    assert np.array_equal(one_of_each(np.arange(3), neighbors), neighbors)
