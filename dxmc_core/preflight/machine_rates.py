"""Measures in a few seconds what `Rates` say, at the sizes that the stages work with.

Nothing is written but a temporary file; what is read of the user's are a few images.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from dxmc_core.images.decode import ImageRejectedError, decode_image
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.sources import ImageSource
from dxmc_core.runtime.cpu_products import has_fast_int8_products, onednn_products
from dxmc_core.runtime.threads import torch_threads
from dxmc_core.workload import Rates

#: A reading goes on for so long, and is the mean: on a machine with other work that is what a run gets, too.
_SECONDS_PER_READING = 0.3
_ROWS, _COLUMNS, _WIDTH = 1024, 16_384, 512
_NUM_VALUES = 2**24
_WRITTEN_BYTES = 2**26
_LIBRARIES = "torch, open_clip, faiss, pyarrow.parquet, sklearn.metrics, scipy.sparse"
_SAMPLED_IMAGES = 16
#: A photograph as phones and cameras' previews have it, for when there is none of the user's.
_TYPICAL_SIZE = (1600, 1200)
_IMAGE_SIZE = 224


def measure_rates(rates: Rates, *, num_cores: int) -> Rates:
    """The rates with those of this machine in place of assumptions: arithmetic, memory, disk and processes."""
    with torch_threads(num_cores):
        core_flops = _float32_flops() / num_cores
        int8_speedup = max(_int8_flops() / num_cores / core_flops, 1.0) if has_fast_int8_products() else 1.0
        core_bytes_per_s = _memory_bytes_per_s() / num_cores
    found = {
        "core_flops": core_flops,
        "int8_speedup": int8_speedup,
        "core_bytes_per_s": core_bytes_per_s,
        "disk_bytes_per_s": _disk_bytes_per_s(),
        "process_s": _process_s(),
    }
    return with_measured(rates, **found)


def measure_images(rates: Rates, rows: Any, source: ImageSource) -> Rates:
    """The rates with those at which images of a source arrive and are decoded.

    Args:
        rows: a table of the catalog; a few of its images are read.
    """
    places = np.unique(np.linspace(0, rows.num_rows - 1, _SAMPLED_IMAGES).astype(np.int64))
    sample = rows.take(places)
    started = time.perf_counter()
    files = [file for file in FetchImages(source)(sample) if isinstance(file, bytes)]
    fetch_s = (time.perf_counter() - started) / len(places)
    min_size = _IMAGE_SIZE if source.fast_jpeg else None
    decode_s = decoding_s(files, max_pixels=source.max_pixels, min_size=min_size)
    return rates if decode_s is None else with_measured(rates, fetch_s=fetch_s, decode_s=decode_s)


def measure_typical_decoding(rates: Rates, *, fast_jpeg: bool) -> Rates:
    """The rates with that of decoding a JPEG of 1,600 x 1,200 pixels."""
    noise = np.random.default_rng(0).integers(0, 255, (_TYPICAL_SIZE[1] // 8, _TYPICAL_SIZE[0] // 8, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).resize(_TYPICAL_SIZE, Image.Resampling.BICUBIC).save(sink, "JPEG", quality=90)
    seconds = decoding_s([sink.getvalue()], max_pixels=10**8, min_size=_IMAGE_SIZE if fast_jpeg else None)
    assert seconds is not None
    return with_measured(rates, decode_s=seconds)


def decoding_s(files: Sequence[bytes], *, max_pixels: int, min_size: int | None) -> float | None:
    """Mean seconds of one core to decode a file and make a crop of it; None where none is an image."""

    def decode(file: bytes) -> None:
        image = decode_image(file, max_pixels=max_pixels, min_size=min_size)
        scale = _IMAGE_SIZE / min(image.size)
        size = (max(round(side * scale), 1) for side in image.size)
        image.resize((next(size), next(size)), Image.Resampling.BICUBIC)

    seconds = []
    started = time.perf_counter()
    for file in files:
        try:
            decode(file)  # once for what the first call has to set up
            seconds.append(_seconds_of(partial(decode, file), at_least=_SECONDS_PER_READING / len(files)))
        except ImageRejectedError:
            continue
        if time.perf_counter() - started > 4 * _SECONDS_PER_READING:
            break
    return float(np.mean(seconds)) if seconds else None


def with_measured(rates: Rates, **found: float) -> Rates:
    """The rates with some that were measured."""
    return replace(rates, **found, measured=(*rates.measured, *found))


def _seconds_of(call: Callable[[], object], *, at_least: float = _SECONDS_PER_READING) -> float:
    """Mean seconds of a call that is repeated for a while."""
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < at_least or not count:
        call()
        count += 1
    return elapsed / count


def _float32_flops() -> float:
    rows, columns = torch.randn(_ROWS, _WIDTH), torch.randn(_COLUMNS, _WIDTH)
    out = torch.empty(_ROWS, _COLUMNS)
    with onednn_products():
        torch.mm(rows, columns.T, out=out)
        return 2.0 * _ROWS * _COLUMNS * _WIDTH / _seconds_of(lambda: torch.mm(rows, columns.T, out=out))


def _int8_flops() -> float:
    rows, columns = (torch.randint(-100, 100, (count, _WIDTH), dtype=torch.int8) for count in (_ROWS, _COLUMNS))
    out = torch.empty(_ROWS, _COLUMNS, dtype=torch.int32)
    torch._int_mm(rows, columns.T, out=out)
    return 2.0 * _ROWS * _COLUMNS * _WIDTH / _seconds_of(lambda: torch._int_mm(rows, columns.T, out=out))


def _memory_bytes_per_s() -> float:
    """Of a sum of two arrays into a third."""
    first, second, out = torch.rand(_NUM_VALUES), torch.rand(_NUM_VALUES), torch.empty(_NUM_VALUES)
    return 3.0 * 4 * _NUM_VALUES / _seconds_of(lambda: torch.add(first, second, out=out))


def _disk_bytes_per_s() -> float:
    data = np.random.default_rng(0).bytes(_WRITTEN_BYTES)
    with tempfile.TemporaryFile(prefix="dxmc-preflight-") as file:
        started = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return _WRITTEN_BYTES / (time.perf_counter() - started)


def _process_s() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {_LIBRARIES}"], check=True, capture_output=True)
    return time.perf_counter() - started
