"""Very long pictures: without a limit one of 1 x 10,000 pixels is resized to 224 x 2,240,000, and then cropped."""

from PIL import Image


def max_aspect_ratio(*, crops: bool) -> int:
    """How many times as long as wide a picture may be.

    Args:
        crops: True for a model that resizes the short side and keeps the middle square: beyond the ratio it sees
            nothing. A model that squeezes the whole picture in is given more of it, down to a width of three pixels.
    """
    return 8 if crops else 64


def limit_aspect_ratio(image: Image.Image, max_ratio: int) -> Image.Image:
    """The middle of a picture that is more than `max_ratio` times as long as wide; others as they are."""
    width, height = image.size
    limit = max_ratio * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(0, width - limit) // 2, max(0, height - limit) // 2
    return image.crop((left, top, width - left, height - top))
