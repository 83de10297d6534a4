"""Memory that is freed is used again, also by other threads."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, threading
import numpy as np
from dxmc_core.runtime.allocator import reuse_freed_memory

if sys.argv[1] == "reuse":
    reuse_freed_memory()

def work():
    for _ in range(3):
        blocks = [np.ones(1 << 20, dtype=np.float64) for _ in range(12)]  # 96 MB in blocks of 8

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again_by_all_threads():
    """Page faults count what the system had to give: 24,576 a pass of 96 MB when nothing is kept."""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, check=True).stdout)
        for how in ("reuse", "default")
    }
    assert faults["reuse"] < faults["default"] / 10


BLOCKS = """
import resource, sys
import numpy as np
from dxmc_core.runtime.allocator import reuse_freed_blocks

if sys.argv[1] == "reuse":
    reuse_freed_blocks()
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
    np.ones(1 << 23)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_large_blocks_that_are_freed_are_used_again():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", BLOCKS, how], capture_output=True, check=True).stdout)
        for how in ("reuse", "default")
    }
    assert faults["reuse"] < faults["default"] / 10
