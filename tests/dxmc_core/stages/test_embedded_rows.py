"""The bookkeeping of what is done: each row by one part, and the rest in chunks."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
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
    assert added == [3, 2, 0, 0, 1]
    assert [part.rows for part in done.parts("images")] == [2, 3, 1]
    assert (done.num_done, done.num_left, done.num_images, done.num_rejects) == (6, 4, 6, 0)


def test_counts_by_chunk_and_table():
    done = EmbeddedRows(11)
    done.add("images", part_of([0, 1, 5]), np.array([0, 1, 5]))
    done.add("rejects", part_of([2, 10]), np.array([2, 10]))
    assert done.counts(4).tolist() == [[2, 1], [1, 0], [0, 1]]


def test_with_several_encoders_a_row_is_done_when_all_have_it_or_one_rejects_it():
    done = EmbeddedRows(6, ("images", "images-b"))
    assert done.add("images", part_of([0, 1, 2]), np.array([0, 1, 2])) == 0
    assert done.missing() == [("images", "images-b"), ("images-b",)]
    assert [chunk["row_start"] for chunk in done.chunks(3, ("images-b",))] == [0]
    assert done.add("images-b", part_of([0, 1, 4]), np.array([0, 1, 4])) == 2
    assert done.missing() == [("images", "images-b"), ("images-b",), ("images",)]
    assert done.add("rejects", part_of([2, 3]), np.array([2, 3])) == 2
    assert done.add("rejects", part_of([1]), np.array([1])) == 0
    assert done.add("images-b", part_of([3]), np.array([3])) == 0
    assert (done.num_images, done.num_rejects, done.num_left) == (2, 2, 2)
    assert done.counts(3).tolist() == [[2, 1], [0, 1]]


def test_parts_are_written_anew_without_rows_that_were_rejected_afterwards():
    done = EmbeddedRows(4, ("images", "images-b"))
    done.add("images", part_of([0, 1]), np.array([0, 1]))
    done.add("images", part_of([2]), np.array([2]))
    done.add("rejects", part_of([1, 2, 3]), np.array([1, 2, 3]))
    done.add("images-b", part_of([0]), np.array([0]))
    asked = []

    def replaced(table, part, rejected):
        asked.append((table, part.rows, rejected.tolist()))
        return None if part.name == "images/[2]" else part

    done.replace_rejected(replaced)
    assert asked == [("images", 2, [1, 2]), ("images", 1, [1, 2]), ("images-b", 1, [1, 2])]
    assert [part.name for part in done.parts("images")] == ["images/[0, 1]"]
    done.replace_rejected(lambda *_: pytest.fail("there is nothing left to replace"))


@pytest.mark.parametrize("foreign", [[9, 10], [-1, 3], []])
def test_parts_of_another_catalog_are_left_out(foreign):
    done, added = done_of(10, np.array(foreign, dtype=np.int64).tolist())
    assert added == [0]
    assert done.num_done == 0


class Rows:
    """A catalog whose rows are their numbers."""

    def rows(self, start, stop):
        return pa.table({"row_id": np.arange(start, stop)})


@settings(deadline=None)
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


@settings(deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50, unique=True))
def test_packed_rows_come_back_ascending(row_ids):
    assert unpack_rows(*pack_rows(np.array(row_ids))).tolist() == sorted(row_ids)


MILLION = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.artifacts.tables import IMAGES
from dxmc_core.stages.embedded_rows import EmbeddedRows

uri, width = sys.argv[1], int(sys.argv[2])
stage = StageDir(Storage(uri), "embed_images")

class Catalog:
    num_rows, stage_dir = 1_000_000, stage

if sys.argv[3] == "write":
    values = np.random.default_rng(0).normal(size=(2000, width)).astype(np.float16)
    for start in range(0, 1_000_000, 2048):
        rows = np.arange(start, min(start + 2000, 1_000_000))
        ids = [f"photos/{row:09}.jpg" for row in rows]
        table = pa.table({"row_id": rows, "image_id": ids, "embedding": embedding_column(values[: len(rows)])})
        stage.write_part("images", table.cast(IMAGES.schema(width)), fingerprint="a" * 32)
else:
    done = EmbeddedRows.of(Catalog, fingerprint="a" * 32)
    left = list(done.chunks(2048))
    [peak] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    print(done.num_done, done.num_left, len(left), int(peak) * 1024)
"""


@pytest.mark.slow
def test_a_million_rows_are_resumed_in_little_memory(tmp_path):
    """All but the last 48 rows of each chunk are done; what is left is found in less than 1 GiB, libraries included."""

    def run(mode):
        command = [sys.executable, "-c", MILLION, str(tmp_path), "16", mode]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    run("write")
    num_done, num_left, num_chunks, peak_bytes = map(int, run("resume"))
    assert (num_done, num_left, num_chunks) == (1_000_000 - 488 * 48, 488 * 48, 488)
    assert peak_bytes < 1 << 30
