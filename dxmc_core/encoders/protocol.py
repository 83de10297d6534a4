"""The protocol that every encoder keeps; stages know nothing else of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


class Preprocess(Protocol):
    """Resizes and crops an RGB picture as a model wants it: uint8 (image_size, image_size, 3). Small and picklable."""

    @property
    def image_size(self) -> int: ...

    def __call__(self, image: "Image.Image") -> "np.ndarray": ...


class Encoder(Protocol):
    """Maps pictures and words into one space of unit vectors.

    Attributes:
        embedding_width: D.
        image_size: height and width in pixels that the model takes.
        batch_size: rows of one forward pass; may be set.
        retrieval_temperature: softmax temperature at which nouns describe an image (DXMC eq. 4).
    """

    embedding_width: int
    image_size: int
    batch_size: int
    retrieval_temperature: float

    @property
    def preprocess(self) -> Preprocess:
        """The resizing of this model."""
        ...

    def encode_images(self, pixels: "np.ndarray") -> "np.ndarray":
        """Pixels uint8 (B, H, W, 3) to unit vectors float32 (B, D). A row does not depend on its companions."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> "np.ndarray":
        """Texts as they are, without a prompt, to unit vectors float32 (M, D)."""
        ...

    def encode_nouns(self, nouns: Sequence[str]) -> "np.ndarray":
        """Nouns in the prompts this model likes to unit vectors float32 (M, D)."""
        ...
