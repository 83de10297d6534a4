"""The report of a scheduled run is there whatever its end, and what it cannot write changes nothing."""

import json
import logging

import pytest

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.errors import InputError, WorkerError
from dxmc_core.run_metrics import METRICS_NAME, PROMETHEUS_NAME, WEBHOOK_VARIABLE
from ray_jobs.run_report import reported


@pytest.fixture
def home(tmp_path):
    return RunDir.at(str(tmp_path / "home"))


def metrics_of(home):
    return json.loads(home.storage.read_bytes(METRICS_NAME))


def test_run_that_ends_well(home, tmp_path):
    with reported(home, prometheus_uri=str(tmp_path / "collector/dxmc.prom")) as report:
        report.update({"generation": 4, "images": 10})
    found = metrics_of(home)
    assert (found["last_run_success"], found["error"], found["generation"], found["images"]) == (True, None, 4, 10)
    assert found["last_run_timestamp_seconds"] == found["last_success_timestamp_seconds"]
    text = home.storage.read_bytes(PROMETHEUS_NAME)
    assert b"dxmc_images" in text
    assert (tmp_path / "collector/dxmc.prom").read_bytes() == text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("no such place; choose another"), "no such place; choose another"),
        (KeyboardInterrupt(), "stopped from outside"),
        (SystemExit(15), "stopped from outside"),
        (ZeroDivisionError("secret"), "ZeroDivisionError, a defect"),
        (WorkerError("ValueError", "secret", "Traceback"), "ValueError, a defect"),
    ],
)
def test_run_that_fails_says_so_and_when_it_last_went_well(home, error, said):
    with reported(home, prometheus_uri=None) as report:
        report["generation"] = 1
    before = metrics_of(home)["last_success_timestamp_seconds"]

    def run():
        with reported(home, prometheus_uri=None) as report:
            report["images"] = 3
            raise error

    with pytest.raises(type(error)):
        run()
    found = metrics_of(home)
    assert not found["last_run_success"]
    assert said in found["error"]
    assert "secret" not in found["error"]
    assert "images" not in found
    assert found["last_success_timestamp_seconds"] == before
    assert b"dxmc_last_run_success" in home.storage.read_bytes(PROMETHEUS_NAME)


def test_what_cannot_be_written_or_reached_is_a_warning_without_the_address(home, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(WEBHOOK_VARIABLE, "http://127.0.0.1:1/token-of-ours")
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING), reported(home, prometheus_uri=str(tmp_path / "file/dxmc.prom")) as report:
        report["generation"] = 1
    assert metrics_of(home)["last_run_success"]
    assert "metrics of this run are not written" in caplog.text
    assert "webhook of DXMC_WEBHOOK_URL was not reached: URLError" in caplog.text
    assert "token-of-ours" not in caplog.text + home.storage.read_bytes(METRICS_NAME).decode()
