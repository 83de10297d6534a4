"""Ward's hierarchical clustering of weighted points: a partition for every K from micro-clusters, and a cluster tree.

Nearest-neighbour chains on centroids (Murtagh 1985; Ward's criterion is reducible, so the chains find the same tree as
the greedy search). Memory is M x D, time M^2 x D; no matrix of distances exists.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class WardTree:
    """How M points join one by one. Node 0..M-1 is a point, node M + i the result of join i; the last is the root.

    Attributes:
        joins: (M - 1, 2) int64, the two nodes of each join, the smaller first.
        heights: (M - 1,) float64, ascending. Two points of weight 1 join at their Euclidean distance; in general the
            height is the root of twice the growth of the weighted sum of squared distances to centroids (as in SciPy).
        weights: (2 M - 1,) float64, of every node.
    """

    joins: np.ndarray
    heights: np.ndarray
    weights: np.ndarray

    @property
    def num_points(self) -> int:
        return len(self.joins) + 1

    def cut(self, num_parts: int) -> np.ndarray:
        """The partition into `num_parts`: (M,) int64 in 0..num_parts-1, numbered by their first points.

        Raises:
            ValueError: not between 1 and M.
        """
        if not 1 <= num_parts <= self.num_points:
            raise ValueError(f"expected num_parts between 1 and {self.num_points}, found {num_parts}")
        num_joins = self.num_points - num_parts
        top = np.arange(self.num_points + num_joins)
        # From the last join down, so that a node's own top is known before its children ask for it.
        for join in range(num_joins - 1, -1, -1):
            top[self.joins[join]] = top[self.num_points + join]
        _, first, parts = np.unique(top[: self.num_points], return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[parts]


def ward_tree(points: np.ndarray, weights: np.ndarray) -> WardTree:
    """Join points, always the two nodes whose union adds least to the weighted squared distances to centroids.

    Args:
        points: (M, D), M >= 1.
        weights: (M,) positive, such as the number of images that a point stands for.

    Raises:
        ValueError: no points, points that are not finite, or weights that do not fit or are not positive.
    """
    if points.ndim != 2 or len(points) == 0 or not np.isfinite(points).all():
        raise ValueError(f"expected at least one point, all finite, found an array of shape {points.shape}")
    if weights.shape != (len(points),) or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(f"expected a positive weight for each of {len(points)} points, found shape {weights.shape}")
    pairs, costs = _chain_joins(np.array(points, dtype=np.float64), np.array(weights, dtype=np.float64))
    return _in_order(pairs, costs, np.asarray(weights, dtype=np.float64))


def _chain_joins(centroids: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joins in the order in which chains find them: pairs (M - 1, 2) of slots, the second emptied, and costs (M - 1,).

    The arrays given are used up.
    """
    num_points = len(weights)
    norms = np.einsum("md,md->m", centroids, centroids)
    pairs, costs = np.empty((num_points - 1, 2), dtype=np.int64), np.empty(num_points - 1)
    own_costs = np.zeros(num_points)
    absent = np.zeros(num_points, dtype=bool)
    chain: list[int] = []
    for join in range(num_points - 1):
        if not chain:
            chain = [int(np.argmin(absent))]
        while True:
            tip = chain[-1]
            distances = np.maximum(norms + norms[tip] - 2 * (centroids @ centroids[tip]), 0)
            distances *= 2 * weights * weights[tip] / (weights + weights[tip])
            distances[absent] = np.inf
            distances[tip] = np.inf
            nearest = int(distances.argmin())
            # On a tie the chain goes back, or it might turn in a circle.
            if len(chain) > 1 and distances[chain[-2]] <= distances[nearest]:
                break
            chain.append(nearest)
        cost = distances[chain[-2]]
        kept, gone = sorted((chain.pop(), chain.pop()))
        # Rounding must not let a node lie below its children.
        own_costs[kept] = costs[join] = max(cost, own_costs[kept], own_costs[gone])
        pairs[join] = kept, gone
        total = weights[kept] + weights[gone]
        centroids[kept] = (weights[kept] * centroids[kept] + weights[gone] * centroids[gone]) / total
        weights[kept], norms[kept], absent[gone] = total, centroids[kept] @ centroids[kept], True
    return pairs, costs


def _in_order(pairs: np.ndarray, costs: np.ndarray, weights: np.ndarray) -> WardTree:
    """The joins by ascending cost, slots replaced by the nodes that they held."""
    num_points = len(weights)
    order = np.argsort(costs, kind="stable")  # a child was found before its parent, which costs no less
    node_of_slot = np.arange(num_points)
    joins = np.empty_like(pairs)
    all_weights = np.concatenate([weights, np.zeros(len(pairs))])
    for join, (kept, gone) in enumerate(pairs[order]):
        joins[join] = sorted((node_of_slot[kept], node_of_slot[gone]))
        node_of_slot[kept] = num_points + join
        all_weights[num_points + join] = all_weights[joins[join]].sum()
    return WardTree(joins, np.sqrt(costs[order]), all_weights)
