"""The batch size of a GPU: the smallest that doubling does not improve on, within the memory."""

import pytest

from dxmc_core.encoders.batch_size import choose_batch_size


def gpu(*, full_speed_at, fits):
    """A GPU whose rate grows with the batch until it is full, and that has memory for so many images."""
    return lambda size: None if size > fits else 1000.0 * min(size / full_speed_at, 1.0) + size / 1e6


@pytest.mark.parametrize(
    ("full_speed_at", "fits", "largest", "expected"),
    [
        (256, 10_000, 2048, 256),
        (200, 10_000, 2048, 256),
        (10_000, 700, 2048, 512),
        (10_000, 10_000, 1000, 512),
        (16, 10_000, 2048, 32),
        (10_000, 32, 2048, 32),
    ],
)
def test_doubled_until_nothing_is_gained_or_it_does_not_fit(full_speed_at, fits, largest, expected):
    assert choose_batch_size(gpu(full_speed_at=full_speed_at, fits=fits), largest=largest) == expected


def test_sizes_beyond_the_best_are_not_tried():
    tried = []

    def measure(size):
        tried.append(size)
        return gpu(full_speed_at=64, fits=10_000)(size)

    assert choose_batch_size(measure, largest=4096) == 64
    assert tried == [32, 64, 128]


def test_no_room_at_all():
    with pytest.raises(MemoryError, match="32 images"):
        choose_batch_size(lambda size: None, largest=512)
