"""What the nouns of a cluster have in common: the WordNet concept above them that says most."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

#: Concepts that say less (intrinsic information content, 0 for the root and 1 for a leaf) are no names: "animal" (0.27)
#: and "plant" (0.25) are, "person" (0.21), "artifact" (0.19) and "object" (0.09) are not.
_MIN_INFORMATION = 0.25


@dataclass(frozen=True)
class HypernymEvidence:
    """A concept that covers a cluster.

    Attributes:
        noun: what it is called.
        synset_id: its synset.
        share: part of the cluster's votes that lie below it or on it, in 0..1.
        lift: share less the mean share over all clusters with votes, in -1..1.
    """

    noun: str
    synset_id: str
    share: float
    lift: float


def hypernym_evidence(
    votes: csr_array,
    synset_ids: Sequence[str | None],
    hypernyms: Mapping[str, Sequence[str]],
    synset_nouns: Mapping[str, str],
    *,
    min_share: float,
) -> list[HypernymEvidence | None]:
    """The best concept above the votes of every cluster: most specific for its share, and more so than elsewhere.

    Concepts compete by lift times information content. Information content is intrinsic (Seco, Veale and Hayes 2004):
    1 - ln(concepts below, itself included) / ln(all concepts).

    Args:
        votes: (K, S) share of each noun in the votes of each cluster; rows sum to at most 1.
        synset_ids: S; nouns without a synset, or one that is not in `hypernyms`, count for no concept.
        hypernyms: synset to its direct hypernyms.
        synset_nouns: synset to the noun it is called by; a synset without one cannot be a name.
        min_share: least share of a cluster's votes.

    Returns:
        K entries; None for a cluster where no concept reaches `min_share`.
    """
    concepts, is_below = _concepts_above(synset_ids, hypernyms)
    shares = csr_array(votes @ is_below)
    mean_shares = shares.sum(axis=0) / max(np.count_nonzero(np.diff(votes.indptr)), 1)
    enough = {int(concept) for concept in shares.indices[shares.data >= min_share]}
    information = _information({concepts[concept] for concept in enough}, hypernyms)
    result: list[HypernymEvidence | None] = []
    for cluster in range(votes.shape[0]):
        row = slice(shares.indptr[cluster], shares.indptr[cluster + 1])
        found = [
            HypernymEvidence(
                synset_nouns[concepts[concept]], concepts[concept], float(share), float(share - mean_shares[concept])
            )
            for concept, share in zip(shares.indices[row], shares.data[row], strict=True)
            if share >= min_share and concepts[concept] in synset_nouns
        ]
        usable = [concept for concept in found if information[concept.synset_id] >= _MIN_INFORMATION]
        result.append(
            max(usable, key=lambda best: (best.lift * information[best.synset_id], best.synset_id), default=None)
        )
    return result


def _concepts_above(
    synset_ids: Sequence[str | None], hypernyms: Mapping[str, Sequence[str]]
) -> tuple[list[str], csr_array]:
    """All concepts at or above the nouns' synsets, and which nouns (S) lie below which concepts (H), as 0 and 1."""
    concepts: dict[str, int] = {}
    nouns, columns = [], []
    for noun, synset_id in enumerate(synset_ids):
        if synset_id is not None and synset_id in hypernyms:
            for concept in _closure(synset_id, hypernyms):
                nouns.append(noun)
                columns.append(concepts.setdefault(concept, len(concepts)))
    ones = np.ones(len(nouns), dtype=np.float32)
    return list(concepts), csr_array((ones, (nouns, columns)), shape=(len(synset_ids), len(concepts)))


def _closure(synset_id: str, links: Mapping[str, Sequence[str]]) -> set[str]:
    """A synset and all that its links lead to."""
    found, pending = {synset_id}, [synset_id]
    while pending:
        for linked in links.get(pending.pop(), ()):
            if linked not in found:
                found.add(linked)
                pending.append(linked)
    return found


def _information(synset_ids: set[str], hypernyms: Mapping[str, Sequence[str]]) -> dict[str, float]:
    hyponyms: dict[str, list[str]] = defaultdict(list)
    for synset_id, above in hypernyms.items():
        for hypernym in above:
            hyponyms[hypernym].append(synset_id)
    all_concepts = max(len(hypernyms), 2)
    return {
        synset_id: 1 - math.log(len(_closure(synset_id, hyponyms))) / math.log(all_concepts) for synset_id in synset_ids
    }
