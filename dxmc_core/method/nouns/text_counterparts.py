"""Text counterparts: what an image would be in words, a softmax mixture of the selected nouns (DXMC eq. 4-5)."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from dxmc_core.method.unit_rows import check_same_width, unit_rows
from dxmc_core.runtime.slices import slices_of

#: Below this norm a mixture has no direction (opposite nouns cancelled); its nearest noun stands in.
_MIN_MIXTURE_NORM = 1e-6


def compute_text_counterparts(
    image_embeddings: np.ndarray,
    noun_embeddings: np.ndarray,
    *,
    temperature: float,
    top_k: int | None = None,
    block_size: int = 1024,
    device: str = "cpu",
) -> np.ndarray:
    """normalise(sum_j softmax_j(v_i . t_j / temperature) t_j) for every image i.

    Args:
        image_embeddings: (N, D), rows normalised here.
        noun_embeddings: (S, D) selected nouns, the same.
        temperature: belongs to the encoder: 0.005 for OpenAI CLIP, 0.01-0.05 for others.
        top_k: mix only this many nearest nouns of each image; None mixes all.
        block_size: images at a time; block_size x S float32 is what has to fit. All blocks have this
            size, so the result of an image does not depend on which images come with it.
        device: where they are mixed.

    Returns:
        (N, D) float32, unit rows.

    Raises:
        ValueError: no nouns, different widths, unusable rows, or a setting out of range.
    """
    check_same_width(image_embeddings, noun_embeddings, names=("image_embeddings", "noun_embeddings"))
    if len(noun_embeddings) == 0:
        raise ValueError("expected at least one selected noun, found none; rerun the noun selection")
    if not temperature > 0 or block_size < 1 or (top_k is not None and top_k < 1):
        raise ValueError(
            "expected temperature above 0, block_size and top_k of at least 1, "
            f"found {temperature}, {block_size} and {top_k}"
        )
    nouns = torch.from_numpy(unit_rows(noun_embeddings, name="noun_embeddings")).to(device)
    result = np.empty(image_embeddings.shape, dtype=np.float32)
    block = torch.zeros(block_size, nouns.shape[1], device=device)
    for part in slices_of(len(image_embeddings), block_size):
        images = unit_rows(image_embeddings[part], name="image_embeddings", first_row=part.start)
        block[: len(images)] = torch.from_numpy(images)
        result[part] = _mix(block, nouns, temperature, top_k)[: len(images)].cpu().numpy()
    return result


def _mix(images: Tensor, nouns: Tensor, temperature: float, top_k: int | None) -> Tensor:
    similarities = images @ nouns.T
    if top_k is None or top_k >= len(nouns):
        mixtures = torch.softmax(similarities / temperature, dim=1) @ nouns
    else:
        nearest = similarities.topk(top_k, dim=1)
        weights = torch.softmax(nearest.values / temperature, dim=1)
        mixtures = embedding_bag(nearest.indices, nouns, per_sample_weights=weights, mode="sum")
    norms = mixtures.norm(dim=1, keepdim=True)
    nearest_nouns = nouns[similarities.argmax(dim=1)]
    return torch.where(norms > _MIN_MIXTURE_NORM, mixtures / norms.clamp(min=_MIN_MIXTURE_NORM), nearest_nouns)
