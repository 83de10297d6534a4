"""Thousands of files that were made to hurt: none crashes or stops the run, none is lost."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "hostile_files.py"


def test_every_file_ends_in_images_or_rejects(amount, torture_seed):
    count = amount(150, 5000)
    arguments = ["--count", str(count), "--seed", str(torture_seed)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False, timeout=3600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["images"] + sum(result["rejects"].values()) == count
    assert {"truncated", "unreadable", "not_an_image", "too_large"} <= set(result["rejects"])
    assert result["peak_gigabytes"] < 4
