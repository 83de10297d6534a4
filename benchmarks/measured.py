"""Seconds and peak memory of a function, in a process of its own: one measurement leaves nothing to the next."""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def measured(function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """What the function returned, with the seconds it took and the most memory its process held (data included)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_call, (function, args))


def _call(function: Callable[..., dict[str, Any]], args: tuple) -> dict[str, Any]:
    started = time.perf_counter()
    found = function(*args)
    seconds = time.perf_counter() - started
    return {**found, "seconds_in_all": round(seconds, 1), "peak_gib": round(peak_bytes() / 2**30, 2)}


def peak_bytes() -> int:
    """Most memory this process has held; getrusage would count that of the process which started it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
