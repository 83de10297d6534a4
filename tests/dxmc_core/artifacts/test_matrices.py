"""Reading a few rows of a published table without reading all of it."""

import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.matrices import RowFinder, embedding_column, matrix_of, width_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.errors import ArtifactError

FINGERPRINT = "a" * 32
#: Parts that interleave, as those of a resumed run do.
PARTS = ([0, 1, 2, 9], [3, 5], [4, 20, 21], [30])


@pytest.fixture
def stage(tmp_path):
    stage = RunDir.at(str(tmp_path / "run")).stage("embed_images")
    parts = [stage.write_part("images", table_of(ids), fingerprint=FINGERPRINT) for ids in PARTS]
    stage.publish(fingerprint=FINGERPRINT, inputs={}, tables={"images": parts, "rejects": []}, seconds=0)
    return stage


def table_of(ids):
    values = np.repeat(np.array(ids, dtype=np.float32)[:, None], 3, axis=1)
    return pa.table({"row_id": ids, "image_id": [f"{row}.jpg" for row in ids], "embedding": embedding_column(values)})


@pytest.mark.parametrize("wanted", [[4, 2, 9], [30], [21, 3, 3, 0], [6, 7, 8, 5], [100, -1]])
def test_rows_come_by_id_and_those_that_are_not_there_do_not(stage, wanted):
    finder = RowFinder.open(stage, "images")
    found = finder.read(np.array(wanted), ["row_id", "embedding"])
    expected = sorted(set(wanted) & {row for ids in PARTS for row in ids})
    assert found["row_id"].to_pylist() == expected
    assert found.column_names == ["row_id", "embedding"]
    assert matrix_of(found["embedding"])[:, 1].tolist() == expected


def test_only_the_parts_that_may_hold_a_row_are_read(stage, monkeypatch):
    read, read_part = [], StageDir.read_part
    finder = RowFinder.open(stage, "images")
    monkeypatch.setattr(
        StageDir, "read_part", lambda self, part, *rest: read.append(part.rows) or read_part(self, part, *rest)
    )
    finder.read(np.array([20]), ["row_id", "image_id"])
    assert read == [3]


def test_width_is_told_by_a_footer(stage):
    assert width_of(stage, "images") == 3
    with pytest.raises(ArtifactError, match="has no rows in 'rejects'"):
        width_of(stage, "rejects")


def test_a_part_that_is_gone_or_damaged_is_named(stage):
    part = stage.require_manifest().tables["images"][0]
    stage.storage.write_bytes(part.name, b"no parquet")
    with pytest.raises(ArtifactError, match=rf"{part.name} is gone or damaged"):
        RowFinder.open(stage, "images")
    stage.storage.delete(part.name)
    with pytest.raises(ArtifactError, match="is gone or damaged"):
        width_of(stage, "images")
