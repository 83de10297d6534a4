"""Thousands of files that were made to hurt: none crashes or stops the run, none is lost."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _result_of(script: str, count: int, seed: int) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / script), "--count", str(count), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["images"] + sum(result["rejects"].values()) == count
    assert result["peak_gigabytes"] < 4
    return result


def test_every_file_ends_in_images_or_rejects(amount, torture_seed):
    result = _result_of("hostile_files.py", amount(150, 5000), torture_seed)
    assert {"truncated", "unreadable", "not_an_image", "too_large"} <= set(result["rejects"])


def test_mutated_files_of_every_format_and_container_end_in_images_or_rejects(amount, torture_seed):
    result = _result_of("mutated_files.py", amount(200, 2000), torture_seed)
    assert {"truncated", "unreadable", "not_an_image", "unsupported"} <= set(result["rejects"])
    assert result["images"] > result["files"] / 8
