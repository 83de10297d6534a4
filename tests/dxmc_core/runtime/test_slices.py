"""Blocks of rows cover an array once, in order."""

import itertools

import pytest

from dxmc_core.runtime.slices import slices_of


@pytest.mark.parametrize(("count", "size"), [(0, 3), (1, 3), (3, 3), (7, 3), (9, 3)])
def test_blocks_are_all_rows_once_in_order(count: int, size: int) -> None:
    rows = list(range(count))
    blocks = [rows[block] for block in slices_of(count, size)]
    assert list(itertools.chain(*blocks)) == rows
    assert all(0 < len(block) <= size for block in blocks)
    assert all(block.stop - block.start == len(rows[block]) for block in slices_of(count, size))
