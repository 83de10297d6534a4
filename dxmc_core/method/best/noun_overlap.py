"""How far two images are described by the same nouns, to rank neighbours by what they show as well as by how they look.

Of images that look alike, those with the same nouns share a cluster more often. The overlap of two mixtures is the
kernel that neural tangent kernel spectral clustering multiplies cosines by (arXiv 2602.09586), here for the neighbours
at hand instead of all pairs of images.
"""

from dataclasses import dataclass

import numpy as np
import torch

from dxmc_core.method.unit_rows import check_same_width, unit_rows
from dxmc_core.method.work import Work
from dxmc_core.runtime.slices import slices_of

#: Nouns of an image's mixture, and the temperature of its softmax.
_TOP_NOUNS = 20
_TEMPERATURE = 0.01

#: 64 MiB of scores, or of noun weights spread out.
_VALUES_PER_BLOCK = 2**24


@dataclass(frozen=True)
class NounMixtures:
    """Each image as a mixture of its nearest nouns.

    Attributes:
        nouns: (N, m) int64 positions among S nouns.
        roots: (N, m) float32 square roots of the weights, whose squares sum to 1.
        num_nouns: S.
    """

    nouns: np.ndarray
    roots: np.ndarray
    num_nouns: int


def noun_mixtures(images: np.ndarray, noun_embeddings: np.ndarray, *, device: str = "cpu") -> NounMixtures:
    """softmax(v_i . t_j / 0.01) over the 20 nearest nouns of each image.

    Args:
        images: (N, D) float32 unit rows.
        noun_embeddings: (S, D) selected nouns, rows normalised here.
        device: where scores are computed.

    Raises:
        ValueError: different widths, or unusable rows.
    """
    check_same_width(images, noun_embeddings, names=("image_embeddings", "selected_nouns"))
    columns = torch.from_numpy(unit_rows(noun_embeddings, name="selected_nouns")).to(device).T
    num_nouns = columns.shape[1]
    width = min(_TOP_NOUNS, num_nouns)
    nouns, roots = np.empty((len(images), width), dtype=np.int64), np.empty((len(images), width), dtype=np.float32)
    block_rows = _rows_per_block(num_nouns)
    for block in slices_of(len(images), block_rows):
        nearest = (torch.from_numpy(images[block]).to(device) @ columns).topk(width, dim=1)
        nouns[block] = nearest.indices.cpu().numpy()
        roots[block] = (nearest.values / _TEMPERATURE).softmax(dim=1).sqrt().cpu().numpy()
    return NounMixtures(nouns, roots, num_nouns)


def neighbor_overlap(mixtures: NounMixtures, neighbors: np.ndarray, *, device: str = "cpu") -> np.ndarray:
    """sum_j sqrt(p_ij p_nj) of every image i and each of its neighbours n (Bhattacharyya's coefficient).

    Args:
        neighbors: (N, k) positions of images.
        device: where it is computed.

    Returns:
        (N, k) float32 in 0..1.
    """
    nouns, roots = (torch.from_numpy(array).to(device) for array in (mixtures.nouns, mixtures.roots))
    num_rows, num_neighbors = neighbors.shape
    overlaps = np.empty((num_rows, num_neighbors), dtype=np.float32)
    block_rows = _rows_per_block(max(mixtures.num_nouns, num_neighbors * nouns.shape[1]))
    for block in slices_of(num_rows, block_rows):
        spread_out = torch.zeros(len(nouns[block]), mixtures.num_nouns, device=device)
        spread_out.scatter_(1, nouns[block], roots[block])
        others = torch.from_numpy(neighbors[block].astype(np.int64)).to(device)
        own_roots = spread_out.gather(1, nouns[others].flatten(1)).view(*others.shape, -1)
        overlaps[block] = (own_roots * roots[others]).sum(dim=2).clamp(max=1).cpu().numpy()
    return overlaps


def _rows_per_block(values_per_row: int) -> int:
    return min(max(_VALUES_PER_BLOCK // values_per_row, 16), 4096)


def overlap_work(num_rows: int, width: int, num_nouns: int, num_neighbors: int) -> Work:
    """What `noun_mixtures` and `neighbor_overlap` do: scores and weights of all nouns are written and read."""
    of_neighbors = 5 * num_neighbors * min(_TOP_NOUNS, num_nouns)
    return Work(2.0 * num_rows * width * num_nouns, 4.0 * num_rows * (4 * num_nouns + of_neighbors))


def overlap_bytes(num_rows: int, num_neighbors: int) -> float:
    """What the overlaps of all rows take, and a block while they are computed."""
    return 4.0 * num_rows * num_neighbors + 3 * 4.0 * _VALUES_PER_BLOCK
