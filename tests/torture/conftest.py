"""The torture suite has two lengths: the one of every test run, and the long one of `make torture`."""

import os
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def torture_seed() -> int:
    """TORTURE_SEED, 0 by default: the whole suite depends on it."""
    return int(os.environ.get("TORTURE_SEED", "0"))


@pytest.fixture(scope="session")
def amount() -> Callable[[int, int], int]:
    """Chooses between the number for every test run and the number for `make torture`."""
    is_long = os.environ.get("TORTURE") == "long"
    return lambda short, long: long if is_long else short
