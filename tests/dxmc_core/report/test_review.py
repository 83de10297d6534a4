"""`dxmc review` with a real browser: what is corrected in the page stands in edits.yaml at once."""

import json
import signal
import subprocess
import sys

import pyarrow as pa
import pytest

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.edits.file import read_edits
from dxmc_core.report import Question, ReportData, render_report

pytestmark = pytest.mark.browser

FINGERPRINT = "e" * 32


@pytest.fixture
def report(make_report_data) -> ReportData:
    questions = [
        Question(kind="merge", cluster_id=0, other_id=1, rows=range(6), other_rows=range(20, 26), num_images=25),
        Question(kind="split", cluster_id=2, rows=range(40, 46), other_rows=range(50, 56), num_images=8),
    ]
    return make_report_data(is_editable=True, questions=questions)


def publish(stage, *, tables=None, files=None) -> None:
    stage.begin(FINGERPRINT)
    stage.publish(
        fingerprint=FINGERPRINT,
        inputs={},
        tables={
            name: [stage.write_part(name, table, fingerprint=FINGERPRINT)] for name, table in (tables or {}).items()
        },
        files={name: stage.write_file(name, content) for name, content in (files or {}).items()},
        seconds=0.1,
    )


def test_dxmc_review_takes_corrections_as_they_are_made(chromium, report, tmp_path):
    run_dir = RunDir.at(str(tmp_path / "run"))
    assigned = pa.table({"image_id": [image.image_id for image in report.images.values()]})
    publish(run_dir.stage("assign_clusters"), tables={"assignments": assigned})
    publish(run_dir.stage("write_report"), files={"index.html": render_report(report).encode()})
    run_dir.write_record({"config": {}})
    command = [sys.executable, "-m", "ray_jobs.cli", "review", run_dir.uri, "--author", "ann", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as review:
        try:
            page = chromium.new_page()
            problems: list[str] = []
            page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(json.loads(review.stdout.readline())["address"])
            page.locator("#ask").click()
            page.keyboard.press("y")
            page.locator("#question-text", has_text="two different things").wait_for()
            page.keyboard.press("Escape")
            (edit,) = read_edits(run_dir).edits
            assert (edit.author, edit.kind) == ("ann", "merge")
            assert [cluster.images[0] for cluster in edit.action.clusters] == ["cat/00000.jpg", "coffee/00020.jpg"]
            page.get_by_role("button", name="Take back", exact=True).click()
            page.locator("#editing-count", has_text="No corrections yet").wait_for()
            assert read_edits(run_dir).edits == ()
            assert problems == []
            with run_dir.locked():
                page.locator("#cluster-0 .select-cluster").click()
                page.get_by_role("button", name="Hide", exact=True).click()
                page.locator("#editing-error", has_text="in use by another run").wait_for()
            assert page.locator("#editing-entries li").count() == 0
            page.close()
        finally:
            review.send_signal(signal.SIGINT)
            said = review.communicate(timeout=60)[1]
    assert review.returncode == 0, said
    assert "Traceback" not in said
