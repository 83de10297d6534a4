"""What is measured of a picture while its pixels are at hand: how large, bright and sharp it is."""

from typing import NamedTuple

import numpy as np
from PIL import Image


class Measures(NamedTuple):
    """Measures of one picture.

    Attributes:
        width, height: in pixels, of the picture as it stands upright.
        brightness: mean of all levels of the encoder's crop, in 0..1.
        sharpness: variance of the Laplacian of the crop's green levels (0..255): a flat or blurred picture has little.
    """

    width: int
    height: int
    brightness: float
    sharpness: float


def measure(size: tuple[int, int], upright: Image.Image, crop: np.ndarray) -> Measures:
    """Measure a picture.

    Args:
        size: width and height that its file announces.
        upright: the decoded picture, which may be turned and smaller.
        crop: (H, W, 3) uint8, what the encoder sees of it.
    """
    long, short = max(size), min(size)
    width, height = (long, short) if upright.width >= upright.height else (short, long)
    # Green has most of what the eye takes for brightness. All this takes 0.15 ms of a core, resizing 1024 x 768 5 ms.
    green = crop[..., 1].astype(np.int16)
    laplacian = green[:-2, 1:-1] + green[2:, 1:-1] + green[1:-1, :-2] + green[1:-1, 2:] - 4 * green[1:-1, 1:-1]
    sharpness = float(laplacian.var(dtype=np.float32)) if laplacian.size else 0.0
    return Measures(width, height, float(crop.mean(dtype=np.float32)) / 255, sharpness)
