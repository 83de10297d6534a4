"""Where method code reads rows from when they need not all be in memory: an array, or Parquet parts (`RowSource`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dxmc_core.runtime.slices import slices_of


class RowSource(Protocol):
    """N rows of width D, of a real type, by position 0..N-1."""

    def __len__(self) -> int:
        """N."""
        ...

    @property
    def width(self) -> int:
        """D."""
        ...

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Rows (n, D) at ascending positions (n,)."""
        ...

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """All rows in order, in blocks of `size`, the last one what is left."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """The rows of an array (N, D)."""

    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        return self.rows.shape[1]

    def take(self, positions: np.ndarray) -> np.ndarray:
        return self.rows if len(positions) == len(self.rows) else self.rows[positions]

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        for block in slices_of(len(self.rows), size):
            yield self.rows[block]
