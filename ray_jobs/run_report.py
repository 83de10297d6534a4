"""The report of a scheduled run, whatever its end: files beside the generations, and a webhook where one is named."""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.storage import write_output
from dxmc_core.errors import DxmcError, WorkerError
from dxmc_core.run_metrics import METRICS_NAME, PROMETHEUS_NAME, WEBHOOK_VARIABLE, post_webhook, prometheus_text

#: What every such file has, so that no other one is replaced.
_METRICS_MARK, _PROMETHEUS_MARK = b'"last_run_timestamp_seconds"', b"# HELP dxmc_last_run_success"

logger = logging.getLogger(__name__)


@contextmanager
def reported(home: RunDir, *, prometheus_uri: str | None) -> Iterator[dict[str, Any]]:
    """Write `metrics.json` and `metrics.prom` into the home and call the webhook when the block ends, well or not.

    Yields:
        the metrics, to be filled in; whether it ended well, when and what went wrong is added here.
    """
    started = time.perf_counter()
    report: dict[str, Any] = {}
    try:
        yield report
    except BaseException as error:
        _finish(home, {"last_run_success": False, "error": describe_error(error)}, started, prometheus_uri)
        raise
    _finish(home, {"last_run_success": True, "error": None, **report}, started, prometheus_uri)


def describe_error(error: BaseException) -> str:
    """One line: what a person is told of an error that is meant for them, the kind of any other."""
    if isinstance(error, DxmcError):
        return str(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "stopped from outside; the same command goes on from here"
    kind = error.kind if isinstance(error, WorkerError) else type(error).__name__
    return f"{kind}, a defect; the log has the traceback"


def _finish(home: RunDir, report: dict[str, Any], started: float, prometheus_uri: str | None) -> None:
    """Nothing that goes wrong here changes how the run ended."""
    ended = time.time()
    report |= {
        "last_run_timestamp_seconds": ended,
        "last_success_timestamp_seconds": ended if report["last_run_success"] else _last_success(home),
        "last_run_seconds": round(time.perf_counter() - started, 3),
    }
    text = prometheus_text(report, run_dir=home.uri).encode()
    try:
        write_output(f"{home.uri}/{METRICS_NAME}", json.dumps(report, indent=1).encode(), mark=_METRICS_MARK)
        write_output(f"{home.uri}/{PROMETHEUS_NAME}", text, mark=_PROMETHEUS_MARK)
        if prometheus_uri is not None:
            write_output(prometheus_uri, text, mark=_PROMETHEUS_MARK)
    except DxmcError as error:
        logger.warning("the metrics of this run are not written: %s", error)
    url = os.environ.get(WEBHOOK_VARIABLE)
    if url and (problem := post_webhook(url, report, run_dir=home.uri)):
        logger.warning("the webhook of %s was not reached: %s", WEBHOOK_VARIABLE, problem)


def _last_success(home: RunDir) -> float | None:
    try:
        return json.loads(home.storage.read_bytes(METRICS_NAME)).get("last_success_timestamp_seconds")
    except (OSError, ValueError):
        return None
