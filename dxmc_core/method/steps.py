"""What long work says of how far it is, through a plain callback."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class WorkStep:
    """A step that begins.

    Attributes:
        doing: as in "look 2 of at most 4: joining views".
        done, total: units that are behind it, and units in all.
        unit: in the plural.
    """

    doing: str
    done: int
    total: int
    unit: str = "steps"


OnStep = Callable[[WorkStep], None]


def no_report(_step: WorkStep) -> None:
    """Where nobody listens."""
