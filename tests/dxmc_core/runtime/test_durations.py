"""Lengths of time as a person says them."""

import pytest

from dxmc_core.runtime.durations import duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.34, "2.3 s"), (9.97, "10 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (7322, "2 h 2 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
