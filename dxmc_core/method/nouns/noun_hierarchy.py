"""MCA's second filter of the semantic space: which level of the noun hierarchy fits the images (a reconstruction).

"Dog" goes where its images are all of one breed, and the breeds go where they have next to no image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import numpy as np

from dxmc_core.method.clusters.nearest_center import nearest_centers
from dxmc_core.method.unit_rows import check_same_width, unit_rows
from dxmc_core.runtime.slices import slices_of

_ROWS_PER_BLOCK = 4096


@dataclass(frozen=True)
class _Votes:
    """What the images of a noun's subtree amount to, by candidate.

    Attributes:
        counts: (S,) int64, images whose nearest candidate is the noun or lies below it.
        sums: (S, D) float64, sum of their embeddings.
    """

    counts: np.ndarray
    sums: np.ndarray


def filter_by_hierarchy(
    image_embeddings: np.ndarray,
    noun_embeddings: np.ndarray,
    candidates: np.ndarray,
    hypernyms: np.ndarray,
    *,
    min_votes: float,
) -> np.ndarray:
    """Candidates at the level of the hierarchy that the images speak for.

    Every image votes for its nearest candidate, and its vote counts for all hypernyms of that noun too (once, also
    where two paths lead there). From the most specific nouns upwards a noun is dropped when it has fewer than
    `min_votes` votes, or when a noun kept below it is nearer to its voters on average than the noun itself.

    The paper's equations were not at hand: only that nouns are filtered by uniqueness, then by the WordNet hierarchy.

    Args:
        image_embeddings: (N, D), rows normalised here.
        noun_embeddings: (M, D), the same.
        candidates: (S,) int64 positions of the nouns to choose from.
        hypernyms: (E, 2) pairs [noun, its hypernym] of positions among all M; hypernyms that are no candidates still
            pass votes on.

    Returns:
        The positions that stay, ascending; all candidates where none would stay.

    Raises:
        ValueError: the hierarchy has a cycle, or a matrix is unusable.
    """
    check_same_width(image_embeddings, noun_embeddings, names=("image_embeddings", "noun_embeddings"))
    nouns = unit_rows(noun_embeddings[candidates], name="noun_embeddings")
    column_of = {int(noun): column for column, noun in enumerate(candidates)}
    ancestors = _ancestors(hypernyms)
    candidates_above = [
        [column_of[above] for above in ancestors.get(int(noun), ()) if above in column_of] for noun in candidates
    ]
    votes = _propagated(_direct_votes(image_embeddings, nouns), candidates_above)
    kept_below: list[list[int]] = [[] for _ in candidates]
    kept = np.zeros(len(candidates), dtype=bool)
    for column in _specific_first(candidates_above):
        own_fit = votes.sums[column] @ nouns[column]
        below = kept_below[column]
        fits = not below or float((nouns[below] @ votes.sums[column]).max()) <= own_fit
        if votes.counts[column] >= min_votes and fits:
            kept[column] = True
            for above in candidates_above[column]:
                kept_below[above].append(column)
    return np.sort(candidates[kept] if kept.any() else candidates)


def _ancestors(hypernyms: np.ndarray) -> dict[int, frozenset[int]]:
    """All nouns above each noun, without itself."""
    parents: dict[int, list[int]] = {}
    for noun, hypernym in hypernyms.tolist():
        parents.setdefault(noun, []).append(hypernym)
    found: dict[int, frozenset[int]] = {}
    try:
        # Hypernyms come before what is below them.
        for noun in TopologicalSorter(parents).static_order():
            direct = parents.get(noun, [])
            found[noun] = frozenset(direct).union(*(found[parent] for parent in direct))
    except CycleError as error:
        raise ValueError(f"expected noun_hypernyms without a cycle, found {error.args[1]}") from error
    return found


def _specific_first(candidates_above: list[list[int]]) -> Iterator[int]:
    """Columns so that each comes after everything below it: what is below has strictly more above it."""
    return iter(sorted(range(len(candidates_above)), key=lambda column: -len(candidates_above[column])))


def _direct_votes(image_embeddings: np.ndarray, nouns: np.ndarray) -> _Votes:
    counts, sums = np.zeros(len(nouns), dtype=np.int64), np.zeros(nouns.shape, dtype=np.float64)
    for block in slices_of(len(image_embeddings), _ROWS_PER_BLOCK):
        images = unit_rows(image_embeddings[block], name="image_embeddings", first_row=block.start)
        nearest = nearest_centers(images, nouns)
        counts += np.bincount(nearest, minlength=len(nouns))
        np.add.at(sums, nearest, images)
    return _Votes(counts, sums)


def _propagated(direct: _Votes, candidates_above: list[list[int]]) -> _Votes:
    counts, sums = direct.counts.copy(), direct.sums.copy()
    for column in np.flatnonzero(direct.counts):
        above = candidates_above[column]
        counts[above] += direct.counts[column]
        sums[above] += direct.sums[column]
    return _Votes(counts, sums)
