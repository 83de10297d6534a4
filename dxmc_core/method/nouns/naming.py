"""Names for clusters, from their members: the most specific concept that what the members are near to agrees on.

The traps are hub nouns, which are near every image (CLIP finds "breechcloth" in most textures), near synonyms and nouns
that are too narrow, which split the votes of a cluster, and clusters that the vocabulary has no word for.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy.sparse import csr_array

from dxmc_core.method.nouns.hypernyms import HypernymEvidence, lowest_common_hypernyms
from dxmc_core.method.nouns.name_choice import ChosenName, NounEvidence, OwnName, choose_names, numbered, spelling_key
from dxmc_core.method.nouns.taxonomy import NO_TAXONOMY, Taxonomy
from dxmc_core.method.unit_rows import check_same_width, unit_rows
from dxmc_core.method.work import Work
from dxmc_core.runtime.slices import slices_of

#: How much of the mean image is taken off every image before nouns are compared. Taking off all of it also removes what
#: the whole data set shows (among flowers a pink one is then nearest to "radish"); taking off none leaves the hubs.
#: 0.25 to 0.5 made little difference for CLIP on actions and textures; flowers want less, the offline encoder more.
_MEAN_SHARE = 0.4

#: A noun is near an image when its score is within this many standard deviations, over all nouns, of the best one.
_NEAR = 0.5

#: Nouns are listed with a cluster down to this share.
_MIN_LISTED_SHARE = 0.1

#: A name covers this share of what the members are near to: the most specific concept that does is taken.
_MIN_AGREED_SHARE = 0.5

#: Where there is no such concept, the noun of the best score must be near to this share of the members.
_MIN_SHARE = 0.25

#: Nouns nearest to a cluster that compete for its name; those of all clusters together are looked at in every one.
_NUM_NEAREST = 30

#: Members whose nouns are counted, evenly spread over the cluster.
_MAX_MEMBERS = 256

#: Deciding which nouns are near an image passes over its scores so often; for estimates only.
_PASSES_OVER_SCORES = 6
#: Choosing the name of a cluster among nouns and hypernyms takes as long as moving so many bytes; likewise.
_BYTES_PER_NAME = 15e6

_NUM_CANDIDATES = 24
_NUM_LISTED = 5
_SCORES_PER_BLOCK = 2**24


@dataclass(frozen=True)
class ClusterName:
    """A cluster's name and what speaks for it.

    Attributes:
        name: unique among the clusters, ignoring case.
        names: nouns that describe the cluster, best first, whether or not another cluster took them; may be empty.
        evidence: (noun, synset_id, share, margin) of each of `names`. share: part of the members that the noun is near
            to, in 0..1; margin: share less the largest share in another cluster, in -1..1.
        source: "noun": a noun of the vocabulary; "hypernym": a concept above what the members are near to, for which
            the vocabulary has no noun; "unnamed": too little evidence, or none that tells it from a cluster of the same
            name. Where a better cluster has the same name, a second noun follows in brackets that tells them apart.
    """

    name: str
    names: list[str]
    evidence: list[tuple[str, str | None, float, float]]
    source: Literal["noun", "hypernym", "unnamed"]


def name_clusters(
    image_embeddings: np.ndarray,
    labels: np.ndarray,
    noun_embeddings: np.ndarray,
    nouns: Sequence[str],
    synset_ids: Sequence[str | None],
    *,
    num_clusters: int,
    kinds: Sequence[str | None] | None = None,
    taxonomy: Taxonomy = NO_TAXONOMY,
    confidences: np.ndarray | None = None,
) -> list[ClusterName]:
    """Name every cluster, no two alike.

    Only nouns near to some cluster's mean image compete, so a large vocabulary costs little. A part of the mean image
    is taken off every image (the mean over clusters, so that a large one weighs no more). Each image spreads one vote
    over the nouns that it is then near to. What a cluster has of votes beyond the mean cluster counts, for all concepts
    above these nouns too. A noun's share of a cluster is the part of members it is near to; its score is share times
    how much better it fits the cluster than the mean cluster, which hubs do nowhere. The first of these that holds is
    the name:

    1. the most specific concept that has half of the votes, called by the vocabulary's own noun where there is one;
    2. the noun of the best score, if near to a quarter of the members;
    3. "cluster" and the cluster id.

    So a name goes no deeper than its evidence: where the members agree on dogs and on no breed, it is "dog". Deng et
    al. (2012) trade specificity for accuracy so in classification.

    Args:
        image_embeddings: (N, D), rows normalised here.
        labels: (N,) integers in 0..num_clusters-1; clusters may be empty.
        noun_embeddings: (S, D), in the same space.
        nouns, synset_ids: S each; synset ids as in the taxonomy, None where unknown.
        kinds: S synset ids, of a noun without a synset that of what it is a kind of, None where unknown.
        taxonomy: of the synsets; without it (or synset ids) every noun is a concept of its own.
        confidences: (N,) not negative: what a member's nouns count, all the same by default.

    Returns:
        num_clusters names, by cluster id.

    Raises:
        ValueError: lengths, widths or labels that do not fit, or unusable rows.
    """
    _check(image_embeddings, labels, noun_embeddings, nouns, synset_ids, num_clusters, confidences)
    sample = _sample_members(labels, num_clusters)
    images = unit_rows(image_embeddings[sample], name="image_embeddings")
    weights = _weights(labels[sample], None if confidences is None else confidences[sample], num_clusters)
    directions = unit_rows(noun_embeddings, name="noun_embeddings")
    means = weights @ images
    mean_image = means[np.unique(labels)].mean(axis=0)
    centered = means - np.float32(_MEAN_SHARE) * mean_image

    nearest = _nearest_nouns(centered[np.unique(labels)], directions)
    directions = directions[nearest]
    kinds = [kinds[noun] if kinds is not None else None for noun in nearest]
    nouns, synset_ids = [nouns[noun] for noun in nearest], [synset_ids[noun] for noun in nearest]
    near = _near_nouns(images - np.float32(_MEAN_SHARE) * mean_image, directions)
    shares = csr_array(weights @ near)
    # A single cluster has nothing to stand out from: its shares alone count.
    deviations = means - mean_image if len(np.unique(labels)) > 1 else None
    described = _describe(shares, deviations, directions, nouns, synset_ids)
    per_image = csr_array(near / near.sum(axis=1)[:, None])
    votes = _beyond_mean(csr_array(weights @ per_image))
    concepts = _agreed_concepts(votes, nouns, synset_ids, kinds, taxonomy)
    known = {spelling_key(noun) for noun in nouns}
    own_names = [_own_name(*cluster, known) for cluster in zip(concepts, described, strict=True)]
    chosen = choose_names(own_names, described, _shares_by_spelling(shares, nouns, described))
    return [_cluster_name(*cluster) for cluster in zip(chosen, described, strict=True)]


def _nearest_nouns(centered: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Ascending positions of the nouns that are among the nearest of a cluster."""
    count = min(_NUM_NEAREST, len(directions))
    size = max(1, _SCORES_PER_BLOCK // len(directions))
    is_near = np.zeros(len(directions), dtype=bool)
    for block in slices_of(len(centered), size):
        is_near[np.argpartition(-(centered[block] @ directions.T), count - 1, axis=1)[:, :count]] = True
    return np.flatnonzero(is_near)


def _beyond_mean(votes: csr_array) -> csr_array:
    """Votes (K, S) beyond those of the mean cluster, which rob hubs of theirs, as shares that sum to 1 in every row."""
    filled = np.count_nonzero(np.diff(votes.indptr))
    if filled < 2:
        return votes
    beyond = votes.copy()
    beyond.data = np.maximum(votes.data - votes.sum(axis=0)[votes.indices] / filled, 0)
    totals = beyond.sum(axis=1)
    beyond.data /= np.repeat(np.where(totals > 0, totals, 1), np.diff(beyond.indptr))
    return beyond


def _agreed_concepts(
    votes: csr_array,
    nouns: Sequence[str],
    synset_ids: Sequence[str | None],
    kinds: Sequence[str | None],
    taxonomy: Taxonomy,
) -> list[HypernymEvidence | None]:
    """For each cluster the most specific concept with half of its votes (K, S).

    A noun without a synset is a concept of its own, below its kind. A concept that the vocabulary has nouns for is
    called by the one with most votes.
    """
    concept_ids = [
        synset_id if synset_id is not None and synset_id in taxonomy else f"noun {noun}"
        for noun, synset_id in zip(nouns, synset_ids, strict=True)
    ]
    nouns_of: dict[str, list[int]] = {}
    for position, concept_id in enumerate(concept_ids):
        nouns_of.setdefault(concept_id, []).append(position)
    own_concepts = {
        concept_id: [kind] if kind is not None and kind in taxonomy else []
        for concept_id, kind in zip(concept_ids, kinds, strict=True)
        if concept_id not in taxonomy
    }
    own_nouns = {concept_id: nouns[own[0]] for concept_id, own in nouns_of.items()}
    joined = taxonomy.joined_by(own_concepts, own_nouns)
    found = lowest_common_hypernyms(votes, concept_ids, joined, min_share=_MIN_AGREED_SHARE)
    for cluster, concept in enumerate(found):
        if concept is not None and len(synonyms := nouns_of.get(concept.synset_id, [])) > 1:
            most = int(votes[[cluster], :][:, synonyms].toarray()[0].argmax())
            found[cluster] = replace(concept, noun=nouns[synonyms[most]])
    return found


def _own_name(
    concept: HypernymEvidence | None, described: Sequence[NounEvidence], known: Container[str]
) -> OwnName | None:
    if concept is not None:
        return OwnName(concept.noun, "noun" if spelling_key(concept.noun) in known else "hypernym", concept.share)
    if described and described[0].share >= _MIN_SHARE:
        return OwnName(described[0].noun, "noun", described[0].share * _MIN_AGREED_SHARE)
    return None


def _shares_by_spelling(
    shares: csr_array, nouns: Sequence[str], described: Sequence[Sequence[NounEvidence]]
) -> list[dict[str, float]]:
    """For each cluster the share (of K, S) of every noun that describes any cluster."""
    of_interest = {spelling_key(evidence.noun) for own in described for evidence in own}
    keys = [spelling_key(noun) for noun in nouns]
    found: list[dict[str, float]] = []
    for cluster in range(shares.shape[0]):
        row = slice(shares.indptr[cluster], shares.indptr[cluster + 1])
        own: dict[str, float] = {}
        for position, share in zip(shares.indices[row], shares.data[row], strict=True):
            if keys[position] in of_interest:
                own[keys[position]] = max(own.get(keys[position], 0.0), float(share))
        found.append(own)
    return found


def unnamed(num_clusters: int) -> list[ClusterName]:
    """What clusters are called where there is no vocabulary: their numbers."""
    return [ClusterName(numbered(cluster), [], [], "unnamed") for cluster in range(num_clusters)]


def _cluster_name(chosen: ChosenName, described: list[NounEvidence]) -> ClusterName:
    listed = described[:_NUM_LISTED]
    return ClusterName(
        name=chosen.name,
        names=[evidence.noun for evidence in listed],
        evidence=[(evidence.noun, evidence.synset_id, evidence.share, evidence.margin) for evidence in listed],
        source=chosen.source,
    )


def _check(
    image_embeddings: np.ndarray,
    labels: np.ndarray,
    noun_embeddings: np.ndarray,
    nouns: Sequence[str],
    synset_ids: Sequence[str | None],
    num_clusters: int,
    confidences: np.ndarray | None,
) -> None:
    check_same_width(image_embeddings, noun_embeddings, names=("image_embeddings", "noun_embeddings"))
    num_images, num_nouns = len(image_embeddings), len(noun_embeddings)
    if num_images == 0 or num_nouns == 0:
        raise ValueError(f"expected at least one image and one noun, found {num_images} and {num_nouns}")
    if not len(nouns) == len(synset_ids) == num_nouns:
        raise ValueError(
            f"expected {num_nouns} nouns and synset ids, as there are noun embeddings, "
            f"found {len(nouns)} and {len(synset_ids)}"
        )
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise ValueError(f"expected integer labels of shape ({num_images},), found {labels.dtype} of {labels.shape}")
    if labels.min() < 0 or labels.max() >= num_clusters:
        raise ValueError(f"expected labels in 0..{num_clusters - 1}, found {labels.min()}..{labels.max()}")
    if confidences is not None and (confidences.shape != (num_images,) or not (confidences >= 0).all()):
        raise ValueError(f"expected confidences of shape ({num_images},), not negative, found {confidences.shape}")


def _sample_members(labels: np.ndarray, num_clusters: int) -> np.ndarray:
    """Ascending positions of at most `_MAX_MEMBERS` images per cluster."""
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(num_clusters + 1))
    chosen = [
        order[np.linspace(start, stop - 1, min(stop - start, _MAX_MEMBERS)).round().astype(np.int64)]
        for start, stop in pairwise(bounds)
    ]
    return np.sort(np.concatenate(chosen))


def _weights(labels: np.ndarray, confidences: np.ndarray | None, num_clusters: int) -> csr_array:
    """(K, n) weight of every image in its cluster; a row sums to 1 or is empty.

    Where no member has any confidence, all count alike.
    """
    weights = np.ones(len(labels)) if confidences is None else confidences.astype(np.float64)
    totals = np.bincount(labels, weights, minlength=num_clusters)
    weights = np.where(totals[labels] > 0, weights, 1.0)
    totals = np.bincount(labels, weights, minlength=num_clusters)
    shape = (num_clusters, len(labels))
    return csr_array(((weights / totals[labels]).astype(np.float32), (labels, np.arange(len(labels)))), shape=shape)


def _near_nouns(images: np.ndarray, nouns: np.ndarray) -> csr_array:
    """(n, S) ones where a noun is near an image; see `_NEAR`. Every image is near at least one noun."""
    size = max(1, _SCORES_PER_BLOCK // len(nouns))
    rows, columns = [], []
    for block in slices_of(len(images), size):
        scores = images[block] @ nouns.T
        bar = scores.max(axis=1) - _NEAR * scores.std(axis=1)
        near_rows, near_columns = np.nonzero(scores >= bar[:, None])
        rows.append(near_rows + block.start)
        columns.append(near_columns)
    positions = np.concatenate(rows), np.concatenate(columns)
    return csr_array((np.ones(len(positions[0]), dtype=np.float32), positions), shape=(len(images), len(nouns)))


def _describe(
    shares: csr_array,
    deviations: np.ndarray | None,
    directions: np.ndarray,
    nouns: Sequence[str],
    synset_ids: Sequence[str | None],
) -> list[list[NounEvidence]]:
    """The nouns that describe each cluster, best first, none twice in another spelling.

    Args:
        shares: (K, S) share of the members that a noun is near to.
        deviations: (K, D) mean image of every cluster less the mean image; None for a single cluster.
        directions: (S, D) noun embeddings.
    """
    best = [_best_nouns(*row) for row in _rows_with_advantages(shares, deviations, directions)]
    columns = np.unique(np.concatenate([positions for positions, _ in best]))
    dense = shares[:, columns].toarray()
    # The largest share, and the largest but one for the cluster that has the largest.
    runners_up = np.sort(dense, axis=0)[-2:][::-1] if len(dense) > 1 else np.stack([dense[0], np.zeros(len(columns))])
    described = []
    for cluster, (positions, scores) in enumerate(best):
        candidates: dict[str, NounEvidence] = {}
        for position, score in zip(positions, scores, strict=True):
            column = int(np.searchsorted(columns, position))
            share = float(dense[cluster, column])
            first, second = runners_up[:, column]
            margin = share - float(second if share == first else first)
            candidate = NounEvidence(nouns[position], synset_ids[position], share, margin, float(score))
            candidates.setdefault(spelling_key(candidate.noun), candidate)
        described.append(list(candidates.values()))
    return described


def _rows_with_advantages(
    shares: csr_array, deviations: np.ndarray | None, directions: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each cluster the nouns near to a member, their shares, and their fit less that to the mean cluster."""
    size = max(1, _SCORES_PER_BLOCK // len(directions))
    for part in slices_of(shares.shape[0], size):
        block = None if deviations is None else deviations[part] @ directions.T
        for cluster in range(part.start, part.stop):
            row = slice(shares.indptr[cluster], shares.indptr[cluster + 1])
            positions = shares.indices[row]
            advantages = np.ones(len(positions)) if block is None else block[cluster - part.start, positions]
            yield positions, shares.data[row], advantages


def _best_nouns(positions: np.ndarray, shares: np.ndarray, advantages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best candidates of a cluster and their scores; ties go to the earlier noun."""
    scores = shares * advantages
    usable = (scores > 0) & (shares >= _MIN_LISTED_SHARE)
    positions, scores = positions[usable], scores[usable]
    order = np.lexsort((positions, -scores))[:_NUM_CANDIDATES]
    return positions[order], scores[order]


def naming_work(num_images: int, width: int, num_clusters: int, num_nouns: int) -> Work:
    """What `name_clusters` does."""
    members = min(num_images, _MAX_MEMBERS * num_clusters)
    of_centers = num_clusters * num_nouns
    scores = members * min(num_nouns, _NUM_NEAREST * num_clusters)
    return Work(
        2.0 * width * (of_centers + scores),
        4.0 * (2 * of_centers + _PASSES_OVER_SCORES * scores) + _BYTES_PER_NAME * num_clusters,
    )
