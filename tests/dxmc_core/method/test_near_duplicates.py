"""Copies are found by their bits, groups are connected components."""

import numpy as np

from dxmc_core.method.near_duplicates import duplicate_groups, first_copies
from dxmc_core.method.row_source import ArrayRows


def test_first_copies_are_equal_to_the_last_bit_only():
    rows = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float16)
    rows[[4, 6]] = rows[1]
    rows[7] = rows[2]
    rows[7, 4] = np.nextafter(rows[7, 4], np.float16(9))
    assert first_copies(ArrayRows(rows)).tolist() == [0, 1, 2, 3, 1, 5, 1, 7]


def test_groups_are_joined_through_pairs_and_copies():
    pairs = np.array([[5, 3], [3, 1], [6, 7]])
    copies = np.array([0, 1, 2, 3, 4, 5, 2, 7])
    assert duplicate_groups(8, pairs, copies).tolist() == [0, 1, 2, 1, 4, 1, 2, 2]


def test_no_pairs_leave_every_row_alone():
    assert duplicate_groups(3, np.empty((0, 2), dtype=np.int64), np.arange(3)).tolist() == [0, 1, 2]
