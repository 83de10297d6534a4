"""The protocol that every encoder keeps; stages know nothing else of it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image


class Encoder(Protocol):
    """Maps pictures and words into one space of unit vectors.

    Attributes:
        embedding_width: D.
        image_size: height and width in pixels that the model takes.
        retrieval_temperature: softmax temperature at which nouns describe an image (METHOD section 2).
    """

    embedding_width: int
    image_size: int
    retrieval_temperature: float

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """Resize and crop an RGB picture as the model wants it: uint8 (image_size, image_size, 3)."""
        ...

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels uint8 (B, H, W, 3) to unit vectors float32 (B, D). A row does not depend on its companions."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts as they are, without a prompt, to unit vectors float32 (M, D)."""
        ...

    def encode_nouns(self, nouns: Sequence[str]) -> np.ndarray:
        """Nouns in the prompts this model likes to unit vectors float32 (M, D)."""
        ...
