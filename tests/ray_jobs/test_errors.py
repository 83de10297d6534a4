"""What a newcomer gets wrong: one clear line and exit code 2, never a traceback."""

import numpy as np
import pytest

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source.kind=images", "source.uri=/nowhere/at/all"], "does not exist"),
        (["source.kind=images", "source.uri={empty}"], "no images in"),
        (["num_clusters=601"], "only 600 images could be embedded"),
        (["num_clustres=5"], "did you mean 'num_clusters'?"),
        (["method.name=magic"], "unknown method 'magic'"),
        (["run_dir=/proc/nowhere"], "/proc/nowhere"),
        (["vocabulary.uri={empty}/none.npz"], "none.npz"),
        (["source.uri={nouns}"], ""),
    ],
)
def test_one_line_and_exit_code_2(dxmc, planted, tmp_path, overrides, message):
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = [text.format(empty=empty, nouns=empty) for text in overrides]
    config = planted.config(tmp_path / "run")
    result = dxmc("run", "--config", config, *(f"--set={argument}" for argument in arguments), code=2)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_missing_configuration(dxmc, tmp_path):
    assert "cannot read the configuration" in dxmc("run", "--config", str(tmp_path / "none.yaml"), code=2).stderr


def test_place_that_is_no_run(dxmc, tmp_path):
    assert "is not a run directory" in dxmc("status", str(tmp_path), code=2).stderr


def test_vocabulary_of_another_width(dxmc, planted, tmp_path):
    other = tmp_path / "nouns.npz"
    np.savez(other, nouns=np.array(["a", "b"]), embeddings=np.ones((2, 7), dtype=np.float32))
    config = planted.config(tmp_path / "run", vocabulary={"kind": "embeddings", "uri": str(other)})
    assert "width 7" in dxmc("run", "--config", config, code=2).stderr
