"""`dxmc status`: what is there, who is at work and how far, and what a rerun would do; the source is left alone."""

import json

import pytest

from dxmc_core.artifacts import lease
from dxmc_core.config import parse_config
from ray_jobs import cli
from ray_jobs.context import RunContext
from ray_jobs.progress import Progress, named, snapshot


def status(*arguments):
    parsed = cli.make_parser().parse_args(["status", *arguments])
    parsed.command.execute(parsed)


@pytest.fixture
def context(tmp_path):
    """A run whose pictures are embedded, and cannot be listed: their folder is not there."""
    values = {"run_dir": str(tmp_path / "run"), "source": {"uri": str(tmp_path / "photos")}, "num_clusters": 3}
    context = RunContext.of(parse_config(values, where="test"))
    with context.run_dir.locked():
        context.claim()
    metrics = {"images": 7, "rejects": 1, "reject_reasons": {"corrupt": 1}, "rows_resumed": 0}
    context.stage("embed_images").publish(fingerprint="f" * 32, inputs={}, tables={}, metrics=metrics, seconds=2.0)
    return context


def test_source_is_looked_at_only_where_asked_for(context, capsys):
    status(context.run_dir.uri)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["embed_images", "done"]
    assert "7 images, 1 rejects" in lines[1]
    assert lines[-1] == "rejects: 1 corrupt"
    with pytest.raises(Exception, match="photos does not exist"):
        status(context.run_dir.uri, "--check-source")


def test_run_that_is_at_work_is_told_with_its_stage_and_last_line(context, capsys, monkeypatch):
    with named("train_heads"), Progress("training", 20, unit="epochs") as progress:
        progress.add(5)
        with context.run_dir.locked(lambda: {**snapshot(), "last_line": "12:00:00 train_heads starts"}):
            status(context.run_dir.uri, "--json")
            status(context.run_dir.uri)
    text = capsys.readouterr().out
    document, end = json.JSONDecoder().raw_decode(text)
    at_work = document["at_work"]
    assert (at_work["stage"], at_work["done"], at_work["total"], at_work["unit"]) == ("train_heads", 5, 20, "epochs")
    assert at_work["is_gone"] is False
    assert document["source_checked"] is False
    lines = text[end:].strip().splitlines()
    assert lines[1].startswith(f"  at work: process {at_work['pid']} on {at_work['host']}, since {at_work['since']} (")
    assert lines[2].startswith("  train_heads           training: 5 of 20 epochs (")
    assert lines[3] == "  last line of its log: 12:00:00 train_heads starts"
    status(context.run_dir.uri, "--json")
    assert json.loads(capsys.readouterr().out)["at_work"] is None


def test_run_that_was_killed_is_told_as_gone(context, capsys):
    with context.run_dir.locked():
        left = json.loads(context.run_dir.storage.read_bytes(lease.LOCK_NAME))
    who = f"process {left['pid']} on {left['host']}, since"
    left["process"]["started"] -= 1  # another process has its number now
    context.run_dir.storage.write_bytes(lease.LOCK_NAME, json.dumps(left).encode())
    status(context.run_dir.uri)
    assert f"left by {who}" in capsys.readouterr().out
    left["process"]["boot"] = "of another machine"
    context.run_dir.storage.write_bytes(lease.LOCK_NAME, json.dumps(left).encode())
    status(context.run_dir.uri)
    assert f"at work, or gone without a word: {who}" in capsys.readouterr().out
