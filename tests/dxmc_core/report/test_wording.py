"""Numbers and sentences."""

import pytest

from dxmc_core.report import Rejects
from dxmc_core.report.wording import UNKNOWN, counted, decimal, headline, percent


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (0.0042, "0.4 %"),
        (0.0994, "9.9 %"),
        (0.0996, "10 %"),
        (1.0, "100 %"),
        (None, UNKNOWN),
        (float("nan"), UNKNOWN),
    ],
)
def test_percent(share, text):
    assert percent(share).replace("\u202f", " ") == text


def test_decimal_and_counts():
    assert decimal(0.61249) == "0.612"
    assert counted(1, ("image", "images")) == "1 image"
    assert counted(5681, ("image", "images")) == "5,681 images"


def test_headline_tells_rejects_only_when_there_are_some(make_report_data):
    data = make_report_data(pictures=False)
    assert headline(data) == "130 photographs fell into 4 clusters, and nothing had to be left out."
    data = make_report_data(pictures=False, rejects=Rejects(counts={"empty": 1, "truncated": 2}))
    assert headline(data) == "130 photographs fell into 4 clusters; 3 could not be used."
