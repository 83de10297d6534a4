"""Colours of the clusters: twelve that colour-blind people can tell apart, the same in light and dark, dealt so that
neighbours differ."""

from collections.abc import Sequence

import numpy as np

#: Found by annealing: the closest two lie as far apart in OKLab, to normal, protan, deutan and tritan eyes, as could be
#: had with a contrast of 3:1 to the light background and to the dark one, and without shrill ones.
COLORS = (
    "#316dac", "#c6710a", "#159c51", "#a9517e", "#2597fc", "#c03e08",
    "#7b60da", "#769c8a", "#f36269", "#617045", "#c26cda", "#9979a8",
)  # fmt: skip
NUM_COLORS = len(COLORS)


def deal_colors(positions: np.ndarray | None, num_clusters: int, *, num_near: int = 8) -> list[int]:
    """A colour slot for each cluster, in the page's order (the largest first).

    Up to twelve clusters get a colour of their own. Beyond that, a cluster takes the colour least used among the
    `num_near` clusters nearest to it on the map that have theirs already, then the one least used overall.

    Args:
        positions: (num_clusters, 2) places on the map, NaN for a cluster without a point there; None without a map.
    """
    if num_clusters <= NUM_COLORS or positions is None:
        return [index % NUM_COLORS for index in range(num_clusters)]
    slots: list[int] = []
    used = np.zeros(NUM_COLORS, dtype=np.int64)
    for index in range(num_clusters):
        nearby = np.zeros(NUM_COLORS, dtype=np.int64)
        for other in _nearest_before(positions, index, num_near):
            nearby[slots[other]] += 1
        slots.append(min(range(NUM_COLORS), key=lambda slot: (nearby[slot], used[slot], slot)))
        used[slots[-1]] += 1
    return slots


def _nearest_before(positions: np.ndarray, index: int, count: int) -> Sequence[int]:
    if index == 0 or not np.isfinite(positions[index]).all():
        return []
    distances = np.linalg.norm(positions[:index] - positions[index], axis=1)
    order = np.argsort(distances, kind="stable")[:count]
    return [int(other) for other in order if np.isfinite(distances[other])]
