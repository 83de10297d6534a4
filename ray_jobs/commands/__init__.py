"""The commands of `dxmc`, one module each: its name, its arguments, and what it prints."""

import argparse
from typing import Protocol


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
