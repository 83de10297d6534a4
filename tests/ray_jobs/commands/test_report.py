"""`dxmc report`: a copy of the page, where it was asked for."""

import json

import pytest

from dxmc_core.artifacts.run_dir import RunDir
from ray_jobs.cli import main

PAGE = b'<!doctype html><title>a report</title><body class="with-members">'


@pytest.fixture
def run_dir(tmp_path):
    stage = RunDir.at(str(tmp_path / "run")).stage("write_report")
    files = {"index.html": stage.write_file("index.html", PAGE)}
    stage.publish(fingerprint="a" * 32, inputs={}, tables={}, files=files, seconds=1.0)
    return tmp_path / "run"


def exit_code(*arguments):
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    return exit_info.value.code


def test_copies_the_page(run_dir, tmp_path, capsys):
    output = tmp_path / "folder/copy.html"
    assert exit_code("report", run_dir, "--output", output, "--json") == 0
    alone = PAGE.replace(b' class="with-members"', b"")
    assert output.read_bytes() == alone, "it has no links to what is not beside it"
    assert json.loads(capsys.readouterr().out) == {"report": str(output)}


def test_place_that_cannot_be_written(run_dir, tmp_path, capsys):
    assert exit_code("report", run_dir, "--output", tmp_path) == 2
    assert f"cannot write {tmp_path}: Is a directory" in capsys.readouterr().err


def test_unfinished_run(tmp_path, capsys):
    assert exit_code("report", tmp_path) == 1
    assert "run write_report first" in capsys.readouterr().err
