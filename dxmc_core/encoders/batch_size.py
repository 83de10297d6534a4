"""Chooses the batch size of a GPU by trying: double it until the memory ends or nothing is gained any more."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from dxmc_core.encoders.protocol import Encoder
from dxmc_core.runtime.lookahead import map_ahead

#: Batches that are in a GPU at a time when images are embedded: one is computed while the next is copied there.
GPU_BATCHES = 2
_SMALLEST = 32
_BATCHES_TIMED = 6


def choose_batch_size(
    images_per_second: Callable[[int], float | None], *, largest: int, worthwhile: float = 0.03
) -> int:
    """The smallest power of two, from 32, that doubling does not improve on.

    Args:
        images_per_second: measures a batch size; None when the memory does not suffice for it.
        largest: where to stop in any case.
        worthwhile: the share by which twice the size must be faster.

    Raises:
        MemoryError: there is no room for the smallest.
    """
    best, best_rate = _SMALLEST, images_per_second(_SMALLEST)
    if best_rate is None:
        raise MemoryError(f"a batch of {_SMALLEST} images does not fit")
    while 2 * best <= largest:
        rate = images_per_second(2 * best)
        if rate is None or rate < (1 + worthwhile) * best_rate:
            break
        best, best_rate = 2 * best, rate
    return best


def tune_batch_size(encoder: Encoder, *, largest: int) -> int:
    """Set the encoder's batch size to the one that is best on this GPU; takes a few seconds."""
    encoder.batch_size = choose_batch_size(lambda size: gpu_images_per_second(encoder, size), largest=largest)
    torch.cuda.empty_cache()
    return encoder.batch_size


def gpu_images_per_second(encoder: Encoder, batch_size: int) -> float | None:
    """Images a second of the encoder alone, with as many batches in the GPU as there will be; None without memory."""
    encoder.batch_size = batch_size
    pixels = np.zeros((batch_size, encoder.image_size, encoder.image_size, 3), dtype=np.uint8)
    with ThreadPoolExecutor(GPU_BATCHES) as threads:
        try:
            for num_batches in (GPU_BATCHES, _BATCHES_TIMED):  # the first round is for warming up
                started = time.perf_counter()
                for _ in map_ahead(encoder.encode_images, [pixels] * num_batches, threads=threads, ahead=1):
                    pass
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None
    return _BATCHES_TIMED * batch_size / (time.perf_counter() - started)
