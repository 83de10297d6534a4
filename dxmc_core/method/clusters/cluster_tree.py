"""Which clusters belong together: a Ward tree over the clusters of a finished run, with a name for every inner node."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import csr_array

from dxmc_core.method.clusters.ward import WardTree, ward_tree
from dxmc_core.method.nouns.hypernyms import HypernymEvidence, lowest_common_hypernyms
from dxmc_core.method.nouns.name_choice import spelling_key, without_gloss
from dxmc_core.method.nouns.taxonomy import NO_TAXONOMY, Taxonomy

#: A concept names a node when it covers so many of the node's clusters: one stray in five does not take the name away.
_MIN_COMMON_SHARE = 0.8
#: A noun is shared when it describes so many of them.
_MIN_SHARED = 0.5
_NUM_JOINED_NAMES = 2


@dataclass(frozen=True)
class NamedCluster:
    """What a leaf of the tree contributes to the names above it.

    Attributes:
        name: of the cluster, as `naming.name_clusters` chose it.
        nouns: (noun, synset_id, share) of the nouns that describe it, best first; may be empty.
        has_noun_name: whether the name is the first of the nouns, and not a concept above them or none at all.
    """

    name: str
    nouns: Sequence[tuple[str, str | None, float]]
    has_noun_name: bool


@dataclass(frozen=True)
class NodeName:
    """The name of an inner node: a "hypernym", a "noun" that its clusters share, or the names of "members"."""

    name: str
    source: Literal["hypernym", "noun", "members"]


def cluster_tree(centers: np.ndarray, sizes: np.ndarray) -> WardTree:
    """The Ward tree of clusters.

    Args:
        centers: (K, D) unit rows.
        sizes: (K,) images of each cluster, positive. What counts is their ratio: two clusters of mean size join at the
            distance of their centres.
    """
    return ward_tree(centers, sizes / sizes.mean())


def name_inner_nodes(
    tree: WardTree, clusters: Sequence[NamedCluster], *, taxonomy: Taxonomy = NO_TAXONOMY
) -> list[NodeName]:
    """A name for each join of a tree, in the order of the joins.

    The first that holds: the lowest common hypernym of the clusters below the node, if it is specific enough to say
    something; the noun that most of them are described by; the names of its largest clusters. A node that would be
    called like the node above it has its largest clusters in brackets behind the name.

    Args:
        clusters: K, in the order of the tree's points.
        taxonomy: see `naming.name_clusters`; without it no hypernym is used.
    """
    members = _members_below(tree)
    above: list[HypernymEvidence | None] = [None] * len(tree.joins)
    if taxonomy.hypernyms:
        votes, synset_ids = _votes(clusters)
        means = csr_array(members.multiply(1 / members.sum(axis=1)[:, None]))
        above = lowest_common_hypernyms(csr_array(means @ votes), synset_ids, taxonomy, min_share=_MIN_COMMON_SHARE)
    own_names = []
    for join, concept in enumerate(above):
        below = members.indices[members.indptr[join] : members.indptr[join + 1]]
        largest_first = below[np.lexsort((below, -tree.weights[below]))]
        own_names.append(_name([clusters[member] for member in largest_first], concept))
    return _told_from_above(tree, own_names)


def _members_below(tree: WardTree) -> csr_array:
    """(K - 1, K) ones where a cluster lies below a join."""
    below = [np.array([point]) for point in range(tree.num_points)]
    for left, right in tree.joins:
        below.append(np.concatenate([below[left], below[right]]))
    joined = below[tree.num_points :]
    indptr = np.cumsum([0, *(len(points) for points in joined)])
    indices = np.concatenate(joined) if joined else np.empty(0, dtype=np.int64)
    return csr_array((np.ones(len(indices), dtype=np.float32), indices, indptr), (len(joined), tree.num_points))


def _votes(clusters: Sequence[NamedCluster]) -> tuple[csr_array, list[str | None]]:
    """(K, S) what each cluster is, as shares of nouns that sum to 1 or less, and the synsets of the nouns.

    Its name where that is a noun, else all nouns that describe it; nouns without a synset count for nothing.
    """
    synset_ids: dict[str, int] = {}
    rows, columns, values = [], [], []
    for row, cluster in enumerate(clusters):
        nouns = cluster.nouns[:1] if cluster.has_noun_name else cluster.nouns
        total = sum(share for _, _, share in nouns)
        for _, synset_id, share in nouns:
            if synset_id is not None:
                rows.append(row)
                columns.append(synset_ids.setdefault(synset_id, len(synset_ids)))
                values.append(share / total)
    shape = (len(clusters), len(synset_ids))
    return csr_array((np.array(values, dtype=np.float32), (rows, columns)), shape=shape), list(synset_ids)


@dataclass(frozen=True)
class _OwnName:
    """A node's name by itself, and the names of its largest clusters."""

    name: NodeName
    largest: str


def _name(members: Sequence[NamedCluster], concept: HypernymEvidence | None) -> _OwnName:
    """The name of a node whose clusters, the largest first, may have a concept in common."""
    distinct = list(dict.fromkeys(without_gloss(member.name) for member in members))
    largest = ", ".join(distinct[:_NUM_JOINED_NAMES])
    if concept is not None:
        return _OwnName(NodeName(concept.noun, "hypernym"), largest)
    shared = _shared_noun(members)
    if shared is not None:
        return _OwnName(NodeName(shared, "noun"), largest)
    more = len(members) - _NUM_JOINED_NAMES
    return _OwnName(NodeName(f"{largest} and {more} more" if more > 0 else largest, "members"), largest)


def _shared_noun(members: Sequence[NamedCluster]) -> str | None:
    """The noun that describes most of the clusters, at least half of them and two; on a tie by its shares."""
    counts: dict[str, list[float]] = {}
    spelling: dict[str, str] = {}
    for member in members:
        for noun, _, share in member.nouns:
            key = spelling_key(noun)
            spelling.setdefault(key, without_gloss(noun))
            counts.setdefault(key, []).append(share)
    best = max(counts, key=lambda key: (len(counts[key]), sum(counts[key]), key), default=None)
    if best is None or len(counts[best]) < max(2, _MIN_SHARED * len(members)):
        return None
    return spelling[best]


def _told_from_above(tree: WardTree, names: Sequence[_OwnName]) -> list[NodeName]:
    """The names, with the largest clusters in brackets where the node above has the same name."""
    told = [own.name for own in names]
    for join in range(len(tree.joins)):
        for child in tree.joins[join] - tree.num_points:
            if child >= 0 and names[child].name.name == names[join].name.name:
                own = names[child]
                told[child] = NodeName(f"{own.name.name} ({own.largest})", own.name.source)
    return told
