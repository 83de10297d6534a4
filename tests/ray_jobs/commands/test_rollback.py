"""`dxmc rollback`: what is kept is listed, and the way back is one command."""

import json

import pytest

from dxmc_core.artifacts.generations import GenerationRecord, Generations
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.errors import InputError
from ray_jobs import cli


def rollback(*arguments):
    parsed = cli.make_parser().parse_args(["rollback", *arguments])
    parsed.command.execute(parsed)


@pytest.fixture
def home(tmp_path):
    generations = Generations(RunDir.at(str(tmp_path / "home")))
    for number in (1, 2, 3):
        record = GenerationRecord(number=number, base=None, mode="full", reason="why", published_at="now", metrics={})
        generations.publish(record, before=generations.pointer())
    return generations.home.uri


def test_list_changes_nothing(home, capsys):
    rollback(home, "--list")
    lines = capsys.readouterr().out.splitlines()
    assert [line[:8].split() for line in lines] == [["1"], ["2"], ["*", "3"]]


def test_back_to_the_one_before_and_to_any(home, capsys):
    rollback(home, "--json")
    assert json.loads(capsys.readouterr().out)["current"] == 2
    rollback(home, "--to", "1", "--json")
    assert json.loads(capsys.readouterr().out)["current"] == 1
    with pytest.raises(InputError, match="does not keep an earlier generation"):
        rollback(home)


def test_place_without_generations(tmp_path):
    with pytest.raises(InputError, match="no generations"):
        rollback(str(tmp_path), "--list")
