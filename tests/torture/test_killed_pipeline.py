"""Whole runs are disturbed at random, and are as if nobody had disturbed them; benchmarks/kill_pipeline.py says how."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dxmc_core.artifacts.run_dir import STAGES

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_pipeline.py"
SECONDS_PER_DISTURBANCE = 60

pytestmark = pytest.mark.ray


def test_disturbed_runs_end_like_one_left_alone(amount, torture_seed):
    count = amount(2, 200)
    arguments = ["--planted", str(amount(200, 2000)), "--kills", str(count), "--seed", str(torture_seed)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=600 + SECONDS_PER_DISTURBANCE * count,
    )
    assert done.stdout, done.stderr[-4000:]
    report = json.loads(done.stdout)
    shown = done.stdout + done.stderr[-4000:]
    print(shown)  # noqa: T201 - figures for whoever asks pytest for them
    assert sum(report["disturbances"].values()) == count, shown
    assert report["failures"] == [], shown
    assert report["partial_reads"] == [], shown
    assert report["reads"] > 0
    assert report["otherwise_than_planted"] == [], shown
    assert report["most_reruns"] <= 3
    every = f"{report['trials']} of {report['trials']}"
    assert set(report["same_artifacts"].values()) == {every}, shown
    assert {name.partition("/")[0] for name in report["same_artifacts"]} == set(STAGES[:-1])
    assert report["holds"]
    assert done.returncode == 0
