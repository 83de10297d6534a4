"""On PYTHONPATH: every Python program has a clock that is CLOCK_OFF_S seconds ahead. What it measures stays right."""

import os
import time

_real = time.time
_off_s = float(os.environ["CLOCK_OFF_S"])


def _wrong() -> float:
    return _real() + _off_s


time.time = _wrong
