"""`dxmc clusters`: a line for every cluster, and all that is known of them as JSON."""

import json

import pytest

from ray_jobs.cli import main


def exit_code(*arguments):
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    return exit_info.value.code


def test_lines_for_a_person(make_color_run, capsys):
    assert exit_code("clusters", make_color_run().run_dir.uri) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["cluster", "images", "name", "further", "words"]
    assert [line.split() for line in lines[1:]] == [["0", "4", "red"], ["1", "4", "green"], ["2", "4", "blue"]]


def test_json(make_color_run, capsys):
    run = make_color_run()
    assert exit_code("clusters", run.run_dir.uri, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["cluster_id"] for row in rows] == [0, 1, 2]
    assert rows[0]["exemplars"] == run.image_ids[:4]


def test_unfinished_run(tmp_path, capsys):
    assert exit_code("clusters", tmp_path) == 1
    assert "run assign_clusters first" in capsys.readouterr().err
