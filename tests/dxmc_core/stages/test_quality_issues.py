"""Lists of what people weed out, from the measures in `images`; runs without measures have none."""

import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import IMAGES, MEASURES, QUALITY_ISSUES
from dxmc_core.stages.quality_issues import find_quality_issues

#: width, height, brightness, sharpness
GOOD = (400, 300, 0.5, 500.0)
PICTURES = [
    GOOD,
    (400, 300, 0.05, 500.0),
    (400, 300, 0.02, 3.0),
    (400, 300, 0.5, 3.0),
    (400, 90, 0.5, 500.0),
    (64, 64, 0.5, 3.0),
    (None, None, None, None),
]


@pytest.fixture
def run_dir(tmp_path):
    run = RunDir.at(str(tmp_path))

    def make(*parts):
        stage = run.stage("embed_images")
        written, start = [], 0
        for measures in parts:
            rows = np.arange(start, start + len(measures))
            start += len(rows)
            table = pa.table(
                {
                    "row_id": rows,
                    "image_id": [f"i{row}" for row in rows],
                    "embedding": embedding_column(np.ones((len(rows), 2), dtype=np.float16)),
                }
            ).cast(IMAGES.schema(2))
            if measures[0] is not ...:
                for column, (name, type_) in enumerate(MEASURES.items()):
                    table = table.append_column(name, pa.array([row[column] for row in measures], type_))
            written.append(stage.write_part("images", table, fingerprint="a" * 32))
        stage.publish(fingerprint="a" * 32, inputs={}, tables={"images": written}, seconds=1.0)
        return run

    return make


def test_every_issue_has_its_images_the_worst_first(run_dir):
    issues = find_quality_issues(run_dir(PICTURES[:3], PICTURES[3:]))
    assert issues.schema == QUALITY_ISSUES.schema()
    found = [(row["issue"], row["image_id"], round(row["value"], 3)) for row in issues.to_pylist()]
    assert found == [
        ("dark", "i2", 0.02),
        ("dark", "i1", 0.05),
        ("blurred", "i3", 3.0),
        ("tiny", "i5", 64.0),
        ("tiny", "i4", 90.0),
        ("odd_shape", "i4", 4.444),
    ]


def test_parts_of_an_earlier_version_are_passed_over(run_dir):
    issues = find_quality_issues(run_dir([...] * 3, [PICTURES[1]]))
    assert issues["image_id"].to_pylist() == ["i3"]


def test_good_pictures_give_an_empty_table_and_unmeasured_ones_none(run_dir):
    assert find_quality_issues(run_dir([GOOD])).num_rows == 0


@pytest.mark.parametrize("part", [[...] * 3, [PICTURES[-1]] * 3], ids=["no columns", "nulls"])
def test_where_nothing_was_measured_there_is_no_table(run_dir, part):
    assert find_quality_issues(run_dir(part)) is None
