"""How a job ends: an exit code and one last line, whatever happened."""

import os
import signal
import sys
from contextlib import nullcontext

import pytest
import ray
from botocore.exceptions import EndpointConnectionError, NoCredentialsError
from ray.exceptions import ActorDiedError, ActorUnavailableError, LocalRayletDiedError, RayError, RayTaskError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from dxmc_core.config import ResourcesConfig
from dxmc_core.errors import DxmcError, InputError, WorkerError
from ray_jobs import cluster
from ray_jobs.cluster import explained_deaths, start_ray, told_plainly, unwrapped_errors
from ray_jobs.program import guarded

OUT_OF_REACH = ActorUnavailableError("Connection refused rpc_code: 14.", actor_id=None)


@pytest.fixture(autouse=True)
def same_handler_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def died_in_training(error):
    return WorkerGroupError("x", {1: WorkerHealthCheckFailedError("worker 1", error)})


def told(error):
    """What a worker makes of an error before Ray takes it."""
    with pytest.raises(WorkerError) as caught, told_plainly():
        raise error
    return caught.value


def as_of_a_task(error):
    """What `ray.get` raises when a task has raised this."""
    return RayTaskError("function", "ray::function() RayTaskError " * 50, error).as_instanceof_cause()


def of_training(*errors):
    """What Ray Train raises when its workers have raised these."""
    failures = [error if isinstance(error, RayError) else UserExceptionWithTraceback(error, "x") for error in errors]
    return WorkerGroupError("x", dict(enumerate(failures)))


def raises(error, within=nullcontext):
    def program():
        with within():
            raise error

    return program


@pytest.mark.parametrize(
    ("program", "code", "line"),
    [
        (raises(InputError("wrong key")), 2, "error: wrong key"),
        (raises(DxmcError("no worker")), 1, "error: no worker"),
        (raises(ZeroDivisionError("division\nby zero")), 1, "error: ZeroDivisionError: division by zero"),
        (raises(as_of_a_task(ValueError("a bad row"))), 1, "error: ValueError: a bad row"),
        (raises(as_of_a_task(told(KeyError("row"))), unwrapped_errors), 1, "error: KeyError: 'row'"),
        (raises(of_training(told(KeyError("k"))), unwrapped_errors), 1, "error: KeyError: 'k'"),
        (raises(EndpointConnectionError(endpoint_url="http://s3")), 1, "error: object storage failed (EndpointConn"),
        (raises(NoCredentialsError()), 2, "error: object storage refuses: there are no credentials"),
        (raises(WorkerGroupError("x", {0: OSError("AWS Error 99")})), 1, "error: object storage failed (OSError"),
        (raises(died_in_training(ActorDiedError())), 1, "error: a part of Ray died (ActorDiedError: "),
        (raises(LocalRayletDiedError()), 1, "error: a part of Ray died (LocalRayletDiedError: "),
        (raises(ActorDiedError(), explained_deaths), 1, "error: a worker died, and no other could do its work (The"),
        (raises(OUT_OF_REACH, explained_deaths), 1, "error: a worker died, and no other could do its work (The"),
        (raises(KeyboardInterrupt()), 130, "interrupted; the same command goes on from here"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, "error: stopped from outside; the same command goes on"),
    ],
    ids=[
        "input",
        "failed",
        "defect",
        "defect in a task",
        "defect that a task told",
        "defect in Ray Train",
        "away",
        "no credentials",
        "away in Ray Train",
        "workers of Ray Train",
        "raylet",
        "worker",
        "worker out of reach",
        "interrupt",
        "terminated",
    ],
)
def test_the_last_line_says_what_happened(program, code, line, capsys, caplog):
    assert guarded(program) == code
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(line)
    assert "RayTaskError" not in said + caplog.text


def test_when_a_worker_died_the_failures_of_the_others_are_not_the_reason():
    error = of_training(told(RuntimeError("gloo")), ActorDiedError())
    with pytest.raises(WorkerGroupError), unwrapped_errors():
        raise error


def test_local_ray_that_does_not_start(monkeypatch):
    def init(**_):
        raise Exception("The current node timed out during startup.\nThis could happen")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(cluster, "stay_on_loopback", lambda: None)
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(DxmcError, match=r"^Ray did not start on this machine \(The .* startup\. This could happen\);"):
        start_ray(ResourcesConfig())


@pytest.mark.parametrize("comes", ["while Ray starts", "afterwards"])
def test_ray_does_not_take_the_handler_of_sigterm(monkeypatch, capsys, comes):
    def init(**_):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        if comes == "while Ray starts":
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(cluster, "stay_on_loopback", lambda: None)
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def program():
        start_ray(ResourcesConfig())
        os.kill(os.getpid(), signal.SIGTERM)

    assert guarded(program) == 143
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: stopped from outside")


def test_what_others_make_of_sigterm_is_not_looked_into(capsys):
    """Ray raises SystemExit(1) out of its waiting."""

    def program():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit:
            sys.exit(1)

    assert guarded(program) == 143
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: stopped from outside")


def test_what_ends_well_says_nothing(capsys):
    assert guarded(lambda: None) == 0
    assert capsys.readouterr().err == ""


def test_what_a_training_worker_had_to_say_comes_through_ray_train():
    error = WorkerGroupError("x", {0: UserExceptionWithTraceback(DxmcError("loss is not finite"), "Traceback ...")})
    with pytest.raises(DxmcError, match=r"^loss is not finite$"), unwrapped_errors():
        raise error


def test_lines_that_a_library_writes_are_left_out_and_others_come_through(capfd):
    with cluster.without_lines(b"logging.cc:"):
        os.write(2, b"[2026 I 1 1] logging.cc:303: Set ray log level to 3\n")
        print("from Python", file=sys.stderr)  # noqa: T201
        os.write(2, b"before it\n[2026 I 1 1] logging.cc:303: again\nafter it\n")
    os.write(2, b"afterwards logging.cc: too\n")
    assert capfd.readouterr().err == "from Python\nbefore it\nafter it\nafterwards logging.cc: too\n"


def test_messages_of_ray_become_lines_of_the_log(caplog, capfd):
    caplog.set_level("INFO", "ray_jobs")
    message = "\x1b[33mA worker died.\x1b[0m\nA long story."
    cluster._log_message({"lines": [message], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert caplog.messages == ["Ray: A worker died."]
    assert capfd.readouterr() == ("", "")
