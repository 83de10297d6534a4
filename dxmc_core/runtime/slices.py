"""Arrays a block at a time."""

from collections.abc import Iterator


def slices_of(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` rows, one after the other, that together are `count` rows."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
