"""Fixed-size batches for both towers of an encoder.

Every forward pass has the same number of rows, the last one filled up with zeros. So a row's result does not depend on
which rows happen to share its batch: an image embedded again after a crash gets the same bits.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch


def map_batches(
    function: Callable[[torch.Tensor], torch.Tensor], rows: np.ndarray, *, batch_size: int, width: int
) -> np.ndarray:
    """Apply a model to rows (N, ...) in batches of exactly `batch_size`; float32 (N, width)."""
    outputs = [torch.empty((0, width))]
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            num_rows = len(batch)
            if num_rows < batch_size:
                filling = np.zeros((batch_size - num_rows, *rows.shape[1:]), dtype=rows.dtype)
                batch = np.concatenate([batch, filling])
            outputs.append(function(torch.from_numpy(np.ascontiguousarray(batch)))[:num_rows].float())
        return torch.cat([output.cpu() for output in outputs]).numpy()


def rows_by_length(lengths: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each number of tokens with the rows that have it: a batch of such texts needs neither padding nor a mask."""
    for length in np.unique(lengths):
        yield int(length), np.flatnonzero(lengths == length)


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows (N, D) to unit length; a zero row stays zero, its image is rejected later."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny)
