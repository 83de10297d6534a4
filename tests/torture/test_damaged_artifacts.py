"""Every file of a finished run is damaged in turn: whoever reads it says so and names it, and never uses it."""

import json
import random
from pathlib import Path

import pytest

from dxmc_core.artifacts.manifest import MANIFEST_NAME
from dxmc_core.artifacts.run_dir import STAGES
from dxmc_core.artifacts.tables import table_named
from dxmc_core.errors import ArtifactError
from ray_jobs.cli import main


@pytest.fixture
def run(make_color_run):
    return make_color_run(files=False)


def files_of(run) -> list[Path]:
    return sorted(path for path in Path(run.run_dir.uri).rglob("*") if path.is_file() and path.name != "run.json")


def read_everything(run) -> dict[str, object]:
    """What readers get of each stage that is done: its tables and files."""
    found: dict[str, object] = {}
    for name in STAGES:
        stage = run.run_dir.stage(name)
        manifest = stage.manifest()
        if manifest is not None:
            found[name] = manifest
            for table, parts in manifest.tables.items():
                found |= {f"{name}/{table}": stage.read_table(table_named(table)).to_pylist()} if parts else {}
            found |= {f"{name}/{file}": stage.read_file(file) for file in manifest.files}
    return found


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def flip(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def lengthen(data: bytes, chance: random.Random) -> bytes:
    return data + chance.randbytes(chance.choice([1, 1000]))


@pytest.mark.parametrize("damage", [cut, flip, lengthen])
def test_damage_is_named_and_never_used(run, damage, amount, torture_seed):
    chance = random.Random(torture_seed)
    whole = read_everything(run)
    assert len(files_of(run)) > 8
    for path in files_of(run):
        data = path.read_bytes()
        for _ in range(amount(5, 200)):
            path.write_bytes(damage(data, chance))
            try:
                found = read_everything(run)
            except ArtifactError as error:
                found = {"error": str(error)}
            path.write_bytes(data)
            if "error" in found:
                assert str(path) in str(found["error"])
                assert "\n" not in str(found["error"])
            else:
                # Only white space of a manifest may change without a change of what it says.
                assert path.name == MANIFEST_NAME
                assert found == whole
    assert read_everything(run) == whole


def test_files_of_another_run(run, make_color_run):
    other = make_color_run("other", files=False, clusters=(2,) * 4 + (0,) * 4 + (1,) * 4)
    part = next(Path(run.run_dir.uri).glob("assign_clusters/assignments/*.parquet"))
    theirs = next(Path(other.run_dir.uri).glob("assign_clusters/assignments/*.parquet"))
    part.write_bytes(theirs.read_bytes())
    with pytest.raises(ArtifactError, match=f"{part.name} is damaged"):
        read_everything(run)


def test_manifest_of_an_older_version(run):
    path = Path(run.run_dir.uri) / "assign_clusters" / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 1}))
    with pytest.raises(ArtifactError, match="schema version 1, this dxmc reads version"):
        read_everything(run)


@pytest.mark.parametrize("command", [["status"], ["evaluate"], ["report", "--output", "copy.html"]])
def test_commands_end_in_one_line(run, command, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for path in files_of(run):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(SystemExit) as exit_info:
            main([command[0], run.run_dir.uri, *command[1:]])
        printed = capsys.readouterr().err.strip()
        assert "Traceback" not in printed
        assert exit_info.value.code == 0 or printed.splitlines()[-1].startswith("error: ")
        path.write_bytes(data)
