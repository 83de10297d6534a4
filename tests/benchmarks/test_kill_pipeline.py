"""The judge of disturbed runs sees what must not be: other artifacts, partial ones, ends without a clear line."""

from pathlib import Path

import kill_pipeline as module
import pyarrow as pa
import pytest

from dxmc_core.artifacts.manifest import MANIFEST_NAME
from dxmc_core.artifacts.run_dir import STAGES, RunDir
from dxmc_core.errors import ArtifactError


def make_run(folder: Path, *, rows=(0, 1, 2), values=(5, 6, 7), lines=b'{"epoch": 1, "seconds": 2.0}\n') -> RunDir:
    """A run whose stages have a table and a file each; the table in parts of two rows."""
    run_dir = RunDir.at(str(folder))
    table = pa.table({"row_id": list(rows), "value": list(values)})
    for name in STAGES:
        stage = run_dir.stage(name)
        parts = [stage.write_part("images", table.slice(start, 2), fingerprint="f" * 32) for start in (0, 2)]
        files = {"metrics.jsonl": stage.write_file("metrics.jsonl", lines)}
        stage.publish(fingerprint="f" * 32, inputs={}, tables={"images": parts}, files=files, seconds=1.0)
    return run_dir


def differing(found, expected):
    return [name for name, is_same in module.compare(found, expected).items() if not is_same]


def test_other_order_and_other_times_are_the_same(tmp_path):
    expected = make_run(tmp_path / "a")
    lines = b'{"epoch": 1, "seconds": 9.0}\n'
    assert differing(make_run(tmp_path / "b", rows=(2, 0, 1), values=(7, 5, 6), lines=lines), expected) == []


def test_any_other_value_differs(tmp_path):
    expected = make_run(tmp_path / "a")
    tables = [f"{stage}/images" for stage in STAGES[:-1]]
    assert differing(make_run(tmp_path / "b", values=(5, 6, 8)), expected) == tables
    assert differing(make_run(tmp_path / "c", rows=(0, 1), values=(5, 6)), expected) == tables
    metrics = [f"{stage}/metrics.jsonl" for stage in STAGES[:-1]]
    assert differing(make_run(tmp_path / "d", lines=b'{"epoch": 2}\n'), expected) == metrics


def test_reader_sees_what_is_not_whole(tmp_path):
    stage = make_run(tmp_path).stage("embed_images")
    folder = tmp_path / "embed_images"
    seen = {}
    module._check_published(stage, seen)
    assert set(seen) == {"embed_images"}
    for path in (folder / "metrics.jsonl", next(folder.glob("images/*.parquet"))):
        data = path.read_bytes()
        path.write_bytes(data[:-1])
        with pytest.raises(ArtifactError, match="is damaged"):
            module._check_published(stage, seen)
        path.write_bytes(data)
    manifest = (folder / MANIFEST_NAME).read_bytes()
    (folder / MANIFEST_NAME).unlink()
    with pytest.raises(ArtifactError, match="was published and is gone"):
        module._check_published(stage, seen)
    (folder / MANIFEST_NAME).write_bytes(manifest[: len(manifest) // 2])
    with pytest.raises(ArtifactError, match="not a readable manifest"):
        module._check_published(stage, seen)


@pytest.mark.parametrize(
    ("code", "done", "log", "verdict"),
    [
        (0, ["cut_off"], [], None),
        (-9, ["task", "driver"], ["Traceback"], None),
        (1, ["cut_off"], ["a line", "error: object storage failed"], None),
        (1, ["cut_off"], ["Traceback (most recent call last):", "error: x"], "without one clear line"),
        (-6, ["cut_off"], ["error: x"], "exit code -6"),
        (1, ["task", "map_worker"], ["error: x"], "exit code 1"),
        (1, [], ["error: x"], "exit code 1"),
    ],
)
def test_how_an_attempt_may_end(code, done, log, verdict):
    found = module._judge(code, done, log, is_hanging=False)
    assert (found is None) if verdict is None else (verdict in found)
    assert "it hung" in module._judge(code, done, log, is_hanging=True)
