"""Embeddings as the method reads them: float32 rows of unit norm, checked, whatever float type they are stored in."""

import numpy as np

from dxmc_core.runtime.slices import slices_of

_ROWS_PER_BLOCK = 16_384
#: Norms at which float32 squares neither overflow nor lose what counts.
_SAFE_NORMS = (2.0**-40, 2.0**40)


def to_unit_norm(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A float32 copy (n, D) of rows at unit norm, and which of them have a direction, (n,) bool.

    A row of any length has one, 1e300 and 1e-300 in float64 too. One that is all zeros or not finite has none and
    becomes zeros.

    Args:
        rows: (n, D), any real type.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        unit = rows.astype(np.float32)
        norms = np.linalg.norm(unit, axis=1)
        odd = np.flatnonzero(~((norms > _SAFE_NORMS[0]) & (norms < _SAFE_NORMS[1])))
        if len(odd):
            unit[odd] = _scaled(rows[odd])
            norms[odd] = np.linalg.norm(unit[odd], axis=1)
    has_direction = norms > 0
    unit /= np.where(has_direction, norms, 1)[:, None]
    return unit, has_direction


def _scaled(rows: np.ndarray) -> np.ndarray:
    """Rows multiplied each by the power of two that brings its largest magnitude to 0.5..1; zeros where none does."""
    rows = rows.astype(np.promote_types(rows.dtype, np.float64))
    largest = np.abs(rows).max(axis=1, initial=0.0)
    usable = np.isfinite(largest)
    _, exponents = np.frexp(np.where(usable, largest, 0))
    scaled = np.ldexp(np.where(usable[:, None], rows, 0), -exponents[:, None])
    return scaled.astype(np.float32)


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
    for part in slices_of(len(rows), _ROWS_PER_BLOCK):
        block = rows[part]
        result[part], has_direction = to_unit_norm(block)
        if not has_direction.all():
            bad = int(np.argmin(has_direction))
            raise ValueError(
                f"expected {name} with finite rows that are not zero, row {first_row + part.start + bad} "
                f"{why_no_direction(block[bad])}"
            )
    return result


def why_no_direction(row: np.ndarray) -> str:
    """What is wrong with a row (D,) that `to_unit_norm` has found none for, as the end of a sentence."""
    return "is all zeros" if np.isfinite(row).all() else "has values that are not finite"


def check_same_width(first: np.ndarray, second: np.ndarray, *, names: tuple[str, str]) -> None:
    """Raises ValueError when two matrices of embeddings do not lie in one space."""
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"expected {names[0]} and {names[1]} of one width, found shapes {first.shape} and {second.shape}; "
            "both must come from the same encoder"
        )
