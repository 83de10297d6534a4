"""Unit rows rounded to 8 bits: a product of them costs a quarter of one in float32, and errs by a known amount."""

from collections.abc import Iterator
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

#: And for what float32 rounds in a score of unit rows; it is all there is where 8 bits hold what rows do not share.
_FLOAT32_ERROR = 4e-6


@dataclass(frozen=True)
class Int8Queries:
    """Queries q rounded for a product with rounded rows x: q x = scale (values x) + offset, give or take `tolerance`.

    Attributes:
        values: (Q, D) int8.
        scale, offset, tolerance: (Q,) float32. The tolerance is six standard errors and the rounding of float32.
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
        mean = torch.from_numpy(rows).mean(dim=0)
        width = rows.shape[1]
        rotation = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0))).Q

        def rotated() -> Iterator[Tensor]:
            # Twice, which is soon done: kept, the rows would take four times the memory of the rounded ones.
            return ((block - mean) @ rotation for block in blocks)

        sizes = [(float(block.abs().max()), float(block.norm(dim=1).max())) for block in rotated()]
        largest, largest_norm = (max(column) for column in zip(*sizes, strict=True))
        step = max(largest, _SMALLEST) / _LARGEST
        values = torch.cat([(block / step).round_().to(torch.int8) for block in rotated()])
        return cls(values, step, mean, rotation, largest_norm)

    def queries(self, queries: Tensor) -> Int8Queries:
        """Round unit queries (Q, D) float32, each by a step of its own.

        Rounding has a variance of a twelfth of the squared step, so a score, a sum of D products, has one of
        (|q|^2 step_x^2 + |x|^2 step_q^2) / 12: after the rotation the columns' errors add up as if by chance.
        """
        rotated = queries @ self.rotation
        steps = rotated.abs().amax(dim=1).clamp_min(_SMALLEST) / _LARGEST
        variance = (self.step**2 + (self.largest_norm * steps) ** 2) / 12
        return Int8Queries(
            (rotated / steps[:, None]).round_().to(torch.int8),
            scale=steps * self.step,
            offset=queries @ self.mean,
            tolerance=_NUM_DEVIATIONS * variance.sqrt() + _FLOAT32_ERROR,
        )
