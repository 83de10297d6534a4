"""What an error advises works: settings, options and commands exist, and advice is followed to the letter."""

import argparse
import ast
import re
import shlex
import typing
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from dxmc_core.artifacts.run_dir import STAGES
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.artifacts.tables import NOUNS
from dxmc_core.config import PipelineConfig
from dxmc_core.errors import ArtifactError
from ray_jobs.cli import main, make_parser
from ray_jobs.plans import plan_of

ROOT = Path(__file__).parents[2]
SECTIONS = "|".join(PipelineConfig.model_fields)
#: What stands behind a section and a dot, and is no setting: part of a name of a file or of a page.
NOT_SETTINGS = {"train_heads.py", "embed_images.py"}


def raised_texts() -> list[tuple[str, str]]:
    """Every text of a `raise` and of a log line, with its place; {} stands for what is filled in."""
    texts = []
    for path in [*ROOT.glob("dxmc_core/**/*.py"), *ROOT.glob("ray_jobs/**/*.py")]:
        for statement in ast.walk(ast.parse(path.read_text())):
            is_log = isinstance(statement, ast.Call) and ast.unparse(statement.func).startswith("logger.")
            is_error = isinstance(statement, ast.Call) and re.search(r"Error$", ast.unparse(statement.func))
            if not (is_log or is_error):
                continue
            for argument in statement.args:
                texts += [(f"{path.relative_to(ROOT)}:{argument.lineno}", text) for text in _texts(argument)]
    return texts


def _texts(node: ast.expr) -> list[str]:
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def models_in(annotation) -> list[type[BaseModel]]:
    found = [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
    return found + [model for inner in typing.get_args(annotation) for model in models_in(inner)]


def is_setting(path: str) -> bool:
    """Whether `section.key` is a setting, of one kind at least."""
    section, key = path.split(".")
    models = models_in(PipelineConfig.model_fields[section].annotation)
    return any(key in model.model_fields for model in models)


@pytest.fixture(scope="module")
def texts():
    found = raised_texts()
    assert len(found) > 200
    return found


def test_settings_that_messages_name_exist(texts):
    named = {(place, path) for place, text in texts for path in re.findall(rf"\b((?:{SECTIONS})\.[a-z_]+)", text)}
    named = {(place, path) for place, path in named if path not in NOT_SETTINGS}
    assert len(named) > 20
    assert {(place, path) for place, path in named if not is_setting(path)} == set()


def test_options_and_commands_that_messages_name_exist(texts):
    parser = make_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    options = {option for command in commands.choices.values() for option in command._option_string_actions}
    foreign = {"--sparse", "--force-reinstall"}  # of tar and of pip
    named = {(place, option) for place, text in texts for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
    assert len({option for _, option in named}) > 5
    assert {(place, option) for place, option in named if option not in options | foreign} == set()
    for place, text in texts:
        for typed in re.findall(
            r"\bdxmc ((?:run|rollback|suggest-k|report|status)(?: (?:--[a-z-]+|[A-Z]\w*|\{\}))+)", text
        ):
            typed = typed.replace("{}", "PLACE").replace("--to N", "--to 1")
            assert parser.parse_args(shlex.split(typed)), f"{place}: dxmc {typed}"


def test_stages_that_messages_name_are_jobs():
    for stage in STAGES:
        assert stage == plan_of(stage).NAME


def run(capsys, *arguments) -> str:
    """The last line of a `dxmc` that refuses to run."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ")
    return said[-1]


@pytest.fixture
def without_network(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("command", ["run", "recluster"])
def test_missing_weights_are_noticed_before_anything_is_listed_and_bind_nothing(
    without_network, tmp_path, capsys, command
):
    """The source does not exist either, which listing it would say; the advice then leads as far as that."""
    place = tmp_path / "run"
    of_run = (command, "--config", ROOT / "configs/s3.yaml", "--run-dir", place, "--set", f"source.uri={tmp_path}/none")
    refused = run(capsys, *of_run)
    assert "no network to download the weights 'openai' of ViT-B-32-quickgelu" in refused
    (advice,) = re.findall(r"or set (\S+=\S+)$", refused)
    assert not [path for path in place.rglob("*") if path.is_dir() and path.name in STAGES]
    if command == "run":  # the other would start Ray next
        assert not list(place.glob("*"))
        assert f"{tmp_path}/none does not exist" in run(capsys, *of_run, "--set", advice)


def test_model_of_the_hub_that_cannot_be_reached(without_network, tmp_path, capsys):
    """Weights of one's own in encoder.pretrained, as for other models, would not be looked at."""
    of_run = ("run", "--config", ROOT / "configs/s3.yaml", "--run-dir", tmp_path / "run")
    of_run += (f"--set=source.uri={tmp_path}/none", "--set=encoder.model=hf-hub:a/b")
    folder, offline = re.findall(r"set (encoder\.\w+=\S+?),? ?(?:or|$)", run(capsys, *of_run))
    copied = tmp_path / "model"
    copied.mkdir()
    (copied / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 4}}')
    (copied / "open_clip_model.safetensors").write_bytes(b"weights")
    for advice in (folder.replace("/FOLDER", str(copied)), offline):
        assert f"{tmp_path}/none does not exist" in run(capsys, *of_run, "--set", advice)


def test_missing_checkpoint_is_noticed_before_the_lock(tmp_path, capsys):
    place = tmp_path / "run"
    weights = f"encoder.pretrained={tmp_path}/clip.pt"
    of_run = ("run", "--config", ROOT / "configs/s3.yaml", "--run-dir", place, "--set", weights)
    assert f"there is no file {tmp_path}/clip.pt" in run(capsys, *of_run)
    assert not place.exists()


def test_nouns_need_the_weights_where_images_do_not(without_network, tmp_path, capsys):
    np.savez(tmp_path / "images.npz", embeddings=np.eye(20, dtype=np.float32))
    config = tmp_path / "mine.yaml"
    config.write_text(f"run_dir: {tmp_path}/run\nsource: {{kind: embeddings, uri: {tmp_path}/images.npz}}\n")
    assert "no network to download the weights" in run(capsys, "run", "--config", config)
    assert not list((tmp_path / "run").glob("*"))


def test_missing_vocabulary_is_noticed_before_anything_is_embedded(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    of_run = ("run", "--config", ROOT / "configs/laptop.yaml", "--run-dir", tmp_path / "run")
    other = (f"--set=source.uri={tmp_path}/photos", f"--set=vocabulary={{kind: file, uri: {tmp_path}/nouns.txt}}")
    assert f"{tmp_path}/nouns.txt" in run(capsys, *of_run, *other)
    assert not list((tmp_path / "run").glob("*"))


def test_a_finished_stage_that_lacks_something_is_made_again_once_its_manifest_is_deleted(tmp_path):
    stage = StageDir(Storage(str(tmp_path / "train_heads")), "train_heads")
    stage.publish(fingerprint="c" * 32, inputs={}, tables={}, seconds=1.0)
    for read in (lambda: stage.read_file("heads.safetensors"), lambda: stage.read_table(NOUNS)):
        with pytest.raises(ArtifactError) as caught:
            read()
        place, name = re.search(
            r"^(\S+) has no .*; delete its (\S+) to rebuild train_heads$", str(caught.value)
        ).groups()
        assert (Path(place) / name).is_file()
    (Path(place) / name).unlink()
    assert stage.manifest() is None
    with pytest.raises(ArtifactError, match="run train_heads first: dxmc run --config FILE"):
        stage.require_manifest()


def test_activation_of_the_weights(tmp_path, capsys, without_network):
    of_run = (
        "run",
        "--config",
        ROOT / "configs/s3.yaml",
        "--run-dir",
        tmp_path / "run",
        "--set",
        "encoder.model=ViT-B-32",
    )
    (model,) = re.findall(r"set it to (\S+)$", run(capsys, *of_run))
    assert f"of {model} from" in run(capsys, *of_run, "--set", f"encoder.model={model}")
