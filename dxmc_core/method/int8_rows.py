"""Unit rows rounded to 8 bits: a product of them costs a quarter of one in float32, and errs by a known amount."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

_LARGEST = 127
#: Rows that are all equal leave no more than rounding errors, which are nothing: no step is for less than this.
_SMALLEST = 1e-6
_ROWS_PER_BLOCK = 16_384

#: Standard errors that are allowed for: one score of 10^9 errs by more to one side.
_NUM_DEVIATIONS = 6


@dataclass(frozen=True)
class Int8Queries:
    """Queries q rounded for a product with rounded rows x: q x = scale (values x) + offset, give or take `tolerance`.

    Attributes:
        values: (Q, D) int8.
        scale, offset, tolerance: (Q,) float32. Six standard errors are the tolerance.
    """

    values: Tensor
    scale: Tensor
    offset: Tensor
    tolerance: Tensor


@dataclass(frozen=True)
class Int8Rows:
    """N unit rows less their mean, rotated at random and rounded to multiples of one step.

    What all rows share would take most of the 8 bits and tells none from another. The rotation makes the columns
    alike: CLIP's embeddings have a few that are far larger than the others, and would leave these no bits.

    Attributes:
        values: (N, D) int8.
        step: what one unit of `values` is worth.
        mean: (D,) float32.
        rotation: (D, D) float32, orthogonal.
        largest_norm: of the rows less their mean.
    """

    values: Tensor
    step: float
    mean: Tensor
    rotation: Tensor
    largest_norm: float

    @classmethod
    def of(cls, rows: np.ndarray) -> Self:
        """Round unit rows (N, D) float32; temporary memory is that of a block."""
        blocks = torch.from_numpy(rows).split(_ROWS_PER_BLOCK)
        mean = torch.stack([block.mean(dim=0) * (len(block) / len(rows)) for block in blocks]).sum(dim=0)
        width = rows.shape[1]
        rotation = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0))).Q
        largest = max(float(((block - mean) @ rotation).abs().max()) for block in blocks)
        largest_norm = max(float((block - mean).norm(dim=1).max()) for block in blocks)
        step = max(largest, _SMALLEST) / _LARGEST
        values = torch.cat([((block - mean) @ rotation / step).round_().to(torch.int8) for block in blocks])
        return cls(values, step, mean, rotation, largest_norm)

    def queries(self, queries: Tensor) -> Int8Queries:
        """Round unit queries (Q, D) float32, each by a step of its own.

        A rounded number errs by a twelfth of its squared step, so a score of D products does by
        (|q|^2 step_x^2 + |x|^2 step_q^2) / 12: the rotation lets the errors of the columns add up like chance.
        """
        rotated = queries @ self.rotation
        steps = rotated.abs().amax(dim=1).clamp_min(_SMALLEST) / _LARGEST
        variance = (self.step**2 + (self.largest_norm * steps) ** 2) / 12
        return Int8Queries(
            (rotated / steps[:, None]).round_().to(torch.int8),
            scale=steps * self.step,
            offset=queries @ self.mean,
            tolerance=_NUM_DEVIATIONS * variance.sqrt(),
        )
