"""Embeddings as the method reads them: float32 rows of unit norm, checked, whatever float type they are stored in."""

import numpy as np

_ROWS_PER_BLOCK = 16_384


def unit_rows(rows: np.ndarray, *, name: str, first_row: int = 0) -> np.ndarray:
    """A float32 copy (n, D) with every row at unit norm; temporary memory is that of a block.

    Args:
        rows: (n, D), any real type; float16 rows have norms off by up to 1e-3, which this mends.
        name: what to call the array in an error.
        first_row: position of rows[0] in the whole array, for errors.

    Raises:
        ValueError: not a matrix, or a row is zero or not finite.
    """
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        raise ValueError(f"expected {name} of shape (N, D) and a real type, found {rows.dtype} of shape {rows.shape}")
    result = np.empty(rows.shape, dtype=np.float32)
    for start in range(0, len(rows), _ROWS_PER_BLOCK):
        block = result[start : start + _ROWS_PER_BLOCK]
        block[:] = rows[start : start + _ROWS_PER_BLOCK]
        norms = np.linalg.norm(block, axis=1)
        usable = np.isfinite(norms) & (norms > 0)
        if not usable.all():
            bad = int(np.argmin(usable))
            found = f"norm {norms[bad]}" if np.isfinite(block[bad]).all() else "values that are not finite"
            raise ValueError(
                f"expected {name} with finite rows that are not zero, row {first_row + start + bad} has {found}"
            )
        block /= norms[:, None]
    return result


def check_same_width(first: np.ndarray, second: np.ndarray, *, names: tuple[str, str]) -> None:
    """Raises ValueError when two matrices of embeddings do not lie in one space."""
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"expected {names[0]} and {names[1]} of one width, found shapes {first.shape} and {second.shape}; "
            "both must come from the same encoder"
        )
