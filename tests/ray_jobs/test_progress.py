"""What a person sees of long work: how far it is, at what pace, and that it goes on."""

import json
import logging
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from dxmc_core.method.steps import WorkStep
from ray_jobs import cluster, progress
from ray_jobs.progress import Progress, named, shown, snapshot


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = SimpleNamespace(seconds=0.0)
    stopped = SimpleNamespace(
        monotonic=lambda: now.seconds, time=time.time, strftime=time.strftime, localtime=time.localtime
    )
    monkeypatch.setattr(progress, "time", stopped)
    return now


def test_rates_and_time_left_leave_out_what_comes_first(clock):
    with Progress("embedding", 1000, unit="images", done=100, first="loading the encoder") as work:
        clock.seconds = 90
        assert str(work) == "loading the encoder, 1 min 30 s"
        work.add(100)
        assert str(work) == "embedding: 200 of 1000 images (1 min 30 s)"
        clock.seconds = 100
        work.add(100, rejects=3)
        assert str(work) == "embedding: 300 of 1000 images (10/s, about 1 min 10 s left, rejects 3)"
        assert "30%" in work.bar("embed_images", 120)
        assert "10.00 images/s" in work.bar("embed_images", 120)


def test_slow_work_says_how_long_a_unit_takes(clock):
    with Progress("training", 10, unit="epochs") as work:
        work.add(1)
        clock.seconds = 40
        work.add(1)
        assert str(work) == "training: 2 of 10 epochs (40 s each, about 5 min 20 s left)"


def test_work_without_an_end_says_how_long_it_has_taken(clock):
    with Progress("listing s3://bucket/photos", unit="images") as work:
        clock.seconds = 20
        assert str(work) == "listing s3://bucket/photos, 20 s"
        work.add(8192)
        assert str(work) == "listing s3://bucket/photos, 8192 images, 20 s"
        assert work.bar("embed_images", 30) == "embed_images: listing s3://bucket/photos, 8192 images"[:30]


def test_steps_of_long_work_are_taken_over(clock):
    with Progress("looking for the start") as work:
        work.take(WorkStep("look 1, whitening", 0, 4, "looks"))
        clock.seconds = 30
        work.take(WorkStep("look 2, whitening", 1, 4, "looks"))
        assert str(work) == "look 2, whitening: 1 of 4 looks (30 s each, about 1 min 30 s left)"


def test_the_pace_is_that_of_the_work_at_hand(clock):
    with Progress("choosing nouns") as work:
        work.take(WorkStep("k-means", 0, 1, "restarts"))
        clock.seconds = 100
        work.take(WorkStep("k-means", 0, 20, "iterations"))
        clock.seconds = 110
        work.take(WorkStep("k-means", 5, 20, "iterations"))
        assert str(work) == "k-means: 5 of 20 iterations (2 s each, about 30 s left)"


def test_the_innermost_work_is_what_the_lock_tells(caplog):
    with named("run"), Progress("starting"), named("train_heads"), Progress("training", 20, unit="epochs") as work:
        work.add(5)
        found = snapshot()
    assert (found["stage"], found["done"], found["total"], found["unit"]) == ("train_heads", 5, 20, "epochs")
    assert found["doing"].startswith("training: 5 of 20 epochs")
    assert "doing" not in snapshot()


def test_work_that_says_nothing_is_spoken_for(monkeypatch, caplog):
    monkeypatch.setattr(progress, "_FIRST_LINE_S", 0.0)
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "_REFRESH_EVERY_S", 0.01)
    caplog.set_level(logging.INFO)
    with shown(), named("assign_clusters"), Progress("naming the clusters"):
        while len(caplog.messages) < 3:
            time.sleep(0.01)
        assert "assign_clusters       naming the clusters, " in snapshot()["last_line"]
    assert {line.partition(",")[0] for line in caplog.messages} == {"assign_clusters       naming the clusters"}


def test_nothing_is_shown_while_a_person_is_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(progress, "_FIRST_LINE_S", 0.0)
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "_REFRESH_EVERY_S", 0.01)
    caplog.set_level(logging.INFO)
    with named("review"), Progress("at work"), progress.waiting_for_a_person(), shown():
        time.sleep(0.1)
        assert caplog.messages == []
        assert "doing" not in snapshot()
        with Progress("applying edits"):
            while not caplog.messages:
                time.sleep(0.01)
    assert {line.partition(",")[0] for line in caplog.messages} == {"review                applying edits"}


WAITING = """
import sys, time
from ray_jobs import progress, program
progress._FIRST_LINE_S = progress._REFRESH_EVERY_S = 0.05
if sys.argv[1] == "bar":
    sys.stderr.isatty = lambda: True

def work():
    with progress.Progress("embedding", 10, unit="images") as bar:
        bar.add(3)
        time.sleep(0.5)
    program.logger.warning("a warning")

sys.exit(program.guarded(work, name="run", quiet=sys.argv[1] == "quiet"))
"""


@pytest.mark.parametrize(("how", "expected"), [("lines", True), ("bar", True), ("quiet", False)])
def test_lines_a_bar_or_nothing(how, expected):
    done = subprocess.run([sys.executable, "-c", WAITING, how], capture_output=True, text=True, check=True)
    assert ("3 of 10 images" in done.stderr) == (how == "lines")
    assert ("3/10" in done.stderr) == (how == "bar")
    assert "a warning" in done.stderr
    assert ("embedding" in done.stderr) == expected


def test_of_many_steps_that_do_the_same_few_are_sent(monkeypatch):
    sent = []
    monkeypatch.setattr(cluster, "remember", lambda key, value: sent.append(json.loads(value)))
    mailbox = cluster.Mailbox("key")
    for done in range(1000):
        mailbox.put(WorkStep("counting", done, 1000, "rows"))
    mailbox.put(WorkStep("resting", 0, 1, "hours"))
    assert len(sent) < 100
    assert (sent[0]["doing"], sent[-1]["doing"]) == ("counting", "resting")


TELLING = """
import os, sys, time
from dxmc_core.config import ResourcesConfig
from dxmc_core.method.steps import WorkStep
from ray_jobs import progress
from ray_jobs.cluster import run_on_host, start_ray
from ray_jobs.program import guarded

progress._FIRST_LINE_S = progress._LINE_EVERY_S = 0.5

def work(*names, on_step):
    on_step(WorkStep("deciding", 0, 7, "questions"))
    on_step(WorkStep("thinking", 3, 7, "questions"))  # the one before has taken no time
    time.sleep(4)
    return [os.environ.get(name) for name in names]

def program():
    start_ray(ResourcesConfig())
    print(run_on_host(work, "OMP_WAIT_POLICY", "KMP_BLOCKTIME", doing="being asked", tells=True))

sys.exit(guarded(program))
"""


@pytest.mark.ray
def test_a_task_tells_how_far_it_is_and_its_threads_wait_passively(ray_cluster):
    environment = {**ray_cluster, "OMP_WAIT_POLICY": "ACTIVE"}
    environment.pop("KMP_BLOCKTIME", None)
    done = subprocess.run(
        [sys.executable, "-c", TELLING], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rpartition(", ")[2] == "'0']\n"  # what the user has set is left alone
    assert "thinking: 3 of 7 questions (" in done.stderr
    assert "logging.cc" not in done.stderr
    assert "\x1b[" not in done.stdout + done.stderr
