"""What counts as a missing value, and how numbers are written."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd

from dxmc_core.artifacts.user_values import as_labels, as_text


def test_missing_values_are_none():
    assert as_text([None, float("nan"), np.float32("nan").item(), Decimal("NaN"), pd.NaT, pd.NA]) == [None] * 6
    assert as_labels(["", " ", "nan", "NaN", "NaT", "<NA>", None, float("nan")]) == [None] * 8


def test_whole_numbers_stay_whole():
    assert as_text([3, 3.0, -1.0, Decimal("3.00"), 0.5, True]) == ["3", "3", "-1", "3", "0.5", "True"]
    assert as_text([1e20, float("inf")]) == [str(10**20), "inf"]


def test_text_stays_what_it_is():
    words = ["cat", " cat", "None", "null", "NA", "-1", "1.0"]
    assert as_text(["", "nan", *words]) == ["", "nan", *words]
    assert as_labels(words) == words
    assert as_text([b"caf\xc3\xa9", datetime.date(2026, 1, 2)]) == ["café", "2026-01-02"]
