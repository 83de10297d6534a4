"""`dxmc search` on the terminal, as JSON and as a page."""

import json

import pytest

from ray_jobs.cli import main


def dxmc(capsys, *arguments, code=0):
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    assert exit_info.value.code == code
    return capsys.readouterr()


def test_rows_on_the_terminal(make_color_run, capsys):
    run = make_color_run(files=False)
    lines = dxmc(capsys, "search", run.run_dir.uri, "lemon", "tree", "--top", 2).out.splitlines()
    assert lines[0] == "clusters"
    assert lines[1].split()[1:] == ["0", "red", "4", "images"]
    assert lines[3] == "images"
    assert len(lines) == 6
    assert lines[4].split()[1].split("/")[0] == lines[4].split()[3]


def test_json_and_page(make_color_run, tmp_path, capsys):
    run = make_color_run()
    output = tmp_path / "found.html"
    printed = dxmc(capsys, "search", run.run_dir.uri, "red/0.png", "--top", 3, "--json", "--html", output).out
    result = json.loads(printed)
    assert (result["query"], result["query_kind"], result["html"]) == ("red/0.png", "image_id", str(output))
    assert [row["cluster"] for row in result["images"]] == ["red"] * 3
    assert set(result["clusters"][0]) == {"cluster_id", "name", "similarity", "size"}
    assert "red/0.png" in output.read_text()


def test_errors_are_one_line(make_color_run, tmp_path, capsys):
    run = make_color_run(files=False)
    assert "not among the 4 nouns" in dxmc(capsys, "search", run.run_dir.uri, "holiday", code=2).err
    assert "expected 1 to 1000" in dxmc(capsys, "search", run.run_dir.uri, "red", "--top", 0, code=2).err
    assert "is not a run directory" in dxmc(capsys, "search", tmp_path, "red", code=2).err
