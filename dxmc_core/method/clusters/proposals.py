"""Where a person's yes or no helps most: clusters that may be one, or two, and groups that may be in the wrong cluster.

How far apart are two groups of images? The pieces of clusters show how that looks within one thing, mostly, and
clusters that are near each other how it looks between two. A logistic regression tells the first from the second
without labels, and what it finds on the wrong side is worth a question. Questions are in the order of the images that a
yes would put right, times how likely a yes is.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from dxmc_core.method.best.smoothing import num_smoothing_neighbors, smooth
from dxmc_core.method.best.whitening import (
    MAX_COMPONENTS,
    cluster_whitening,
    cluster_work,
    components_work,
    normalize_rows,
)
from dxmc_core.method.clusters.nearest_center import nearest_others
from dxmc_core.method.neighbors.exact import nearest_neighbors, search_work
from dxmc_core.method.work import Work
from dxmc_core.runtime.slices import slices_of

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

#: Pictures on either side of a question.
NUM_SHOWN = 6
#: Parts that a cluster is cut into at most, to find pieces of it that may belong elsewhere.
_NUM_PARTS = 4
#: A smaller piece is a few odd images, and no thing of its own.
_MIN_PIECE = 3
#: Clusters that a cluster is compared with, the nearest.
_NUM_NEAR = 3
_COSINES_PER_BLOCK = 2**24
_NUM_NEIGHBORS = 15
#: How often groups that a row is in are compared with others; for estimates only.
_READS_PER_ROW = 40
#: Pieces are cut from rows that were smoothed so often, as the clusters of `best` are.
_SMOOTHING_ROUNDS = 2


@dataclass(frozen=True)
class Proposal:
    """A yes/no question about images, which are named by their positions.

    Attributes:
        kind: "merge": do the clusters `first` and `second` show the same? "split": are a piece of `first`
            and the rest of it two things? "move": does a piece of `first` belong to `second` instead?
        second: -1 for a split.
        group, other: (n,) and (m,) int64, what is compared, the most typical first.
        probability: of a yes, as far as can be told without labels.
        num_images: that a yes would put right.
    """

    kind: Literal["merge", "split", "move"]
    first: int
    second: int
    group: np.ndarray
    other: np.ndarray
    probability: float
    num_images: int


def propose(
    embeddings: np.ndarray,
    clusters: np.ndarray,
    sizes: np.ndarray,
    *,
    max_proposals: int,
    apart: Sequence[tuple[int, int]] = (),
    together: Sequence[tuple[int, int]] = (),
    settled: Container[int] = (),
) -> list[Proposal]:
    """The questions to ask first, the most useful first; none for fewer than two clusters.

    Args:
        embeddings: (n, D) unit rows, of all images or of a sample; a few hundred of a cluster are enough.
        clusters: (n,) in 0..K-1.
        sizes: (K,) images of each cluster, those beyond the sample counted.
        apart, together: pairs of positions that a person has judged already; what they answer is not asked again.
        settled: clusters that nothing is asked about.
    """
    counts = np.bincount(clusters, minlength=len(sizes))
    if (counts > 0).sum() < 2:
        return []
    groups = _Groups(cluster_whitening(embeddings, clusters, len(sizes)).apply(embeddings), clusters, len(sizes))
    found = sorted(_candidates(groups, sizes / np.maximum(counts, 1)), key=_expected, reverse=True)
    asked = (
        proposal
        for proposal in found
        if proposal.first not in settled
        and proposal.second not in settled
        and not _is_answered(proposal, apart, together)
    )
    return list(islice(_without_overlap(asked), max_proposals))


def _expected(proposal: Proposal) -> float:
    """Images that the answer puts right, to be expected."""
    return proposal.probability * proposal.num_images


def _is_answered(proposal: Proposal, apart: Sequence[tuple[int, int]], together: Sequence[tuple[int, int]]) -> bool:
    """Whether what a person has said of a pair of images is the answer "no"."""
    group, other = set(proposal.group.tolist()), set(proposal.other.tolist())
    pairs = together if proposal.kind == "split" else apart
    return any((a in group and b in other) or (b in group and a in other) for a, b in pairs)


def _candidates(groups: "_Groups", scale: np.ndarray) -> list[Proposal]:
    """All questions about clusters that are near each other, and about pieces of clusters.

    Args:
        scale: (K,) images that an image of the sample stands for, by cluster.
    """
    near = [(groups.whole(a), groups.whole(b)) for a, b in groups.near_pairs()]
    pieces = [(piece, rest) for cluster in groups.present for piece, rest in groups.pieces(cluster)]
    if not near or not pieces:
        return []
    nearest = groups.nearest_others([piece for piece, _ in pieces])
    moves = [(piece, groups.whole(other)) for (piece, _), other in zip(pieces, nearest, strict=True)]
    told = [groups.compare_all(pairs) for pairs in (pieces, near, moves)]
    tell = _Difference.fit(told[0], np.concatenate(told[1:]))
    split_chances, near_chances, move_chances = (tell(features) for features in told)
    proposals = [
        _proposal("merge", first, second, 1 - chance, min(first.size(scale), second.size(scale)))
        for (first, second), chance in zip(near, near_chances.tolist(), strict=True)
    ]
    for (piece, rest), chance in zip(pieces, split_chances.tolist(), strict=True):
        proposals.append(_proposal("split", piece, rest, chance, min(piece.size(scale), rest.size(scale))))
    for (piece, target), chance, other in zip(moves, split_chances.tolist(), move_chances.tolist(), strict=True):
        proposals.append(_proposal("move", piece, target, chance * (1 - other), piece.size(scale)))
    return proposals


def _proposal(
    kind: Literal["merge", "split", "move"], group: "_Group", other: "_Group", chance: float, size: float
) -> Proposal:
    second = -1 if kind == "split" else other.cluster
    return Proposal(kind, group.cluster, second, group.rows, other.rows, chance, round(size))


def _without_overlap(proposals: Iterable[Proposal]) -> Iterator[Proposal]:
    """One split for each cluster, and no two moves of one image."""
    split: set[int] = set()
    moved: set[int] = set()
    for proposal in proposals:
        rows = proposal.group.tolist()
        if (proposal.kind == "split" and proposal.first in split) or (proposal.kind == "move" and moved & set(rows)):
            continue
        if proposal.kind == "split":
            split.add(proposal.first)
        elif proposal.kind == "move":
            moved.update(rows)
        yield proposal


@dataclass(frozen=True)
class _Difference:
    """The chance that two groups are different things, by what `_Groups.compare_all` says of them."""

    model: "Pipeline"

    @classmethod
    def fit(cls, same: np.ndarray, different: np.ndarray) -> "_Difference":
        """
        Args:
            same, different: (P, F) and (Q, F), what is said of pairs that mostly are one thing, and mostly two.
        """
        from sklearn.linear_model import LogisticRegression  # late: it takes a second to load
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        model.fit(np.concatenate([same, different]), np.repeat([0, 1], [len(same), len(different)]))
        return cls(model)

    def __call__(self, pairs: np.ndarray) -> np.ndarray:
        return self.model.predict_proba(pairs)[:, 1]


@dataclass(frozen=True, eq=False)
class _Group:
    """Images that are compared with others: a cluster or a piece of it.

    Attributes:
        rows: (n,) positions, the most typical first.
        mean: (R,) of the rows.
        parts: numbers of the parts that it consists of.
    """

    cluster: int
    rows: np.ndarray
    mean: np.ndarray
    parts: tuple[int, ...]

    def size(self, scale: np.ndarray) -> float:
        """Images that it stands for."""
        return len(self.rows) * scale[self.cluster]


class _Groups:
    """Clusters in the space that whitens their scatter, each cut into at most P parts: from k P on for cluster k."""

    def __init__(self, rows: np.ndarray, clusters: np.ndarray, num_clusters: int) -> None:
        self._rows = rows
        self._wholes: dict[int, _Group] = {}
        self._pieces: dict[int, list[tuple[_Group, _Group]]] = {}
        neighbors = nearest_neighbors(rows, num_neighbors=min(_NUM_NEIGHBORS, len(rows) - 1))
        num_smoothed = num_smoothing_neighbors(len(rows), np.unique(clusters).size)
        smoothed = smooth(rows, neighbors[:, :num_smoothed], num_rounds=_SMOOTHING_ROUNDS)
        codes = np.empty(len(rows), dtype=np.int64)
        order, ends = np.argsort(clusters, kind="stable"), np.cumsum(np.bincount(clusters, minlength=num_clusters))
        for cluster, members in enumerate(np.split(order, ends[:-1])):
            if len(members):
                cuts = _cuts(smoothed[members])
                codes[members] = _NUM_PARTS * cluster + cuts[-1]
                self._wholes[cluster] = self._group(cluster, members, codes)
                self._pieces[cluster] = list(self._pieces_of(cluster, members, cuts, codes))
        pairs = np.stack([np.repeat(codes, neighbors.shape[1]), codes[neighbors].ravel()], axis=1)
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        #: How many near neighbours the images of one part have in another.
        self._links = dict(zip(map(tuple, found.tolist()), counts.tolist(), strict=True))
        self.present = list(self._wholes)
        self._directions = normalize_rows(np.array([group.mean for group in self._wholes.values()]))

    def _group(self, cluster: int, members: np.ndarray, codes: np.ndarray) -> _Group:
        mean = self._rows[members].mean(axis=0)
        typical_first = members[np.argsort(-(self._rows[members] @ mean), kind="stable")]
        return _Group(cluster, typical_first, mean, tuple(np.unique(codes[members]).tolist()))

    def _pieces_of(
        self, cluster: int, members: np.ndarray, cuts: Sequence[np.ndarray], codes: np.ndarray
    ) -> Iterator[tuple[_Group, _Group]]:
        seen: set[bytes] = set()
        for cut in cuts:
            for part in range(cut.max() + 1):
                inside = cut == part
                if min(inside.sum(), (~inside).sum()) >= _MIN_PIECE and inside.tobytes() not in seen:
                    seen.add(inside.tobytes())
                    yield self._group(cluster, members[inside], codes), self._group(cluster, members[~inside], codes)

    def whole(self, cluster: int) -> _Group:
        return self._wholes[cluster]

    def pieces(self, cluster: int) -> list[tuple[_Group, _Group]]:
        """Pieces of a cluster, the coarsest first, each with the rest of the cluster."""
        return self._pieces[cluster]

    def near_pairs(self) -> list[tuple[int, int]]:
        """Pairs of clusters of which one is among the nearest of the other."""
        nearest = nearest_others(self._directions, _NUM_NEAR)
        pairs = {(min(a, b), max(a, b)) for a, others in enumerate(nearest.tolist()) for b in others}
        return [(self.present[a], self.present[b]) for a, b in sorted(pairs)]

    def nearest_others(self, pieces: Sequence[_Group]) -> list[int]:
        """For each piece the cluster, beside its own, that is nearest to it."""
        places = {cluster: place for place, cluster in enumerate(self.present)}
        found: list[int] = []
        for block in slices_of(len(pieces), max(_COSINES_PER_BLOCK // len(places), 1)):
            cosines = normalize_rows(np.array([piece.mean for piece in pieces[block]])) @ self._directions.T
            cosines[np.arange(len(cosines)), [places[piece.cluster] for piece in pieces[block]]] = -np.inf
            found += [self.present[place] for place in cosines.argmax(axis=1).tolist()]
        return found

    def compare_all(self, pairs: Sequence[tuple[_Group, _Group]]) -> np.ndarray:
        """(P, F) how far apart the two groups of each pair are."""
        return np.array([self._compare(first, second) for first, second in pairs])

    def _compare(self, first: _Group, second: _Group) -> list[float]:
        """By the spread along the line between their means, by neighbours shared, and by how small the smaller one is,
        as a small piece of something lies far from the rest by chance."""
        smaller = min(len(first.rows), len(second.rows)) / (len(first.rows) + len(second.rows))
        return [self._separation(first, second), self._mixing(first, second), np.log(smaller)]

    def _separation(self, first: _Group, second: _Group) -> float:
        """The distance of the means in standard deviations along the line between them."""
        line = second.mean - first.mean
        a, b = self._rows[first.rows] @ line, self._rows[second.rows] @ line
        spread = np.sqrt((a.var() * len(a) + b.var() * len(b)) / (len(a) + len(b)))
        return float((b.mean() - a.mean()) / max(spread, 1e-9))

    def _mixing(self, first: _Group, second: _Group) -> float:
        """Neighbours that one has in the other, over those that it would have if both were one: 1 is well mixed."""
        inside, across = self._num_links(first, first), self._num_links(first, second)
        back, inside_second = self._num_links(second, first), self._num_links(second, second)
        share = len(second.rows) / (len(first.rows) + len(second.rows))
        there = across / max(inside + across, 1) / share
        here = back / max(inside_second + back, 1) / (1 - share)
        return float(there + here) / 2

    def _num_links(self, first: _Group, second: _Group) -> int:
        return sum(self._links.get(pair, 0) for pair in product(first.parts, second.parts))


def _cuts(rows: np.ndarray) -> list[np.ndarray]:
    """A cluster (n, R) cut into two, three, ... parts by Ward's criterion: (n,) each; one part if it is too small."""
    if len(rows) < 2 * _MIN_PIECE:
        return [np.zeros(len(rows), dtype=np.int64)]
    tree = linkage(rows, "ward")  # quicker than `ward_tree` for a few hundred rows
    cuts = [fcluster(tree, num_parts, "maxclust") for num_parts in range(2, _NUM_PARTS + 1)]
    return [np.unique(cut, return_inverse=True)[1] for cut in cuts]


def proposals_work(num_rows: int, width: int) -> Work:
    """What `propose` does: whitening, neighbours, and comparing groups, which reads every row a few dozen times."""
    inner = min(width, MAX_COMPONENTS)
    comparing = Work(moved_bytes=4.0 * inner * num_rows * _READS_PER_ROW)
    return (
        components_work(num_rows, width)
        + cluster_work(num_rows, width)
        + search_work(num_rows, inner, _NUM_NEIGHBORS)
        + comparing
    )
