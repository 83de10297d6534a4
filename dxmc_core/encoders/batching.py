"""Fixed-size batches for both towers of an encoder.

Every forward pass has the same number of rows, the last one filled up with zeros. So a row's result does not depend on
which rows happen to share its batch: an image embedded again after a crash gets the same bits.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from dxmc_core.method.unit_rows import to_unit_norm
from dxmc_core.runtime.slices import slices_of

_of_this_thread = threading.local()


def map_batches(
    function: Callable[[torch.Tensor], torch.Tensor], rows: np.ndarray, *, device: str, batch_size: int, width: int
) -> np.ndarray:
    """Apply a model to rows (N, ...) in batches of exactly `batch_size`; float32 (N, width).

    Threads that call this at the same time overlap on a GPU: one's rows are copied while the other's are computed.
    """
    outputs = [torch.empty((0, width))]
    with torch.inference_mode(), _stream_of_this_thread(device):
        for block in slices_of(len(rows), batch_size):
            batch = rows[block]
            num_rows = len(batch)
            if num_rows < batch_size:
                filling = np.zeros((batch_size - num_rows, *rows.shape[1:]), dtype=rows.dtype)
                batch = np.concatenate([batch, filling])
            outputs.append(function(torch.from_numpy(np.ascontiguousarray(batch)))[:num_rows].float())
        return torch.cat([output.cpu() for output in outputs]).numpy()


def _stream_of_this_thread(device: str) -> AbstractContextManager:
    if torch.device(device).type != "cuda":
        return nullcontext()
    if not hasattr(_of_this_thread, "stream"):
        _of_this_thread.stream = torch.cuda.Stream(device)
    return torch.cuda.stream(_of_this_thread.stream)


def rows_by_length(lengths: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each number of tokens with the rows that have it: a batch of such texts needs neither padding nor a mask."""
    for length in np.unique(lengths):
        yield int(length), np.flatnonzero(lengths == length)


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows (N, D) to unit length. One that is zero or not finite stays what it is; its image is rejected later."""
    unit, has_direction = to_unit_norm(vectors)
    unit[~has_direction] = vectors[~has_direction]
    return unit
