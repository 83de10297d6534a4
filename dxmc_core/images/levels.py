"""Levels that are no bytes, as bytes: what is black and what is white."""

import numpy as np

#: A picture of 0 to 255 reaches this.
_MIN_HIGH_OF_BYTES = 32.0


def float_to_bytes(values: np.ndarray, *, to_255: bool) -> np.ndarray:
    """Levels of 0 to 1 as uint8 of the same shape; what lies outside is cut off, NaN is black.

    Args:
        to_255: levels of 0 to 255 are in order too. ImageMagick shows those of 0 to 1, libvips these; which of them
            they are, the levels tell.

    Raises:
        NotImplementedError: the levels are of another range.
    """
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    white = _white_of(positive) if positive.size else 1.0
    if white is None or (white == 255 and not to_255):
        found, wanted = f"{finite.min():g} to {finite.max():g}", "0 to 1 or 0 to 255" if to_255 else "0 to 1"
        raise NotImplementedError(f"float levels from {found}, which are not those of {wanted}; scale them to these")
    values = np.nan_to_num(values, nan=0.0, posinf=white, neginf=0.0)
    return np.floor(np.clip(values, 0, white) * (255 / white) + 0.5).astype(np.uint8)


def _white_of(positive: np.ndarray) -> float | None:
    """The level that is white, given all levels above 0; None when that is neither 1 nor 255.

    Of a picture of 0 to 1 the lights may exceed 1, but not half of the picture.
    """
    if np.median(positive) <= 1:
        return 1.0
    return 255.0 if positive.max() >= _MIN_HIGH_OF_BYTES and np.percentile(positive, 99) <= 255 else None
