"""`dxmc evaluate` on the terminal: scores, classes, the confusion picture, comparisons."""

import json

import pytest

from ray_jobs.cli import main

MOVED = (1, 1, 0, 0) + (1,) * 4 + (2,) * 4


def dxmc(capsys, *arguments, code=0):
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    assert exit_info.value.code == code
    return capsys.readouterr()


def test_classes_weakest_first(make_color_run, capsys):
    run = make_color_run(files=False, clusters=MOVED)
    lines = dxmc(capsys, "evaluate", run.run_dir.uri).out.splitlines()
    assert lines[0] == "12 images in 3 clusters"
    assert "against 12 labels: ACC 0.8333" in lines[1]
    first = lines[lines.index("") + 2]
    assert first.split()[:4] == ["red", "4", "0.500", "1.000"]
    assert first.endswith("red; green 2")


def test_confusion_picture(make_color_run, tmp_path, capsys):
    run = make_color_run(files=False)
    output = tmp_path / "confusion.svg"
    result = json.loads(dxmc(capsys, "evaluate", run.run_dir.uri, "--json", "--confusion", output).out)
    assert result["confusion"] == str(output)
    assert output.read_text().startswith("<svg")
    unlabelled = make_color_run("bare", files=False, labels=False)
    printed = dxmc(capsys, "evaluate", unlabelled.run_dir.uri, "--confusion", output, code=2)
    assert "has no labels to draw" in printed.err


def test_comparison(make_color_run, capsys):
    first, second = (
        make_color_run(name, files=False, clusters=clusters).run_dir.uri
        for name, clusters in (("a", (0,) * 4 + (1,) * 4 + (2,) * 4), ("b", MOVED))
    )
    lines = dxmc(capsys, "evaluate", "--compare", first, second).out.splitlines()
    assert lines[:3] == [f"A  {first}", f"B  {second}", "12 images in both, 0 only in A, 0 only in B"]
    assert "matched_share 0.8333" in lines[3]
    acc = next(line for line in lines if line.startswith("ACC"))
    assert acc.split() == ["ACC", "1.0000", "0.8333"]
    assert lines[-1].split()[:3] == ["red", "4", "2"]
    assert lines[-1].endswith("red 2; green 2")
    result = json.loads(dxmc(capsys, "evaluate", "--compare", first, second, "--json").out)
    assert result["runs"] == [first, second]


@pytest.mark.parametrize("arguments", [(), ("run", "--compare", "a", "b"), ("--compare", "a", "b", "--confusion", "c")])
def test_what_does_not_go_together(arguments, capsys):
    assert "error: " in dxmc(capsys, "evaluate", *arguments, code=2).err
