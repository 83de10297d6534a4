"""Which nouns describe a set of images: the most confident ones of every image centre (DXMC eq. 1-3, the same in TAC).

This selection is the semantic space; text counterparts are mixed from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dxmc_core.method.clusters.kmeans import MAX_FLAT
from dxmc_core.method.unit_rows import check_same_width, unit_rows
from dxmc_core.runtime.slices import slices_of

#: A centre stands for about this many images.
_IMAGES_PER_CENTER = 300
_CENTERS_PER_CLUSTER = 3

#: Up to so many images k-means makes the effort of the reference: restarts, images per centre, iterations.
_FULL_EFFORT_IMAGES = 60_000
_FULL_EFFORT = (10, 256, 300)
#: Beyond them it makes this one, which falls further from so many centres on, in proportion to them.
_LARGE_EFFORT = (1, 128, 30)
_LARGE_EFFORT_CENTERS = 500
_LEAST_EFFORT = (1, 64, 20)
#: So many centres that k-means starts in two levels get two iterations after them.
_TWO_LEVEL_EFFORT = (1, 64, 12)


@dataclass(frozen=True)
class NounSelection:
    """The semantic space: S nouns, each chosen by one image centre.

    Attributes:
        noun_ids: (S,) int64, positions in the vocabulary, ascending.
        center_ids: (S,) int64, the centre that chose the noun.
        probabilities: (S,) float32, p(centre | noun).
    """

    noun_ids: np.ndarray
    center_ids: np.ndarray
    probabilities: np.ndarray


def num_image_centers(num_images: int, num_clusters: int, *, max_centers: int = 20_000) -> int:
    """Number of image centres: one for every 300 images, but three per cluster where clusters are smaller than that.

    Never more than `max_centers` or than there are images (DXMC section 3.1 and the authors' code, without the caps).

    Raises:
        ValueError: a count below 1.
    """
    if min(num_images, num_clusters, max_centers) < 1:
        raise ValueError(
            "expected num_images, num_clusters and max_centers of at least 1, "
            f"found {num_images}, {num_clusters} and {max_centers}"
        )
    wanted = round(num_images / _IMAGES_PER_CENTER)
    if num_images / num_clusters < _IMAGES_PER_CENTER:
        wanted = _CENTERS_PER_CLUSTER * num_clusters
    return int(max(1, min(wanted, max_centers, num_images)))


def kmeans_effort(num_centers: int, *, num_images: int) -> tuple[int, int, int]:
    """Restarts, training images per centre, and most iterations of the k-means that finds image centres.

    The authors' 10, 256 and 300 up to 60,000 images. Beyond, 1, 128 and 30, from 500 centres on ever less, down to 1,
    64 and 20, and 12 beyond 2,048 centres, two after the two levels of `spherical_kmeans`: a mean over so many centres
    hardly differs between restarts, better seeds and more iterations leave little to gain. docs/RESULTS.md has the
    differences.
    """
    if num_images <= _FULL_EFFORT_IMAGES:
        return _FULL_EFFORT
    if num_centers > MAX_FLAT:
        return _TWO_LEVEL_EFFORT
    share = min(_LARGE_EFFORT_CENTERS / num_centers, 1.0)
    restarts, points_per_center, iterations = (
        max(int(large * share), least) for large, least in zip(_LARGE_EFFORT, _LEAST_EFFORT, strict=True)
    )
    return restarts, points_per_center, iterations


def select_nouns(
    image_centers: np.ndarray,
    noun_embeddings: np.ndarray,
    *,
    nouns_per_center: int = 5,
    block_size: int = 1024,
    device: str = "cpu",
) -> NounSelection:
    """Reverse classification: every noun goes to its most probable centre, every centre keeps its most confident nouns.

    p(l | j) is the softmax over centres l of t_j . s_l, without a temperature, in float32 (float16 changed 3% of the
    picks in a test). Ties go to the earlier noun; between equal centres rounding decides.

    Args:
        image_centers: (C, D), rows normalised here.
        noun_embeddings: (M, D), the same.
        nouns_per_center: gamma in the paper; a centre that attracts fewer nouns keeps fewer.
        block_size: nouns scored at a time; C x block_size float32 is what has to fit, never C x M.
        device: where they are scored.

    Returns:
        At least one noun and at most nouns_per_center * C.

    Raises:
        ValueError: an empty or unusable matrix, different widths, or a count below 1.
    """
    check_same_width(image_centers, noun_embeddings, names=("image_centers", "noun_embeddings"))
    if min(len(image_centers), len(noun_embeddings), nouns_per_center, block_size) < 1:
        raise ValueError(
            "expected at least one centre, one noun, one noun a centre and one noun a block, found "
            f"{len(image_centers)}, {len(noun_embeddings)}, {nouns_per_center} and {block_size}"
        )
    centers = torch.from_numpy(unit_rows(image_centers, name="image_centers")).to(device)
    blocks = list(_best_centers(centers, noun_embeddings, block_size))
    center_ids = np.concatenate([ids for ids, _ in blocks])
    probabilities = np.concatenate([probs for _, probs in blocks])
    noun_ids = np.sort(_most_confident(center_ids, probabilities, nouns_per_center))
    return NounSelection(noun_ids, center_ids[noun_ids], probabilities[noun_ids])


def _best_centers(
    centers: torch.Tensor, noun_embeddings: np.ndarray, block_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Most probable centre of every noun and its probability, a block at a time.

    All blocks have one size, whatever fills the end of the last one: products of one shape round alike, so equal nouns
    tie wherever they stand.
    """
    block = torch.zeros(min(block_size, len(noun_embeddings)), centers.shape[1], device=centers.device)
    for part in slices_of(len(noun_embeddings), len(block)):
        nouns = unit_rows(noun_embeddings[part], name="noun_embeddings", first_row=part.start)
        block[: len(nouns)] = torch.from_numpy(nouns)
        logits = block @ centers.T
        best, center_ids = logits.max(dim=1)
        probabilities = (logits - best[:, None]).exp_().sum(dim=1).reciprocal_()
        yield center_ids[: len(nouns)].cpu().numpy().copy(), probabilities[: len(nouns)].cpu().numpy().copy()


def _most_confident(center_ids: np.ndarray, probabilities: np.ndarray, nouns_per_center: int) -> np.ndarray:
    """Positions of the nouns that rank among the first `nouns_per_center` of their centre."""
    order = np.lexsort((np.arange(len(center_ids)), -probabilities, center_ids))
    centers_in_order = center_ids[order]
    first_of_center = np.searchsorted(centers_in_order, centers_in_order, side="left")
    rank = np.arange(len(order)) - first_of_center
    return order[rank < nouns_per_center]


def select_nouns_sic(
    image_centers: np.ndarray,
    noun_embeddings: np.ndarray,
    *,
    nouns_per_center: int = 500,
    max_cosine_to_mean: float = 0.95,
    centers_per_block: int = 64,
) -> np.ndarray:
    """SIC's semantic space (AAAI 2023): the union of every centre's nearest nouns, without those that fit everything.

    A noun is too general when its cosine to the normalised mean of all nouns is not below `max_cosine_to_mean`. Where
    that would leave nothing (one noun, or a vocabulary about one thing), the union is returned whole. With at most
    `nouns_per_center` nouns the union is all of them.

    Args:
        image_centers: (K, D), one for each cluster, rows normalised here.
        noun_embeddings: (M, D), the same.
        centers_per_block: centres scored at a time; centers_per_block x M float32 is what has to fit.

    Returns:
        noun ids (S,) int64, ascending.

    Raises:
        ValueError: an empty or unusable matrix, different widths, or a count below 1.
    """
    check_same_width(image_centers, noun_embeddings, names=("image_centers", "noun_embeddings"))
    if min(len(image_centers), len(noun_embeddings), nouns_per_center, centers_per_block) < 1:
        raise ValueError(
            "expected at least one centre, one noun, one noun a centre and one centre a block, found "
            f"{len(image_centers)}, {len(noun_embeddings)}, {nouns_per_center} and {centers_per_block}"
        )
    centers = torch.from_numpy(unit_rows(image_centers, name="image_centers"))
    nouns = torch.from_numpy(unit_rows(noun_embeddings, name="noun_embeddings"))
    in_union = torch.zeros(len(nouns), dtype=torch.bool)
    for block in centers.split(centers_per_block):
        in_union[(block @ nouns.T).topk(min(nouns_per_center, len(nouns)), dim=1).indices.unique()] = True
    mean_noun = torch.nn.functional.normalize(nouns.mean(dim=0), dim=0)
    kept = in_union & (nouns @ mean_noun < max_cosine_to_mean)
    return (kept if kept.any() else in_union).nonzero()[:, 0].numpy()
