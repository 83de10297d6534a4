"""Embeddings of the same images by several encoders as one matrix: their unit rows side by side, at unit norm again.

Heads and training see one matrix, whatever it was made of; `best` alone looks at the encoders apart.
"""

from collections.abc import Sequence

import numpy as np


def join_encoders(embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """Rows (N, sum of widths) of the first one's type; of V encoders each has a V-th of the squared norm.

    Args:
        embeddings: unit rows (N, D_v) of each encoder, in the same order of images; one alone is given back as it is.
    """
    if len(embeddings) == 1:
        return embeddings[0]
    widths = [rows.shape[1] for rows in embeddings]
    joined = np.empty((len(embeddings[0]), sum(widths)), dtype=embeddings[0].dtype)
    for part, rows in zip(split_encoders(joined, widths), embeddings, strict=True):
        put_encoder(part, rows, num_encoders=len(embeddings))
    return joined


def put_encoder(part: np.ndarray, embeddings: np.ndarray, *, num_encoders: int) -> None:
    """Write the rows of one encoder into its columns of joined ones."""
    np.multiply(embeddings, num_encoders**-0.5, out=part, casting="same_kind")


def split_encoders(joined: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
    """Views of the columns of each encoder; without widths, one of all columns.

    Raises:
        ValueError: the widths do not add up to the columns.
    """
    if not widths:
        return [joined]
    if sum(widths) != joined.shape[1]:
        raise ValueError(f"expected embeddings of widths {list(widths)} side by side, found {joined.shape[1]} columns")
    return np.split(joined, np.cumsum(widths)[:-1], axis=1)


def encoder_scales(weights: Sequence[float]) -> np.ndarray:
    """Factors (V,) that give encoders in joined rows these weights against one another, and keep rows at unit norm."""
    scales = np.asarray(weights, dtype=np.float32)
    return scales * (len(scales) / (scales**2).sum()) ** 0.5
