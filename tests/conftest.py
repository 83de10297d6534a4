"""Fixtures that more than one suite uses, and the rule that CI may not skip."""

import importlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

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


@dataclass(frozen=True)
class Bucket:
    """A bucket of its own on the session's S3 server, which this process and the ones it starts find by environment.

    Attributes:
        uri: s3://<name>.
        environment: for processes whose environment is given explicitly.
        client: boto3's.
        faults: what the server breaks (`benchmarks/s3_server.py`); nothing at first.
    """

    name: str
    environment: dict[str, str]
    client: Any
    faults: Any

    @property
    def uri(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(_REPOSITORY / "benchmarks"))
        module = importlib.import_module("s3_server")
    with module.serve_s3() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server, monkeypatch) -> Iterator[Bucket]:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # a file system keeps the endpoint that it was made with
    bucket = Bucket(f"test-{uuid.uuid4().hex[:12]}", s3_server.environment, s3_server.client(), s3_server.faults)
    bucket.client.create_bucket(Bucket=bucket.name)
    yield bucket
    bucket.faults.share = 0.0
    bucket.faults.always.clear()
    bucket.faults.counts.clear()
    S3FileSystem.clear_instance_cache()


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
