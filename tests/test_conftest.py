"""A test run says in the end what it did not test, and why."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_what_was_not_tested_is_said_with_the_reason_and_the_remedy(tmp_path):
    """The browser tests, where no program is found at all: neither Chromium nor any other."""
    environment = {**os.environ, "PATH": str(tmp_path)}
    environment.pop("DXMC_TESTS_MAY_NOT_SKIP", None)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/dxmc_core/report/test_browser.py"]
    found = subprocess.run(
        [*command, "-k", "tiles or map"], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    *_, said, end = found.stdout.splitlines()
    num_skipped = int(end.split(" skipped")[0].split()[-1])
    assert num_skipped > 1
    assert said == f"not tested here: {num_skipped} browser tests (Chromium is missing: apt-get install chromium)"
