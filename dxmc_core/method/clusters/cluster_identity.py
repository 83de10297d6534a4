"""Ids that clusters keep from one clustering to the next, and the lineage of those that came, went, split or merged.

Stands between the assignment of every image and the tables a user reads: what they wrote down about cluster 17 must be
true of cluster 17 tomorrow.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import csr_array, sparray

#: What became of a cluster; see `keep_identities`.
RelationKind = Literal["kept", "split", "born", "merged", "died"]


@dataclass(frozen=True)
class Relation:
    """A row of the lineage: one cluster of either clustering, and the one of the other that explains it.

    Attributes:
        kind: see `keep_identities`.
        previous_id, cluster_id: ids before and now; None where there is none.
        overlap: images that are in both; 0 where one of them is None.
        previous_share, share: `overlap` as a fraction of the common images of the previous and of the new cluster.
        jaccard: `overlap` as a fraction of the common images that are in either.
    """

    kind: RelationKind
    previous_id: int | None
    cluster_id: int | None
    overlap: int = 0
    previous_share: float = 0.0
    share: float = 0.0
    jaccard: float = 0.0


@dataclass(frozen=True)
class Identities:
    """Ids for the clusters of a clustering.

    Attributes:
        cluster_ids: (K,) int32, by label, all different.
        ids_given: ids handed out since the first clustering, those of dead clusters included. They are 0..ids_given-1,
            so the next new cluster gets this number; it is the only state to carry on.
        lineage: kept clusters by id, then new ones by id, then ended ones by id; empty for a first clustering.
        num_common: images in both clusterings; 0 for a first clustering.
        num_moved: how many of them are in a cluster of another id than before.
    """

    cluster_ids: np.ndarray
    ids_given: int
    lineage: tuple[Relation, ...] = ()
    num_common: int = 0
    num_moved: int = 0

    @classmethod
    def first(cls, num_clusters: int) -> "Identities":
        """Ids of a clustering that has no predecessor: its labels."""
        return cls(np.arange(num_clusters, dtype=np.int32), num_clusters)

    @property
    def churn(self) -> float:
        """Share of the common images whose cluster has another id than before, in 0..1."""
        return self.num_moved / self.num_common if self.num_common else 0.0

    def count(self, *kinds: RelationKind) -> int:
        """Clusters that the lineage gives one of these kinds."""
        return sum(relation.kind in kinds for relation in self.lineage)


def keep_identities(
    overlaps: sparray,
    previous_ids: np.ndarray,
    sizes: np.ndarray,
    *,
    ids_given: int,
    fixed_ids: np.ndarray | None = None,
) -> Identities:
    """Give every new cluster the id of its predecessor, or an id that no cluster has had.

    Only images in both clusterings count, so that neither arrivals nor deletions change an id. A cluster keeps its id
    when more than half of what it held is in the new cluster, and more than half of the new one comes from it:

    ======  =========================================================================================================
    kept    new and previous hold more than half of one another: the same id
    split   new; more than half of it comes from `previous_id`, which went on elsewhere or ended
    born    new; no previous cluster makes up more than half of it, or all its images are new
    merged  ended; more than half of it is in `cluster_id`, which mostly comes from elsewhere
    died    ended; no new cluster holds more than half of it, or all its images are gone
    ======  =========================================================================================================

    The rule is one to one by arithmetic and has no ties, so the order of labels and ids cannot matter. A kept pair has
    a Jaccard index above 1/3, and every pair above 1/2 is kept; such a pair is in every optimal (Hungarian) matching of
    the overlaps. Hungarian matching with a threshold on the Jaccard index was the alternative: below 1/2 the order of
    labels decides its ties, and it keeps the id of a cluster most of whose images are in another one. What each of them
    keeps on real embeddings is measured by benchmarks/cluster_identity.py.

    Args:
        overlaps: (P, K) integer counts of the images of previous cluster p that have the new label k.
        previous_ids: (P,) ids of the previous clusters, all different, each below `ids_given`.
        sizes: (K,) images of each new label, those not in the previous clustering included. A label without images gets
            an id too, as runners-up may name it, but no place in the lineage. New ids go to larger clusters first.
        ids_given: as in `Identities`, of the previous clustering.
        fixed_ids: (K,) ids that are not in question, as a person has chosen them, or of heads that did not change; -1
            where the images decide.

    Raises:
        ValueError: shapes that do not fit, ids that repeat or were never given, or no image in both.
    """
    _check(overlaps, previous_ids, sizes, ids_given)
    counts = csr_array(overlaps)
    heirs, origins = _majorities(counts), _majorities(csr_array(counts.T))
    predecessors = np.where((origins >= 0) & (heirs[origins] == np.arange(len(sizes))), origins, -1)
    is_fixed = np.zeros(len(sizes), dtype=bool) if fixed_ids is None else fixed_ids >= 0
    if fixed_ids is not None:
        predecessors[np.isin(predecessors, np.flatnonzero(np.isin(previous_ids, fixed_ids)))] = -1
        predecessors[is_fixed] = [_place(previous_ids, fixed) for fixed in fixed_ids[is_fixed]]
        predecessors[is_fixed & (sizes == 0)] = -1  # what is in no place of the lineage has no predecessor
    is_kept = predecessors >= 0
    fresh = np.flatnonzero(~is_kept & ~is_fixed)
    fresh = fresh[np.argsort(-sizes[fresh], kind="stable")]
    cluster_ids = np.empty(len(sizes), dtype=np.int32)
    cluster_ids[is_kept] = previous_ids[predecessors[is_kept]]
    cluster_ids[fresh] = ids_given + np.arange(len(fresh))
    if fixed_ids is not None:
        cluster_ids[is_fixed] = fixed_ids[is_fixed]

    kept = np.flatnonzero(is_kept)
    relate = _Relations(counts, previous_ids, cluster_ids)
    lineage = [relate("kept", predecessors[k], k) for k in kept[np.argsort(cluster_ids[kept])]]
    num_moved = int(counts.sum()) - sum(row.overlap for row in lineage)
    new = np.concatenate([fresh, np.flatnonzero(is_fixed & ~is_kept)])
    lineage += [relate("split" if origins[k] >= 0 else "born", origins[k], k) for k in new[sizes[new] > 0]]
    ended = np.setdiff1d(np.arange(len(previous_ids)), predecessors[kept])
    ended = ended[np.argsort(previous_ids[ended])]
    lineage += [relate("merged" if heirs[p] >= 0 else "died", p, heirs[p]) for p in ended]
    return Identities(cluster_ids, ids_given + len(fresh), tuple(lineage), int(counts.sum()), num_moved)


def same_identities(
    cluster_ids: np.ndarray, sizes: np.ndarray, *, previous_sizes: np.ndarray, common: np.ndarray, ids_given: int
) -> Identities:
    """Ids of clusters whose heads have not changed: those they had, whatever came and went.

    Args:
        cluster_ids: (K,) by label.
        sizes, previous_sizes: (K,) images of each label now and before.
        common: (K,) those of them that were there before; they have not moved.
        ids_given: as in `Identities`.
    """

    def relation(kind: RelationKind, label: int) -> Relation:
        cluster_id, overlap = int(cluster_ids[label]), int(common[label])
        share = float(overlap > 0)
        ids = (None if kind == "born" else cluster_id, None if kind == "died" else cluster_id)
        return Relation(kind, *ids, overlap, share, share, share)

    has_images, had_images = sizes > 0, previous_sizes > 0
    by_id = np.argsort(cluster_ids)
    of_kind: tuple[tuple[RelationKind, np.ndarray], ...] = (
        ("kept", has_images & had_images),
        ("born", has_images & ~had_images),
        ("died", ~has_images & had_images),
    )
    lineage = [relation(kind, int(label)) for kind, chosen in of_kind for label in by_id[chosen[by_id]]]
    return Identities(cluster_ids.astype(np.int32), ids_given, tuple(lineage), int(common.sum()), 0)


def _place(ids: np.ndarray, wanted: int) -> int:
    """Where an id stands, -1 where it does not."""
    places = np.flatnonzero(ids == wanted)
    return int(places[0]) if len(places) else -1


def _majorities(counts: csr_array) -> np.ndarray:
    """For each row the column that holds more than half of it, -1 where none does."""
    pairs = counts.tocoo()
    rows, columns = pairs.coords
    most = 2 * pairs.data > counts.sum(axis=1)[rows]
    found = np.full(counts.shape[0], -1, dtype=np.int64)
    found[rows[most]] = columns[most]
    return found


class _Relations:
    """Makes rows of the lineage from positions in the counts; -1 stands for no cluster."""

    def __init__(self, counts: csr_array, previous_ids: np.ndarray, cluster_ids: np.ndarray) -> None:
        self._counts, self._previous_ids, self._cluster_ids = counts, previous_ids, cluster_ids
        self._previous_totals, self._totals = counts.sum(axis=1), counts.sum(axis=0)

    def __call__(self, kind: RelationKind, previous: np.integer, label: np.integer) -> Relation:
        if previous < 0:
            return Relation(kind, None, int(self._cluster_ids[label]))
        if label < 0:
            return Relation(kind, int(self._previous_ids[previous]), None)
        overlap = int(self._counts[previous, label])
        held, holds = int(self._previous_totals[previous]), int(self._totals[label])
        ids = int(self._previous_ids[previous]), int(self._cluster_ids[label])
        return Relation(kind, *ids, overlap, overlap / held, overlap / holds, overlap / (held + holds - overlap))


def _check(overlaps: sparray, previous_ids: np.ndarray, sizes: np.ndarray, ids_given: int) -> None:
    expected = (len(previous_ids), len(sizes))
    if overlaps.shape != expected:
        raise ValueError(f"expected overlaps of shape {expected}, found {overlaps.shape}")
    if len(np.unique(previous_ids)) != len(previous_ids):
        raise ValueError("expected previous_ids without repeats")
    if len(previous_ids) and not 0 <= previous_ids.min() <= previous_ids.max() < ids_given:
        raise ValueError(
            f"expected previous_ids in 0..{ids_given - 1}, found {previous_ids.min()}..{previous_ids.max()}"
        )
    if not overlaps.sum():
        raise ValueError("expected clusterings with images in common, found none")
