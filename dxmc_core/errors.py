"""Exceptions whose message is meant for a person: one line saying what is wrong, where, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class DxmcError(Exception):
    """The run failed while running; the command line prints the message and exits with 1."""


class InputError(DxmcError):
    """The configuration or the input cannot be used; the command line prints the message and exits with 2."""


class ArtifactError(DxmcError):
    """An artifact is missing, damaged or of another schema; the message names the file and the stage to rerun."""


class WorkerError(Exception):
    """What a worker raised that is no `DxmcError`: a defect of dxmc, or of what it uses.

    Attributes:
        kind: the type of what was raised.
        message: what it said, on one line.
        trace: the worker's traceback.
    """

    def __init__(self, kind: str, message: str, trace: str) -> None:
        super().__init__(kind, message, trace)
        self.kind = kind
        self.message = message
        self.trace = trace

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@contextmanager
def named(place: str) -> Iterator[None]:
    """Begin what is said of an unusable input with the place that names it, such as a key of the configuration."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def on_one_line(error: BaseException) -> str:
    """What an error says, for such a message; the name of its type when it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
