"""`dxmc export`: what was written where."""

import json

import pytest

from ray_jobs.cli import main


def test_says_what_was_written(make_color_run, tmp_path, capsys):
    run = make_color_run()
    (run.photos / "03.png").unlink()
    output = tmp_path / "out"
    arguments = ["export", run.run_dir.uri, "--format", "webdataset", "--output", str(output)]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--json"])
    assert json.loads(capsys.readouterr().out) == {"output": str(output), "images": 11, "skipped": 1}
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "is there already" in capsys.readouterr().err
