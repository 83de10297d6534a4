"""Ward's hierarchical clustering of weighted points: a partition for every K from micro-clusters, and a cluster tree.

The greedy search on centroids with nearest neighbours kept as lower bounds, and looked up again only when they come to
the top (Müllner 2011, "generic linkage"), many at a time, so that products of matrices are most of the work. Memory is
M x D, time about M^2 x D; no matrix of distances exists.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from dxmc_core.method.work import Work

_COSTS_PER_BLOCK = 2**24
_LOOKED_UP_AT_A_TIME = 64

#: Times that a join reads all centroids, and arrays of a block's size that exist at a time; for estimates only.
_PASSES_PER_JOIN, _ARRAYS_PER_BLOCK = 1, 3


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
    pairs, costs = _greedy_joins(points, weights, num_joins=len(points) - 1)
    costs = np.maximum.accumulate(costs)  # rounding must not let a node lie below its children
    return _in_order(pairs, 2 * costs, np.asarray(weights, dtype=np.float64))


def merge_points(
    points: np.ndarray,
    weights: np.ndarray,
    num_parts: int,
    *,
    size_exponent: float = 1.0,
    tags: np.ndarray | None = None,
    apart: np.ndarray | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """Join weighted points until `num_parts` nodes are left.

    The cost of a join is d^2 (w_1 w_2 / (w_1 + w_2))^a, with d between centroids. With a = 1 that is Ward's, which
    makes parts of like size; with a = 0 the nearest centroids are joined whatever their weights.

    Args:
        points: (M, D); weights: (M,) positive.
        num_parts: 1..M.
        size_exponent: a, 0..1.
        tags: (M,) a group 0..G-1 or -1; all points of a group are one from the start.
        apart: (G, G) bool, goes with the tags: groups that are never joined, unless nothing else is left to join.
        device: where costs are computed.

    Returns:
        (M,) int64 part of every point, numbered by their first points.
    """
    if tags is None or apart is None:
        nodes = np.arange(len(points))
    else:
        nodes, points, weights, tags = _joined_by_tag(points, weights, tags)
    pairs, _ = _greedy_joins(
        points,
        weights,
        num_joins=max(len(points) - num_parts, 0),
        size_exponent=size_exponent,
        tags=tags,
        apart=apart,
        dtype=torch.float32,
        device=device,
    )
    parts = np.arange(len(points))
    for kept, gone in pairs[::-1]:
        parts[gone] = parts[kept]
    return np.unique(parts[nodes], return_inverse=True)[1]


def _joined_by_tag(
    points: np.ndarray, weights: np.ndarray, tags: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The node (M,) of every point where those of a tag are one, and the nodes' centroids, weights and tags."""
    own = np.where(tags >= 0, tags, tags.max() + 1 + np.arange(len(tags)))
    _, first, nodes = np.unique(own, return_index=True, return_inverse=True)
    sums = np.bincount(nodes, weights)
    share = csr_array((weights / sums[nodes], (nodes, np.arange(len(nodes)))), shape=(len(first), len(nodes)))
    return nodes, share @ points, sums, tags[first]


def _greedy_joins(
    points: np.ndarray,
    weights: np.ndarray,
    *,
    num_joins: int,
    size_exponent: float = 1.0,
    tags: np.ndarray | None = None,
    apart: np.ndarray | None = None,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest joins one after another: pairs (num_joins, 2) of slots, the second emptied, and their costs."""
    barred = None if tags is None or apart is None else _Barred(tags, apart)
    nodes = _Nodes(points, weights, size_exponent, dtype, device, barred)
    costs, nearest = nodes.nearest_of(np.arange(len(points)))
    is_stale = np.zeros(len(points), dtype=bool)
    pairs, join_costs = np.empty((num_joins, 2), dtype=np.int64), np.empty(num_joins)
    for join in range(num_joins):
        while is_stale[tip := int(costs.argmin())]:
            looked_up = _lowest(costs, np.flatnonzero(is_stale))
            costs[looked_up], nearest[looked_up] = nodes.nearest_of(looked_up)
            is_stale[looked_up] = False
        if nodes.barred is not None and np.isinf(costs[tip]):  # none is left that may be joined
            nodes.barred = None
            alive = np.flatnonzero(nodes.are_there())
            costs[alive], nearest[alive] = nodes.nearest_of(alive)
            tip = int(costs.argmin())
        kept, gone = sorted((tip, int(nearest[tip])))
        pairs[join], join_costs[join] = (kept, gone), costs[tip]
        nodes.join(kept, gone)
        # What pointed at either node costs at least what it did, unless the new node turns out to be nearer.
        is_stale |= (nearest == kept) | (nearest == gone)
        costs[gone], is_stale[gone] = np.inf, False
        row = nodes.costs_of(np.array([kept]))[0].cpu().numpy()
        nearer = row < costs
        costs[nearer], nearest[nearer], is_stale[nearer] = row[nearer], kept, False
        nearest[kept], is_stale[kept] = row.argmin(), False
        costs[kept] = row[nearest[kept]]
    return pairs, join_costs


def _lowest(costs: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Those of the nodes that cost least, as many as are looked up at a time."""
    if len(nodes) <= _LOOKED_UP_AT_A_TIME:
        return nodes
    return nodes[np.argpartition(costs[nodes], _LOOKED_UP_AT_A_TIME)[:_LOOKED_UP_AT_A_TIME]]


class _Barred:
    """Which nodes are never joined: those whose tags are apart."""

    def __init__(self, tags: np.ndarray, apart: np.ndarray) -> None:
        self._tags, self._apart = tags.copy(), apart.copy()

    def of(self, nodes: np.ndarray) -> np.ndarray:
        """For each of n nodes and each of all, whether they are apart: (n, M) bool."""
        own = self._tags[nodes]
        return self._apart[own][:, self._tags] & (own >= 0)[:, None] & (self._tags >= 0)

    def join(self, kept: int, gone: int) -> None:
        """A node is apart from whatever its parts were."""
        first, second = self._tags[kept], self._tags[gone]
        if first >= 0 and second >= 0:
            self._apart[first] |= self._apart[second]
            self._apart[:, first] |= self._apart[:, second]
        self._tags[kept] = max(first, second) if min(first, second) < 0 else first


class _Nodes:
    """Centroids (M, D) with their weights, of which some have gone into others."""

    def __init__(
        self,
        points: np.ndarray,
        weights: np.ndarray,
        size_exponent: float,
        dtype: torch.dtype,
        device: str,
        barred: _Barred | None = None,
    ) -> None:
        self.barred = barred
        self._centroids = torch.from_numpy(np.array(points, dtype=np.float64)).to(device, dtype)
        self._weights = torch.from_numpy(np.array(weights, dtype=np.float64)).to(device, dtype)
        self._norms = self._centroids.square().sum(dim=1)  # infinite for what has gone
        self._size_exponent = size_exponent

    def nearest_of(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The least cost (n,) of joining each of n nodes, and with which (n,)."""
        found = [
            self.costs_of(block).min(dim=1)
            for block in np.array_split(nodes, math.ceil(len(nodes) * len(self._norms) / _COSTS_PER_BLOCK))
        ]
        costs, nearest = (torch.cat([getattr(best, name) for best in found]) for name in ("values", "indices"))
        return costs.cpu().numpy(), nearest.cpu().numpy()

    def costs_of(self, nodes: np.ndarray) -> Tensor:
        """Costs (n, M) of joining n nodes with each; infinite for itself and for what has gone."""
        own = torch.from_numpy(nodes).to(self._norms.device)
        costs = self._centroids[own] @ self._centroids.T
        costs.mul_(-2).add_(self._norms).add_(self._norms[own, None]).clamp_(min=0)
        if self._size_exponent > 0:
            inverse = 1 / self._weights
            costs.div_((inverse + inverse[own, None]).pow_(self._size_exponent))
        costs[torch.arange(len(own)), own] = torch.inf
        if self.barred is not None:
            costs[torch.from_numpy(self.barred.of(nodes)).to(costs.device)] = torch.inf
        return costs

    def are_there(self) -> np.ndarray:
        """Which nodes have not gone: (M,) bool."""
        return torch.isfinite(self._norms).cpu().numpy()

    def join(self, kept: int, gone: int) -> None:
        if self.barred is not None:
            self.barred.join(kept, gone)
        first, second = self._weights[kept].clone(), self._weights[gone]
        self._weights[kept] = first + second
        self._centroids[kept] = (first * self._centroids[kept] + second * self._centroids[gone]) / (first + second)
        self._norms[kept] = self._centroids[kept].square().sum()
        self._norms[gone] = torch.inf


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


def merge_work(num_points: int, width: int, num_parts: int) -> Work:
    """What `merge_points` does: a product of all with all, and then passes over all for every join."""
    passes = _PASSES_PER_JOIN * (num_points - num_parts)
    return Work(2.0 * width * num_points**2, 4.0 * width * num_points * passes)


def merge_bytes(num_points: int, width: int) -> float:
    """The most memory that `merge_points` holds at a time."""
    block = max(min(_COSTS_PER_BLOCK, num_points**2), num_points)
    return 4.0 * _ARRAYS_PER_BLOCK * block + 12.0 * num_points * width
