"""Figures of training in TensorBoard's files, read back, and in MLflow as it is called."""

import logging
import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.config import parse_config
from dxmc_core.errors import InputError
from dxmc_core.stages.training_log import scalars, training_log

FINGERPRINT = "abcdef012345" + "0" * 20


def epoch(number, **changes):
    report = {
        "epoch": number,
        "num_epochs": 3,
        "terms": {"total": 1.5 / number, "balance": 0.25},
        "cluster_sizes": [1, 2],
    }
    return {
        **report,
        "balance": 0.9,
        "num_changed": None,
        "seconds": 0.5,
        "samples_per_s": 100.0,
        "warning": None,
        **changes,
    }


def events_of(folder):
    """Events of TensorBoard's record files: length (8 bytes), checksum (4), content, checksum (4)."""
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_tensorboard_files_hold_the_figures(tmp_path):
    run_dir = RunDir.at(str(tmp_path / "run"))
    with training_log("tensorboard", run_dir, fingerprint=FINGERPRINT, settings={"method.name": "dxmc"}) as log:
        log(epoch(1))
        log(epoch(2, num_changed=7))
    found = {
        (value.tag, event.step): value.simple_value
        for event in events_of(tmp_path / "run/tensorboard/abcdef012345")
        for value in event.summary.value
        if value.HasField("simple_value")
    }
    assert found["loss/total", 1] == pytest.approx(1.5)
    assert found["loss/total", 2] == pytest.approx(0.75)
    assert found["num_changed", 2] == 7
    assert ("num_changed", 1) not in found
    texts = b"".join(path.read_bytes() for path in (tmp_path / "run/tensorboard/abcdef012345").iterdir())
    assert b"method.name: dxmc" in texts


def test_no_target_no_files(tmp_path):
    with training_log(None, RunDir.at(str(tmp_path / "run")), fingerprint=FINGERPRINT, settings={}) as log:
        log(epoch(1))
    assert not (tmp_path / "run").exists()


def test_tensorboard_and_object_storage():
    run_dir = RunDir.at("s3://bucket/run")
    with (
        pytest.raises(InputError, match="use mlflow or null"),
        training_log("tensorboard", run_dir, fingerprint=FINGERPRINT, settings={}),
    ):
        pass


@pytest.fixture
def mlflow(monkeypatch):
    """The part of MLflow that is used; the package is not among the tests' packages. `broken` makes logging fail."""
    module = ModuleType("mlflow")
    module.exceptions = SimpleNamespace(MlflowException=type("MlflowException", (Exception,), {}))
    module.runs, module.params, module.metrics, module.broken = [], {}, [], False

    @contextmanager
    def start_run(run_name):
        module.runs.append(run_name)
        yield SimpleNamespace(info=SimpleNamespace(run_id="7"))

    def log_metrics(metrics, step, run_id):
        if module.broken:
            raise module.exceptions.MlflowException("the server is gone")
        module.metrics.append((run_id, step, metrics))

    module.start_run, module.log_params, module.log_metrics = start_run, module.params.update, log_metrics
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


def test_mlflow_gets_the_figures(tmp_path, mlflow):
    run_dir = RunDir.at(str(tmp_path / "run"))
    with training_log("mlflow", run_dir, fingerprint=FINGERPRINT, settings={"seed": "0"}) as log:
        log(epoch(1))
    assert mlflow.runs == ["run-abcdef012345"]
    assert mlflow.params == {"seed": "0"}
    assert mlflow.metrics == [("7", 1, scalars(epoch(1)))]


def test_a_log_that_fails_is_given_up_once(tmp_path, mlflow, caplog):
    run_dir = RunDir.at(str(tmp_path / "run"))
    with (
        caplog.at_level(logging.WARNING),
        training_log("mlflow", run_dir, fingerprint=FINGERPRINT, settings={}) as log,
    ):
        log(epoch(1))
        mlflow.broken = True
        log(epoch(2))
        log(epoch(3))
    assert len(mlflow.metrics) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "train_heads.log_to: logging stopped at epoch 2: the server is gone"
    ]


@pytest.mark.parametrize(("target", "package"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow")])
def test_without_the_package_there_is_a_clear_error(tmp_path, monkeypatch, target, package):
    monkeypatch.setitem(sys.modules, package, None)
    run_dir = RunDir.at(str(tmp_path / "run"))
    with (
        pytest.raises(InputError, match=f"pip install {package}"),
        training_log(target, run_dir, fingerprint=FINGERPRINT, settings={}),
    ):
        pass


def test_only_known_targets():
    values = {"run_dir": "x", "source": {"uri": "y"}, "train_heads": {"log_to": "wandb"}}
    with pytest.raises(InputError, match=r"train_heads.log_to: .*'tensorboard' or 'mlflow'"):
        parse_config(values, where="test")
