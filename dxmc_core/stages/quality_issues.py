"""Which images people weed out, by what embed_images measured of them: dark, blurred, tiny, and of an odd shape."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import MEASURES, QUALITY_ISSUES

DARK_BRIGHTNESS = 0.12
#: Of 243 photographs (clothing, and those of the demo) none is below; blurred by 2 of 224 pixels, 19 in 20 are.
BLURRED_SHARPNESS = 12.0
TINY_PX = 100
ODD_ASPECT_RATIO = 3.0

#: The kinds in the order they are told, and whether the smallest value is the worst.
ISSUES = {"dark": True, "blurred": True, "tiny": True, "odd_shape": False}


def find_quality_issues(run_dir: RunDir) -> pa.Table | None:
    """The table `quality_issues`; None where nothing was measured: embeddings, earlier versions."""
    stage = run_dir.stage("embed_images")
    names = ("row_id", "image_id", *MEASURES)
    found, is_measured = [], False
    for part in stage.require_manifest().tables["images"]:
        rows = stage.read_present_columns(part, names)
        if rows.num_columns == len(names):
            is_measured |= rows["width"].null_count < rows.num_rows
            found += list(_issues_of(rows))
    if not is_measured:
        return None
    issues = pa.concat_tables(found)
    worst = issues["value"].to_numpy() * np.array([1 if ISSUES[issue] else -1 for issue in issues["issue"].to_pylist()])
    kinds = np.array([list(ISSUES).index(issue) for issue in issues["issue"].to_pylist()], dtype=np.int64)
    return issues.take(np.lexsort((worst, kinds)))


def _issues_of(rows: pa.Table) -> Iterator[pa.Table]:
    """For each kind of issue the rows that have it."""
    width, height, brightness, sharpness = (
        rows[name].to_numpy().astype(np.float32) for name in MEASURES
    )  # NaN where nobody measured
    short, long = np.fmin(width, height), np.fmax(width, height)
    is_dark, is_tiny = brightness < DARK_BRIGHTNESS, short < TINY_PX
    ratio = long / short
    for issue, value, has_it in (
        ("dark", brightness, is_dark),
        ("blurred", sharpness, (sharpness < BLURRED_SHARPNESS) & ~is_dark & ~is_tiny),
        ("tiny", short, is_tiny),
        ("odd_shape", ratio, ratio >= ODD_ASPECT_RATIO),
    ):
        chosen = rows.select(["row_id", "image_id"]).filter(pa.array(has_it))
        chosen = chosen.append_column("issue", pa.array([issue] * chosen.num_rows, pa.string()))
        yield chosen.append_column("value", pa.array(value[has_it], pa.float32())).cast(QUALITY_ISSUES.schema())
