"""Bursts: one picture taken or saved several times, of which the looks of `best` see one.

Near copies are each other's neighbours. Many of them fill the neighbour graph, the whitening and the micro-clusters
with what sets copies apart, and draw clusters to themselves. What tells a burst from a class of look-alikes is what
lies around it: a gap, as classes thin out towards their edges, and behind it other images, as near as to any image.
"""

from dataclasses import dataclass

import numpy as np

from dxmc_core.method.neighbors.exact import build_index, search
from dxmc_core.method.neighbors.near_duplicates import distinct_rows, duplicate_groups, one_of_each
from dxmc_core.runtime.slices import slices_of

#: Near copies are at most so far apart (1 - cosine), and at most this share of what two images are on average: where
#: all images look alike, copies do so more.
_MAX_DISTANCE, _MAX_SHARE_OF_SPREAD = 0.02, 0.05
#: The next image is so many times further away than any copy from the copy next to it.
_CLEAR_GAP = 3.0
#: But no further than the loneliest image without copies is from any other, or than this share of what two images are
#: apart on average: a group far from everything is a class.
_MAX_GAP_OF_SPREAD = 0.5
#: A group of half the mean size of a cluster may be one.
_MAX_SHARE_OF_CLUSTER = 0.5

#: Rows whose candidates are gathered at a time: 100 MiB of 50 candidates of 512 columns.
_ROWS_PER_BLOCK = 1024
#: Distances of equal rows, by rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Bursts:
    """Which of n images stand for which.

    Attributes:
        kept: (m,) int64 positions of those that stand for themselves, ascending.
        place: (n,) int64 position among these of the one that stands for each image.
    """

    kept: np.ndarray
    place: np.ndarray

    @classmethod
    def of(
        cls, images: np.ndarray, candidates: np.ndarray, num_clusters: int, *, always_kept: np.ndarray | None = None
    ) -> "Bursts":
        """Found among neighbours; none where no more different images than clusters would be left.

        Args:
            images: (n, D) float32 unit rows.
            candidates: (n, c) positions of the nearest images of each.
            num_clusters: K.
            always_kept: positions of images that stand for themselves, copies or not.
        """
        groups = _groups(images, candidates, num_clusters)
        if always_kept is not None:
            copies = np.setdiff1d(always_kept, groups)
            groups[copies] = copies
        kept, place = np.unique(groups, return_inverse=True)
        found = cls(kept, place)
        if found.num_copies and found.num_different(images, at_most=num_clusters + 1) <= num_clusters:
            return cls(np.arange(len(images)), np.arange(len(images)))
        return found

    @property
    def num_copies(self) -> int:
        """How many images another one stands for."""
        return len(self.place) - len(self.kept)

    def num_different(self, images: np.ndarray, *, at_most: int) -> int:
        """How many of the kept images differ, counted no further than asked."""
        blocks = (images[self.kept[block]] for block in slices_of(len(self.kept), _ROWS_PER_BLOCK))
        return len(distinct_rows(blocks, at_most=at_most))

    def once(self, array: np.ndarray) -> np.ndarray:
        """Those rows of an array of all images that are of images that are kept."""
        return array[self.kept] if self.num_copies else array

    def of_all(self, labels: np.ndarray) -> np.ndarray:
        """Labels (n,) of all images by those (m,) of the kept ones."""
        return labels[self.place]

    def candidates_of_kept(self, images: np.ndarray, candidates: np.ndarray, *, device: str) -> np.ndarray:
        """The candidates (m, min(c, m - 1)) of those that are kept, as positions among them.

        Copies among an image's candidates count once; where that leaves too few, they are searched.

        Args:
            images: (m, D) those that are kept; candidates: (n, c) of all images.
        """
        found = one_of_each(self.kept[self.place], candidates)[:, : len(images) - 1]
        in_order = np.sort(found, axis=1)
        is_own = found[:, 0] == np.arange(len(found))
        lacking = np.flatnonzero((in_order[:, 1:] == in_order[:, :-1]).any(axis=1) | is_own)
        if len(lacking):
            found[lacking] = search(build_index(images, device=device), images[lacking], lacking, found.shape[1])
        return found


def _groups(images: np.ndarray, candidates: np.ndarray, num_clusters: int) -> np.ndarray:
    """The first image (n,) of each one's burst; its own position where it is in none."""
    positions = np.arange(len(images))
    distances = _distances(images, candidates)
    spread = 1 - float(np.square(images.mean(axis=0, dtype=np.float64)).sum())
    rows, places = np.nonzero(distances <= max(min(_MAX_DISTANCE, _MAX_SHARE_OF_SPREAD * spread), _ROUNDING))
    pairs = np.stack([rows, candidates[rows, places]], axis=1)
    groups = duplicate_groups(len(images), pairs, copies=positions)

    is_inside = groups[candidates] == groups[:, None]
    to_copy = np.where(is_inside, distances, np.inf).min(axis=1)
    # Where all candidates are copies, the next image is at least as far away as the furthest of them.
    to_other = np.minimum(np.where(is_inside, np.inf, distances).min(axis=1), distances.max(axis=1))
    firsts, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    links, gaps = np.zeros(len(firsts)), np.full(len(firsts), np.inf)
    np.maximum.at(links, group_of, np.where(np.isfinite(to_copy), to_copy, 0))
    np.minimum.at(gaps, group_of, to_other)
    is_burst = (
        (gaps >= _CLEAR_GAP * links)
        & (gaps <= gaps[sizes == 1].max(initial=_MAX_GAP_OF_SPREAD * spread))
        & (sizes < _MAX_SHARE_OF_CLUSTER * len(images) / num_clusters)
    )
    return np.where(is_burst[group_of], groups, positions)


def _distances(images: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """1 - cosine (n, c) of images and their candidates; exactly 0 for equal ones."""
    distances = np.empty(candidates.shape, dtype=np.float32)
    for block in slices_of(len(images), _ROWS_PER_BLOCK):
        distances[block] = 1 - np.einsum("ncd,nd->nc", images[candidates[block]], images[block])
    distances[distances < _ROUNDING] = 0
    return distances
