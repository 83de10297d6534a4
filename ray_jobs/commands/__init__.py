"""The commands of `dxmc`, one module each: its name, its arguments, and what it prints."""

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Protocol


def this_dxmc() -> str:
    """This `dxmc` as it is typed here: by its name where the shell finds it so, else by its path."""
    started = Path(sys.argv[0])
    if started.suffix == ".py":  # as `python -m ray_jobs.cli`
        return f"{this_python()} -m ray_jobs.cli"
    return _typed(started)


def this_python() -> str:
    """This Python as it is typed here."""
    return _typed(Path(sys.executable))


def _typed(path: Path) -> str:
    found = shutil.which(path.name)
    if found is not None and os.path.realpath(Path(found).parent) == os.path.realpath(path.parent):
        return path.name
    place = path.absolute()
    return shlex.quote(str(place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place))


class Command(Protocol):
    """What a module of this package has.

    Attributes:
        NAME: as it is typed.
        SUMMARY: one sentence for `--help`.
        EXAMPLES: command lines with a word on each, one a line.
    """

    NAME: str
    SUMMARY: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Everything but `--json`, which the commands have in common."""
        ...

    def execute(self, arguments: argparse.Namespace) -> None:
        """Do it, and print text for a person, or one JSON document where `arguments.json` is set."""
        ...
