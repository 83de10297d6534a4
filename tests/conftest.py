"""Fixtures that more than one suite uses, and the rule that CI may not skip."""

import os
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parents[1]
#: The only reason for which a test may be skipped in CI.
_NO_GPU = "no GPU"


@pytest.fixture(scope="session")
def evaluation_data() -> Path:
    """The folder of evaluation data: DXMC_EVALUATION_DATA, or `shared/data` beside the repository."""
    folder = Path(os.environ.get("DXMC_EVALUATION_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not (folder / "clip_vitb32").is_dir():
        pytest.skip(f"no evaluation data in {folder}; set DXMC_EVALUATION_DATA to the folder that holds clip_vitb32")
    return folder


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Where DXMC_TESTS_MAY_NOT_SKIP is set, a skipped test is a failed one."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("DXMC_TESTS_MAY_NOT_SKIP") and not hasattr(report, "wasxfail"):
        reason = str(call.excinfo.value) if call.excinfo else ""
        if _NO_GPU not in reason:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped where it may not be: {reason}"
