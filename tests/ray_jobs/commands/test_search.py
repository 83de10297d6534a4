"""`dxmc search` on the terminal, as JSON and as a page."""

import io
import json

import numpy as np
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


def test_a_file_of_queries(make_color_run, tmp_path, capsys):
    run = make_color_run(files=False)
    (tmp_path / "queries.txt").write_text("lemon tree\n\n  red/1.png\n")
    found = json.loads(dxmc(capsys, "search", run.run_dir.uri, "--queries", tmp_path / "queries.txt", "--json").out)
    assert [(row["query"], row["query_kind"]) for row in found] == [("lemon tree", "words"), ("red/1.png", "image_id")]
    np.save(tmp_path / "rows.npy", np.eye(3))
    lines = dxmc(capsys, "search", run.run_dir.uri, "--queries", tmp_path / "rows.npy", "--top", 1).out.splitlines()
    assert [line for line in lines if line.startswith("query: ")] == [
        f"query: {tmp_path}/rows.npy#{row}" for row in range(3)
    ]
    assert [line.split()[-1] for line in lines if "/0.png" in line] == ["red", "green", "blue"]
    (tmp_path / "queries.txt").write_text("\n")
    assert (
        "has no queries" in dxmc(capsys, "search", run.run_dir.uri, "--queries", tmp_path / "queries.txt", code=2).err
    )


def test_one_line_after_the_other(make_color_run, capsys, monkeypatch):
    run = make_color_run(files=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("green\n\nholiday\nred/1.png\n"))
    arguments = ("search", run.run_dir.uri, "--interactive", "--json", "--top", 1, "--where", "label=blue")
    first, failed, last = map(json.loads, dxmc(capsys, *arguments).out.splitlines())
    assert first["images"][0]["image_id"].startswith("blue/")
    assert "not among the 4 nouns" in failed["error"]
    assert last["query_kind"] == "image_id"
    monkeypatch.setattr("sys.stdin", io.StringIO("holiday\n"))
    assert dxmc(capsys, "search", run.run_dir.uri, "--interactive").out.startswith("error: 'holiday' is not among")


def test_one_way_of_asking_at_a_time(make_color_run, tmp_path, capsys):
    uri = make_color_run(files=False).run_dir.uri
    assert "expected one of: a QUERY, --queries FILE" in dxmc(capsys, "search", uri, code=2).err
    assert "expected one of" in dxmc(capsys, "search", uri, "red", "--interactive", code=2).err
    assert "--html shows one" in dxmc(capsys, "search", uri, "--interactive", "--html", tmp_path / "x", code=2).err
