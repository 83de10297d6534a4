"""How a job ends: an exit code and one last line, whatever happened."""

import os
import signal

import pytest

from dxmc_core.errors import DxmcError, InputError
from ray_jobs.main import guarded


@pytest.fixture(autouse=True)
def same_handler_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def raises(error):
    def program():
        raise error

    return program


@pytest.mark.parametrize(
    ("program", "code", "line"),
    [
        (raises(InputError("wrong key")), 2, "error: wrong key"),
        (raises(DxmcError("no worker")), 1, "error: no worker"),
        (raises(ZeroDivisionError("division\nby zero")), 1, "error: ZeroDivisionError: division by zero"),
        (raises(KeyboardInterrupt()), 130, "interrupted; the same command goes on from here"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, "error: stopped from outside; the same command goes on"),
    ],
    ids=["input", "failed", "defect", "interrupt", "terminated"],
)
def test_the_last_line_says_what_happened(program, code, line, capsys):
    assert guarded(program) == code
    assert capsys.readouterr().err.splitlines()[-1].startswith(line)


def test_what_ends_well_says_nothing(capsys):
    assert guarded(lambda: None) == 0
    assert capsys.readouterr().err == ""
