"""Numbers and sentences as the report prints them."""

import math
from datetime import datetime

from dxmc_core.report.data import ReportData

#: Between a number and its percent sign: narrow, and no line breaks there.
THIN_SPACE = "\u202f"
#: What stands for a figure that is not known (an en dash).
UNKNOWN = "\u2013"


def is_known(value: float | None) -> bool:
    """Whether there is a figure to show."""
    return value is not None and math.isfinite(value)


def thousands(value: float) -> str:
    """5681 -> "5,681"."""
    return f"{round(value):,}"


def percent(share: float | None) -> str:
    """A fraction as a whole percentage; small shares keep a digit so that none reads as nothing."""
    if share is None or not is_known(share):
        return UNKNOWN
    value = 100 * share
    if 0 < abs(value) < 9.95:
        return f"{value:.1f}{THIN_SPACE}%"
    return f"{value:.0f}{THIN_SPACE}%"


def decimal(value: float | None) -> str:
    """A score with three digits, or a dash where it is unknown."""
    return UNKNOWN if value is None or not is_known(value) else f"{value:.3f}"


def counted(number: int, item: tuple[str, str]) -> str:
    """1 -> "1 image", 5681 -> "5,681 images"."""
    return f"{thousands(number)} {item[0] if number == 1 else item[1]}"


def date(moment: datetime) -> str:
    """ "22 November 2025, 21:40", in the moment's own time zone."""
    return f"{moment.day} {moment:%B %Y, %H:%M}"


def headline(data: ReportData) -> str:
    """The result in one sentence."""
    clustered = counted(data.num_images, data.item)
    groups = counted(len(data.clusters), ("cluster", "clusters"))
    rejected = data.rejects.total
    if rejected == 0:
        return f"{clustered} fell into {groups}, and nothing had to be left out."
    return f"{clustered} fell into {groups}; {thousands(rejected)} could not be used."
