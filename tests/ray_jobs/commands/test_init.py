"""`dxmc init`, and the commands that are printed as the next ones to type."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dxmc_core.config import load_config
from ray_jobs import commands
from ray_jobs.cli import main, make_parser
from ray_jobs.commands.init import TEMPLATES

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture(autouse=True)
def started_as_a_module(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/ray_jobs/cli.py"])


def dxmc(capsys, *arguments, code=0):
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    assert exit_info.value.code == code
    return capsys.readouterr()


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_commented_configuration_that_is_valid(kind, tmp_path, capsys):
    path = tmp_path / "my configuration.yaml"
    printed = dxmc(capsys, "init", kind, path).out
    assert path.read_bytes() == (CONFIGS / TEMPLATES[kind]).read_bytes()
    assert path.read_text().startswith("# ")
    assert load_config(str(path)).run_dir
    typed = re.findall(r" -m ray_jobs\.cli (.+)$| dxmc (run .+|preflight .+)$", printed, re.MULTILINE)
    assert typed
    for words in typed:
        assert make_parser().parse_args(shlex.split("".join(words))).config == str(path)


def test_every_shipped_configuration_can_be_written():
    assert sorted(TEMPLATES.values()) == sorted(path.name for path in CONFIGS.iterdir())


def test_nothing_is_replaced(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("mine")
    assert "is there already and stays as it is" in dxmc(capsys, "init", "s3", path, code=2).err
    assert path.read_text() == "mine"
    assert "cannot write" in dxmc(capsys, "init", "s3", tmp_path / "none" / "a.yaml", code=2).err
    assert "no local file" in dxmc(capsys, "init", "s3", "s3://bucket/a.yaml", code=2).err


def test_by_default_images_in_this_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dxmc(capsys, "init")
    assert (tmp_path / "dxmc.yaml").read_bytes() == (CONFIGS / "laptop.yaml").read_bytes()


def test_the_demo_says_how_to_make_its_images(tmp_path, capsys):
    first, second = dxmc(capsys, "init", "demo", tmp_path / "demo.yaml").out.splitlines()[1:]
    program, *arguments = shlex.split(first.removeprefix("next:"))
    found = subprocess.run([program, *arguments[:2], "--help"], capture_output=True, text=True, check=True)
    assert "folder" in found.stdout
    assert second.endswith(f"run --config {tmp_path / 'demo.yaml'}")
    assert load_config(str(CONFIGS / "demo.yaml")).source.uri == arguments[2]


@pytest.mark.parametrize(
    ("where", "on_path", "typed"),
    [(".venv/bin", True, "dxmc"), (".venv/bin", False, ".venv/bin/dxmc"), ("my env", False, "'my env/dxmc'")],
)
def test_a_next_command_runs_as_it_is_printed(where, on_path, typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / where / "dxmc"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\necho this one $1\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", f"{script.parent if on_path else tmp_path}:{os.defpath}")
    assert commands.this_dxmc() == typed
    done = subprocess.run(f"{commands.this_dxmc()} status", shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "this one status\n"


def test_a_dxmc_elsewhere_on_the_path_is_not_taken_for_this_one(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dxmc").write_text("#!/bin/sh\n")
        (tmp_path / name / "dxmc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "a"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "b" / "dxmc")])
    assert commands.this_dxmc() == str(tmp_path / "b" / "dxmc")
