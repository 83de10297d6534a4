"""The bookkeeping of what is done: each row by one part, and the rest in chunks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dxmc_core.artifacts.manifest import Part
from dxmc_core.images.catalog import catalog_rows
from dxmc_core.stages.embedded_rows import EmbeddedRows, pack_rows, unpack_rows


def part_of(row_ids):
    return Part(name=f"images/{row_ids}", rows=len(row_ids), bytes=1, sha256="0")


def done_of(num_rows, *parts):
    done = EmbeddedRows(num_rows)
    added = [done.add("images", part_of(rows), np.array(rows)) for rows in parts]
    return done, added


def test_a_row_counts_by_the_first_part_that_has_it():
    done, added = done_of(10, [4, 5, 6], [0, 1], [1, 2], [4, 5, 6], [7])
    assert added == [True, True, False, False, True]
    assert [part.rows for part in done.parts("images")] == [2, 3, 1]
    assert (done.num_done, done.num_left, done.num_rows_of("images"), done.num_rows_of("rejects")) == (6, 4, 6, 0)


@pytest.mark.parametrize("foreign", [[9, 10], [-1, 3], []])
def test_parts_of_another_catalog_are_left_out(foreign):
    done, added = done_of(10, np.array(foreign, dtype=np.int64).tolist())
    assert added == [False]
    assert done.num_done == 0


class Rows:
    """A catalog whose rows are their numbers."""

    def rows(self, start, stop):
        import pyarrow as pa

        return pa.table({"row_id": np.arange(start, stop)})


@given(st.integers(1, 60), st.integers(1, 20), st.sets(st.integers(0, 59)))
def test_chunks_are_what_is_left(num_rows, chunk_rows, rows_done):
    rows_done = sorted(row for row in rows_done if row < num_rows)
    done, _ = done_of(num_rows, *[[row] for row in rows_done])
    left = []
    for chunk in done.chunks(chunk_rows):
        rows = catalog_rows(Rows(), chunk)["row_id"].to_pylist()
        assert 0 < len(rows) <= chunk_rows
        left += rows
    assert left == [row for row in range(num_rows) if row not in rows_done]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50, unique=True))
def test_packed_rows_come_back_ascending(row_ids):
    assert unpack_rows(*pack_rows(np.array(row_ids))).tolist() == sorted(row_ids)
