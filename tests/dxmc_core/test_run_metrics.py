"""Figures of a scheduled run: as JSON values, as samples in Prometheus' format, and sent without leaks."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dxmc_core.artifacts.manifest import Manifest
from dxmc_core.run_metrics import post_webhook, prometheus_text, stage_metrics, summary_line

_SAMPLE = re.compile(r'^(\w+)\{((?:\w+="(?:[^"\\]|\\.)*",?)+)\} ([-+.e\d]+)$')


def manifest(stage, seconds, **metrics):
    return Manifest(
        stage=stage, fingerprint="f", inputs={}, tables={}, files={}, metrics=metrics, finished_at="", seconds=seconds,
        dxmc_version="",
    )  # fmt: skip


LINEAGE = {"churn": 0.25, "kept": 3, "born": 1, "died": 0, "new_images": 10, "removed_images": 2}


@pytest.fixture
def metrics():
    manifests = {
        "embed_images": manifest(
            "embed_images", 50.0, images=90, rejects=10, rows_resumed=75, reject_reasons={"empty": 7, "timeout": 3},
            changes={"new": 20, "changed": 5, "deleted": 2, "unchanged": 75, "taken_over": 75},
        ),
        "train_heads": manifest("train_heads", 40.0),
        "assign_clusters": manifest("assign_clusters", 5.0, mean_confidence=0.8, lineage=LINEAGE),
    }  # fmt: skip
    return {
        "last_run_success": True,
        "last_run_timestamp_seconds": 1_700_000_000.0,
        "last_success_timestamp_seconds": 1_700_000_000.0,
        "last_run_seconds": 100.0,
        "generation": 12,
        "mode": "full",
        "reason": "far_rise is 0.1",
        "drift": {"far_rise": 0.1, "num_arrivals": 20},
        "turnover": 0.3,
        **stage_metrics(manifests, num_gpus=4),
    }


def test_counts_rates_and_gpu_hours(metrics):
    assert metrics["embedded_images"] == 25
    assert metrics["embedded_images_per_second"] == 0.5
    assert metrics["listing_changes"] == {"new": 20, "changed": 5, "deleted": 2}
    assert metrics["gpu_hours"] == pytest.approx(4 * 90 / 3600)
    assert json.loads(json.dumps(metrics)) == metrics


def samples_of(text):
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = _SAMPLE.match(line)
        assert match, line
        labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2]))
        found[match[1], *sorted(value for key, value in labels.items() if key != "run_dir")] = float(match[3])
    return found


def test_prometheus_text_has_every_figure_once_under_one_header_a_name(metrics):
    text = prometheus_text(metrics, run_dir='s3://bucket/"odd"')
    samples = samples_of(text)
    assert samples["dxmc_last_run_success",] == 1
    assert samples["dxmc_full_clustering",] == 1
    assert samples["dxmc_rejects", "empty"] == 7
    assert samples["dxmc_drift", "far_rise"] == pytest.approx(0.1)
    assert samples["dxmc_clusters", "born"] == 1
    assert samples["dxmc_last_run_timestamp_seconds",] == 1_700_000_000
    headers = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(headers) == len(set(headers)) == len({name for name, *_ in samples})
    assert r'run_dir="s3://bucket/\"odd\""' in text


def test_run_that_failed_has_what_is_known():
    failed = {"last_run_success": False, "last_run_timestamp_seconds": 5.0, "last_run_seconds": 2.0, "error": "no disk"}
    assert samples_of(prometheus_text(failed, run_dir="x")) == {
        ("dxmc_last_run_success",): 0,
        ("dxmc_last_run_timestamp_seconds",): 5,
        ("dxmc_last_run_seconds",): 2,
    }
    assert summary_line(failed, run_dir="x") == "dxmc x: failed after 2 s: no disk"


def test_summary_is_one_line(metrics):
    line = summary_line(metrics, run_dir="x")
    assert "generation 12 (full: far_rise is 0.1), 90 images, 10 came, 2 went, churn 25.0%" in line
    nothing = {"last_run_success": True, "generation": 12, "last_run_seconds": 1.0}
    assert "nothing to do" in summary_line(nothing, run_dir="x")


@pytest.fixture
def receiver():
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(404 if "gone" in self.path else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()


def test_webhook_gets_the_metrics(receiver, metrics):
    url, received = receiver
    assert post_webhook(f"{url}/hook", metrics, run_dir="x") is None
    ((path, body),) = received
    assert path == "/hook"
    assert body["images"] == 90
    assert body["text"] == summary_line(metrics, run_dir="x")


def test_what_goes_wrong_never_tells_the_address(receiver, metrics):
    url, _ = receiver
    assert post_webhook(f"{url}/gone/secret", metrics, run_dir="x") == "it answered 404"
    for address in ("http://127.0.0.1:1/secret", "https://no such host/secret", "http://[secret", "file:///secret"):
        found = post_webhook(address, metrics, run_dir="x")
        assert found
        assert "secret" not in found
