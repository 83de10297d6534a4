"""`dxmc review` with a real browser: corrections stand in edits.yaml at once, and are applied when asked."""

import json
import signal
import subprocess
import sys

import pytest

from dxmc_core.artifacts.generations import Generations
from dxmc_core.edits.file import read_edits
from ray_jobs import cli

pytestmark = pytest.mark.browser


@pytest.fixture
def run(make_color_run, publish_rest):
    """A run of three clusters with a report."""
    run_dir = make_color_run().run_dir
    publish_rest(run_dir)
    parsed = cli.make_parser().parse_args(["edit", run_dir.uri, "rename", "0", "crimson", "--author", "bob"])
    parsed.command.execute(parsed)
    return run_dir


def test_corrections_are_kept_as_they_are_made_and_applied_when_asked(chromium, run):
    command = [sys.executable, "-m", "ray_jobs.cli", "review", run.uri, "--author", "ann", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as review:
        try:
            page = chromium.new_page()
            problems: list[str] = []
            page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(json.loads(review.stdout.readline())["address"])
            correct(page, run)
            assert problems == []
            with run.locked():
                page.locator("#cluster-0 .select-cluster").click()
                press(page, "Hide")
                page.locator("#editing-error", has_text="in use by another run").wait_for()
            assert page.locator("#editing-entries li").count() == 0
            page.close()
        finally:
            review.send_signal(signal.SIGINT)
            said = review.communicate(timeout=60)[1]
    assert review.returncode == 0, said
    assert "Traceback" not in said


def correct(page, run) -> None:
    press(page, "Edit")
    for cluster in (1, 2):
        page.locator(f"#cluster-{cluster} .select-cluster").click()
    press(page, "Merge")
    page.locator("#editing-count", has_text="1 correction").wait_for()
    edit = read_edits(run).edits[-1]
    assert (edit.author, edit.kind, [cluster.id for cluster in edit.clusters]) == ("ann", "merge", [1, 2])
    press(page, "Take back")
    page.locator("#editing-count", has_text="No corrections yet").wait_for()
    assert [edit.kind for edit in read_edits(run).edits] == ["rename"]
    for cluster in (1, 2):
        page.locator(f"#cluster-{cluster} .select-cluster").click()
    press(page, "Merge")
    page.locator("#editing-count", has_text="1 correction").wait_for()
    assert Generations(run).pointer().current == 1
    press(page, "Apply")
    page.locator("#cluster-2").wait_for(state="detached")
    assert Generations(run).pointer().current == 2
    assert page.locator(".card").count() == 2
    press(page, "Edit")
    assert page.locator("#editing-count").inner_text() == "No corrections yet"


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()
